//! A log that is looked into, proved sound, made a file and brought to another home, on real
//! servers: what is decided is committed wherever the file goes, and nothing else is.

use std::path::{Path, PathBuf};
use std::process::Command;

use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::application::Plan;
use crate::by_hand::{gid, unlisted_of, xid};
use crate::shared_log::Shared;
use crate::support::{Ran, Service};

const LIST: [&str; 3] = ["list", "--format", "json"];
const TABLE: &str = "last_resource = false\nsuspect_after = \"1s\"";

/// The tool and the applications use this log from now on.
fn use_log(service: &Service, log: &str) {
    let text = service.config_text();
    let (_, resources) = text.split_once("[resources.orders]").unwrap();
    service.write_config(&format!("[log]\n{log}\n[resources.orders]{resources}"));
}

fn file(service: &Service, name: &str) -> PathBuf {
    service.config().with_file_name(name)
}

impl Service {
    fn exports(&self, options: &[&str], to: &str) -> Ran {
        let path = file(self, to);
        let mut arguments = vec!["log", "export", "--yes", "--format", "json", "--out"];
        arguments.push(path.to_str().unwrap());
        arguments.extend(options);
        self.run(&arguments)
    }

    fn imports(&self, options: &[&str], from: &str) -> Ran {
        let path = file(self, from);
        let mut arguments = vec!["log", "import", "--yes", "--format", "json"];
        arguments.push(path.to_str().unwrap());
        arguments.extend(options);
        self.run(&arguments)
    }

