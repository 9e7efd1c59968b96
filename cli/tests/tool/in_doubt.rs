//! An application was killed: what the tool shows, plans and does.

use crate::application::Plan;
use crate::support::Service;

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_was_not_carried_out_is_listed_planned_and_committed() {
    let service = Service::new("decided");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();

    let table = service.run(&["list"]).exits(1);
    let lines = table.lines(&gtrid);
    assert_eq!(lines.len(), 2, "{table:?}");
    for (line, resource) in lines.iter().zip(["ledger", "orders"]) {
        assert!(line.starts_with(resource), "{line}");
        assert!(
            line.contains("decided") && line.contains("commit"),
            "{line}"
        );
    }
    assert!(table.stderr.contains("2 in doubt"), "{table:?}");

    let json = service.run(&["list", "--format", "json"]).exits(1);
    assert!(json.json()["application"].is_null());
    for (_, branch) in json.branches(&gtrid) {
        assert_eq!(branch["state"], "decided");
        assert_eq!(branch["decided"], true);
        assert_eq!(branch["plan"], "commit");
        assert_eq!(branch["in_doubt"], true);
        assert_eq!(branch["epoch"], 1);
    }
    let plan = service.run(&["recover", "--dry-run", "--format", "json"]);
    assert_eq!(plan.exits(1).branches(&gtrid).len(), 2);
    let unasked = service.run(&["recover"]).exits(2);
    assert!(unasked.stderr.contains("add --yes"), "{unasked:?}");
    assert_eq!(service.rows().await, (0, 0), "nothing was touched so far");

    let done = service
        .run(&["recover", "--yes", "--format", "json"])
        .exits(0);
    assert!(
        done.stderr.contains(&format!("orders: commit: {gtrid}")),
        "{done:?}"
    );
    for resource in done.json()["resources"].as_array().unwrap() {
        assert_eq!(resource["committed"], 1, "{done:?}");
        assert_eq!(resource["rolled_back"], 0, "{done:?}");
    }
    assert_eq!(service.rows().await, (1, 1));
    let clean = service.run(&["list"]).exits(0);
    assert!(clean.stderr.contains("0 in doubt"), "{clean:?}");
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_orphans_are_rolled_back_and_what_is_not_ours_is_left() {
    let service = Service::new("orphan");
    let other = Service::new("other");
    service.create_tables().await;
    other.create_tables().await;
    let gtrid = service.start(Plan::BeforeDecide).kill();
    let others = other.start(Plan::DecisionDurable).kill();

    let listed = service.run(&["list", "--format", "json"]).exits(1);
    for (_, branch) in listed.branches(&gtrid) {
        assert_eq!(branch["state"], "orphaned");
        assert_eq!(branch["decided"], false);
        assert_eq!(branch["plan"], "roll back");
    }
    for (_, branch) in listed.branches(&others) {
        assert_eq!(branch["state"], "other_manager");
        assert_eq!(branch["in_doubt"], false);
        assert!(branch["decided"].is_null());
    }
    assert_eq!(listed.branches(&gtrid).len(), 2);
    assert_eq!(listed.branches(&others).len(), 2);

    let done = service.run(&["recover", "--yes"]).exits(0);
    let words: Vec<Vec<&str>> = done
        .stdout
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(words[1][..4], ["ledger", "0", "1", "0"], "{done:?}");
    assert_eq!(words[2][..4], ["orders", "0", "1", "0"], "{done:?}");
    assert_eq!(service.rows().await, (0, 0));
    let left = other.run(&["list", "--format", "json"]).exits(1);
    assert_eq!(
        left.branches(&others).len(),
        2,
        "another manager's are untouched"
    );
    other.run(&["recover", "-y"]).exits(0);
    assert_eq!(other.rows().await, (1, 1));
    service.drop_tables().await;
    other.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_the_file_lacks_keeps_its_decisions_in_doubt() {
    let service = Service::new("lacking");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let whole = service.config_text();
    let (without, _) = whole.split_once("[resources.ledger]").unwrap();
    service.write_config(without);
    for arguments in [&["list"][..], &["recover", "--yes"]] {
        let ran = service.run(arguments).exits(1);
        assert!(
            ran.stderr.contains("decisions for resource ledger, which"),
            "{ran:?}"
        );
    }
    assert_eq!(service.rows().await, (1, 0), "its part waits");
    service.write_config(&whole);
    let done = service.run(&["recover", "--yes"]).exits(0);
    assert!(done.stderr.contains(&gtrid), "{done:?}");
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_server_that_is_away_is_a_failure_and_delays_no_other() {
    let service = Service::new("away");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let whole = service.config_text();
    let at = whole.find("mysql://app@127.0.0.1:").unwrap() + "mysql://app@127.0.0.1:".len();
    let end = at + whole[at..].find('/').unwrap();
    service.write_config(&format!("{}1{}", &whole[..at], &whole[end..]));
    let listed = service.run(&["list"]).exits(2);
    assert!(
        listed.stderr.contains("error: ledger: not looked at"),
        "{listed:?}"
    );
    let recovered = service.run(&["recover", "--yes"]).exits(2);
    assert!(
        recovered.stderr.contains("error: ledger: not recovered"),
        "{recovered:?}"
    );
    assert_eq!(service.rows().await, (1, 0));
    service.write_config(&whole);
    let half = service.run(&["list"]).exits(1);
    let lines = half.lines(&gtrid);
    assert!(
        lines[0].contains("decided") && !lines[0].contains("prove"),
        "{half:?}"
    );
    assert!(lines[1].contains("prove that it was committed"), "{half:?}");
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}
