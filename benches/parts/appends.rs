//! Durable appends, by a decision log and by a bare loop on the same disk that cannot be beaten by
//! much: a thread that takes whatever records of the same length have queued up in the same kind of
//! channel, writes them densely into a zero-filled file, calls `fdatasync` and answers.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use unanimous_core::ports::{BranchRecord, DecisionLog, DecisionRecord, Evidence, ServerIdentity};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

const BARE_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Appends one record, durably.
pub(crate) trait Append: Clone + Send + 'static {
    fn append(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Lets that many tasks append for a while: how many appends a second were answered.
pub(crate) fn run<A: Append>(
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
pub(crate) struct LogAppender {
    log: Arc<dyn DecisionLog>,
    branches: Vec<BranchRecord>,
    sequence: Arc<AtomicU64>,
}

impl LogAppender {
    pub(crate) fn new(log: Arc<dyn DecisionLog>) -> Self {
        Self {
            log,
            branches: branches(),
            sequence: Arc::new(AtomicU64::new(0)),
        }
    }

    pub(crate) fn log(&self) -> &Arc<dyn DecisionLog> {
        &self.log
    }
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
pub(crate) fn record_bytes() -> usize {
    let texts = branches().into_iter().map(|branch| {
        let resource = branch.resource.as_str().len();
        3 + resource + branch.identity.as_str().len() + branch.evidence.as_str().len()
    });
    15 + texts.sum::<usize>()
}

type BareRequest = (Box<[u8]>, oneshot::Sender<()>);

/// Hands a record to the bare loop. The loop's thread ends with the last of these.
#[derive(Clone)]
pub(crate) struct BareAppender(Sender<BareRequest>);

impl BareAppender {
    pub(crate) fn start(path: &Path) -> Result<Self, Error> {
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
