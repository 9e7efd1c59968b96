//! What happens to a log whose folder or files are removed, replaced or restored under it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unanimous_core::ports::{DecideError, DecisionLog, DecisionRecord, Lookup, Refusal};

use super::process_test::decision;
use super::{FileLog, OpenFileLog};

/// With segments so short that a few decisions fill one.
fn at(folder: &Path) -> FileLog {
    FileLog::at(folder).segment_bytes(0)
}

async fn open(folder: &Path) -> Arc<OpenFileLog> {
    at(folder).open().await.unwrap()
}

async fn decide(log: &OpenFileLog, sequences: std::ops::Range<u64>) -> Vec<DecisionRecord> {
    let mut decided = Vec::new();
    for sequence in sequences {
        let record = decision(log.opening().gtrid(sequence));
        log.decide(&record).await.unwrap();
        decided.push(record);
    }
    decided
}

async fn refused(folder: &Path) -> String {
    let opened = at(folder).open().await;
    opened.map(drop).unwrap_err().to_string()
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.to_str().unwrap().contains("/segment-");
    files(folder).into_iter().filter(is_segment).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

fn empty(folder: &Path) {
    files(folder)
        .into_iter()
        .for_each(|file| fs::remove_file(file).unwrap());
}

/// What was acknowledged must not lie in a file that nobody will find again.
#[tokio::test]
async fn i2_a_log_whose_files_are_removed_while_it_is_open_writes_all_of_itself_anew() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let manager = log.opening().manager;
    let mut decided = decide(&log, 0..3).await;
    empty(temp.path());
    decided.extend(decide(&log, 3..4).await);
    // As if killed: nothing more is written.
    let temp_copy = tempfile::tempdir().unwrap();
    copy(temp.path(), temp_copy.path());
    assert_eq!(
        segments(temp_copy.path()).len(),
        1,
        "all in one new segment"
    );
    drop(log);

    assert_says(
        &refused(temp.path()).await,
        &["`identity` is gone", "unanimous log adopt"],
    );
    assert_eq!(at(temp_copy.path()).adopt().unwrap(), manager);
    assert_eq!(
        open(temp_copy.path()).await.pending().await.unwrap(),
        decided
    );
    assert_eq!(at(temp.path()).adopt().unwrap(), manager);
    assert_eq!(open(temp.path()).await.pending().await.unwrap(), decided);
}

#[tokio::test]
async fn i2_any_one_file_can_be_removed_while_the_log_is_open() {
    for victim in ["lock", "identity", "segment-000000000001", "segment.tmp"] {
        let temp = tempfile::tempdir().unwrap();
        let log = open(temp.path()).await;
        let mut decided = decide(&log, 0..1).await;
        match fs::remove_file(temp.path().join(victim)) {
            Err(error) if victim != "segment.tmp" => panic!("{victim}: {error}"),
            Ok(()) | Err(_) => {}
        }
        decided.extend(decide(&log, 1..60).await);
        drop(log);
        if victim == "identity" {
            at(temp.path()).adopt().unwrap();
        }
        let log = open(temp.path()).await;
        assert_eq!(log.pending().await.unwrap(), decided, "{victim}");
    }
}

/// What was acknowledged is found under the segment's name by whoever opens the log next. The bytes
/// that an old copy of it holds are a log that ends earlier, and sound.
#[tokio::test]
async fn i1_a_segment_that_is_renamed_or_replaced_while_the_log_is_open_is_written_anew() {
    type Change = fn(&Path, &Path);
    let renamed: Change = |segment, beside| fs::rename(segment, beside).unwrap();
    let removed_and_linked: Change = |segment, beside| {
        fs::hard_link(segment, beside).unwrap();
        fs::remove_file(segment).unwrap();
    };
    let replaced: Change = |segment, beside| {
        fs::copy(segment, beside).unwrap();
        fs::rename(beside, segment).unwrap();
    };
    let kept_and_replaced: Change = |segment, beside| {
        fs::rename(segment, beside).unwrap();
        fs::copy(beside, segment).unwrap();
    };
    let changes = [renamed, removed_and_linked, replaced, kept_and_replaced];
    for (nth, change) in changes.into_iter().enumerate() {
        let temp = tempfile::tempdir().unwrap();
        let (folder, beside) = (temp.path().join("log"), temp.path().join("segment.bak"));
        let log = open(&folder).await;
        let mut decided = decide(&log, 0..2).await;
        let old = segments(&folder).remove(0);
        change(&old, &beside);
        decided.extend(decide(&log, 2..3).await);
        // As if killed: nothing more is written.
        let copied = temp.path().join("copied");
        copy(&folder, &copied);
        at(&copied).adopt().unwrap();
        let found = open(&copied).await.pending().await.unwrap();
        assert_eq!(found, decided, "change {nth}");
        drop(log);
    }
}

