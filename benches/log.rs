//! How much of the disk's speed the file log passes on.
//!
//! Compares durable decisions per second of the file log, each of them also completed, with a bare
//! loop on the same disk in the same run: a thread that takes whatever records of the same length
//! have queued up in the same kind of channel, writes them densely into a zero-filled file, calls
//! `fdatasync` and answers. The bare loop has no checksums, no completions, no state, no second
//! segment: it is what cannot be beaten by much. A round alternates short slices of both, so that
//! whatever else the machine does hits both; a round's ratio is that of its sums.
//!
//! ```text
//! cargo bench --bench log --
//!     [--rounds N] [--millis N] [--appenders N] [--dir FOLDER] [--json FILE]
//! ```
//! The folder has to be on a real disk: on tmpfs a sync costs nothing.

use std::fmt::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use unanimous::log::{FileLog, OpenFileLog};
use unanimous_core::ports::{BranchRecord, DecisionLog, DecisionRecord, Evidence, ServerIdentity};

type Error = Box<dyn std::error::Error + Send + Sync>;

const APPENDERS: [u64; 3] = [1, 64, 1024];
/// So many slices of each make a round.
const SLICES: u32 = 10;
const BARE_FILE_BYTES: u64 = 64 * 1024 * 1024;

struct Args {
    rounds: usize,
    /// Of a round, for each of the two.
    time: Duration,
    appenders: Vec<u64>,
    dir: PathBuf,
    json: Option<PathBuf>,
}

impl Args {
    fn parse() -> Result<Self, Error> {
        let mut args = Self {
            rounds: 11,
            time: Duration::from_millis(500),
            appenders: APPENDERS.into(),
            dir: env!("CARGO_TARGET_TMPDIR").into(),
            json: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--rounds" => args.rounds = value()?.parse()?,
                "--millis" => args.time = Duration::from_millis(value()?.parse()?),
                "--appenders" => args.appenders = vec![value()?.parse()?],
                "--dir" => args.dir = value()?.into(),
                "--json" => args.json = Some(value()?.into()),
                // cargo says this to every benchmark.
                "--bench" => {}
                _ => return Err(format!("unknown argument {word}").into()),
            }
        }
        if args.rounds == 0 || args.appenders.contains(&0) {
            return Err("--rounds and --appenders have to be at least 1".into());
        }
        Ok(args)
    }
}

