//! I4, I6: a thousand prepared transactions of others, and beside them branches of ours in doubt,
//! some decided and some not. Recovery ends ours, all of them and nothing else; those of the others
//! are the same afterwards, byte for byte, to a client that knows nothing of Unanimous; and new
//! transactions commit meanwhile.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::Barrier;
use unanimous::{
    Gtrid, LeaveReason, Left, Point, Probe, RecoveryReport, ResourceName, TransactionManager,
};
use unanimous_testing::{Wire, WireFault};
use xtask::servers::Kind;

use super::names::{Near, Whose};
use super::others::{Others, listed, prepare_xid};
use super::torn::torn_scans;
use super::{create, ids, room_for_them, start, table_on};
use crate::support::{Account, Bank, Db, Transfer, eventually, table};
use crate::with_banks;

const OTHERS: usize = 1000;
pub(super) const DECIDED: usize = 5;
pub(super) const ORPHANS: usize = 5;
const NEW: usize = 40;

/// Cuts the wire once so many transactions have been decided.
struct CutWhenAllAreDecided(Arc<Wire>, Barrier);

#[async_trait]
impl Probe for CutWhenAllAreDecided {
    async fn reached(&self, point: Point) {
        if point == Point::DecisionDurable {
            self.1.wait().await;
            self.0.set(WireFault::Down);
        }
    }
}

pub(super) fn orders() -> ResourceName {
    "orders".parse().unwrap()
}

/// Inserts the same number on both sides.
async fn insert<A: Bank, B: Bank>(
    transfer: &Transfer<A, B>,
    tm: &TransactionManager,
    id: usize,
) -> unanimous::Transaction {
    let mut tx = tm.begin();
    let (from, to) = tx.enlist((&transfer.from, &transfer.to)).await.unwrap();
    let sql = |table: &str| format!("INSERT INTO {table} VALUES ({id})");
    let (from_sql, to_sql) = (sql(&transfer.from_table), sql(&transfer.to_table));
    let (from, to) = tokio::join!(A::run(from, &from_sql), B::run(to, &to_sql));
    from.unwrap();
    to.unwrap();
    tx
}

/// Leaves branches at the first server: of transactions that were decided, which are committed on
/// the other side already, and of some that were not. Their rows are numbered from `first` on.
pub(super) async fn leave_in_doubt<A: Bank, B: Bank>(
    from: &Account,
    to: &Account,
    log: &Path,
    first: usize,
) -> Vec<Gtrid> {
    let (wire, url) = Wire::between(&from.url).await.unwrap();
    let through = Account {
        url,
        ..from.clone()
    };
    let transfer = Transfer::<A, B>::new(&through, to);
    let wire = Arc::new(wire);
    let probe = CutWhenAllAreDecided(Arc::clone(&wire), Barrier::new(DECIDED));
    let builder = transfer.builder(log).probe(Arc::new(probe));
    let tm = builder.start().await.unwrap();
    let mut transactions = Vec::new();
    for id in first..first + DECIDED {
        transactions.push(insert(&transfer, &tm, id).await);
    }
    let mut gtrids: Vec<Gtrid> = transactions.iter().map(|tx| tx.gtrid()).collect();
    let commits = transactions.into_iter().map(|tx| tx.commit());
    for committed in futures_util::future::join_all(commits).await {
        assert_eq!(committed.unwrap().unfinished(), [orders()]);
    }
    for id in first + DECIDED..first + DECIDED + ORPHANS {
        let gtrid = tm.begin().gtrid();
        orphan(from, gtrid, id).await;
        gtrids.push(gtrid);
    }
    tm.shutdown().await.unwrap();
    gtrids
}

/// As a process leaves it that has died between prepare and decision.
async fn orphan(at: &Account, gtrid: Gtrid, id: usize) {
    let insert = format!("INSERT INTO {} VALUES ({id})", at.table);
    if at.is_postgres {
        let prepare = format!("PREPARE TRANSACTION 'unanimous:{gtrid}:orders'");
        at.sql(&format!("BEGIN; {insert}; {prepare}")).await;
    } else {
        let xid = format!("'{gtrid}','orders',{}", 0x554E_414E);
        prepare_xid(at, &xid, &insert).await;
    }
}

