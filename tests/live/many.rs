//! Thousands of branches in doubt at once.
//!
//! `UNANIMOUS_TEST_BRANCHES=10000` measures more of them.

use std::time::Instant;

use mysql_async::prelude::Queryable;
use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{Gtrid, TransactionManager};
use xtask::servers::{Kind, Options, Server};

use crate::support::{Bank, short_intervals};

fn count() -> usize {
    std::env::var("UNANIMOUS_TEST_BRANCHES").map_or(500, |text| text.parse().unwrap())
}

/// A server of its own, which has room for so many.
async fn start_server(kind: Kind) -> Server {
    let room = count() + 100;
    let options = Options::new().args(if kind.is_postgres() {
        vec!["-c".to_owned(), format!("max_prepared_transactions={room}")]
    } else {
        vec![]
    });
    let started = tokio::task::spawn_blocking(move || Server::start(kind, &options));
    started.await.unwrap().unwrap()
}

/// Ids of transactions that a manager on this log began and never decided.
async fn orphans<A: Bank>(resource: &A, log: &std::path::Path) -> Vec<Gtrid> {
    let tm = manager(resource, log).await;
    let gtrids = (0..count()).map(|_| tm.begin().gtrid()).collect();
    tm.shutdown().await.unwrap();
    gtrids
}

async fn manager<A: Bank>(resource: &A, log: &std::path::Path) -> TransactionManager {
    let builder = TransactionManager::builder()
        .log(FileLog::at(log))
        .resource(resource);
    let builder = builder.config(short_intervals).config(|config| {
        config.start_timeout = std::time::Duration::from_secs(120);
    });
    builder.start().await.unwrap()
}

/// Starts a manager, and counts what its first pass has rolled back.
async fn recover<A: Bank>(resource: &A, log: &std::path::Path) -> usize {
    let begin = Instant::now();
    let tm = manager(resource, log).await;
    let report = tm.start_report();
    println!("{} in doubt: started after {:?}", count(), begin.elapsed());
    let rolled_back = report
        .resources
        .iter()
        .map(|resource| resource.rolled_back)
        .sum();
    tm.shutdown().await.unwrap();
    rolled_back
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_hundreds_of_branches_in_postgresql_are_ended_by_the_first_pass() {
    let server = start_server(Kind::PostgresNewest).await;
    let orders = Postgres::connect("orders", &server.url());
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let gtrids = orphans(&orders, &log).await;
    let url = server.url();
    let plant = move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        for gtrid in gtrids {
            let prepare = format!("BEGIN; PREPARE TRANSACTION 'unanimous:{gtrid}:orders'");
            client.batch_execute(&prepare).unwrap();
        }
    };
    tokio::task::spawn_blocking(plant).await.unwrap();
    assert_eq!(recover(&orders, &log).await, count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_hundreds_of_branches_in_mysql_are_ended_by_the_first_pass() {
    let server = start_server(Kind::Mysql).await;
    let ledger = Mysql::connect("ledger", &server.url());
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let gtrids = orphans(&ledger, &log).await;
    let opts = mysql_async::Opts::from_url(&server.url()).unwrap();
    let opts = mysql_async::OptsBuilder::from_opts(opts).prefer_socket(false);
    let mut conn = mysql_async::Conn::new(opts).await.unwrap();
    for gtrid in gtrids {
        let xid = format!("'{gtrid}','ledger',{}", 0x554E_414E);
        let prepare = format!("XA START {xid}; XA END {xid}; XA PREPARE {xid}");
        conn.query_drop(prepare).await.unwrap();
    }
    assert_eq!(recover(&ledger, &log).await, count());
}
