//! Results that the application reads itself, or leaves unread: errors come up behind our back.

use futures_util::StreamExt;
use unanimous_core::ports::Branch;
use unanimous_mysql::mysql_async::Row;
use unanimous_mysql::mysql_async::prelude::Queryable;

use crate::support::{Db, code, expect_prepared, expect_rolled_back};

/// The driver hands the error of a later statement to whoever comes next.
async fn an_error_in_results_that_were_never_read_is_a_rollback_vote(db: &Db) {
    let mut branch = db.active(1).await;
    let sql = format!("SELECT 1; INSERT INTO {} VALUES (1, 'v')", db.table);
    drop(branch.query_iter(sql).await.unwrap());
    expect_rolled_back(branch.prepare().await);
    assert!(!db.is_listed(1).await && !db.has(1).await);
}

async fn an_error_while_results_are_read_and_ignored_is_a_rollback_vote(db: &Db) {
    let mut branch = db.active(1).await;
    let sql = format!("SELECT 1; INSERT INTO {} VALUES (1, 'v')", db.table);
    let mut result = branch.query_iter(sql).await.unwrap();
    let first: Vec<u32> = result.collect().await.unwrap();
    assert_eq!(first, [1]);
    let second = result.collect::<Row>().await.unwrap_err();
    assert_eq!(code(&second), 1062);
    drop(result);
    expect_rolled_back(branch.prepare().await);
    assert!(!db.has(1).await);
}

async fn an_error_in_the_midst_of_rows_is_a_rollback_vote(db: &Db) {
    let mut branch = db.active(1).await;
    let sql = format!("SELECT EXP(id * 1000) FROM {}", db.table);
    let failed = async {
        let mut stream = branch.query_stream::<f64, _>(sql).await?;
        while let Some(row) = stream.next().await {
            row?;
        }
        Ok::<_, unanimous_mysql::mysql_async::Error>(())
    };
    assert_eq!(code(&failed.await.unwrap_err()), 1690);
    expect_rolled_back(branch.prepare().await);
    assert!(!db.has(1).await);
}

async fn an_error_in_results_can_be_handled(db: &Db) {
    let mut branch = db.active(1).await;
    let sql = format!("SELECT 1; INSERT INTO {} VALUES (1, 'v')", db.table);
    let result = branch.query_iter(&sql).await.unwrap();
    assert_eq!(code(&result.drop_result().await.unwrap_err()), 1062);
    assert!(branch.statement_error_handled());
    // The next results are watched as well as the first.
    let result = branch.query_iter(&sql).await.unwrap();
    assert_eq!(code(&result.drop_result().await.unwrap_err()), 1062);
    let reply = branch.prepare().await;
    expect_rolled_back(reply);
    assert!(!db.has(1).await);
}

async fn an_error_that_was_handled_is_no_suspicion_against_later_results(db: &Db) {
    let mut branch = db.active(1).await;
    db.insert(&mut branch, 1).await.unwrap_err();
    assert!(branch.statement_error_handled());
    let mut result = branch.query_iter("SELECT 1 UNION SELECT 2").await.unwrap();
    assert_eq!(result.collect::<u32>().await.unwrap(), [1, 2]);
    drop(result);
    drop(branch.query_iter("SELECT 1 UNION SELECT 2").await.unwrap());
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has(1).await);
}

/// Ten thousand rows that nobody reads are read away before the branch is prepared.
async fn rows_that_were_never_read_do_not_disturb(db: &Db) {
    let mut branch = db.active(1).await;
    let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) \
                SELECT REPEAT('x', 1000) FROM n";
    let mut stream = branch.query_stream::<String, _>(many).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    drop(branch.query_iter(many).await.unwrap());
    db.insert(&mut branch, 2).await.unwrap();
    drop(branch.exec_iter(many, ()).await.unwrap());
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has(1).await && db.has(2).await);
}

/// A rollback does not need them.
async fn rows_that_were_never_read_do_not_disturb_a_rollback(db: &Db) {
    let mut branch = db.active(1).await;
    let sql = format!(
        "SELECT 1; SELECT 2; INSERT INTO {} VALUES (1, 'v')",
        db.table
    );
    drop(branch.query_iter(sql).await.unwrap());
    branch.rollback().await.unwrap();
    assert!(!db.has(1).await);
    Box::new(branch).release().await;
}

/// All of the driver's ways to run a statement reach the branch.
async fn every_method_of_the_driver_works(db: &Db) {
    let mut branch = db.open(1).await;
    branch.ping().await.unwrap();
    let insert = format!("INSERT INTO {} VALUES (?, ?)", db.table);
    branch
        .exec_batch(&insert, [(1, "a"), (2, "b"), (3, "c")])
        .await
        .unwrap();
    let statement = branch
        .prep(format!("SELECT id FROM {} WHERE id > ?", db.table))
        .await
        .unwrap();
    assert_eq!(
        branch.exec::<u32, _, _>(&statement, (1,)).await.unwrap(),
        [2, 3]
    );
    assert_eq!(
        branch
            .exec_first::<u32, _, _>(&statement, (2,))
            .await
            .unwrap(),
        Some(3)
    );
    let doubled = branch
        .exec_map(&statement, (1,), |id: u32| 2 * id)
        .await
        .unwrap();
    assert_eq!(doubled, [4, 6]);
    let sum = branch
        .exec_fold(&statement, (0,), 0, |sum, id: u32| sum + id)
        .await
        .unwrap();
    assert_eq!(sum, 6);
    let streamed: Vec<_> = branch
        .exec_stream::<u32, _, _>(&statement, (1,))
        .await
        .unwrap()
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(streamed, [2, 3]);
    branch.close(statement).await.unwrap();
    let all = format!("SELECT id FROM {}", db.table);
    assert_eq!(branch.query::<u32, _>(&all).await.unwrap(), [1, 2, 3]);
    assert_eq!(branch.query_first::<u32, _>(&all).await.unwrap(), Some(1));
    assert_eq!(
        branch.query_map(&all, |id: u32| id + 1).await.unwrap(),
        [2, 3, 4]
    );
    let sum = branch
        .query_fold(&all, 0, |sum, id: u32| sum + id)
        .await
        .unwrap();
    assert_eq!(sum, 6);
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has(1).await && db.has(2).await && db.has(3).await);
}

on_both!(
    an_error_in_results_that_were_never_read_is_a_rollback_vote,
    an_error_while_results_are_read_and_ignored_is_a_rollback_vote,
    an_error_in_the_midst_of_rows_is_a_rollback_vote,
    an_error_in_results_can_be_handled,
    an_error_that_was_handled_is_no_suspicion_against_later_results,
    rows_that_were_never_read_do_not_disturb,
    rows_that_were_never_read_do_not_disturb_a_rollback,
    every_method_of_the_driver_works,
);
