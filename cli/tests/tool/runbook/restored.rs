//! A database was set back to a state that is older than decisions.

use std::path::PathBuf;
use std::process::Command;

use xtask::servers::Server;

use super::page::Section;
use super::shop::Shop;
use crate::application::Plan;

/// A copy of all files of a server that does not run meanwhile; that it is a copy, the server
/// cannot see.
struct Backup(PathBuf);

impl Backup {
    fn of(server: &mut Server) -> Self {
        server.shut_down();
        let backup = Self(server.folder().join("backup"));
        copy(&server.data(), &backup.0);
        server.restart().unwrap();
        backup
    }

    /// The server does not run afterwards.
    fn restore(self, server: &mut Server) {
        server.kill();
        std::fs::remove_dir_all(server.data()).unwrap();
        std::fs::rename(self.0, server.data()).unwrap();
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_postgresql_lacks_is_found_and_brought_back() {
    let mut shop = Shop::open().await;
    let prepared = shop.service.start(Plan::DecisionDurable).kill();
    let backup = Backup::of(&mut shop.servers().orders);
    let mut application = shop.service.launch(Plan::Obedient);
    assert_eq!(application.word().unwrap(), "ready");
    assert_eq!(application.commit(2), "committed");
    application.stop();
    assert_eq!(shop.service.rows().await, (2, 2));
    backup.restore(&mut shop.servers().orders);
    let mut page = Section::open("A database was restored from a backup");
    page.until(&shop, "the server is started").await;
    shop.servers().orders.restart().unwrap();
    page.until(&shop, "one came back").await;
    page.choose(&prepared);
    page.follow(&shop).await;
    assert_eq!(shop.service.rows().await, (2, 2));
    shop.is_over();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_mysql_under_a_new_name_is_not_taken_for_one_that_has_committed() {
    let mut shop = Shop::open().await;
    let backup = Backup::of(&mut shop.servers().ledger);
    shop.service.start(Plan::DecisionDurable).kill();
    backup.restore(&mut shop.servers().ledger);
    let mut page = Section::open("If it is MySQL or MariaDB");
    page.until(&shop, "the server is started").await;
    shop.servers().ledger.restart().unwrap();
    page.follow(&shop).await;
    assert_eq!(shop.service.rows().await, (1, 1));
    shop.is_over();
    shop.close().await;
}
