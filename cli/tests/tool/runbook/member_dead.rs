//! A member of a shared log is dead, and no other one is there.

use std::time::Duration;

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_member_of_a_shared_log_left_behind_is_ended_by_the_tool() {
    let shop = Shop::open().await;
    let text = shop.service.config_text();
    let shared = "resource = \"orders\"\nlast_resource = false\nsuspect_after = \"1s\"";
    shop.service
        .write_config(&text.replace("folder = \"log\"", shared));
    shop.service.start(Plan::DecisionDurable).kill();
    let page = Section::open("A member of a shared log is dead");
    // Until then it may be alive.
    for _ in 0..600 {
        let listed = shop.shell("unanimous list", false).stdout;
        if listed.contains("1 silent") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    page.follow(&shop).await;
    assert_eq!(shop.service.rows().await, (1, 1));
    shop.is_over();
    shop.drop_log_table().await;
    shop.close().await;
}
