//! `PREPARE TRANSACTION` and `COMMIT` answer success where nothing was prepared or committed. Every
//! such situation is a rollback vote here, and leaves nothing prepared.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use unanimous_core::ports::{Branch, Cause, OnePhaseReply};
use unanimous_postgres::{PgBranch, bytes};

use crate::support::{Db, expect_cause, expect_prepared};

/// Both ways to commit see the same: prepare on branch 1, one phase on branch 2.
async fn assert_refused(db: &Db, spoil: impl AsyncFn(&PgBranch), words: &str) {
    let mut branch = db.open_with_row(1).await;
    spoil(&branch).await;
    let error = expect_cause(branch.prepare().await, Cause::RollbackOnly);
    assert!(error.to_string().contains(words), "{error}");
    assert!(!db.is_prepared(1).await);
    Box::new(branch).release().await;

    let mut branch = db.open_with_row(2).await;
    spoil(&branch).await;
    match branch.commit_one_phase().await {
        OnePhaseReply::RolledBack(error) => {
            assert!(error.to_string().contains(words), "{error}");
        }
        other => panic!("not rolled back: {other:?}"),
    }
    Box::new(branch).release().await;
}

const FAILED_EARLIER: &str = "a statement failed earlier";
const ENDED_ITSELF: &str = "ended this branch's transaction itself";

async fn a_failed_block_votes_to_roll_back(db: &Db) {
    let fail = async |branch: &PgBranch| {
        branch.batch_execute("SELECT 1/0").await.unwrap_err();
    };
    assert_refused(db, fail, FAILED_EARLIER).await;
    db.assert_nothing_of(1).await;
    db.assert_nothing_of(2).await;
}

async fn a_rollback_by_the_application_votes_to_roll_back(db: &Db) {
    let end = async |branch: &PgBranch| branch.batch_execute("ROLLBACK").await.unwrap();
    assert_refused(db, end, ENDED_ITSELF).await;
    db.assert_nothing_of(1).await;
    db.assert_nothing_of(2).await;
}

async fn a_rollback_and_a_new_begin_vote_to_roll_back(db: &Db) {
    let end = async |branch: &PgBranch| {
        branch.batch_execute("ROLLBACK").await.unwrap();
        branch.batch_execute("BEGIN").await.unwrap();
        let insert = format!("INSERT INTO {} VALUES (77, 'other')", db.table);
        branch.batch_execute(&insert).await.unwrap();
    };
    assert_refused(db, end, ENDED_ITSELF).await;
    db.assert_nothing_of(1).await;
    assert!(!db.has_row(77).await, "another transaction was committed");
}

async fn a_commit_by_the_application_is_told_and_nothing_is_prepared(db: &Db) {
    let end = async |branch: &PgBranch| branch.batch_execute("COMMIT").await.unwrap();
    assert_refused(db, end, "what it committed stays committed").await;
    assert!(db.has_row(1).await, "the application committed it itself");
}

async fn a_chained_commit_does_not_prepare_the_next_transaction(db: &Db) {
    let end = async |branch: &PgBranch| branch.batch_execute("COMMIT AND CHAIN").await.unwrap();
    assert_refused(db, end, ENDED_ITSELF).await;
}

async fn a_chained_rollback_does_not_prepare_the_next_transaction(db: &Db) {
    let end = async |branch: &PgBranch| branch.batch_execute("ROLLBACK AND CHAIN").await.unwrap();
    assert_refused(db, end, ENDED_ITSELF).await;
    db.assert_nothing_of(1).await;
}

async fn a_marker_that_was_reset_votes_to_roll_back(db: &Db) {
    let reset = async |branch: &PgBranch| branch.batch_execute("RESET ALL").await.unwrap();
    assert_refused(db, reset, "RESET ALL").await;
    db.assert_nothing_of(1).await;
    db.assert_nothing_of(2).await;
}

