//! The disk of the log fills while the application runs, through the whole manager. A limit on the
//! size of files stands for the disk: it needs no rights and no file system of its own.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use unanimous::log::FileLog;
use unanimous::{CommitError, TransactionManager, TransactionOutcome};

use super::{World, eventually};

const FOLDER: &str = "UNANIMOUS_TEST_FULL_DISK";

/// For this process alone.
fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let current = bytes.or(maximum);
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
}

async fn commit(world: &World, tm: &TransactionManager, key: &str) -> Result<(), CommitError> {
    let mut tx = tm.begin();
    let (orders, ledger) = tx.enlist((&world.orders, &world.ledger)).await.unwrap();
    orders.put(key, "1").unwrap();
    ledger.put(key, "1").unwrap();
    tx.commit().await.map(drop)
}

#[tokio::test]
async fn i1_a_disk_that_fills_while_running_splits_nothing_and_with_room_the_manager_goes_on() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return fill(folder.into()).await;
    }
    let temp = tempfile::tempdir().unwrap();
    let test =
        "i1_a_disk_that_fills_while_running_splits_nothing_and_with_room_the_manager_goes_on";
    let test = format!("runtime::full_disk::{test}");
    let mut victim = Command::new("sh");
    victim
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture"])
        .env(FOLDER, temp.path().join("log"))
        .stdout(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || victim.output());
    let output = output.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("1 passed") && said.contains("filled"),
        "{said}"
    );
}

async fn fill(folder: std::path::PathBuf) {
    let world = World::new();
    let builder = world.builder().log(FileLog::at(&folder));
    let builder = builder.resource(&world.orders).resource(&world.ledger);
    let tm = builder.start().await.unwrap();
    let mut answers = Vec::new();
    // Half of the first segment: what comes after that fails, and no new segment can be made.
    limit_files(Some(512 * 1024));
    let mut failures = 0;
    for n in 0..1000 {
        let key = format!("k{n}");
        let answer = commit(&world, &tm, &key).await;
        failures += u32::from(answer.is_err());
        answers.push((key, answer));
        if failures == 5 {
            break;
        }
    }
    assert_eq!(failures, 5, "the disk was never full");
    for (_, answer) in &answers {
        if let Err(error) = answer {
            let text = error.to_string();
            let place = folder.to_str().unwrap();
            assert!(text.contains(place) && text.contains("make room"), "{text}");
        }
    }
    limit_files(None);
    eventually_commits(&world, &tm).await;
    world.settle().await;
    for (key, answer) in answers {
        let rows = [&world.orders, &world.ledger].map(|r| r.server().row(&key).is_some());
        assert_eq!(rows[0], rows[1], "I1: {key} is split");
        match answer {
            Ok(()) => assert!(rows[0], "I2: {key} is lost"),
            Err(CommitError::RolledBack { .. }) => assert!(!rows[0], "{key} was rolled back"),
            Err(CommitError::Undetermined { gtrid, .. }) => {
                let outcome = tm.outcome(gtrid).await.unwrap();
                let is_committed = outcome == TransactionOutcome::Committed;
                assert_eq!(rows[0], is_committed, "{key}: {outcome:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("filled");
    tm.shutdown().await.unwrap();
}

async fn eventually_commits(world: &World, tm: &TransactionManager) {
    for n in 0..200 {
        if commit(world, tm, &format!("later {n}")).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("it goes on", || false).await;
}
