//! I2: the log's database fails over to a synchronous standby in the midst of transactions, and
//! nothing that was confirmed is lost, nothing is split, and nobody has to look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use unanimous::log::TableLog;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{CommitError, TransactionManager};
use xtask::servers::{Kind, Options, Server, standby_of};

use crate::support::{Account, Bank, Db, eventually, short_intervals, table};

const WORKERS: usize = 8;

/// An address that leads to whichever server is the primary.
struct Switch {
    port: u16,
    leads_to: Arc<AtomicU16>,
}

impl Switch {
    async fn to(port: u16) -> Self {
        let leads_to = Arc::new(AtomicU16::new(port));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let switch = Self {
            port: listener.local_addr().unwrap().port(),
            leads_to: Arc::clone(&leads_to),
        };
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let port = leads_to.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                        // Either side may break off.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        switch
    }
}

struct Work {
    tm: TransactionManager,
    orders: Postgres,
    ledger: Mysql,
    table: String,
    next: AtomicU64,
    is_over: AtomicBool,
}

impl Work {
    /// Transactions one after the other; the numbers of those that were confirmed.
    async fn run(self: Arc<Self>) -> Vec<u64> {
        let mut confirmed = Vec::new();
        while !self.is_over.load(Ordering::SeqCst) {
            let id = self.next.fetch_add(1, Ordering::SeqCst);
            match self.insert(id).await {
                Ok(()) => confirmed.push(id),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        confirmed
    }

    async fn insert(&self, id: u64) -> Result<(), unanimous::BoxError> {
        let mut tx = self.tm.begin();
        let (orders, ledger) = tx.enlist((&self.orders, &self.ledger)).await?;
        let insert = format!("INSERT INTO {} VALUES ({id})", self.table);
        let inserted = tokio::join!(Postgres::run(orders, &insert), Mysql::run(ledger, &insert));
        inserted.0?;
        inserted.1?;
        match tx.commit().await {
            Ok(_) => Ok(()),
            Err(error @ CommitError::Heuristic { .. }) => panic!("{error}"),
            Err(error) => Err(error.into()),
        }
    }
}

async fn ids(account: &Account) -> BTreeSet<u64> {
    let sql = format!("SELECT id FROM {}", account.table);
    if account.is_postgres {
        let rows = account.postgres(move |client| client.query(&sql, &[]).unwrap());
        let ids = rows.await.into_iter().map(|row| row.get::<_, i64>(0));
        ids.map(|id| id.try_into().unwrap()).collect()
    } else {
        use mysql_async::prelude::Queryable;
        let ids: Vec<u64> = account.mysql().await.query(sql).await.unwrap();
        ids.into_iter().collect()
    }
}

/// How many branches are prepared there, of whomever.
async fn prepared(account: &Account, manager: &str) -> usize {
    if account.is_postgres {
        let sql = "SELECT gid FROM pg_prepared_xacts";
        account
            .postgres(move |client| client.query(sql, &[]).unwrap().len())
            .await
    } else {
        use mysql_async::prelude::Queryable;
        let sql = "XA RECOVER";
        let rows: Vec<(i64, i64, i64, Vec<u8>)> = account.mysql().await.query(sql).await.unwrap();
        let is_ours = |data: &[u8]| String::from_utf8_lossy(data).starts_with(manager);
        rows.iter().filter(|row| is_ours(&row.3)).count()
    }
}

/// A primary, and a standby that it waits for.
struct Pair {
    primary: Server,
    standby: Server,
    table: String,
}

impl Pair {
    async fn start(table: &str) -> Self {
        let start = || {
            let primary = Server::start(Kind::PostgresNewest, &Options::new()).unwrap();
            let standby = standby_of(&primary).unwrap();
            (primary, standby)
        };
        let (primary, standby) = tokio::task::spawn_blocking(start).await.unwrap();
        let pair = Self {
            primary,
            standby,
            table: table.to_owned(),
        };
        pair.wait_for_standbys(&pair.primary, "*").await;
        pair
    }

    fn on(&self, url: String) -> Account {
        Account {
            is_postgres: url.starts_with("postgres"),
            table: self.table.clone(),
            url,
        }
    }

    async fn wait_for_standbys(&self, server: &Server, names: &str) {
        let admin = self.on(server.admin_url());
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        admin.sql(&set).await;
        admin.sql("SELECT pg_reload_conf()").await;
    }

    async fn fail_over(&mut self, switch: &Switch) {
        self.primary.kill();
        let port = self.standby.port();
        switch.leads_to.store(port, Ordering::SeqCst);
        // It has the settings of the primary, and no standby of its own.
        self.wait_for_standbys(&self.standby, "").await;
        let admin = self.on(self.standby.admin_url());
        admin.sql("SELECT pg_promote()").await;
    }
}

/// A manager whose log and orders are where the switch leads.
async fn work_on(url: &str, ledger: &Account, with_last_resource: bool) -> Arc<Work> {
    let orders = Postgres::connect("orders", url);
    let books = Mysql::connect("ledger", &ledger.url);
    let home = TableLog::on(&orders)
        .lossless_failover(true)
        .last_resource(with_last_resource)
        .suspect_after(Duration::from_secs(1));
    let builder = TransactionManager::builder().log(home);
    let builder = builder.resource(&orders).resource(&books);
    let tm = builder.config(short_intervals).start().await.unwrap();
    Arc::new(Work {
        tm,
        orders,
        ledger: books,
        table: ledger.table.clone(),
        next: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    })
}

async fn fails_over(with_last_resource: bool) {
    let name = table("failover");
    let mut pair = Pair::start(&name).await;
    let create = format!("CREATE TABLE {name} (id BIGINT PRIMARY KEY)");
    let ledger = pair.on(Db::Mysql.url());
    let old = pair.on(pair.primary.url());
    ledger.sql(&create).await;
    old.sql(&create).await;

    let port = pair.primary.port();
    let switch = Switch::to(port).await;
    let url = old.url.replace(&port.to_string(), &switch.port.to_string());
    let work = work_on(&url, &ledger, with_last_resource).await;
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(Arc::clone(&work).run()))
        .collect();
    eventually("some are committed", || async {
        ids(&old).await.len() > 50
    })
    .await;
    pair.fail_over(&switch).await;
    let new = pair.on(pair.standby.url());
    let before = ids(&new).await.len();
    eventually("the work goes on", || async {
        ids(&new).await.len() > before + 50
    })
    .await;
    work.is_over.store(true, Ordering::SeqCst);
    let mut confirmed = BTreeSet::new();
    for worker in workers {
        confirmed.extend(worker.await.unwrap());
    }
    let manager = work.tm.begin().gtrid().opening.manager.to_string();
    eventually("nothing is in doubt", || async {
        prepared(&new, &manager).await + prepared(&ledger, &manager).await == 0
    })
    .await;
    work.tm.shutdown().await.unwrap();
    let (there, booked) = (ids(&new).await, ids(&ledger).await);
    assert_eq!(there, booked, "I1");
    let lost: Vec<_> = confirmed.difference(&there).collect();
    assert!(lost.is_empty(), "I2: {lost:?}");
    println!("{} confirmed, {} there", confirmed.len(), there.len());
    ledger.drop_table().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_synchronous_standby_takes_over_the_log_and_nothing_is_lost() {
    fails_over(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_synchronous_standby_takes_over_the_last_resource_and_nothing_is_lost() {
    fails_over(true).await;
}
