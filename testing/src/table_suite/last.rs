//! A branch in the table's own database that brings its decision's row with it.

use std::time::Duration;

use tokio::task::JoinHandle;
use unanimous_core::ports::{DecisionRow, OnePhaseReply, RowState, SLOTS, TableErrorKind};

use super::{PENDING, Place, Suite, assert_kind, row, slot, texts, until_answered};

/// Commits a branch with the row, in this slot, and asserts that all of it is there or nothing.
async fn commit_last<P: Place>(suite: &Suite<'_, P>, number: u32, row: &DecisionRow) -> bool {
    let key = format!("last-{:x}", super::random());
    let mut branch = suite.place.branch(row.gtrid, &key).await;
    let statement = suite.table.last_statement(slot(suite.own, number), row);
    let committed = match branch.commit_last(&statement).await {
        OnePhaseReply::Committed => true,
        OnePhaseReply::RolledBack(_) => false,
        OnePhaseReply::Undetermined(error) => panic!("the server was there: {error}"),
    };
    branch.release().await;
    let row_of_branch = suite.place.is_committed(&key).await;
    assert_eq!(row_of_branch, committed, "the application's row");
    committed
}

/// By which the manager knows that it can be a last resource.
pub async fn a_branch_in_this_database_has_its_scope<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let mut branch = place.branch(suite.own.gtrid(1), "scope").await;
    let state = suite.table.check().await.expect("the tables are there");
    assert_eq!(branch.scope(), state.scope);
    branch
        .rollback()
        .await
        .expect("an active branch rolls back");
    branch.release().await;
}

/// In every slot.
pub async fn the_row_commits_with_the_branch<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows: Vec<_> = (0..u64::from(SLOTS)).map(|n| suite.row(n)).collect();
    for (number, row) in (0..).zip(&rows) {
        assert!(commit_last(&suite, number, row).await);
        let found = suite.find(row.gtrid).await.row;
        assert_eq!(found, Some((RowState::Pending, row.branches.clone())));
        let answers = suite.decide(std::slice::from_ref(row)).await;
        assert_eq!(answers, [PENDING], "as if it had been decided");
    }
    assert_eq!(suite.pending().await, rows);
}

/// By hand, or because its connection is closed; then the key is free.
pub async fn the_row_is_rolled_back_with_the_branch<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let row = suite.row(1);
    let statement = suite.table.last_statement(slot(suite.own, 3), &row);
    for is_dropped in [false, true] {
        let held = place.hold(&statement).await.expect("the statement runs");
        if is_dropped {
            drop(held);
        } else {
            held.rollback().await;
            assert_eq!(suite.find(row.gtrid).await.row, None);
        }
    }
    // A server may take a while to notice that a connection is gone.
    let put = until_answered(|| suite.table.put_rollback(row.gtrid)).await;
    assert_eq!(put.expect("the key is free"), RowState::RolledBack);
    suite.close(suite.own.epoch).await;
    assert_eq!(suite.pending().await, []);
}

/// Whatever stands in it.
pub async fn the_row_comes_back_exactly<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    for (sequence, branches) in (0..).zip(texts()) {
        let gtrid = suite.own.gtrid(sequence);
        let row = DecisionRow { gtrid, branches };
        assert!(commit_last(&suite, 0, &row).await, "{:.80?}", row.branches);
        let found = suite.find(gtrid).await.row;
        assert_eq!(found, Some((RowState::Pending, row.branches)));
    }
}

/// Nothing of it is left, in whatever slot; nor once the epoch is released.
pub async fn a_closed_epoch_rolls_the_branch_back<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    suite.close(suite.own.epoch).await;
    for number in 0..SLOTS {
        let row = suite.row(number.into());
        assert!(!commit_last(&suite, number, &row).await, "slot {number}");
        assert_eq!(suite.find(row.gtrid).await.row, None);
    }
    let released = suite.table.release(suite.own.epoch).await;
    released.expect("a closed epoch can be released");
    assert!(!commit_last(&suite, 0, &suite.row(1)).await);
    assert_eq!(suite.pending().await, []);
}

/// Nothing was there to be locked.
pub async fn a_slot_that_is_not_there_rolls_the_branch_back<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let row = suite.row(1);
    assert!(!commit_last(&suite, SLOTS, &row).await);
    assert_eq!(suite.find(row.gtrid).await.row, None);
    let decided = suite
        .table
        .decide(slot(suite.own, SLOTS), None, &[row])
        .await;
    assert_kind(decided, TableErrorKind::Unfit);
}

/// A decision, a completed one, a refusal: none is written over, and the branch does not commit.
pub async fn a_standing_row_rolls_the_branch_back<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    let states = [RowState::Pending, RowState::Completed, RowState::RolledBack];
    for (row, state) in rows.iter().zip(states) {
        let mut other = row.clone();
        other.branches = "other".into();
        assert!(!commit_last(&suite, 0, &other).await, "{state:?}");
        assert_eq!(suite.state(row.gtrid).await, Some(state));
    }
    assert_eq!(suite.pending().await, rows[..1], "as it was decided");
    assert!(commit_last(&suite, 0, &rows[3]).await, "no row: it commits");
    assert!(!commit_last(&suite, 0, &rows[3]).await, "and only once");
}

