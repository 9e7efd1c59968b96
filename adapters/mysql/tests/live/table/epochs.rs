//! Epochs: joined, decided under and closed at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;

use unanimous_core::ports::{DOUBTFUL, ELSEWHERE, RowAnswer, SLOTS, TableErrorKind, TableHome};

use super::support::{PENDING, TableDb, assert_error};
use crate::support::Db;

/// Both want 1 + max: one waits for the other, and sees what it has done.
async fn two_joins_at_once_get_epochs_of_their_own(db: &Db) {
    let t = TableDb::new(db).await;
    let mut holder = t.held("SELECT 1 FROM unanimous_log FOR UPDATE").await;
    let mut joining = Vec::new();
    for random in 0..4 {
        let table = t.db.build(|builder| builder).decision_table();
        joining.push(tokio::spawn(async move { table.join(random, "one").await }));
    }
    t.waiters(4).await;
    unanimous_mysql::prelude::Queryable::query_drop(&mut holder, "ROLLBACK")
        .await
        .unwrap();
    let mut epochs = BTreeSet::new();
    for joined in joining {
        epochs.insert(joined.await.unwrap().unwrap().opening.epoch.0);
    }
    assert_eq!(epochs, (2..6).collect());
    let slots = t.count("unanimous_epoch WHERE closed = 0").await;
    assert_eq!(slots, 5 * u64::from(SLOTS));
    t.drop_database().await;
}

/// A server that was given another one's data has its identity all the same.
async fn i1_what_another_server_has_closed_is_of_none_for_good(db: &Db) {
    let t = TableDb::new(db).await;
    let here = t.table.join(7, "another").await.unwrap();
    let (gone, doubtful) = (t.own.opening, t.table.join(8, "third").await.unwrap());
    for (epoch, identity) in [(gone.epoch, "gone"), (doubtful.opening.epoch, DOUBTFUL)] {
        let sql = "UPDATE unanimous_opening SET identity =";
        t.db.sql(&format!("{sql} '{identity}' WHERE epoch = {epoch}"))
            .await;
    }
    for (opening, identity) in [
        (here.opening, here.identity.as_str()),
        (gone, &format!("{ELSEWHERE}gone")),
        (doubtful.opening, DOUBTFUL),
    ] {
        for _ in 0..2 {
            t.table.close(opening.epoch).await.unwrap();
            let found = t.table.find(opening.gtrid(1), None).await.unwrap();
            let row = found.opening.unwrap();
            assert_eq!((row.identity.as_str(), row.is_closed), (identity, true));
        }
    }
    t.drop_database().await;
}

/// The close waits for the decision that holds a slot, and the decision is there.
async fn a_close_waits_for_a_decision_in_flight(db: &Db) {
    let t = Arc::new(TableDb::new(db).await);
    let (first, epoch) = (t.row(1), t.own.opening.epoch);
    // Holds the key of a decision, which then waits with its slot locked.
    let holder = t
        .held(&format!(
            "INSERT INTO unanimous_decision (gtrid, epoch, state, branches) \
             VALUES ('{}', 1, 'C', '')",
            first.gtrid
        ))
        .await;
    let deciding = tokio::spawn({
        let t = Arc::clone(&t);
        async move { t.decide(&[1, 2]).await }
    });
    t.waiters(1).await;
    let closing = tokio::spawn({
        let t = Arc::clone(&t);
        async move { t.table.close(epoch).await }
    });
    t.waiters(2).await;
    drop(holder);
    let decided = deciding.await.unwrap().unwrap();
    assert_eq!(decided.answers, [PENDING, PENDING]);
    closing.await.unwrap().unwrap();
    assert_eq!(t.state(first.gtrid).await.as_deref(), Some("C"));
    let again = t.decide(&[1, 3]).await.unwrap();
    assert_eq!(again.answers, [PENDING, RowAnswer::EpochClosed]);
    t.drop_database().await;
}

