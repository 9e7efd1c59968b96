//! The coordinator and the logs alone, beside loops that do nothing but write.
//!
//! * Transactions with two branches in memory and a real file log, beside a bare loop of batched
//!   `fdatasync` on the same disk (`parts/appends.rs`).
//! * Decisions on a table log with 64 at a time, beside a bare loop that inserts whatever waits in
//!   one statement.
//! * What one transaction costs the processor, and how often it allocates.
//!
//! Slices of both alternate, the ratio is taken slice by slice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use unanimous::TransactionManager;
use unanimous::log::{FileLog, TableLog};
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::postgres::tokio_postgres::{self, Client, NoTls};
use unanimous_core::ports::LogHome;

use crate::Error;
use crate::appends::{Append, BareAppender, LogAppender, record_bytes, run};
use crate::args::Args;
use crate::counters::connect_mysql;
use crate::figures::{median, quantile, sorted};
use crate::lab::{Ledger, own_cpu, start_postgres};
use crate::trivial::Trivial;

/// One comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    what: &'static str,
    concurrent: u64,
    per_second: f64,
    bare_per_second: f64,
    ratio: f64,
    ratio_q1: f64,
    ratio_q3: f64,
    cpu_us: f64,
}

/// Slices of both in turn.
struct Comparison {
    what: &'static str,
    concurrent: u64,
    rounds: usize,
    slice: Duration,
}

impl Comparison {
    fn run(&self, runtime: &Runtime, ours: &impl Append, bare: &impl Append) -> Result<Row, Error> {
        let (mut all, mut all_bare, mut ratios, mut cpu) = (vec![], vec![], vec![], vec![]);
        // The first round fills caches.
        for round in 0..=self.rounds {
            let run_bare = || run(runtime, self.concurrent, self.slice, bare);
            let before = if round % 2 == 0 {
                Some(run_bare()?)
            } else {
                None
            };
            let used = own_cpu();
            let per_second = run(runtime, self.concurrent, self.slice, ours)?;
            let used = own_cpu().saturating_sub(used).as_secs_f64();
            let bare = before.map_or_else(run_bare, Ok)?;
            if round > 0 {
                all.push(per_second);
                all_bare.push(bare);
                ratios.push(per_second / bare);
                cpu.push(used * 1e6 / (per_second * self.slice.as_secs_f64()));
            }
        }
        let ratios = sorted(ratios);
        let row = Row {
            what: self.what,
            concurrent: self.concurrent,
            per_second: median(all),
            bare_per_second: median(all_bare),
            ratio: quantile(&ratios, 0.5),
            ratio_q1: quantile(&ratios, 0.25),
            ratio_q3: quantile(&ratios, 0.75),
            cpu_us: median(cpu),
        };
        println!("{}", line(&row));
        Ok(row)
    }
}

fn line(row: &Row) -> String {
    format!(
        "| {} | {} | {:.0} | {:.0} | **{:.2}** | {:.2}–{:.2} | {:.1} |",
        row.what,
        row.concurrent,
        row.per_second,
        row.bare_per_second,
        row.ratio,
        row.ratio_q1,
        row.ratio_q3,
        row.cpu_us
    )
}

const HEAD: &str = "| what | at a time | per second | bare loop | ratio | middle half | CPU µs |\n\
                    |---|---|---|---|---|---|---|";

pub(crate) fn measure(args: &Args) -> Result<String, Error> {
    let runtime = Runtime::new()?;
    println!("{HEAD}");
    let slice = args.time / 16 / u32::try_from(args.rounds + 1)?;
    let mut rows = files(&runtime, args.rounds, slice)?;
    let postgres = start_postgres()?;
    let log = Postgres::builder("log", postgres.url()).build()?;
    let bare = runtime.block_on(BareTable::on_postgres(&postgres.url()))?;
    let compared = tables(&runtime, args, slice, TableLog::on(&log), &bare);
    rows.push(compared("table in PostgreSQL: decisions")?);
    let mysql = Ledger::Mysql.start()?;
    let log = Mysql::builder("log", mysql.url()).build()?;
    let bare = runtime.block_on(BareTable::on_mysql(&mysql.url()))?;
    let compared = tables(&runtime, args, slice, TableLog::on(&log), &bare);
    rows.push(compared("table in MySQL: decisions")?);
    let (allocations, bytes) = allocations()?;
    let words = format!(
        "One transaction with two branches in memory and the file log allocates {allocations:.1} \
         times, {bytes:.0} bytes in all, not counting the log's own thread."
    );
    println!("\n{words}");
    if let Some(json) = &args.json {
        std::fs::write(json, serde_json::to_string_pretty(&rows)? + "\n")?;
    }
    let lines: Vec<_> = rows.iter().map(line).collect();
    Ok(format!("{HEAD}\n{}\n\n{words}\n", lines.join("\n")))
}

