//! The control socket: who may use it, whose it is, what it is told and what it answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::barrier::BarrierOptions;
use super::client::Client;
use super::socket::{NAME, connect, listen};
use super::wire::{ANSWER_BYTES_MAX, Answer, Verb, from_line, read_line};
use super::{Listing, Recovered};
use crate::TransactionManager;
use crate::log::FileLog;

/// A program that another test is just starting has a copy of every lock for a moment, until it is
/// loaded: a log that was closed is still in use then.
async fn start(folder: &Path) -> TransactionManager {
    let mut attempt = 1;
    loop {
        let builder = TransactionManager::builder().log(FileLog::at(folder));
        match builder.start().await {
            Ok(tm) => return tm,
            Err(error) if attempt == 100 => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        attempt += 1;
    }
}

/// One line to a raw socket, and the line that comes back.
async fn say(folder: &Path, line: &str) -> Value {
    let (path, line) = (folder.join(NAME), format!("{line}\n"));
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        // The other end may hang up on a line that is too long before it has all of it.
        drop(stream.write_all(line.as_bytes()));
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    });
    serde_json::from_str(&answer.await.unwrap()).unwrap()
}

fn error_of(answer: &Value) -> &str {
    answer["answer"]["error"].as_str().expect("an error")
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_the_socket_is_its_owners_alone_and_gone_at_the_end() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let tm = start(&log).await;
    let metadata = log.join(NAME).symlink_metadata().unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    tm.shutdown().await.unwrap();
    assert!(!log.join(NAME).exists());

    drop(start(&log).await);
    assert!(!log.join(NAME).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_owners_socket_is_nobody_and_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    start(&log).await.shutdown().await.unwrap();
    drop(UnixListener::bind(log.join(NAME)).unwrap());
    std::fs::create_dir(log.join(".control")).unwrap();
    std::fs::write(log.join(".control/s"), "").unwrap();
    assert!(Client::find(&log).await.unwrap().is_none());
    let tm = start(&log).await;
    assert!(Client::find(&log).await.unwrap().is_some());
    assert!(!log.join(".control").exists());
    tm.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_owner_does_not_remove_its_successors_socket() {
    let home = tempfile::tempdir().unwrap();
    let (_first, first_file) = listen(home.path()).unwrap();
    let (_second, second_file) = listen(home.path()).unwrap();
    drop(first_file);
    assert!(connect(home.path()).await.is_ok());
    drop(second_file);
    assert!(!home.path().join(NAME).exists());
}

/// A folder whose path alone is longer than a socket's address may be.
fn long(home: &Path) -> PathBuf {
    let log = home.join("a".repeat(120));
    std::fs::create_dir(&log).unwrap();
    log
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_path_longer_than_an_address_is_reached_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let log = long(home.path());
    let tm = start(&log).await;
    let client = Client::find(&log).await.unwrap().unwrap();
    client.ask::<Listing>(Verb::List).await.unwrap();
    tm.shutdown().await.unwrap();
    assert!(!log.join(NAME).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_socket_that_cannot_be_made_hurts_nobody() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    start(&log).await.shutdown().await.unwrap();
    // A folder with something in it cannot be replaced by a socket.
    std::fs::create_dir(log.join(NAME)).unwrap();
    std::fs::write(log.join(NAME).join("x"), "").unwrap();
    let tm = start(&log).await;
    tm.begin().commit().await.unwrap();
    tm.shutdown().await.unwrap();
    assert!(log.join(NAME).is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_another_version_and_endless_lines_are_answered_by_an_error() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let tm = start(&log).await;
    let version = say(&log, r#"{"version":2,"verb":"resolve"}"#).await;
    assert!(error_of(&version).contains("version 2"), "{version}");
    let unknown = say(&log, r#"{"version":1,"verb":"drop"}"#).await;
    assert!(
        error_of(&unknown).contains("unknown variant `drop`"),
        "{unknown}"
    );
    let nonsense = say(&log, "hello").await;
    assert!(error_of(&nonsense).contains("not understood"), "{nonsense}");
    let endless = say(&log, &"x".repeat(262_145)).await;
    assert!(
        error_of(&endless).contains("longer than 262144 bytes"),
        "{endless}"
    );
    let listing = say(&log, r#"{"version":1,"verb":"list"}"#).await;
    assert_eq!(listing["version"], 1);
    assert_eq!(listing["answer"]["done"]["active"], 0);
    tm.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_are_answered_wait_and_a_silent_one_keeps_nobody_out() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let tm = start(&log).await;
    let silent = UnixStream::connect(log.join(NAME)).unwrap();
    for _ in 0..10 {
        say(&log, r#"{"version":1,"verb":"list"}"#).await;
    }
    drop(silent);
    tm.shutdown().await.unwrap();
}

/// An application that takes a request and then does this with the connection.
fn takes(folder: &Path, then: fn(UnixStream)) {
    let listener = UnixListener::bind(folder.join(NAME)).unwrap();
    std::thread::spawn(move || {
        // The first one only looks whether somebody is there.
        drop(listener.accept().unwrap());
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        then(stream);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_takes_the_question_and_says_nothing_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    takes(home.path(), |stream| {
        // Until the client hangs up.
        drop(BufReader::new(stream).read_line(&mut String::new()));
    });
    let client = Client::find(home.path()).await.unwrap().unwrap();
    let asked = client.ask_within::<Listing>(Duration::from_millis(100), Verb::List);
    let error = asked.await.unwrap_err().to_string();
    assert!(error.contains("no answer within 100ms"), "{error}");
    assert!(error.contains("may still do what it was asked"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_dies_over_the_question_is_an_error_with_a_mend() {
    let home = tempfile::tempdir().unwrap();
    takes(home.path(), drop);
    let client = Client::find(home.path()).await.unwrap().unwrap();
    let error = client
        .ask::<Recovered>(Verb::Recover)
        .await
        .unwrap_err()
        .to_string();
    for words in ["it may have done what it was asked", "run this again"] {
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_has_ended_before_the_question_has_done_nothing() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let tm = start(&log).await;
    let client = Client::find(&log).await.unwrap().unwrap();
    tm.shutdown().await.unwrap();
    let asked = client.ask::<Recovered>(Verb::Recover).await.unwrap_err();
    let held = client.hold(&BarrierOptions::default()).await.unwrap_err();
    for error in [asked.to_string(), held.to_string()] {
        assert!(error.contains("nothing was done: "), "{error}");
        assert!(error.contains("run this again"), "{error}");
        assert!(!error.contains("may have"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_application_that_does_not_know_the_verb_needs_the_tool_of_its_release() {
    let home = tempfile::tempdir().unwrap();
    takes(home.path(), |mut stream| {
        let problem = "the request was not understood: it cannot be read: unknown variant `ended`";
        let answer = serde_json::json!({"version": 1, "answer": {"error": problem}});
        writeln!(stream, "{answer}").unwrap();
    });
    let client = Client::find(home.path()).await.unwrap().unwrap();
    let error = client.ask::<u64>(Verb::Ended).await.unwrap_err();
    let said = "unknown variant `ended`: use the tool of the application's release";
    assert!(error.to_string().contains(said), "{error}");
}

#[tokio::test]
async fn an_answer_that_ends_early_or_is_of_another_version_is_an_error() {
    let cut = read_line(&b"{\"version\":1"[..], ANSWER_BYTES_MAX).await;
    assert_eq!(cut.unwrap_err(), "it ended before its end");
    let newer = from_line::<Answer<Listing>>(br#"{"version":9,"answer":{"news":1}}"#).unwrap_err();
    assert!(newer.contains("version 9"), "{newer}");
}
