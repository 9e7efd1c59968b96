//! A decision waits for a branch that is lost: what is refused, and how it comes to its end.

use crate::application::Plan;
use crate::shared_log::Shared;
use crate::support::{Ran, Service, split_password};

impl Service {
    /// Gives up the branch at the ledger, without being asked.
    fn give_up(&self, gtrid: &str, words: &[&str]) -> Ran {
        let mut arguments = vec![
            "forget",
            gtrid,
            "--lost",
            "ledger",
            "--reason",
            "ticket 4712",
        ];
        arguments.extend(["--format", "json"]);
        arguments.extend(words);
        self.run(&arguments)
    }

    /// Nothing is in doubt, and the transaction is on record as what it is.
    fn tells_a_hazard_that_was_dealt_with(&self, gtrid: &str) {
        self.run(&["list"]).exits(0);
        let listed = self.run(&["list", "--heuristic", "--format", "json"]);
        let listed = listed.exits(0).json();
        let (end, hand) = (&listed["ends"][0], &listed["by_hand"][0]);
        for (value, expected) in [
            (&end["gtrid"], gtrid),
            (&end["resource"], "ledger"),
            (&end["end"], "hazard"),
            (&hand["act"], "forget"),
            (&hand["state"], "done"),
            (&hand["reason"], "ticket 4712"),
        ] {
            assert_eq!(value, expected, "{listed}");
        }
        assert_eq!(end["forgotten"], true, "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_branch_whose_server_is_another_one_is_given_up_through_the_application() {
    let service = Service::new("lost");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let refused = service.give_up(&gtrid, &["--yes"]).exits(2);
    assert!(refused.stderr.contains("is prepared there"), "{refused:?}");
    // The ledger's address leads to another server.
    let (whole, here) = (service.config_text(), split_password(&service.urls[1]));
    let there = split_password(&xtask::servers::shared().mariadb.url);
    let password = service.config().with_file_name("ledger.pw");
    service.write_config(&whole.replace(&here.0, &there.0));
    std::fs::write(&password, &there.1).unwrap();

    let application = service.start(Plan::Idle);
    let recovered = service.run(&["recover", "--yes"]).exits(1);
    assert!(recovered.stderr.contains("--lost ledger"), "{recovered:?}");
    service.run(&["list"]).exits(1);
    let unasked = service.give_up(&gtrid, &[]).exits(2);
    assert!(unasked.stderr.contains("add --yes"), "{unasked:?}");
    let planned = service.give_up(&gtrid, &["--dry-run"]).exits(1);
    assert_eq!(planned.json()["acted"], false);
    service.run(&["list"]).exits(1);
    let done = service.give_up(&gtrid, &["--yes"]).exits(0).json();
    assert_eq!(done["application"], application.pid());
    assert_eq!(done["acted"], true, "{done}");
    assert!(
        done["server"].as_str().unwrap().starts_with("mysql:"),
        "{done}"
    );
    service.tells_a_hazard_that_was_dealt_with(&gtrid);
    application.kill();
    service.tells_a_hazard_that_was_dealt_with(&gtrid);
    let again = service.give_up(&gtrid, &["--yes"]).exits(2);
    assert!(again.stderr.contains("no decision of"), "{again:?}");
    assert_eq!(service.rows().await, (1, 0));

    // It comes back all the same, and was decided.
    service.write_config(&whole);
    std::fs::write(&password, &here.1).unwrap();
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_on_a_shared_log_a_lost_branch_is_given_up_and_the_others_are_committed() {
    let shared = Shared::new(
        "lostshared",
        "orders",
        "last_resource = false\nsuspect_after = \"20s\"",
    )
    .await;
    let service = &shared.service;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let whole = service.config_text();
    let (without, _) = whole.split_once("[resources.ledger]").unwrap();
    service.write_config(without);
    // Nobody but the tool is there to close its epoch.
    let refused = service.give_up(&gtrid, &["--yes"]).exits(2);
    assert!(refused.stderr.contains("which is open"), "{refused:?}");
    let epoch = gtrid.split('-').nth(1).unwrap();
    let recover = ["recover", "--yes", "--close", epoch];
    service.run(&recover).exits(1);
    let listed = service.run(&["list"]).exits(1);
    assert!(listed.stderr.contains("--lost ledger"), "{listed:?}");
    service.give_up(&gtrid, &["--yes"]).exits(0);
    service.run(&["recover", "--yes"]).exits(0);
    service.tells_a_hazard_that_was_dealt_with(&gtrid);
    service.write_config(&whole);
    assert_eq!(service.rows().await, (1, 0));
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    shared.drop_databases().await;
}
