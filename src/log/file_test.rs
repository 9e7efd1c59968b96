//! The file log on a real disk, through its public surface.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use unanimous_core::ports::{
    BranchRecord, DecideError, DecisionLog, DecisionRecord, Evidence, LogError, LogHome, Lookup,
    Refusal, ServerIdentity,
};
use unanimous_core::xid::Gtrid;
use unanimous_testing::log_suite::{self, Place};

use super::{FileLog, OpenFileLog};

struct Folder(TempDir);

impl Place for Folder {
    fn home(&self) -> Box<dyn LogHome> {
        Box::new(FileLog::at(self.0.path().join("log")))
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_log_keeps_the_contract_of_the_port() {
    log_suite::run(async || Folder(tempfile::tempdir().unwrap())).await;
}

async fn open(folder: &Path) -> Arc<OpenFileLog> {
    FileLog::at(folder).open().await.unwrap()
}

async fn refused(folder: &Path) -> String {
    refusal(FileLog::at(folder).open().await)
}

fn refusal<T>(result: Result<T, LogError>) -> String {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error.to_string(),
    }
}

fn decision(gtrid: Gtrid) -> DecisionRecord {
    let branch = |resource: &str| BranchRecord {
        resource: resource.parse().unwrap(),
        identity: ServerIdentity::new("pg 7000000000000000001/1/app").unwrap(),
        evidence: Evidence::new("xid 4711").unwrap(),
    };
    DecisionRecord {
        gtrid,
        branches: vec![branch("orders"), branch("ledger")],
    }
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test]
async fn a_log_in_use_names_its_holder_through_whatever_path_it_is_opened() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("log");
    let log = open(&folder).await;
    let link = temp.path().join("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    let pid = std::process::id().to_string();
    for path in [&folder, &link] {
        assert_says(
            &refused(path).await,
            &["in use by this process itself", &pid],
        );
    }
    drop(log);
    drop(open(&link).await);
}

#[tokio::test]
async fn a_removed_lock_file_lets_nobody_else_in() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    std::fs::remove_file(temp.path().join("lock")).unwrap();
    assert_says(&refused(temp.path()).await, &["in use by another process"]);
    log.shutdown().await.unwrap();
    open(temp.path()).await;
}

#[tokio::test]
async fn folder_and_files_are_for_their_owner_alone() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("log");
    let log = open(&folder).await;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let mut files = 0;
    for entry in folder.read_dir().unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
        files += 1;
    }
    assert_eq!(files, 3, "lock, identity and one segment");
    drop(log);
}

#[tokio::test]
async fn a_place_where_no_log_can_be_is_refused_with_the_mend() {
    let temp = tempfile::tempdir().unwrap();
    let missing = temp.path().join("no-such-folder").join("log");
    assert_says(
        &refused(&missing).await,
        &["no-such-folder", "does not exist", "make that"],
    );
    let file = temp.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert_says(&refused(&file).await, &["not a folder", "remove it"]);
    assert_says(&refused(&file.join("log")).await, &["remove it"]);
    let used = temp.path().join("used");
    std::fs::create_dir(&used).unwrap();
    std::fs::write(used.join("holiday.jpg"), "x").unwrap();
    assert_says(
        &refused(&used).await,
        &["holiday.jpg", "a folder of its own"],
    );
    assert_says(&refusal(FileLog::at(&missing).adopt()), &["no such folder"]);
}

#[tokio::test]
async fn an_empty_folder_may_hold_what_file_systems_put_there() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("lost+found")).unwrap();
    open(temp.path()).await;
}

