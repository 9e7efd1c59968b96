//! What a commit over PostgreSQL and MySQL costs with each home of the decision log, with and
//! without the last resource: forced writes of each server and of the log's disk, and round trips
//! to each server, by transaction. Counts, not times: they are the servers' own, and those of a
//! proxy in between.
//!
//! ```text
//! cargo bench -p unanimous-benches --bench last_resource --
//!     [--transactions N] [--binlog] [--json FILE]
//! ```
//! It starts servers of its own, so that nobody else is counted. Each figure is the difference of
//! two runs, one of which makes `N` transactions more: what starting, connecting and shutting down
//! cost is in both. What happens in the background (completions, a batch at a time) is counted,
//! signs of life are not: they come once a second, however many transactions there are, and are
//! put off here.
//!
//! How each server counts is told in `parts/counters.rs`; of the file log its synced batches are
//! counted. With `--binlog` MySQL writes a binary log, too.

#[path = "parts/counters.rs"]
#[allow(dead_code, reason = "transfers counts statements, too")]
mod counters;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use unanimous::log::{FileLog, TableLog};
use unanimous::mysql::Mysql;
use unanimous::ports::LogHome;
use unanimous::postgres::Postgres;
use unanimous::postgres::tokio_postgres::{self, NoTls};
use unanimous::{TransactionManager, TransactionManagerBuilder};
use unanimous_testing::Wire;
use xtask::servers::{Kind, Options, Server};

use counters::{Counters, connect_mysql};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Long after the end: nothing that comes now and then falls into one run and not into the other.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);
/// How many transactions both runs make.
const WARM_UP: u64 = 50;
const WORKERS: [u64; 2] = [1, 16];

struct Args {
    transactions: u64,
    binlog: bool,
    json: Option<PathBuf>,
}

impl Args {
    fn parse() -> Result<Self, Error> {
        let mut args = Self {
            transactions: 400,
            binlog: false,
            json: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--transactions" => args.transactions = value()?.parse()?,
                "--binlog" => args.binlog = true,
                "--json" => args.json = Some(value()?.into()),
                // cargo says this to every benchmark.
                "--bench" => {}
                _ => return Err(format!("unknown argument {word}").into()),
            }
        }
        if args.transactions == 0 {
            return Err("--transactions has to be at least 1".into());
        }
        Ok(args)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    File,
    Postgres,
    Mysql,
}

/// Home, and whether there is a last resource.
const VARIANTS: [(Home, bool); 5] = [
    (Home::File, false),
    (Home::Postgres, false),
    (Home::Postgres, true),
    (Home::Mysql, false),
    (Home::Mysql, true),
];

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counter {
    PostgresFlushes,
    PostgresLazyFlushes,
    MysqlFlushes,
    BinlogSyncs,
    FileFlushes,
    OrdersTrips,
    LedgerTrips,
    LogTrips,
}

const COUNTERS: [(Counter, &str); 8] = [
    (Counter::PostgresFlushes, "postgres_flushes"),
    (Counter::PostgresLazyFlushes, "postgres_lazy_flushes"),
    (Counter::MysqlFlushes, "mysql_flushes"),
    (Counter::BinlogSyncs, "binlog_syncs"),
    (Counter::FileFlushes, "file_flushes"),
    (Counter::OrdersTrips, "orders_round_trips"),
    (Counter::LedgerTrips, "ledger_round_trips"),
    (Counter::LogTrips, "log_round_trips"),
];

type Counts = [f64; COUNTERS.len()];

fn main() -> Result<(), Error> {
    let args = Args::parse()?;
    let postgres = Options::new().args(["-c", "autovacuum=off", "-c", "checkpoint_timeout=1d"]);
    let mut mysql = Options::new().args(["--innodb-flush-log-at-timeout=2700"]);
    if args.binlog {
        mysql = mysql.args(["--log-bin=binlog", "--server-id=1", "--sync-binlog=1"]);
    }
    let postgres = Server::start(Kind::PostgresNewest, &postgres)?;
    let mysql = Server::start(Kind::Mysql, &mysql)?;
    println!("by transaction, from {} transactions:\n", args.transactions);
    let runtime = Runtime::new()?;
    let rows = runtime.block_on(measure_all(&args, &postgres, &mysql))?;
    if let Some(json) = &args.json {
        std::fs::write(json, to_json(&rows))?;
    }
    Ok(())
}

