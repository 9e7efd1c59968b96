//! A person ends branches by hand: what is refused, what is asked, what is on record before and
//! after, and that nothing else is touched.

use serde_json::Value;

use crate::application::Plan;
use crate::by_hand::{gid, other_of, unlisted_of, xid};
use crate::shared_log::Shared;
use crate::support::{Ran, Service};

const RARELY: &str = "[limits]\nrecovery_interval = \"1h\"\nrecovery_interval_max = \"1h\"\n";

impl Service {
    /// Resolves, without being asked, and answers in JSON.
    fn resolve(&self, gtrid: &str, words: &[&str]) -> Ran {
        let mut arguments = vec!["resolve", gtrid, "--reason", "ticket 4711: it's closed"];
        arguments.extend(["--yes", "--format", "json"]);
        arguments.extend(words);
        self.run(&arguments)
    }

    fn heuristics(&self) -> Value {
        let listed = self.run(&["list", "--heuristic", "--format", "json"]);
        assert!(matches!(listed.code, Some(0 | 1)), "{listed:?}");
        listed.json()
    }

    fn prepared(&self, gtrid: &str) -> Vec<String> {
        let listed = self.run(&["list", "--format", "json"]);
        let branches = listed.branches(gtrid).into_iter();
        // One that is gone is listed as long as its decision is pending.
        let gone = "prove that it was committed";
        let branches = branches.filter(|(_, branch)| branch["plan"] != gone);
        branches.map(|(resource, _)| resource).collect()
    }
}

/// Act and state of every record by hand, with the resource.
fn hands(listed: &Value) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let hands = listed["by_hand"].as_array().unwrap().iter();
    let hand = |hand: &Value| [&hand["resource"], &hand["act"], &hand["state"]].map(text);
    hands.map(hand).collect()
}

fn ends(listed: &Value) -> Vec<[String; 2]> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let ends = listed["ends"].as_array().unwrap().iter();
    ends.map(|end| [&end["resource"], &end["end"]].map(text))
        .collect()
}

/// What was done is told everywhere, with what is to be done, until somebody says that it was.
fn is_shown_and_dealt_with(service: &Service, gtrid: &str, resource: &str) {
    let shown = service.run(&["show", gtrid]);
    for words in [
        "commit; ended otherwise, or may have:",
        &format!("Once they agree: unanimous forget {gtrid}"),
        "ticket 4711: it's closed",
    ] {
        assert!(shown.stdout.contains(words), "{words}: {shown:?}");
    }
    let logged = service.run(&["log", "show", gtrid, "--format", "json"]);
    let hand = &logged.json()["transactions"][0]["by_hand"][0];
    assert_eq!(hand["reason"], "ticket 4711: it's closed");
    let forget = ["forget", gtrid, "--reason", "booked by hand"];
    let unasked = service.run(&forget).exits(2);
    assert!(unasked.stderr.contains("add --yes"), "{unasked:?}");
    assert!(unasked.stderr.contains("ended by rollback"), "{unasked:?}");
    let planned = [&forget[..], &["--dry-run", "--format", "json"]].concat();
    let planned = service.run(&planned).exits(1).json();
    assert_eq!(planned["ends"][0]["resource"], resource, "{planned}");
    service.run(&["list", "--heuristic"]).exits(1);
    let forget = [&forget[..], &["--yes"]].concat();
    service.run(&forget).exits(0);
    let again = service.run(&forget).exits(2);
    let shown = service.run(&["show", gtrid]);
    assert!(shown.stdout.contains("has been dealt with"), "{shown:?}");
    assert!(again.stderr.contains("not dealt with"), "{again:?}");
}

