//! What recovery sees and does: by XID, without the connection that prepared.

use unanimous_core::ports::{
    Absence, Branch, BranchEnv, BranchErrorKind, BranchRecord, Evidence, InspectOptions, Problem,
    Resource, ResourceManager, ServerIdentity, XidOwner,
};
use unanimous_core::protocol::{Decision, Heuristic};
use unanimous_core::xid::{Epoch, Opening, Xid};

use super::{Harness, Suite, env, eventually};

/// The socket is closed, the branch is listed, recovery commits it.
pub async fn a_prepared_branch_survives_its_connection_and_is_committed<H: Harness>(
    suite: &Suite<H>,
) {
    let xid = suite.next_xid();
    let (branch, _) = suite.prepared(&xid).await;
    drop(branch);
    assert!(suite.is_listed(&xid).await, "prepared outlives its socket");
    suite.assert_committed(&xid, false).await;
    suite.finish(&xid, Decision::Commit).await;
    suite.assert_committed(&xid, true).await;
}

/// The socket is closed, the branch is listed, recovery rolls it back.
pub async fn a_prepared_branch_survives_its_connection_and_is_rolled_back<H: Harness>(
    suite: &Suite<H>,
) {
    let xid = suite.next_xid();
    let (branch, _) = suite.prepared(&xid).await;
    drop(branch);
    assert!(suite.is_listed(&xid).await, "prepared outlives its socket");
    suite.finish(&xid, Decision::Rollback).await;
    suite.assert_committed(&xid, false).await;
}

/// "Unknown XID" is an error of that kind, for what ended either way and for what never was.
pub async fn a_branch_that_ended_is_an_unknown_xid<H: Harness>(suite: &Suite<H>) {
    let committed = suite.next_xid();
    let (mut branch, _) = suite.prepared(&committed).await;
    branch.commit().await.expect("a prepared branch commits");
    Box::new(branch).release().await;
    let rolled_back = suite.next_xid();
    let (mut branch, _) = suite.prepared(&rolled_back).await;
    branch
        .rollback()
        .await
        .expect("a prepared branch rolls back");
    Box::new(branch).release().await;
    for xid in [&committed, &rolled_back, &suite.next_xid()] {
        for decision in [Decision::Commit, Decision::Rollback] {
            let finished = suite.resource().finish(xid, decision, None).await;
            let error = finished.expect_err("what is not there cannot be finished");
            assert_eq!(error.kind(), BranchErrorKind::UnknownXid, "{error}");
        }
    }
    suite.assert_committed(&committed, true).await;
    suite.assert_committed(&rolled_back, false).await;
}

/// While the connection that prepared is still open, a server may refuse to finish the branch from
/// elsewhere; but an "Ok" is one.
pub async fn finishing_beside_an_open_connection_is_no_lie<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let (branch, _) = suite.prepared(&xid).await;
    let finished = suite.resource().finish(&xid, Decision::Commit, None).await;
    match finished {
        Ok(()) => assert!(!suite.is_listed(&xid).await, "finished, but still listed"),
        Err(error) => assert!(suite.is_listed(&xid).await, "{error}, but it is gone"),
    }
    drop(branch);
    suite.finish(&xid, Decision::Commit).await;
    suite.assert_committed(&xid, true).await;
}

/// The longest and the shortest names come back exactly (I4).
pub async fn every_xid_is_parsed_back<H: Harness>(suite: &Suite<H>) {
    let manager = suite.opening.manager;
    let extremes = [
        (Epoch(0), 0, 0),
        (Epoch(u32::MAX), u64::MAX, u64::MAX),
        (Epoch(1), u64::MAX / 3, 1),
    ];
    for (epoch, nonce, sequence) in extremes {
        let opening = Opening {
            manager,
            epoch,
            nonce,
        };
        let xid = suite.xid(opening.gtrid(sequence));
        let mut branch = suite.open(&xid).await;
        // The nonces of the extremes are shared by every run: the row is this suite's own.
        let key = Suite::<H>::key(&suite.next_xid());
        suite.write(&mut branch, &key).await;
        super::expect_prepared(branch.prepare().await);
        let listed = suite.scan().await.branches;
        let ours = listed
            .iter()
            .filter(|listed| listed.owner == XidOwner::Unanimous(xid.clone()));
        assert_eq!(ours.count(), 1, "{xid} is listed once, as it was given");
        branch
            .rollback()
            .await
            .expect("a prepared branch rolls back");
        Box::new(branch).release().await;
    }
}