/// `proc` refuses to make files whoever asks, so this holds for root, too.
#[tokio::test]
async fn a_folder_in_which_nothing_can_be_made_is_refused_with_the_mend() {
    let text = refused(Path::new("/proc/self")).await;
    assert_says(&text, &["/proc/self", "cannot make the file `lock`"]);
    let text = refused(Path::new("/proc/self/unanimous")).await;
    assert_says(&text, &["/proc/self/unanimous"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn i5_a_copied_folder_is_refused_until_it_is_adopted() {
    let temp = tempfile::tempdir().unwrap();
    let (original, copied) = (temp.path().join("log"), temp.path().join("copy"));
    let log = open(&original).await;
    let opening = log.opening();
    let decided = decision(opening.gtrid(1));
    log.decide(&decided).await.unwrap();
    log.shutdown().await.unwrap();
    copy(&original, &copied);
    assert_says(&refused(&copied).await, &["is a copy", "adopt"]);
    assert_says(&refused(&copied).await, &["is a copy"]);

    let adopted = FileLog::at(&copied).adopt().unwrap();
    assert_eq!(adopted, opening.manager);
    let log = open(&copied).await;
    assert_eq!(log.pending().await.unwrap(), [decided]);
    assert_ne!(log.opening().nonce, opening.nonce);
    assert_says(
        &refusal(FileLog::at(&copied).adopt()),
        &["in use by this process"],
    );
}

#[tokio::test]
async fn a_log_without_its_identity_is_refused_until_it_is_adopted() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let manager = log.opening().manager;
    log.shutdown().await.unwrap();
    let identity = temp.path().join("identity");
    std::fs::remove_file(&identity).unwrap();
    assert_says(
        &refused(temp.path()).await,
        &["`identity` is gone", "adopt"],
    );
    std::fs::write(&identity, "unanimous decision log\nformat 1\n").unwrap();
    assert_says(&refused(temp.path()).await, &["identity", "damaged"]);
    std::fs::remove_file(&identity).unwrap();
    assert_eq!(FileLog::at(temp.path()).adopt().unwrap(), manager);
    assert_eq!(open(temp.path()).await.opening().manager, manager);
}

fn segments(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_segment = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("segment-")
    };
    let mut segments: Vec<_> = entries.filter(is_segment).collect();
    segments.sort();
    segments
}

#[tokio::test]
async fn i3_an_emptied_log_does_not_silently_become_a_new_one() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let manager = log.opening().manager;
    log.shutdown().await.unwrap();
    for segment in segments(temp.path()) {
        std::fs::remove_file(segment).unwrap();
    }
    let text = refused(temp.path()).await;
    assert_says(&text, &["are gone", &manager.to_string(), "identity"]);
    assert_says(&refusal(FileLog::at(temp.path()).adopt()), &["are gone"]);
    // It was killed, so these are still there.
    std::os::unix::net::UnixListener::bind(temp.path().join("control.sock")).unwrap();
    std::fs::create_dir(temp.path().join(".control")).unwrap();
    std::fs::remove_file(temp.path().join("identity")).unwrap();
    assert_says(
        &refusal(FileLog::at(temp.path()).adopt()),
        &["no log in this folder"],
    );
    assert_ne!(open(temp.path()).await.opening().manager, manager);
}

#[tokio::test]
async fn another_managers_segment_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (one, other) = (temp.path().join("one"), temp.path().join("other"));
    for folder in [&one, &other] {
        open(folder).await.shutdown().await.unwrap();
    }
    let segment = segments(&other).remove(0);
    let newer = one.join("segment-000000000009");
    std::fs::copy(segment, newer).unwrap();
    assert_says(
        &refused(&one).await,
        &["segment-000000000009", "of manager"],
    );
}

#[tokio::test]
async fn another_version_is_refused_and_both_are_named() {
    let temp = tempfile::tempdir().unwrap();
    open(temp.path()).await.shutdown().await.unwrap();
    let segment = segments(temp.path()).remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8] = 9;
    std::fs::write(&segment, &bytes).unwrap();
    let text = refused(temp.path()).await;
    assert_says(&text, &["segment-", "version 9", "version 1", "release"]);
    bytes[0] = b'X';
    std::fs::write(&segment, &bytes).unwrap();
    assert_says(
        &refused(temp.path()).await,
        &["does not begin as a segment"],
    );
    let identity = temp.path().join("identity");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(identity, text.replace("format 1", "format 7")).unwrap();
    let text = refused(temp.path()).await;
    assert_says(&text, &["identity", "version 7", "version 1"]);
}

