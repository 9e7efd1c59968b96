//! What an application does with the recovery at its start: what to log, what to wait for, when to
//! call a person, and how to learn what became of a transaction.
//!
//! ```text
//! UNANIMOUS_PG_URL=… UNANIMOUS_MYSQL_URL=… cargo run --example recover_at_start [LOG] [GTRID]
//! ```
//! `LOG` is the folder of the decision log, `./unanimous-log` if not given. With `GTRID` it also
//! says what became of that transaction: take one that `transfer` has printed.
//!
//! It exits with 1 if a person has to look, or if something is still in doubt after a while.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{
    Gtrid, LeaveReason, Left, RecoveryReport, ResourceReport, TransactionManager,
    TransactionOutcome,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    start_service().await.unwrap_or_else(|error| {
        println!("error: {error}");
        ExitCode::FAILURE
    })
}

async fn start_service() -> Result<ExitCode> {
    let mut args = env::args().skip(1);
    let log = args.next().unwrap_or_else(|| "./unanimous-log".to_owned());
    let gtrid: Option<Gtrid> = args.next().map(|text| text.parse()).transpose()?;

    // Every resource that was ever used with this log: branches in one that is missing here would
    // stay prepared, and keep their locks.
    let orders = Postgres::builder("orders", address("UNANIMOUS_PG_URL")?).build()?;
    let ledger = Mysql::builder("ledger", address("UNANIMOUS_MYSQL_URL")?).build()?;
    let tm = TransactionManager::builder()
        .log(FileLog::at(log))
        .resource(&orders)
        .resource(&ledger)
        // A database that is down delays the start by no more than this.
        .config(|config| config.start_timeout = Duration::from_secs(5))
        .start()
        .await?;

    let report = tm.start_report();
    log_report(report);
    let needs_a_person = needs_a_person(report);

    // The service can take requests from here on, whatever the report says. What could not be
    // reached is looked after in the background; wait for it only if there is a reason to, as in
    // this program, which ends.
    let is_clean = report.is_clean() || wait_until_clean(&tm, Duration::from_secs(10)).await;
    let in_doubt = if is_clean { "nothing" } else { "something" };
    println!("in doubt: {in_doubt}");

    if let Some(gtrid) = gtrid {
        let meaning = meaning(&tm.outcome(gtrid).await?);
        println!("transaction {gtrid}: {meaning}");
    }
    tm.shutdown().await?;
    if needs_a_person || !is_clean {
        Ok(ExitCode::FAILURE)
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

/// Passes run by themselves; asking for one makes it now, and its report can be looked at.
async fn wait_until_clean(tm: &TransactionManager, limit: Duration) -> bool {
    let begin = Instant::now();
    loop {
        let report = tm.recover().await;
        if report.is_clean() {
            return true;
        }
        if begin.elapsed() >= limit {
            log_report(&report);
            return false;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// One line per thing that somebody may want to find in the service's log later.
fn log_report(report: &RecoveryReport) {
    for resource in &report.resources {
        log_resource(resource);
    }
    for name in &report.unfinished {
        println!("warning: {name}: not recovered yet; it goes on in the background");
    }
    if let Some(error) = &report.log_error {
        println!("warning: the log could not be read: {error}");
    }
    for name in &report.unknown_resources {
        println!("error: {name}: the log has decisions for it, but it is not registered");
    }
}

fn log_resource(report: &ResourceReport) {
    let name = &report.resource;
    match (&report.error, &report.log_error) {
        (Some(error), _) => println!("warning: {name}: could not be looked at: {error}"),
        (None, Some(error)) => println!("warning: {name}: nothing was ended: {error}"),
        (None, None) => {
            let (committed, rolled_back) = (report.committed, report.rolled_back);
            println!("{name}: {committed} committed, {rolled_back} rolled back");
        }
    }
    for (xid, left) in &report.left {
        let level = if is_for_a_person(left) {
            "error: "
        } else if matches!(left, Left::Retry(_)) {
            "warning: "
        } else {
            // Another manager's, or still running: none of our business.
            ""
        };
        println!("{level}{name}: {xid} is left: {left}");
    }
    if !report.foreign.is_empty() {
        let count = report.foreign.len();
        println!("{name}: {count} prepared transactions of others, never touched");
    }
}

/// What no further pass can mend.
fn needs_a_person(report: &RecoveryReport) -> bool {
    let is_stuck = |resource: &ResourceReport| {
        let mut left = resource.left.iter();
        left.any(|(_, left)| is_for_a_person(left))
    };
    !report.unknown_resources.is_empty() || report.resources.iter().any(is_stuck)
}

/// A privilege is missing, a branch has ended against the decision, or the log or a database was
/// restored from a backup.
fn is_for_a_person(left: &Left) -> bool {
    matches!(
        left,
        Left::Refused(_)
            | Left::Person(_)
            | Left::Plan(LeaveReason::UnlistedOpening | LeaveReason::EndedOtherwise)
    )
}

/// What the caller of a transaction may do, by its outcome.
fn meaning(outcome: &TransactionOutcome) -> &'static str {
    match outcome {
        TransactionOutcome::Committed => "committed: go on, do not repeat it",
        TransactionOutcome::RolledBack => "rolled back: it may be repeated",
        TransactionOutcome::InDoubt => "being decided: ask again",
        TransactionOutcome::Heuristic(_) => "committed in part only: call a person",
        TransactionOutcome::Unknown => "not in the log: look for its rows before repeating it",
        // Outcomes of later versions.
        _ => "in a state that this program does not know",
    }
}

fn address(variable: &str) -> Result<String> {
    Ok(env::var(variable).map_err(|_| format!("{variable} is not set: give the address"))?)
}