    /// A config file beside the service's, with its log in this folder.
    fn to_folder(&self, name: &str) -> PathBuf {
        let path = file(self, &format!("{}.toml", name.replace('/', "-")));
        let text = self.config_text();
        let (_, resources) = text.split_once("[resources.orders]").unwrap();
        let text = format!("[log]\nfolder = \"{name}\"\n[resources.orders]{resources}");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn shows(&self, options: &[&str]) -> Value {
        let mut arguments = vec!["log", "show", "--format", "json"];
        arguments.extend(options);
        self.run(&arguments).exits(0).json()
    }

    fn verifies(&self, code: i32) -> Value {
        let verified = self.run(&["log", "verify", "--format", "json"]);
        verified.exits(code).json()
    }
}

#[track_caller]
fn says(ran: &Ran, text: &str) {
    assert!(ran.stderr.contains(text), "{text}: {ran:?}");
}

#[track_caller]
fn is_pending(shown: &Value, gtrid: &str) {
    let transactions = shown["transactions"].as_array().unwrap();
    let pending: Vec<_> = transactions.iter().map(|shown| &shown["gtrid"]).collect();
    assert_eq!(pending, [gtrid], "{shown}");
    assert_eq!(transactions[0]["record"], "pending", "{shown}");
    assert_eq!(
        transactions[0]["branches"].as_array().unwrap().len(),
        2,
        "{shown}"
    );
}

#[track_caller]
fn states(ran: &Ran, gtrid: &str, state: &str) {
    let branches = ran.branches(gtrid);
    assert_eq!(branches.len(), 2, "{ran:?}");
    for (_, branch) in branches {
        assert_eq!(branch["state"], state, "{branch}");
    }
}

/// What two exports of one log have to agree on: every decision.
fn decisions(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .filter(|line| line.contains("\"kind\":\"decision\""));
    let mut lines: Vec<_> = lines.map(str::to_owned).collect();
    lines.sort_unstable();
    assert!(!lines.is_empty(), "{text}");
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_through_a_file_and_only_a_sealed_one_goes_freely() {
    let service = Service::new("logfile");
    service.create_tables().await;
    let application = service.start(Plan::DecisionDurable);
    let gtrid = application.gtrid.clone();
    is_pending(&service.shows(&["--pending"]), &gtrid);
    let one = service.shows(&[&format!("{gtrid}:orders")]);
    is_pending(&one, &gtrid);
    assert_eq!(one["openings"][0]["closed"], false, "{one}");
    assert_eq!(service.verifies(0)["sound"], true);
    let refused = service.exports(&["--seal"], "sealed.jsonl").exits(2);
    says(&refused, "in use by the process with pid");
    service.exports(&[], "copy.jsonl").exits(0);
    let again = service.exports(&[], "copy.jsonl").exits(2);
    says(&again, "copy.jsonl: cannot be made");

    drop(application);
    let sealed = service.exports(&["--seal"], "sealed.jsonl").exits(0).json();
    assert_eq!(
        (&sealed["sealed"], &sealed["pending"]),
        (&true.into(), &1.into())
    );
    assert_eq!(
        decisions(&file(&service, "sealed.jsonl")),
        decisions(&file(&service, "copy.jsonl"))
    );
    let gone = service.run(&LIST).exits(2);
    says(&gone, "this log was moved to a file");
    let late = service.launch(Plan::Idle).word().unwrap();
    assert!(late.contains("this log was moved to a file"), "{late}");
    assert!(service.shows(&[])["sealed_for"].is_string());
    service.exports(&["--seal"], "again.jsonl").exits(0);

    use_log(&service, "folder = \"log2\"");
    let refused = service.imports(&[], "copy.jsonl").exits(2);
    says(
        &refused,
        "copy.jsonl: this is a copy of a log that was not sealed",
    );
    let text = std::fs::read_to_string(file(&service, "sealed.jsonl")).unwrap();
    std::fs::write(file(&service, "cut.jsonl"), &text[..text.len() - 30]).unwrap();
    let refused = service.imports(&[], "cut.jsonl").exits(2);
    says(&refused, "it has no end: the file was cut");
    assert!(!file(&service, "log2").join("identity").exists());
    let done = service.imports(&[], "sealed.jsonl").exits(0).json();
    assert_eq!(done["complete"], true, "{done}");
    let twice = service.imports(&[], "sealed.jsonl").exits(2);
    says(&twice, "is here already");
    states(&service.run(&LIST).exits(1), &gtrid, "decided");
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    let done = service.shows(&[&gtrid]);
    assert_eq!(done["transactions"][0]["record"], "completed", "{done}");
    let openings = done["openings"].as_array().unwrap();
    assert!(
        openings.len() > 1 && openings[0]["closed"] == true,
        "{done}"
    );
    service.drop_tables().await;
}

/// The lock of a copy proves nothing of the original, whose application may decide all the time.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_copied_folder_is_neither_moved_nor_sealed_while_its_original_lives() {
    let service = Service::new("logcopy");
    service.create_tables().await;
    let application = service.start(Plan::BeforeDecide);
    let gtrid = application.gtrid.clone();
    let [copy, blank] = ["copy", "blank"].map(|name| file(&service, name));
    copied(&service.log(), &copy);
    copied(&service.log(), &blank);
    std::fs::remove_file(blank.join("identity")).unwrap();
    let to = service.to_folder("log2");
    use_log(&service, "folder = \"copy\"");
    let move_it = ["log", "move", "--yes", "--to", to.to_str().unwrap()];
    let refused = service.run(&move_it).exits(2);
    says(&refused, "this folder is a copy");
    for options in [&["--seal"][..], &["--seal", "--salvage"]] {
        let refused = service.exports(options, "sealed.jsonl").exits(2);
        says(&refused, "this folder is a copy");
    }
    assert!(!copy.join("moved").exists());
    // A copy of the copy says that it is one.
    let one = service.exports(&[], "copy.jsonl").exits(0).json();
    assert_eq!(one["sealed"], false, "{one}");

    // Nobody can tell whether this one is the original: so its last opening is in doubt.
    use_log(&service, "folder = \"blank\"");
    let sealed = service.exports(&["--seal", "--salvage"], "blank.jsonl");
    sealed.exits(0);
    use_log(&service, "folder = \"log3\"");
    let done = service.imports(&[], "blank.jsonl").exits(0).json();
    assert_eq!(done["doubtful_epochs"], serde_json::json!([1]), "{done}");
    service.run(&["recover", "--yes"]).exits(1);
    states(&service.run(&LIST).exits(1), &gtrid, "unlisted");

    // The original is as free as ever.
    use_log(&service, "folder = \"log\"");
    drop(application);
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (0, 0));
    service.drop_tables().await;
}