fn files(runtime: &Runtime, rounds: usize, slice: Duration) -> Result<Vec<Row>, Error> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let bare = BareAppender::start(&folder.path().join("bare"))?;
    let ours = runtime.block_on(Transactions::start(folder.path().join("manager")))?;
    let log = runtime.block_on(FileLog::at(folder.path().join("log")).open())?;
    let log = LogAppender::new(log);
    let mut rows = Vec::new();
    for concurrent in [1, 64, 1024] {
        let comparison = |what| Comparison {
            what,
            concurrent,
            rounds,
            slice,
        };
        rows.push(comparison("file log: transactions").run(runtime, &ours, &bare)?);
        rows.push(comparison("file log: decisions").run(runtime, &log, &bare)?);
    }
    runtime.block_on(log.log().shutdown())?;
    runtime.block_on(ours.tm.shutdown())?;
    Ok(rows)
}

fn tables<'a>(
    runtime: &'a Runtime,
    args: &'a Args,
    slice: Duration,
    log: TableLog,
    bare: &'a BareTable,
) -> impl FnOnce(&'static str) -> Result<Row, Error> + 'a {
    move |what| {
        let log = runtime.block_on(LogHome::open(Box::new(log.last_resource(false))))?;
        let ours = LogAppender::new(log);
        let comparison = Comparison {
            what,
            concurrent: 64,
            rounds: args.rounds,
            slice: slice * 2,
        };
        let row = comparison.run(runtime, &ours, bare)?;
        runtime.block_on(ours.log().shutdown())?;
        Ok(row)
    }
}

/// Whole transactions with two branches in memory.
#[derive(Clone)]
pub(crate) struct Transactions {
    pub(crate) tm: TransactionManager,
    a: Trivial,
    b: Trivial,
}

impl Transactions {
    pub(crate) async fn start(log: std::path::PathBuf) -> Result<Self, Error> {
        let (a, b) = (Trivial::new("a"), Trivial::new("b"));
        let builder = TransactionManager::builder().log(FileLog::at(log));
        let tm = builder.resource(&a).resource(&b).start().await?;
        Ok(Self::of(tm, a, b))
    }

    pub(crate) const fn of(tm: TransactionManager, a: Trivial, b: Trivial) -> Self {
        Self { tm, a, b }
    }
}

impl Append for Transactions {
    async fn append(&mut self) -> Result<(), Error> {
        let mut tx = self.tm.begin();
        tx.enlist((&self.a, &self.b)).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Allocations and bytes of one transaction, on a runtime of this thread alone.
fn allocations() -> Result<(f64, f64), Error> {
    const COUNTED: u32 = 2000;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut ours = runtime.block_on(Transactions::start(folder.path().join("log")))?;
    let mut many = |count| {
        runtime.block_on(async {
            for _ in 0..count {
                ours.append().await?;
            }
            Ok::<_, Error>(())
        })
    };
    many(COUNTED)?;
    let mut result = Ok(());
    let counted = allocation_counter::measure(|| result = many(COUNTED));
    result?;
    runtime.block_on(ours.tm.shutdown())?;
    #[expect(clippy::cast_precision_loss, reason = "some thousand")]
    let by = |count: u64| count as f64 / f64::from(COUNTED);
    Ok((by(counted.count_total), by(counted.bytes_total)))
}

/// Inserts whatever waits in one statement, and answers when that is durable.
#[derive(Clone)]
struct BareTable {
    queue: mpsc::UnboundedSender<(u64, oneshot::Sender<()>)>,
    sequence: Arc<AtomicU64>,
}

const MAKE: &str = "CREATE TABLE bare_decision (gtrid varchar(64) PRIMARY KEY, \
                    epoch bigint NOT NULL, state char(1) NOT NULL, branches text NOT NULL)";

impl BareTable {
    async fn on_postgres(url: &str) -> Result<Self, Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(MAKE).await?;
        Ok(Self::over(client))
    }

    async fn on_mysql(url: &str) -> Result<Self, Error> {
        let mut conn = connect_mysql(url).await?;
        conn.query_drop(MAKE).await?;
        Ok(Self::over(conn))
    }

    fn over(mut database: impl Insert) -> Self {
        let (queue, mut waiting) = mpsc::unbounded_channel::<(u64, oneshot::Sender<()>)>();
        tokio::spawn(async move {
            let branches = "b".repeat(record_bytes());
            let mut batch = Vec::new();
            while waiting.recv_many(&mut batch, 256).await > 0 {
                let row = |number: &u64| {
                    format!("('0123456789abcdef-1-0123456789abc-{number}',1,'C','{branches}')")
                };
                let rows: Vec<_> = batch.iter().map(|(number, _)| row(number)).collect();
                let sql = format!("INSERT INTO bare_decision VALUES {}", rows.join(","));
                if let Err(error) = database.insert(&sql).await {
                    // Whoever waits is told by the end of its channel.
                    eprintln!("bare loop: {error}");
                    return;
                }
                for (_, answer) in batch.drain(..) {
                    let _ = answer.send(());
                }
            }
        });
        Self {
            queue,
            sequence: Arc::default(),
        }
    }
}

impl Append for BareTable {
    async fn append(&mut self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        self.queue.send((number, answer))?;
        Ok(answered.await?)
    }
}

trait Insert: Send + 'static {
    fn insert(&mut self, sql: &str) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Insert for Client {
    async fn insert(&mut self, sql: &str) -> Result<(), Error> {
        Ok(self.batch_execute(sql).await?)
    }
}

impl Insert for mysql_async::Conn {
    async fn insert(&mut self, sql: &str) -> Result<(), Error> {
        Ok(self.query_drop(sql).await?)
    }
}
