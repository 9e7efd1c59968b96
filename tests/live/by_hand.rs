//! A person looks at a branch that has ended, while its connection serves another transaction.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous::mysql::Mysql;
use unanimous::operator::Resolve;
use unanimous::postgres::Postgres;
use unanimous::{Point, Probe};
use unanimous_testing::{Wire, WireFault};

use crate::support::{Account, Bank, Db, Transfer, eventually, table};

/// Cuts the wire when a decision is durable.
struct CutAtDecision(Arc<Wire>);

#[async_trait]
impl Probe for CutAtDecision {
    async fn reached(&self, point: Point) {
        if point == Point::DecisionDurable {
            self.0.set(WireFault::Down);
        }
    }
}

/// The orders are away, so the transaction is not at its end; its branch at the ledger is, and its
/// connection, the only one of the pool, has been given to the next transaction.
async fn a_look_does_not_end_anothers_connection(ledger: Db) {
    let from = Account::create(Db::Postgres15, &table("byhand_orders")).await;
    let to = Account::create(ledger, &table("byhand_ledger")).await;
    let (wire, url) = Wire::between(&from.url).await.unwrap();
    let (wire, folder) = (Arc::new(wire), tempfile::tempdir().unwrap());
    let pooled = Mysql::builder("ledger", &to.url).pool_size(1);
    let transfer = Transfer {
        from: Postgres::connect("orders", &url),
        to: pooled.build().unwrap(),
        from_table: from.table.clone(),
        to_table: to.table.clone(),
    };
    let probe = Arc::new(CutAtDecision(Arc::clone(&wire)));
    let builder = transfer.builder(folder.path()).probe(probe);
    let tm = builder.start().await.unwrap();
    let tx = transfer.begin(&tm).await.unwrap();
    let gtrid = tx.gtrid();
    tx.commit().await.unwrap();
    assert_eq!((from.balance().await, to.balance().await), (100, 130));

    let mut next = tm.begin();
    let branch = next.enlist(&transfer.to).await.unwrap();
    Mysql::add(branch, &to.table, 7).await.unwrap();
    let asked = Resolve::new(gtrid.to_string(), true, "me@here", "to see");
    let planned = asked.within(&tm, false).await.unwrap();
    let mut notes = planned.notes.iter();
    assert!(
        notes.any(|note| note.starts_with("ledger: ") && note.ends_with("it has ended")),
        "{planned:?}"
    );
    next.commit().await.unwrap();
    assert_eq!(to.balance().await, 137);

    wire.set(WireFault::None);
    eventually("the orders are committed", || async {
        from.balance().await == 70
    })
    .await;
    tm.shutdown().await.unwrap();
    from.drop_table().await;
    to.drop_table().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_whoever_looks_ends_no_connection_of_another_transaction_on_mysql() {
    a_look_does_not_end_anothers_connection(Db::Mysql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_whoever_looks_ends_no_connection_of_another_transaction_on_mariadb() {
    a_look_does_not_end_anothers_connection(Db::Mariadb).await;
}
