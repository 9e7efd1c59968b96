//! Servers that crash, restart, stand by and are promoted.

use std::time::Duration;

use unanimous_core::ports::{Absence, Branch, BranchErrorKind, Problem, Resource, ResourceManager};
use unanimous_core::protocol::Decision;
use unanimous_postgres::Postgres;
use xtask::servers::{Kind, Options, Server, standby_of};

use crate::support::{Db, eventually, expect_prepared, finding, oracle};

async fn i2_a_prepared_branch_survives_a_crash_with_its_locks(kind: Kind) {
    let mut server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    db.sql(&format!("INSERT INTO {} VALUES (100, 'a')", db.table))
        .await;
    let mut branch = db.open_with_row(1).await;
    let lock = format!("SELECT * FROM {} WHERE id = 100 FOR UPDATE", db.table);
    branch.batch_execute(&lock).await.unwrap();
    let evidence = expect_prepared(branch.prepare().await);
    let record = crate::support::record(&branch, evidence);
    server.kill();
    let error = branch.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
    drop(branch);
    server.restart().unwrap();

    assert!(db.is_listed(1).await);
    let update = format!(
        "SET lock_timeout = '300ms'; UPDATE {} SET v = 'b'",
        db.table
    );
    let error = oracle(&db.url, &update).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55P03");
    db.resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap();
    assert!(db.has_row(1).await);
    // The number is durable, so the restart in between does not matter.
    let fate = db.resource.absent(&db.xid(1), &record).await.unwrap();
    assert_eq!(fate, Absence::Finished);
}

async fn what_is_active_in_a_crash_is_gone(kind: Kind) {
    let mut server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let mut branch = db.open_with_row(1).await;
    server.kill();
    branch.rollback().await.unwrap_err();
    drop(branch);
    server.restart().unwrap();
    db.assert_nothing_of(1).await;
}

/// Connections that a restart has killed are replaced without an error. On one thread: the pool
/// does not know yet that they are dead, only their first statement tells.
async fn pooled_connections_survive_a_restart_of_the_server(kind: Kind) {
    let mut server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let mut branches = Vec::new();
    for sequence in 1..=3 {
        branches.push(db.open_with_row(sequence).await);
    }
    for mut branch in branches {
        branch.rollback().await.unwrap();
        Box::new(branch).release().await;
    }
    db.resource.recover().await.unwrap();
    let wiped = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CLOSE ALL;%' AND state = 'idle'";
    eventually("they are pooled", async || db.sql(wiped).await.len() == 3).await;
    server.kill();
    server.restart().unwrap();
    for sequence in 4..=7 {
        let mut branch = db.open_with_row(sequence).await;
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
    }
    db.resource.recover().await.unwrap();
}

async fn a_server_that_is_away_is_unavailable_and_comes_back(kind: Kind) {
    let mut server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    server.kill();
    let error = db.resource.recover().await.unwrap_err();
    assert_eq!(error.problem(), Problem::Unavailable, "{error}");
    let error = db.resource.open(db.env(1)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    let error = db
        .resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        BranchErrorKind::Unavailable,
        "nothing was sent: {error}"
    );
    server.restart().unwrap();
    db.resource.recover().await.unwrap();
    db.open(2).await;
}

/// A server that answers nothing does not hold anybody for longer than the connect time-out.
async fn a_silent_server_is_unavailable_after_the_connect_timeout(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let resource = db.build(|builder| builder.connect_timeout(Duration::from_millis(300)));
    server.pause();
    let error = resource.open(db.env(1)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("no answer within"), "{error}");
    server.resume();
    eventually("it answers again", async || {
        resource.open(db.env(2)).await.is_ok()
    })
    .await;
}

/// A fail-over is under way: one of the two addresses leads to a standby.
async fn a_recovery_address_on_a_standby_counts_as_away(kind: Kind) {
    let primary = Server::start(kind, &Options::new()).unwrap();
    let standby = standby_of(&primary).unwrap();
    let builder = Postgres::builder("orders", primary.url());
    let resource = builder.recovery_address(standby.url()).build().unwrap();
    let preflight = resource.preflight().await.unwrap();
    assert!(
        !preflight.is_fit() && preflight.is_read_only,
        "{preflight:?}"
    );
}

