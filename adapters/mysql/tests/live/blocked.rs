//! Prepare and commit on a server that blocks them: `FLUSH TABLES WITH READ LOCK`, `read_only`,
//! `KILL`. Each test has a server of its own, because all of this is global.

use std::time::Duration;

use tokio::time::timeout;
use unanimous_core::ports::{
    Branch, BranchErrorKind, Cause, OnePhaseReply, Problem, Resource, ResourceManager,
};
use unanimous_core::protocol::Decision;
use unanimous_mysql::mysql_async::Conn;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::Kind;

use crate::support::{
    Db, code, connection_id, eventually, expect_prepared, expect_rolled_back, source_code, start,
};

async fn lock(db: &Db) -> Conn {
    let mut admin = db.admin().await;
    admin
        .query_drop("FLUSH TABLES WITH READ LOCK")
        .await
        .unwrap();
    admin
}

async fn unlock(mut admin: Conn) {
    admin.query_drop("UNLOCK TABLES").await.unwrap();
}

/// Waits until a connection runs a statement that begins with `verb`.
async fn until_it_runs(db: &Db, connection: u64, verb: &str) {
    let mut admin = db.admin().await;
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.processlist \
         WHERE id = {connection} AND info LIKE '{verb}%'"
    );
    for _ in 0..600 {
        if admin.query_first::<u64, _>(&sql).await.unwrap() == Some(1) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("connection {connection} never ran {verb}");
}

/// 1205 at prepare rolls the branch back; 1205 at commit leaves it prepared, "try restarting
/// transaction" or not.
async fn a_lock_wait_timeout_ends_a_prepare_and_only_delays_a_commit(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let mut active = db.active(1).await;
    let mut active_one_phase = db.active(2).await;
    let (mut prepared, _) = db.prepared(3).await;
    let (mut to_roll_back, _) = db.prepared(4).await;
    let (by_xid, _) = db.prepared(5).await;
    drop(by_xid);

    let admin = lock(&db).await;
    let (_, error) = expect_rolled_back(active.prepare().await);
    assert_eq!(source_code(&error), Some(1205), "{error}");
    assert_eq!(error.kind(), BranchErrorKind::RolledBack(Cause::Timeout));
    let reply = active_one_phase.commit_one_phase().await;
    // It is rolled back; but the same answer can come after a commit.
    let OnePhaseReply::Undetermined(error) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(source_code(&error), Some(1205), "{error}");
    drop(active_one_phase);
    for error in [
        prepared.commit().await.unwrap_err(),
        to_roll_back.rollback().await.unwrap_err(),
        db.resource
            .finish(&db.xid(5), Decision::Commit, None)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(source_code(&error), Some(1205), "{error}");
        assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    }
    assert!(db.is_listed(3).await && db.is_listed(5).await);
    unlock(admin).await;

    prepared.commit().await.unwrap();
    to_roll_back.rollback().await.unwrap();
    db.finish(&db.xid(5), Decision::Commit).await;
    assert!(!db.has(1).await && db.has(3).await && !db.has(4).await && db.has(5).await);
    assert!(db.listed().await.is_empty());
    assert!(!db.has(2).await);
}

/// Without the adapter: what 1205 and 1317 leave of a commit in one phase. The branch is rolled
/// back and gone, as after a refused prepare.
async fn a_refused_commit_in_one_phase_has_rolled_back(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let mut plain = db.plain().await;
    let id = u64::from(plain.id());
    for (code_expected, sequence) in [(1205, 1), (1317, 2)] {
        let timeout = if code_expected == 1205 { 1 } else { 60 };
        plain
            .query_drop(format!("SET lock_wait_timeout = {timeout}"))
            .await
            .unwrap();
        let xid = db.literal(sequence);
        let insert = format!("INSERT INTO {} VALUES ({sequence}, 'v')", db.table);
        plain
            .query_drop(format!("XA START {xid}; {insert}; XA END {xid}"))
            .await
            .unwrap();
        let mut admin = lock(&db).await;
        let commit = format!("XA COMMIT {xid} ONE PHASE");
        let waiting = tokio::spawn(async move {
            let answer = plain.query_drop(commit).await;
            (plain, answer)
        });
        if code_expected == 1317 {
            until_it_runs(&db, id, "XA COMMIT").await;
            admin.query_drop(format!("KILL QUERY {id}")).await.unwrap();
        }
        let answer;
        (plain, answer) = waiting.await.unwrap();
        assert_eq!(code(&answer.unwrap_err()), code_expected);
        unlock(admin).await;
        let gone = plain.query_drop(format!("XA ROLLBACK {xid}")).await;
        assert_eq!(code(&gone.unwrap_err()), 1397);
        db.sql(&format!(
            "INSERT INTO {} VALUES (10{sequence}, 'v')",
            db.table
        ))
        .await;
        plain.query_drop("DO 1").await.unwrap();
        assert!(!db.has(sequence).await);
    }
}

