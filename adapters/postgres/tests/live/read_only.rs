//! Read-only branches: what the server refuses, and what it lets through.

use unanimous_core::ports::{Branch, BranchErrorKind, Cause, PrepareReply, Resource};

use crate::support::Db;

async fn writes_are_refused_by_the_server(db: &Db) {
    let table = &db.table;
    for (sequence, write) in (1..).zip([
        format!("INSERT INTO {table} VALUES (1, 'v')"),
        format!("SELECT * FROM {table} FOR UPDATE"),
        format!("CREATE TABLE {table}_2 (i int)"),
        format!("TRUNCATE {table}"),
        "SET TRANSACTION READ WRITE".to_owned(),
    ]) {
        let mut branch = db.resource.open(db.reader(sequence)).await.unwrap();
        let error = branch.batch_execute(&write).await.unwrap_err();
        let code = error.code().unwrap().code();
        assert!(code == "25006" || code == "25001", "{write}: {code}");
        let error = branch.end_read_only().await.unwrap_err();
        assert_eq!(
            error.kind(),
            BranchErrorKind::RolledBack(Cause::RollbackOnly)
        );
        db.assert_nothing_of(1).await;
    }
}

async fn a_reader_reads_ends_and_is_never_prepared(db: &Db) {
    db.sql(&format!("INSERT INTO {} VALUES (100, 'a')", db.table))
        .await;
    let mut branch = db.resource.open(db.reader(1)).await.unwrap();
    let select = format!("SELECT v FROM {} WHERE id = 100", db.table);
    let row = branch.query_one(&select, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "a");
    branch.end_read_only().await.unwrap();
    assert!(!db.is_prepared(1).await);
    branch.end_read_only().await.unwrap_err();
    Box::new(branch).release().await;
}

async fn a_reader_that_is_asked_to_prepare_votes_read_only(db: &Db) {
    let mut branch = db.resource.open(db.reader(1)).await.unwrap();
    assert!(matches!(branch.prepare().await, PrepareReply::ReadOnly));
    assert!(!db.is_prepared(1).await);
}

async fn a_reader_that_left_its_transaction_votes_to_roll_back(db: &Db) {
    let insert = format!("INSERT INTO {} VALUES (1, 'v')", db.table);
    let escape = format!("ROLLBACK; BEGIN; {insert}");
    for (sequence, end) in [(1, escape.as_str()), (2, "COMMIT"), (3, "COMMIT AND CHAIN")] {
        let mut branch = db.resource.open(db.reader(sequence)).await.unwrap();
        branch.batch_execute(end).await.unwrap();
        let error = branch.end_read_only().await.unwrap_err();
        assert_eq!(
            error.kind(),
            BranchErrorKind::RolledBack(Cause::RollbackOnly),
            "{end}"
        );
        assert!(!db.has_row(1).await, "{end}: it wrote");
    }
}

async fn a_reader_whose_session_was_ended_votes_to_roll_back(db: &Db) {
    let mut branch = db.resource.open(db.reader(1)).await.unwrap();
    let pid = crate::support::backend_pid(&branch).await;
    db.sql(&format!("SELECT pg_terminate_backend({pid}, 5000)"))
        .await;
    let error = branch.end_read_only().await.unwrap_err();
    assert_eq!(
        error.kind(),
        BranchErrorKind::RolledBack(Cause::Unreachable),
        "{error}"
    );
}

/// Documented, not wished for: a notification is no write to the server, and it is sent when the
/// reader ends, before the other branches are decided. It leaves no transaction number either, by
/// which one could tell.
async fn what_a_reader_is_let_through_a_notification(db: &Db) {
    let channel = format!("c_{}", db.table);
    let url = db.url.clone();
    let (ready_tell, ready) = tokio::sync::oneshot::channel();
    let listen = format!("LISTEN {channel}");
    let listener = tokio::task::spawn_blocking(move || {
        use postgres::fallible_iterator::FallibleIterator;
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        client.batch_execute(&listen).unwrap();
        ready_tell.send(()).unwrap();
        let timeout = std::time::Duration::from_secs(30);
        client
            .notifications()
            .timeout_iter(timeout)
            .next()
            .unwrap()
            .is_some()
    });
    ready.await.unwrap();
    let mut branch = db.resource.open(db.reader(1)).await.unwrap();
    branch
        .batch_execute(&format!("NOTIFY {channel}"))
        .await
        .unwrap();
    let number = "SELECT pg_current_xact_id_if_assigned() IS NULL";
    assert!(
        branch
            .query_one(number, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );
    branch.end_read_only().await.unwrap();
    assert!(listener.await.unwrap(), "the notification was sent");
}

/// So are advisory locks; those of the session are wiped with it.
async fn what_a_reader_is_let_through_an_advisory_lock(db: &Db) {
    let mut branch = db.resource.open(db.reader(1)).await.unwrap();
    branch
        .batch_execute("SELECT pg_advisory_xact_lock(4720)")
        .await
        .unwrap();
    branch.end_read_only().await.unwrap();
}

on_both!(
    writes_are_refused_by_the_server,
    a_reader_reads_ends_and_is_never_prepared,
    a_reader_that_is_asked_to_prepare_votes_read_only,
    a_reader_that_left_its_transaction_votes_to_roll_back,
    a_reader_whose_session_was_ended_votes_to_roll_back,
    what_a_reader_is_let_through_a_notification,
    what_a_reader_is_let_through_an_advisory_lock,
);
