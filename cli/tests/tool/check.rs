//! `check`: log and servers, before anything happens.

use crate::application::Plan;
use crate::support::Service;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fit_is_said_to_be_before_and_after_the_first_start() {
    let service = Service::new("check");
    service.create_tables().await;
    let before = service.run(&["check"]).exits(0);
    assert!(
        before.stdout.contains("will make it at its first start"),
        "{before:?}"
    );
    assert!(!service.log().exists(), "a check makes no log");

    let application = service.start(Plan::DecisionDurable);
    let living = service.run(&["check", "--format", "json"]).exits(0).json();
    assert_eq!(living["log"]["has_application"], true);
    assert_eq!(living["log"]["pending"], 1);
    application.kill();
    let dead = service.run(&["check", "--format", "json"]).exits(0).json();
    assert_eq!(dead["log"]["has_application"], false);
    assert_eq!(dead["log"]["openings"], 1);
    for (checked, name) in dead["resources"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["ledger", "orders"])
    {
        assert_eq!(checked["resource"], name);
        assert!(checked["problem"].is_null());
        assert!(!checked["server"].as_str().unwrap().is_empty());
    }
    service.run(&["recover", "--yes"]).exits(0);
    service.drop_tables().await;
}

#[test]
fn every_problem_is_named_with_its_resource() {
    let service = Service::new("unfit");
    let text = service.config_text().replace("ledger.pw", "wrong.pw");
    service.write_config(&text.replace("\"log\"", "\"no/such/log\""));
    std::fs::write(service.config().with_file_name("wrong.pw"), "n0t-it").unwrap();
    let ran = service.run(&["check", "--format", "json"]).exits(2);
    assert!(!ran.stdout.contains("n0t-it"), "I8: {ran:?}");
    let checked = ran.json();
    let problem = |value: &serde_json::Value| value["problem"].as_str().unwrap_or("").to_owned();
    assert!(
        problem(&checked["log"]).contains("does not exist: make that"),
        "{checked}"
    );
    assert!(
        problem(&checked["resources"][0]).contains("ledger"),
        "{checked}"
    );
    assert_eq!(
        problem(&checked["resources"][1]),
        "",
        "the other one is fit"
    );
    let table = service.run(&["check"]).exits(2);
    assert_eq!(table.stdout.matches("PROBLEM").count(), 2, "{table:?}");
}
