//! `retry` knows a conflict that the application met in a statement of its own, on real servers.

use std::sync::atomic::{AtomicU32, Ordering};

use mysql_async::prelude::Queryable;
use unanimous::log::FileLog;
use unanimous::mysql::{Mysql, MysqlBranch};
use unanimous::postgres::{Isolation, Postgres};
use unanimous::{BoxError, Transaction, TransactionManager};

use crate::support::{Account, Bank, Db, eventually, short_intervals, table};

/// Somebody else changes the row between the snapshot and the update: 40001.
#[tokio::test]
async fn a_conflict_of_an_applications_own_statement_is_retried_in_postgresql() {
    let account = Account::create(Db::PostgresNewest, &table("retry_40001")).await;
    let builder = Postgres::builder("orders", &account.url);
    let orders = builder
        .isolation(Isolation::RepeatableRead)
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tm = TransactionManager::builder()
        .log(FileLog::at(folder.path().join("log")))
        .resource(&orders)
        .config(short_intervals);
    let tm = tm.start().await.unwrap();
    let attempts = AtomicU32::new(0);
    let (orders, account_of, attempts_of) = (&orders, &account, &attempts);
    let add = |mut tx: Transaction| async move {
        let branch = tx.enlist(orders).await?;
        let table = &account_of.table;
        Postgres::run(branch, &format!("SELECT balance FROM {table}")).await?;
        if attempts_of.fetch_add(1, Ordering::SeqCst) == 0 {
            let other = format!("UPDATE {table} SET balance = balance + 1000");
            account_of.sql(&other).await;
        }
        Postgres::add(branch, table, 30).await?;
        tx.commit().await?;
        Ok::<_, BoxError>(())
    };
    tm.retry(add).await.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(account.balance().await, 1130);
    tm.shutdown().await.unwrap();
    account.drop_table().await;
}

/// A deadlock with somebody who has changed more rows, and so is spared: 1213.
#[tokio::test]
async fn a_deadlock_of_an_applications_own_statement_is_retried_in_mysql_and_mariadb() {
    for db in [Db::Mysql, Db::Mariadb] {
        let account = Account::create(db, &table("retry_1213")).await;
        let table = account.table.clone();
        let rows: Vec<String> = (2..200).map(|id| format!("({id}, 100)")).collect();
        let rows = rows.join(", ");
        account
            .sql(&format!("INSERT INTO {table} VALUES {rows}"))
            .await;
        let ledger = Mysql::connect("ledger", &account.url);
        let folder = tempfile::tempdir().unwrap();
        let tm = TransactionManager::builder()
            .log(FileLog::at(folder.path().join("log")))
            .resource(&ledger)
            .config(short_intervals);
        let tm = tm.start().await.unwrap();
        let attempts = AtomicU32::new(0);
        let (ledger, account_of, attempts_of) = (&ledger, &account, &attempts);
        let add = |mut tx: Transaction| async move {
            let branch = tx.enlist(ledger).await?;
            let table = &account_of.table;
            Mysql::add(branch, table, 30).await?;
            if attempts_of.fetch_add(1, Ordering::SeqCst) == 0 {
                deadlock(branch, account_of).await?;
            }
            tx.commit().await?;
            Ok::<_, BoxError>(())
        };
        tm.retry(add).await.unwrap();
        assert_eq!(attempts.load(Ordering::SeqCst), 2);
        eventually("both have added", || async {
            account.balance().await == 1130
        })
        .await;
        tm.shutdown().await.unwrap();
        account.drop_table().await;
    }
}

/// The branch holds row 1; the other holds the rest, waits for row 1, and is waited for.
async fn deadlock(branch: &mut MysqlBranch, account: &Account) -> Result<(), BoxError> {
    let table = account.table.clone();
    let mut other = account.mysql().await;
    other.query_drop("BEGIN").await?;
    let update = |rows: &str| format!("UPDATE {table} SET balance = balance + 1000 WHERE {rows}");
    other.query_drop(update("id > 1")).await?;
    let row_1 = update("id = 1");
    let waiting = tokio::spawn(async move {
        other.query_drop(row_1).await?;
        other.query_drop("COMMIT").await
    });
    let crossed = branch.query_drop(update("id = 2")).await;
    waiting.await??;
    Ok(crossed?)
}