/// What the marker cannot catch, the savepoint does: here the application has kept the marker for
/// the session and left the block.
async fn a_marker_kept_outside_a_block_does_not_help(db: &Db) {
    let end = async |branch: &PgBranch| {
        let keep = "SELECT set_config('unanimous.xid', current_setting('unanimous.xid'), false)";
        branch.batch_execute(keep).await.unwrap();
        branch.batch_execute("COMMIT").await.unwrap();
    };
    let mut branch = db.open_with_row(1).await;
    end(&branch).await;
    let error = expect_cause(branch.prepare().await, Cause::Refused);
    assert!(error.to_string().contains("25P01"), "{error}");
    assert!(!db.is_prepared(1).await);

    let mut branch = db.open_with_row(2).await;
    end(&branch).await;
    let reply = branch.commit_one_phase().await;
    assert!(matches!(reply, OnePhaseReply::RolledBack(_)), "{reply:?}");
}

/// Outside a block, `PREPARE TRANSACTION` in a string of several statements would prepare the
/// implicit transaction of that string.
async fn an_implicit_block_is_not_prepared(db: &Db) {
    let end = async |branch: &PgBranch| {
        // Leaves the block by an error inside a chain, not by a word of the driver.
        let _ = branch.batch_execute("COMMIT; SELECT 1/0").await;
    };
    assert_refused(db, end, ENDED_ITSELF).await;
    assert!(!db.is_prepared(1).await);
}

async fn a_failing_statement_whose_future_was_dropped_is_not_overlooked(db: &Db) {
    let drop_it = async |branch: &PgBranch| {
        let mut failing = pin!(branch.batch_execute("SELECT pg_sleep(1); SELECT 1/0"));
        // Polled once, it is on its way.
        poll_fn(|cx| {
            assert!(failing.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    };
    assert_refused(db, drop_it, FAILED_EARLIER).await;
    db.assert_nothing_of(1).await;
    db.assert_nothing_of(2).await;
}

async fn an_error_hidden_in_a_dropped_row_stream_is_not_overlooked(db: &Db) {
    let half_read = async |branch: &PgBranch| {
        // The last row divides by zero; it is behind more rows than fit into any buffer.
        let rows = "SELECT 1000 / (200000 - i), repeat('x', 100) FROM generate_series(1, 200000) i";
        let mut rows = branch
            .query_raw(rows, std::iter::empty::<i32>())
            .await
            .unwrap();
        rows.next().await.unwrap().unwrap();
    };
    assert_refused(db, half_read, FAILED_EARLIER).await;
    db.assert_nothing_of(1).await;
    db.assert_nothing_of(2).await;
}

async fn a_copy_that_was_not_finished_votes_to_roll_back(db: &Db) {
    let copy = async |branch: &PgBranch| {
        let text = format!("COPY {} FROM STDIN", db.table);
        let mut sink = branch.copy_in(&text).await.unwrap();
        sink.send(Bytes::from_static(b"78\tcopied\n"))
            .await
            .unwrap();
    };
    assert_refused(db, copy, FAILED_EARLIER).await;
    assert!(!db.has_row(78).await);
    db.assert_nothing_of(1).await;
}

async fn savepoints_and_copies_of_the_application_do_not_disturb_the_guard(db: &Db) {
    let mut branch = db.open(1).await;
    branch.batch_execute("SAVEPOINT a; SELECT 1").await.unwrap();
    branch.batch_execute("SELECT 1/0").await.unwrap_err();
    branch.batch_execute("ROLLBACK TO a").await.unwrap();
    branch
        .batch_execute("SAVEPOINT unanimous_guard")
        .await
        .unwrap();
    let text = format!("COPY {} FROM STDIN", db.table);
    let mut sink = branch.copy_in(&text).await.unwrap();
    sink.send(Bytes::from_static(b"1\tcopied\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 1);
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has_row(1).await);
}

on_both!(
    a_failed_block_votes_to_roll_back,
    a_rollback_by_the_application_votes_to_roll_back,
    a_rollback_and_a_new_begin_vote_to_roll_back,
    a_commit_by_the_application_is_told_and_nothing_is_prepared,
    a_chained_commit_does_not_prepare_the_next_transaction,
    a_chained_rollback_does_not_prepare_the_next_transaction,
    a_marker_that_was_reset_votes_to_roll_back,
    a_marker_kept_outside_a_block_does_not_help,
    an_implicit_block_is_not_prepared,
    a_failing_statement_whose_future_was_dropped_is_not_overlooked,
    an_error_hidden_in_a_dropped_row_stream_is_not_overlooked,
    a_copy_that_was_not_finished_votes_to_roll_back,
    savepoints_and_copies_of_the_application_do_not_disturb_the_guard,
);
