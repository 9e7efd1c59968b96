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
//! cargo bench -p unanimous-benches --bench log --
//!     [--rounds N] [--millis N] [--appenders N] [--dir FOLDER] [--json FILE]
//! ```
//! The folder has to be on a real disk: on tmpfs a sync costs nothing.

#[path = "parts/appends.rs"]
mod appends;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Runtime;
use unanimous::log::FileLog;

use appends::{BareAppender, Error, LogAppender, record_bytes, run};

const APPENDERS: [u64; 3] = [1, 64, 1024];
/// So many slices of each make a round.
const SLICES: u32 = 10;

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
    let file = LogAppender::new(runtime.block_on(open)?);
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
    runtime.block_on(file.log().shutdown())?;
    Ok(row)
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
