//! The log is lost, and with it every decision.

use mysql_async::prelude::Queryable;

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;
use crate::by_hand::{gid, other_of, xid};

/// What an application had under way when it died: one decided and carried out in the ledger
/// alone, one prepared in both databases, one in the orders alone.
async fn three_under_way(shop: &Shop) -> [String; 3] {
    let decided = shop.service.start(Plan::DecisionDurable).kill();
    let sql = format!("XA COMMIT {}", xid(&decided, "ledger"));
    shop.service.ledger().await.query_drop(sql).await.unwrap();
    let both = other_of(&decided);
    let half = other_of(&both);
    shop.service.prepare_orders(&gid(&both, "orders"), 2).await;
    shop.service.prepare_ledger(&xid(&both, "ledger"), 2).await;
    shop.service.prepare_orders(&gid(&half, "orders"), 3).await;
    [decided, both, half]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_log_had_under_way_is_ended_the_same_way_in_both_databases() {
    let shop = Shop::open().await;
    let [decided, both, half] = three_under_way(&shop).await;
    std::fs::remove_dir_all(shop.service.log()).unwrap();
    let mut page = Section::open("The log is lost");
    page.until(&shop, "the application is started").await;
    shop.service.start(Plan::Idle).kill();
    page.until(&shop, "the first one").await;
    page.choose(&decided);
    page.until(&shop, "the second one").await;
    assert_eq!(shop.service.rows().await, (1, 1));
    page.choose(&both);
    page.until(&shop, "the third one").await;
    page.choose(&half);
    page.follow(&shop).await;
    assert_eq!(shop.service.rows().await, (1, 1));
    shop.is_over();
    shop.close().await;
}
