//! What the application's own statement failed with, in the words of the protocol: so that a
//! conflict is tried again, and nothing else.

use std::error::Error;

use unanimous_core::ports::{Cause, Resource, ResourceManager};
use unanimous_postgres::{Isolation, PgBranch, tokio_postgres};

use crate::prepare::during_sleep;
use crate::support::{Db, backend_pid, eventually};

fn cause(db: &Db, error: &tokio_postgres::Error) -> Option<Cause> {
    let cause = db.resource.cause_of(error);
    // No error of anybody else's is taken for one of the driver's.
    let wrapped: Box<dyn Error> = error.to_string().into();
    assert_eq!(db.resource.cause_of(&*wrapped), None);
    cause
}

async fn rows(db: &Db) {
    let table = &db.table;
    db.sql(&format!(
        "INSERT INTO {table} VALUES (100, 'a'), (200, 'b')"
    ))
    .await;
}

fn update(db: &Db, id: i32) -> String {
    format!("UPDATE {} SET v = 'done' WHERE id = {id}", db.table)
}

async fn a_serialization_failure_in_a_statement_is_a_conflict(db: &Db) {
    rows(db).await;
    let resource = db.build(|builder| builder.isolation(Isolation::RepeatableRead));
    let branch = resource.open(db.env(1)).await.unwrap();
    branch.batch_execute("SELECT 1").await.unwrap();
    db.sql(&update(db, 100)).await;
    let error = branch.batch_execute(&update(db, 100)).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "40001");
    assert_eq!(cause(db, &error), Some(Cause::Conflict));
    let next = branch.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(cause(db, &next), Some(Cause::RollbackOnly));
}

async fn a_deadlock_in_a_statement_is_a_conflict(db: &Db) {
    rows(db).await;
    let (one, two) = (db.open(1).await, db.open(2).await);
    one.batch_execute(&update(db, 100)).await.unwrap();
    two.batch_execute(&update(db, 200)).await.unwrap();
    let (first, second) = (update(db, 200), update(db, 100));
    // The one that loses lets the other go on.
    let (a, b) = tokio::join!(ending(one, &first), ending(two, &second));
    let error = match (a, b) {
        (Err(error), Ok(())) | (Ok(()), Err(error)) => error,
        other => panic!("not one deadlock: {other:?}"),
    };
    assert_eq!(error.code().unwrap().code(), "40P01");
    assert_eq!(cause(db, &error), Some(Cause::Conflict));
}

async fn ending(branch: PgBranch, sql: &str) -> Result<(), tokio_postgres::Error> {
    branch.batch_execute(sql).await
}

async fn other_failures_are_told_apart_from_conflicts(db: &Db) {
    rows(db).await;
    let table = &db.table;
    for (sql, expected) in [
        (
            format!("INSERT INTO {table} VALUES (100, 'again')"),
            Cause::Refused,
        ),
        ("SELECT 1/0".to_owned(), Cause::Refused),
        (
            "SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)".to_owned(),
            Cause::Timeout,
        ),
    ] {
        let branch = db.open(1).await;
        let error = branch.batch_execute(&sql).await.unwrap_err();
        assert_eq!(cause(db, &error), Some(expected), "{sql}");
    }
    let holder = db.open(2).await;
    holder.batch_execute(&update(db, 100)).await.unwrap();
    let waiter = db.open(3).await;
    let sql = format!("SELECT 1 FROM {table} WHERE id = 100 FOR UPDATE NOWAIT");
    let error = waiter.batch_execute(&sql).await.unwrap_err();
    assert_eq!(cause(db, &error), Some(Cause::Timeout), "55P03");
    // A mistake in the program is no answer of the server's.
    let branch = db.open(4).await;
    let error = branch.query_one("SELECT 1 WHERE false", &[]).await;
    assert_eq!(cause(db, &error.unwrap_err()), None);
}

async fn a_session_that_was_ended_is_unreachable(db: &Db) {
    let branch = db.open(1).await;
    let pid = backend_pid(&branch).await;
    let end = async {
        during_sleep(db, pid).await;
        db.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    };
    let (error, ()) = tokio::join!(branch.batch_execute("SELECT pg_sleep(60)"), end);
    assert_eq!(cause(db, &error.unwrap_err()), Some(Cause::Unreachable));
    eventually("it is closed", async || branch.is_closed()).await;
    let error = branch.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(cause(db, &error), Some(Cause::Unreachable));
}

on_both!(
    a_serialization_failure_in_a_statement_is_a_conflict,
    a_deadlock_in_a_statement_is_a_conflict,
    other_failures_are_told_apart_from_conflicts,
    a_session_that_was_ended_is_unreachable,
);
