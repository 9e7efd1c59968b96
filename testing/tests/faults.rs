//! That the parts in memory fail as they say: what is lost is lost, what arrives late arrives.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, as it should"
)]

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{
    Absence, Branch, BranchEnv, BranchErrorKind, BranchRecord, Cause, DecideError, DecisionLog,
    DecisionRecord, LogHome, Lookup, OnePhaseReply, PrepareReply, Resource, ResourceManager,
};
use unanimous_core::protocol::{Decision, Heuristic};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, Xid};
use unanimous_testing::{
    DecideFault, Event, Fault, Flavour, Hang, Journal, MemoryBranch, MemoryLog, MemoryResource,
    MemoryServer, Step,
};

fn resource(flavour: Flavour) -> MemoryResource {
    MemoryServer::with("server", flavour, Journal::new()).resource("rows")
}

fn xid(sequence: u64) -> Xid {
    let opening = Opening {
        manager: ManagerId::from_bytes([1; 10]),
        epoch: Epoch(1),
        nonce: 1,
    };
    Xid {
        gtrid: opening.gtrid(sequence),
        bqual: "rows".parse().unwrap(),
    }
}

async fn open(resource: &MemoryResource, sequence: u64) -> MemoryBranch {
    let env = BranchEnv {
        xid: xid(sequence),
        read_only: false,
        lock_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
    };
    let mut branch = resource.open(env).await.unwrap();
    branch.put("k", "v").unwrap();
    branch
}

async fn prepared(resource: &MemoryResource, sequence: u64) -> (MemoryBranch, BranchRecord) {
    let mut branch = open(resource, sequence).await;
    let PrepareReply::Prepared(evidence) = branch.prepare().await else {
        panic!("it prepares");
    };
    let record = BranchRecord {
        resource: resource.name().clone(),
        identity: branch.identity().clone(),
        evidence,
    };
    (branch, record)
}

#[tokio::test]
async fn a_crash_ends_active_branches_and_keeps_prepared_ones() {
    let resource = resource(Flavour::Postgres);
    let (mut kept, _) = prepared(&resource, 1).await;
    let mut lost = resource
        .open(BranchEnv {
            xid: xid(2),
            read_only: false,
            lock_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
        })
        .await
        .unwrap();
    lost.put("other", "v").unwrap();
    resource.server().crash();
    assert_eq!(resource.server().open_sessions(), 0);
    assert_eq!(resource.server().prepared(), [xid(1)]);
    let reply = lost.prepare().await;
    assert!(matches!(reply, PrepareReply::Undetermined(_)), "{reply:?}");
    let error = kept.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined);
    resource
        .finish(&xid(1), Decision::Commit, None)
        .await
        .unwrap();
    assert_eq!(resource.server().row("k").as_deref(), Some("v"));
    assert_eq!(resource.server().row("other"), None);
}

#[tokio::test]
async fn a_lost_request_has_no_effect_and_a_lost_reply_has() {
    let resource = resource(Flavour::Postgres);
    for (fault, is_prepared) in [(Fault::LoseRequest, false), (Fault::LoseReply, true)] {
        let mut branch = open(&resource, 1).await;
        resource.server().fail_next(Step::Prepare, fault);
        let reply = branch.prepare().await;
        assert!(matches!(reply, PrepareReply::Undetermined(_)), "{reply:?}");
        assert_eq!(!resource.server().prepared().is_empty(), is_prepared);
        assert_eq!(resource.server().open_sessions(), 0, "it broke");
    }
    resource.server().fail_next(Step::Finish, Fault::LoseReply);
    let error = resource
        .finish(&xid(1), Decision::Commit, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined);
    assert_eq!(resource.server().row("k").as_deref(), Some("v"));
}

#[tokio::test]
async fn a_branch_whose_opener_lost_the_reply_is_no_leak() {
    let resource = resource(Flavour::Postgres);
    resource.server().fail_next(Step::Open, Fault::LoseReply);
    let env = BranchEnv {
        xid: xid(1),
        read_only: false,
        lock_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
    };
    assert!(resource.open(env).await.is_err());
    assert_eq!(resource.server().open_sessions(), 0);
}

