//! Commit without prepare: its durability, and what a lost reply means (I2, I3).

use unanimous_core::ports::{Branch, BranchErrorKind, Cause, OnePhaseReply, Resource};
use unanimous_postgres::{Isolation, Postgres};
use unanimous_testing::{Wire, WireFault};
use xtask::servers::{Kind, Options, Server};

use crate::prepare::{deferred_trigger, drop_trigger, during_sleep};
use crate::support::{Db, backend_pid, eventually};

async fn a_single_branch_commits_and_its_session_is_used_again(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    assert!(matches!(
        branch.commit_one_phase().await,
        OnePhaseReply::Committed
    ));
    assert!(db.has_row(1).await && !db.is_prepared(1).await);
    Box::new(branch).release().await;
}

fn expect_rolled_back(reply: OnePhaseReply, cause: Cause) -> String {
    match reply {
        OnePhaseReply::RolledBack(error) => {
            assert_eq!(error.kind(), BranchErrorKind::RolledBack(cause), "{error}");
            error.to_string()
        }
        other => panic!("not rolled back: {other:?}"),
    }
}

async fn a_deferred_error_rolls_back(db: &Db) {
    deferred_trigger(db, "RAISE EXCEPTION 'no' USING ERRCODE = 'P0042'").await;
    let mut branch = db.open_with_row(1).await;
    let text = expect_rolled_back(branch.commit_one_phase().await, Cause::Refused);
    assert!(text.contains("P0042"), "{text}");
    db.assert_nothing_of(1).await;
    drop_trigger(db).await;
}

async fn a_serialization_failure_is_a_conflict(db: &Db) {
    let resource = db.build(|builder| builder.isolation(Isolation::Serializable));
    db.sql(&format!(
        "INSERT INTO {} VALUES (100, 'a'), (200, 'b')",
        db.table
    ))
    .await;
    let mut one = resource.open(db.env(1)).await.unwrap();
    let mut two = resource.open(db.env(2)).await.unwrap();
    for (branch, writes) in [(&one, 100), (&two, 200)] {
        let read = format!("SELECT count(*) FROM {} WHERE v <> 'done'", db.table);
        branch.query_one(&read, &[]).await.unwrap();
        let write = format!("UPDATE {} SET v = 'done' WHERE id = {writes}", db.table);
        branch.batch_execute(&write).await.unwrap();
    }
    assert!(matches!(
        one.commit_one_phase().await,
        OnePhaseReply::Committed
    ));
    expect_rolled_back(two.commit_one_phase().await, Cause::Conflict);
}

/// The session dies before the commit took: the server's own commit log says so.
async fn a_reply_lost_before_the_commit_is_proven_a_rollback(db: &Db) {
    deferred_trigger(db, "PERFORM pg_sleep(60)").await;
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let commit = tokio::spawn(async move { branch.commit_one_phase().await });
    during_sleep(db, pid).await;
    db.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    expect_rolled_back(commit.await.unwrap(), Cause::Unreachable);
    db.assert_nothing_of(1).await;
    drop_trigger(db).await;
}

/// The connection is cut where the answer should come: the server's own commit log says it.
async fn a_reply_lost_after_the_commit_is_proven_a_commit(db: &Db) {
    deferred_trigger(db, "PERFORM pg_sleep(1)").await;
    let (wire, url) = Wire::between(&db.url).await.unwrap();
    let resource = Postgres::builder("orders", url).recovery_address(&db.url);
    let mut branch = resource.build().unwrap().open(db.env(1)).await.unwrap();
    db.insert(&branch, 1).await;
    let pid = backend_pid(&branch).await;
    let commit = tokio::spawn(async move { branch.commit_one_phase().await });
    during_sleep(db, pid).await;
    // The guard has been answered by then.
    wire.set(WireFault::TearReplies(0));
    let reply = commit.await.unwrap();
    assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
    assert!(db.has_row(1).await);
    drop_trigger(db).await;
}

on_both!(
    a_single_branch_commits_and_its_session_is_used_again,
    a_deferred_error_rolls_back,
    a_serialization_failure_is_a_conflict,
    a_reply_lost_before_the_commit_is_proven_a_rollback,
    a_reply_lost_after_the_commit_is_proven_a_commit,
);

/// A synchronous standby that is not there: every commit waits, after it took.
fn waits_for_ever() -> Options {
    Options::new().args(["-c", "synchronous_standby_names=nobody"])
}

