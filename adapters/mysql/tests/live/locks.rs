//! Lock waits, deadlocks, and what a prepared branch holds.

use std::time::Duration;

use unanimous_core::ports::{Branch, Cause, OnePhaseReply, Resource, ResourceManager};
use unanimous_core::protocol::Decision;
use unanimous_mysql::RollbackOnly;
use unanimous_mysql::mysql_async::Error;
use unanimous_mysql::mysql_async::prelude::Queryable;

use crate::support::{Db, code, expect_prepared, expect_rolled_back, start};
use xtask::servers::Kind;

async fn update(db: &Db, branch: &mut unanimous_mysql::MysqlBranch, id: u64) -> Result<(), Error> {
    branch
        .query_drop(format!("UPDATE {} SET v = 'w' WHERE id = {id}", db.table))
        .await
}

async fn two_rows(db: &Db) {
    db.sql(&format!(
        "INSERT INTO {} VALUES (101, 'v'), (102, 'v')",
        db.table
    ))
    .await;
}

/// 1205 rolls back the statement only; both servers would prepare the rest.
async fn a_lock_wait_timeout_is_a_rollback_vote(db: &Db) {
    two_rows(db).await;
    let mut holder = db.open(1).await;
    update(db, &mut holder, 101).await.unwrap();
    let mut waiter = db.active(2).await;
    let error = update(db, &mut waiter, 101).await.unwrap_err();
    assert_eq!(code(&error), 1205);
    assert_eq!(db.resource.cause_of(&error), Some(Cause::Timeout));
    let (cause, error) = expect_rolled_back(waiter.prepare().await);
    assert_eq!(cause, Cause::Timeout, "{error}");
    assert!(!db.has(2).await);
    holder.rollback().await.unwrap();
}

async fn a_lock_wait_timeout_that_was_handled_lets_the_rest_be_committed(db: &Db) {
    two_rows(db).await;
    let mut holder = db.open(1).await;
    update(db, &mut holder, 101).await.unwrap();
    let mut waiter = db.active(2).await;
    assert_eq!(code(&update(db, &mut waiter, 101).await.unwrap_err()), 1205);
    assert!(waiter.statement_error_handled());
    expect_prepared(waiter.prepare().await);
    waiter.commit().await.unwrap();
    assert!(db.has(2).await);
    holder.rollback().await.unwrap();
}

/// After a deadlock MariaDB, in some versions, ran the next statement in a transaction of its own.
async fn after_a_deadlock_no_statement_is_let_through(db: &Db) {
    two_rows(db).await;
    let mut env = db.env(1);
    env.lock_timeout = Duration::from_secs(20);
    let mut first = db.resource.open(env.clone()).await.unwrap();
    env.xid = db.xid(2);
    let mut second = db.resource.open(env).await.unwrap();
    update(db, &mut first, 101).await.unwrap();
    update(db, &mut second, 102).await.unwrap();
    let (one, two) = tokio::join!(update(db, &mut first, 102), update(db, &mut second, 101));
    let (mut victim, mut other, error) = match (one, two) {
        (Err(error), Ok(())) => (first, second, error),
        (Ok(()), Err(error)) => (second, first, error),
        both => panic!("one of two is the victim of a deadlock: {both:?}"),
    };
    assert_eq!(code(&error), 1213);
    assert_eq!(db.resource.cause_of(&error), Some(Cause::Conflict));
    let refused = db.insert(&mut victim, 3).await.unwrap_err();
    assert_eq!(db.resource.cause_of(&refused), Some(Cause::Conflict));
    let Error::Other(source) = &refused else {
        panic!("{refused}")
    };
    assert!(source.downcast_ref::<RollbackOnly>().is_some(), "{refused}");
    assert!(!victim.statement_error_handled());
    let (cause, error) = expect_rolled_back(victim.prepare().await);
    assert_eq!(cause, Cause::Conflict, "{error}");
    Box::new(victim).release().await;
    expect_prepared(other.prepare().await);
    other.commit().await.unwrap();
    assert!(!db.has(3).await);
}

