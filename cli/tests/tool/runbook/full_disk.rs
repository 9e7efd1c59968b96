//! The disk of the log is full. A limit on the size of the application's files stands for the disk.

use std::time::Duration;

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn with_room_on_the_disk_of_the_log_all_goes_on() {
    let shop = Shop::open().await;
    let mut application = shop.service.launch(Plan::Obedient);
    assert_eq!(application.word().unwrap(), "ready");
    assert_eq!(application.commit(1), "committed");
    application.tell("full");
    let mut page = Section::open("The disk of the log is full");
    // The first one may be undetermined: its write was under way.
    let refused = (2..10).map(|id| application.commit(id));
    let refused = { refused }.find(|said| said.contains("could be written"));
    page.sees(&shop, &refused.unwrap());
    page.until(&shop, "there is room").await;
    application.tell("room");
    let mut ids = 10..;
    while application.commit(ids.next().unwrap()) != "committed" {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while shop
        .shell("unanimous list", false)
        .stdout
        .contains("is running")
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    page.follow(&shop).await;
    application.stop();
    assert_eq!(shop.service.rows().await, (2, 2));
    shop.is_over();
    shop.close().await;
}
