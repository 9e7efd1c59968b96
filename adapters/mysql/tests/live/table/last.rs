//! A branch that commits as last resource, with its decision's row: the clauses of which each has a
//! test that fails without it.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{
    Branch, BranchEnv, BranchErrorKind, Cause, OnePhaseReply, Resource, RowState,
};
use unanimous_core::xid::Xid;
use unanimous_mysql::mysql_async::IsolationLevel;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_mysql::{Mysql, MysqlBranch};
use unanimous_testing::{Wire, WireFault};

use super::support::{TableDb, rolled_back};
use crate::support::{Db, eventually, literal, source_code};
use crate::trips::{proxy, until_quiet};

async fn commits(mut branch: MysqlBranch, statement: &str) {
    let reply = branch.commit_last(statement).await;
    assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
    Box::new(branch).release().await;
}

/// Rolled back for certain: the cause, and the server's code.
async fn rolls_back(mut branch: MysqlBranch, statement: &str) -> (Cause, u16) {
    match branch.commit_last(statement).await {
        OnePhaseReply::RolledBack(error) => {
            let BranchErrorKind::RolledBack(cause) = error.kind() else {
                panic!("{error}");
            };
            let code = source_code(&error).unwrap_or_default();
            Box::new(branch).release().await;
            (cause, code)
        }
        reply => panic!("{reply:?}"),
    }
}

/// Row and decision, in one round trip; whatever the session is set to.
async fn row_and_branch_commit_in_one_round_trip(db: &Db) {
    let t = TableDb::new(db).await;
    let (url, commands) = proxy(&t.db.url).await;
    let setups = [
        "",
        "SET SESSION sql_mode = ''",
        "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES'",
        "SET NAMES latin1",
    ];
    for (sequence, setup) in (1..).zip(setups) {
        let builder = Mysql::builder("ledger", &url).session_setup(setup);
        let resource = builder.build().unwrap();
        let mut branch = t.branch(&resource, sequence).await;
        // The statement finds its tables wherever the application has gone.
        branch.query_drop("USE information_schema").await.unwrap();
        until_quiet(&commands).await;
        commands.store(0, std::sync::atomic::Ordering::SeqCst);
        let mut row = t.row(sequence);
        row.branches = "it's \\ a\tb; \"c\" `d`\n".to_owned();
        let statement = t.table.last_statement(t.slot(), &row);
        let reply = branch.commit_last(&statement).await;
        assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
        assert_eq!(commands.load(std::sync::atomic::Ordering::SeqCst), 1);
        Box::new(branch).release().await;
        assert!(t.db.has(sequence).await);
        let found = t.table.find(row.gtrid, None).await.unwrap().row;
        assert_eq!(found, Some((RowState::Pending, row.branches)), "{setup}");
    }
    t.drop_database().await;
}

/// Whatever snapshot the branch reads, and whatever its SQL mode makes of a NULL.
async fn a_closed_epoch_refuses_a_branch_with_an_older_snapshot(db: &Db) {
    let t = TableDb::new(db).await;
    let levels = [
        IsolationLevel::ReadUncommitted,
        IsolationLevel::ReadCommitted,
        IsolationLevel::RepeatableRead,
        IsolationLevel::Serializable,
    ];
    let mut branches = Vec::new();
    for (sequence, level) in (1..).zip(levels) {
        let setup = "SET SESSION sql_mode = ''";
        let resource =
            t.db.build(|builder| builder.isolation(level).session_setup(setup));
        let mut branch = t.branch(&resource, sequence).await;
        if level != IsolationLevel::Serializable {
            let open = "SELECT COUNT(*) FROM unanimous_epoch WHERE closed = 0";
            let open: Option<u64> = branch.query_first(open).await.unwrap();
            assert_eq!(open, Some(8), "its snapshot is from before the close");
        }
        branches.push((sequence, branch));
    }
    t.table.close(t.own.opening.epoch).await.unwrap();
    for (sequence, branch) in branches {
        let (cause, code) = rolls_back(branch, &t.last(sequence)).await;
        // So `retry` runs it again, under the member's new epoch.
        assert_eq!((cause, code), (Cause::Conflict, 1048));
        assert!(!t.db.has(sequence).await);
        assert_eq!(t.state(t.row(sequence).gtrid).await, None);
    }
    t.assert_all_free().await;
    t.drop_database().await;
}

