//! A resource of one's own: a shelf, a folder with one file per document, that takes part in
//! global transactions and passes the conformance suite.
//!
//! ```text
//! cargo run --example custom_resource
//! ```
//! It works in a folder that is removed at the end.
//!
//! How it keeps the contract of [`unanimous::ports`]:
//!
//! * *Prepared* is a file: what the branch wrote, synced, then renamed into `prepared/`. It
//!   survives this process, and opening the shelf takes its locks again.
//! * *Committed* is one rename, from `prepared/` into `committed/`, synced. The documents are
//!   written afterwards; opening the shelf repeats that for whatever is left there.
//! * An error before a rename means that nothing has happened. An error from there on is
//!   *undetermined*, and the shelf does nothing more until it is opened again (I3).
//! * One process owns a shelf, by a lock on a file.
//!
//! A shelf does not wait for locks, its reader sees no snapshot, and its calls block the thread for
//! as long as the disk takes: enough for an example.

mod branch;
mod shelf;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use unanimous::log::FileLog;
use unanimous::ports::{Branch, BranchEnv, PrepareReply, Resource, ResourceManager, SourceError};
use unanimous::{Decision, ManagerId, TransactionManager, Xid};
use unanimous_testing::resource_suite::{self, Harness};

use crate::branch::ShelfBranch;
use crate::shelf::Shelf;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("custom_resource: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    conformance(&folder.join("suite")).await?;
    println!("the shelf passes the conformance suite");
    let (drafts, prints) = (folder.join("drafts"), folder.join("prints"));
    publish(&folder.join("log"), &drafts, &prints).await?;
    println!("two shelves were changed by one transaction");
    restart(&drafts).await?;
    println!("a prepared branch outlives its process, with its locks");
    Ok(())
}

/// One transaction over two shelves, as an application writes it.
async fn publish(log: &Path, drafts: &Path, prints: &Path) -> Result<()> {
    let drafts = Shelf::open("drafts", drafts)?;
    let prints = Shelf::open("prints", prints)?;
    let tm = TransactionManager::builder()
        .log(FileLog::at(log))
        .resource(&drafts)
        .resource(&prints)
        .start()
        .await?;
    let mut tx = tm.begin();
    let (draft, print) = tx.enlist((&drafts, &prints)).await?;
    draft.put("letter", "published")?;
    print.put("letter", "dear reader")?;
    tx.commit().await?.completed().await?;

    let mut tx = tm.begin();
    let (draft, print) = tx.enlist_read_only((&drafts, &prints)).await?;
    let seen = (draft.get("letter")?, print.get("letter")?);
    tx.commit().await?;
    tm.shutdown().await?;
    let expected = (Some("published".to_owned()), Some("dear reader".to_owned()));
    if seen == expected {
        Ok(())
    } else {
        Err(format!("the shelves do not agree: {seen:?}").into())
    }
}

/// What a crash leaves: a prepared branch, and one that is committed but not yet written.
async fn restart(folder: &Path) -> Result<()> {
    let xid: Xid = "0123456789abcdef-1-0123456789abc-1:drafts".parse()?;
    let shelf = Shelf::open("drafts", folder)?;
    let mut branch = shelf.open(env(&xid)).await?;
    branch.put("note", "kept")?;
    let reply = branch.prepare().await;
    if !matches!(reply, PrepareReply::Prepared(_)) {
        return Err(format!("the branch did not prepare: {reply:?}").into());
    }
    drop((branch, shelf));
    let unwritten = "0123456789abcdef-1-0123456789abc-2:drafts";
    fs::write(
        folder.join("committed").join(unwritten),
        "letter reprinted\n",
    )?;

    let shelf = Shelf::open("drafts", folder)?;
    let mut other = shelf
        .open(env(&"0123456789abcdef-1-0123456789abc-3:drafts".parse()?))
        .await?;
    let is_locked = other.put("note", "overwritten").is_err();
    let is_repeated = other.get("letter")?.as_deref() == Some("reprinted");
    drop(other);
    shelf.finish(&xid, Decision::Commit, None).await?;
    let note = fs::read_to_string(folder.join("documents/note"))?;
    if is_locked && is_repeated && note == "kept" {
        Ok(())
    } else {
        Err(format!("lost: locked {is_locked}, repeated {is_repeated}, note {note}").into())
    }
}

fn env(xid: &Xid) -> BranchEnv {
    BranchEnv {
        xid: xid.clone(),
        read_only: false,
        lock_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
    }
}

/// Panics where a property of the port's contract does not hold.
async fn conformance(folder: &Path) -> Result<()> {
    let shelf = Shelf::open("shelf", folder)?;
    let folder = folder.to_owned();
    resource_suite::run(ShelfHarness { shelf, folder }).await;
    Ok(())
}

/// What the suite needs beside the port: documents, and a second pair of eyes.
struct ShelfHarness {
    shelf: Shelf,
    folder: PathBuf,
}

#[async_trait]
impl Harness for ShelfHarness {
    type Resource = Shelf;

    fn resource(&self) -> &Shelf {
        &self.shelf
    }

    async fn write(
        &self,
        branch: &mut ShelfBranch,
        key: &str,
        value: &str,
    ) -> std::result::Result<(), SourceError> {
        Ok(branch.put(key, value)?)
    }

    async fn read(
        &self,
        branch: &mut ShelfBranch,
        key: &str,
    ) -> std::result::Result<Option<String>, SourceError> {
        Ok(branch.get(key)?)
    }

    async fn soil_session(&self, branch: &mut ShelfBranch) -> std::result::Result<(), SourceError> {
        branch.enter("elsewhere-");
        Ok(())
    }

    async fn is_session_soiled(
        &self,
        branch: &mut ShelfBranch,
    ) -> std::result::Result<bool, SourceError> {
        Ok(!branch.prefix().is_empty())
    }

    async fn committed(&self, key: &str) -> Option<String> {
        fs::read_to_string(self.folder.join("documents").join(key)).ok()
    }

    async fn prepared_count(&self, manager: ManagerId) -> usize {
        let listed = fs::read_dir(self.folder.join("prepared"));
        let names = listed.expect("the shelf is there").map(|entry| {
            let name = entry.expect("a file of the shelf").file_name();
            name.to_string_lossy().parse::<Xid>()
        });
        let is_ours = |xid: &Xid| xid.gtrid.opening.manager == manager;
        names.flatten().filter(is_ours).count()
    }

    async fn end_by_hand(&self, xid: &Xid, decision: Decision) {
        let ended = self.shelf.finish(xid, decision, None).await;
        ended.expect("the branch is prepared");
    }

    async fn plant_foreign(&self, unique: &str) -> String {
        let planted = fs::write(self.folder.join("prepared").join(unique), "");
        planted.expect("the shelf is there");
        unique.to_owned()
    }

    async fn remove_foreign(&self, unique: &str) {
        let removed = fs::remove_file(self.folder.join("prepared").join(unique));
        removed.expect("nobody has touched it");
    }

    /// A rollback leaves no trace on a shelf.
    fn proves_absence(&self) -> bool {
        false
    }

    /// A shelf has no address and no password.
    fn unreachable(&self) -> Option<(Shelf, String)> {
        None
    }
}
