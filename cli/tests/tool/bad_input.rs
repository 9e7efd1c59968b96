//! What a person can get wrong: a clear error on standard error, nothing on standard output, and
//! exit code 2.

use std::io::Read;
use std::process::{Command, Stdio};

use mysql_async::prelude::Queryable;

use crate::application::Plan;
use crate::support::{Ran, Service};

#[track_caller]
fn refused(service: &Service, arguments: &[&str], said: &str) {
    let ran = service.run(arguments).exits(2);
    assert!(ran.stderr.contains(said), "{ran:?}");
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_config_file_that_is_missing_or_wrong_is_named() {
    let service = Service::new("config");
    let text = service.config_text();
    service.write_config(&text.replace("folder", "foldr"));
    refused(
        &service,
        &["list"],
        "unanimous.toml, line 2: unknown field `foldr`",
    );
    std::fs::remove_file(service.config()).unwrap();
    refused(&service, &["list"], "unanimous.toml: cannot be read");
}

#[test]
fn every_kind_of_wrong_line_is_refused_by_every_verb_before_anything_happens() {
    let service = Service::new("lines");
    let text = service.config_text();
    let ledger = |line: &str| format!("{text}{line}\n");
    for (file, said) in [
        (ledger("pool_sise = 1"), "line 9: unknown field `pool_sise`"),
        (
            ledger("pool_size = 0"),
            "line 9: this value cannot be used here: write a whole",
        ),
        (
            ledger("pool_timeout = 5"),
            "line 9: this value cannot be used here: write a text",
        ),
        (
            ledger("password_env = \"X\""),
            "line 6: resource ledger: more than one of password",
        ),
        (
            ledger("url_env = \"X\""),
            "line 6: resource ledger: url and url_env are both given",
        ),
        (ledger("[resources.orders]"), "line 9: duplicate key"),
        (
            ledger("[resources.\"a b\"]\nurl = \"x\""),
            "line 9: [resources.a b]: ",
        ),
        (ledger("= nonsense"), "line 9: "),
        (format!("[log]\n{text}"), "line 2: duplicate key"),
        (String::new(), "missing field `log`"),
    ] {
        service.write_config(&file);
        for verb in [&["check"][..], &["list"], &["recover", "--yes"]] {
            refused(&service, verb, said);
        }
    }
    assert!(!service.log().exists());
}

/// Neither an address that cannot be used nor a password that cannot be had keeps the others from
/// being looked at.
#[tokio::test(flavor = "multi_thread")]
async fn i6_one_wrong_resource_is_named_and_the_others_are_looked_at() {
    let service = Service::new("onewrong");
    service.create_tables().await;
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let text = service.config_text();
    for (wrong, said) in [
        (text.replace("ledger.pw", "gone.pw"), "the password file"),
        (text.replace("ledger.pw", "wrong.pw"), "check user"),
        (
            text.replace("/app\"\npassword_file", "/nobase\"\npassword_file"),
            "nobase",
        ),
    ] {
        std::fs::write(service.config().with_file_name("wrong.pw"), "n0t-it").unwrap();
        service.write_config(&wrong);
        let checked = service.run(&["check", "--format", "json"]).exits(2).json();
        let ledger = &checked["resources"][0]["findings"][0];
        assert_eq!(ledger["severity"], "error", "{checked}");
        assert!(ledger.to_string().contains(said), "{said}: {checked}");
        assert!(checked["resources"][1]["server"].is_string(), "{checked}");
        let listed = service.run(&["list", "--format", "json"]).exits(2);
        assert_eq!(
            listed.branches(&gtrid).len(),
            1,
            "the orders are seen: {listed:?}"
        );
        assert!(
            listed.stderr.contains("ledger: not looked at"),
            "{listed:?}"
        );
        assert!(listed.stderr.contains(said), "{said}: {listed:?}");
    }
    let pass = service.run(&["recover", "--yes"]).exits(2);
    assert!(pass.stderr.contains("ledger: not recovered"), "{pass:?}");
    assert_eq!(service.rows().await, (1, 0), "the orders were recovered");
    service.write_config(&text.replace("url = \"mysql", "url = \"oracle"));
    let checked = service.run(&["check"]).exits(2);
    assert!(
        checked.stdout.contains("the address cannot be read"),
        "{checked:?}"
    );
    refused(
        &service,
        &["list"],
        "resource ledger: the address cannot be read: write",
    );
    service.write_config(&text);
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

#[test]
fn a_log_that_is_not_there_is_not_made() {
    let service = Service::new("nolog");
    refused(&service, &["list"], "there is no such folder");
    refused(&service, &["recover", "--yes"], "there is no such folder");
    assert!(!service.log().exists());
    std::fs::create_dir(service.log()).unwrap();
    service.run(&["list"]).exits(2);
    assert_eq!(service.log().read_dir().unwrap().count(), 0);
}

/// Paths, addresses and the words of servers are in errors.
#[test]
fn no_error_can_steer_the_terminal() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
    // With colours, as on a terminal: in a pipe all of that is taken away.
    let command = command.args(["list", "--color", "always"]);
    let command = command.args(["--config", "/nowhere/\u{1b}[2J.toml"]);
    let ran = Ran::new(command.output().unwrap()).exits(2);
    assert!(ran.stderr.contains("cannot be read"), "{ran:?}");
    assert!(!ran.stderr.contains("\u{1b}[2J"), "{ran:?}");
}

#[test]
fn no_argument_takes_a_password_and_an_unknown_one_is_refused() {
    let service = Service::new("arguments");
    refused(
        &service,
        &["list", "--password", "x"],
        "unexpected argument",
    );
    refused(&service, &["repair"], "unrecognized subcommand");
    let help = service.run(&["--help"]).exits(0);
    assert!(
        help.stdout.contains("Exit codes: 0 nothing is in doubt"),
        "{help:?}"
    );
    assert!(!help.stdout.contains("password"), "{help:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_no_failure_and_hides_no_doubt() {
    let service = Service::new("pipe");
    service.create_tables().await;
    for (format, code) in [("table", 0), ("json", 0), ("table", 1), ("json", 1)] {
        match code {
            0 => service.start(Plan::Idle).kill(),
            _ => service.start(Plan::DecisionDurable).kill(),
        };
        let mut tool = service.tool(&["list", "--format", format]);
        let tool = tool.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tool.spawn().unwrap();
        // Gone long before the databases have answered.
        drop(child.stdout.take());
        let mut said = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{said}");
        assert!(!said.contains("error"), "{said}");
        service.run(&["recover", "--yes"]).exits(0);
        service
            .orders(&format!("DELETE FROM {}", service.table))
            .await;
        let mut ledger = service.ledger().await;
        ledger
            .query_drop(format!("DELETE FROM {}", service.table))
            .await
            .unwrap();
    }
    service.drop_tables().await;
}

#[test]
fn nothing_is_coloured() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
    let ran = Ran::new(
        command
            .arg("nonsense")
            .env("NO_COLOR", "1")
            .output()
            .unwrap(),
    );
    assert!(
        !format!("{}{}", ran.stdout, ran.stderr).contains('\u{1b}'),
        "{ran:?}"
    );
}