async fn a_deadlock_is_a_conflict_in_one_phase_and_at_rollback_too(db: &Db) {
    two_rows(db).await;
    let mut plain = db.plain().await;
    plain
        .query_drop("SET innodb_lock_wait_timeout = 20")
        .await
        .unwrap();
    let mut env = db.env(1);
    env.lock_timeout = Duration::from_secs(20);
    let mut branch = db.resource.open(env).await.unwrap();
    // The transaction with fewer changes is the victim.
    let (one, two) = (
        format!("UPDATE {} SET v = 'x' WHERE id = 101", db.table),
        format!("UPDATE {} SET v = 'x' WHERE id = 102", db.table),
    );
    plain.query_drop("BEGIN").await.unwrap();
    for id in 200..260 {
        let sql = format!("INSERT INTO {} VALUES ({id}, 'v')", db.table);
        plain.query_drop(sql).await.unwrap();
    }
    plain.query_drop(&one).await.unwrap();
    branch.query_drop(&two).await.unwrap();
    let (ours, theirs) = tokio::join!(branch.query_drop(&one), plain.query_drop(&two));
    assert_eq!(code(&ours.unwrap_err()), 1213);
    theirs.unwrap();
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
    plain.query_drop("ROLLBACK").await.unwrap();
}

/// A procedure whose handler swallows the deadlock says that all is well, and goes on writing. Some
/// versions of MariaDB would do that in a transaction of InnoDB's own.
async fn a_deadlock_that_a_procedure_swallowed_is_a_rollback_vote(db: &Db) {
    two_rows(db).await;
    let table = &db.table;
    let procedure = format!("p_{}", &table[2..]);
    let mut plain = db.plain().await;
    plain
        .query_drop(format!(
            "CREATE PROCEDURE {procedure}() BEGIN \
             DECLARE CONTINUE HANDLER FOR SQLEXCEPTION SET @swallowed = 1; \
             UPDATE {table} SET v = 'x' WHERE id = 101; \
             INSERT INTO {table} VALUES (103, 'v'); END"
        ))
        .await
        .unwrap();
    for one_phase in [false, true] {
        let mut env = db.env(if one_phase { 2 } else { 1 });
        env.lock_timeout = Duration::from_secs(20);
        let mut branch = db.resource.open(env).await.unwrap();
        db.insert(&mut branch, 1).await.unwrap();
        update(db, &mut branch, 102).await.unwrap();
        // The transaction with fewer changes is the victim.
        let setup = "SET innodb_lock_wait_timeout = 20; BEGIN";
        plain.query_drop(setup).await.unwrap();
        for id in 200..260 {
            let sql = format!("INSERT INTO {table} VALUES ({id}, 'v')");
            plain.query_drop(sql).await.unwrap();
        }
        let hold = format!("UPDATE {table} SET v = 'y' WHERE id = 101");
        plain.query_drop(hold).await.unwrap();
        let close = format!("UPDATE {table} SET v = 'y' WHERE id = 102");
        let call = format!("CALL {procedure}()");
        let (ours, theirs) = tokio::join!(branch.query_drop(call), plain.query_drop(close));
        theirs.unwrap();
        ours.unwrap();
        plain.query_drop("ROLLBACK").await.unwrap();
        if one_phase {
            let reply = branch.commit_one_phase().await;
            assert!(matches!(reply, OnePhaseReply::RolledBack(_)), "{reply:?}");
        } else {
            expect_rolled_back(branch.prepare().await);
        }
        assert!(!db.has(1).await && !db.has(103).await);
    }
    db.sql(&format!("DROP PROCEDURE {procedure}")).await;
}

/// Two branches of one transaction on one server are not joined: the second waits for the first.
async fn two_branches_of_one_gtrid_on_one_server_block_each_other(db: &Db) {
    two_rows(db).await;
    let mut first = db.open(1).await;
    let other = unanimous_mysql::Mysql::builder("other", &db.url)
        .build()
        .unwrap();
    let mut env = db.env(1);
    env.xid.bqual = "other".parse().unwrap();
    let mut second = other.open(env).await.unwrap();
    assert_eq!(
        first.scope(),
        second.scope(),
        "so they may not be of one transaction"
    );
    update(db, &mut first, 101).await.unwrap();
    assert_eq!(code(&update(db, &mut second, 101).await.unwrap_err()), 1205);
    first.rollback().await.unwrap();
    second.rollback().await.unwrap();
}

