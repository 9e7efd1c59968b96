//! I6: more workers than connections in two pools, held by some and waited for by others. Whoever
//! waits in vain is told so and rolls back, which lets the others go on; and recovery has its own
//! connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use tokio::sync::Barrier;
use tokio::time::timeout;
use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::ports::BranchErrorKind;
use unanimous::postgres::Postgres;
use unanimous::{BoxError, EnlistError, Transaction, TransactionManager};

use super::create;
use crate::support::{Account, Bank, Db, eventually, short_intervals, table};

const POOL: usize = 2;
const WORKERS: usize = 2 * POOL;
const LIMIT: Duration = Duration::from_secs(60);

struct Scene {
    orders_at: Account,
    ledger_at: Account,
    orders: Postgres,
    ledger: Mysql,
    tm: TransactionManager,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// On the shared servers, with pools of two.
    async fn new(wait: Duration) -> Self {
        let name = table("pools");
        let orders_at = Account::at(Db::PostgresNewest, &name);
        let ledger_at = Account::at(Db::Mariadb, &name);
        let orders = Postgres::builder("orders", &orders_at.url);
        let orders = orders.pool_size(POOL).pool_timeout(wait).build().unwrap();
        let ledger = Mysql::builder("ledger", &ledger_at.url);
        let ledger = ledger.pool_size(POOL).pool_timeout(wait).build().unwrap();
        for account in [&orders_at, &ledger_at] {
            account.sql(&create(&name)).await;
        }
        let folder = tempfile::tempdir().unwrap();
        let builder = TransactionManager::builder()
            .log(FileLog::at(folder.path().join("log")))
            .resource(&orders)
            .resource(&ledger)
            .config(short_intervals);
        Self {
            orders_at,
            ledger_at,
            orders,
            ledger,
            tm: builder.start().await.unwrap(),
            _folder: folder,
        }
    }

    fn insert(&self, id: usize) -> String {
        format!("INSERT INTO {} VALUES ({id})", self.orders_at.table)
    }

    /// One resource after the other; odd workers the other way round.
    async fn one_by_one(&self, id: usize, both_are_there: &Barrier) -> Result<(), BoxError> {
        let mut tx = self.tm.begin();
        if id.is_multiple_of(2) {
            tx.enlist(&self.orders).await?;
            both_are_there.wait().await;
            tx.enlist(&self.ledger).await?;
        } else {
            tx.enlist(&self.ledger).await?;
            both_are_there.wait().await;
            tx.enlist(&self.orders).await?;
        }
        self.write_and_commit(tx, id).await
    }

    async fn at_once(&self, id: usize) -> Result<(), BoxError> {
        let tx = self.tm.begin();
        self.write_and_commit(tx, id).await
    }

    async fn write_and_commit(&self, mut tx: Transaction, id: usize) -> Result<(), BoxError> {
        let (orders, ledger) = tx.enlist((&self.orders, &self.ledger)).await?;
        Postgres::run(orders, &self.insert(id)).await?;
        Mysql::run(ledger, &self.insert(id)).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn end(self, committed: usize) {
        assert!(self.tm.recover().await.is_clean());
        self.tm.shutdown().await.unwrap();
        for account in [&self.orders_at, &self.ledger_at] {
            assert_eq!(super::ids(account).await.len(), committed);
            account.drop_table().await;
        }
    }
}

fn is_of_the_pool(error: &BoxError) {
    let Some(EnlistError::Branch(branch)) = error.downcast_ref() else {
        panic!("{error}")
    };
    assert_eq!(branch.kind(), BranchErrorKind::Unavailable, "{error}");
    let text = error.to_string();
    for part in [
        "of the pool was free within",
        "in the same order",
        "raise pool_size",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_workers_that_hold_and_wait_in_opposite_orders_are_told_and_go_on() {
    let scene = Scene::new(Duration::from_millis(500)).await;
    // Each holds one connection, and the pools are used up.
    let barrier = Barrier::new(WORKERS);
    let first = (0..WORKERS).map(|id| scene.one_by_one(id, &barrier));
    let first = timeout(LIMIT, join_all(first)).await.unwrap();
    let refused = first.iter().filter_map(|ended| ended.as_ref().err());
    let refused = refused.map(is_of_the_pool).count();
    println!("{refused} of {WORKERS} waited in vain");
    assert!(refused >= 1);
    // Nobody is in their way any more.
    let alone = Barrier::new(1);
    let again = AtomicUsize::new(0);
    let until_done = |id: usize| {
        let (scene, alone, again) = (&scene, &alone, &again);
        async move {
            while let Err(error) = scene.one_by_one(100 + id, alone).await {
                is_of_the_pool(&error);
                again.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    timeout(LIMIT, join_all((0..3 * WORKERS).map(until_done)))
        .await
        .unwrap();
    println!("{} tries were in vain", again.load(Ordering::Relaxed));
    scene.end(WORKERS - refused + 3 * WORKERS).await;
}

/// The way that the documentation shows: both in one call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_workers_that_enlist_both_in_one_call_all_get_their_turn() {
    const EACH: usize = 10;
    let scene = Scene::new(Duration::from_secs(8)).await;
    let begin = Instant::now();
    let worker = |number: usize| {
        let scene = &scene;
        async move {
            for round in 0..EACH {
                scene.at_once(number * EACH + round).await.unwrap();
            }
        }
    };
    let workers = 4 * WORKERS;
    timeout(LIMIT, join_all((0..workers).map(worker)))
        .await
        .unwrap();
    println!("{} transactions: {:?}", workers * EACH, begin.elapsed());
    scene.end(workers * EACH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_recovery_works_while_every_connection_of_the_pools_is_held() {
    let scene = Scene::new(Duration::from_millis(300)).await;
    let orphan = scene.tm.begin().gtrid();
    let mut held = Vec::new();
    for _ in 0..POOL {
        let mut tx = scene.tm.begin();
        tx.enlist((&scene.orders, &scene.ledger)).await.unwrap();
        held.push(tx);
    }
    let prepare = format!(
        "BEGIN; {}; PREPARE TRANSACTION 'unanimous:{orphan}:orders'",
        scene.insert(1)
    );
    scene.orders_at.sql(&prepare).await;
    let mut conn = scene.ledger_at.mysql().await;
    let xid = format!("'{orphan}','ledger',{}", 0x554E_414E);
    let all = format!(
        "XA START {xid}; {}; XA END {xid}; XA PREPARE {xid}",
        scene.insert(1)
    );
    conn.query_drop(all).await.unwrap();
    conn.disconnect().await.unwrap();
    let mut tx = scene.tm.begin();
    let error = tx.enlist(&scene.orders).await.map(drop).unwrap_err();
    is_of_the_pool(&error.into());
    let mut tx = scene.tm.begin();
    let error = tx.enlist(&scene.ledger).await.map(drop).unwrap_err();
    is_of_the_pool(&error.into());
    for at in [&scene.orders_at, &scene.ledger_at] {
        eventually("the orphan is rolled back", || async {
            at.prepared(orphan).await == 0
        })
        .await;
    }
    drop((tx, held));
    timeout(LIMIT, scene.at_once(2)).await.unwrap().unwrap();
    scene.end(1).await;
}