/// Three decisions in a batch each; what is left of the segment after `change`, and the log opened.
async fn after_change(change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, Vec<Gtrid>) {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let gtrids: Vec<_> = (1..4).map(|n| log.opening().gtrid(n)).collect();
    for gtrid in &gtrids {
        log.decide(&decision(*gtrid)).await.unwrap();
    }
    drop(log);
    let segment = segments(temp.path()).remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    change(&mut bytes);
    std::fs::write(&segment, &bytes).unwrap();
    (temp, gtrids)
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_reported() {
    // Header, state, and three decisions take a block each.
    let (temp, gtrids) = after_change(|bytes| bytes[4 * 4096 + 60..].fill(0)).await;
    let log = open(temp.path()).await;
    let torn = log.torn_tail().unwrap();
    assert_eq!(torn.offset, 4 * 4096);
    assert!(torn.segment.ends_with("segment-000000000001"));
    let pending = log.pending().await.unwrap();
    assert_eq!(pending, [decision(gtrids[0]), decision(gtrids[1])]);
    assert_eq!(log.lookup(gtrids[2]).await.unwrap(), Lookup::NoRecord);
    log.shutdown().await.unwrap();
    assert_eq!(open(temp.path()).await.torn_tail(), None);
}

#[tokio::test]
async fn i3_a_bad_batch_before_a_good_one_is_damage_and_nothing_is_changed() {
    for offset in [2 * 4096 + 100, 3 * 4096] {
        let (temp, _) = after_change(|bytes| bytes[offset] ^= 1).await;
        let before = std::fs::read(&segments(temp.path())[0]).unwrap();
        let text = refused(temp.path()).await;
        let at = format!("damaged at offset {}", offset / 4096 * 4096);
        assert_says(&text, &["segment-000000000001", &at, "check the disk"]);
        assert_eq!(std::fs::read(&segments(temp.path())[0]).unwrap(), before);
    }
}

#[tokio::test]
async fn i3_a_change_of_the_last_batch_is_damage_and_no_torn_tail() {
    let (temp, _) = after_change(|bytes| bytes[4 * 4096 + 60] ^= 1).await;
    let text = refused(temp.path()).await;
    assert_says(&text, &["segment-000000000001", "damaged at offset 16384"]);
}

#[tokio::test]
async fn a_damaged_state_and_a_shortened_segment_are_damage() {
    let (temp, _) = after_change(|bytes| bytes[4096 + 20] ^= 1).await;
    assert_says(&refused(temp.path()).await, &["damaged at offset 4096"]);
    let (temp, _) = after_change(|bytes| bytes[20] ^= 1).await;
    assert_says(&refused(temp.path()).await, &["damaged at offset 0"]);
    let (temp, _) = after_change(|bytes| bytes.truncate(4 * 4096)).await;
    assert_says(
        &refused(temp.path()).await,
        &["16384 bytes long instead of"],
    );
}

#[tokio::test]
async fn an_old_pending_decision_stays_and_the_size_is_bounded() {
    let temp = tempfile::tempdir().unwrap();
    let small = || {
        FileLog::at(temp.path())
            .segment_bytes(128 * 1024)
            .retain_completed(100)
    };
    let log = small().open().await.unwrap();
    let opening = log.opening();
    let old = decision(opening.gtrid(0));
    log.decide(&old).await.unwrap();
    let mut largest = 0;
    for round in 0..60 {
        let mut running = tokio::task::JoinSet::new();
        for n in 0..64 {
            let log = log.clone();
            running.spawn(async move {
                let gtrid = opening.gtrid(1 + round * 64 + n);
                log.decide(&decision(gtrid)).await.unwrap();
                log.complete(gtrid);
            });
        }
        running.join_all().await;
        let sizes = temp.path().read_dir().unwrap();
        // A file that is removed meanwhile takes no room.
        let sizes = sizes.map(|entry| entry.unwrap().metadata().map_or(0, |data| data.len()));
        largest = largest.max(sizes.sum());
    }
    assert!(largest < 4 * 128 * 1024, "{largest}");
    assert_ne!(
        segments(temp.path())[0].file_name().unwrap(),
        "segment-000000000001"
    );
    assert_eq!(log.pending().await.unwrap(), std::slice::from_ref(&old));
    drop(log);

    let log = small().open().await.unwrap();
    assert_eq!(log.pending().await.unwrap(), [old]);
    let last = opening.gtrid(60 * 64);
    assert_eq!(log.lookup(last).await.unwrap(), Lookup::Completed);
    let first = log.lookup(opening.gtrid(1)).await.unwrap();
    assert_eq!(
        first,
        Lookup::NoRecord,
        "only the last hundred are retained"
    );
}

#[tokio::test]
async fn decisions_larger_than_a_segment_find_room() {
    let temp = tempfile::tempdir().unwrap();
    let small = || FileLog::at(temp.path()).segment_bytes(0);
    let log = small().open().await.unwrap();
    let mut large = decision(log.opening().gtrid(1));
    large.branches = vec![large.branches[0].clone(); 5000];
    log.decide(&large).await.unwrap();
    let next = decision(log.opening().gtrid(2));
    log.decide(&next).await.unwrap();
    drop(log);
    let log = small().open().await.unwrap();
    assert_eq!(log.pending().await.unwrap(), [large, next]);
}

#[tokio::test]
async fn after_a_shutdown_both_answers_of_decide_are_final() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let (recorded, other) = (log.opening().gtrid(1), log.opening().gtrid(2));
    log.decide(&decision(recorded)).await.unwrap();
    log.shutdown().await.unwrap();
    log.shutdown().await.unwrap();
    log.decide(&decision(recorded)).await.unwrap();
    assert!(matches!(
        log.decide(&decision(other)).await,
        Err(DecideError::Refused(Refusal::EpochClosed))
    ));
    let text = refusal(log.lookup(recorded).await);
    assert_says(&text, &["was shut down"]);
    // The lock is free although the old value is still there.
    drop(open(temp.path()).await);
}

