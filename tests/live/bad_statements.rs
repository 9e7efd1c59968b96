//! Statements that fail, or end a branch behind the transaction's back, through the whole manager.

use unanimous::mysql::Mysql;
use unanimous::ports::Branch;
use unanimous::postgres::Postgres;
use unanimous::{CommitError, Transaction, TransactionOutcome};

use crate::support::{Account, Bank, Db, PAIRS, Transfer, table};
use crate::with_banks;

async fn accounts(pair: (Db, Db), test: &str) -> (Account, Account) {
    let name = table(test);
    let from = Account::create(pair.0, &format!("{name}_a")).await;
    let to = Account::create(pair.1, &format!("{name}_b")).await;
    (from, to)
}

/// A second account of the same number.
fn failing(table: &str) -> String {
    format!("INSERT INTO {table} VALUES (1, 0)")
}

async fn expect_rolled_back(tx: Transaction, parts: &[&str]) {
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

async fn failed_statements<A: Bank, B: Bank>(from: &Account, to: &Account) {
    let folder = tempfile::tempdir().unwrap();
    let transfer = Transfer::<A, B>::new(from, to);
    let builder = transfer.builder(&folder.path().join("log"));
    let tm = builder.start().await.unwrap();

    let mut tx = transfer.begin(&tm).await.unwrap();
    let branch = tx.enlist(&transfer.to).await.unwrap();
    B::run(branch, &failing(&to.table)).await.unwrap_err();
    expect_rolled_back(tx, &["resource ledger"]).await;
    assert_eq!((from.balance().await, to.balance().await), (100, 100));

    let mut tx = transfer.begin(&tm).await.unwrap();
    let branch = tx.enlist(&transfer.to).await.unwrap();
    B::run(branch, "SAVEPOINT before_it").await.unwrap();
    B::add(branch, &to.table, 1000).await.unwrap();
    B::run(branch, &failing(&to.table)).await.unwrap_err();
    B::run(branch, "ROLLBACK TO SAVEPOINT before_it")
        .await
        .unwrap();
    B::handled(branch);
    tx.commit().await.unwrap();
    assert_eq!((from.balance().await, to.balance().await), (70, 130));
    tm.shutdown().await.unwrap();
}

#[tokio::test]
async fn i1_a_failed_statement_rolls_both_back_and_one_that_a_savepoint_undid_does_not() {
    for pair in PAIRS {
        let (from, to) = accounts(pair, "failed_statement").await;
        with_banks!((from, to), failed_statements(&from, &to));
        from.drop_table().await;
        to.drop_table().await;
    }
}

/// What was committed by hand stays so, which nobody can change; the other branch is rolled back,
/// and the error tells.
#[tokio::test]
async fn a_branch_that_was_committed_by_hand_rolls_the_others_back_and_the_error_says_so() {
    for other in [Db::Mysql, Db::Mariadb, Db::Postgres15] {
        for (sql, stays) in [
            ("COMMIT", true),
            ("COMMIT AND CHAIN", true),
            ("ROLLBACK", false),
            ("COMMIT; BEGIN", true),
        ] {
            let (from, to) = accounts((Db::PostgresNewest, other), "by_hand").await;
            with_banks!((from, to), ended_by_hand(&from, &to, sql, stays));
            from.drop_table().await;
            to.drop_table().await;
        }
    }
}

async fn ended_by_hand<A: Bank, B: Bank>(from: &Account, to: &Account, sql: &str, stays: bool) {
    let folder = tempfile::tempdir().unwrap();
    let transfer = Transfer::<A, B>::new(from, to);
    let builder = transfer.builder(&folder.path().join("log"));
    let tm = builder.start().await.unwrap();
    let mut tx = transfer.begin(&tm).await.unwrap();
    let gtrid = tx.gtrid();
    let branch = tx.enlist(&transfer.from).await.unwrap();
    A::run(branch, sql).await.unwrap();
    let said = [
        "resource orders",
        "ended this branch's transaction itself",
        "stays committed",
    ];
    expect_rolled_back(tx, &said).await;
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::RolledBack);
    let from_has = if stays { 70 } else { 100 };
    assert_eq!((from.balance().await, to.balance().await), (from_has, 100));
    assert_eq!(from.prepared(gtrid).await + to.prepared(gtrid).await, 0);
    // And the next one is not disturbed.
    transfer.begin(&tm).await.unwrap().commit().await.unwrap();
    assert_eq!(to.balance().await, 130);
    tm.shutdown().await.unwrap();
}

/// MySQL and MariaDB refuse COMMIT inside XA; XA by hand is what is left to do wrong.
#[tokio::test]
async fn a_branch_whose_xa_was_ended_by_hand_rolls_the_others_back() {
    for db in [Db::Mysql, Db::Mariadb] {
        for (end, stays) in [("XA COMMIT", true), ("XA ROLLBACK", false)] {
            let (from, to) = accounts((db, Db::PostgresNewest), "xa_by_hand").await;
            let folder = tempfile::tempdir().unwrap();
            let transfer = Transfer::<Mysql, Postgres>::new(&from, &to);
            let builder = transfer.builder(&folder.path().join("log"));
            let tm = builder.start().await.unwrap();

            let mut tx = transfer.begin(&tm).await.unwrap();
            let branch = tx.enlist(&transfer.from).await.unwrap();
            let refused = Mysql::run(branch, "COMMIT").await.unwrap_err();
            assert!(refused.to_string().contains("XAER_RMFAIL"), "{refused}");
            Mysql::handled(branch);
            let xid = branch.xid().clone();
            let xid = format!("'{}','{}',1431191886", xid.gtrid, xid.bqual);
            let one_phase = if stays { " ONE PHASE" } else { "" };
            for sql in [format!("XA END {xid}"), format!("{end} {xid}{one_phase}")] {
                Mysql::run(branch, &sql).await.unwrap();
            }
            expect_rolled_back(tx, &["resource orders"]).await;
            let from_has = if stays { 70 } else { 100 };
            assert_eq!((from.balance().await, to.balance().await), (from_has, 100));
            tm.shutdown().await.unwrap();
            from.drop_table().await;
            to.drop_table().await;
        }
    }
}
