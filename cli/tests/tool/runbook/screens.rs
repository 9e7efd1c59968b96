//! The screens of `docs/screens.md` that `check` has not, from runs on real servers.

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

const PAGE: &str = "screens.md";

#[tokio::test(flavor = "multi_thread")]
async fn the_screens_are_what_is_shown() {
    let shop = Shop::open().await;
    let gtrid = shop.service.start(Plan::DecisionDurable).kill();
    for heading in ["`list`", "`show`", "`resolve`"] {
        let mut page = Section::of(PAGE, heading);
        page.takes(&gtrid);
        page.follow(&shop).await;
    }
    assert_eq!(
        shop.service.rows().await,
        (1, 0),
        "in part: a person has said so"
    );
    shop.close().await;
}
