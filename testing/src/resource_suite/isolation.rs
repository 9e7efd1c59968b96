//! That branches leave nothing behind and do not harm each other.

use std::time::Duration;

use unanimous_core::ports::{Branch, OnePhaseReply, PrepareReply, Resource};
use unanimous_core::protocol::Decision;

use super::{Harness, Suite, env, eventually, expect_prepared};

/// A branch that is dropped while active is no branch: no row, nothing listed, no lock.
pub async fn an_active_branch_that_is_dropped_leaves_nothing<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let key = Suite::<H>::key(&xid);
    let mut branch = suite.open(&xid).await;
    suite.write(&mut branch, &key).await;
    drop(branch);
    suite.assert_committed(&xid, false).await;
    assert!(!suite.is_listed(&xid).await, "it was never prepared");
    eventually("the lock goes with the session", async || {
        let mut next = suite.open(&suite.next_xid()).await;
        let written = suite.harness().write(&mut next, &key, "v").await;
        written.is_ok() && matches!(next.commit_one_phase().await, OnePhaseReply::Committed)
    })
    .await;
    suite.assert_committed(&xid, true).await;
}

/// Two transactions at the same time, one commits, one rolls back.
pub async fn two_branches_do_not_disturb_each_other<H: Harness>(suite: &Suite<H>) {
    let (one, two) = (suite.next_xid(), suite.next_xid());
    let ((mut first, _), (mut second, _)) =
        tokio::join!(suite.prepared(&one), suite.prepared(&two));
    assert!(suite.is_listed(&one).await && suite.is_listed(&two).await);
    let (committed, rolled_back) = tokio::join!(first.commit(), second.rollback());
    committed.expect("a prepared branch commits");
    rolled_back.expect("a prepared branch rolls back");
    suite.assert_committed(&one, true).await;
    suite.assert_committed(&two, false).await;
    tokio::join!(Box::new(first).release(), Box::new(second).release());
}

/// A prepared branch keeps what it wrote locked even when its connection is gone; the other writer
/// runs into its lock timeout, and a branch in which that happened cannot commit.
pub async fn a_prepared_branch_keeps_its_locks_and_a_lock_timeout_is_a_rollback_vote<H: Harness>(
    suite: &Suite<H>,
) {
    let xid = suite.next_xid();
    let (branch, _) = suite.prepared(&xid).await;
    drop(branch);
    let mut other = suite.open(&suite.next_xid()).await;
    let written = suite
        .harness()
        .write(&mut other, &Suite::<H>::key(&xid), "other")
        .await;
    assert!(written.is_err(), "a prepared branch lost its lock");
    let reply = other.prepare().await;
    assert!(matches!(reply, PrepareReply::RolledBack(_)), "{reply:?}");
    drop(other);
    suite.finish(&xid, Decision::Commit).await;
    suite.assert_committed(&xid, true).await;
}

/// A twin is refused, when it opens or when it prepares, and the first is none the worse.
pub async fn a_second_branch_of_the_same_xid_does_not_harm_the_first<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let (mut first, _) = suite.prepared(&xid).await;
    if let Ok(mut twin) = suite.resource().open(env(&xid, false)).await {
        let key = Suite::<H>::key(&suite.next_xid());
        // A server may refuse here, too.
        let _ = suite.harness().write(&mut twin, &key, "v").await;
        let reply = twin.prepare().await;
        assert!(
            !matches!(reply, PrepareReply::Prepared(_)),
            "two of one XID"
        );
        drop(twin);
        assert_eq!(suite.harness().committed(&key).await, None);
    }
    assert!(suite.is_listed(&xid).await, "the first is still prepared");
    first.commit().await.expect("the first commits");
    suite.assert_committed(&xid, true).await;
    Box::new(first).release().await;
}

/// Whatever the application left in the session, the next branch does not find it (I8).
pub async fn a_released_connection_carries_nothing_over<H: Harness>(suite: &Suite<H>) {
    for ends_prepared in [false, true] {
        let xid = suite.next_xid();
        let mut branch = suite.open(&xid).await;
        let soiled = suite.harness().soil_session(&mut branch).await;
        soiled.expect("the session can be changed");
        let is_soiled = suite.harness().is_session_soiled(&mut branch).await;
        assert!(
            is_soiled.expect("can be asked"),
            "the harness has an effect"
        );
        suite.write(&mut branch, &Suite::<H>::key(&xid)).await;
        if ends_prepared {
            expect_prepared(branch.prepare().await);
            branch.commit().await.expect("a prepared branch commits");
        } else {
            let reply = branch.commit_one_phase().await;
            assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
        }
        Box::new(branch).release().await;

        // Three at once, so that whatever connection was kept is among them.
        let xids = [suite.next_xid(), suite.next_xid(), suite.next_xid()];
        let (a, b, c) = tokio::join!(
            suite.open(&xids[0]),
            suite.open(&xids[1]),
            suite.open(&xids[2])
        );
        for mut next in [a, b, c] {
            let is_soiled = suite.harness().is_session_soiled(&mut next).await;
            assert!(!is_soiled.expect("can be asked"), "it was carried over");
            next.rollback().await.expect("an active branch rolls back");
            Box::new(next).release().await;
        }
    }
}

/// The caller gives prepare up right after it was sent: the branch is prepared then or later or
/// never, sweeping ends it, and no later branch gets to feel it (I3, I8).
pub async fn a_prepare_that_is_given_up_can_be_swept<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let mut branch = suite.open(&xid).await;
    suite.write(&mut branch, &Suite::<H>::key(&xid)).await;
    let given_up = tokio::time::timeout(Duration::ZERO, branch.prepare()).await;
    if let Ok(PrepareReply::Undetermined(error) | PrepareReply::RolledBack(error)) = given_up {
        panic!("the server was there: {error}");
    }
    drop(branch);
    suite.sweep(&xid).await;
    suite.assert_committed(&xid, false).await;
    let next = suite.next_xid();
    let (mut branch, _) = suite.prepared(&next).await;
    branch
        .commit()
        .await
        .expect("a later branch is not disturbed");
    suite.assert_committed(&next, true).await;
    Box::new(branch).release().await;
}
