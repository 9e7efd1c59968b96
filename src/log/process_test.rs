//! The file log in processes of their own: killed, locked out, short of room. Each victim is this
//! test program, run again for one test with a folder in its environment.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use unanimous_core::ports::{BranchRecord, DecisionLog, DecisionRecord, Evidence, ServerIdentity};
use unanimous_core::xid::Gtrid;

use super::storage::{DiskFolder, Storage};
use super::{FileLog, OpenFileLog};

const FOLDER: &str = "UNANIMOUS_TEST_LOG_FOLDER";

/// The folder, if this process is the victim.
fn victims_folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// This program, for `test` alone, after what `shell` says.
fn victim(test: &str, folder: &Path, shell: &str) -> (Child, BufReader<ChildStdout>) {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut child = Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// What the victim says, without what the test program says around it.
fn said(stdout: BufReader<ChildStdout>) -> impl Iterator<Item = String> {
    let lines = stdout.lines().map(|line| line.unwrap());
    lines.filter_map(|line| Some(line.split_once("victim: ")?.1.to_owned()))
}

pub(super) fn decision(gtrid: Gtrid) -> DecisionRecord {
    let branch = BranchRecord {
        resource: "orders".parse().unwrap(),
        identity: ServerIdentity::new("a server").unwrap(),
        evidence: Evidence::default(),
    };
    DecisionRecord {
        gtrid,
        branches: vec![branch],
    }
}

async fn open(folder: &Path) -> Arc<OpenFileLog> {
    let log = FileLog::at(folder).segment_bytes(128 * 1024);
    log.open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_killed_process_loses_no_acknowledged_decision() {
    if let Some(folder) = victims_folder() {
        return decide_until_killed(&folder).await;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let test = "i2_a_killed_process_loses_no_acknowledged_decision";
        let (mut child, stdout) = victim(test, temp.path(), "");
        let mut said = said(stdout);
        let wanted = acknowledged.len() + 150 * (round + 1);
        while acknowledged.len() < wanted {
            acknowledged.push(said.next().expect("the victim goes on until it is killed"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // The last line may have been cut off in the middle.
        acknowledged.extend(said.filter(|line| line.ends_with('.')));
    }
    let log = open(temp.path()).await;
    let pending = log.pending().await.unwrap();
    let pending: Vec<_> = pending.iter().map(|d| format!("{}.", d.gtrid)).collect();
    for gtrid in &acknowledged {
        assert!(pending.contains(gtrid), "{gtrid} is lost");
    }
    let closed = log.openings().await.unwrap();
    assert_eq!(closed.iter().filter(|state| state.closed).count(), 4);
}

async fn decide_until_killed(folder: &Path) {
    let log = open(folder).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let log = log.clone();
        tasks.spawn(async move {
            // The limit is for the case that the parent dies first.
            for n in 0..100_000 {
                let gtrid = log.opening().gtrid(n * 8 + task);
                log.decide(&decision(gtrid)).await.unwrap();
                println!("victim: {gtrid}.");
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn another_process_is_locked_out_and_told_by_whom() {
    if let Some(folder) = victims_folder() {
        let refused = FileLog::at(folder).open().await.unwrap_err();
        return println!("victim: {refused}");
    }
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let test = "another_process_is_locked_out_and_told_by_whom";
    let (mut child, stdout) = victim(test, temp.path(), "");
    let text: Vec<_> = said(stdout).collect();
    assert!(child.wait().unwrap().success());
    let by_whom = format!("in use by the process with pid {}:", std::process::id());
    assert!(text[0].contains(&by_whom), "{text:?}");
    drop(log);
}

/// The shell's limit on the size of a file stands for a disk without room: the writes of the zeros
/// fail, as they do there.
#[tokio::test]
async fn without_room_for_a_segment_no_log_is_opened() {
    if let Some(folder) = victims_folder() {
        let refused = FileLog::at(&folder).open().await.unwrap_err();
        println!("victim: {refused}");
        let names = folder.read_dir().unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        println!("victim: {:?}", names.collect::<Vec<_>>());
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let test = "without_room_for_a_segment_no_log_is_opened";
    let (mut child, stdout) = victim(test, temp.path(), "trap '' XFSZ; ulimit -f 100;");
    let said: Vec<_> = said(stdout).collect();
    assert!(child.wait().unwrap().success());
    assert!(
        said[0].contains("cannot make a segment of the log"),
        "{said:?}"
    );
    assert!(said[0].contains("make room"), "{said:?}");
    assert!(!said[1].contains("segment-"), "{said:?}");
    // With room, the first opening begins again.
    drop(open(temp.path()).await);
}

/// One mebibyte is the length of an opening's first segment: the next, twice as long, does not fit.
#[tokio::test]
async fn with_room_for_short_segments_only_the_log_goes_on_with_short_segments() {
    if let Some(folder) = victims_folder() {
        let log = FileLog::at(folder).open().await.unwrap();
        for n in 0..600 {
            let gtrid = log.opening().gtrid(n);
            while let Err(error) = log.decide(&decision(gtrid)).await {
                println!("victim: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            log.complete(gtrid);
        }
        log.shutdown().await.unwrap();
        return println!("victim: end");
    }
    let temp = tempfile::tempdir().unwrap();
    let test = "with_room_for_short_segments_only_the_log_goes_on_with_short_segments";
    // POSIX counts in blocks of 512 bytes, bash in 1024: either is at least one mebibyte, and less
    // than the third segment of four.
    let (mut child, stdout) = victim(test, temp.path(), "trap '' XFSZ; ulimit -f 2048;");
    let said: Vec<_> = said(stdout).collect();
    assert!(child.wait().unwrap().success());
    assert_eq!(said.last().map(String::as_str), Some("end"), "{said:?}");
    let log = open(temp.path()).await;
    assert_eq!(log.pending().await.unwrap(), []);
    assert_eq!(
        log.openings().await.unwrap().len(),
        2,
        "it never had to reopen itself"
    );
}

/// The limit cuts the write in its middle: the system writes a part, and says only how much.
#[test]
fn a_write_that_is_cut_short_is_an_error() {
    if let Some(folder) = victims_folder() {
        let folder = DiskFolder::open(&folder).unwrap();
        let file = folder.create("short").unwrap();
        let error = file.write_at(0, &[1; 8192]).unwrap_err();
        println!("victim: {error}");
        return println!("victim: {}", folder.read("short").unwrap().len());
    }
    let temp = tempfile::tempdir().unwrap();
    let test = "a_write_that_is_cut_short_is_an_error";
    let (mut child, stdout) = victim(test, temp.path(), "trap '' XFSZ; ulimit -f 5;");
    let said: Vec<_> = said(stdout).collect();
    assert!(child.wait().unwrap().success());
    assert!(said[0].contains("File too large"), "{said:?}");
    // A shell counts in 512 or 1024 bytes.
    assert!(["2560", "5120"].contains(&said[1].as_str()), "{said:?}");
}