/// Gives a task that must not end some time to do so.
async fn assert_waits<R>(task: &JoinHandle<R>) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!task.is_finished(), "it does not wait");
}

/// A commit that runs on after its connection is gone still finds the epoch open.
pub async fn closing_waits_for_a_last_resource<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    for commits in [true, false] {
        let opening = suite.join().await;
        let row = row(opening, 1);
        let statement = suite.table.last_statement(slot(opening, 5), &row);
        let held = place.hold(&statement).await.expect("the statement runs");
        let table = place.table();
        let closing =
            tokio::spawn(async move { until_answered(|| table.close(opening.epoch)).await });
        assert_waits(&closing).await;
        if commits {
            held.commit().await;
        } else {
            held.rollback().await;
        }
        let closed = closing.await.expect("no panic");
        closed.expect("it can be closed now");
        let state = commits.then_some(RowState::Pending);
        assert_eq!(suite.state(row.gtrid).await, state);
        assert!(suite.opening(opening.epoch).await.is_closed);
    }
}

/// It answers what became of it, and is never beside it.
pub async fn a_refusal_waits_for_a_last_resource<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    for (sequence, commits) in [(1, true), (2, false)] {
        let row = suite.row(sequence);
        let statement = suite.table.last_statement(slot(suite.own, 1), &row);
        let held = place.hold(&statement).await.expect("the statement runs");
        let (table, gtrid) = (place.table(), row.gtrid);
        let putting =
            tokio::spawn(async move { until_answered(|| table.put_rollback(gtrid)).await });
        assert_waits(&putting).await;
        let state = if commits {
            held.commit().await;
            RowState::Pending
        } else {
            held.rollback().await;
            RowState::RolledBack
        };
        let put = putting.await.expect("no panic");
        assert_eq!(put.expect("it can be put now"), state);
        assert_eq!(suite.state(row.gtrid).await, Some(state));
        assert!(!commit_last(&suite, 1, &row).await, "a row stands");
    }
}

/// The row is the one or the other's.
pub async fn a_decision_waits_for_a_last_resource<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    for (sequence, commits) in [(1, true), (2, false)] {
        let row = suite.row(sequence);
        let at = slot(suite.own, 2);
        let statement = suite.table.last_statement(at, &row);
        let held = place.hold(&statement).await.expect("the statement runs");
        let (table, mut other) = (place.table(), row.clone());
        other.branches = "other".into();
        let deciding = tokio::spawn(async move {
            let rows = std::slice::from_ref(&other);
            until_answered(|| table.decide(at, None, rows)).await
        });
        assert_waits(&deciding).await;
        let branches = if commits {
            held.commit().await;
            row.branches
        } else {
            held.rollback().await;
            "other".into()
        };
        let decided = deciding.await.expect("no panic");
        assert_eq!(decided.expect("it answers").answers, [PENDING]);
        let found = suite.find(row.gtrid).await.row;
        assert_eq!(found, Some((RowState::Pending, branches)));
    }
}

/// Whatever is asked while it holds its locks, but for its own key and the end of its own epoch.
pub async fn a_stuck_last_resource_holds_up_nobody_else<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    let (other, at) = (suite.join().await, slot(suite.own, 0));
    let stuck = suite.row(1000);
    let statement = suite.table.last_statement(at, &stuck);
    let held = place.hold(&statement).await.expect("the statement runs");
    let table = place.table();
    // Each in one attempt: no lock is in its way.
    let neighbours = [suite.row(999), suite.row(1001), suite.row(u64::MAX)];
    let decided = table.decide(at, None, &neighbours).await;
    assert_eq!(decided.expect("no lock").answers, [PENDING; 3]);
    assert!(commit_last(&suite, 0, &suite.row(1002)).await);
    let put = table.put_rollback(suite.own.gtrid(998)).await;
    assert_eq!(put.expect("no lock"), RowState::RolledBack);
    table.complete(&[rows[0].gtrid]).await.expect("no lock");
    table.forget(&[rows[1].gtrid]).await.expect("no lock");
    table.beat(suite.own.epoch).await.expect("no lock");
    assert_eq!(suite.decide(&[row(other, 1)]).await, [PENDING]);
    table.close(other.epoch).await.expect("no lock");
    table.release(other.epoch).await.expect("no lock");
    let joined = suite.join().await;
    assert_eq!(suite.decide(&[row(joined, 1)]).await, [PENDING]);
    assert_eq!(suite.find(stuck.gtrid).await.row, None, "not yet");
    assert_eq!(suite.pending().await.len(), 6);
    held.commit().await;
    assert_eq!(suite.state(stuck.gtrid).await, Some(RowState::Pending));
}
