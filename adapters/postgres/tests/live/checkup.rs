//! What a checkup finds on a server that is brought to it, and its mend, pasted.

use unanimous_core::ports::{Branch, Finding, ResourceManager, Severity};
use xtask::servers::{Kind, Options, Server, standby_of};

use crate::preflight::paste;
use crate::support::{Db, eventually, finding, findings};

async fn looked(db: &Db, subject: &str) -> Vec<Finding> {
    let all = db.resource.checkup().await.unwrap().into_iter();
    all.filter(|finding| finding.subject == subject).collect()
}

async fn the(db: &Db, subject: &str) -> Finding {
    let mut found = looked(db, subject).await;
    assert_eq!(found.len(), 1, "{subject}: {found:?}");
    found.remove(0)
}

/// The age is counted in transactions, which take no time: each block that writes and could fail
/// has one.
async fn a_prepared_transaction_that_holds_back_vacuum_is_found(kind: Kind) {
    // As low as the server allows.
    let options = Options::new().args(["-c", "autovacuum_freeze_max_age=100000"]);
    let server = Server::start(kind, &options).unwrap();
    let db = Db::on(&server).await;
    let subject = "autovacuum_freeze_max_age";
    let (mut branch, _) = db.prepared(1).await;
    assert_eq!(looked(&db, subject).await, []);
    db.admin(
        "CREATE TEMPORARY TABLE burned (i integer); \
         DO $$ BEGIN FOR i IN 1..50000 LOOP BEGIN INSERT INTO burned VALUES (i); \
         EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
    )
    .await;
    let found = the(&db, subject).await;
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.evidence.contains("in database app"), "{found}");
    branch.rollback().await.unwrap();
    assert_eq!(looked(&db, subject).await, []);
}

async fn connections_that_others_have_taken_are_found(kind: Kind) {
    let options = Options::new().args(["-c", "max_connections=30"]);
    let mut server = Server::start(kind, &options).unwrap();
    let db = Db::on(&server).await;
    let subject = "free_connections";
    assert_eq!(looked(&db, subject).await, []);
    let url = db.admin_url.clone();
    let others = tokio::task::spawn_blocking(move || {
        let connect = |_| postgres::Client::connect(&url, postgres::NoTls).unwrap();
        (0..8).map(connect).collect::<Vec<_>>()
    });
    let others = others.await.unwrap();
    eventually("they are counted", async || {
        !looked(&db, subject).await.is_empty()
    })
    .await;
    let found = the(&db, subject).await;
    assert!(
        found.evidence.contains("this resource may open 24"),
        "{found}"
    );
    let (mend, _) = found.mend.split_once("; or ").unwrap();
    paste(&db, mend).await;
    let closing = tokio::task::spawn_blocking(move || drop(others));
    closing.await.unwrap();
    server.restart_with(&Options::new()).unwrap();
    assert_eq!(looked(&db, subject).await, []);
}

async fn tables_that_lose_rows_or_cannot_be_prepared_are_found(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let none = db.resource.checkup().await.unwrap();
    assert!(
        none.iter()
            .all(|found| found.subject.starts_with("postgr.es/"))
    );
    db.admin(
        "CREATE SCHEMA \"S 1\"; CREATE UNLOGGED TABLE \"S 1\".t (i integer); \
         CREATE EXTENSION postgres_fdw; \
         CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'app'); \
         CREATE FOREIGN TABLE elsewhere (i integer) SERVER other",
    )
    .await;
    let found = the(&db, "unlogged_tables").await;
    assert_eq!(found.severity, Severity::Note);
    assert!(found.evidence.ends_with("\"S 1\".t"), "{found}");
    paste(&db, &found.mend).await;
    assert_eq!(looked(&db, "unlogged_tables").await, []);
    let found = the(&db, "foreign_tables").await;
    assert_eq!(found.severity, Severity::Note);
    assert!(found.evidence.ends_with("public.elsewhere"), "{found}");
}

/// A standby that is there, and not one that is waited for.
async fn standbys_are_told_by_what_they_are_waited_for(kind: Kind) {
    let primary = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&primary).await;
    let _standby = standby_of(&primary).unwrap();
    eventually("it follows", async || {
        !findings(&db.resource, "asynchronous_standbys")
            .await
            .is_empty()
    })
    .await;
    let found = finding(&db.resource, "asynchronous_standbys").await;
    assert_eq!(found.severity, Severity::Note, "{found}");
    // Its state is shown to members of this role only.
    db.admin("GRANT pg_read_all_stats TO app").await;
    let name = |name: &str| {
        format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'; SELECT pg_reload_conf()")
    };
    paste(&db, &name("somebody")).await;
    let is = async |severity| {
        let found = findings(&db.resource, "synchronous_standby_names").await;
        found.iter().any(|found| found.severity == severity)
    };
    eventually("nobody is waited for", async || is(Severity::Warning).await).await;
    let found = finding(&db.resource, "synchronous_standby_names").await;
    assert!(
        found.evidence.starts_with("none of the standbys"),
        "{found}"
    );
    paste(&db, &name("*")).await;
    eventually("it is waited for", async || is(Severity::Note).await).await;
    paste(
        &db,
        "ALTER SYSTEM SET synchronous_commit = remote_write; SELECT pg_reload_conf()",
    )
    .await;
    eventually("it only writes", async || {
        !findings(&db.resource, "synchronous_commit")
            .await
            .is_empty()
    })
    .await;
    let found = finding(&db.resource, "synchronous_commit").await;
    assert_eq!(found.severity, Severity::Note);
    assert!(found.evidence.contains("remote_write"), "{found}");
    paste(&db, &found.mend).await;
    assert_eq!(findings(&db.resource, "synchronous_commit").await, []);
}

/// Only a restart changes it.
async fn a_server_that_retries_a_failed_sync_is_found(kind: Kind) {
    let options = Options::new().args(["-c", "data_sync_retry=on"]);
    let mut server = Server::start(kind, &options).unwrap();
    let db = Db::on(&server).await;
    let found = finding(&db.resource, "data_sync_retry").await;
    assert_eq!(found.severity, Severity::Warning, "{found}");
    paste(&db, &found.mend).await;
    // What the command line says counts before what ALTER SYSTEM has written.
    server.restart_with(&Options::new()).unwrap();
    assert_eq!(findings(&db.resource, "data_sync_retry").await, []);
}

mod own {
    use super::*;
    on_own!(
        a_prepared_transaction_that_holds_back_vacuum_is_found,
        connections_that_others_have_taken_are_found,
        tables_that_lose_rows_or_cannot_be_prepared_are_found,
        standbys_are_told_by_what_they_are_waited_for,
        a_server_that_retries_a_failed_sync_is_found,
    );
}