struct Row {
    home: Home,
    is_last: bool,
    workers: u64,
    counts: Counts,
}

async fn measure_all(args: &Args, postgres: &Server, mysql: &Server) -> Result<Vec<Row>, Error> {
    let mut bench = Bench::prepare(postgres, mysql).await?;
    let mut rows = Vec::new();
    for workers in WORKERS {
        println!(
            "| decision log | last resource | flushes: PostgreSQL | MySQL | binary log | \
             log's disk | all | lazy | round trips: PostgreSQL | MySQL | log | all |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        for (home, is_last) in VARIANTS {
            let few = bench.run(home, is_last, workers, WARM_UP).await?;
            let many = WARM_UP + args.transactions;
            let many = bench.run(home, is_last, workers, many).await?;
            let mut counts = [0.0; COUNTERS.len()];
            for (index, count) in counts.iter_mut().enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
                let transactions = args.transactions as f64;
                *count = (many[index] - few[index]) / transactions;
            }
            let row = Row {
                home,
                is_last,
                workers,
                counts,
            };
            println!("{}", row.line());
            rows.push(row);
        }
        println!("({workers} at a time)\n");
    }
    Ok(rows)
}

impl Row {
    fn of(&self, counter: Counter) -> f64 {
        let index = COUNTERS.iter().position(|(one, _)| *one == counter);
        index.map_or(0.0, |index| self.counts[index])
    }

    fn line(&self) -> String {
        let home = match self.home {
            Home::File => "file",
            Home::Postgres => "PostgreSQL table",
            Home::Mysql => "MySQL table",
        };
        let last = match (self.home, self.is_last) {
            (Home::File, _) => "–",
            (_, true) => "yes",
            (_, false) => "no",
        };
        let of = |counters: &[Counter]| -> Vec<f64> {
            let counts = counters.iter().map(|counter| self.of(*counter));
            counts.collect()
        };
        let sum = |counts: &[f64]| counts.iter().sum::<f64>();
        let flushes = of(&[
            Counter::PostgresFlushes,
            Counter::MysqlFlushes,
            Counter::BinlogSyncs,
            Counter::FileFlushes,
        ]);
        let trips = of(&[
            Counter::OrdersTrips,
            Counter::LedgerTrips,
            Counter::LogTrips,
        ]);
        let lazy = self.of(Counter::PostgresLazyFlushes);
        let all = [&flushes, &[sum(&flushes), lazy][..], &trips, &[sum(&trips)]].concat();
        // A count that differs by one or two between the runs is no less than nothing.
        let cells = all.iter().map(|count| format!("{:.1}", count.max(0.0)));
        let cells: Vec<_> = cells.collect();
        format!("| {home} | {last} | {} |", cells.join(" | "))
    }
}

struct Bench {
    postgres_url: String,
    mysql_url: String,
    counters: Counters,
}

