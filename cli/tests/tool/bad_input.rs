//! What a person can get wrong: a clear error on standard error, nothing on standard output, and
//! exit code 2.

use std::io::Read;
use std::process::{Command, Stdio};

use unanimous::log::FileLog;

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
    service.write_config(&text.replace("url = \"mysql", "url = \"oracle"));
    refused(
        &service,
        &["check"],
        "resource ledger: the address cannot be read: write",
    );
    service.write_config(&text.replace("ledger.pw", "gone.pw"));
    refused(&service, &["check"], "resource ledger: the password file");
    std::fs::remove_file(service.config()).unwrap();
    refused(&service, &["list"], "unanimous.toml: cannot be read");
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

#[test]
fn no_argument_takes_a_password_and_an_unknown_one_is_refused() {
    let service = Service::new("arguments");
    refused(
        &service,
        &["list", "--password", "x"],
        "unexpected argument",
    );
    refused(&service, &["resolve"], "unrecognized subcommand");
    let help = service.run(&["--help"]).exits(0);
    assert!(
        help.stdout.contains("Exit codes: 0 nothing is in doubt"),
        "{help:?}"
    );
    assert!(!help.stdout.contains("password"), "{help:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_no_failure() {
    let service = Service::new("pipe");
    drop(FileLog::at(service.log()).open().await.unwrap());
    let mut child = service
        .tool(&["list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Gone long before the databases have answered.
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert!(!said.contains("error"), "{said}");
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