async fn a_decided_branch_is_rolled_back_by_hand(service: Service, resource: &str) {
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let rollback = ["--rollback", "--resource", resource];
    let refused = service.resolve(&gtrid, &rollback).exits(2);
    assert!(
        refused.stderr.contains("AGAINST THE DECISION")
            && refused.stderr.contains("--against-the-decision"),
        "{refused:?}"
    );
    let against = [&rollback[..], &["--against-the-decision"]].concat();
    let mut unasked = vec!["resolve", &gtrid, "--reason", "x"];
    unasked.extend(&against);
    let unasked = service.run(&unasked).exits(2);
    assert!(unasked.stderr.contains("add --yes"), "{unasked:?}");
    let unreasoned = service.run(&["resolve", &gtrid, "--rollback", "--yes"]);
    assert!(unreasoned.stderr.contains("--reason"), "{unreasoned:?}");
    let planned = service.resolve(&gtrid, &[&against[..], &["--dry-run"]].concat());
    assert_eq!(planned.exits(1).json()["acted"], false);
    assert_eq!(service.prepared(&gtrid).len(), 2, "nothing was touched");
    assert_eq!(hands(&service.heuristics()), Vec::<[String; 3]>::new());

    let done = service.resolve(&gtrid, &against).exits(0);
    // What the library warns of is heard.
    let warning = "warning: a branch ended against the decision; a person has to look (";
    assert!(done.stderr.contains(warning), "{done:?}");
    let json = done.json();
    assert_eq!(
        (&json["acted"], &json["decided"]),
        (&true.into(), &true.into())
    );
    assert!(
        json["decided_at"].as_u64().unwrap() > 1_700_000_000,
        "{done:?}"
    );
    let [branch] = &json["branches"].as_array().unwrap()[..] else {
        panic!("{done:?}");
    };
    assert_eq!(branch["resource"], resource);
    assert_eq!(
        (&branch["ended"], &branch["heuristic"]),
        (&true.into(), &true.into())
    );
    let other = if resource == "orders" {
        "ledger"
    } else {
        "orders"
    };
    assert_eq!(
        service.prepared(&gtrid),
        [other],
        "the other one is untouched"
    );
    let listed = service.heuristics();
    assert_eq!(ends(&listed), [[resource, "rollback"]]);
    assert_eq!(hands(&listed), [[resource, "rollback", "done"]]);
    let hand = &listed["by_hand"][0];
    assert!(hand["who"].as_str().unwrap().contains('@'), "{hand}");
    assert_eq!(hand["reason"], "ticket 4711: it's closed");

    // The rest goes on as was decided, and what was done stays on record.
    service.run(&["recover", "--yes"]).exits(0);
    let expected = if resource == "orders" { (0, 1) } else { (1, 0) };
    assert_eq!(service.rows().await, expected);
    let listed = service.run(&["list", "--heuristic"]).exits(1);
    assert!(listed.lines(&gtrid)[0].contains("rollback"), "{listed:?}");
    is_shown_and_dealt_with(&service, &gtrid, resource);
    service.run(&["list", "--heuristic"]).exits(0);
    assert_eq!(service.heuristics()["ends"][0]["forgotten"], true);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_rollback_by_hand_of_what_was_decided_on_postgresql_15() {
    a_decided_branch_is_rolled_back_by_hand(Service::new("handpg"), "orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_rollback_by_hand_of_what_was_decided_on_mysql() {
    a_decided_branch_is_rolled_back_by_hand(Service::new("handmy"), "ledger").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_rollback_by_hand_of_what_was_decided_on_mariadb() {
    let service = Service::new_on_the_others("handma");
    a_decided_branch_is_rolled_back_by_hand(service, "ledger").await;
}

async fn an_orphan_is_ended_by_hand(service: Service) {
    service.create_tables().await;
    let gtrid = service.start(Plan::BeforeDecide).kill();
    let refused = service.resolve(&gtrid, &["--commit"]).exits(2);
    assert_eq!(
        refused.stderr.matches("refused: ").count(),
        2,
        "{refused:?}"
    );
    assert_eq!(service.prepared(&gtrid).len(), 2, "nothing was touched");
    let commit = ["--commit", "--against-the-decision", "--resource", "orders"];
    service.resolve(&gtrid, &commit).exits(0);
    assert_eq!(service.rows().await, (1, 0));
    // Undecided it is still: the heuristic end of one branch decides nothing for the other.
    // But whoever ends it otherwise than another person did is told so.
    let refused = service.resolve(&gtrid, &["--rollback"]).exits(2);
    let told = "was here before, to commit it (done)";
    assert!(refused.stderr.contains(told), "{refused:?}");
    let rollback = ["--rollback", "--against-the-decision"];
    let plain = service.resolve(&gtrid, &rollback).exits(0);
    assert_eq!(plain.json()["decided"], false, "{plain:?}");
    assert!(
        plain.json()["notes"].to_string().contains("Commit"),
        "{plain:?}"
    );
    assert_eq!(service.rows().await, (1, 0));
    service.run(&["recover", "--yes"]).exits(0);
    let listed = service.heuristics();
    assert_eq!(ends(&listed), [["orders", "commit"]]);
    assert_eq!(
        hands(&listed),
        [["orders", "commit", "done"], ["ledger", "rollback", "done"]]
    );
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_an_orphan_is_ended_by_hand_on_postgresql_15_and_mysql() {
    an_orphan_is_ended_by_hand(Service::new("handorphan")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_an_orphan_is_ended_by_hand_on_the_newest_postgresql_and_mariadb() {
    an_orphan_is_ended_by_hand(Service::new_on_the_others("handorphan2")).await;
}

/// The application alone may decide what is active; what came late it ends, and keeps the record.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_living_application_is_asked_and_what_is_active_is_refused() {
    let service = Service::new("handactive");
    service.configure(RARELY);
    service.create_tables().await;
    let application = service.start(Plan::DecisionDurable);
    let gtrid = application.gtrid.clone();
    for words in [
        &["--commit"][..],
        &["--rollback", "--against-the-decision", "--its-log-is-lost"],
    ] {
        let refused = service.resolve(&gtrid, words).exits(2);
        assert!(
            refused.stderr.contains("its transaction is running"),
            "{refused:?}"
        );
    }
    assert_eq!(service.prepared(&gtrid).len(), 2);
    let late = other_of(&gtrid);
    service.prepare_orders(&gid(&late, "orders"), 10).await;
    let commit = ["--commit", "--against-the-decision"];
    let done = service.resolve(&late, &commit).exits(0);
    assert_eq!(done.json()["application"], application.pid());
    assert_eq!(service.rows().await, (1, 0));
    let listed = service.heuristics();
    assert_eq!(listed["application"], application.pid());
    assert_eq!(ends(&listed), [["orders", "commit"]]);
    assert_eq!(
        service.prepared(&gtrid).len(),
        2,
        "nothing else was touched"
    );
    application.kill();
    // The application is gone, and its record is not.
    assert_eq!(hands(&service.heuristics()), [["orders", "commit", "done"]]);
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (2, 1));
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_wrong_name_and_a_strangers_branch_are_refused() {
    let service = Service::new("handwrong");
    service.create_tables().await;
    let gtrid = service.start(Plan::BeforeDecide).kill();
    let foreign = format!("backup {}", std::process::id());
    service.prepare_orders(&foreign, 10).await;
    let words = ["--rollback", "--against-the-decision", "--its-log-is-lost"];
    let nobody = service.resolve(&other_of(&gtrid), &words).exits(2);
    assert!(nobody.stderr.contains("no branch of"), "{nobody:?}");
    let stranger = service.resolve(&foreign, &words).exits(2);
    assert!(
        stranger.stderr.contains("is no transaction of"),
        "{stranger:?}"
    );
    let elsewhere = [&words[..], &["--resource", "elsewhere"]].concat();
    let elsewhere = service.resolve(&gtrid, &elsewhere).exits(2);
    assert!(
        elsewhere.stderr.contains("there is no resource"),
        "{elsewhere:?}"
    );
    assert_eq!(service.prepared(&gtrid).len(), 2);
    service.unprepare_orders(&foreign).await;
    service.run(&["recover", "--yes"]).exits(0);
    service.drop_tables().await;
}

async fn what_no_log_knows_is_ended(service: &Service, gtrid: &str) {
    let lost = unlisted_of(gtrid);
    service.prepare_orders(&gid(&lost, "orders"), 10).await;
    service.prepare_ledger(&xid(&lost, "ledger"), 10).await;
    let refused = service.resolve(&lost, &["--commit", "--against-the-decision"]);
    let refused = refused.exits(2);
    assert!(refused.stderr.contains("--its-log-is-lost"), "{refused:?}");
    assert_eq!(service.prepared(&lost).len(), 2);
    let done = service.resolve(&lost, &["--commit", "--its-log-is-lost"]);
    assert!(done.exits(0).json()["decided"].is_null());
    assert_eq!(service.prepared(&lost), Vec::<String>::new());
    let listed = service.heuristics();
    assert_eq!(
        hands(&listed),
        [["ledger", "commit", "done"], ["orders", "commit", "done"]]
    );
    assert_eq!(ends(&listed), Vec::<[String; 2]>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_what_no_log_knows_takes_a_word_of_its_own() {
    let service = Service::new("handlost");
    service.create_tables().await;
    let gtrid = service.start(Plan::BeforeDecide).kill();
    what_no_log_knows_is_ended(&service, &gtrid).await;
    assert_eq!(service.rows().await, (1, 1));
    assert_eq!(
        service.prepared(&gtrid).len(),
        2,
        "nothing else was touched"
    );
    service.run(&["recover", "--yes"]).exits(0);
    service.drop_tables().await;
}

/// Beside the members of a shared log; a branch of one that may still decide is refused.
#[tokio::test(flavor = "multi_thread")]
async fn i5_beside_members_what_they_may_still_decide_is_refused() {
    let options = "last_resource = false\nsuspect_after = \"20s\"";
    let shared = Shared::new("handshared", "ledger", options).await;
    let service = &shared.service;
    let gtrid = service.start(Plan::BeforeDecide).kill();
    let words = ["--rollback", "--against-the-decision", "--its-log-is-lost"];
    let refused = service.resolve(&gtrid, &words).exits(2);
    let epoch = gtrid.split('-').nth(1).unwrap();
    let mend = format!("unanimous recover --close {epoch}");
    assert!(refused.stderr.contains(&mend), "{refused:?}");
    what_no_log_knows_is_ended(service, &gtrid).await;
    assert_eq!(
        service.prepared(&gtrid).len(),
        2,
        "nothing else was touched"
    );
    service
        .run(&["recover", "--yes", "--close", epoch])
        .exits(0);
    shared.drop_databases().await;
}

/// Two people, two minds: one of them ends it, and the other is told.
#[tokio::test(flavor = "multi_thread")]
async fn i1_of_two_people_at_once_one_ends_the_branch() {
    let service = Service::new("handtwo");
    service.configure(RARELY);
    service.create_tables().await;
    let application = service.start_idle();
    let gtrid = other_of(&application.gtrid);
    service.prepare_orders(&gid(&gtrid, "orders"), 10).await;
    let start = |end: &str, reason: &str| {
        let arguments = ["resolve", &gtrid, end, "--reason", reason, "--yes"];
        let mut tool = service.tool(&arguments);
        tool.args(["--against-the-decision", "--format", "json"]);
        tool.stdout(std::process::Stdio::piped());
        tool.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let both = [start("--commit", "one"), start("--rollback", "two")];
    let [commit, rollback] = both.map(|tool| Ran::new(tool.wait_with_output().unwrap()));
    let committed = service.rows().await == (1, 0);
    let (winner, other) = if committed {
        (commit, rollback)
    } else {
        (rollback, commit)
    };
    assert_eq!(winner.code, Some(0), "{winner:?} {other:?}");
    assert_ne!(other.code, Some(0), "{winner:?} {other:?}");
    let listed = service.heuristics();
    let expected: &[[&str; 2]] = if committed {
        &[["orders", "commit"]]
    } else {
        &[]
    };
    assert_eq!(ends(&listed), expected);
    let done: Vec<_> = hands(&listed);
    let done: Vec<_> = done.iter().filter(|hand| hand[2] == "done").collect();
    assert_eq!(done.len(), 1, "{listed}");
    drop(application);
    service.drop_tables().await;
}

/// Two people, two minds, and nobody knows what was decided: it ends in one way.
#[tokio::test(flavor = "multi_thread")]
async fn i1_of_two_people_at_once_no_transaction_is_split() {
    let service = Service::new("handsplit");
    service.configure(RARELY);
    service.create_tables().await;
    let application = service.start(Plan::Idle);
    for round in 0..4 {
        let lost = other_of(&unlisted_of(&application.gtrid));
        let lost = format!("{lost}{round}");
        let id = 10 + round;
        service.prepare_orders(&gid(&lost, "orders"), id).await;
        service.prepare_ledger(&xid(&lost, "ledger"), id).await;
        let start = |end: &str| {
            let arguments = ["resolve", &lost, end, "--reason", "mine", "--yes"];
            let mut tool = service.tool(&arguments);
            tool.arg("--its-log-is-lost");
            tool.stdout(std::process::Stdio::piped());
            tool.stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let both = [start("--commit"), start("--rollback")];
        let both = both.map(|tool| Ran::new(tool.wait_with_output().unwrap()));
        let done = both.iter().filter(|ran| ran.code == Some(0)).count();
        let (orders, ledger) = service.rows().await;
        assert_eq!(orders, ledger, "{both:?}");
        assert_eq!(done, 1, "{both:?}");
        assert_eq!(service.prepared(&lost), Vec::<String>::new(), "{both:?}");
    }
    drop(application);
    service.drop_tables().await;
}
