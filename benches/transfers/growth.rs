//! What grows when something is many: branches of a transaction, decisions and branches that are
//! left for recovery, transactions, members of a log, transactions that wait for a connection.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::runtime::Runtime;
use unanimous::TransactionManager;
use unanimous::log::{FileLog, TableLog};
use unanimous::postgres::Postgres;
use unanimous_core::ports::{DecisionLog as _, DecisionRecord};

use crate::Error;
use crate::appends::Append as _;
use crate::args::Args;
use crate::contender::{Alternative, Contender, Ours};
use crate::coordinator::Transactions;
use crate::figures::{quantile, sorted};
use crate::lab::{ACCOUNTS, Lab, Ledger, start_postgres};
use crate::trivial::Trivial;

/// How long each request to a slow branch takes.
const SLOW: Duration = Duration::from_millis(5);
const CONCURRENT: u64 = 1024;

/// Everything, printed as it comes, and as a part of a page.
pub(crate) fn measure(args: &Args) -> Result<String, Error> {
    let runtime = Runtime::new()?;
    let mut text = String::new();
    let mut say = |section: String| {
        println!("{section}");
        text.push_str(&section);
        text.push('\n');
    };
    say(runtime.block_on(branches())?);
    say(runtime.block_on(left_behind())?);
    say(runtime.block_on(members(args))?);
    say(runtime.block_on(waiting())?);
    say(runtime.block_on(transactions(args))?);
    Ok(text)
}

fn folder() -> Result<tempfile::TempDir, Error> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One transaction at a time, with branches that take their time.
async fn branches() -> Result<String, Error> {
    let mut text = format!(
        "### Branches\n\nOne transaction at a time; each branch takes {SLOW:?} to prepare and as \
         long to commit.\n\n| branches | p50 ms | p99 ms |\n|---|---|---|\n"
    );
    for count in [1, 2, 4, 8, 16] {
        let folder = folder()?;
        let resources: Vec<_> = (0..count)
            .map(|number| Trivial::new(&format!("r{number}")).slow(SLOW))
            .collect();
        let mut builder = TransactionManager::builder().log(FileLog::at(folder.path().join("log")));
        for resource in &resources {
            builder = builder.resource(resource);
        }
        let tm = builder.start().await?;
        let all: Vec<&Trivial> = resources.iter().collect();
        let mut times = Vec::new();
        for _ in 0..100 {
            let begun = Instant::now();
            let mut tx = tm.begin();
            tx.enlist(&all[..]).await?;
            tx.commit().await?;
            times.push(millis(begun.elapsed()));
        }
        tm.shutdown().await?;
        let times = sorted(times);
        let (p50, p99) = (quantile(&times, 0.5), quantile(&times, 0.99));
        let _ = writeln!(text, "| {count} | {p50:.2} | {p99:.2} |");
    }
    Ok(text)
}

/// What a start finds: decisions, and the branches that they left.
async fn left_behind() -> Result<String, Error> {
    let mut text = "### Pending decisions and branches in doubt\n\nEach decision has a branch in \
         each of two resources in memory; as many branches again have no decision. From `start` \
         to the last branch ended, as often as it took.\n\n\
         | decisions | branches | start and recovery ms | by branch µs |\n|---|---|---|---|\n"
        .to_owned();
    for count in [1_u32, 10, 100, 1_000, 10_000] {
        let folder = folder()?;
        let (a, b) = (Trivial::new("a"), Trivial::new("b"));
        let log = FileLog::at(folder.path().join("log")).open().await?;
        let opening = log.opening();
        let decided = (0..u64::from(count)).map(|number| {
            let gtrid = opening.gtrid(number);
            let branches = vec![a.leave_in_doubt(gtrid), b.leave_in_doubt(gtrid)];
            let log = &log;
            async move { log.decide(&DecisionRecord { gtrid, branches }).await }
        });
        try_join_all(decided).await?;
        for number in 0..u64::from(count) {
            let orphan = opening.gtrid(1_000_000 + number);
            a.leave_in_doubt(orphan);
            b.leave_in_doubt(orphan);
        }
        // As after a crash: nothing was completed.
        log.shutdown().await?;
        drop(log);
        let begun = Instant::now();
        let builder = TransactionManager::builder().log(FileLog::at(folder.path().join("log")));
        let tm = builder.resource(&a).resource(&b).start().await?;
        while a.in_doubt() + b.in_doubt() > 0 {
            tm.recover().await;
        }
        let took = millis(begun.elapsed());
        tm.shutdown().await?;
        let branches = 4 * count;
        let by_branch = took * 1000.0 / f64::from(branches);
        let _ = writeln!(
            text,
            "| {count} | {branches} | {took:.1} | {by_branch:.1} |"
        );
    }
    Ok(text)
}