#[tokio::test]
async fn a_refusal_is_a_vote_before_the_decision_and_a_heuristic_after_it() {
    let resource = resource(Flavour::Postgres);
    let mut branch = open(&resource, 1).await;
    resource.server().fail_next(Step::Prepare, Fault::CONFLICT);
    let reply = branch.prepare().await;
    assert!(matches!(reply, PrepareReply::RolledBack(_)), "{reply:?}");
    assert_eq!(resource.server().prepared(), []);
    drop(branch);

    let (mut branch, record) = prepared(&resource, 2).await;
    resource.server().fail_next(Step::Commit, Fault::CONFLICT);
    let error = branch.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::RolledBack(Cause::Conflict));
    let absence = resource.absent(&xid(2), &record).await.unwrap();
    assert_eq!(absence, Absence::Heuristic(Heuristic::Rollback));

    let (mut branch, _) = prepared(&resource, 3).await;
    let lie = Fault::Refuse(BranchErrorKind::UnknownXid);
    resource.server().fail_next(Step::Commit, lie);
    let error = branch.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::UnknownXid);
    assert_eq!(resource.server().prepared(), [xid(3)], "it was a lie");
}

/// Gives the running prepare up, lets it arrive, and looks.
async fn give_up_and_release(resource: &MemoryResource, mut branch: MemoryBranch, hang: Hang) {
    let given_up = tokio::time::timeout(Duration::from_millis(5), branch.prepare()).await;
    assert!(
        !matches!(given_up, Ok(PrepareReply::Prepared(_))),
        "nobody answered"
    );
    assert!(hang.is_reached());
    drop(branch);
    assert_eq!(resource.server().prepared(), [], "it is still on its way");
    assert_eq!(resource.server().open_sessions(), 1, "the server holds it");
    hang.release();
    assert_eq!(resource.server().prepared(), [xid(1)], "it surfaces late");
    assert_eq!(resource.server().open_sessions(), 0);
}

#[tokio::test]
async fn a_prepare_that_was_given_up_takes_effect_late() {
    let first = resource(Flavour::Postgres);
    let branch = open(&first, 1).await;
    let hang = first.server().hang_next(Step::Prepare);
    give_up_and_release(&first, branch, hang).await;

    let second = resource(Flavour::Postgres);
    let branch = open(&second, 1).await;
    let late = second.server().delay_next(Step::Prepare);
    give_up_and_release(&second, branch, late).await;
}

#[tokio::test]
async fn a_hanging_request_is_answered_at_its_release_or_lost_in_a_crash() {
    let resource = resource(Flavour::Postgres);
    let (mut branch, _) = prepared(&resource, 1).await;
    let hang = resource.server().hang_next(Step::Commit);
    let committing = tokio::spawn(async move { branch.commit().await });
    hang.reached().await;
    assert_eq!(resource.server().row("k"), None);
    hang.release();
    committing.await.unwrap().unwrap();
    assert_eq!(resource.server().row("k").as_deref(), Some("v"));

    let (mut branch, _) = prepared(&resource, 2).await;
    let hang = resource.server().hang_next(Step::Commit);
    let committing = tokio::spawn(async move { branch.commit().await });
    hang.reached().await;
    resource.server().crash();
    let error = committing.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined);
    hang.release();
    assert_eq!(resource.server().prepared(), [xid(2)], "the crash lost it");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_does_nothing() {
    let resource = resource(Flavour::Postgres);
    let (mut branch, record) = prepared(&resource, 1).await;
    resource.server().set_reachable(false);
    let error = branch.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined);
    assert!(resource.recover().await.is_err());
    assert!(resource.absent(&xid(1), &record).await.is_err());
    let error = resource
        .finish(&xid(1), Decision::Commit, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable);
    resource.server().set_reachable(true);
    assert_eq!(resource.server().prepared(), [xid(1)]);
    resource.server().set_writable(false);
    assert!(resource.recover().await.is_err(), "a standby lists nothing");
}

