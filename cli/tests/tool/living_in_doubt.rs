//! An application lives, and something of it is in doubt: it ends that, because the tool asks it.

use std::time::Duration;

use xtask::servers::{Kind, Options, Server};

use crate::application::Plan;
use crate::by_hand::{gid, other_of, xid};
use crate::support::Service;

/// Makes an application's own passes rare: what happens, happens because it was asked.
const RARELY: &str = "[limits]\nrecovery_interval = \"1h\"\nrecovery_interval_max = \"1h\"\n";

async fn late_branches_are_ended_by_the_application(service: Service) {
    service.configure(RARELY);
    service.create_tables().await;
    let application = service.start_idle();
    // Two prepares that came late: of its open epoch, and not of a transaction that is running.
    let gtrid = other_of(&application.gtrid);
    service.prepare_orders(&gid(&gtrid, "orders"), 10).await;
    service.prepare_ledger(&xid(&gtrid, "ledger"), 10).await;

    let listed = service.run(&["list", "--format", "json"]).exits(1);
    assert_eq!(listed.json()["application"], application.pid());
    assert_eq!(listed.branches(&gtrid).len(), 2, "{listed:?}");
    for (_, branch) in listed.branches(&gtrid) {
        assert_eq!(branch["state"], "orphaned");
        assert_eq!(branch["in_doubt"], true);
    }
    let planned = service.run(&["recover", "--dry-run"]).exits(1);
    assert_eq!(planned.lines(&gtrid).len(), 2, "{planned:?}");
    let still = service.run(&["list", "--format", "json"]).exits(1);
    assert_eq!(still.branches(&gtrid).len(), 2, "a plan changes nothing");

    let pass = service
        .run(&["recover", "--yes", "--format", "json"])
        .exits(0);
    assert_eq!(pass.json()["application"], application.pid(), "it did it");
    for resource in pass.json()["resources"].as_array().unwrap() {
        assert_eq!(resource["rolled_back"], 1, "{pass:?}");
    }
    service.run(&["list"]).exits(0);
    assert_eq!(service.rows().await, (0, 0));
    drop(application);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_a_living_application_ends_what_came_late_on_postgresql_15_and_mysql() {
    late_branches_are_ended_by_the_application(Service::new("late")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_a_living_application_ends_what_came_late_on_the_newest_postgresql_and_mariadb() {
    late_branches_are_ended_by_the_application(Service::new_on_the_others("late2")).await;
}

/// The database is killed between the decision and the commit, and comes back.
async fn a_decision_outlives_its_database(service: Service, mut server: Server) {
    service.create_tables().await;
    let mut application = service.start(Plan::DecisionDurable);
    server.kill();
    let away = service.run(&["list"]).exits(2);
    assert!(away.stderr.contains("asking the application"), "{away:?}");
    assert!(away.stderr.contains("not looked at"), "{away:?}");
    application.go_on();
    // It is durable: the application hears so, and its branch there is on its way.
    assert_eq!(application.word().as_deref(), Some("committed"));
    let gone = service.run(&["recover", "--yes"]).exits(2);
    assert!(gone.stderr.contains("not recovered"), "{gone:?}");
    server.restart().unwrap();
    // One pass may begin a moment before the server lets it in.
    let mut attempt = 1;
    loop {
        let pass = service.run(&["recover", "--yes", "--format", "json"]);
        if pass.code == Some(0) {
            assert_eq!(pass.json()["application"], application.pid());
            break;
        }
        assert!(attempt < 50, "{pass:?}");
        attempt += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(service.rows().await, (1, 1));
    service.run(&["list"]).exits(0);
    drop(application);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_living_application_commits_what_a_killed_postgresql_held() {
    let server = Server::start(Kind::Postgres15, &Options::new()).unwrap();
    let ledger = xtask::servers::shared().mysql.url;
    let service = Service::at("killedpg", &server.url(), &ledger);
    a_decision_outlives_its_database(service, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_living_application_commits_what_a_killed_mariadb_held() {
    let server = Server::start(Kind::Mariadb, &Options::new()).unwrap();
    let orders = xtask::servers::shared().pg15.url;
    let service = Service::at("killedmaria", &orders, &server.url());
    a_decision_outlives_its_database(service, server).await;
}

async fn healthy_traffic_is_never_in_doubt(service: Service) {
    service.create_tables().await;
    let application = service.start(Plan::Busy);
    for _ in 0..10 {
        let listed = service.run(&["list", "--format", "json"]).exits(0);
        assert_eq!(listed.json()["application"], application.pid());
        let pass = service
            .run(&["recover", "--yes", "--format", "json"])
            .exits(0);
        for resource in pass.json()["resources"].as_array().unwrap() {
            assert_eq!(resource["rolled_back"], 0, "{pass:?}");
        }
    }
    // Whatever it stood in when it was killed is ended whole.
    drop(application);
    service.run(&["recover", "--yes"]).exits(0);
    let (orders, ledger) = service.rows().await;
    assert!(orders == ledger && orders > 1, "{orders} {ledger}");
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_healthy_traffic_is_never_in_doubt_on_postgresql_15_and_mysql() {
    healthy_traffic_is_never_in_doubt(Service::new("busy")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_healthy_traffic_is_never_in_doubt_on_the_newest_postgresql_and_mariadb() {
    healthy_traffic_is_never_in_doubt(Service::new_on_the_others("busy2")).await;
}
