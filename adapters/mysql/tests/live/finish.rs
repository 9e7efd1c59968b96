//! Ending a branch from another connection, and what "unknown XID" does not prove.

use std::sync::atomic::Ordering;

use unanimous_core::ports::{
    Branch, BranchError, BranchErrorKind, Cause, Evidence, PrepareReply, Resource, ResourceManager,
};
use unanimous_core::protocol::Decision;
use unanimous_mysql::Mysql;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::Kind;

use crate::meddling::{Meddling, proxy};
use crate::support::{
    Db, code, eventually, expect_prepared, expect_rolled_back, record, source_code, start,
};

/// MariaDB answers 1397 as long as the preparing connection is open, as it does for a branch that
/// has ended; MySQL finishes it.
async fn i3_unknown_while_its_connection_is_open_is_not_taken_for_finished(db: &Db) {
    let (mut branch, _) = db.prepared(1).await;
    let finished = db.resource.finish(&db.xid(1), Decision::Commit, None).await;
    if db.is_mariadb() {
        let error = finished.unwrap_err();
        assert_eq!(error.kind(), BranchErrorKind::UnknownXid, "{error}");
        assert_eq!(source_code(&error), Some(1397));
        assert!(db.is_listed(1).await && !db.has(1).await);
        branch.commit().await.unwrap();
    } else {
        finished.unwrap();
        let error = branch.commit().await.unwrap_err();
        assert_eq!(error.kind(), BranchErrorKind::UnknownXid, "{error}");
    }
    assert!(db.has(1).await && !db.is_listed(1).await);
}

/// Another account's connections are visible to those with PROCESS only: one that is not seen may
/// be there, and on MariaDB hold the branch.
async fn i1_a_connection_that_cannot_be_seen_is_not_gone(db: &Db) {
    let (branch, mut record) = db.prepared(1).await;
    drop(branch);
    let (numbers, _) = record.evidence.as_str().split_once(" account=").unwrap();
    record.evidence = Evidence::new(format!("{numbers} account=somebody@else")).unwrap();
    let xid = db.xid(1);
    if db.is_mariadb() {
        for listed in [false, true] {
            if listed {
                db.resource.recover().await.unwrap();
            }
            let finished = db.resource.finish(&xid, Decision::Commit, Some(&record));
            let error = finished.await.unwrap_err();
            assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("GRANT PROCESS"), "{error}");
        }
    }
    let admin = Mysql::builder("ledger", &db.admin_url).build().unwrap();
    let finished = admin.finish(&xid, Decision::Commit, Some(&record)).await;
    finished.unwrap();
    assert!(db.has(1).await);
}

/// The branch was listed with its connection there, then committed by its own member, whose next
/// transaction has the connection when recovery comes to it.
async fn i5_the_connection_of_a_branch_that_has_ended_is_not_ended(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1));
    let mut branch = resource.open(db.env(1)).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap();
    let evidence = expect_prepared(branch.prepare().await);
    let record = record(&branch, evidence);
    assert!(db.is_listed(1).await);
    branch.commit().await.unwrap();
    Box::new(branch).release().await;
    let mut next = resource.open(db.env(2)).await.unwrap();
    db.insert(&mut next, 2).await.unwrap();

    let xid = db.xid(1);
    let finished = db.resource.finish(&xid, Decision::Commit, Some(&record));
    let error = finished.await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::UnknownXid, "{error}");
    expect_prepared(next.prepare().await);
    next.commit().await.unwrap();
    assert!(db.has(1).await && db.has(2).await);
}

/// An active branch is unknown, too, and is prepared afterwards: no end was proven.
async fn i3_unknown_before_a_late_prepare_proves_nothing(db: &Db) {
    let mut branch = db.active(1).await;
    let error = db
        .resource
        .finish(&db.xid(1), Decision::Rollback, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::UnknownXid, "{error}");
    expect_prepared(branch.prepare().await);
    drop(branch);
    assert!(db.is_listed(1).await);
    db.finish(&db.xid(1), Decision::Rollback).await;
    assert!(!db.has(1).await);
}