#[tokio::test]
async fn a_failover_loses_what_was_prepared_and_absence_is_a_hazard() {
    let resource = resource(Flavour::Postgres);
    let (branch, record) = prepared(&resource, 1).await;
    resource.server().fail_over("another");
    drop(branch);
    assert_eq!(resource.server().prepared(), []);
    let absence = resource.absent(&xid(1), &record).await.unwrap();
    assert!(matches!(absence, Absence::Hazard(_)), "{absence:?}");
}

#[tokio::test]
async fn in_one_flavour_an_open_connection_hides_its_branch() {
    let resource = resource(Flavour::Mariadb);
    let (branch, _) = prepared(&resource, 1).await;
    let error = resource
        .finish(&xid(1), Decision::Commit, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::UnknownXid);
    assert_eq!(resource.server().prepared(), [xid(1)]);
    drop(branch);
    resource
        .finish(&xid(1), Decision::Commit, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_crash_loses_a_rollback_that_nothing_has_flushed_in_one_flavour() {
    for (flavour, is_flushed_by_another, comes_back) in [
        (Flavour::Mariadb, false, true),
        (Flavour::Mariadb, true, false),
        (Flavour::Mysql, false, false),
        (Flavour::Postgres, false, false),
    ] {
        let resource = resource(flavour);
        let (branch, _) = prepared(&resource, 1).await;
        drop(branch);
        let rolled_back = resource.finish(&xid(1), Decision::Rollback, None).await;
        rolled_back.unwrap();
        if is_flushed_by_another {
            prepared(&resource, 2).await.0.commit().await.unwrap();
        }
        resource.server().crash_losing_rollbacks();
        let expected: Vec<Xid> = comes_back.then(|| xid(1)).into_iter().collect();
        assert_eq!(resource.server().prepared(), expected, "{flavour:?}");
    }
}

#[tokio::test]
async fn a_failed_statement_leaves_nothing_but_a_rollback() {
    let resource = resource(Flavour::Postgres);
    let mut branch = open(&resource, 1).await;
    branch.fail_statement(Cause::Refused).unwrap();
    assert!(branch.put("k", "w").is_err());
    let reply = branch.commit_one_phase().await;
    assert!(matches!(reply, OnePhaseReply::RolledBack(_)), "{reply:?}");
    assert_eq!(resource.server().row("k"), None);
}

#[tokio::test]
async fn releasing_a_branch_that_has_not_ended_is_a_misuse_and_closes_it() {
    let resource = resource(Flavour::Postgres);
    let branch = open(&resource, 1).await;
    Box::new(branch).release().await;
    assert_eq!(resource.server().misuses().len(), 1);
    assert_eq!(resource.server().idle_sessions(), 0);
    assert_eq!(resource.server().open_sessions(), 0);
}

#[tokio::test]
async fn the_journal_has_what_happened_in_its_order() {
    let resource = resource(Flavour::Postgres);
    let (mut branch, _) = prepared(&resource, 1).await;
    branch.commit().await.unwrap();
    Box::new(branch).release().await;
    let asked = |step| Event::Asked {
        resource: "rows".parse().unwrap(),
        step,
        xid: Some(xid(1)),
    };
    let expected = [
        asked(Step::Open),
        asked(Step::Prepare),
        Event::Prepared(xid(1)),
        asked(Step::Commit),
        Event::Ended(xid(1), Decision::Commit),
        Event::Released(xid(1)),
    ];
    assert_eq!(resource.server().journal().take(), expected);
}

async fn opened(log: &MemoryLog) -> Arc<dyn DecisionLog> {
    Box::new(log.clone()).open().await.unwrap()
}

fn decision(gtrid: Gtrid) -> DecisionRecord {
    DecisionRecord {
        gtrid,
        branches: Vec::new(),
    }
}

#[tokio::test]
async fn an_uncertain_decision_is_recorded_or_not_and_repeating_it_tells() {
    for (fault, is_recorded) in [
        (DecideFault::LoseWrite, false),
        (DecideFault::LoseReply, true),
    ] {
        let home = MemoryLog::new();
        let log = opened(&home).await;
        let record = decision(log.opening().gtrid(1));
        home.fail_next_decide(fault);
        let answer = log.decide(&record).await;
        assert!(
            matches!(answer, Err(DecideError::Uncertain(_))),
            "{answer:?}"
        );
        assert_eq!(home.is_decided(record.gtrid), is_recorded);
        assert!(log.decide(&record).await.is_ok());
        assert_eq!(home.decision_count(), 1);
    }
}

#[tokio::test]
async fn a_refused_decision_is_not_recorded() {
    let home = MemoryLog::new();
    let log = opened(&home).await;
    let record = decision(log.opening().gtrid(1));
    home.fail_next_decide(DecideFault::Refuse);
    let answer = log.decide(&record).await;
    assert!(matches!(answer, Err(DecideError::Refused(_))), "{answer:?}");
    assert!(!home.is_decided(record.gtrid));
}

#[tokio::test]
async fn closing_waits_for_a_decision_on_its_way() {
    let home = MemoryLog::shared();
    let log = opened(&home).await;
    let record = decision(log.opening().gtrid(1));
    let late = home.delay_next_decide();
    assert!(log.decide(&record).await.is_err());
    let epoch = log.opening().epoch;
    let closing = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.close(epoch).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(log.lookup(record.gtrid).await.unwrap(), Lookup::Open);
    late.release();
    closing.await.unwrap().unwrap();
    assert!(home.is_decided(record.gtrid), "it landed before the close");
    let next = decision(log.opening().gtrid(2));
    assert!(log.decide(&next).await.is_err());
}

#[tokio::test]
async fn reopening_the_log_loses_a_decision_on_its_way_and_refuses_its_owner() {
    let home = MemoryLog::new();
    let log = opened(&home).await;
    let record = decision(log.opening().gtrid(1));
    let hang = home.hang_next_decide();
    let deciding = tokio::spawn({
        let (log, record) = (Arc::clone(&log), record.clone());
        async move { log.decide(&record).await }
    });
    hang.reached().await;
    let next = opened(&home).await;
    let answer = deciding.await.unwrap();
    assert!(
        matches!(answer, Err(DecideError::Uncertain(_))),
        "{answer:?}"
    );
    hang.release();
    assert_eq!(next.lookup(record.gtrid).await.unwrap(), Lookup::NoRecord);
    let answer = log.decide(&record).await;
    assert!(matches!(answer, Err(DecideError::Refused(_))), "{answer:?}");
}

#[tokio::test]
async fn a_crash_loses_a_lazy_completion_that_nothing_forced() {
    let home = MemoryLog::new();
    let log = opened(&home).await;
    let record = decision(log.opening().gtrid(1));
    log.decide(&record).await.unwrap();
    log.complete(record.gtrid);
    assert!(home.is_completed(record.gtrid));
    let log = opened(&home).await;
    assert_eq!(log.pending().await.unwrap(), std::slice::from_ref(&record));
    log.complete(record.gtrid);
    log.shutdown().await.unwrap();
    let log = opened(&home).await;
    assert_eq!(log.pending().await.unwrap(), []);
}

#[tokio::test]
async fn a_log_that_reopens_itself_has_a_new_opening_and_keeps_its_records() {
    let home = MemoryLog::new();
    let log = opened(&home).await;
    let old = log.opening();
    let record = decision(old.gtrid(1));
    log.decide(&record).await.unwrap();
    home.reopen_itself();
    assert!(log.opening().epoch > old.epoch);
    assert!(log.decide(&record).await.is_ok(), "it was recorded");
    assert!(log.decide(&decision(old.gtrid(2))).await.is_err());
    assert!(log.decide(&decision(log.opening().gtrid(1))).await.is_ok());
}
