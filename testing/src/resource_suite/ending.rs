//! How a branch ends on its own connection.

use unanimous_core::ports::{Branch, OnePhaseReply, PrepareReply};

use super::{Harness, Suite};

/// Prepare, then commit: the row is there, and it was not before.
pub async fn a_prepared_branch_that_commits_shows_its_row<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let (mut branch, _) = suite.prepared(&xid).await;
    suite.assert_committed(&xid, false).await;
    assert!(suite.is_listed(&xid).await, "a prepared branch is listed");
    branch.commit().await.expect("a prepared branch commits");
    suite.assert_committed(&xid, true).await;
    assert!(!suite.is_listed(&xid).await, "a committed branch is not");
    Box::new(branch).release().await;
}

/// Prepare, then roll back: nothing is there.
pub async fn a_prepared_branch_that_rolls_back_hides_its_row<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let (mut branch, _) = suite.prepared(&xid).await;
    branch
        .rollback()
        .await
        .expect("a prepared branch rolls back");
    suite.assert_committed(&xid, false).await;
    assert!(!suite.is_listed(&xid).await, "it is gone");
    Box::new(branch).release().await;
}

/// Roll back without prepare.
pub async fn an_active_branch_rolls_back<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let mut branch = suite.open(&xid).await;
    suite.write(&mut branch, &Suite::<H>::key(&xid)).await;
    branch
        .rollback()
        .await
        .expect("an active branch rolls back");
    suite.assert_committed(&xid, false).await;
    Box::new(branch).release().await;
}

/// Commit without prepare: nothing was ever listed.
pub async fn a_branch_commits_in_one_phase<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let mut branch = suite.open(&xid).await;
    suite.write(&mut branch, &Suite::<H>::key(&xid)).await;
    let reply = branch.commit_one_phase().await;
    assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
    suite.assert_committed(&xid, true).await;
    assert!(!suite.is_listed(&xid).await, "it was never prepared");
    Box::new(branch).release().await;
}

/// The server keeps a reader from writing; a reader that only reads ends well and is never listed.
pub async fn a_read_only_branch_reads_and_refuses_to_write<H: Harness>(suite: &Suite<H>) {
    let written = suite.next_xid();
    let mut writer = suite.open(&written).await;
    let key = Suite::<H>::key(&written);
    suite.write(&mut writer, &key).await;
    let reply = writer.commit_one_phase().await;
    assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
    Box::new(writer).release().await;

    let xid = suite.next_xid();
    let mut reader = suite.open_as(&xid, true).await;
    let row = suite.harness().read(&mut reader, &key).await;
    assert_eq!(row.expect("a reader reads").as_deref(), Some("v"));
    assert!(!suite.is_listed(&xid).await, "a reader is never prepared");
    reader.end_read_only().await.expect("a reader ends");
    Box::new(reader).release().await;

    let xid = suite.next_xid();
    let mut reader = suite.open_as(&xid, true).await;
    let refused = suite
        .harness()
        .write(&mut reader, &Suite::<H>::key(&xid), "v")
        .await;
    assert!(refused.is_err(), "the server lets a reader write");
    drop(reader);
    suite.assert_committed(&xid, false).await;
}

/// What the protocol never asks for is refused: no panic, and no success that did not happen (I3).
pub async fn calls_in_the_wrong_order_neither_panic_nor_succeed<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let mut branch = suite.open(&xid).await;
    suite.write(&mut branch, &Suite::<H>::key(&xid)).await;
    let early = branch.commit().await;
    assert!(early.is_err(), "an active branch said that it committed");
    drop(branch);
    suite.assert_committed(&xid, false).await;
    assert!(!suite.is_listed(&xid).await, "it was never prepared");

    let xid = suite.next_xid();
    let (mut branch, _) = suite.prepared(&xid).await;
    branch.commit().await.expect("a prepared branch commits");
    assert!(branch.commit().await.is_err(), "committed twice");
    assert!(branch.rollback().await.is_err(), "rolled back after commit");
    let again = branch.prepare().await;
    assert!(!matches!(again, PrepareReply::Prepared(_)), "{again:?}");
    let again = branch.commit_one_phase().await;
    assert!(!matches!(again, OnePhaseReply::Committed), "{again:?}");
    drop(branch);
    suite.assert_committed(&xid, true).await;
    assert!(!suite.is_listed(&xid).await, "nothing is left of it");

    let xid = suite.next_xid();
    let mut branch = suite.open(&xid).await;
    suite.write(&mut branch, &Suite::<H>::key(&xid)).await;
    branch
        .rollback()
        .await
        .expect("an active branch rolls back");
    let late = branch.commit().await;
    assert!(late.is_err(), "committed after a rollback");
    let late = branch.prepare().await;
    assert!(!matches!(late, PrepareReply::Prepared(_)), "{late:?}");
    drop(branch);
    suite.assert_committed(&xid, false).await;
    assert!(!suite.is_listed(&xid).await, "nothing is left of it");
}