/// The decision waits for the close, and reads what it has written: its sessions do not have the
/// servers' default isolation.
async fn a_decision_waits_for_a_close_in_flight(db: &Db) {
    let t = TableDb::new(db).await;
    for commits in [false, true] {
        let own = t.table.join(7, "another").await.unwrap().opening;
        let epoch = own.epoch;
        let close = format!("UPDATE unanimous_epoch SET closed = 1 WHERE epoch = {epoch}");
        let mut closer = t.held(&close).await;
        let at = unanimous_core::ports::EpochSlot { epoch, slot: 7 };
        let row = unanimous_core::ports::DecisionRow {
            gtrid: own.gtrid(1),
            branches: String::new(),
        };
        let table = Arc::clone(&t.table);
        let deciding = tokio::spawn(async move { table.decide(at, None, &[row]).await });
        t.waiters(1).await;
        let (end, expected) = if commits {
            ("COMMIT", RowAnswer::EpochClosed)
        } else {
            ("ROLLBACK", PENDING)
        };
        unanimous_mysql::prelude::Queryable::query_drop(&mut closer, end)
            .await
            .unwrap();
        let answers = deciding.await.unwrap().unwrap().answers;
        assert_eq!(answers, [expected], "{end}");
    }
    t.drop_database().await;
}

/// Refused, and the pooled session holds nothing of it: neither locks nor a transaction.
async fn what_waits_too_long_is_refused_and_leaves_nothing_open(db: &Db) {
    let mut t = TableDb::new(db).await;
    t.table =
        t.db.build(|builder| builder.recovery_sessions(1))
            .decision_table();
    let (own, key) = (t.own.opening.epoch, t.row(2).gtrid);
    let holder = t
        .held(&format!(
            "SELECT 1 FROM unanimous_epoch WHERE epoch = {own} AND slot = 7 LOCK IN SHARE MODE; \
             INSERT INTO unanimous_decision (gtrid, epoch, state, branches) \
             VALUES ('{key}', 1, 'C', '')"
        ))
        .await;
    let says = ["a lock was not free in time", "own_"];
    // Has inserted the first row when it meets the second.
    assert_error(t.decide(&[1, 2]).await, TableErrorKind::Busy, &says);
    let first = t.row(1).gtrid;
    let put = format!(
        "INSERT INTO unanimous_decision (gtrid, epoch, state, branches) \
         VALUES ('{first}', 1, 'C', ''); \
         SELECT 1 FROM unanimous_epoch WHERE epoch = {own} AND slot = 3 FOR UPDATE"
    );
    t.assert_free(&put).await;
    let put = t.table.put_rollback(key).await;
    assert_error(put, TableErrorKind::Busy, &says);
    // Has locked the first slots when it meets the last.
    let closed = t.table.close(own).await;
    assert_error(closed, TableErrorKind::Busy, &says);
    let slot = format!("SELECT 1 FROM unanimous_epoch WHERE epoch = {own} AND slot = 0 FOR UPDATE");
    t.assert_free(&slot).await;
    assert_eq!(t.decide(&[1]).await.unwrap().answers, [PENDING]);
    drop(holder);
    t.table.close(own).await.unwrap();
    t.drop_database().await;
}

/// Two decisions whose rows are in opposite orders do not meet in a deadlock.
async fn batches_that_overlap_are_locked_in_one_order(db: &Db) {
    let t = Arc::new(TableDb::new(db).await);
    let mut running = tokio::task::JoinSet::new();
    for turn in 0..24_u64 {
        let t = Arc::clone(&t);
        running.spawn(async move {
            let mut sequences: Vec<_> = (0..40).map(|n| 100 + n + turn / 2).collect();
            if turn % 2 == 0 {
                sequences.reverse();
            }
            t.decide(&sequences).await
        });
    }
    for decided in running.join_all().await {
        assert!(decided.unwrap().answers.iter().all(|a| *a == PENDING));
    }
    t.drop_database().await;
}

on_both!(
    two_joins_at_once_get_epochs_of_their_own,
    a_close_waits_for_a_decision_in_flight,
    a_decision_waits_for_a_close_in_flight,
    what_waits_too_long_is_refused_and_leaves_nothing_open,
    batches_that_overlap_are_locked_in_one_order,
    i1_what_another_server_has_closed_is_of_none_for_good,
);