/// In the branch itself, whose commit is still to come.
async fn a_close_waits_for_a_running_last_resource(db: &Db) {
    let t = Arc::new(TableDb::new(db).await);
    for level in [
        IsolationLevel::ReadCommitted,
        IsolationLevel::RepeatableRead,
    ] {
        let own = t.table.join(1, "another").await.unwrap().opening;
        let at = unanimous_core::ports::EpochSlot {
            epoch: own.epoch,
            slot: 0,
        };
        let row = unanimous_core::ports::DecisionRow {
            gtrid: own.gtrid(1),
            branches: String::new(),
        };
        let resource = t.db.build(|builder| builder.isolation(level));
        let mut branch = t.idle_branch(&resource, 1).await;
        let statement = t.table.last_statement(at, &row);
        branch.query_drop(statement).await.unwrap();
        let closing = tokio::spawn({
            let t = Arc::clone(&t);
            async move { t.table.close(own.epoch).await }
        });
        t.waiters(1).await;
        let reply = branch.commit_one_phase().await;
        assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
        Box::new(branch).release().await;
        closing.await.unwrap().unwrap();
        assert_eq!(t.state(row.gtrid).await.as_deref(), Some("C"), "{level:?}");
    }
    t.drop_database().await;
}

/// A refusal waits for the commit that is running, and keeps a later one from happening.
async fn a_refusal_waits_for_a_running_commit_and_beats_a_late_one(db: &Db) {
    let t = Arc::new(TableDb::new(db).await);
    for (sequence, commits) in [(1, true), (2, false)] {
        let gtrid = t.row(sequence).gtrid;
        let mut branch = t.branch(&t.db.resource, sequence).await;
        branch.query_drop(t.last(sequence)).await.unwrap();
        let putting = tokio::spawn({
            let t = Arc::clone(&t);
            async move { t.table.put_rollback(gtrid).await }
        });
        t.waiters(1).await;
        let expected = if commits {
            let reply = branch.commit_one_phase().await;
            assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
            RowState::Pending
        } else {
            branch.rollback().await.unwrap();
            RowState::RolledBack
        };
        Box::new(branch).release().await;
        assert_eq!(putting.await.unwrap().unwrap(), expected);
        assert_eq!(t.db.has(sequence).await, commits);
    }
    // The same transaction's commit, which comes late.
    let late = t.branch(&t.db.resource, 2).await;
    assert_eq!(rolls_back(late, &t.last(2)).await, (Cause::Refused, 1062));
    assert!(!t.db.has(2).await);
    t.drop_database().await;
}

/// What the plain INSERT is for: an upsert, or IGNORE, commits the branch over a standing refusal.
async fn an_upsert_would_commit_over_a_standing_refusal(db: &Db) {
    let t = TableDb::new(db).await;
    for sequence in 1..=3 {
        let put = t.table.put_rollback(t.row(sequence).gtrid).await.unwrap();
        assert_eq!(put, RowState::RolledBack);
    }
    let ignoring = t.last(1).replace("INSERT INTO", "INSERT IGNORE INTO");
    let upserting = t.last(2) + " ON DUPLICATE KEY UPDATE state = state";
    for (sequence, statement) in [(1, ignoring), (2, upserting)] {
        commits(t.branch(&t.db.resource, sequence).await, &statement).await;
        assert!(t.db.has(sequence).await, "which is the split");
    }
    let branch = t.branch(&t.db.resource, 3).await;
    let refused = rolls_back(branch, &t.last(3)).await;
    assert_eq!(refused, (Cause::Refused, 1062));
    assert!(!t.db.has(3).await);
    for sequence in 1..=3 {
        assert_eq!(t.state(t.row(sequence).gtrid).await.as_deref(), Some("R"));
    }
    t.drop_database().await;
}

