//! Transfers from the orders to the ledger or to the stock, one after the other, and what of them
//! each database has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{BoxError, CommitError, TransactionManager};

use crate::databases::{Judges, Place};
use crate::support::{Bank, eventually};

/// So many transfers at a time, for each member.
const AT_ONCE: usize = 4;

/// So long lies between two of the snapshots of one set.
const GAP: Duration = Duration::from_millis(100);

/// Three databases with a table each.
pub(super) struct Site {
    pub(super) orders: Postgres,
    pub(super) ledger: Mysql,
    pub(super) stock: Mysql,
    places: [Place; 3],
    table: String,
}

/// The transfers that each of the three databases has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dump([BTreeSet<String>; 3]);

impl Dump {
    /// What is on one side alone. Transfers to the ledger begin with `l`, others with `s`.
    pub(super) fn splits(&self) -> Vec<&String> {
        let [orders, ledger, stock] = &self.0;
        let others: BTreeSet<_> = ledger.union(stock).cloned().collect();
        self.0
            .iter()
            .flatten()
            .filter(|id| !orders.contains(*id) || !others.contains(*id))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0[0].len()
    }
}

impl Site {
    pub(super) fn new(urls: [String; 3], table: &str) -> Self {
        let [orders, ledger, stock] = &urls;
        Self {
            orders: Bank::connect("orders", orders),
            ledger: Bank::connect("ledger", ledger),
            stock: Bank::connect("stock", stock),
            places: urls.map(|url| Place {
                is_postgres: url.starts_with("postgres"),
                url,
            }),
            table: table.to_owned(),
        }
    }

    pub(super) fn urls(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let urls = self.places.iter().map(|place| place.url.as_str());
        ["orders", "ledger", "stock"].into_iter().zip(urls)
    }

    async fn everywhere(&self, sql: &str) {
        let mut judges = Judges::default();
        for place in &self.places {
            judges.ask(place, sql).await.unwrap();
        }
    }

    pub(super) async fn create_tables(&self) {
        for table in [self.table.clone(), self.restored()] {
            self.everywhere(&format!("CREATE TABLE {table} (id CHAR(20) PRIMARY KEY)"))
                .await;
        }
    }

    pub(super) async fn drop_tables(&self) {
        for table in [self.table.clone(), self.restored()] {
            self.everywhere(&format!("DROP TABLE {table}")).await;
        }
    }

    fn restored(&self) -> String {
        format!("{}_r", self.table)
    }

    /// How many branches are prepared on servers of one's own.
    pub(super) async fn prepared(&self) -> usize {
        let mut judges = Judges::default();
        let mut count = 0;
        for place in &self.places {
            count += judges.prepared(place, "").await;
        }
        count
    }

    /// One snapshot after the other, each of which sees one moment of its database.
    pub(super) async fn dump(&self) -> Dump {
        let mut judges = Judges::default();
        let mut sets = [const { BTreeSet::new() }; 3];
        for (place, set) in self.places.iter().zip(&mut sets) {
            let begin = if place.is_postgres {
                "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
            } else {
                "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
            };
            judges.ask(place, begin).await.unwrap();
            tokio::time::sleep(GAP).await;
            *set = self.rows(&mut judges, place, &self.table).await;
            judges.ask(place, "COMMIT").await.unwrap();
        }
        Dump(sets)
    }

    async fn rows(&self, judges: &mut Judges, place: &Place, table: &str) -> BTreeSet<String> {
        let rows = judges.ask(place, &format!("SELECT id FROM {table}")).await;
        let text = |row: Vec<u8>| String::from_utf8(row).unwrap().trim().to_owned();
        rows.unwrap().into_iter().map(text).collect()
    }

    /// Into fresh tables, and what is in them then.
    pub(super) async fn restore(&self, dump: &Dump) -> Dump {
        let (mut judges, table) = (Judges::default(), self.restored());
        let mut sets = [const { BTreeSet::new() }; 3];
        for ((place, set), restored) in self.places.iter().zip(&dump.0).zip(&mut sets) {
            let rows: Vec<_> = set.iter().map(|id| format!("('{id}')")).collect();
            let delete = format!("DELETE FROM {table}");
            judges.ask(place, &delete).await.unwrap();
            let insert = format!("INSERT INTO {table} VALUES {}", rows.join(", "));
            judges.ask(place, &insert).await.unwrap();
            *restored = self.rows(&mut judges, place, &table).await;
        }
        Dump(sets)
    }
}

/// Goes on until it is stopped.
pub(super) struct Traffic {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    moved: AtomicU64,
}

impl Traffic {
    pub(super) fn start(site: &Site, members: &[TransactionManager]) -> Self {
        let (mut tasks, shared) = (JoinSet::new(), Arc::new(Shared::default()));
        for tm in members {
            for worker in 0..AT_ONCE {
                let (tm, shared) = (tm.clone(), Arc::clone(&shared));
                let orders = site.orders.clone();
                let (to, side) = if worker % 2 == 0 {
                    (site.ledger.clone(), 'l')
                } else {
                    (site.stock.clone(), 's')
                };
                let insert = format!("INSERT INTO {} VALUES", site.table);
                tasks.spawn(async move {
                    while !shared.is_over.load(Ordering::SeqCst) {
                        let tx = transfer(&tm, &orders, &to, &insert, side).await;
                        match tx {
                            Ok(()) => drop(shared.moved.fetch_add(1, Ordering::SeqCst)),
                            Err(error) => assert_rolled_back(&*error),
                        }
                    }
                });
            }
        }
        Self { tasks, shared }
    }

    pub(super) fn count(&self) -> u64 {
        self.shared.moved.load(Ordering::SeqCst)
    }

    /// Waits until so many were committed.
    pub(super) async fn moved(&self, count: u64) {
        eventually("transfers are made", async || self.count() >= count).await;
    }

    pub(super) async fn stop(mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// A barrier leaves nobody's outcome undetermined.
fn assert_rolled_back(error: &(dyn std::error::Error + 'static)) {
    if let Some(error) = error.downcast_ref::<CommitError>() {
        assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
        println!("{error}");
    }
}

async fn transfer(
    tm: &TransactionManager,
    orders: &Postgres,
    to: &Mysql,
    insert: &str,
    side: char,
) -> Result<(), BoxError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let insert = format!("{insert} ('{side}{id}')");
    let mut tx = tm.begin();
    let (orders, to) = tx.enlist((orders, to)).await?;
    orders.batch_execute(&insert).await?;
    to.query_drop(&insert).await?;
    tx.commit().await?;
    Ok(())
}