/// A session of recovery that went stale is replaced and the request repeated. That the repeated
/// one hears "unknown" is no proof that the first one has ended the branch.
async fn i3_unknown_at_the_second_try_after_a_stale_session_proves_nothing(db: &Db) {
    let mut admin = db.admin().await;
    let database = format!("d_{}", &db.table[2..]);
    let create = format!("CREATE DATABASE {database}");
    admin.query_drop(create).await.unwrap();
    // By their database the sessions of this one are told from everybody else's.
    let port = admin.opts().tcp_port();
    let url = format!("{}@127.0.0.1:{port}/{database}", db.admin_login());
    let resource = unanimous_mysql::Mysql::builder("ledger", url)
        .recovery_sessions(1)
        .build()
        .unwrap();
    resource.preflight().await.unwrap();
    let mut branch = db.active(1).await;
    for decision in [Decision::Commit, Decision::Rollback] {
        resource.recover().await.unwrap();
        let of_ours =
            format!("SELECT id FROM information_schema.processlist WHERE db = '{database}'");
        let pooled: Vec<u64> = admin.query(&of_ours).await.unwrap();
        assert_eq!(pooled.len(), 1, "the session that waits in the pool");
        let kill = format!("KILL {}", pooled[0]);
        admin.query_drop(kill).await.unwrap();
        eventually("it is gone", async || {
            !db.connections().await.contains(&pooled[0])
        })
        .await;
        let error = resource
            .finish(&db.xid(1), decision, None)
            .await
            .unwrap_err();
        // The first try may have ended it; MariaDB's lost session was met before anything was sent.
        let (unknown, unsure) = (BranchErrorKind::UnknownXid, BranchErrorKind::Undetermined);
        assert!([unknown, unsure].contains(&error.kind()), "{error}");
    }
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    let drop = format!("DROP DATABASE {database}");
    admin.query_drop(drop).await.unwrap();
}

const ENDS: [(u64, Decision, &str); 2] = [
    (1, Decision::Rollback, "XA ROLLBACK"),
    (2, Decision::Commit, "XA COMMIT"),
];