#[tokio::test]
async fn the_same_transaction_with_other_branches_is_never_refused() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let first = decision(log.opening().gtrid(1));
    let mut other = first.clone();
    other.branches.pop();
    let (one, two) = tokio::join!(log.decide(&first), log.decide(&other));
    one.unwrap();
    for answer in [two, log.decide(&other).await] {
        assert!(matches!(answer, Err(DecideError::Uncertain(_))));
    }
    assert_eq!(log.pending().await.unwrap(), [first]);
}

#[tokio::test]
async fn lazy_completions_are_written_after_a_while_without_being_asked() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let gtrid = log.opening().gtrid(1);
    log.decide(&decision(gtrid)).await.unwrap();
    let path = segments(temp.path()).remove(0);
    let before = std::fs::read(&path).unwrap();
    log.complete(gtrid);
    assert_eq!(log.lookup(gtrid).await.unwrap(), Lookup::Completed);
    while std::fs::read(&path).unwrap() == before {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(log);
    let pending = open(temp.path()).await.pending().await.unwrap();
    assert_eq!(pending, []);
}

#[tokio::test]
async fn i3_completing_what_is_not_decided_here_leaves_no_trace() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let own = log.opening().gtrid(1);
    let mut stranger = own;
    stranger.opening.epoch.0 = 77;
    let mut twin = own;
    twin.opening.nonce ^= 1;
    for gtrid in [own, stranger, twin] {
        log.complete(gtrid);
    }
    log.decide(&decision(log.opening().gtrid(2))).await.unwrap();
    log.shutdown().await.unwrap();
    let log = open(temp.path()).await;
    assert_eq!(log.lookup(own).await.unwrap(), Lookup::NoRecord);
    for gtrid in [stranger, twin] {
        assert_eq!(log.lookup(gtrid).await.unwrap(), Lookup::UnknownOpening);
    }
}

#[tokio::test]
async fn i5_an_opening_that_is_not_listed_gets_no_record() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path()).await;
    let mut twin = log.opening().gtrid(1);
    twin.opening.nonce ^= 1;
    assert!(matches!(
        log.decide(&decision(twin)).await,
        Err(DecideError::Refused(Refusal::EpochClosed))
    ));
    let resource = "orders".parse().unwrap();
    let kind = unanimous_core::protocol::Heuristic::Hazard;
    let text = refusal(log.record_heuristic(twin, &resource, kind).await);
    assert_says(&text, &["is not listed", "orders"]);
    let mut epoch = log.opening().epoch;
    epoch.0 += 1;
    assert_says(&refusal(log.close(epoch).await), &["epoch 2 is not listed"]);
}

#[tokio::test]
async fn a_log_can_be_looked_at_while_it_is_open() {
    let temp = tempfile::tempdir().unwrap();
    let inspect = || FileLog::at(temp.path()).segment_bytes(0).inspect();
    assert_says(&refusal(inspect()), &["no log in this folder"]);
    let log = FileLog::at(temp.path()).segment_bytes(0).open().await;
    let log = log.unwrap();
    let (first, ended) = (log.opening().gtrid(1), log.opening().gtrid(2));
    log.decide(&decision(first)).await.unwrap();
    let resource = "ledger".parse().unwrap();
    let kind = unanimous_core::protocol::Heuristic::Mixed;
    log.record_heuristic(ended, &resource, kind).await.unwrap();
    let contents = inspect().unwrap();
    assert_eq!(contents.openings, log.openings().await.unwrap());
    assert_eq!(contents.pending, [decision(first)]);
    let [noted] = &contents.heuristics[..] else {
        panic!("{contents:?}");
    };
    assert_eq!(
        (noted.gtrid, &noted.resource, noted.end),
        (ended, &resource, kind)
    );
    assert!(noted.when.is_some());
    assert_eq!(contents.unfinished_batch, None);

    // Segments come and go under the reader.
    let writer = log.clone();
    let writing = tokio::spawn(async move {
        for n in 3..200 {
            let gtrid = writer.opening().gtrid(n);
            writer.decide(&decision(gtrid)).await.unwrap();
            writer.complete(gtrid);
        }
    });
    while !writing.is_finished() {
        assert!(inspect().unwrap().pending.contains(&decision(first)));
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    log.shutdown().await.unwrap();
    assert!(inspect().unwrap().openings[0].closed);
}
