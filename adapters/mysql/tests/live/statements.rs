//! Failed statements and dropped futures: what the server would commit, and the adapter does not.

use std::time::Duration;

use tokio::time::timeout;
use unanimous_core::ports::{Branch, Cause, OnePhaseReply, Resource};
use unanimous_mysql::RollbackOnly;
use unanimous_mysql::mysql_async::Error;
use unanimous_mysql::mysql_async::prelude::Queryable;

use crate::support::{Db, code, connection_id, eventually, expect_prepared, expect_rolled_back};

/// Both servers would prepare what the other statements have done.
async fn a_failed_statement_is_a_rollback_vote(db: &Db) {
    let mut branch = db.active(1).await;
    let twice = db.insert(&mut branch, 1).await.unwrap_err();
    assert_eq!(code(&twice), 1062);
    db.insert(&mut branch, 2).await.unwrap();
    let (cause, error) = expect_rolled_back(branch.prepare().await);
    assert_eq!(cause, Cause::Refused, "{error}");
    assert!(
        error.to_string().contains("statement_error_handled"),
        "{error}"
    );
    assert!(!db.is_listed(1).await && !db.has(1).await && !db.has(2).await);
}

async fn a_failed_statement_is_a_rollback_vote_in_one_phase_too(db: &Db) {
    let mut branch = db.active(1).await;
    db.insert(&mut branch, 1).await.unwrap_err();
    let reply = branch.commit_one_phase().await;
    assert!(matches!(reply, OnePhaseReply::RolledBack(_)), "{reply:?}");
    assert!(!db.has(1).await);
}

async fn a_failed_statement_that_was_handled_does_not_keep_the_branch_from_committing(db: &Db) {
    let mut branch = db.active(1).await;
    db.insert(&mut branch, 1).await.unwrap_err();
    assert!(branch.statement_error_handled());
    db.insert(&mut branch, 2).await.unwrap();
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has(1).await && db.has(2).await);
}

/// `COMMIT`, `ROLLBACK` and DDL are refused with 1399 inside XA, and nothing happens.
async fn a_statement_that_would_end_the_transaction_is_refused(db: &Db) {
    let mut branch = db.active(1).await;
    for sql in [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        &format!("TRUNCATE TABLE {}", db.table),
    ] {
        let refused = branch.query_drop(sql).await.unwrap_err();
        assert_eq!(code(&refused), 1399, "{sql}");
    }
    assert!(!db.has(1).await);
    assert!(branch.statement_error_handled());
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has(1).await);
}

/// The driver would give the late answer to the next request.
async fn i7_a_dropped_statement_makes_the_branch_rollback_only_for_good(db: &Db) {
    let mut branch = db.active(1).await;
    let dropped = timeout(Duration::from_millis(200), branch.query_drop("DO SLEEP(2)")).await;
    assert!(dropped.is_err(), "it was still running");
    let refused = branch.query_first::<u32, _>("SELECT 42").await.unwrap_err();
    let Error::Other(source) = &refused else {
        panic!("{refused}")
    };
    assert!(source.downcast_ref::<RollbackOnly>().is_some(), "{refused}");
    assert!(!branch.statement_error_handled());
    let (cause, error) = expect_rolled_back(branch.prepare().await);
    assert_eq!(cause, Cause::RollbackOnly, "{error}");
    assert!(!db.is_listed(1).await && !db.has(1).await);
}

/// A server does not notice a closed socket while it runs a statement; the locks would stay.
///
/// A killed connection rolls back before it is gone, which takes a while here: *confirmed* means
/// that it was waited for.
async fn i7_the_rollback_of_a_dropped_statement_is_confirmed_and_frees_its_locks(db: &Db) {
    let mut branch = db.active(1).await;
    let connection = connection_id(&mut branch).await;
    for power in 0..16 {
        let more = 1 << power;
        let doubled = format!("INSERT INTO {0} SELECT id + {more}, v FROM {0}", db.table);
        branch.query_drop(doubled).await.unwrap();
    }
    let dropped = timeout(
        Duration::from_millis(200),
        branch.query_drop("DO SLEEP(60)"),
    )
    .await;
    assert!(dropped.is_err(), "it was still running");
    branch.rollback().await.unwrap();
    assert!(
        !db.connections().await.contains(&connection),
        "the connection was seen gone"
    );
    let mut tries = 0;
    eventually("its locks are free", async || {
        tries += 1;
        let Ok(mut next) = db.resource.open(db.env(1)).await else {
            return false;
        };
        let is_free = db.insert(&mut next, 1).await.is_ok();
        next.rollback().await.unwrap();
        is_free
    })
    .await;
    // MySQL forgets a connection before it has rolled back what it did.
    assert!(tries == 1 || !db.is_mariadb(), "{tries} tries");
}