/// What is told of a branch that the first request has ended, on a pooled session that then breaks
/// in the place of the answer. In between the server gets these words.
async fn told_after_a_lost_answer(
    db: &Db,
    (sequence, decision, request): (u64, Decision, &'static str),
    meanwhile: &str,
) -> BranchError {
    let (url, meddler) = proxy(&db.url, Meddling::LosesAnswer(request)).await;
    let resource = Mysql::builder("ledger", url).build().unwrap();
    // Leaves a session in the pool, and has not seen the branch.
    resource.recover().await.unwrap();
    let (branch, record) = db.prepared(sequence).await;
    drop(branch);
    let xid = db.xid(sequence);
    let finishing = async move { resource.finish(&xid, decision, Some(&record)).await };
    let finishing = tokio::spawn(finishing);
    eventually("it is carried out", async || {
        meddler.kept.load(Ordering::SeqCst) == 1
    })
    .await;
    db.admin().await.query_drop(meanwhile).await.unwrap();
    drop(meddler);
    finishing.await.unwrap().unwrap_err()
}

/// That the repeated request hears "unknown" denies nothing that the first may have done.
async fn i3_an_end_whose_answer_was_lost_is_not_denied_by_the_next_answer(db: &Db) {
    for end @ (sequence, decision, _) in ENDS {
        let error = told_after_a_lost_answer(db, end, "DO 0").await;
        assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
        assert!(error.to_string().contains("earlier attempt"), "{error}");
        assert!(!db.is_listed(sequence).await);
        assert_eq!(db.has(sequence).await, decision == Decision::Commit);
    }
}

/// Before it repeats the request it looks at the branch's connection again, and the server lets
/// nobody look any more.
#[tokio::test(flavor = "multi_thread")]
async fn i1_an_end_whose_answer_was_lost_is_not_denied_when_nobody_can_look_again() {
    let server = start(Kind::Mariadb, &[]);
    let db = Db::on(&server).await;
    for end @ (sequence, decision, _) in ENDS {
        let error = told_after_a_lost_answer(&db, end, "SET GLOBAL read_only = ON").await;
        assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
        assert!(error.to_string().contains("earlier attempt"), "{error}");
        assert!(error.to_string().contains("read_only"), "{error}");
        assert_eq!(db.has(sequence).await, decision == Decision::Commit);
        let writable = "SET GLOBAL read_only = OFF";
        db.admin().await.query_drop(writable).await.unwrap();
    }
}

/// MariaDB hands over the XID some moments before InnoDB's transaction: ended in between, the
/// branch would be listed no more, not committed, and locked until the server restarts. Between the
/// two it frees the session's variables.
async fn i1_a_branch_of_a_closing_connection_is_not_ended_before_its_time(db: &Db) {
    let admin = Mysql::builder("ledger", &db.admin_url).build().unwrap();
    admin.preflight().await.unwrap();
    // Who may see InnoDB's transactions, and who has to wait; with and without the decision.
    for (id, (finisher, is_recorded)) in [
        (&admin, true),
        (&db.resource, true),
        (&db.resource, false),
        (&admin, false),
    ]
    .into_iter()
    .enumerate()
    {
        let (id, variables) = (id as u64, if is_recorded { 300_000 } else { 100_000 });
        let mut branch = db.active(id).await;
        let variables: Vec<_> = (0..variables).map(|v| format!("@v{v} = 1")).collect();
        for some in variables.chunks(1000) {
            let set = format!("SET {}", some.join(", "));
            branch.query_drop(set).await.unwrap();
        }
        let evidence = expect_prepared(branch.prepare().await);
        let record = record(&branch, evidence);
        drop(branch);
        let (xid, recorded) = (db.xid(id), is_recorded.then_some(&record));
        let commit = async || finisher.finish(&xid, Decision::Commit, recorded).await;
        while commit().await.is_err() {}
        assert!(db.has(id).await, "{id}");
    }
}

/// A proxy may keep the connection of a branch open for as long as it likes, and close it in the
/// very moment in which the branch is committed from elsewhere. So it is ended first.
async fn i1_a_connection_that_somebody_keeps_open_is_ended_before_its_branch(db: &Db) {
    let (branch, record) = db.prepared(1).await;
    let connection = record.evidence.as_str().split(['=', ' ']).nth(1).unwrap();
    let connection: u64 = connection.parse().unwrap();
    let xid = db.xid(1);
    let commit = db.resource.finish(&xid, Decision::Commit, Some(&record));
    commit.await.unwrap();
    assert!(db.has(1).await && !db.is_listed(1).await);
    // MySQL commits it as it is.
    assert_eq!(
        db.connections().await.contains(&connection),
        !db.is_mariadb()
    );
    drop(branch);
}

/// A branch is finished by whoever may connect, not only by who prepared it.
async fn another_account_can_finish_a_branch(db: &Db) {
    let (branch, _) = db.prepared(1).await;
    drop(branch);
    let admin = unanimous_mysql::Mysql::builder("ledger", &db.admin_url)
        .build()
        .unwrap();
    eventually("it is finished", async || {
        admin
            .finish(&db.xid(1), Decision::Commit, None)
            .await
            .is_ok()
    })
    .await;
    assert!(db.has(1).await);
}

/// A twin cannot be opened as long as the first lives (1440).
async fn an_xid_is_opened_once(db: &Db) {
    let (mut branch, _) = db.prepared(1).await;
    let error = db.resource.open(db.env(1)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::DuplicateXid, "{error}");
    branch.commit().await.unwrap();
    assert!(db.has(1).await);
}

/// MySQL takes the format id for a part of the name. MariaDB does not look at it: a statement with
/// another format id ends our branch, so whoever pastes an XID has to be right in the rest.
async fn mariadb_does_not_look_at_the_format_id(db: &Db) {
    let (branch, _) = db.prepared(1).await;
    drop(branch);
    let xid = db.xid(1);
    let other = format!("XA COMMIT '{}','{}',1", xid.gtrid, xid.bqual);
    let mut plain = db.plain().await;
    if db.is_mariadb() {
        eventually("it is committed", async || {
            plain.query_drop(&other).await.is_ok()
        })
        .await;
    } else {
        assert_eq!(code(&plain.query_drop(other).await.unwrap_err()), 1397);
        db.finish(&xid, Decision::Commit).await;
    }
    assert!(db.has(1).await && !db.is_listed(1).await);
}

/// MySQL can be told to leave a prepared branch with its connection, for all sessions at any time;
/// then it hands it over as MariaDB does. Nothing is decided that rests on it.
#[tokio::test(flavor = "multi_thread")]
async fn i1_a_branch_that_stays_with_its_connection_is_not_prepared() {
    let server = start(Kind::Mysql, &[]);
    let db = Db::on(&server).await;
    let (mut fit, _) = db.prepared(1).await;
    fit.commit().await.unwrap();
    let mut admin = db.admin().await;
    let set = "SET GLOBAL xa_detach_on_prepare = OFF";
    admin.query_drop(set).await.unwrap();
    // The same session, after its wipe, and a new one.
    Box::new(fit).release().await;
    let (mut wiped, mut new) = (db.active(2).await, db.active(3).await);
    for branch in [&mut wiped, &mut new] {
        let (cause, error) = expect_rolled_back(branch.prepare().await);
        assert_eq!(cause, Cause::Refused, "{error}");
        assert!(
            error.to_string().contains("xa_detach_on_prepare"),
            "{error}"
        );
    }
    assert!(db.listed().await.is_empty());
    let set = "SET GLOBAL xa_detach_on_prepare = ON";
    admin.query_drop(set).await.unwrap();
    for branch in [wiped, new] {
        Box::new(branch).release().await;
    }
    eventually("the sessions are wiped", async || {
        let mut branch = db.active(4).await;
        let is_prepared = matches!(branch.prepare().await, PrepareReply::Prepared(_));
        branch.rollback().await.unwrap();
        is_prepared
    })
    .await;
    assert!(db.has(1).await && !db.has(2).await && !db.has(3).await);
}

/// InnoDB shows an old picture as long as somebody asks ten times a second, in which the
/// transaction of the connection may still be on its way out: time alone proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn i1_a_picture_that_others_keep_old_commits_nothing() {
    let server = start(Kind::Mariadb, &[]);
    let db = Db::on(&server).await;
    let admin = Mysql::builder("ledger", &db.admin_url).build().unwrap();
    admin.preflight().await.unwrap();
    let mut left = Vec::new();
    let mut polls = Vec::new();
    for _ in 0..3 {
        let mut poller = db.admin().await;
        polls.push(tokio::spawn(async move {
            let ask = "SELECT COUNT(*) FROM information_schema.INNODB_TRX";
            while poller.query_drop(ask).await.is_ok() {}
        }));
    }
    // On a machine that stands still the picture may be a new one now and then.
    let error = loop {
        let sequence = left.len() as u64;
        assert!(sequence < 10, "all were committed");
        let (branch, record) = db.prepared(sequence).await;
        drop(branch);
        let xid = db.xid(sequence);
        let finished = admin.finish(&xid, Decision::Commit, Some(&record)).await;
        left.push((xid, record));
        if let Err(error) = finished {
            break error;
        }
    };
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("INNODB_TRX"), "{error}");
    for poll in polls {
        poll.abort();
    }
    let (xid, record) = left.last().unwrap();
    eventually("it is committed", async || {
        let finished = admin.finish(xid, Decision::Commit, Some(record));
        finished.await.is_ok()
    })
    .await;
    assert!(db.has(left.len() as u64 - 1).await);
}

on_both!(
    i3_an_end_whose_answer_was_lost_is_not_denied_by_the_next_answer,
    i5_the_connection_of_a_branch_that_has_ended_is_not_ended,
    i1_a_connection_that_cannot_be_seen_is_not_gone,
    i3_unknown_while_its_connection_is_open_is_not_taken_for_finished,
    i3_unknown_before_a_late_prepare_proves_nothing,
    i3_unknown_at_the_second_try_after_a_stale_session_proves_nothing,
    i1_a_branch_of_a_closing_connection_is_not_ended_before_its_time,
    i1_a_connection_that_somebody_keeps_open_is_ended_before_its_branch,
    another_account_can_finish_a_branch,
    an_xid_is_opened_once,
    mariadb_does_not_look_at_the_format_id,
);
