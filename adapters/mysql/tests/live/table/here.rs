//! What is recorded for good: whoever else is at the log, and never in one that was moved away.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use unanimous_core::ports::{HandRow, NotedEnd, TableError, TableErrorKind, TableMove, TableMoves};
use unanimous_core::xid::{Gtrid, ResourceName};
use unanimous_mysql::mysql_async::Conn;

use super::support::{TableDb, assert_error};
use crate::support::{Db, random};

fn orders() -> ResourceName {
    "orders".parse().unwrap()
}

fn by_hand(gtrid: Gtrid) -> HandRow {
    HandRow {
        id: 1,
        gtrid,
        resource: orders(),
        state: 'I',
        words: "commit|1|somebody|a reason".to_owned(),
    }
}

type Task<T> = JoinHandle<Result<T, TableError>>;

impl TableDb {
    fn moves(&self) -> Arc<dyn TableMove> {
        self.db.resource.table_move()
    }

    fn noting(&self) -> Task<()> {
        let (table, gtrid) = (Arc::clone(&self.table), self.row(1).gtrid);
        tokio::spawn(async move { table.record_heuristic(gtrid, &orders(), 'r').await })
    }

    /// Whoever notes a heuristic end is on its way, up to its row.
    async fn noting_and_held(&self) -> (Task<()>, Conn) {
        let insert = "INSERT INTO unanimous_heuristic (gtrid, resource, ended)";
        let gtrid = self.row(1).gtrid;
        let insert = format!("{insert} VALUES ('{gtrid}', 'orders', 'h')");
        let holder = self.held(&insert).await;
        let noting = self.noting();
        self.waiters(1).await;
        (noting, holder)
    }

    async fn noted(&self) -> Vec<NotedEnd> {
        self.moves().image().await.unwrap().0.heuristics
    }
}

/// A barrier holds the log's row, and whoever joins waits for it: a heuristic end waits for
/// neither.
async fn what_is_recorded_does_not_wait_behind_whoever_joins(db: &Db) {
    let t = TableDb::new(db).await;
    let shared = "SELECT 1 FROM unanimous_log LOCK IN SHARE MODE";
    let holder = t.held(shared).await;
    let table = Arc::clone(&t.table);
    let joining = tokio::spawn(async move { table.join(random(), "late").await });
    t.waiters(1).await;
    let gtrid = t.row(1).gtrid;
    let recording = async {
        t.table.record_heuristic(gtrid, &orders(), 'r').await?;
        t.table.record_by_hand(&by_hand(gtrid)).await
    };
    let recorded = tokio::time::timeout(Duration::from_secs(2), recording).await;
    recorded.expect("it waits").unwrap();
    assert!(!joining.is_finished());
    drop(holder);
    joining.await.unwrap().unwrap();
    let ends = t.table.ends(None).await.unwrap();
    assert_eq!((ends.heuristics.len(), ends.by_hand.len()), (1, 1));
    t.drop_database().await;
}

/// The epoch under which it is noted is not closed before it is there, and so nobody seals.
async fn i1_a_log_is_not_sealed_around_a_heuristic_end(db: &Db) {
    let t = TableDb::new(db).await;
    let (noting, holder) = t.noting_and_held().await;
    let (table, epoch) = (Arc::clone(&t.table), t.own.opening.epoch);
    let closing = tokio::spawn(async move { table.close(epoch).await });
    t.waiters(2).await;
    let sealed = t.moves().seal("there").await;
    assert_error(sealed, TableErrorKind::Unfit, &["an epoch is open"]);
    drop(holder);
    noting.await.unwrap().unwrap();
    closing.await.unwrap().unwrap();
    t.moves().seal("there").await.unwrap();
    assert_eq!(t.noted().await.len(), 1);
    t.drop_database().await;
}

/// Of a member whose epoch was closed, where no other is open.
async fn i1_without_an_open_epoch_a_seal_waits_for_a_heuristic_end(db: &Db) {
    let t = TableDb::new(db).await;
    t.table.close(t.own.opening.epoch).await.unwrap();
    let (noting, holder) = t.noting_and_held().await;
    let moves = t.moves();
    let sealing = tokio::spawn(async move { moves.seal("there").await });
    t.waiters(2).await;
    drop(holder);
    noting.await.unwrap().unwrap();
    sealing.await.unwrap().unwrap();
    assert_eq!(t.noted().await.len(), 1);
    let name = orders();
    let late = t.table.record_heuristic(t.row(2).gtrid, &name, 'r').await;
    let says = ["this log was moved to there"];
    assert_error(late, TableErrorKind::Unfit, &says);
    assert_eq!(t.noted().await.len(), 1);
    t.drop_database().await;
}

/// Nobody can tell then whether the log was moved: with an open epoch, and without.
async fn i3_a_log_without_its_row_is_an_error_to_whoever_records(db: &Db) {
    let t = TableDb::new(db).await;
    t.db.sql("DELETE FROM unanimous_log").await;
    for _ in 0..2 {
        let gtrid = t.row(1).gtrid;
        let says = ["unanimous_log has no row", "restore it from a backup"];
        let noted = t.table.record_heuristic(gtrid, &orders(), 'r').await;
        assert_error(noted, TableErrorKind::Unfit, &says);
        let recorded = t.table.record_by_hand(&by_hand(gtrid)).await;
        assert_error(recorded, TableErrorKind::Unfit, &says);
        t.table.close(t.own.opening.epoch).await.unwrap();
    }
    t.drop_database().await;
}

on_both!(
    what_is_recorded_does_not_wait_behind_whoever_joins,
    i1_a_log_is_not_sealed_around_a_heuristic_end,
    i1_without_an_open_epoch_a_seal_waits_for_a_heuristic_end,
    i3_a_log_without_its_row_is_an_error_to_whoever_records,
);
