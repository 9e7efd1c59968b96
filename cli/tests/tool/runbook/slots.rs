//! A server has no slot left for a prepared transaction.

use xtask::servers::Options;

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

fn slots(count: &str) -> Options {
    let setting = format!("max_prepared_transactions={count}");
    Options::new().args(["-c", &setting])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_slot_gets_its_slots_back_and_more() {
    let mut shop = Shop::open().await;
    shop.servers().orders.restart_with(&slots("2")).unwrap();
    let mut application = shop.service.launch(Plan::Obedient);
    assert_eq!(application.word().unwrap(), "ready");
    // One that nobody knows, and one of a Java application by pgjdbc.
    let java = "131077_MS0tNTNlZjkyY2Q6OTBkMw==_MQ==";
    for (gid, id) in [("nightly import 7", 10), (java, 11)] {
        shop.service.prepare_orders(gid, id).await;
    }
    let mut page = Section::open("A server has no slot left");
    page.sees(&shop, &application.commit(1));
    page.until(&shop, "a slot is free").await;
    assert_eq!(application.commit(1), "committed");
    page.until(&shop, "the server is restarted").await;
    let wanted = shop
        .plain_client(
            "orders, as an administrator",
            "SELECT setting FROM pg_file_settings WHERE name = 'max_prepared_transactions'",
        )
        .await;
    let wanted = wanted.lines().last().unwrap().trim();
    shop.servers().orders.restart_with(&slots(wanted)).unwrap();
    page.follow(&shop).await;
    application.stop();
    assert_eq!(shop.service.rows().await, (1, 1));
    shop.servers().orders.restart_with(&Options::new()).unwrap();
    shop.close().await;
}