/// By the branch's own lock timeout; a deadlock is a conflict. `retry` tries both again.
async fn a_lock_that_is_not_free_rolls_the_branch_back(db: &Db) {
    let t = TableDb::new(db).await;
    let epoch = t.own.opening.epoch;
    let lock = format!("SELECT 1 FROM unanimous_epoch WHERE epoch = {epoch} FOR UPDATE");
    let holder = t.held(&lock).await;
    let branch = t.branch(&t.db.resource, 1).await;
    assert_eq!(rolls_back(branch, &t.last(1)).await, (Cause::Timeout, 1205));
    assert!(!t.db.has(1).await);
    drop(holder);

    // One holds the slots and wants the branch's row; the branch wants a slot.
    let xid = Xid {
        gtrid: t.own.opening.gtrid(2),
        bqual: "ledger".parse().unwrap(),
    };
    let env = BranchEnv {
        xid,
        lock_timeout: Duration::from_secs(30),
        ..t.db.env(2)
    };
    let mut branch = t.db.resource.open(env).await.unwrap();
    t.db.insert(&mut branch, 2).await.unwrap();
    // The heavier transaction of the two goes on.
    let rows: Vec<_> = (1000..1400).map(|id| format!("({id}, 'v')")).collect();
    let heavy = format!("INSERT INTO {} VALUES {}", t.db.table, rows.join(", "));
    let mut holder = t.held(&format!("{heavy}; {lock}")).await;
    let wanted = format!("SELECT 1 FROM {} WHERE id = 2 FOR UPDATE", t.db.table);
    let waiting = tokio::spawn(async move { holder.query_drop(wanted).await });
    t.waiters(1).await;
    assert_eq!(
        rolls_back(branch, &t.last(2)).await,
        (Cause::Conflict, 1213)
    );
    waiting.await.unwrap().unwrap();
    assert!(!t.db.has(2).await);
    t.assert_all_free().await;
    t.drop_database().await;
}

/// Nobody can tell, and then the table can.
async fn a_lost_reply_is_undetermined(db: &Db) {
    let t = TableDb::new(db).await;
    let (wire, url) = Wire::between(&t.db.url).await.unwrap();
    let resource = Mysql::builder("ledger", url).build().unwrap();
    for (sequence, fault) in [(1, WireFault::CutReply), (2, WireFault::CutRequest)] {
        let mut branch = t.branch(&resource, sequence).await;
        wire.set(fault);
        let reply = branch.commit_last(&t.last(sequence)).await;
        assert!(matches!(reply, OnePhaseReply::Undetermined(_)), "{reply:?}");
        drop(branch);
        let gtrid = t.row(sequence).gtrid;
        let expected = if fault == WireFault::CutReply {
            eventually("the request runs on", async || {
                t.state(gtrid).await.is_some()
            })
            .await;
            RowState::Pending
        } else {
            RowState::RolledBack
        };
        assert_eq!(t.table.put_rollback(gtrid).await.unwrap(), expected);
        let has = t.db.has(sequence).await;
        assert_eq!(has, expected == RowState::Pending);
    }
    t.drop_database().await;
}

/// The decision is not even tried where the work may not be committed.
async fn a_branch_that_may_not_commit_records_nothing(db: &Db) {
    let t = TableDb::new(db).await;
    let mut failed = t.branch(&t.db.resource, 1).await;
    t.db.insert(&mut failed, 1).await.unwrap_err();
    let (cause, _) = rolls_back(failed, &t.last(1)).await;
    assert_eq!(cause, Cause::Refused);
    // Its transaction was ended behind its back: the row would commit all alone.
    let mut ended = t.branch(&t.db.resource, 2).await;
    let xid = literal(ended.xid());
    let end = format!("XA END {xid}; XA ROLLBACK {xid}");
    ended.query_drop(end).await.unwrap();
    let _ = rolls_back(ended, &t.last(2)).await;
    for sequence in [1, 2] {
        assert_eq!(t.state(t.row(sequence).gtrid).await, None);
        assert!(!t.db.has(sequence).await);
    }
    let unused = t.branch(&t.db.resource, 3).await;
    rolled_back(unused).await;
    t.assert_all_free().await;
    t.drop_database().await;
}

on_both!(
    row_and_branch_commit_in_one_round_trip,
    a_closed_epoch_refuses_a_branch_with_an_older_snapshot,
    a_close_waits_for_a_running_last_resource,
    a_refusal_waits_for_a_running_commit_and_beats_a_late_one,
    an_upsert_would_commit_over_a_standing_refusal,
    a_lock_that_is_not_free_rolls_the_branch_back,
    a_lost_reply_is_undetermined,
    a_branch_that_may_not_commit_records_nothing,
);
