//! A standby took over that never got a prepared branch.

use xtask::servers::standby_of;

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_a_failover_lost_is_found_and_its_rows_are_brought_back() {
    let mut shop = Shop::open().await;
    // It has got all up to now, and nothing of what comes.
    let mut standby = standby_of(&shop.servers().orders).unwrap();
    standby.kill();
    shop.service.start(Plan::DecisionDurable).kill();
    shop.servers().orders.kill();
    standby.restart().unwrap();
    shop.orders_are_at(&standby);
    let mut page = Section::open("A failover lost a prepared branch");
    page.until(&shop, "the old server is started").await;
    assert_eq!(shop.service.rows().await, (0, 1));
    shop.servers().orders.restart().unwrap();
    page.until(&shop, "the old server is stopped").await;
    shop.servers().orders.kill();
    page.follow(&shop).await;
    assert_eq!(shop.service.rows().await, (1, 1));
    shop.is_over();
    drop(standby);
    shop.close().await;
}
