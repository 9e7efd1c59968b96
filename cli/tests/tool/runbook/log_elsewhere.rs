//! The log's folder was moved by hand, or the log has to move.

use std::path::Path;
use std::process::Command;

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

/// As to another disk: copied, and the original removed.
fn carry(log: &Path) {
    let copy = log.with_extension("copy");
    let copied = Command::new("cp").arg("-a").args([log, &copy]).status();
    assert!(copied.unwrap().success());
    std::fs::remove_dir_all(log).unwrap();
    std::fs::rename(copy, log).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_moved_is_adopted_and_what_is_in_it_is_carried_out() {
    let shop = Shop::open().await;
    shop.service.start(Plan::DecisionDurable).kill();
    carry(&shop.service.log());
    let mut page = Section::open("The log folder was moved or copied");
    page.sees(&shop, &shop.service.launch(Plan::Idle).word().unwrap());
    page.follow(&shop).await;
    assert_eq!(shop.service.rows().await, (1, 1));
    shop.is_over();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_to_move_takes_what_is_pending_with_it() {
    let shop = Shop::open().await;
    shop.service.start(Plan::DecisionDurable).kill();
    let new = shop.service.config().with_file_name("table.toml");
    let text = shop.service.config_text();
    let text = text.replace("folder = \"log\"", "resource = \"orders\"");
    std::fs::write(&new, text).unwrap();
    let mut page = Section::open("The log has to move");
    page.until(&shop, "the new file takes the place of the old one")
        .await;
    std::fs::rename(new, shop.service.config()).unwrap();
    page.follow(&shop).await;
    assert_eq!(shop.service.rows().await, (1, 1));
    shop.is_over();
    shop.drop_log_table().await;
    shop.close().await;
}