impl Bench {
    async fn prepare(postgres: &Server, mysql: &Server) -> Result<Self, Error> {
        let most = WORKERS.into_iter().max().unwrap_or(1);
        let (app, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await?;
        tokio::spawn(connection);
        app.batch_execute(&format!(
            "CREATE TABLE bench_orders (id bigint PRIMARY KEY, count bigint NOT NULL);
             INSERT INTO bench_orders SELECT id, 0 FROM generate_series(0, {most}) id"
        ))
        .await?;
        let mut app = connect_mysql(&mysql.url()).await?;
        app.query_drop("CREATE TABLE bench_ledger (id BIGINT PRIMARY KEY, count BIGINT NOT NULL)")
            .await?;
        for id in 0..=most {
            app.exec_drop("INSERT INTO bench_ledger VALUES (?, 0)", (id,))
                .await?;
        }
        app.disconnect().await?;
        Ok(Self {
            postgres_url: postgres.url(),
            mysql_url: mysql.url(),
            counters: Counters::connect(&postgres.admin_url(), &mysql.admin_url()).await?,
        })
    }

    /// What so many transactions cost, with a manager of their own.
    async fn run(
        &mut self,
        home: Home,
        is_last: bool,
        workers: u64,
        transactions: u64,
    ) -> Result<Counts, Error> {
        let (orders_wire, orders_url) = Wire::between(&self.postgres_url).await?;
        let (ledger_wire, ledger_url) = Wire::between(&self.mysql_url).await?;
        let log_url = match home {
            Home::File | Home::Postgres => &self.postgres_url,
            Home::Mysql => &self.mysql_url,
        };
        let (log_wire, log_url) = Wire::between(log_url).await?;
        let synced = Arc::new(AtomicU64::new(0));
        let before = self.counters.read().await?;
        {
            let orders = Postgres::builder("orders", orders_url)
                .pool_size(32)
                .build()?;
            let ledger = Mysql::builder("ledger", ledger_url).pool_size(32).build()?;
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
            let table = |log: TableLog| log.last_resource(is_last).suspect_after(NEVER);
            let builder = match home {
                Home::File => begin(file_log(&folder, &synced), &orders, &ledger),
                Home::Postgres => {
                    let log = Postgres::builder("log", log_url).build()?;
                    begin(table(TableLog::on(&log)), &orders, &ledger)
                }
                Home::Mysql => {
                    let log = Mysql::builder("log", log_url).build()?;
                    begin(table(TableLog::on(&log)), &orders, &ledger)
                }
            };
            let tm = builder.start().await?;
            work(&tm, &orders, &ledger, workers, transactions).await?;
            tm.shutdown().await?;
        }
        self.counters.wait_until_alone().await?;
        let servers = self.counters.read().await?.since(&before);
        let mut counts = [0.0; COUNTERS.len()];
        #[expect(clippy::cast_precision_loss, reason = "far below")]
        let own = [
            (Counter::PostgresFlushes, servers.postgres_flushes),
            (Counter::PostgresLazyFlushes, servers.postgres_lazy_flushes),
            (Counter::MysqlFlushes, servers.mysql_flushes),
            (Counter::BinlogSyncs, servers.binlog_syncs),
            (Counter::FileFlushes, synced.load(Ordering::Relaxed) as f64),
            (Counter::OrdersTrips, orders_wire.round_trips() as f64),
            (Counter::LedgerTrips, ledger_wire.round_trips() as f64),
            (Counter::LogTrips, log_wire.round_trips() as f64),
        ];
        for (counter, count) in own {
            set(&mut counts, counter, count);
        }
        Ok(counts)
    }
}

fn set(counts: &mut Counts, counter: Counter, count: f64) {
    if let Some(index) = COUNTERS.iter().position(|(one, _)| *one == counter) {
        counts[index] = count;
    }
}

fn begin(log: impl LogHome, orders: &Postgres, ledger: &Mysql) -> TransactionManagerBuilder {
    TransactionManager::builder()
        .log(log)
        .resource(orders)
        .resource(ledger)
        .config(|config| {
            config.recovery_interval = NEVER;
            config.recovery_interval_max = NEVER;
        })
}

fn file_log(folder: &tempfile::TempDir, synced: &Arc<AtomicU64>) -> FileLog {
    let synced = Arc::clone(synced);
    FileLog::at(folder.path().join("log")).watch(move |step| {
        if step == "log.batch_synced" {
            synced.fetch_add(1, Ordering::Relaxed);
        }
    })
}

async fn work(
    tm: &TransactionManager,
    orders: &Postgres,
    ledger: &Mysql,
    workers: u64,
    transactions: u64,
) -> Result<(), Error> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for id in 0..workers {
        let (tm, orders, ledger) = (tm.clone(), orders.clone(), ledger.clone());
        let next = Arc::clone(&next);
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < transactions {
                let mut tx = tm.begin();
                let (pg, my) = tx.enlist((&orders, &ledger)).await?;
                // As text: one round trip each, whatever a driver does with parameters.
                let change = format!("SET count = count + 1 WHERE id = {id}");
                pg.batch_execute(&format!("UPDATE bench_orders {change}"))
                    .await?;
                my.query_drop(format!("UPDATE bench_ledger {change}"))
                    .await?;
                tx.commit().await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn to_json(rows: &[Row]) -> String {
    let mut json = String::from("[");
    for (index, row) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(
            json,
            "{comma}\n  {{\"home\": \"{:?}\", \"last_resource\": {}, \"workers\": {}",
            row.home, row.is_last, row.workers
        );
        for ((_, name), count) in COUNTERS.iter().zip(row.counts) {
            let _ = write!(json, ", \"{name}\": {count:.3}");
        }
        json.push('}');
    }
    json + "\n]\n"
}
