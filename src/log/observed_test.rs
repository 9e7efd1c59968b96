//! A log that is only looked at.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use unanimous_core::ports::{
    DecideError, DecisionLog, DecisionRecord, LogHome, Lookup, OpeningState,
};

use super::FileLog;

async fn observe(folder: &Path) -> std::sync::Arc<dyn DecisionLog> {
    Box::new(FileLog::at(folder).observer())
        .open()
        .await
        .unwrap()
}

/// Every file with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = folder.read_dir().unwrap().map(Result::unwrap);
    let read = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

fn decision(log: &dyn DecisionLog, sequence: u64) -> DecisionRecord {
    DecisionRecord {
        gtrid: log.opening().gtrid(sequence),
        branches: Vec::new(),
    }
}

#[tokio::test]
async fn i5_every_opening_counts_as_closed_and_nothing_is_changed() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("log");
    let log = FileLog::at(&folder).open().await.unwrap();
    let decided = decision(&*log, 1);
    log.decide(&decided).await.unwrap();
    let (own, undecided) = (log.opening(), decision(&*log, 2));
    // As a crash does: its opening is not closed.
    drop(log);
    let before = files(&folder);
    let mode = |bits| std::fs::set_permissions(&folder, PermissionsExt::from_mode(bits)).unwrap();
    mode(0o500);
    let seen = observe(&folder).await;
    let snapshot = seen.snapshot().await.unwrap();
    let closed = OpeningState {
        opening: own,
        closed: true,
    };
    assert_eq!(snapshot.openings, [closed]);
    assert_eq!(snapshot.pending, std::slice::from_ref(&decided));
    let found = seen.lookup(undecided.gtrid).await.unwrap();
    assert_eq!(found, Lookup::NoRecord);
    let found = seen.decided_at(&[decided.gtrid]).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(seen.opening().manager, own.manager);
    assert!(matches!(
        seen.decide(&undecided).await,
        Err(DecideError::Refused(_))
    ));
    seen.close(own.epoch).await.unwrap_err();
    seen.complete(decided.gtrid);
    seen.shutdown().await.unwrap();
    mode(0o700);
    assert_eq!(files(&folder), before);
}

/// It is told; its own openings are not taken for closed.
#[tokio::test]
async fn i5_whoever_takes_the_log_meanwhile_is_told() {
    let temp = tempfile::tempdir().unwrap();
    FileLog::at(temp.path())
        .open()
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    let seen = observe(temp.path()).await;
    let log = FileLog::at(temp.path()).open().await.unwrap();
    for lock in ["lock", "gone"] {
        let told = seen.snapshot().await.unwrap_err().to_string();
        assert!(told.contains("in use by"), "{lock}: {told}");
        assert!(told.contains("run this again"), "{lock}: {told}");
        // The folder is locked, too.
        drop(std::fs::remove_file(temp.path().join("lock")));
    }
    log.shutdown().await.unwrap();
    assert_eq!(seen.snapshot().await.unwrap().openings.len(), 2);
}

#[tokio::test]
async fn where_there_is_no_log_none_is_made() {
    let temp = tempfile::tempdir().unwrap();
    let opened = Box::new(FileLog::at(temp.path()).observer()).open().await;
    let told = opened.err().unwrap().to_string();
    assert!(told.contains("no log in this folder"), "{told}");
    assert_eq!(files(temp.path()).len(), 0);
}
