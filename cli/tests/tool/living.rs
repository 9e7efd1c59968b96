//! An application lives and holds the log: the tool asks it, and healthy traffic is not in doubt.

use unanimous::log::FileLog;

use crate::application::Plan;
use crate::support::Service;

#[tokio::test(flavor = "multi_thread")]
async fn i5_what_is_active_is_not_in_doubt_and_is_not_touched() {
    let service = Service::new("active");
    service.create_tables().await;
    let application = service.start(Plan::DecisionDurable);
    let gtrid = application.gtrid.clone();

    let listed = service.run(&["list", "--format", "json"]).exits(0);
    assert_eq!(listed.json()["application"], application.pid());
    assert_eq!(listed.json()["active"], 1);
    let branches = listed.branches(&gtrid);
    assert_eq!(branches.len(), 2, "{listed:?}");
    for (_, branch) in branches {
        assert_eq!(branch["state"], "active");
        assert_eq!(branch["in_doubt"], false);
    }
    let table = service.run(&["recover", "--dry-run"]).exits(0);
    assert!(
        table
            .lines(&gtrid)
            .iter()
            .all(|line| line.contains("active"))
    );
    assert!(table.stderr.contains("asking the application"), "{table:?}");
    let pass = service
        .run(&["recover", "--yes", "--format", "json"])
        .exits(0);
    assert_eq!(pass.json()["application"], application.pid());
    assert_eq!(service.rows().await, (0, 0), "its driver alone may end it");

    let socket = service.log().join("control.sock");
    assert!(socket.exists());
    application.kill();
    assert!(
        socket.exists(),
        "a dead owner's socket stays, and is nobody"
    );
    let dead = service.run(&["list"]).exits(1);
    assert!(
        dead.stderr.contains("no application holds the log"),
        "{dead:?}"
    );
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tool_asks_for_no_password_while_an_application_answers() {
    let service = Service::new("nopassword");
    service.create_tables().await;
    let application = service.start(Plan::BeforeDecide);
    let listing = service
        .tool(&["list"])
        .env_remove("UNANIMOUS_TEST_ORDERS_PW")
        .output();
    assert_eq!(listing.unwrap().status.code(), Some(0));
    application.kill();
    let alone = service
        .tool(&["list"])
        .env_remove("UNANIMOUS_TEST_ORDERS_PW")
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(2));
    let said = String::from_utf8(alone.stderr).unwrap();
    assert!(
        said.contains("the environment variable UNANIMOUS_TEST_ORDERS_PW is not set"),
        "{said}"
    );
    service.run(&["recover", "--yes"]).exits(0);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_a_holder_of_the_log_without_a_socket_is_not_acted_beside() {
    let service = Service::new("nosocket");
    let log = FileLog::at(service.log()).open().await.unwrap();
    for arguments in [&["list"][..], &["recover", "--yes"]] {
        let ran = service.run(arguments).exits(2);
        let pid = format!("in use by the process with pid {}", std::process::id());
        assert!(ran.stderr.contains(&pid), "{ran:?}");
        assert!(ran.stderr.contains("the feature `operator`"), "{ran:?}");
        assert_eq!(ran.stdout, "");
    }
    drop(log);
    service.run(&["list"]).exits(0);
}