async fn a_standby_lists_nothing_and_is_refused_until_it_is_promoted(kind: Kind) {
    let primary = Server::start(kind, &Options::new()).unwrap();
    let standby = standby_of(&primary).unwrap();
    let db = Db::on(&primary).await;
    let (branch, record) = db.prepared(1).await;
    let (mut ended, ended_record) = db.prepared(2).await;
    ended.commit().await.unwrap();
    let row = format!("SELECT 1 FROM {} WHERE id = 2", db.table);
    eventually("the standby has it all", async || {
        oracle(&standby.url(), &row)
            .await
            .is_ok_and(|rows| !rows.is_empty())
    })
    .await;
    let listed = oracle(&standby.url(), "SELECT gid FROM pg_prepared_xacts")
        .await
        .unwrap();
    assert!(
        listed.is_empty(),
        "a standby lists what is prepared: the rule could be relaxed"
    );

    let resource = Postgres::builder("orders", standby.url()).build().unwrap();
    let preflight = resource.preflight().await.unwrap();
    assert!(!preflight.is_fit() && preflight.identity.is_none() && preflight.is_read_only);
    let found = finding(&resource, "pg_is_in_recovery").await;
    assert!(found.mend.contains("connect to the primary"), "{found}");
    for error in [
        resource.recover().await.unwrap_err(),
        resource
            .absent(&db.xid(2), &ended_record)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.problem(), Problem::Unavailable, "{error}");
        assert!(
            error.to_string().contains("connect to the primary"),
            "{error}"
        );
    }
    let error = resource.open(db.env(3)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    assert!(
        error.to_string().contains("connect to the primary"),
        "{error}"
    );
    let error = resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");

    drop((branch, ended, primary));
    oracle(&standby.admin_url(), "SELECT pg_promote()")
        .await
        .unwrap();
    let scan = resource.recover().await.unwrap();
    assert_eq!(scan.branches.len(), 1, "what was replicated is there");
    assert_ne!(
        scan.identity, record.identity,
        "another timeline at once, without a checkpoint"
    );
    // Absent here proves nothing any more: the standby may have lagged behind.
    let fate = resource.absent(&db.xid(2), &ended_record).await.unwrap();
    assert!(matches!(fate, Absence::Hazard(_)), "{fate:?}");
    // What is present is resolved wherever it is found.
    resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap();
    let row = format!("SELECT 1 FROM {} WHERE id = 1", db.table);
    assert!(!oracle(&standby.url(), &row).await.unwrap().is_empty());
}

/// Another session that is about to end the branch keeps it busy; that passes.
async fn a_branch_that_is_being_ended_by_another_session_is_busy(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let (mut branch, _) = db.prepared(1).await;
    db.admin("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await;
    db.admin("SELECT pg_reload_conf()").await;
    eventually("it is read", async || {
        db.sql("SHOW synchronous_standby_names").await[0][0] == "nobody"
    })
    .await;
    let (url, commit) = (db.url.clone(), format!("COMMIT PREPARED '{}'", db.gid(1)));
    let hanging = tokio::spawn(async move { oracle(&url, &commit).await });
    let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("it waits for a standby", async || {
        !db.sql(waiting).await.is_empty()
    })
    .await;
    let error = db
        .resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("55000"), "{error}");
    let error = branch.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    let pid = db.sql(waiting).await[0][0].clone();
    db.sql(&format!("SELECT pg_cancel_backend({pid})")).await;
    hanging.await.unwrap().unwrap();
    assert!(db.has_row(1).await);
}

on_own!(
    i2_a_prepared_branch_survives_a_crash_with_its_locks,
    what_is_active_in_a_crash_is_gone,
    a_server_that_is_away_is_unavailable_and_comes_back,
    a_silent_server_is_unavailable_after_the_connect_timeout,
    a_recovery_address_on_a_standby_counts_as_away,
    a_standby_lists_nothing_and_is_refused_until_it_is_promoted,
    a_branch_that_is_being_ended_by_another_session_is_busy,
);

mod unnoticed {
    use super::*;
    on_own_single_threaded!(pooled_connections_survive_a_restart_of_the_server);
}
