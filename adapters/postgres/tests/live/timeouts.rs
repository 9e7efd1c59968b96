//! Limits of the server: which of them end what.

use std::time::Duration;

use unanimous_core::ports::{Branch, BranchEnv, Cause, OnePhaseReply, Resource};
use xtask::servers::Kind;

use crate::prepare::{deferred_trigger, drop_trigger};
use crate::support::{Db, eventually, expect_cause, expect_prepared};

fn impatient(db: &Db, sequence: u64) -> BranchEnv {
    BranchEnv {
        lock_timeout: Duration::from_millis(300),
        ..db.env(sequence)
    }
}

/// A deadlock across databases is invisible to each of them: the lock time-out ends it.
async fn a_lock_of_a_prepared_branch_ends_the_waiters_statement(db: &Db) {
    db.sql(&format!("INSERT INTO {} VALUES (100, 'a')", db.table))
        .await;
    let update = format!("UPDATE {} SET v = 'b' WHERE id = 100", db.table);
    let mut holder = db.open(1).await;
    holder.batch_execute(&update).await.unwrap();
    expect_prepared(holder.prepare().await);
    let mut waiter = db.resource.open(impatient(db, 2)).await.unwrap();
    let error = waiter.batch_execute(&update).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55P03");
    expect_cause(waiter.prepare().await, Cause::RollbackOnly);
    holder.rollback().await.unwrap();
}

/// `lock_timeout` holds for what `PREPARE TRANSACTION` itself waits for.
async fn a_lock_awaited_by_prepare_itself_is_a_timeout(db: &Db) {
    let table = &db.table;
    db.sql(&format!("CREATE TABLE {table}_l (i int)")).await;
    deferred_trigger(db, &format!("LOCK TABLE {table}_l")).await;
    let holder = db.open(1).await;
    holder
        .batch_execute(&format!("LOCK TABLE {table}_l"))
        .await
        .unwrap();
    let mut waiter = db.resource.open(impatient(db, 2)).await.unwrap();
    db.insert(&waiter, 2).await;
    let error = expect_cause(waiter.prepare().await, Cause::Timeout);
    assert!(error.to_string().contains("55P03"), "{error}");
    db.assert_nothing_of(2).await;
    drop((holder, waiter));
    drop_trigger(db).await;
    db.sql(&format!("DROP TABLE {table}_l")).await;
}

/// So the deadline of a prepare has to be the caller's.
async fn statement_timeout_does_not_cover_prepare(db: &Db) {
    deferred_trigger(db, "PERFORM pg_sleep(1)").await;
    let mut branch = db.open_with_row(1).await;
    branch
        .batch_execute("SET LOCAL statement_timeout = '200ms'")
        .await
        .unwrap();
    let asleep = branch.batch_execute("SELECT 1").await;
    asleep.unwrap();
    expect_prepared(branch.prepare().await);
    branch.rollback().await.unwrap();
    drop_trigger(db).await;
}

async fn an_idle_branch_is_ended_by_the_server_and_says_so(db: &Db) {
    let env = BranchEnv {
        idle_timeout: Duration::from_millis(200),
        ..db.env(1)
    };
    let mut branch = db.resource.open(env).await.unwrap();
    db.insert(&branch, 1).await;
    eventually("the server ends it", async || branch.is_closed()).await;
    let error = expect_cause(branch.prepare().await, Cause::Timeout);
    assert!(error.to_string().contains("25P03"), "{error}");
    db.assert_nothing_of(1).await;

    let env = BranchEnv {
        idle_timeout: Duration::from_millis(200),
        ..db.env(2)
    };
    let mut branch = db.resource.open(env).await.unwrap();
    eventually("the server ends it", async || branch.is_closed()).await;
    assert!(matches!(
        branch.commit_one_phase().await,
        OnePhaseReply::RolledBack(_)
    ));
}

/// The idle limit is the branch's, not the session's: a pooled session is not ended by it, and a
/// prepared branch has no limit.
async fn the_idle_limit_ends_with_the_branch(db: &Db) {
    let env = BranchEnv {
        idle_timeout: Duration::from_millis(200),
        ..db.env(1)
    };
    let mut branch = db.resource.open(env).await.unwrap();
    db.insert(&branch, 1).await;
    expect_prepared(branch.prepare().await);
    tokio::time::sleep(Duration::from_millis(600)).await;
    branch.commit().await.unwrap();
    assert!(db.has_row(1).await);
}

/// PostgreSQL 17 and newer: before prepare it ends the session, a prepared branch is not subject
/// to it.
async fn transaction_timeout_ends_an_active_branch_only(db: &Db) {
    if db.kind == Kind::Postgres15 {
        let known = "SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'";
        assert_eq!(
            db.sql(known).await[0][0],
            "0",
            "this version has it: test it"
        );
        return;
    }
    let limit = "SET LOCAL transaction_timeout = '500ms'";
    let mut branch = db.open_with_row(1).await;
    branch.batch_execute(limit).await.unwrap();
    expect_prepared(branch.prepare().await);
    tokio::time::sleep(Duration::from_millis(900)).await;
    branch.commit().await.unwrap();

    let mut branch = db.open_with_row(2).await;
    branch.batch_execute(limit).await.unwrap();
    eventually("the server ends it", async || branch.is_closed()).await;
    let error = expect_cause(branch.prepare().await, Cause::Timeout);
    assert!(error.to_string().contains("25P04"), "{error}");
    db.assert_nothing_of(2).await;
}

/// A host that vanishes without closing its connections leaves no locks behind for ever.
async fn the_server_is_told_to_notice_a_vanished_host(db: &Db) {
    let resource = db.build(|builder| builder.vanished_after(Duration::from_secs(8)));
    for sequence in 1..=2 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        for (setting, value) in [
            ("tcp_user_timeout", "8000"),
            ("tcp_keepalives_idle", "2"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("lock_timeout", "5000"),
            ("idle_in_transaction_session_timeout", "60000"),
        ] {
            let ask = "SELECT setting FROM pg_settings WHERE name = $1";
            let row = branch.query_one(ask, &[&setting]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), value, "{setting}");
        }
        // The second time round it is a wiped session.
        branch.rollback().await.unwrap();
        Box::new(branch).release().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

on_both!(
    a_lock_of_a_prepared_branch_ends_the_waiters_statement,
    a_lock_awaited_by_prepare_itself_is_a_timeout,
    statement_timeout_does_not_cover_prepare,
    an_idle_branch_is_ended_by_the_server_and_says_so,
    the_idle_limit_ends_with_the_branch,
    transaction_timeout_ends_an_active_branch_only,
    the_server_is_told_to_notice_a_vanished_host,
);