/// It took, here. Whether a person cancels its wait for the standby, its session is ended, or its
/// connection is cut and the fence ends its wait: a fail-over to that standby would lose it.
async fn i2_a_commit_that_no_standby_has_confirmed_is_undetermined(kind: Kind) {
    let server = Server::start(kind, &waits_for_ever()).unwrap();
    let db = Db::on(&server).await;
    let (wire, url) = Wire::between(&db.url).await.unwrap();
    let resource = Postgres::builder("orders", url).recovery_address(&db.url);
    let resource = resource.build().unwrap();
    for (sequence, end) in [
        (1, "pg_cancel_backend"),
        (2, "pg_terminate_backend"),
        (3, ""),
    ] {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        db.insert(&branch, sequence).await;
        let quietly = "SET client_min_messages = error";
        branch.batch_execute(quietly).await.unwrap();
        let pid = backend_pid(&branch).await;
        let commit = tokio::spawn(async move { branch.commit_one_phase().await });
        wait_for_replication(&db, pid).await;
        if end.is_empty() {
            wire.set(WireFault::Down);
        } else {
            db.sql(&format!("SELECT {end}({pid})")).await;
        }
        let reply = commit.await.unwrap();
        let is_undetermined = matches!(reply, OnePhaseReply::Undetermined(_));
        assert!(is_undetermined, "{end}: {reply:?}");
        assert!(db.has_row(sequence).await);
    }
}

async fn wait_for_replication(db: &Db, pid: i32) {
    let waits =
        format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'");
    eventually("the commit waits", async || {
        !db.sql(&waits).await.is_empty()
    })
    .await;
}

/// After a restart the number can be another transaction's, so nothing is concluded from it.
///
/// On one thread: when the loss is noticed, the server answers again, and would say "committed".
async fn i3_a_reply_lost_in_a_crash_is_undetermined(kind: Kind) {
    let mut server = Server::start(kind, &waits_for_ever()).unwrap();
    let db = Db::on(&server).await;
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let commit = tokio::spawn(async move { branch.commit_one_phase().await });
    wait_for_replication(&db, pid).await;
    server.kill();
    server.restart().unwrap();
    assert!(matches!(
        commit.await.unwrap(),
        OnePhaseReply::Undetermined(_)
    ));
    assert!(
        db.has_row(1).await,
        "it had been committed: a rollback would have been a lie"
    );
}

/// `synchronous_commit = off` would answer before anything is written: observed to lose the row.
async fn i2_a_commit_in_one_phase_survives_a_crash_although_commits_are_asynchronous(kind: Kind) {
    let lazy = Options::new().args(["-c", "synchronous_commit=off", "-c", "wal_writer_delay=10s"]);
    let mut server = Server::start(kind, &lazy).unwrap();
    let db = Db::on(&server).await;
    let mut branch = db.open_with_row(1).await;
    let row = branch
        .query_one("SHOW synchronous_commit", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "off");
    assert!(matches!(
        branch.commit_one_phase().await,
        OnePhaseReply::Committed
    ));
    server.kill();
    server.restart().unwrap();
    assert!(db.has_row(1).await);
}

/// A stronger level than `on` is kept: here the commit waits for the standby to apply it.
async fn a_stronger_durability_is_not_weakened(kind: Kind) {
    let server = Server::start(kind, &waits_for_ever()).unwrap();
    let db = Db::on(&server).await;
    let mut branch = db.open_with_row(1).await;
    branch
        .batch_execute("SET LOCAL synchronous_commit = remote_apply")
        .await
        .unwrap();
    let pid = backend_pid(&branch).await;
    let commit = tokio::spawn(async move { branch.commit_one_phase().await });
    wait_for_replication(&db, pid).await;
    let query = format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}");
    assert!(db.sql(&query).await[0][0].contains("COMMIT"));
    commit.abort();
}

mod own {
    use super::*;
    on_own!(
        i2_a_commit_that_no_standby_has_confirmed_is_undetermined,
        i2_a_commit_in_one_phase_survives_a_crash_although_commits_are_asynchronous,
        a_stronger_durability_is_not_weakened,
    );
}

mod unnoticed {
    use super::*;
    on_own_single_threaded!(i3_a_reply_lost_in_a_crash_is_undetermined);
}
