//! One transaction, whole; and which of many are shown.

use crate::application::Plan;
use crate::by_hand::{gid, other_of, unlisted_of};
use crate::support::{Ran, Service};

/// A session that waits for the row that the transaction has inserted.
fn wait_for_the_row(service: &Service) -> std::thread::JoinHandle<()> {
    let (url, table) = (service.urls[0].clone(), service.table.clone());
    std::thread::spawn(move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        let insert = format!("INSERT INTO {table} VALUES (1) ON CONFLICT DO NOTHING");
        client.batch_execute(&insert).unwrap();
    })
}

fn until_blocked(service: &Service, gtrid: &str) -> Ran {
    for _ in 0..300 {
        let ran = service.run(&["show", gtrid, "--format", "json"]).exits(1);
        if at(&ran, "orders")["branch"]["held"]["blocked"] == 1 {
            return ran;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("nobody was ever blocked");
}

fn at(ran: &Ran, resource: &str) -> serde_json::Value {
    let json = ran.json();
    let mut branches = json["branches"].as_array().unwrap().iter();
    branches
        .find(|at| at["resource"] == resource)
        .unwrap()
        .clone()
}

fn is_told_by_every_name(service: &Service, gtrid: &str) {
    for name in [
        format!("unanimous:{gtrid}:orders"),
        format!("{gtrid}:ledger"),
        gtrid[..gtrid.len() - 2].to_owned(),
    ] {
        let shown = service.run(&["show", &name]).exits(1);
        for words in [
            &*format!("transaction  {gtrid}"),
            "decision     commit; not every branch is known to be committed",
            "decided at   20",
            "a run that has ended (epoch 1)",
            "orders: commit; when the application starts, or: unanimous recover",
            "unanimous recover is safe: it commits what was decided",
            "RESOURCE  STATE    AGE",
            "RESOURCE  SESSION",
            "transactions since it began",
        ] {
            assert!(shown.stdout.contains(words), "{words}: {}", shown.stdout);
        }
        assert!(
            shown.stderr.contains("note: ") || shown.stdout.contains("note "),
            "{shown:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_shown_with_what_was_decided_whom_it_blocks_and_what_to_do() {
    let service = Service::new("shown");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let waiting = wait_for_the_row(&service);
    let json = until_blocked(&service, &gtrid);
    assert_eq!(json.json()["decision"], "commit");
    assert_eq!(json.json()["ours"], true);
    let orders = at(&json, "orders");
    let held = &orders["branch"]["held"];
    let waits = &held["session_list"][0];
    assert_eq!(waits["user"], "app", "{held}");
    assert!(
        waits["statement"]
            .as_str()
            .unwrap()
            .starts_with("INSERT INTO")
    );
    let locked = held["lock_list"].as_array().unwrap();
    assert!(
        locked
            .iter()
            .any(|lock| lock["object"] == format!("public.{}", service.table)),
        "{held}"
    );
    assert_eq!(held["horizon"]["limit"], 200_000_000);
    assert_eq!(at(&json, "ledger")["branch"]["state"], "decided");
    let when = json.json()["decided_at"].as_u64().unwrap();
    assert!(when > 1_700_000_000, "{json:?}");
    let listed = service.run(&["list", "--format", "json"]).exits(1);
    for (_, branch) in listed.branches(&gtrid) {
        assert_eq!(branch["decided_at"], when, "{branch}");
    }

    is_told_by_every_name(&service, &gtrid);
    let unknown = service.run(&["show", "nobody's"]).exits(2);
    assert!(unknown.stderr.contains("see unanimous list"), "{unknown:?}");

    let first = service
        .run(&["recover", "--yes", "--resource", "orders"])
        .exits(0);
    assert!(
        first.stderr.contains("done: 1 committed, 0 rolled back"),
        "{first:?}"
    );
    waiting.join().unwrap();
    assert_eq!(service.rows().await, (1, 0), "only there");
    let wrong = service
        .run(&["recover", "--yes", "--resource", "order"])
        .exits(2);
    assert!(
        wrong.stderr.contains("there are ledger, orders"),
        "{wrong:?}"
    );
    service.run(&["recover", "--yes"]).exits(0);
    let done = service.run(&["show", &gtrid]).exits(0);
    assert!(
        done.stdout
            .contains("commit, and every branch is committed"),
        "{done:?}"
    );
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_application_says_when_it_will_act() {
    let service = Service::new("shown_living");
    service.configure("[limits]\nrecovery_interval = \"1h\"\nrecovery_interval_max = \"1h\"\n");
    service.create_tables().await;
    let application = service.start_idle();
    let gtrid = other_of(&application.gtrid);
    service.prepare_orders(&gid(&gtrid, "orders"), 10).await;
    let shown = service.run(&["show", &gtrid]).exits(1);
    let alive = format!("the application, process {}, alive", application.pid());
    assert!(shown.stdout.contains(&alive), "{shown:?}");
    assert!(
        shown
            .stdout
            .contains("by the application's next pass there, in "),
        "{shown:?}"
    );
    assert!(
        shown
            .stdout
            .contains("it rolls back what nobody can decide any"),
        "{shown:?}"
    );
    service
        .run(&["recover", "--yes", "--resource", "orders"])
        .exits(0);
    drop(application);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_filters_hide_rows_and_no_doubt_and_foreign_names_are_decoded() {
    let service = Service::new("filtered");
    service.create_tables().await;
    let gtrid = service.start(Plan::BeforeDecide).kill();
    let tag = format!("filtered.tm{}", std::process::id());
    let foreign = format!("'{tag}','ledger7',1096044365");
    service.prepare_ledger(&foreign, 10).await;

    let all = service.run(&["list"]).exits(1);
    let line = all.lines(&format!("Atomikos: {tag} / ledger7"));
    assert_eq!(line.len(), 1, "{all:?}");
    assert_eq!(all.lines(&gtrid).len(), 2);
    let shows = |arguments: &[&str], ours: usize, theirs: usize| {
        let arguments: Vec<&str> = ["list"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        let ran = service.run(&arguments).exits(1);
        let found = (ran.lines(&gtrid).len(), ran.lines(&tag).len());
        assert_eq!(found, (ours, theirs), "{arguments:?} {ran:?}");
        assert!(
            ran.stderr.contains(" not shown: the filters hide them"),
            "{ran:?}"
        );
    };
    shows(&["--resource", "orders"], 1, 0);
    shows(&["--state", "orphaned"], 2, 0);
    shows(&["--foreign", "only"], 0, 1);
    shows(&["--foreign", "hide", "--sort", "age"], 2, 0);
    shows(&["--state", "decided"], 0, 0);
    shows(&[&gtrid[..20]], 2, 0);
    shows(&[&format!("Atomikos: {tag}")], 0, 1);
    let json = service
        .run(&["list", "--resource", "ledger", "--format", "json"])
        .exits(1);
    assert_eq!(json.branches(&gtrid).len(), 1);
    service.run(&["list", "--older-than", "soon"]).exits(2);
    service.run(&["list", "--resource", "nowhere"]).exits(2);
    let ignored = ["list", "--heuristic", "--resource", "orders"];
    service.run(&ignored).exits(2);
    service.run(&["list", "--heuristic", &gtrid]).exits(2);

    let shown = service.run(&["show", &tag]).exits(0);
    assert!(
        shown
            .stdout
            .contains("another transaction manager: Atomikos"),
        "{shown:?}"
    );
    assert!(
        shown
            .stdout
            .contains("ask the log of the manager that made it"),
        "{shown:?}"
    );
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.run(&["list"]).exits(0).lines(&tag).len(), 1, "I4");
    service.unprepare_ledger(&foreign).await;
    service.drop_tables().await;
}

/// An epoch alone may be another opening's: of a log that was set back, or copied.
#[tokio::test(flavor = "multi_thread")]
async fn i5_an_opening_that_is_not_listed_is_not_taken_for_the_applications() {
    let service = Service::new("twinned");
    service.create_tables().await;
    let application = service.start(Plan::Idle);
    let stranger = unlisted_of(&application.gtrid);
    service.prepare_orders(&gid(&stranger, "orders"), 10).await;
    let shown = service.run(&["show", &stranger]).exits(1);
    let owner = "owner        an opening that this log does not list (epoch 1)";
    assert!(shown.stdout.contains(owner), "{shown:?}");
    assert!(
        shown.stdout.contains("end nothing before it is known"),
        "{shown:?}"
    );
    service.unprepare_orders(&gid(&stranger, "orders")).await;
    drop(application);
    service.drop_tables().await;
}

/// The screens on the page are of this release.
#[test]
fn the_pages_screens_have_the_columns_that_are_printed() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    for head in [
        "RESOURCE STATE AGE EPOCH DECISION LOCKS BLOCKED RECOVERY XID",
        "RESOURCE STATE AGE EPOCH MEMBER DECISION LOCKS BLOCKED RECOVERY XID",
        "RESOURCE STATE AGE DECISION LOCKS BLOCKED XID",
        "RESOURCE LOCKED MODE COUNT",
        "RESOURCE SESSION USER WAITS STATEMENT",
        "RESOURCE COMMITTED ROLLED BACK LEFT FOREIGN",
    ] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.lines().any(|line| words(line) == head), "{head}");
    }
}
