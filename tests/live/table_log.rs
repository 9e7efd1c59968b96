//! A table log on real servers: it keeps the contract of a decision log, and its tables stay small,
//! whatever has gone through them.
//!
//! `UNANIMOUS_TABLE_DECISIONS=N` makes it longer, and prints how the tables grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use unanimous::log::TableLog;
use unanimous::mysql::Mysql;
use unanimous::ports::{
    BranchRecord, DecisionLog, DecisionRecord, Evidence, LogHome, ServerIdentity,
};
use unanimous::postgres::Postgres;
use unanimous_testing::log_suite;

use crate::databases::{Judges, Own, Place};
use crate::support::{Bank, Db, env, eventually};

/// How many transactions decide at the same time.
const AT_ONCE: usize = 64;
/// The rows that are kept, and some that are on their way out.
const ROWS_MAX: u64 = 2_000;

/// The log of a database of its own.
struct InADatabase(Place);

impl log_suite::Place for InADatabase {
    fn home(&self) -> Box<dyn LogHome> {
        // Nobody is suspected while the suite runs.
        Box::new(log_in(&self.0).suspect_after(Duration::from_secs(3600)))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

fn log_in(place: &Place) -> TableLog {
    if place.is_postgres {
        TableLog::on(&<Postgres as Bank>::connect("log", &place.url))
    } else {
        TableLog::on(&<Mysql as Bank>::connect("log", &place.url))
    }
}

async fn keeps_the_contract(db: Db) {
    let own = tokio::task::spawn_blocking(move || Own::start(db))
        .await
        .unwrap();
    let place = |url: &str| Place {
        url: url.to_owned(),
        is_postgres: db.is_postgres(),
    };
    let admin = place(&own.admin_url);
    let judges = tokio::sync::Mutex::new(Judges::default());
    let made = AtomicU32::new(0);
    log_suite::run(async || {
        let name = format!("log{}", made.fetch_add(1, Ordering::SeqCst));
        let sql = format!("CREATE DATABASE {name}");
        judges.lock().await.ask(&admin, &sql).await.unwrap();
        InADatabase(admin.database(&name))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_log_keeps_the_contract_in_postgresql() {
    keeps_the_contract(Db::PostgresNewest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_log_keeps_the_contract_in_mysql() {
    keeps_the_contract(Db::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_log_keeps_the_contract_in_mariadb() {
    keeps_the_contract(Db::Mariadb).await;
}

async fn stays_small(db: Db) {
    let own = tokio::task::spawn_blocking(move || Own::start(db))
        .await
        .unwrap();
    let place = Place {
        url: own.url.clone(),
        is_postgres: db.is_postgres(),
    };
    let log = Box::new(log_in(&place)).open().await.unwrap();
    let decisions: u64 = env("UNANIMOUS_TABLE_DECISIONS").map_or(8_000, |n| n.parse().unwrap());
    let mut judges = Judges::default();
    let begin = Instant::now();
    for quarter in 0..4 {
        let (from, to) = (quarter * decisions / 4, (quarter + 1) * decisions / 4);
        decide_and_complete(&log, from..to).await;
        println!(
            "{db:?}: {to} decisions in {:.1?}: {} rows, {} KiB",
            begin.elapsed(),
            number(&mut judges, &place, &rows(&place)).await,
            number(&mut judges, &place, &size(&place)).await / 1024,
        );
    }
    assert!(log.pending().await.unwrap().is_empty());
    let judges = tokio::sync::Mutex::new(judges);
    eventually("old rows are deleted", || async {
        let mut judges = judges.lock().await;
        number(&mut judges, &place, &rows(&place)).await <= ROWS_MAX
    })
    .await;
    log.shutdown().await.unwrap();
    let mut judges = judges.into_inner();
    // Nobody asks any more under an epoch that was left properly.
    assert_eq!(number(&mut judges, &place, &rows(&place)).await, 0);
}

async fn decide_and_complete(log: &Arc<dyn DecisionLog>, sequence: std::ops::Range<u64>) {
    let branch = |name: &str| BranchRecord {
        resource: name.parse().unwrap(),
        identity: ServerIdentity::new("7412345678901234567/00000001/16384").unwrap(),
        evidence: Evidence::new("connection=123456 started=1700000000 account=app@%").unwrap(),
    };
    let decisions = sequence.map(|sequence| {
        let gtrid = log.opening().gtrid(sequence);
        let branches = vec![branch("orders"), branch("ledger")];
        async move {
            log.decide(&DecisionRecord { gtrid, branches })
                .await
                .unwrap();
            log.complete(gtrid);
        }
    });
    let mut deciding = futures_util::stream::iter(decisions).buffer_unordered(AT_ONCE);
    while deciding.next().await.is_some() {}
    // Completions are lazy.
    tokio::time::sleep(Duration::from_millis(600)).await;
}

fn rows(place: &Place) -> String {
    let schema = if place.is_postgres { "unanimous." } else { "" };
    format!("SELECT count(*) FROM {schema}unanimous_decision")
}

/// Tables and indexes, in bytes.
fn size(place: &Place) -> String {
    if place.is_postgres {
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = 'unanimous' AND c.relkind = 'r'"
            .to_owned()
    } else {
        "SELECT sum(data_length + index_length) FROM information_schema.tables \
         WHERE table_name LIKE 'unanimous%'"
            .to_owned()
    }
}

async fn number(judges: &mut Judges, place: &Place, sql: &str) -> u64 {
    let answer = judges.ask(place, sql).await.unwrap();
    String::from_utf8_lossy(&answer[0]).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_log_stays_small_in_postgresql() {
    stays_small(Db::PostgresNewest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_log_stays_small_in_mysql() {
    stays_small(Db::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_log_stays_small_in_mariadb() {
    stays_small(Db::Mariadb).await;
}