/// A disk that was replaced: the folder is another one, and a person says that it is the log's.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_moved_is_used_again_when_a_person_adopts_it() {
    let service = Service::new("logadopt");
    service.create_tables().await;
    let application = service.start(Plan::DecisionDurable);
    let gtrid = application.gtrid.clone();
    let used = service.run(&["log", "adopt", "--yes"]).exits(2);
    says(&used, "in use by the process with pid");
    drop(application);
    let adopt = ["log", "adopt", "--yes", "--format", "json"];
    let own = service.run(&adopt).exits(0);
    assert_eq!(own.json()["done_before"], true, "{own:?}");
    copied(&service.log(), &file(&service, "new"));
    std::fs::remove_dir_all(service.log()).unwrap();
    use_log(&service, "folder = \"new\"");
    let refused = service.run(&["recover", "--yes"]).exits(2);
    says(&refused, "adopt it by `unanimous log adopt`");
    let asked = service.run(&["log", "adopt"]).exits(2);
    says(&asked, "add --yes");
    service.run(&["recover", "--yes"]).exits(2);
    let adopted = service.run(&adopt).exits(0);
    says(&adopted, "the folder is the log's own from now on");
    assert_eq!(adopted.json()["pending"], 1, "{adopted:?}");
    states(&service.run(&LIST).exits(1), &gtrid, "decided");
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));

    // Whoever is root makes no log in another user's folder.
    if rustix::process::geteuid().is_root() {
        let theirs = file(&service, "theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(4711), Some(4711)).unwrap();
        for log in ["theirs", "theirs/log"] {
            let to = service.to_folder(log);
            let move_it = ["log", "move", "--yes", "--to", to.to_str().unwrap()];
            let refused = service.run(&move_it).exits(2);
            says(&refused, "it belongs to the user with number 4711");
        }
        assert_eq!(theirs.read_dir().unwrap().count(), 0);
    }
    service.drop_tables().await;
}