/// `KILL QUERY` (1317): the same.
async fn a_killed_prepare_is_rolled_back_and_a_killed_commit_is_repeated(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let mut env = db.env(1);
    env.lock_timeout = Duration::from_secs(60);
    let mut active = db.resource.open(env.clone()).await.unwrap();
    db.insert(&mut active, 1).await.unwrap();
    env.xid = db.xid(2);
    let mut prepared = db.resource.open(env).await.unwrap();
    db.insert(&mut prepared, 2).await.unwrap();
    let (first, second) = (
        connection_id(&mut active).await,
        connection_id(&mut prepared).await,
    );
    expect_prepared(prepared.prepare().await);

    let mut admin = lock(&db).await;
    let killed = tokio::spawn(async move { active.prepare().await });
    until_it_runs(&db, first, "XA PREPARE").await;
    admin
        .query_drop(format!("KILL QUERY {first}"))
        .await
        .unwrap();
    let (_, error) = expect_rolled_back(killed.await.unwrap());
    assert_eq!(source_code(&error), Some(1317), "{error}");

    let killed = tokio::spawn(async move {
        let answer = prepared.commit().await;
        (prepared, answer)
    });
    until_it_runs(&db, second, "XA COMMIT").await;
    admin
        .query_drop(format!("KILL QUERY {second}"))
        .await
        .unwrap();
    let (mut prepared, answer) = killed.await.unwrap();
    let error = answer.unwrap_err();
    assert_eq!(source_code(&error), Some(1317), "{error}");
    assert_eq!(error.kind(), BranchErrorKind::Unavailable);
    assert!(db.is_listed(2).await);
    unlock(admin).await;
    prepared.commit().await.unwrap();
    assert!(!db.has(1).await && db.has(2).await);
}

/// The connection dies while `XA COMMIT` waits: the answer would be the same after a commit.
async fn i3_a_commit_whose_connection_dies_is_undetermined(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let mut env = db.env(1);
    env.lock_timeout = Duration::from_secs(60);
    let mut branch = db.resource.open(env).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap();
    let connection = connection_id(&mut branch).await;
    expect_prepared(branch.prepare().await);
    let mut admin = lock(&db).await;
    let killed = tokio::spawn(async move { branch.commit().await });
    until_it_runs(&db, connection, "XA COMMIT").await;
    admin
        .query_drop(format!("KILL {connection}"))
        .await
        .unwrap();
    let error = killed.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
    // Its client hears of it first: set free too early, it might still commit.
    eventually("the connection is gone", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
    unlock(admin).await;
    assert!(db.is_listed(1).await);
    db.finish(&db.xid(1), Decision::Commit).await;
    assert!(db.has(1).await);
}

/// The caller gives up, the server goes on: nothing is listed at first, and later it is.
async fn i3_a_prepare_that_was_given_up_surfaces_later_and_can_be_swept(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let mut env = db.env(1);
    env.lock_timeout = Duration::from_secs(60);
    let mut branch = db.resource.open(env).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap();
    let connection = connection_id(&mut branch).await;
    let admin = lock(&db).await;
    {
        let mut prepare = Box::pin(branch.prepare());
        let waiting = timeout(Duration::from_millis(300), &mut prepare).await;
        assert!(waiting.is_err(), "it waits for the lock");
    }
    until_it_runs(&db, connection, "XA PREPARE").await;
    let error = branch.rollback().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
    drop(branch);
    assert!(!db.is_listed(1).await);
    let error = db
        .resource
        .finish(&db.xid(1), Decision::Rollback, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::UnknownXid, "{error}");
    unlock(admin).await;
    eventually("the late prepare is listed", async || db.is_listed(1).await).await;
    db.finish(&db.xid(1), Decision::Rollback).await;
    assert!(!db.has(1).await);
}

/// Under `read_only` MariaDB refuses to commit (1290) and keeps the branch; MySQL lets it through.
/// A read-only server may be a standby: what it does not list proves nothing.
async fn a_read_only_server_keeps_the_branch_and_its_scan_does_not_count(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let (mut branch, record) = db.prepared(1).await;
    let mut by_xid = db.active(2).await;
    let connection = connection_id(&mut by_xid).await;
    expect_prepared(by_xid.prepare().await);
    drop(by_xid);
    // Until it is gone, nobody else may end its branch.
    eventually("its connection is gone", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
    let mut admin = db.admin().await;
    admin.query_drop("SET GLOBAL read_only = 1").await.unwrap();
    let committed = branch.commit().await;
    if db.is_mariadb() {
        let error = committed.unwrap_err();
        assert_eq!(source_code(&error), Some(1290), "{error}");
        assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
        let error = db
            .resource
            .finish(&db.xid(2), Decision::Commit, None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    } else {
        committed.unwrap();
    }
    for error in [
        db.resource.recover().await.unwrap_err(),
        db.resource.absent(&db.xid(1), &record).await.unwrap_err(),
    ] {
        assert_eq!(error.problem(), Problem::Unavailable, "{error}");
        assert!(error.to_string().contains("read-only"), "{error}");
    }
    admin.query_drop("SET GLOBAL read_only = 0").await.unwrap();
    if db.is_mariadb() {
        // The record names the connection that prepared: it is ended, and seen gone, before.
        let (xid, resource) = (db.xid(1), &db.resource);
        let finished = resource.finish(&xid, Decision::Commit, Some(&record));
        finished.await.unwrap();
    }
    db.finish(&db.xid(2), Decision::Commit).await;
    assert!(db.has(1).await && db.has(2).await);
}

on_own!(
    a_lock_wait_timeout_ends_a_prepare_and_only_delays_a_commit,
    a_refused_commit_in_one_phase_has_rolled_back,
    a_killed_prepare_is_rolled_back_and_a_killed_commit_is_repeated,
    i3_a_commit_whose_connection_dies_is_undetermined,
    i3_a_prepare_that_was_given_up_surfaces_later_and_can_be_swept,
    a_read_only_server_keeps_the_branch_and_its_scan_does_not_count,
);
