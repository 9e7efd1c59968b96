//! The log's folder is emptied, restored from a backup or replaced, between two lives of an
//! application that has decided to commit: what was once committed is not rolled back, but for the
//! one case that nobody can tell from a crash before the decision.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unanimous::log::FileLog;
use unanimous::{Gtrid, Left, TransactionManager, TransactionManagerBuilder, TransactionOutcome};

use super::recovery::CutAfterDecision;
use super::{World, eventually};

/// A world whose manager has a file log.
struct Life {
    world: World,
    temp: tempfile::TempDir,
}

impl Life {
    fn new() -> Self {
        let (world, temp) = (World::new(), tempfile::tempdir().unwrap());
        Self { world, temp }
    }

    fn folder(&self) -> PathBuf {
        self.temp.path().join("log")
    }

    fn backup(&self) -> PathBuf {
        self.temp.path().join("backup")
    }

    fn builder(&self) -> TransactionManagerBuilder {
        let builder = self.world.builder().log(FileLog::at(self.folder()));
        builder
            .resource(&self.world.orders)
            .resource(&self.world.ledger)
    }

    async fn start(&self) -> TransactionManager {
        self.builder().start().await.unwrap()
    }

    /// Decides, tells the application `Ok`, and dies before phase two has reached a server.
    /// `before` is done in the life that decides.
    async fn decide_and_die(&self, before: impl FnOnce(&Self)) -> Gtrid {
        let servers = [&self.world.orders, &self.world.ledger].map(|r| r.server().clone());
        let cut = Arc::new(CutAfterDecision(servers.to_vec()));
        let tm = self.builder().probe(cut).start().await.unwrap();
        before(self);
        let tx = self.world.begin_with_both(&tm, "1").await;
        let gtrid = tx.gtrid();
        assert_eq!(tx.commit().await.unwrap().unfinished().len(), 2);
        drop(tm);
        for server in servers {
            server.crash();
            server.set_reachable(true);
        }
        // The log is let go of in the background.
        let lock = self.folder().join("lock");
        eventually("the log is closed", || {
            fs::read_to_string(&lock).unwrap().is_empty()
        })
        .await;
        gtrid
    }

    fn prepared(&self) -> usize {
        let servers = [self.world.orders.server(), self.world.ledger.server()];
        servers.map(|server| server.prepared().len()).iter().sum()
    }

    fn restore(&self) {
        self.put_back(&self.backup());
    }

    /// A copy of the log as it is now.
    fn set_aside(&self) -> PathBuf {
        let lost = self.temp.path().join("lost");
        copy(&self.folder(), &lost);
        lost
    }

    fn put_back(&self, files: &Path) {
        empty(&self.folder());
        copy(files, &self.folder());
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        // The control socket is no file to copy.
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn empty(folder: &Path) {
    for entry in folder.read_dir().unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[tokio::test]
async fn i1_after_a_restore_from_an_earlier_opening_nothing_is_rolled_back_until_the_log_is_back() {
    let life = Life::new();
    life.start().await.shutdown().await.unwrap();
    copy(&life.folder(), &life.backup());
    let gtrid = life.decide_and_die(|_| {}).await;
    let lost = life.set_aside();
    life.restore();

    let tm = life.start().await;
    let report = tm.recover().await;
    assert_eq!(life.prepared(), 2, "both are left");
    assert!(!report.is_clean());
    let left: Vec<_> = report.resources.iter().flat_map(|r| &r.left).collect();
    assert!(matches!(&left[..], [(a, Left::Plan(_)), (b, Left::Plan(_))]
        if a.gtrid == gtrid && b.gtrid == gtrid));
    let text = report.to_string();
    assert!(text.contains("was the log restored or copied?"), "{text}");
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::Unknown
    );
    tm.shutdown().await.unwrap();

    life.put_back(&lost);
    let tm = life.start().await;
    life.world.settle().await;
    assert_eq!(life.world.rows(), World::both("1"));
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::Committed
    );
}

/// The limit that the documents tell of. If this fails, something has become better: tell it there.
#[tokio::test]
async fn a_log_restored_from_the_same_opening_rolls_back_what_it_has_lost_and_nobody_can_tell() {
    let life = Life::new();
    let hot_backup = |life: &Life| copy(&life.folder(), &life.backup());
    let gtrid = life.decide_and_die(hot_backup).await;
    life.restore();
    let tm = life.start().await;
    life.world.settle().await;
    assert_eq!(life.world.rows(), (None, None));
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Unknown);
}

#[tokio::test]
async fn i1_an_emptied_log_is_a_new_manager_that_rolls_back_nothing_of_the_old_one() {
    let life = Life::new();
    let gtrid = life.decide_and_die(|_| {}).await;
    let lost = life.set_aside();
    empty(&life.folder());
    let tm = life.start().await;
    let report = tm.recover().await;
    assert_eq!(life.prepared(), 2, "both are left");
    let text = report.to_string();
    assert!(text.contains("belongs to another manager"), "{text}");
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::Unknown
    );
    tm.shutdown().await.unwrap();

    life.put_back(&lost);
    let _tm = life.start().await;
    life.world.settle().await;
    assert_eq!(life.world.rows(), World::both("1"));
}

#[tokio::test]
async fn i1_a_log_without_its_segments_or_its_identity_does_not_start_and_ends_nothing() {
    let life = Life::new();
    life.decide_and_die(|_| {}).await;
    copy(&life.folder(), &life.backup());
    for part in ["segment-", "identity"] {
        for entry in life.folder().read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().contains(&format!("/{part}")) {
                fs::remove_file(path).unwrap();
            }
        }
        let error = life.builder().start().await.unwrap_err().to_string();
        assert!(error.contains("gone") && error.contains("put"), "{error}");
        assert_eq!(life.prepared(), 2);
        life.restore();
    }
    let _tm = life.start().await;
    life.world.settle().await;
    assert_eq!(life.world.rows(), World::both("1"));
}

/// The copy is refused by its folder, the original goes on.
#[tokio::test]
async fn i5_a_log_that_was_copied_while_it_was_open_is_refused_and_the_original_goes_on() {
    let life = Life::new();
    let tm = life.start().await;
    copy(&life.folder(), &life.backup());
    let second = life.world.builder().log(FileLog::at(life.backup()));
    let error = second
        .resource(&life.world.orders)
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is a copy"), "{error}");
    let tx = life.world.begin_with_both(&tm, "1").await;
    tx.commit().await.unwrap();
    assert_eq!(life.world.rows(), World::both("1"));
}

/// While the application runs, what it has decided is safe in its memory, and on the disk with the
/// next decision.
#[tokio::test]
async fn i1_a_folder_that_is_emptied_under_a_running_application_splits_nothing() {
    let life = Life::new();
    let tm = life.start().await;
    let tx = life.world.begin_with_both(&tm, "1").await;
    fs::read_dir(life.folder()).unwrap().for_each(|entry| {
        let _ = fs::remove_file(entry.unwrap().path());
    });
    tx.commit().await.unwrap();
    assert_eq!(life.world.rows(), World::both("1"));
    let names = fs::read_dir(life.folder()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    assert!(
        names
            .into_iter()
            .any(|n| n.to_str().unwrap().starts_with("segment-"))
    );

    fs::remove_dir_all(life.folder()).unwrap();
    let tx = life.world.begin_with_both(&tm, "2").await;
    let error = tx.commit().await.unwrap_err().to_string();
    assert!(error.contains("rolled back"), "{error}");
    assert!(error.contains("the folder itself was removed"), "{error}");
    life.world.settle().await;
    assert_eq!(life.world.rows(), World::both("1"));
}