/// Only its own link counts: others of it, as a backup by links makes them, do no harm.
#[tokio::test]
async fn a_second_link_to_the_segment_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, beside) = (temp.path().join("log"), temp.path().join("segment.bak"));
    let log = open(&folder).await;
    decide(&log, 0..2).await;
    let before = segments(&folder);
    fs::hard_link(&before[0], &beside).unwrap();
    decide(&log, 2..3).await;
    assert_eq!(segments(&folder), before);
}

#[tokio::test]
async fn a_log_whose_folder_is_removed_while_it_is_open_refuses_decisions_and_keeps_what_it_knows()
{
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("log");
    let log = open(&folder).await;
    let decided = decide(&log, 0..2).await;
    fs::remove_dir_all(&folder).unwrap();
    let late = decision(log.opening().gtrid(2));
    let refused = log.decide(&late).await.unwrap_err();
    assert!(
        matches!(refused, DecideError::Refused(Refusal::NotAttempted(_))),
        "{refused}"
    );
    assert_says(
        &refused.to_string(),
        &["the folder itself was removed", "shut this process down"],
    );
    assert_eq!(log.pending().await.unwrap(), decided);
    for record in &decided {
        log.complete(record.gtrid);
    }
    assert_eq!(log.pending().await.unwrap(), []);
    drop(log);
    // A new folder is a new log: the old one's branches are nobody's here, and never rolled back.
    let log = open(&folder).await;
    let found = log.lookup(decided[0].gtrid).await.unwrap();
    assert_eq!(found, Lookup::UnknownOpening);
}

/// The two share a path, one after the other, and nothing else.
#[tokio::test]
async fn i5_a_log_whose_folder_was_moved_away_stays_in_it_and_harms_no_log_in_its_old_place() {
    let temp = tempfile::tempdir().unwrap();
    let (place, moved) = (temp.path().join("log"), temp.path().join("moved"));
    let first = open(&place).await;
    let mut of_first = decide(&first, 0..2).await;
    fs::rename(&place, &moved).unwrap();
    let second = open(&place).await;
    let of_second = decide(&second, 0..2).await;
    of_first.extend(decide(&first, 2..100).await);
    assert!(segments(&moved)[0] > moved.join("segment-000000000002"));
    drop(first);
    drop(second);
    assert_eq!(segments(&place), [place.join("segment-000000000001")]);
    assert_eq!(open(&place).await.pending().await.unwrap(), of_second);
    // On the same disk it is the same folder, under another name.
    assert_eq!(open(&moved).await.pending().await.unwrap(), of_first);
}

#[tokio::test]
async fn each_file_that_is_missing_at_the_start_is_told_or_does_no_harm() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("log");
    let log = open(&folder).await;
    let decided = decide(&log, 0..60).await;
    drop(log);
    for name in ["lock", "identity", "segment"] {
        let is_victim = |file: &PathBuf| file.to_str().unwrap().contains(&format!("/{name}"));
        let file = files(&folder).into_iter().find(is_victim).unwrap();
        let away = temp.path().join("away");
        fs::rename(&file, &away).unwrap();
        match name {
            "lock" => {}
            "identity" => {
                assert_says(
                    &refused(&folder).await,
                    &["`identity` is gone", "put it back"],
                );
                fs::rename(&away, &file).unwrap();
            }
            _ => {
                assert_says(
                    &refused(&folder).await,
                    &["segments", "are gone", "put them"],
                );
                fs::rename(&away, &file).unwrap();
            }
        }
        assert_eq!(open(&folder).await.pending().await.unwrap(), decided);
    }
}

/// A backup of an earlier opening, put back in place: the folder is the same, the log is not.
#[tokio::test]
async fn i3_what_a_restored_log_does_not_list_is_unknown_and_not_rolled_back() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, backup) = (temp.path().join("log"), temp.path().join("backup"));
    open(&folder).await.shutdown().await.unwrap();
    copy(&folder, &backup);
    let log = open(&folder).await;
    let decided = decide(&log, 0..1).await.remove(0);
    drop(log);
    empty(&folder);
    copy(&backup, &folder);
    let log = open(&folder).await;
    assert_eq!(log.opening().epoch, decided.gtrid.opening.epoch, "a twin");
    let found = log.lookup(decided.gtrid).await.unwrap();
    assert_eq!(found, Lookup::UnknownOpening);
}