/// A branch without changes: MySQL releases its row locks at prepare, MariaDB keeps them as long as
/// its connection lives. Change a row to guard it.
async fn a_row_that_is_only_locked_is_not_guarded_by_a_prepared_branch(db: &Db) {
    two_rows(db).await;
    let mut branch = db.open(1).await;
    let lock = format!("SELECT id FROM {} WHERE id = 101 FOR UPDATE", db.table);
    branch.query_drop(lock).await.unwrap();
    expect_prepared(branch.prepare().await);
    let mut other = db.open(2).await;
    let updated = update(db, &mut other, 101).await;
    assert_eq!(updated.is_err(), db.is_mariadb(), "{updated:?}");
    other.rollback().await.unwrap();
    branch.commit().await.unwrap();
}

/// MariaDB ends a prepared branch without changes when its connection closes, and answers 1402 to
/// its commit. Nothing was there to be committed; MySQL keeps it.
async fn a_prepared_branch_without_changes_can_be_finished_either_way(db: &Db) {
    for (sequence, decision) in [(1, Decision::Commit), (2, Decision::Rollback)] {
        let mut branch = db.open(sequence).await;
        branch
            .query_drop(format!("SELECT * FROM {} FOR UPDATE", db.table))
            .await
            .unwrap();
        expect_prepared(branch.prepare().await);
        drop(branch);
        assert!(db.is_listed(sequence).await);
        let xid = db.xid(sequence);
        let mut answers = Vec::new();
        for _ in 0..50 {
            answers.push(db.resource.finish(&xid, decision, None).await);
            if !db.is_listed(sequence).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let last = answers.last().unwrap();
        assert!(last.is_ok() && !db.is_listed(sequence).await, "{answers:?}");
    }
}

/// The same on its own connection.
async fn a_prepared_branch_without_changes_commits_on_its_own_connection(db: &Db) {
    let mut branch = db.open(1).await;
    branch
        .query_drop(format!("SELECT * FROM {}", db.table))
        .await
        .unwrap();
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(!db.is_listed(1).await);
}

/// What was changed stays locked after the connection is gone.
async fn a_row_that_was_changed_is_guarded_by_a_prepared_branch(db: &Db) {
    two_rows(db).await;
    let mut branch = db.open(1).await;
    update(db, &mut branch, 101).await.unwrap();
    expect_prepared(branch.prepare().await);
    drop(branch);
    let mut other = db.open(2).await;
    assert_eq!(code(&update(db, &mut other, 101).await.unwrap_err()), 1205);
    other.rollback().await.unwrap();
    db.finish(&db.xid(1), Decision::Commit).await;
}

/// With `innodb_rollback_on_timeout` the server rolls back the whole branch at a lock wait timeout;
/// saying that it was handled does not help then.
async fn a_branch_that_a_lock_wait_timeout_has_rolled_back_cannot_be_prepared(kind: Kind) {
    let server = start(kind, &["--innodb-rollback-on-timeout=ON"]);
    let db = Db::on(&server).await;
    two_rows(&db).await;
    let mut holder = db.open(1).await;
    update(&db, &mut holder, 101).await.unwrap();
    let mut waiter = db.active(2).await;
    assert_eq!(
        code(&update(&db, &mut waiter, 101).await.unwrap_err()),
        1205
    );
    // Either answer is honest; what counts is the vote.
    let _ = waiter.statement_error_handled();
    expect_rolled_back(waiter.prepare().await);
    assert!(!db.is_listed(2).await && !db.has(2).await);
    holder.rollback().await.unwrap();
}

on_both!(
    a_lock_wait_timeout_is_a_rollback_vote,
    a_lock_wait_timeout_that_was_handled_lets_the_rest_be_committed,
    after_a_deadlock_no_statement_is_let_through,
    a_deadlock_is_a_conflict_in_one_phase_and_at_rollback_too,
    a_deadlock_that_a_procedure_swallowed_is_a_rollback_vote,
    two_branches_of_one_gtrid_on_one_server_block_each_other,
    a_row_that_is_only_locked_is_not_guarded_by_a_prepared_branch,
    a_prepared_branch_without_changes_can_be_finished_either_way,
    a_prepared_branch_without_changes_commits_on_its_own_connection,
    a_row_that_was_changed_is_guarded_by_a_prepared_branch,
);
on_own!(a_branch_that_a_lock_wait_timeout_has_rolled_back_cannot_be_prepared);