fn main() -> Result<(), Error> {
    let args = Args::parse()?;
    std::fs::create_dir_all(&args.dir)?;
    let folder = args.dir.join(format!("bench-log-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let measured = measure_all(&args, &folder);
    std::fs::remove_dir_all(&folder)?;
    let rows = measured?;
    if let Some(json) = &args.json {
        std::fs::write(json, to_json(&rows))?;
    }
    Ok(())
}

fn measure_all(args: &Args, folder: &Path) -> Result<Vec<Row>, Error> {
    let runtime = Runtime::new()?;
    let bytes = record_bytes();
    println!(
        "{} rounds of {:?} each; records of {bytes} bytes; folder {}",
        args.rounds,
        args.time,
        folder.display()
    );
    println!("appenders   bare loop/s    file log/s   ratio: min  median     max");
    let mut rows = Vec::new();
    for appenders in args.appenders.iter().copied() {
        let row = measure(&runtime, args, folder, appenders)?;
        let [least, median, most] = spread(&row.ratios);
        println!(
            "{appenders:9} {:13.0} {:13.0} {least:12.3} {median:7.3} {most:7.3}",
            spread(&row.bare)[1],
            spread(&row.log)[1]
        );
        rows.push(row);
    }
    Ok(rows)
}

/// Durable appends per second, and their ratio, round by round.
struct Row {
    appenders: u64,
    bare: Vec<f64>,
    log: Vec<f64>,
    ratios: Vec<f64>,
}

fn measure(runtime: &Runtime, args: &Args, folder: &Path, appenders: u64) -> Result<Row, Error> {
    let bare = BareAppender::start(&folder.join("bare"))?;
    let open = FileLog::at(folder.join("log")).open();
    let file = LogAppender {
        log: runtime.block_on(open)?,
        branches: branches(),
        sequence: Arc::new(AtomicU64::new(0)),
    };
    let mut row = Row {
        appenders,
        bare: Vec::new(),
        log: Vec::new(),
        ratios: Vec::new(),
    };
    // The first round of each fills caches and is not counted.
    for round in 0..=args.rounds {
        let (mut bare_sum, mut log_sum) = (0.0, 0.0);
        for slice in 0..SLICES {
            let run_bare = || run(runtime, appenders, args.time / SLICES, &bare);
            if slice % 2 == 0 {
                bare_sum += run_bare()?;
            }
            log_sum += run(runtime, appenders, args.time / SLICES, &file)?;
            if slice % 2 == 1 {
                bare_sum += run_bare()?;
            }
        }
        let (bare, log) = (bare_sum / f64::from(SLICES), log_sum / f64::from(SLICES));
        if round > 0 {
            row.bare.push(bare);
            row.log.push(log);
            row.ratios.push(log / bare);
        }
    }
    runtime.block_on(file.log.shutdown())?;
    Ok(row)
}

/// Appends one record, durably.
trait Append: Clone + Send + 'static {
    fn append(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Lets that many tasks append for a while: how many appends a second were answered.
fn run<A: Append>(
    runtime: &Runtime,
    appenders: u64,
    time: Duration,
    appender: &A,
) -> Result<f64, Error> {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..appenders {
        let mut appender = appender.clone();
        let append_all = async move {
            let mut count = 0_u64;
            while begun.elapsed() < time {
                appender.append().await?;
                count += 1;
            }
            Ok::<_, Error>(count)
        };
        tasks.spawn_on(append_all, runtime.handle());
    }
    let mut sum = 0;
    runtime.block_on(async {
        while let Some(count) = tasks.join_next().await {
            sum += count??;
        }
        Ok::<_, Error>(())
    })?;
    Ok(sum as f64 / begun.elapsed().as_secs_f64())
}

/// Decides a transaction with two branches, then notes it as completed.
#[derive(Clone)]
struct LogAppender {
    log: Arc<OpenFileLog>,
    branches: Vec<BranchRecord>,
    sequence: Arc<AtomicU64>,
}

impl Append for LogAppender {
    async fn append(&mut self) -> Result<(), Error> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let gtrid = self.log.opening().gtrid(sequence);
        // The branches are the application's: not made anew for each append.
        let branches = std::mem::take(&mut self.branches);
        let decision = DecisionRecord { gtrid, branches };
        self.log.decide(&decision).await?;
        self.branches = decision.branches;
        self.log.complete(gtrid);
        Ok(())
    }
}

fn branches() -> Vec<BranchRecord> {
    let branch = |resource: &str, identity: &str, evidence: &str| BranchRecord {
        resource: resource.parse().expect("a resource name"),
        identity: ServerIdentity::new(identity).expect("an identity"),
        evidence: Evidence::new(evidence).expect("evidence"),
    };
    vec![
        branch(
            "orders",
            "7412345678901234567/1/shop",
            "xid 123456 pid 4711",
        ),
        branch("ledger", "6ccd780c-baba-1026-9564-5b8c656024db", "id 4712"),
    ]
}

/// The length of the decision's record: see `docs/log-format.md`.
fn record_bytes() -> usize {
    let texts = branches().into_iter().map(|branch| {
        let resource = branch.resource.as_str().len();
        3 + resource + branch.identity.as_str().len() + branch.evidence.as_str().len()
    });
    15 + texts.sum::<usize>()
}

type BareRequest = (Box<[u8]>, oneshot::Sender<()>);

/// Hands a record to the bare loop. The loop's thread ends with the last of these.
#[derive(Clone)]
struct BareAppender(Sender<BareRequest>);

impl BareAppender {
    fn start(path: &Path) -> Result<Self, Error> {
        let file = std::fs::File::create(path)?;
        let zeros = vec![0; 1024 * 1024];
        for at in (0..BARE_FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || bare_loop(&file, &receiver));
        Ok(Self(sender))
    }
}

impl Append for BareAppender {
    async fn append(&mut self) -> Result<(), Error> {
        let record = vec![b'x'; record_bytes()].into_boxed_slice();
        let (reply, answer) = oneshot::channel();
        self.0.send((record, reply))?;
        Ok(answer.await?)
    }
}

/// # Panics
/// When the disk fails: then there is nothing to measure.
fn bare_loop(file: &std::fs::File, requests: &Receiver<BareRequest>) {
    let mut at = 0;
    while let Ok(first) = requests.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(requests.try_iter()).collect();
        let mut bytes = Vec::new();
        for (record, _) in &batch {
            bytes.extend_from_slice(record);
        }
        if at + bytes.len() as u64 > BARE_FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&bytes, at).expect("the disk takes it");
        file.sync_data().expect("the disk keeps it");
        at += bytes.len() as u64;
        for (_, reply) in batch {
            reply.send(()).expect("whoever appends waits");
        }
    }
}

/// Least, median and most.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [
        sorted[0],
        sorted[sorted.len() / 2],
        sorted[sorted.len() - 1],
    ]
}

fn to_json(rows: &[Row]) -> String {
    let mut json = String::from("[\n");
    for (position, row) in rows.iter().enumerate() {
        let comma = if position == 0 { "" } else { ",\n" };
        let [least, median, most] = spread(&row.ratios);
        let written = write!(
            json,
            "{comma}  {{\"appenders\": {}, \"bare_per_second\": {:.0}, \"log_per_second\": {:.0}, \
             \"ratio_min\": {least:.4}, \"ratio_median\": {median:.4}, \"ratio_max\": {most:.4}}}",
            row.appenders,
            spread(&row.bare)[1],
            spread(&row.log)[1],
        );
        written.expect("a string takes everything");
    }
    json.push_str("\n]\n");
    json
}