fn copied(from: &Path, to: &Path) {
    let mut copying = Command::new("cp");
    let copied = copying.arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// A bit of a decision is changed: it may have been decided, so nobody may roll it back.
#[tokio::test(flavor = "multi_thread")]
async fn i1_what_a_damaged_log_may_have_decided_is_not_rolled_back() {
    let service = Service::new_on_the_others("logdamage");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let (path, offset) = change_last_batch(&service.log());
    let name = path.file_name().unwrap().to_str().unwrap();
    service.run(&LIST).exits(2);
    let verified = service.verifies(2);
    let findings = verified["findings"].as_array().unwrap();
    let damage = findings.iter().find(|found| found["subject"] == "damage");
    let damage = damage.unwrap_or_else(|| panic!("{verified}"));
    assert_eq!(
        (&damage["part"], &damage["offset"]),
        (&name.into(), &offset.into())
    );
    assert_eq!(verified["legible"][0], gtrid.as_str(), "{verified}");
    let refused = service.exports(&["--seal"], "log.jsonl").exits(2);
    says(&refused, "is damaged at offset");
    let saved = service
        .exports(&["--seal", "--salvage"], "log.jsonl")
        .exits(0);
    assert_eq!(saved.json()["losses"], 1, "{saved:?}");

    use_log(&service, "folder = \"log2\"");
    let refused = service.imports(&[], "log.jsonl").exits(2);
    says(&refused, "this is what was sound of a damaged log");
    let done = service
        .imports(&["--incomplete"], "log.jsonl")
        .exits(0)
        .json();
    assert_eq!(
        done["doubtful_epochs"].as_array().unwrap().len(),
        1,
        "{done}"
    );
    states(&service.run(&LIST).exits(1), &gtrid, "unlisted");
    let left = service
        .run(&["recover", "--yes", "--format", "json"])
        .exits(1)
        .json();
    assert_eq!(left["clean"], false, "{left}");
    for at in left["resources"].as_array().unwrap() {
        assert_eq!(at["rolled_back"], 0, "{left}");
        assert_eq!(at["left"][0]["needs_a_person"], true, "{left}");
    }
    let shown = service.shows(&[&gtrid]);
    assert_eq!(shown["transactions"][0]["record"], "may_be_lost", "{shown}");
    end_by_hand(&service, &gtrid).await;
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

/// One bit of the last batch of a log's only segment.
fn change_last_batch(log: &Path) -> (PathBuf, u64) {
    let names = std::fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| path.to_str().unwrap().contains("segment-");
    let path = names.filter(is_segment).max().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let begin = last / 4096 * 4096;
    bytes[begin] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    (path, begin as u64)
}

/// The person commits both.
async fn end_by_hand(service: &Service, gtrid: &str) {
    let gid = gid(gtrid, "orders");
    service.orders(&format!("COMMIT PREPARED '{gid}'")).await;
    let mut ledger = service.ledger().await;
    let xid = xid(gtrid, "ledger");
    ledger.query_drop(format!("XA COMMIT {xid}")).await.unwrap();
}

/// Out of the table through a file into a folder, and back.
async fn a_shared_log_goes_through_files(shared: Shared, home: &str, drop_tables: &[&str]) {
    let service = &shared.service;
    let table = format!("resource = \"{home}\"\n{TABLE}");
    let gtrid = service.start(Plan::DecisionDurable).kill();
    is_pending(&service.shows(&[]), &gtrid);
    let verified = service.verifies(0);
    assert_eq!(verified["pending"], 1, "{verified}");
    let out = service.exports(&["--seal"], "one.jsonl").exits(0);
    says(&out, "gives no sign of life, is closed first");
    let gone = service.run(&LIST).exits(2);
    says(&gone, "this log was moved to a file");
    let refused = service.imports(&[], "one.jsonl").exits(2);
    says(&refused, "a log was here and was moved to");

    use_log(service, "folder = \"between\"");
    service.imports(&[], "one.jsonl").exits(0);
    service.exports(&["--seal"], "two.jsonl").exits(0);
    let [one, two] = ["one.jsonl", "two.jsonl"].map(|name| decisions(&file(service, name)));
    assert_eq!(one, two);

    for sql in drop_tables {
        match home {
            "orders" => service.orders(sql).await,
            _ => service.ledger().await.query_drop(*sql).await.unwrap(),
        }
    }
    use_log(service, &table);
    service.imports(&[], "two.jsonl").exits(0);
    assert_eq!(service.verifies(0)["sound"], true);
    let shown = service.shows(&["--all"]);
    is_pending(&shown, &gtrid);
    assert!(
        gtrid.starts_with(shown["manager"].as_str().unwrap()),
        "{shown}"
    );
    states(&service.run(&LIST).exits(1), &gtrid, "decided");
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    shared.drop_databases().await;
}

const TABLES: [&str; 7] = [
    "log",
    "opening",
    "epoch",
    "decision",
    "heuristic",
    "by_hand",
    "member",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_postgresql_goes_through_files() {
    let shared = Shared::new("lfpg", "orders", TABLE).await;
    a_shared_log_goes_through_files(shared, "orders", &["DROP SCHEMA unanimous CASCADE"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_mysql_goes_through_files() {
    let shared = Shared::new("lfmy", "ledger", TABLE).await;
    let drop_tables = TABLES.map(|table| format!("DROP TABLE unanimous_{table}"));
    let drop_tables = drop_tables.each_ref().map(String::as_str);
    a_shared_log_goes_through_files(shared, "ledger", &drop_tables).await;
}

/// An incomplete copy, and a row of nobody.
#[tokio::test(flavor = "multi_thread")]
async fn i3_doubt_goes_along_into_mariadb_and_orphan_rows_are_named() {
    let shared = Shared::new_on_the_others("lfma", "ledger", TABLE).await;
    let service = &shared.service;
    let table = format!("resource = \"ledger\"\n{TABLE}\nlossless_failover = true");
    use_log(service, "folder = \"log\"");
    let application = service.start(Plan::BeforeDecide);
    let gtrid = application.gtrid.clone();
    service.exports(&[], "copy.jsonl").exits(0);
    drop(application);
    use_log(service, &table);
    let done = service
        .imports(&["--incomplete"], "copy.jsonl")
        .exits(0)
        .json();
    assert_eq!(done["complete"], false, "{done}");
    let shown = service.shows(&[&gtrid]);
    assert_eq!(shown["transactions"][0]["record"], "may_be_lost", "{shown}");
    // The declaration that fail-overs lose nothing does not concern it.
    service.run(&["recover", "--yes"]).exits(1);
    states(&service.run(&LIST).exits(1), &gtrid, "unlisted");
    let stranger = unlisted_of(&gtrid);
    let mut ledger = service.ledger().await;
    let row = format!(
        "INSERT INTO unanimous_decision (gtrid, epoch, state, branches) VALUES ('{stranger}', 1, \
         'C', 'no branches')"
    );
    ledger.query_drop(row).await.unwrap();
    let verified = service.verifies(2);
    let mut subjects: Vec<_> = verified["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|found| found["severity"] == "error")
        .map(|found| found["subject"].as_str().unwrap())
        .collect();
    subjects.sort_unstable();
    assert_eq!(subjects, ["orphan row", "strange row"], "{verified}");
    service.unprepare_orders(&gid(&gtrid, "orders")).await;
    service.unprepare_ledger(&xid(&gtrid, "ledger")).await;
    shared.drop_databases().await;
}
