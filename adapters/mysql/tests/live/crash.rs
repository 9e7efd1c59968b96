//! Kill -9 of the server, and MariaDB's reset bug. Each test has a server of its own.

use unanimous_core::ports::{Absence, Branch, BranchErrorKind, ResourceManager};
use unanimous_core::protocol::Decision;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::{Kind, Options};

use crate::support::{Db, code, eventually, start};

/// Prepared stays prepared with its row locks, committed stays committed. MariaDB does not flush
/// `XA ROLLBACK`: a branch whose rollback was acknowledged is prepared again, and is swept.
async fn i2_what_was_acknowledged_survives_a_crash_but_for_mariadbs_rollback(kind: Kind) {
    let mut server = start(kind, &[]);
    let db = Db::on(&server).await;
    let (prepared, _) = db.prepared(1).await;
    let (mut committed, _) = db.prepared(2).await;
    committed.commit().await.unwrap();
    let mut one_phase = db.active(3).await;
    one_phase.commit_one_phase().await;
    let (mut rolled_back, _) = db.prepared(4).await;
    rolled_back.rollback().await.unwrap();
    let active = db.active(5).await;
    server.kill();
    drop((prepared, committed, one_phase, rolled_back, active));
    tokio::task::block_in_place(|| server.restart()).unwrap();

    assert!(db.is_listed(1).await);
    assert!(!db.is_listed(2).await && !db.is_listed(3).await && !db.is_listed(5).await);
    assert_eq!(db.is_listed(4).await, db.is_mariadb());
    assert!(db.has(2).await && db.has(3).await);
    let mut other = db.open(6).await;
    assert_eq!(
        code(&db.insert(&mut other, 1).await.unwrap_err()),
        1205,
        "its lock survives"
    );
    other.rollback().await.unwrap();
    db.resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap();
    let swept = db
        .resource
        .finish(&db.xid(4), Decision::Rollback, None)
        .await;
    if db.is_mariadb() {
        swept.unwrap();
    } else {
        assert_eq!(swept.unwrap_err().kind(), BranchErrorKind::UnknownXid);
    }
    assert!(db.has(1).await && !db.has(4).await && !db.has(5).await);
    assert!(db.listed().await.is_empty());
}

/// The lock of a row that a branch has only locked does not survive a crash.
async fn a_row_that_was_only_locked_is_free_after_a_crash(kind: Kind) {
    let mut server = start(kind, &[]);
    let db = Db::on(&server).await;
    db.sql(&format!("INSERT INTO {} VALUES (101, 'v')", db.table))
        .await;
    let mut branch = db.active(1).await;
    let lock = format!("SELECT id FROM {} WHERE id = 101 FOR UPDATE", db.table);
    branch.query_drop(lock).await.unwrap();
    crate::support::expect_prepared(branch.prepare().await);
    server.kill();
    drop(branch);
    tokio::task::block_in_place(|| server.restart()).unwrap();
    assert!(db.is_listed(1).await);
    let mut other = db.open(2).await;
    let update = format!("UPDATE {} SET v = 'w' WHERE id = 101", db.table);
    other.query_drop(update).await.unwrap();
    other.rollback().await.unwrap();
    db.resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap();
    assert!(db.has(1).await);
}

/// The bug, seen without the adapter: prepare, reset, commit, OK, and nothing is committed. And the
/// adapter beside it, whose commits are seen by others.
async fn i1_mariadb_commits_nothing_after_a_reset_and_the_adapter_never_resets(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let xid = "'reset','',7";
    let mut plain = db.plain().await;
    let insert = format!("INSERT INTO {} VALUES (1, 'v')", db.table);
    let prepare = format!("XA START {xid}; {insert}; XA END {xid}; XA PREPARE {xid}");
    plain.query_drop(prepare).await.unwrap();
    plain.reset().await.unwrap();
    let mut other = db.plain().await;
    other.query_drop(format!("XA COMMIT {xid}")).await.unwrap();
    assert_eq!(db.has(1).await, !db.is_mariadb(), "MariaDB said OK");

    // Many branches through a small pool, so that sessions are used again and again.
    let resource = db.build(|builder| builder.pool_size(2));
    for sequence in 10..40 {
        let open = |sequence| unanimous_core::ports::Resource::open(&resource, db.env(sequence));
        let mut branch = open(sequence).await.unwrap();
        db.insert(&mut branch, sequence).await.unwrap();
        crate::support::expect_prepared(branch.prepare().await);
        if sequence % 3 == 0 {
            drop(branch);
            db.finish(&db.xid(sequence), Decision::Commit).await;
        } else {
            branch.commit().await.unwrap();
            Box::new(branch).release().await;
        }
        assert!(db.has(sequence).await, "{sequence}");
    }
}

/// A clean shutdown keeps prepared branches as well.
async fn i2_a_prepared_branch_survives_a_clean_restart(kind: Kind) {
    let mut server = start(
        kind,
        &["--log-bin=binlog", "--server-id=1", "--sync-binlog=1"],
    );
    let db = Db::on(&server).await;
    let (branch, _) = db.prepared(1).await;
    tokio::task::block_in_place(|| server.restart()).unwrap();
    drop(branch);
    assert!(db.is_listed(1).await);
    eventually("it is finished", async || {
        db.resource
            .finish(&db.xid(1), Decision::Commit, None)
            .await
            .is_ok()
    })
    .await;
    assert!(db.has(1).await);
}

/// Started to save what is left, a server may list nothing of what it holds prepared, and lists it
/// again afterwards. So its list proves nothing.
async fn i3_a_server_under_forced_recovery_proves_nothing(kind: Kind) {
    let mut server = start(kind, &[]);
    let db = Db::on(&server).await;
    let (branch, record) = db.prepared(1).await;
    server.kill();
    drop(branch);
    // As recovery does in an application that lives on.
    let absent = async || db.resource.absent(&db.xid(1), &record).await;
    let forced = Options::new().args(["--innodb-force-recovery=5"]);
    tokio::task::block_in_place(|| server.restart_with(&forced)).unwrap();
    let scanned = db.resource.recover().await.map(drop);
    for refused in [scanned, absent().await.map(drop)] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("innodb_"), "{error}");
        assert!(error.contains("restart it"), "{error}");
    }
    server.kill();
    tokio::task::block_in_place(|| server.restart_with(&Options::new())).unwrap();
    let absence = absent().await.unwrap();
    assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
    let xid = db.xid(1);
    let finished = db.resource.finish(&xid, Decision::Commit, Some(&record));
    finished.await.unwrap();
    assert!(db.has(1).await && !db.is_listed(1).await);
}

on_own!(
    i3_a_server_under_forced_recovery_proves_nothing,
    i2_what_was_acknowledged_survives_a_crash_but_for_mariadbs_rollback,
    a_row_that_was_only_locked_is_free_after_a_crash,
    i1_mariadb_commits_nothing_after_a_reset_and_the_adapter_never_resets,
    i2_a_prepared_branch_survives_a_clean_restart,
);
