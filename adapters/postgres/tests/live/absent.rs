//! A branch that is not listed: what is proof of its end, and what is not (I1, I3).

use unanimous_core::ports::{
    Absence, Branch, BranchRecord, Evidence, OnePhaseReply, Resource, ResourceManager,
    ServerIdentity,
};
use unanimous_core::protocol::Heuristic;
use unanimous_postgres::Postgres;

use crate::support::{Db, backend_pid, eventually, evidence_of_an_active, expect_prepared};

async fn fate(db: &Db, sequence: u64, record: &BranchRecord) -> Absence {
    db.resource.absent(&db.xid(sequence), record).await.unwrap()
}

async fn a_committed_branch_is_finished(db: &Db) {
    let (mut branch, record) = db.prepared(1).await;
    branch.commit().await.unwrap();
    assert_eq!(fate(db, 1, &record).await, Absence::Finished);
}

async fn i1_a_branch_rolled_back_by_hand_is_a_heuristic(db: &Db) {
    let (branch, record) = db.prepared(1).await;
    db.clean_prepared(1).await;
    assert_eq!(
        fate(db, 1, &record).await,
        Absence::Heuristic(Heuristic::Rollback)
    );
    drop(branch);
}

async fn a_branch_that_is_listed_after_all_is_in_doubt(db: &Db) {
    let (mut branch, record) = db.prepared(1).await;
    assert!(matches!(fate(db, 1, &record).await, Absence::InDoubt(_)));
    branch.rollback().await.unwrap();
}

async fn another_identity_is_a_hazard(db: &Db) {
    let (mut branch, mut record) = db.prepared(1).await;
    branch.commit().await.unwrap();
    record.identity = ServerIdentity::new("pg:1:00000001:5").unwrap();
    let Absence::Hazard(why) = fate(db, 1, &record).await else {
        panic!("no hazard");
    };
    assert!(why.contains(branch.identity().as_str()), "{why}");
}

async fn evidence_that_is_not_ours_or_of_the_future_is_a_hazard(db: &Db) {
    let (mut branch, mut record) = db.prepared(1).await;
    branch.commit().await.unwrap();
    for text in [
        "",
        "connection=5",
        "xid8=9000000000000 pid=1 since=1 server=1",
    ] {
        record.evidence = Evidence::new(text).unwrap();
        assert!(
            matches!(fate(db, 1, &record).await, Absence::Hazard(_)),
            "{text}"
        );
    }
}

async fn a_session_that_may_still_hold_the_branch_is_ended_first(db: &Db) {
    let branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let record = evidence_of_an_active(&branch).await;
    assert_eq!(
        fate(db, 1, &record).await,
        Absence::Heuristic(Heuristic::Rollback)
    );
    db.wait_gone(pid).await;
    eventually("the branch notices", async || branch.is_closed()).await;
    db.assert_nothing_of(1).await;
}

/// Without the right to end the session, nothing is proven.
async fn a_session_that_cannot_be_ended_leaves_the_branch_in_doubt(db: &Db) {
    let admin = Postgres::builder("orders", &db.admin_url).build().unwrap();
    let branch = admin.open(db.env(1)).await.unwrap();
    let record = evidence_of_an_active(&branch).await;
    let Absence::InDoubt(why) = fate(db, 1, &record).await else {
        panic!("not in doubt");
    };
    assert!(why.contains("process"), "{why}");
    assert!(!branch.is_closed(), "the session of another role lives");
}

/// The session that prepared may be serving another branch by now; an end that is proven by the
/// commit log does not need its death.
async fn i5_the_session_that_prepared_is_not_ended_when_the_end_is_proven(db: &Db) {
    let (mut branch, record) = db.prepared(1).await;
    let pid = backend_pid(&branch).await;
    branch.commit().await.unwrap();
    Box::new(branch).release().await;
    let (mut next, mut others) = (1, Vec::new());
    let mut innocent = loop {
        next += 1;
        let candidate = db.open_with_row(next).await;
        if backend_pid(&candidate).await == pid {
            break candidate;
        }
        others.push(candidate);
    };
    assert_eq!(fate(db, 1, &record).await, Absence::Finished);
    expect_prepared(innocent.prepare().await);
    innocent.commit().await.unwrap();
    assert!(db.has_row(next).await);
}

/// The number of a transaction that ended without being prepared is told, too.
async fn a_branch_that_was_never_prepared_is_told_by_its_number(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let record = evidence_of_an_active(&branch).await;
    assert!(matches!(
        branch.commit_one_phase().await,
        OnePhaseReply::Committed
    ));
    assert_eq!(fate(db, 1, &record).await, Absence::Finished);
}

on_both!(
    a_committed_branch_is_finished,
    i1_a_branch_rolled_back_by_hand_is_a_heuristic,
    a_branch_that_is_listed_after_all_is_in_doubt,
    another_identity_is_a_hazard,
    evidence_that_is_not_ours_or_of_the_future_is_a_hazard,
    a_session_that_may_still_hold_the_branch_is_ended_first,
    a_session_that_cannot_be_ended_leaves_the_branch_in_doubt,
    i5_the_session_that_prepared_is_not_ended_when_the_end_is_proven,
    a_branch_that_was_never_prepared_is_told_by_its_number,
);
