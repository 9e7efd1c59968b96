//! The driver's ways: streams that block, futures that are dropped, cancels that come late.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use unanimous_core::ports::{Branch, BranchErrorKind, Cause, Resource};
use unanimous_postgres::PgBranch;

use crate::prepare::during_sleep;
use crate::support::{Db, backend_pid, eventually, expect_cause, expect_prepared};

/// Reached around the wrapper, a live stream blocks everything; the deadline closes the socket.
async fn a_live_row_stream_blocks_prepare_until_the_branch_is_dropped(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let client: &unanimous_postgres::tokio_postgres::Client = &branch;
    let many = "SELECT repeat('x', 1000) FROM generate_series(1, 100000)";
    let params = std::iter::empty::<i32>();
    let stream = client.query_raw(many, params).await.unwrap();
    let prepare = tokio::time::timeout(Duration::from_millis(500), branch.prepare()).await;
    assert!(prepare.is_err(), "the stream did not block");
    drop(branch);
    // The stream is alive still; the server's session is gone nevertheless.
    db.wait_gone(pid).await;
    db.assert_nothing_of(1).await;
    drop(stream);
}

async fn i8_a_dropped_branch_closes_its_connection_and_frees_its_locks(db: &Db) {
    db.sql(&format!("INSERT INTO {} VALUES (100, 'a')", db.table))
        .await;
    let branch = db.open_with_row(1).await;
    let lock = format!("SELECT * FROM {} WHERE id = 100 FOR UPDATE", db.table);
    branch.batch_execute(&lock).await.unwrap();
    let pid = backend_pid(&branch).await;
    drop(branch);
    db.wait_gone(pid).await;
    let update = format!("SET lock_timeout = '1s'; UPDATE {} SET v = 'b'", db.table);
    db.sql(&update).await;
    db.assert_nothing_of(1).await;
}

/// The server alone would go on with the statement, and keep the locks, to its end.
async fn a_dropped_branch_cancels_what_runs(db: &Db) {
    let branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let work = tokio::spawn(async move { branch.batch_execute("SELECT pg_sleep(3600)").await });
    during_sleep(db, pid).await;
    work.abort();
    db.wait_gone(pid).await;
    db.assert_nothing_of(1).await;
}

/// Polled once and dropped, a statement is sent and executed; the branch holds its effect.
async fn a_statement_whose_future_was_dropped_is_part_of_the_branch(db: &Db) {
    let mut branch = db.open(1).await;
    {
        let insert = format!(
            "SELECT pg_sleep(1); INSERT INTO {} VALUES (1, 'v')",
            db.table
        );
        let mut dropped = pin!(branch.batch_execute(&insert));
        poll_fn(|cx| {
            assert!(dropped.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    }
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has_row(1).await);
}

/// The session's last words reach the connection, not the request: they are kept.
async fn what_ended_the_session_is_told(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    db.sql(&format!("SELECT pg_terminate_backend({pid}, 5000)"))
        .await;
    eventually("the driver notices", async || branch.is_closed()).await;
    let error = branch.rollback().await.unwrap_err();
    assert!(error.to_string().contains("57P01"), "{error}");
    assert_eq!(error.kind(), BranchErrorKind::Undetermined);
}

async fn a_cancelled_statement_rolls_the_branch_back(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let token = branch.cancel_token();
    assert_eq!(format!("{token:?}"), "CancelToken");
    let pid = backend_pid(&branch).await;
    let sleep = branch.batch_execute("SELECT pg_sleep(60)");
    let cancel = async {
        during_sleep(db, pid).await;
        token.cancel().await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleep, cancel);
    assert!(slept.is_err());
    expect_cause(branch.prepare().await, Cause::RollbackOnly);
}

/// A late cancel would hit whoever has the session then: it is not used again.
async fn a_session_with_a_cancel_token_is_not_pooled(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let token = branch.cancel_token();
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    Box::new(branch).release().await;
    db.wait_gone(pid).await;
    let next = db.open_with_row(2).await;
    // The server may refuse the connection; it has nobody to cancel.
    let _ = token.cancel().await;
    next.batch_execute("SELECT pg_sleep(0.2)").await.unwrap();
}

/// Statements sent together are one round trip, and the first failure decides.
async fn pipelined_statements_with_a_failure_roll_the_branch_back(db: &Db) {
    let mut branch = db.open(1).await;
    let insert = format!("INSERT INTO {} VALUES (1, 'v')", db.table);
    let (failed, inserted) = tokio::join!(
        branch.batch_execute("SELECT 1/0"),
        branch.batch_execute(&insert)
    );
    assert!(failed.is_err() && inserted.is_err());
    expect_cause(branch.prepare().await, Cause::RollbackOnly);
    db.assert_nothing_of(1).await;
}

/// `COPY` through `batch_execute` is an error of the driver although the server goes on.
async fn a_driver_error_that_is_not_the_servers_leaves_the_branch_usable(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let copy = format!("COPY {} TO STDOUT", db.table);
    let error = branch.batch_execute(&copy).await.unwrap_err();
    assert!(error.as_db_error().is_none(), "{error}");
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has_row(1).await);
}

/// Future types that are `Send` can be spawned: a branch works in a multi-threaded server.
async fn a_branch_can_be_moved_to_another_task(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let done = tokio::spawn(async move {
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
    });
    done.await.unwrap();
    assert!(db.has_row(1).await);
}

/// Every branch that is opened and dropped at once gives its connection's place back.
async fn i8_dropped_branches_do_not_use_the_pool_up(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(2));
    for sequence in 1..=10 {
        let branch: PgBranch = resource.open(db.env(sequence)).await.unwrap();
        drop(branch);
    }
}

on_both!(
    a_live_row_stream_blocks_prepare_until_the_branch_is_dropped,
    i8_a_dropped_branch_closes_its_connection_and_frees_its_locks,
    a_dropped_branch_cancels_what_runs,
    a_statement_whose_future_was_dropped_is_part_of_the_branch,
    what_ended_the_session_is_told,
    a_cancelled_statement_rolls_the_branch_back,
    a_session_with_a_cancel_token_is_not_pooled,
    pipelined_statements_with_a_failure_roll_the_branch_back,
    a_driver_error_that_is_not_the_servers_leaves_the_branch_usable,
    a_branch_can_be_moved_to_another_task,
    i8_dropped_branches_do_not_use_the_pool_up,
);
