//! A resource will never come back, and a decision names it.

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn what_names_a_resource_that_is_gone_for_good_comes_to_its_end() {
    let mut shop = Shop::open().await;
    shop.service.start(Plan::DecisionDurable).kill();
    shop.servers().ledger.kill();
    let mut page = Section::open("A resource is gone for good");
    page.until(&shop, "it is out of the config file").await;
    let whole = shop.service.config_text();
    let (without, _) = whole.split_once("[resources.ledger]").unwrap();
    shop.service.write_config(without);
    page.follow(&shop).await;
    shop.is_over();
    shop.servers().ledger.restart().unwrap();
    assert_eq!(shop.service.rows().await, (1, 0));
    shop.close().await;
}