/// What is not ours is shown in the server's own words, and survives everything that we do (I4).
pub async fn foreign_prepared_transactions_are_listed_as_foreign<H: Harness>(suite: &Suite<H>) {
    let unique = Suite::<H>::key(&suite.next_xid());
    let text = suite.harness().plant_foreign(&unique).await;
    let foreign = XidOwner::Foreign(text);
    let xid = suite.next_xid();
    let (branch, _) = suite.prepared(&xid).await;
    drop(branch);
    let listed = suite.scan().await.branches;
    assert!(
        listed.iter().any(|branch| branch.owner == foreign),
        "{foreign:?} is not among {listed:?}"
    );
    suite.finish(&xid, Decision::Rollback).await;
    let listed = suite.scan().await.branches;
    assert!(
        listed.iter().any(|branch| branch.owner == foreign),
        "{foreign:?} was touched"
    );
    suite.harness().remove_foreign(&unique).await;
}

/// Looking at what branches hold ends none, tells only of what is prepared, and no more than was
/// asked for.
pub async fn inspecting_changes_nothing_and_tells_of_prepared_branches_alone<H: Harness>(
    suite: &Suite<H>,
) {
    let (active, prepared) = (suite.next_xid(), suite.next_xid());
    let mut still_active = suite.open(&active).await;
    suite
        .write(&mut still_active, &Suite::<H>::key(&active))
        .await;
    let (branch, _) = suite.prepared(&prepared).await;
    for options in [InspectOptions::COUNTS, InspectOptions::DETAILS] {
        let seen = suite.resource().inspect(options).await;
        let seen = seen.expect("an account that recovers may look");
        for branch in seen.branches {
            assert_ne!(branch.owner, XidOwner::Unanimous(active.clone()));
            let locks = branch.holding.locks.map_or(0, |locks| locks.named.len());
            let blocked = branch.holding.blocked.unwrap_or_default().sessions;
            assert!(locks <= options.locks_max && blocked.len() <= options.sessions_max);
            let is_told = blocked.iter().any(|session| session.statement.is_some());
            assert!(!is_told || options.statement_chars_max > 0, "I8");
        }
    }
    let rolled_back = still_active.rollback().await;
    rolled_back.expect("an active branch rolls back");
    Box::new(still_active).release().await;
    drop(branch);
    assert!(suite.is_listed(&prepared).await, "it is prepared as before");
    suite.finish(&prepared, Decision::Rollback).await;
}

/// Committed on its connection, or by recovery: absence is the proof.
pub async fn an_absent_branch_that_committed_is_finished<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let (mut branch, record) = suite.prepared(&xid).await;
    branch.commit().await.expect("a prepared branch commits");
    Box::new(branch).release().await;
    assert_absence(suite, &xid, &record, &finished(suite)).await;

    let xid = suite.next_xid();
    let (branch, record) = suite.prepared(&xid).await;
    drop(branch);
    suite.finish(&xid, Decision::Commit).await;
    assert_absence(suite, &xid, &record, &finished(suite)).await;
}

/// A person rolled back what was to be committed: a heuristic where the server can prove it. Where
/// it cannot, the absence of a branch that was to be committed counts as its end.
pub async fn an_absent_branch_that_was_rolled_back_by_hand_is_told_where_it_can_be<H: Harness>(
    suite: &Suite<H>,
) {
    let xid = suite.next_xid();
    let (branch, record) = suite.prepared(&xid).await;
    drop(branch);
    suite.harness().end_by_hand(&xid, Decision::Rollback).await;
    suite.assert_committed(&xid, false).await;
    let expected = if suite.harness().proves_absence() {
        Absence::Heuristic(Heuristic::Rollback)
    } else {
        Absence::Presumed
    };
    assert_absence(suite, &xid, &record, &expected).await;
}