async fn i7_a_branch_that_is_dropped_with_a_statement_running_frees_its_locks(db: &Db) {
    let mut branch = db.active(1).await;
    let connection = connection_id(&mut branch).await;
    let dropped = timeout(
        Duration::from_millis(200),
        branch.query_drop("DO SLEEP(60)"),
    )
    .await;
    assert!(dropped.is_err(), "it was still running");
    drop(branch);
    eventually("the connection is ended", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
}

/// The check that the transaction is still open finds nothing wrong with harmless statements.
async fn statements_of_every_kind_leave_the_branch_open(db: &Db) {
    let table = &db.table;
    for read_only in [false, true] {
        let mut env = db.env(if read_only { 2 } else { 1 });
        env.read_only = read_only;
        let mut branch = db.resource.open(env).await.unwrap();
        for sql in [
            "SET @a = 1",
            "SELECT 1 INTO @a",
            "DO 1",
            "USE app",
            "SHOW TABLES",
            "SHOW WARNINGS",
            "EXPLAIN SELECT 1",
            "SAVEPOINT s",
            "ROLLBACK TO s",
            "RELEASE SAVEPOINT s",
            "PREPARE p FROM 'SELECT 1'",
            "EXECUTE p",
            "DEALLOCATE PREPARE p",
            "SET NAMES utf8mb4",
            "SET SESSION sql_mode = ''",
            "SELECT @@version",
            &format!("SELECT * FROM {table}"),
            &format!("DESCRIBE {table}"),
        ] {
            branch.query_drop(sql).await.unwrap();
            if !matches!(sql, "USE app" | "EXECUTE p") && !sql.starts_with("PREPARE") {
                // Over the binary protocol as well, if the server takes it there.
                if branch.exec_drop(sql, ()).await.is_err() {
                    assert!(branch.statement_error_handled(), "{sql}");
                }
            }
            branch
                .ping()
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        if read_only {
            branch.end_read_only().await.unwrap();
        } else {
            for sql in [
                format!("INSERT INTO {table} VALUES (1, 'v'), (2, 'w')"),
                format!("SELECT * FROM {table} WHERE id = 1 FOR UPDATE"),
                format!("INSERT INTO {table} SELECT id + 10, v FROM {table}"),
                format!("UPDATE {table} SET v = 'x' WHERE id = 11"),
                format!("DELETE FROM {table} WHERE id > 10"),
                format!("UPDATE {table} SET v = 'x' WHERE FALSE"),
            ] {
                branch.query_drop(sql).await.unwrap();
            }
            branch
                .exec_batch("DO ?", Vec::<(u8,)>::new())
                .await
                .unwrap();
            expect_prepared(branch.prepare().await);
            branch.commit().await.unwrap();
            assert!(db.has(1).await && db.has(2).await);
        }
    }
}

/// A future that was never polled has sent nothing.
async fn a_statement_that_was_never_polled_does_no_harm(db: &Db) {
    let mut branch = db.active(1).await;
    drop(branch.query_drop("DO SLEEP(60)"));
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has(1).await);
}

/// The driver closes the connection after an error of its own; the message says what it was.
async fn an_error_of_the_driver_rolls_back(db: &Db) {
    let mut branch = db.active(1).await;
    branch.exec_drop("SELECT ?, ?", (1,)).await.unwrap_err();
    let (cause, error) = expect_rolled_back(branch.prepare().await);
    assert_eq!(cause, Cause::Unreachable, "{error}");
    assert!(error.to_string().contains("2 parameters"), "{error}");
    assert!(!db.has(1).await);
}

/// Statements in one request stop at the first error; what came before is in the branch.
async fn an_error_inside_a_multi_statement_is_a_rollback_vote(db: &Db) {
    let mut branch = db.open(1).await;
    let table = &db.table;
    let sql = format!("INSERT INTO {table} VALUES (1, 'v'); INSERT INTO {table} VALUES (1, 'v')");
    assert_eq!(code(&branch.query_drop(sql).await.unwrap_err()), 1062);
    expect_rolled_back(branch.prepare().await);
    assert!(!db.has(1).await);
}

/// MySQL refuses temporary tables inside XA (4091), MariaDB allows them.
async fn temporary_tables_are_mariadbs_alone(db: &Db) {
    let mut branch = db.open(1).await;
    let made = branch
        .query_drop(format!("CREATE TEMPORARY TABLE tmp_{} (a INT)", db.table))
        .await;
    if db.is_mariadb() {
        made.unwrap();
        expect_prepared(branch.prepare().await);
        branch.rollback().await.unwrap();
    } else {
        assert_eq!(code(&made.unwrap_err()), 4091);
        expect_rolled_back(branch.prepare().await);
    }
}

on_both!(
    a_failed_statement_is_a_rollback_vote,
    a_failed_statement_is_a_rollback_vote_in_one_phase_too,
    a_failed_statement_that_was_handled_does_not_keep_the_branch_from_committing,
    a_statement_that_would_end_the_transaction_is_refused,
    i7_a_dropped_statement_makes_the_branch_rollback_only_for_good,
    i7_the_rollback_of_a_dropped_statement_is_confirmed_and_frees_its_locks,
    i7_a_branch_that_is_dropped_with_a_statement_running_frees_its_locks,
    statements_of_every_kind_leave_the_branch_open,
    a_statement_that_was_never_polled_does_no_harm,
    an_error_of_the_driver_rolls_back,
    an_error_inside_a_multi_statement_is_a_rollback_vote,
    temporary_tables_are_mariadbs_alone,
);