/// Members of one log, all on this machine, each with eight workers.
async fn members(args: &Args) -> Result<String, Error> {
    let mut text =
        "### Members on one log\n\nThe log in PostgreSQL; each member has eight workers \
         and two branches in memory.\n\n| members | decisions/s |\n|---|---|\n"
            .to_owned();
    let postgres = start_postgres()?;
    let time = (args.time / 60).max(Duration::from_secs(1));
    for count in [1, 2, 4, 8, 16] {
        let mut all = Vec::new();
        for _ in 0..count {
            let log = Postgres::builder("log", postgres.url()).build()?;
            let (a, b) = (Trivial::new("a"), Trivial::new("b"));
            let builder = TransactionManager::builder().log(TableLog::on(&log));
            let tm = builder.resource(&a).resource(&b).start().await?;
            all.push(Transactions::of(tm, a, b));
        }
        let begun = Instant::now();
        let workers = all.iter().flat_map(|member| vec![member.clone(); 8]);
        let workers = workers.map(|mut member| {
            tokio::spawn(async move {
                let mut done = 0_u32;
                while begun.elapsed() < time {
                    member.append().await?;
                    done += 1;
                }
                Ok::<_, Error>(done)
            })
        });
        let mut done = 0;
        for worker in try_join_all(workers).await? {
            done += worker?;
        }
        let speed = f64::from(done) / begun.elapsed().as_secs_f64();
        for member in all {
            member.tm.shutdown().await?;
        }
        let _ = writeln!(text, "| {count} | {speed:.0} |");
    }
    Ok(text)
}

/// Many more transactions than connections.
async fn waiting() -> Result<String, Error> {
    const TRANSACTIONS: usize = 1000;
    const EACH: usize = 5;
    const CONNECTIONS: usize = 50;
    /// A stall would be seen as an error.
    const PATIENCE: Duration = Duration::from_secs(20);
    let postgres = start_postgres()?;
    let mut lab = Lab::open(Ledger::Mysql, &postgres).await?;
    let (postgres_url, mysql_url) = (&lab.postgres_url, &lab.mysql_url);
    let patience = Some(PATIENCE);
    let ours = Ours::start(
        Alternative::File,
        postgres_url,
        mysql_url,
        CONNECTIONS,
        patience,
    );
    let contender = Arc::new(Contender::Ours(ours.await?));
    let begun = Instant::now();
    let workers = (0..TRANSACTIONS).map(|worker| {
        let contender = Arc::clone(&contender);
        tokio::spawn(async move {
            let mut times = Vec::new();
            for turn in 0..EACH {
                let begun = Instant::now();
                let account = (worker + turn * TRANSACTIONS) % ACCOUNTS;
                // Whoever waits for too long is rolled back, and counted.
                if contender.transfer(account).await.is_ok() {
                    times.push(millis(begun.elapsed()));
                }
            }
            (times, millis(begun.elapsed()))
        })
    });
    let (mut times, mut ends) = (Vec::new(), Vec::new());
    for (own, end) in try_join_all(workers).await? {
        times.extend(own);
        ends.push(end);
    }
    let speed = times.len() as f64 / begun.elapsed().as_secs_f64();
    lab.check_money(times.len() as u64).await?;
    let contender = Arc::into_inner(contender).ok_or("a worker still runs")?;
    contender.close().await?;
    let failed = TRANSACTIONS * EACH - times.len();
    let (times, ends) = (sorted(times), sorted(ends));
    Ok(format!(
        "### Many transactions, few connections\n\n{TRANSACTIONS} at a time, {EACH} transfers \
         each, with pools of {CONNECTIONS} connections to PostgreSQL and MySQL: {failed} \
         failed, because they waited longer than {PATIENCE:?}; {speed:.0} \
         transfers/s. A transfer took {:.0} ms (p50), {:.0} ms (p99), {:.0} ms at most, waiting \
         for a connection included. The first was through with its {EACH} after {:.0} ms, half of \
         them after {:.0} ms, the last after {:.0} ms.\n",
        quantile(&times, 0.5),
        quantile(&times, 0.99),
        quantile(&times, 1.0),
        quantile(&ends, 0.0),
        quantile(&ends, 0.5),
        quantile(&ends, 1.0),
    ))
}

/// As many transactions as the time allows, ten million at most, through one manager.
async fn transactions(args: &Args) -> Result<String, Error> {
    const ALL: u64 = 10_000_000;
    let folder = folder()?;
    let log = folder.path().join("log");
    let ours = Transactions::start(log.clone()).await?;
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let time = args.time;
    let workers: Vec<_> = (0..CONCURRENT)
        .map(|_| {
            let (mut ours, done) = (ours.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while done.fetch_add(1, Ordering::Relaxed) < ALL && begun.elapsed() < time {
                    ours.append().await?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    let mut text = format!(
        "### Many transactions\n\nThrough one manager, {CONCURRENT} at a time, with two \
         branches in memory and the file log.\n\n\
         | transactions | after s | memory MiB | log folder MiB |\n\
         |---|---|---|---|\n"
    );
    let mut mark = 10_000;
    let mut note = |done: u64| {
        let after = begun.elapsed().as_secs_f64();
        let (memory, folder) = (memory_mib(), folder_mib(&log));
        let _ = writeln!(text, "| {done} | {after:.0} | {memory:.1} | {folder:.1} |");
    };
    while !workers.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let done = done.load(Ordering::Relaxed);
        if done >= mark {
            note(done);
            while mark <= done {
                mark += if mark < 100_000 { 30_000 } else { mark / 2 };
            }
        }
    }
    note(done.load(Ordering::Relaxed).saturating_sub(CONCURRENT));
    for worker in try_join_all(workers).await? {
        worker?;
    }
    ours.tm.shutdown().await?;
    Ok(text)
}

fn memory_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

fn folder_mib(folder: &Path) -> f64 {
    let Ok(files) = std::fs::read_dir(folder) else {
        return f64::NAN;
    };
    let bytes = files
        .flatten()
        .filter_map(|file| Some(file.metadata().ok()?.len()));
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let bytes = bytes.sum::<u64>() as f64;
    bytes / 1024.0 / 1024.0
}
