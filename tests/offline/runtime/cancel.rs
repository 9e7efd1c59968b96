//! I7: dropping any future at any await point is safe. I8: nothing leaks.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use unanimous::TransactionOutcome;
use unanimous_testing::Step;

use super::{World, eventually, write_both};

/// Polls once and drops.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn i7_a_dropped_transaction_is_rolled_back_everywhere() {
    let world = World::new();
    let tm = world.start().await;
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    drop(tx);
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::RolledBack
    );
    assert_eq!(
        world.orders.server().idle_sessions(),
        1,
        "a confirmed rollback keeps the session"
    );
}

#[tokio::test]
async fn i7_dropping_the_future_of_commit_changes_nothing() {
    let world = World::new();
    let tm = world.start().await;
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    assert!(poll_once(tx.commit()).is_pending());
    world.settle().await;
    eventually("it is committed all the same", || {
        world.rows() == World::both("1")
    })
    .await;
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::Committed
    );
}

#[tokio::test]
async fn i7_a_commit_whose_future_was_never_polled_is_a_rollback() {
    let world = World::new();
    let tm = world.start().await;
    let tx = world.begin_with_both(&tm, "1").await;
    drop(tx.commit());
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn i7_a_dropped_enlist_leaves_no_session_and_can_be_repeated() {
    let world = World::new();
    let tm = world.start().await;
    let hang = world.ledger.server().hang_next(Step::Open);
    let mut tx = tm.begin();
    let enlisting = tx.enlist((&world.orders, &world.ledger));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), enlisting)
            .await
            .is_err()
    );
    hang.release();
    write_both(
        tx.enlist((&world.orders, &world.ledger)).await.unwrap(),
        "1",
    );
    tx.commit().await.unwrap();
    assert_eq!(world.rows(), World::both("1"));
    world.settle().await;
}

#[tokio::test]
async fn i7_dropping_the_future_of_rollback_changes_nothing() {
    let world = World::new();
    let tm = world.start().await;
    let tx = world.begin_with_both(&tm, "1").await;
    let _ = poll_once(tx.rollback());
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn i8_a_branch_in_doubt_never_gives_its_session_back() {
    let world = World::new();
    let tm = world.start().await;
    let hang = world.orders.server().hang_next(Step::Commit);
    let tx = world.begin_with_both(&tm, "1").await;
    let committed = tx.commit().await.unwrap();
    assert_eq!(committed.unfinished().len(), 1);
    assert_eq!(world.orders.server().idle_sessions(), 0);
    hang.release();
    committed.completed().await.unwrap();
    world.settle().await;
}
