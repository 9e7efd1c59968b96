//! A table is locked by a prepared transaction.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

const HEADING: &str = "A table is locked by a prepared transaction";

/// Somebody in each database, who waits until the lock is let go.
async fn wait_in_both(shop: &Shop) -> [tokio::task::JoinHandle<()>; 2] {
    let url = shop.service.urls[0].clone();
    let orders = tokio::task::spawn_blocking(move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        client
            .batch_execute("ALTER TABLE booking ADD note text")
            .unwrap();
    });
    let mut ledger = shop.service.ledger().await;
    let ledger = tokio::spawn(async move {
        ledger
            .query_drop("ALTER TABLE booking ADD note TEXT")
            .await
            .unwrap();
        ledger.disconnect().await.unwrap();
    });
    for (place, sql) in [
        (
            "orders, as an administrator",
            "SELECT pid FROM pg_stat_activity WHERE 0 = ANY (pg_blocking_pids(pid))",
        ),
        (
            "ledger, as an administrator",
            "SELECT id FROM performance_schema.processlist WHERE state LIKE 'Waiting for table %'",
        ),
    ] {
        while shop.plain_client(place, sql).await == "(no rows)" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    [orders, ledger]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_dead_application_holds_is_let_go() {
    let shop = Shop::open().await;
    shop.service.start(Plan::DecisionDurable).kill();
    let waiting = wait_in_both(&shop).await;
    let mut page = Section::open(HEADING);
    let sql = "SET lock_timeout = '100ms'; LOCK TABLE booking";
    page.sees(&shop, &shop.refusal("orders", sql).await);
    let sql = "SET innodb_lock_wait_timeout = 1, lock_wait_timeout = 1; SELECT * FROM booking";
    page.sees(&shop, &shop.refusal("ledger", sql).await);
    page.follow(&shop).await;
    for waiting in waiting {
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, waiting).await.unwrap().unwrap();
    }
    assert_eq!(shop.service.rows().await, (1, 1));
    shop.is_over();
    shop.close().await;
}