/// A pass leaves those of others where they are, and says rightly whose they are.
fn check_others(report: &RecoveryReport, others: &Others) {
    let mut resources = report.resources.iter();
    let at = resources.find(|at| at.resource == orders()).unwrap();
    assert!(at.error.is_none(), "{report}");
    let left = |wanted: LeaveReason| {
        let left = at.left.iter();
        left.filter(|(_, left)| *left == Left::Plan(wanted)).count()
    };
    let (of_managers, unlisted) = (
        others.count(Whose::OtherManager),
        others.count(Whose::Unlisted),
    );
    assert_eq!(left(LeaveReason::OtherManager), of_managers);
    assert_eq!(left(LeaveReason::UnlistedOpening), unlisted);
    assert_eq!(at.foreign.len(), others.count(Whose::Foreign));
    if let Some(texts) = others.foreign_texts() {
        assert_eq!(at.foreign.iter().cloned().collect::<BTreeSet<_>>(), texts);
    }
}

async fn beside_a_thousand_others<A: Bank, B: Bank>(from: &Account, to: &Account) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let gtrids = leave_in_doubt::<A, B>(from, to, &log, 0).await;
    let planting = Instant::now();
    let others = Others::plant(from, &Near::to(gtrids[0]), OTHERS).await;
    let (ours, before) = listed(from, &gtrids).await;
    assert_eq!(ours.len(), DECIDED + ORPHANS);
    others.assert_are(&before);
    println!("{OTHERS} of others planted in {:?}", planting.elapsed());

    let transfer = Transfer::<A, B>::new(from, to);
    let begin = Instant::now();
    let tm = transfer.builder(&log).start().await.unwrap();
    println!("started in {:?}: {}", begin.elapsed(), tm.start_report());
    let new = (0..NEW).map(|number| insert_and_commit(&transfer, &tm, 1000 + number));
    let new = futures_util::stream::iter(new).buffer_unordered(8);
    let passes = async {
        for _ in 0..5 {
            let begin = Instant::now();
            check_others(&tm.recover().await, &others);
            println!("a pass beside them: {:?}", begin.elapsed());
        }
    };
    tokio::join!(new.collect::<Vec<_>>(), passes);
    eventually("ours are ended", || async {
        listed(from, &gtrids).await.0.is_empty()
    })
    .await;
    let committed = (0..DECIDED).chain(1000..1000 + NEW);
    let committed: BTreeSet<i64> = committed.map(|id| id as i64).collect();
    assert_eq!(ids(from).await, committed);
    assert_eq!(ids(to).await, committed);
    let report = tm.recover().await;
    let ended = report
        .resources
        .iter()
        .map(|at| at.committed + at.rolled_back);
    assert_eq!(ended.sum::<usize>(), 0, "{report}");
    check_others(&report, &others);
    tm.shutdown().await.unwrap();
    let (_, after) = listed(from, &gtrids).await;
    assert!(before == after, "something of others was touched");
}

async fn insert_and_commit<A: Bank, B: Bank>(
    transfer: &Transfer<A, B>,
    tm: &TransactionManager,
    id: usize,
) {
    let tx = insert(transfer, tm, id).await;
    let committed = tx.commit().await.unwrap();
    assert!(committed.unfinished().is_empty());
}

async fn on(kind: Kind, other: Db) {
    let server = start(kind, room_for_them(kind)).await;
    let name = table("crowd");
    let from = table_on(&server, &name).await;
    let to = Account::at(other, &name);
    to.sql(&create(&name)).await;
    with_banks!((from, to), beside_a_thousand_others(&from, &to));
    with_banks!((from, to), torn_scans(&from, &to));
    to.drop_table().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_thousand_of_others_in_postgresql_15_stay_as_they_are() {
    on(Kind::Postgres15, Db::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_thousand_of_others_in_the_newest_postgresql_stay_as_they_are() {
    on(Kind::PostgresNewest, Db::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_thousand_of_others_in_mysql_stay_as_they_are() {
    on(Kind::Mysql, Db::Postgres15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_thousand_of_others_in_mariadb_stay_as_they_are() {
    on(Kind::Mariadb, Db::PostgresNewest).await;
}
