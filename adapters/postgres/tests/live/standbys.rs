//! Synchronous standbys that do not answer: what waits for them, what is told of a wait that was
//! cut short, and what is left behind.

use std::time::Duration;

use unanimous_core::ports::{Absence, Branch, BranchErrorKind, Resource, ResourceManager};
use unanimous_core::protocol::Decision;
use unanimous_postgres::PgBranch;
use xtask::servers::{Kind, Options, Server, standby_of};

use crate::support::{Db, backend_pid, eventually, expect_prepared, expect_undetermined};

/// Are commits to wait for standbys of that name? Returns when sessions know.
pub(crate) async fn wait_for_standbys(db: &Db, names: &str) {
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
    db.admin(&set).await;
    db.admin("SELECT pg_reload_conf()").await;
    // Another process of the server's tells all sessions, at its leisure.
    let probe = "SET application_name = 'probe'; SET synchronous_commit = on; \
        SELECT pg_logical_emit_message(true, '', '')";
    let waits = "FROM pg_stat_activity \
        WHERE application_name = 'probe' AND wait_event = 'SyncRep'";
    let (is_waiting, cancel) = (
        format!("SELECT 1 {waits}"),
        format!("SELECT pg_cancel_backend(pid) {waits}"),
    );
    eventually("the server knows", async || {
        let seen_waiting = async {
            while db.admin(&is_waiting).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let does_wait = tokio::select! {
            _ = db.admin(probe) => false,
            () = seen_waiting => true,
        };
        db.admin(&cancel).await;
        does_wait != names.is_empty()
    })
    .await;
}

/// Somebody cancels whatever waits for a standby, until `request` is answered.
pub(crate) async fn cancelled<T>(db: &Db, request: impl Future<Output = T>) -> T {
    let cancelling = async {
        loop {
            db.sql(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
            )
            .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        answer = request => answer,
        () = cancelling => unreachable!("it never ends"),
    }
}

/// So many sessions of the application's wait for a standby.
async fn waiting(db: &Db, count: usize) {
    let waiting = "SELECT pid FROM pg_stat_activity \
        WHERE wait_event = 'SyncRep' AND usename = 'app'";
    eventually("so many wait for a standby", async || {
        db.sql(waiting).await.len() == count
    })
    .await;
}

/// A server where commits of the account's wait for nobody, and it is told of no warning.
fn lazy_and_quiet(kind: Kind) -> Server {
    let lazily = ["-c", "synchronous_commit=off"];
    let quietly = ["-c", "client_min_messages=error"];
    let options = Options::new().args(lazily).args(quietly);
    Server::start(kind, &options).unwrap()
}

/// Although commits of the branch's own would not wait for standbys. The server answers success to
/// a prepare whose wait somebody has cancelled; a fail-over to the standby would lose the branch.
async fn i1_a_prepare_that_no_standby_has_confirmed_is_no_vote_to_commit(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let mut branch = db.open_with_row(1).await;
    let quietly = "SET LOCAL synchronous_commit = off; SET client_min_messages = error";
    branch.batch_execute(quietly).await.unwrap();
    wait_for_standbys(&db, "nobody").await;
    let error = expect_undetermined(cancelled(&db, branch.prepare()).await);
    assert!(error.to_string().contains("synchronous standby"), "{error}");
    assert!(db.is_prepared(1).await, "and is for recovery to roll back");
    let xid = db.xid(1);
    let finish = db.resource.finish(&xid, Decision::Rollback, None);
    finish.await.unwrap();
}

/// A standby that takes over without the end of the branch has it prepared still, and finds no
/// decision if that was forgotten.
async fn i1_a_commit_that_no_standby_has_confirmed_keeps_its_decision(kind: Kind) {
    let server = lazy_and_quiet(kind);
    let db = Db::on(&server).await;
    let (mut branch, own) = db.prepared(1).await;
    let (other, by_xid) = db.prepared(2).await;
    wait_for_standbys(&db, "nobody").await;
    let error = cancelled(&db, branch.commit()).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
    drop(other);
    let xid = db.xid(2);
    let finish = db.resource.finish(&xid, Decision::Commit, None);
    let error = cancelled(&db, finish).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
    for (sequence, record) in [(1, &own), (2, &by_xid)] {
        assert!(db.has_row(sequence).await && !db.is_prepared(sequence).await);
        let xid = db.xid(sequence);
        let proof = db.resource.absent(&xid, record);
        let absence = cancelled(&db, proof).await.unwrap();
        assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
    }
    wait_for_standbys(&db, "").await;
    for (sequence, record) in [(1, &own), (2, &by_xid)] {
        let proof = db.resource.absent(&db.xid(sequence), record).await;
        assert_eq!(proof.unwrap(), Absence::Finished);
    }
}

/// A branch that is prepared as another role.
async fn prepared_as(db: &Db, role: &str, sequence: u64) -> PgBranch {
    let mut branch = db.open(sequence).await;
    let set = format!("SET LOCAL ROLE {role}");
    branch.batch_execute(&set).await.unwrap();
    db.insert(&branch, sequence).await;
    expect_prepared(branch.prepare().await);
    branch
}

/// The first request is refused, and the wipe behind it undoes what prepare had set; the second
/// one, with the owner's role or as somebody who needs none, waits for the standbys like the first.
async fn i1_a_commit_that_was_refused_first_waits_for_the_standbys_too(kind: Kind) {
    let server = lazy_and_quiet(kind);
    let db = Db::on(&server).await;
    let role = "its_owner";
    db.admin(&format!(
        "CREATE ROLE {role}; GRANT {role} TO app; GRANT ALL ON {} TO {role}",
        db.table
    ))
    .await;
    let mut taken = prepared_as(&db, role, 1).await;
    let mut revoked = prepared_as(&db, role, 2).await;
    wait_for_standbys(&db, "nobody").await;
    let error = cancelled(&db, taken.commit()).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
    let change = format!("SET synchronous_commit = local; REVOKE {role} FROM app");
    db.admin(&change).await;
    let error = revoked.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
    db.admin("SET synchronous_commit = local; ALTER ROLE app SUPERUSER")
        .await;
    let error = cancelled(&db, revoked.commit()).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
}

/// On one that takes over without it the branch is prepared, and has no decision there either.
async fn i6_a_rollback_waits_for_no_standby(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let resource = db.build(|builder| builder.pool_size(1).recovery_sessions(1));
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    db.insert(&branch, 1).await;
    expect_prepared(branch.prepare().await);
    let (_other, _) = db.prepared(2).await;
    let (_third, evidence) = db.prepared(3).await;
    wait_for_standbys(&db, "nobody").await;
    let rolled_back = async {
        branch.rollback().await.unwrap();
        let xid = db.xid(2);
        let finish = resource.finish(&xid, Decision::Rollback, None);
        finish.await.unwrap();
    };
    let waits = tokio::time::timeout(Duration::from_secs(60), rolled_back).await;
    waits.expect("they wait for a standby");
    waiting(&db, 0).await;

    // What its session does next waits again.
    let xid = db.xid(3);
    let commit = resource.finish(&xid, Decision::Commit, None);
    let error = cancelled(&db, commit).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
    let proof = resource.absent(&xid, &evidence);
    let absence = cancelled(&db, proof).await.unwrap();
    assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
    Box::new(branch).release().await;
    let mut next = resource.open(db.env(4)).await.unwrap();
    assert_eq!(backend_pid(&next).await, pid, "the session is used again");
    db.insert(&next, 4).await;
    expect_undetermined(cancelled(&db, next.prepare()).await);
}

/// That the standby had all at one time says nothing of what was committed since.
async fn i1_a_wait_that_has_ended_well_serves_no_later_commit(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let standby = standby_of(&server).unwrap();
    db.admin("ALTER SYSTEM SET synchronous_standby_names = '*'")
        .await;
    db.admin("SELECT pg_reload_conf()").await;
    eventually("its commits are awaited", async || {
        let state = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
        let shown = db.sql("SHOW synchronous_standby_names").await;
        shown == [["*"]] && !db.admin(state).await.is_empty()
    })
    .await;
    let resource = db.build(|builder| builder);
    let (mut first, record) = db.prepared(1).await;
    let (mut second, later) = db.prepared(2).await;
    first.commit().await.unwrap();
    let proof = resource.absent(&db.xid(1), &record).await;
    assert_eq!(proof.unwrap(), Absence::Finished);

    drop(standby);
    cancelled(&db, second.commit()).await.unwrap_err();
    let xid = db.xid(2);
    let absence = cancelled(&db, resource.absent(&xid, &later)).await.unwrap();
    assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
}

/// Recovery asks for many, a few at a time: those behind whoever has waited in vain do not wait as
/// long again, so that what else it has to end is not kept.
async fn i6_a_standby_that_is_away_is_not_awaited_for_each_branch(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let (mut branch, record) = db.prepared(1).await;
    wait_for_standbys(&db, "nobody").await;
    cancelled(&db, branch.commit()).await.unwrap_err();
    let xid = db.xid(1);
    let mut answer = None;
    for _ in 0..10 {
        let asked = db.resource.absent(&xid, &record);
        answer = tokio::time::timeout(Duration::from_secs(2), asked)
            .await
            .ok();
        if answer.is_some() {
            break;
        }
    }
    let absence = answer.expect("each waits anew").unwrap();
    assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
}

/// Whoever gives up while the standby is away takes no connection of the server's with him.
async fn i8_what_is_given_up_leaves_no_session_that_waits_for_a_standby(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let (mut prepared, _) = db.prepared(1).await;
    let (_other, by_xid) = db.prepared(2).await;
    let mut single = db.open_with_row(3).await;
    wait_for_standbys(&db, "nobody").await;
    tokio::select! {
        reply = single.commit_one_phase() => panic!("{reply:?}"),
        () = waiting(&db, 1) => {}
    }
    drop(single);
    waiting(&db, 0).await;
    tokio::select! {
        reply = prepared.commit() => panic!("{reply:?}"),
        () = waiting(&db, 1) => {}
    }
    drop(prepared);
    waiting(&db, 0).await;
    let xid = db.xid(2);
    tokio::select! {
        reply = db.resource.finish(&xid, Decision::Commit, None) => panic!("{reply:?}"),
        () = waiting(&db, 1) => {}
    }
    waiting(&db, 0).await;
    let absence = cancelled(&db, db.resource.absent(&xid, &by_xid)).await;
    let absence = absence.unwrap();
    assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
}

mod own {
    use super::*;
    on_own!(
        i1_a_prepare_that_no_standby_has_confirmed_is_no_vote_to_commit,
        i1_a_commit_that_no_standby_has_confirmed_keeps_its_decision,
        i1_a_commit_that_was_refused_first_waits_for_the_standbys_too,
        i6_a_rollback_waits_for_no_standby,
        i1_a_wait_that_has_ended_well_serves_no_later_commit,
        i6_a_standby_that_is_away_is_not_awaited_for_each_branch,
        i8_what_is_given_up_leaves_no_session_that_waits_for_a_standby,
    );
}
