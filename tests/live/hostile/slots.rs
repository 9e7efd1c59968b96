//! Twice as many workers as the server has slots for prepared transactions. Each transaction is
//! there on both sides or on none, each failure says what to raise, nothing is left, and with
//! `retry` all of them commit.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use unanimous::mysql::Mysql;
use unanimous::ports::{BranchErrorKind, Cause};
use unanimous::postgres::Postgres;
use unanimous::{BoxError, CommitError, RollbackCause, TransactionManager};
use xtask::servers::Kind;

use super::{create, ids, start, table_on};
use crate::support::{Account, Bank, Db, Transfer, table};

const SLOTS: usize = 4;
const WORKERS: usize = 2 * SLOTS;
const ROUNDS: usize = 5;

type Pair = Transfer<Postgres, Mysql>;

async fn work(
    pair: &Pair,
    mut tx: unanimous::Transaction,
    id: usize,
) -> Result<unanimous::Committed, BoxError> {
    let (from, to) = tx.enlist((&pair.from, &pair.to)).await?;
    let sql = |table: &str| format!("INSERT INTO {table} VALUES ({id})");
    let (from_sql, to_sql) = (sql(&pair.from_table), sql(&pair.to_table));
    let (from, to) = tokio::join!(Postgres::run(from, &from_sql), Mysql::run(to, &to_sql));
    from?;
    to?;
    Ok(tx.commit().await?)
}

/// Everybody works at once. Answers who has committed, and that the others were told why not.
async fn all_at_once(pair: &Pair, tm: &TransactionManager, first: usize) -> BTreeSet<i64> {
    let worker = |number: usize| async move {
        let mut committed = Vec::new();
        for round in 0..ROUNDS {
            let id = first + number * ROUNDS + round;
            match work(pair, tm.begin(), id).await {
                Ok(_) => committed.push(id as i64),
                Err(error) => is_for_want_of_slots(&*error),
            }
        }
        committed
    };
    let committed = join_all((0..WORKERS).map(worker)).await;
    committed.into_iter().flatten().collect()
}

fn is_for_want_of_slots(error: &(dyn std::error::Error + 'static)) {
    let error = error.downcast_ref::<CommitError>().unwrap();
    let CommitError::RolledBack { cause, .. } = error else {
        panic!("{error}")
    };
    let RollbackCause::Branch(branch) = cause else {
        panic!("{error}")
    };
    let exhausted = BranchErrorKind::RolledBack(Cause::Exhausted);
    assert_eq!(branch.kind(), exhausted, "{error}");
    let text = error.to_string();
    for part in [
        "resource orders",
        "raise max_prepared_transactions",
        "restart needed",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

async fn prepared(at: &Account) -> i64 {
    let sql = "SELECT count(*) FROM pg_prepared_xacts";
    at.postgres(move |client| client.query_one(sql, &[]).unwrap().get(0))
        .await
}

/// Others hold every slot.
async fn take_all_slots(at: &Account) {
    for number in 0..SLOTS {
        at.sql(&format!("BEGIN; PREPARE TRANSACTION 'other {number}'"))
            .await;
    }
}

async fn free_all_slots(at: &Account) {
    for number in 0..SLOTS {
        at.sql(&format!("ROLLBACK PREPARED 'other {number}'")).await;
    }
}

/// Both sides hold exactly this, and nothing is prepared but for so many of others.
async fn are_whole(from: &Account, to: &Account, committed: &BTreeSet<i64>, others: usize) {
    assert_eq!(ids(from).await, *committed);
    assert_eq!(ids(to).await, *committed);
    assert_eq!(prepared(from).await, others as i64);
}

async fn with_more_workers_than_slots(from: &Account, to: &Account) {
    let pair = Pair::new(from, to);
    let folder = tempfile::tempdir().unwrap();
    let builder = pair.builder(&folder.path().join("log"));
    let builder = builder.config(|config| config.retry_attempts_max = 1000);
    let tm = builder.start().await.unwrap();

    take_all_slots(from).await;
    let mut committed = all_at_once(&pair, &tm, 0).await;
    assert!(committed.is_empty(), "there was no slot");
    are_whole(from, to, &committed, SLOTS).await;
    let patient = (1000..1000 + WORKERS).map(|id| {
        let pair = &pair;
        tm.retry(move |tx| work(pair, tx, id))
    });
    let free = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        free_all_slots(from).await;
    };
    let (ended, ()) = tokio::join!(join_all(patient), free);
    ended.into_iter().for_each(|ended| drop(ended.unwrap()));
    committed.extend(1000..1000 + WORKERS as i64);
    are_whole(from, to, &committed, 0).await;

    let among_each_other = all_at_once(&pair, &tm, 2000).await;
    println!(
        "{} of {} without retry",
        among_each_other.len(),
        WORKERS * ROUNDS
    );
    assert!(among_each_other.len() >= SLOTS);
    committed.extend(among_each_other);
    are_whole(from, to, &committed, 0).await;
    let pair_of = &pair;
    let retried =
        (3000..3000 + WORKERS * ROUNDS).map(|id| tm.retry(move |tx| work(pair_of, tx, id)));
    let ended = join_all(retried).await;
    ended.into_iter().for_each(|ended| drop(ended.unwrap()));
    committed.extend(3000..3000 + (WORKERS * ROUNDS) as i64);
    are_whole(from, to, &committed, 0).await;
    assert!(tm.recover().await.is_clean());
    tm.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_more_workers_than_slots_for_prepared_transactions_are_told_and_all_commit_by_retry() {
    for kind in [Kind::Postgres15, Kind::PostgresNewest] {
        let server = start(kind, &["-c", "max_prepared_transactions=4"]).await;
        let name = table("slots");
        let from = table_on(&server, &name).await;
        let to = Account::at(Db::Mysql, &name);
        to.sql(&create(&name)).await;
        with_more_workers_than_slots(&from, &to).await;
        to.drop_table().await;
    }
}
