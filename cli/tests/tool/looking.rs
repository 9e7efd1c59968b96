//! Without an application the tool only looks: it is in nobody's way, changes nothing, and shows
//! what it can see, whatever has become of the log.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use unanimous::log::FileLog;

use crate::application::Plan;
use crate::by_hand::gid;
use crate::support::{PASSWORDS, Ran, Service};

/// Only of whoever acts.
const HOLDING: &str = "holding the log until this ends: no application can start meanwhile";

/// Every file of the log with its bytes.
fn files(service: &Service) -> BTreeMap<String, Vec<u8>> {
    let entries = service.log().read_dir().unwrap().map(Result::unwrap);
    // A killed application leaves its socket.
    let entries = entries.filter(|entry| entry.file_type().unwrap().is_file());
    let read = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

/// A limit on the size of its files stands for a full disk; what it says goes into pipes.
fn on_a_full_disk(service: &Service, arguments: &[&str]) -> Ran {
    let tool = service.tool(arguments);
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(tool.get_program())
        .args(tool.get_args())
        .env(PASSWORDS[0], &service.passwords[0])
        .stdin(Stdio::null());
    Ran::new(command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_needs_no_room_and_leaves_the_log_as_it_was() {
    let service = Service::new("looks");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let before = files(&service);
    for arguments in [
        &["list"][..],
        &["show", &gtrid],
        &["recover", "--dry-run"],
        &["resolve", &gtrid, "--commit", "--reason", "x", "--dry-run"],
    ] {
        let ran = on_a_full_disk(&service, arguments).exits(1);
        assert!(ran.stdout.contains(&gtrid), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("only looking at it"), "{ran:?}");
        assert!(!ran.stderr.contains(HOLDING), "{ran:?}");
    }
    let heuristic = on_a_full_disk(&service, &["list", "--heuristic"]);
    heuristic.exits(0);
    assert!(before == files(&service), "nothing was changed");
    let full = on_a_full_disk(&service, &["recover", "--yes"]).exits(2);
    assert!(!full.stderr.contains(HOLDING), "{full:?}");
    let recovered = service.run(&["recover", "--yes"]).exits(0);
    assert!(recovered.stderr.contains(HOLDING), "{recovered:?}");
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

/// It waits for a database that does not answer, at its only worker's expense.
#[tokio::test(flavor = "multi_thread")]
async fn i6_an_application_starts_while_the_tool_hangs_at_a_database() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let service = Service::new("hangs");
    service.create_tables().await;
    service.start(Plan::DecisionDurable).kill();
    let whole = service.config_text();
    service.configure(&format!(
        "[resources.silent]\nurl = \"postgres://app@{}/shop\"\nconnect_timeout = \"5m\"",
        silent.local_addr().unwrap()
    ));
    let mut tool = service.tool(&["list"]);
    let mut tool = tool
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(tool.stderr.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    assert!(first.contains("no application holds the log"), "{first}");
    // It is connected, so it is at work, until somebody answers.
    let (connection, _) = silent.accept().unwrap();
    service.write_config(&whole);
    let application = service.start(Plan::Idle);
    assert_eq!(service.rows().await, (1, 1), "{}", application.gtrid);
    assert_eq!(tool.try_wait().unwrap(), None, "it waits yet");
    tool.kill().unwrap();
    tool.wait().unwrap();
    drop((connection, application));
    let log = FileLog::at(service.log()).inspect().unwrap();
    assert_eq!(log.openings.len(), 2, "the tool has not opened it");
    service.drop_tables().await;
}

/// What is prepared is shown, and nothing is said of what becomes of it.
#[track_caller]
fn is_shown_without_a_plan(service: &Service, gtrid: &str, why: &str) {
    let listed = service.run(&["list", "--format", "json"]).exits(2);
    let branches = listed.branches(gtrid);
    assert!(!branches.is_empty(), "{listed:?}");
    for (_, branch) in branches {
        assert_eq!(branch["state"], "unknown", "{listed:?}");
        assert_eq!(branch["in_doubt"], true, "{listed:?}");
        assert!(branch["decided"].is_null(), "{listed:?}");
        assert_eq!(branch["plan"], "wait: the log cannot be read");
    }
    let error = listed.json()["log_error"].to_string();
    assert!(error.contains(why), "{listed:?}");
    let told = listed.stderr.matches(why).count();
    assert_eq!(told, 1, "{listed:?}");
    let shown = service.run(&["show", gtrid]).exits(2);
    for words in [
        "decision     this log cannot tell: it cannot be read",
        "end nothing before the log can be read: mend that first",
    ] {
        assert!(shown.stdout.contains(words), "{words}: {shown:?}");
    }
    assert!(!shown.stdout.contains("has another log"), "{shown:?}");
    assert!(
        shown.stderr.contains("not looked at: the log: "),
        "{shown:?}"
    );
    for act in ["recover", "resolve"] {
        let and = ["--commit", "--reason", "x"];
        let arguments: Vec<_> = match act {
            "recover" => vec!["recover", "--yes"],
            _ => [&[act, gtrid, "--yes"][..], &and].concat(),
        };
        let refused = service.run(&arguments).exits(2);
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_damaged_hides_nothing_that_is_prepared() {
    let service = Service::new("damaged");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let whole = files(&service);
    for (name, at) in [("identity", 40), ("segment", 4100)] {
        let (name, bytes) = whole.iter().find(|(has, _)| has.starts_with(name)).unwrap();
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(service.log().join(name), damaged).unwrap();
        is_shown_without_a_plan(&service, &gtrid, "is damaged");
        std::fs::write(service.log().join(name), bytes).unwrap();
    }
    assert_eq!(service.rows().await, (0, 0));
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_database_is_away_hides_nothing_that_is_prepared() {
    let service = Service::new("logaway");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let whole = service.config_text();
    // Nobody listens there any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let log = format!("[log.postgres]\nurl = \"postgres://app@{address}/shop\"");
    service.write_config(&whole.replace("[log]\nfolder = \"log\"", &log));
    is_shown_without_a_plan(&service, &gtrid, &address.port().to_string());
    service.write_config(&whole);
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

/// Nothing of it is seen, and its branch at the other database holds its locks.
#[tokio::test(flavor = "multi_thread")]
async fn i3_a_database_that_is_away_is_not_taken_for_one_that_holds_nothing() {
    let service = Service::new("oneaway");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let name = gid(&gtrid, "orders");
    service.orders(&format!("COMMIT PREPARED '{name}'")).await;
    let whole = service.config_text();
    service.write_config(&whole.replace("/app\"\npassword_file", "/nobase\"\npassword_file"));
    let shown = service
        .run(&["show", &gtrid, "--format", "json"])
        .exits(2)
        .json();
    assert_eq!(shown["branches"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["in_doubt"], true, "{shown}");
    // The one that is absent can be proven; of the other one nothing is known.
    let recovery = shown["recovery"].to_string();
    assert!(recovery.contains("ledger: commit, or prove"), "{shown}");
    let unknown = service.run(&["show", "nightly"]).exits(2);
    let said = "not all could be looked at: ledger: ";
    assert!(unknown.stderr.contains(said), "{unknown:?}");
    service.write_config(&whole.replace("/app\"\npassword", "/nobase\"\npassword"));
    let shown = service.run(&["show", &gtrid]).exits(2);
    let said = "not all could be looked at (ledger: ";
    assert!(shown.stdout.contains(said), "{shown:?}");
    assert!(
        !shown.stdout.contains("nothing has to be done"),
        "{shown:?}"
    );
    service.write_config(&whole);
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}