/// What a branch answers that was committed.
fn finished<H: Harness>(suite: &Suite<H>) -> Absence {
    if suite.harness().proves_absence() {
        Absence::Finished
    } else {
        Absence::Presumed
    }
}

/// Asks until the answer is not "in doubt" any more: the session may still be on its way out.
async fn assert_absence<H: Harness>(
    suite: &Suite<H>,
    xid: &Xid,
    record: &BranchRecord,
    expected: &Absence,
) {
    eventually("absence is told", async || {
        let absence = suite.resource().absent(xid, record).await;
        let absence = absence.expect("a reachable server can be asked");
        if matches!(absence, Absence::InDoubt(_)) {
            return false;
        }
        assert_eq!(absence, *expected);
        true
    })
    .await;
}

/// The branch was prepared on a server of another identity: nothing is proven here (I3).
pub async fn absence_on_another_server_proves_nothing<H: Harness>(suite: &Suite<H>) {
    let xid = suite.next_xid();
    let (mut branch, mut record) = suite.prepared(&xid).await;
    branch.commit().await.expect("a prepared branch commits");
    Box::new(branch).release().await;
    let mut text = record.identity.as_str().to_string();
    text.truncate(ServerIdentity::BYTES_MAX - 1);
    record.identity = ServerIdentity::new(format!("~{text}")).expect("printable and short enough");
    let absence = suite.resource().absent(&xid, &record).await;
    let absence = absence.expect("a reachable server can be asked");
    assert!(matches!(absence, Absence::Hazard(_)), "{absence:?}");
}

/// Preflight, scan and branch agree on which server it is, each time.
pub async fn the_identity_is_stable<H: Harness>(suite: &Suite<H>) {
    let preflight = suite.resource().preflight().await;
    let preflight = preflight.expect("the server of the suite can be checked");
    assert!(preflight.is_fit(), "{preflight:?}");
    let identity = preflight.identity.clone().expect("a fit server is known");
    assert!(!identity.as_str().is_empty());
    assert_eq!(suite.resource().preflight().await.ok(), Some(preflight));
    assert_eq!(suite.scan().await.identity, identity);
    let mut branch = suite.open(&suite.next_xid()).await;
    assert_eq!(*branch.identity(), identity);
    branch
        .rollback()
        .await
        .expect("an active branch rolls back");
    Box::new(branch).release().await;
}

/// Nobody answers: that is said, proves nothing (I3), and no message or `Debug` text holds the
/// password (I8).
pub async fn an_unreachable_server_is_no_proof_and_no_secret_is_told<H: Harness>(suite: &Suite<H>) {
    let Some((resource, secret)) = suite.harness().unreachable() else {
        return;
    };
    assert!(!secret.is_empty(), "the address holds a secret to look for");
    let xid = suite.next_xid();
    let mut texts = Vec::new();

    let error = resource.recover().await.expect_err("nobody answers");
    assert_eq!(error.problem(), Problem::Unavailable, "{error}");
    texts.extend([error.to_string(), format!("{error:?}")]);
    let error = resource.preflight().await.expect_err("nobody answers");
    assert_eq!(error.problem(), Problem::Unavailable, "{error}");
    texts.extend([error.to_string(), format!("{error:?}")]);

    let record = BranchRecord {
        resource: resource.name().clone(),
        identity: suite.scan().await.identity,
        evidence: Evidence::default(),
    };
    let error = resource.absent(&xid, &record).await;
    let error = error.expect_err("nobody answers");
    texts.extend([error.to_string(), format!("{error:?}")]);

    let finished = resource.finish(&xid, Decision::Commit, None).await;
    let error = finished.expect_err("nobody answers");
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    texts.extend([error.to_string(), format!("{error:?}")]);

    let opened = resource.open(env_of(&resource, &xid)).await;
    let error = opened.err().expect("nobody answers");
    texts.extend([error.to_string(), format!("{error:?}")]);

    for text in texts {
        assert!(!text.contains(&secret), "a secret is told: {text}");
    }
}

fn env_of<R: Resource>(resource: &R, xid: &Xid) -> BranchEnv {
    let xid = Xid {
        gtrid: xid.gtrid,
        bqual: resource.name().clone(),
    };
    env(&xid, false)
}
