//! An application that is built from the same file as the tool.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use unanimous::mysql::Mysql;
use unanimous::operator::ConfigFile;
use unanimous::postgres::Postgres;

use crate::application::Plan;
use crate::support::{Service, split_password};

async fn commits(service: Service) {
    service.create_tables().await;
    // The passwords of both from files: this process must not change its own environment.
    let orders_password = service.config().with_file_name("orders.pw");
    std::fs::write(orders_password, &service.passwords[0]).unwrap();
    let text = service.config_text();
    let text = text.replace(
        "password_env = \"UNANIMOUS_TEST_ORDERS_PW\"",
        "password_file = \"orders.pw\"\npool_size = 2\npool_timeout = \"3s\"\n\
         connect_timeout = \"9s\"\nisolation = \"repeatable-read\"\nvanished_after = \"30s\"\n\
         session_setup = \"SET TIME ZONE 'Asia/Kathmandu'\"\napplication_name = \"shop\"",
    );
    service.write_config(&format!(
        "{text}isolation = \"read-committed\"\n[limits]\ndeadline = \"20s\"\n"
    ));

    let parts = ConfigFile::read(service.config()).unwrap().parts().unwrap();
    let orders: Postgres = parts.resource("orders").unwrap();
    let ledger: Mysql = parts.resource("ledger").unwrap();
    let tm = parts.builder().start().await.unwrap();
    assert_eq!(tm.config().deadline, Duration::from_secs(20));
    let mut tx = tm.begin();
    let (pg, my) = tx.enlist((&orders, &ledger)).await.unwrap();
    let insert = format!("INSERT INTO {} VALUES (1)", service.table);
    pg.execute(&insert, &[]).await.unwrap();
    my.query_drop(&insert).await.unwrap();
    let shown = pg
        .query_one(
            "SELECT current_setting('TimeZone'), current_setting('transaction_isolation'), \
             current_setting('application_name')",
            &[],
        )
        .await
        .unwrap();
    let shown: [String; 3] = [shown.get(0), shown.get(1), shown.get(2)];
    assert_eq!(shown[..2], ["Asia/Kathmandu", "repeatable read"]);
    assert!(shown[2].starts_with("shop"), "{shown:?}");
    tx.commit().await.unwrap();
    tm.shutdown().await.unwrap();
    assert_eq!(service.rows().await, (1, 1));
    service.run(&["list"]).exits(0);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_from_the_file_commits_on_postgresql_15_and_mysql() {
    commits(Service::new("toml")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_from_the_file_commits_on_the_newest_postgresql_and_mariadb() {
    commits(Service::new_on_the_others("toml2")).await;
}

/// Recovery has accounts of its own: it works although the application's do not any more.
async fn recovery_logs_in_by_itself(service: Service, admins: [&str; 2]) {
    service.create_tables().await;
    service.start(Plan::DecisionDurable).kill();
    let [orders, ledger] = admins.map(split_password);
    for (file, password) in [("rec-orders.pw", &orders.1), ("rec-ledger.pw", &ledger.1)] {
        std::fs::write(service.config().with_file_name(file), password).unwrap();
    }
    let own = format!(
        "recovery_url = \"{}\"\nrecovery_password_file = \"rec-orders.pw\"\n[resources.ledger]\n\
         recovery_url = \"{}\"\nrecovery_password_file = \"rec-ledger.pw\"",
        orders.0, ledger.0
    );
    let text = service.config_text().replace("[resources.ledger]", &own);
    service.write_config(&text);
    std::fs::write(service.config().with_file_name("ledger.pw"), "not any more").unwrap();
    let mut tool = service.tool(&["recover", "--yes"]);
    let tool = tool.env("UNANIMOUS_TEST_ORDERS_PW", "not any more");
    let ran = crate::support::Ran::new(tool.output().unwrap()).exits(0);
    for (_, password) in [orders, ledger] {
        assert!(!format!("{ran:?}").contains(&password), "I8");
    }
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_logs_in_by_itself_on_postgresql_15_and_mysql() {
    let set = xtask::servers::shared();
    let admins = [&*set.pg15.admin_url, &*set.mysql.admin_url];
    recovery_logs_in_by_itself(Service::new("rec"), admins).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_logs_in_by_itself_on_the_newest_postgresql_and_mariadb() {
    let set = xtask::servers::shared();
    let admins = [&*set.pg_newest.admin_url, &*set.mariadb.admin_url];
    recovery_logs_in_by_itself(Service::new_on_the_others("rec2"), admins).await;
}
