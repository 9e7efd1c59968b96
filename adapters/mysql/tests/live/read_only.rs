//! Readers: enforced by the server, without XID.

use unanimous_core::ports::{Branch, BranchErrorKind, Cause, PrepareReply, Resource};
use unanimous_mysql::MysqlBranch;
use unanimous_mysql::mysql_async::prelude::Queryable;

use crate::support::{Db, code};

async fn reader(db: &Db) -> MysqlBranch {
    let mut env = db.env(1);
    env.read_only = true;
    db.resource.open(env).await.unwrap()
}

async fn a_reader_cannot_write_and_its_attempt_is_a_rollback_vote(db: &Db) {
    let mut branch = reader(db).await;
    assert_eq!(code(&db.insert(&mut branch, 1).await.unwrap_err()), 1792);
    let error = branch.end_read_only().await.unwrap_err();
    assert_eq!(
        error.kind(),
        BranchErrorKind::RolledBack(Cause::Refused),
        "{error}"
    );
    assert!(!db.has(1).await);
}

/// Were it not for the session's own setting, the statement after a `COMMIT` would write.
async fn a_reader_that_ends_its_transaction_can_still_not_write(db: &Db) {
    let mut branch = reader(db).await;
    branch.query_drop("COMMIT").await.unwrap();
    // Refused by us: the transaction is not the one that was opened.
    db.insert(&mut branch, 1).await.unwrap_err();
    let error = branch.end_read_only().await.unwrap_err();
    assert_eq!(
        error.kind(),
        BranchErrorKind::RolledBack(Cause::RollbackOnly),
        "{error}"
    );

    let mut branch = reader(db).await;
    let sql = format!("COMMIT; INSERT INTO {} VALUES (1, 'v')", db.table);
    assert_eq!(
        code(&branch.query_drop(sql).await.unwrap_err()),
        1792,
        "refused by the server"
    );
    branch.end_read_only().await.unwrap_err();
    assert!(!db.has(1).await);
}

async fn a_reader_that_turns_into_a_writer_is_noticed(db: &Db) {
    let mut branch = reader(db).await;
    branch
        .query_drop("COMMIT; START TRANSACTION READ WRITE")
        .await
        .unwrap();
    db.insert(&mut branch, 1).await.unwrap_err();
    branch.end_read_only().await.unwrap_err();
    assert!(!db.has(1).await);
}

/// The last of the results that the application reads itself tells it.
async fn a_reader_that_turns_into_a_writer_by_results_that_are_read_is_noticed(db: &Db) {
    let mut branch = reader(db).await;
    let sql = format!(
        "COMMIT; START TRANSACTION READ WRITE; INSERT INTO {} VALUES (1, 'v')",
        db.table
    );
    let result = branch.query_iter(sql).await.unwrap();
    result.drop_result().await.unwrap();
    branch.end_read_only().await.unwrap_err();
    assert!(!db.has(1).await);
}

async fn a_session_that_was_a_readers_can_write_again(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1));
    let mut env = db.env(1);
    env.read_only = true;
    let mut branch = resource.open(env).await.unwrap();
    branch.end_read_only().await.unwrap();
    Box::new(branch).release().await;
    let mut writer = resource.open(db.env(2)).await.unwrap();
    db.insert(&mut writer, 2).await.unwrap();
    writer.rollback().await.unwrap();
}

/// The protocol does not ask it, but it would be told the truth.
async fn a_reader_that_is_asked_to_prepare_votes_read_only(db: &Db) {
    let mut branch = reader(db).await;
    branch
        .query_drop(format!("SELECT * FROM {}", db.table))
        .await
        .unwrap();
    let reply = branch.prepare().await;
    assert!(matches!(reply, PrepareReply::ReadOnly), "{reply:?}");
    assert!(db.listed().await.is_empty());
}

async fn a_reader_rolls_back(db: &Db) {
    let mut branch = reader(db).await;
    branch
        .query_drop(format!("SELECT * FROM {}", db.table))
        .await
        .unwrap();
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
}

on_both!(
    a_reader_cannot_write_and_its_attempt_is_a_rollback_vote,
    a_reader_that_ends_its_transaction_can_still_not_write,
    a_reader_that_turns_into_a_writer_is_noticed,
    a_reader_that_turns_into_a_writer_by_results_that_are_read_is_noticed,
    a_session_that_was_a_readers_can_write_again,
    a_reader_that_is_asked_to_prepare_votes_read_only,
    a_reader_rolls_back,
);
