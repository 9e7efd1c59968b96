//! `check`: log and servers, before anything happens.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use unanimous::log::FileLog;
use xtask::servers::{Kind, Options, Server, standby_of};

use crate::application::Plan;
use crate::by_hand::gid;
use crate::support::{Ran, Service, split_password};

/// Nothing was found, or notes. Holds where the log is on a disk that has room.
const FIT: i32 = 0;

/// On servers of which no bug is known; what others do there at the same time is allowed.
fn service(test: &str) -> Service {
    let set = xtask::servers::shared();
    Service::at(test, &set.pg_newest.url, &set.mysql.url)
}

/// What the shared servers may have for a moment, because of other tests.
const OF_OTHERS: [&str; 10] = [
    "--allow",
    "free_connections",
    "--allow",
    "free_prepared_slots",
    "--allow",
    "storage_engine",
    "--allow",
    "unlogged_tables",
    "--allow",
    "foreign_tables",
];

fn check(service: &Service, more: &[&str]) -> Ran {
    service.run(&[&["check"], &OF_OTHERS[..], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fit_is_said_to_be_before_and_after_the_first_start() {
    let service = service("check");
    service.create_tables().await;
    let before = check(&service, &[]).exits(FIT);
    assert!(
        before
            .stdout
            .contains("the application makes it at its first start"),
        "{before:?}"
    );
    assert!(!service.log().exists(), "a check makes no log");

    let application = service.start(Plan::DecisionDurable);
    let living = check(&service, &["--format", "json"]).exits(FIT).json();
    assert_eq!(living["log"]["has_application"], true);
    assert_eq!(living["log"]["pending"], 1);
    application.kill();
    let dead = check(&service, &["--format", "json"]).exits(FIT).json();
    assert_eq!(dead["log"]["has_application"], false);
    assert_eq!(dead["log"]["openings"], 1);
    for (checked, name) in dead["resources"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["ledger", "orders"])
    {
        assert_eq!(checked["resource"], name);
        assert_eq!(own_findings(checked), []);
        assert!(!checked["server"].as_str().unwrap().is_empty());
        assert!(!checked["identity"].as_str().unwrap().is_empty());
    }
    service.run(&["recover", "--yes"]).exits(0);
    service.drop_tables().await;
}

/// The same without what others may do there.
fn own_findings(part: &Value) -> Vec<(&str, &str)> {
    let mut found = findings(part);
    found.retain(|(_, subject)| !OF_OTHERS.contains(subject));
    found
}

/// The findings about a part: severity and subject, and the whole as text.
fn findings(part: &Value) -> Vec<(&str, &str)> {
    let findings = part["findings"].as_array().unwrap().iter();
    let text = |finding: &'_ Value, key: &str| finding[key].as_str().unwrap().is_empty();
    let all = findings.inspect(|f| assert!(!text(f, "evidence") && !text(f, "mend"), "{f}"));
    all.map(|f| {
        (
            f["severity"].as_str().unwrap(),
            f["subject"].as_str().unwrap(),
        )
    })
    .collect()
}

#[test]
fn what_is_not_fit_is_an_error_with_its_mend_in_every_format() {
    let service = service("unfit");
    let text = service.config_text().replace("ledger.pw", "wrong.pw");
    service.write_config(&text.replace("\"log\"", "\"no/such/log\""));
    std::fs::write(service.config().with_file_name("wrong.pw"), "n0t-it").unwrap();
    let ran = service.run(&["check", "--format", "json"]).exits(2);
    assert!(!ran.stdout.contains("n0t-it"), "I8: {ran:?}");
    let checked = ran.json();
    assert_eq!(checked["fit"], false);
    assert_eq!(findings(&checked["log"]), [("error", "folder")]);
    assert_eq!(
        findings(&checked["resources"][0]),
        [("error", "connection")]
    );
    assert!(checked["resources"][0]["server"].is_null());
    assert_eq!(
        own_findings(&checked["resources"][1]),
        [],
        "the other one is fit"
    );
    let table = service.run(&["check"]).exits(2);
    let mend = format!(
        "mkdir -p '{}'",
        service.log().with_file_name("no/such").display()
    );
    let lines: Vec<_> = table.stdout.lines().map(str::trim).collect();
    assert!(
        lines.contains(&&*mend),
        "a mend is a line of its own: {table:?}"
    );
    assert!(table.stderr.contains("not fit: 2 errors"), "{table:?}");
}

/// One server's settings, with all that is wrong about them at once.
#[test]
fn all_findings_of_a_server_are_shown_at_once() {
    let options = [
        "-c",
        "max_prepared_transactions=0",
        "-c",
        "synchronous_commit=off",
    ];
    let server = Server::start(Kind::Postgres15, &Options::new().args(options)).unwrap();
    let ledger = xtask::servers::shared().mysql.url;
    let service = Service::at("settings", &server.url(), &ledger);
    let checked = service.run(&["check", "--format", "json"]).exits(2).json();
    let orders = &checked["resources"][1];
    assert!(orders["server"].as_str().unwrap().starts_with("PostgreSQL"));
    let found = findings(orders);
    assert_eq!(
        found[0],
        ("error", "max_prepared_transactions"),
        "{checked}"
    );
    assert_eq!(
        own_findings(&checked["resources"][0]),
        [],
        "the other one is fit"
    );
    let table = service.run(&["check"]).exits(2);
    let mend = orders["findings"][0]["mend"].as_str().unwrap();
    for line in mend.lines() {
        assert!(
            table
                .stdout
                .lines()
                .any(|shown| shown.trim() == line.trim()),
            "{table:?}"
        );
    }
    assert!(
        table
            .stdout
            .contains("orders  error     max_prepared_transactions  "),
        "{table:?}"
    );
}

/// Findings about the log of a folder, and the exit code.
fn log_findings(service: &Service) -> (i32, Value) {
    let ran = check(service, &["--format", "json"]);
    (ran.code.unwrap(), ran.json()["log"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_others_can_read_was_copied_or_is_damaged_is_found() {
    let service = service("place");
    service.start(Plan::Idle).kill();
    let log = service.log();
    set_mode(&log, 0o755);
    let (code, found) = log_findings(&service);
    assert_eq!(
        (code, findings(&found)),
        (1, vec![("warning", "permissions")])
    );
    let mend = found["findings"][0]["mend"].as_str().unwrap();
    assert_eq!(mend, format!("chmod 700 '{}'", log.display()));
    set_mode(&log, 0o700);
    assert_eq!(log_findings(&service).0, 0);

    let copy = log.with_file_name("copy");
    std::fs::create_dir(&copy).unwrap();
    set_mode(&copy, 0o700);
    for entry in log.read_dir().unwrap() {
        let name = entry.unwrap().file_name();
        if name != "control.sock" {
            std::fs::copy(log.join(&name), copy.join(&name)).unwrap();
        }
    }
    let text = service.config_text();
    service.write_config(&text.replace("\"log\"", "\"copy\""));
    let (code, found) = log_findings(&service);
    let expected = vec![("error", "log"), ("note", "duplicate log")];
    assert_eq!((code, findings(&found)), (2, expected), "{found}");
    assert!(found.to_string().contains("is a copy"), "{found}");

    // Somebody adopts the copy, and does not put the original away: both can be opened.
    FileLog::at(&copy).adopt().unwrap();
    for config in [&text, &text.replace("\"log\"", "\"copy\"")] {
        service.write_config(config);
        let (code, found) = log_findings(&service);
        let expected = vec![("error", "duplicate log")];
        assert_eq!((code, findings(&found)), (2, expected), "{found}");
    }
    std::fs::remove_dir_all(&copy).unwrap();

    service.write_config(&text);
    assert_eq!(log_findings(&service).0, 0);
    let segments = log.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut segments = segments.filter(|path| path.to_str().unwrap().contains("segment"));
    let segment = segments.next().expect("a segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, found) = log_findings(&service);
    assert_eq!(
        (code, findings(&found)),
        (2, vec![("error", "log")]),
        "{found}"
    );
    assert!(found["exists"].as_bool().unwrap(), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_ended_against_a_decision_or_of_no_known_resource_is_found() {
    let service = service("contents");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let (code, found) = log_findings(&service);
    assert_eq!(
        (code, findings(&found)),
        (0, vec![("note", "pending decisions")])
    );
    let whole = service.config_text();
    let (without, _) = whole.split_once("[resources.ledger]").unwrap();
    service.write_config(without);
    let (code, found) = log_findings(&service);
    assert_eq!(code, 1);
    assert_eq!(
        findings(&found)[0],
        ("warning", "unknown resource"),
        "{found}"
    );
    assert!(found.to_string().contains("resource ledger"), "{found}");
    service.write_config(&whole);

    // A person rolls back what was decided to be committed.
    service.unprepare_orders(&gid(&gtrid, "orders")).await;
    let pass = service.run(&["recover", "--yes"]).exits(1);
    assert!(pass.stderr.contains("a person has to look"), "{pass:?}");
    assert_eq!(service.rows().await, (0, 1));
    let (code, found) = log_findings(&service);
    assert_eq!(code, 1, "{found}");
    assert!(
        findings(&found).contains(&("warning", "heuristic ends")),
        "{found}"
    );
    assert!(found.to_string().contains(&gtrid), "{found}");
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_the_log_without_a_socket_is_a_warning() {
    let service = service("holder");
    let log = FileLog::at(service.log()).open().await.unwrap();
    let (code, found) = log_findings(&service);
    assert_eq!(
        (code, findings(&found)),
        (1, vec![("warning", "control socket")])
    );
    let pid = format!("process {} seems to hold", std::process::id());
    assert!(found.to_string().contains(&pid), "{found}");
    drop(log);
    assert_eq!(log_findings(&service).0, 0);
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Where a machine forgets everything.
#[cfg(target_os = "linux")]
#[test]
fn a_log_in_memory_is_an_error_of_the_whole_check() {
    let service = service("memory");
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let log = format!("\"{}\"", folder.path().join("log").display());
    service.write_config(&service.config_text().replace("\"log\"", &log));
    let (code, found) = log_findings(&service);
    let expected = vec![("error", "file system")];
    assert_eq!((code, findings(&found)), (2, expected), "{found}");
}

/// What a pipeline asks for: one resource, known findings, and how bad it has to be.
#[test]
fn a_pipeline_says_what_it_knows_of_and_when_to_fail() {
    let options = ["-c", "full_page_writes=off", "-c", "max_connections=22"];
    let server = Server::start(Kind::PostgresNewest, &Options::new().args(options)).unwrap();
    let mysql = xtask::servers::shared().mysql.url;
    let service = Service::at("pipeline", &server.url(), &mysql);
    let of_orders = ["check", "--resource", "orders"];
    let run = |more: &[&str]| service.run(&[&of_orders[..], more].concat());
    let all = run(&["--format", "json"]).exits(1).json();
    assert_eq!(all["resources"].as_array().unwrap().len(), 1);
    let expected = [
        ("warning", "max_connections"),
        ("warning", "full_page_writes"),
    ];
    assert_eq!(findings(&all["resources"][0]), expected);
    run(&["--fail-on", "error"]).exits(0);
    run(&["--allow", "max_connections"]).exits(1);
    let both = ["--allow", "max_connections", "--allow", "full_page_writes"];
    let known = run(&both).exits(0);
    assert!(known.stdout.contains("warning, allowed"), "{known:?}");
    assert!(known.stderr.contains("2 of them allowed"), "{known:?}");
    let typo = run(&[&both[..], &["--allow", "fsnyc"]].concat()).exits(0);
    assert!(typo.stderr.contains("not found: fsnyc"), "{typo:?}");
    let stranger = service.run(&["check", "--resource", "nobody"]).exits(2);
    assert!(
        stranger.stderr.contains("no resource nobody"),
        "{stranger:?}"
    );
}

/// Two resources that lead to one server, and a server whose data folder was copied.
#[test]
fn an_identity_that_two_resources_have_is_an_error_until_the_copy_gets_its_own() {
    let start = || Server::start(Kind::Mysql, &Options::new()).unwrap();
    let (mut original, mut copy) = (start(), start());
    let postgres = xtask::servers::shared().pg_newest.url;
    let service = Service::at("twins", &postgres, &original.url());
    let (url, password) = split_password(&copy.url());
    std::fs::write(service.config().with_file_name("copy.pw"), password).unwrap();
    service.configure(&format!(
        "[resources.stock]\nurl = \"{url}\"\npassword_file = \"copy.pw\""
    ));
    let found = || {
        let of_both = ["check", "--resource", "ledger", "--resource", "stock"];
        let checked = service.run(&[&of_both[..], &["--format", "json"]].concat());
        let checked = checked.json();
        [0, 1].map(|n| {
            let found = own_findings(&checked["resources"][n]);
            found.contains(&("error", "identity"))
        })
    };
    assert_eq!(found(), [false, false]);
    original.shut_down();
    copy.shut_down();
    let data = copy.data();
    std::fs::remove_dir_all(&data).unwrap();
    let cp = std::process::Command::new("cp")
        .arg("-a")
        .arg(original.data())
        .arg(&data)
        .status();
    assert!(cp.unwrap().success());
    original.restart().unwrap();
    copy.restart().unwrap();
    assert_eq!(found(), [true, true]);
    copy.shut_down();
    std::fs::remove_file(data.join("auto.cnf")).unwrap();
    copy.restart().unwrap();
    assert_eq!(found(), [false, false]);
}

/// A log in a database whose standby nobody waits for.
#[test]
fn a_declaration_that_no_standby_keeps_is_a_warning() {
    let primary = Server::start(Kind::PostgresNewest, &Options::new()).unwrap();
    let _standby = standby_of(&primary).unwrap();
    let mysql = xtask::servers::shared().mysql.url;
    let service = Service::at("lossless", &primary.url(), &mysql);
    let log = "resource = \"orders\"\nlossless_failover = true";
    let text = service.config_text().replace("folder = \"log\"", log);
    service.write_config(&text);
    let of_orders = ["check", "--resource", "orders", "--format", "json"];
    let checked = service.run(&of_orders).exits(1).json();
    let declared = ("warning", "lossless_failover");
    assert!(findings(&checked["log"]).contains(&declared), "{checked}");
    let expected = [("note", "asynchronous_standbys")];
    assert_eq!(findings(&checked["resources"][0]), expected);
    service.write_config(&text.replace("lossless_failover = true", ""));
    let checked = service.run(&of_orders).exits(0).json();
    assert!(!findings(&checked["log"]).contains(&declared), "{checked}");
}
