//! That the table in memory fails as it says: what is lost is lost, what arrives late arrives, and
//! a last resource's row goes the way of its branch.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, as it should"
)]

use std::time::Duration;

use unanimous_core::ports::{
    Branch, BranchEnv, DecisionRow, DecisionTable, EpochSlot, OnePhaseReply, Resource, RowAnswer,
    RowState, TableErrorKind, TableHome,
};
use unanimous_core::xid::{ManagerId, Opening, Xid};
use unanimous_testing::{
    Event, Fault, LogStep, MemoryBranch, MemoryResource, MemoryServer, MemoryTable, Step,
    TableFault, TableStep,
};

const PENDING: RowAnswer = RowAnswer::Stands(RowState::Pending);

async fn joined(table: &MemoryTable) -> Opening {
    table.init(ManagerId::from_bytes([1; 10])).await.unwrap();
    table.join(7, "member").await.unwrap().opening
}

const fn at(opening: Opening) -> EpochSlot {
    EpochSlot {
        epoch: opening.epoch,
        slot: 0,
    }
}

fn row(opening: Opening, sequence: u64) -> DecisionRow {
    DecisionRow {
        gtrid: opening.gtrid(sequence),
        branches: "b".into(),
    }
}

async fn hosted() -> (MemoryTable, MemoryResource, Opening) {
    let table = MemoryTable::new("alone");
    let server = MemoryServer::new("server");
    server.hosts(&table);
    let opening = joined(&table).await;
    (table, server.resource("rows"), opening)
}

async fn branch(resource: &MemoryResource, row: &DecisionRow) -> MemoryBranch {
    let env = BranchEnv {
        xid: Xid {
            gtrid: row.gtrid,
            bqual: "rows".parse().unwrap(),
        },
        read_only: false,
        lock_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
    };
    let mut branch = resource.open(env).await.unwrap();
    branch.put("k", &row.gtrid.to_string()).unwrap();
    branch
}

#[tokio::test]
async fn each_fault_has_the_effect_and_the_answer_that_it_says() {
    let table = MemoryTable::new("alone");
    let own = joined(&table).await;
    for (sequence, fault, kind, happens) in [
        (1, TableFault::NotSent, TableErrorKind::NotSent, false),
        (2, TableFault::Refused, TableErrorKind::Refused, false),
        (3, TableFault::LoseRequest, TableErrorKind::Lost, false),
        (4, TableFault::LoseReply, TableErrorKind::Lost, true),
        (5, TableFault::LoseForce, TableErrorKind::Lost, true),
    ] {
        table.fail_next(TableStep::Decide, fault);
        let rows = [row(own, sequence)];
        let error = table.decide(at(own), None, &rows).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(table.row(rows[0].gtrid).is_some(), happens, "{fault:?}");
    }
    let kept = [row(own, 4)];
    let answers = table.decide(at(own), None, &kept).await.unwrap().answers;
    assert_eq!(answers, [PENDING], "faults are used up");
}

#[tokio::test]
async fn what_was_not_forced_is_lost_in_a_crash_unless_somebody_forced_it_since() {
    let table = MemoryTable::new("alone");
    let own = joined(&table).await;
    for is_read in [None, Some(own.epoch)] {
        table.fail_next(TableStep::Decide, TableFault::LoseForce);
        let decided = row(own, 1);
        let rows = [decided.clone()];
        table.decide(at(own), None, &rows).await.unwrap_err();
        let snapshot = table.read(own.epoch, is_read).await.unwrap();
        assert_eq!(snapshot.pending, rows);
        table.crash();
        assert_eq!(table.row(decided.gtrid).is_some(), is_read.is_some());
    }
    table.complete(&[own.gtrid(1)]).await.unwrap();
    assert_eq!(table.row(own.gtrid(1)), Some(RowState::Completed));
    table.crash();
    assert_eq!(table.row(own.gtrid(1)), Some(RowState::Pending), "lazy");
}

#[tokio::test]
async fn a_fail_over_changes_the_identity_and_loses_what_it_is_told_to() {
    for (lossless, left) in [(true, 3), (false, 1)] {
        let table = MemoryTable::new("alone");
        let own = joined(&table).await;
        table.set_lag(2);
        for sequence in 0..3 {
            let rows = [row(own, sequence)];
            table.decide(at(own), None, &rows).await.unwrap();
        }
        let before = table.identity();
        table.fail_over(lossless);
        assert_ne!(table.identity(), before);
        let decided = table.decide(at(own), None, &[]).await.unwrap();
        assert_eq!(decided.identity, table.identity());
        assert_eq!(table.row_count(), left);
        let twice = table.identity();
        table.fail_over(true);
        assert_ne!(table.identity(), twice);
        assert_ne!(table.identity(), before);
    }
}

#[tokio::test]
async fn a_link_is_cut_and_slowed_down_for_one_member_alone() {
    let table = MemoryTable::new("alone");
    let own = joined(&table).await;
    let other = table.another_link();
    table.set_reachable(false);
    let error = table.beat(own.epoch).await.unwrap_err();
    assert_eq!(error.kind(), TableErrorKind::NotSent);
    other.beat(own.epoch).await.unwrap();
    table.set_reachable(true);
    table.beat(own.epoch).await.unwrap();
    other.set_writable(false);
    let error = table.check().await.unwrap_err();
    assert_eq!(error.kind(), TableErrorKind::Refused);
    table.set_writable(true);
    table.check().await.unwrap();
}

#[tokio::test]
async fn a_slow_request_takes_effect_though_nobody_waits() {
    let table = MemoryTable::new("alone");
    let own = joined(&table).await;
    table.set_delay(Duration::from_millis(100));
    let rows = [row(own, 1)];
    let begun = std::time::Instant::now();
    let given_up = tokio::time::timeout(Duration::ZERO, table.decide(at(own), None, &rows));
    assert!(given_up.await.is_err());
    assert_eq!(table.row_count(), 0);
    let answers = table
        .decide(at(own), None, &rows[..0])
        .await
        .unwrap()
        .answers;
    assert_eq!(answers, []);
    assert!(begun.elapsed() >= Duration::from_millis(200), "both ways");
    assert_eq!(table.row_count(), 1);
}

#[tokio::test]
async fn a_request_that_is_held_up_arrives_at_its_release_or_is_lost_in_a_crash() {
    let table = MemoryTable::new("alone");
    let own = joined(&table).await;
    for crashes in [false, true] {
        let rows = [row(own, u64::from(crashes))];
        let late = table.delay_next(TableStep::Decide);
        let error = table.decide(at(own), None, &rows).await.unwrap_err();
        assert_eq!(error.kind(), TableErrorKind::Lost);
        assert_eq!(table.row(rows[0].gtrid), None);
        if crashes {
            table.crash();
        }
        late.release();
        assert_eq!(table.row(rows[0].gtrid).is_none(), crashes);
    }
    let hang = table.hang_next(TableStep::Close);
    let closing = tokio::spawn({
        let table = table.clone();
        async move { table.close(own.epoch).await }
    });
    hang.reached().await;
    assert!(!table.openings()[0].is_closed);
    hang.release();
    closing.await.unwrap().unwrap();
    assert!(table.openings()[0].is_closed);
}

#[tokio::test]
async fn whoever_waits_for_a_lock_too_long_is_refused() {
    let table = MemoryTable::new("alone");
    let own = joined(&table).await;
    table.set_lock_wait(Duration::from_millis(50));
    let stuck = row(own, 1);
    let held = table.hold(&table.last_statement(at(own), &stuck)).unwrap();
    let error = table.close(own.epoch).await.unwrap_err();
    assert_eq!(error.kind(), TableErrorKind::Busy);
    let error = table.put_rollback(stuck.gtrid).await.unwrap_err();
    assert_eq!(error.kind(), TableErrorKind::Busy);
    assert!(table.hold(&table.last_statement(at(own), &stuck)).is_err());
    held.commit();
    table.close(own.epoch).await.unwrap();
    assert_eq!(table.row(stuck.gtrid), Some(RowState::Pending));
}

#[tokio::test]
async fn a_last_resource_loses_its_request_or_its_reply() {
    for (step, fault, commits) in [
        (Step::CommitLast, Fault::LoseRequest, false),
        (Step::CommitLast, Fault::LoseReply, true),
        (Step::LastCommit, Fault::LoseRequest, false),
        (Step::LastCommit, Fault::LoseReply, true),
    ] {
        let (table, resource, own) = hosted().await;
        let row = row(own, 1);
        let mut last = branch(&resource, &row).await;
        resource.server().fail_next(step, fault);
        let statement = table.last_statement(at(own), &row);
        let reply = last.commit_last(&statement).await;
        assert!(matches!(reply, OnePhaseReply::Undetermined(_)), "{reply:?}");
        drop(last);
        let stands = resource.decision_table().put_rollback(row.gtrid).await;
        let expected = if commits {
            RowState::Pending
        } else {
            RowState::RolledBack
        };
        assert_eq!(stands.unwrap(), expected, "{step:?} {fault:?}");
        assert_eq!(resource.server().row("k").is_some(), commits);
        assert_eq!(resource.server().open_sessions(), 0);
    }
}

#[tokio::test]
async fn a_last_resource_runs_on_after_its_connection_is_gone() {
    let (table, resource, own) = hosted().await;
    let decided = row(own, 1);
    // Before its statement has run: the refusal comes first, and the branch is rolled back.
    let mut last = branch(&resource, &decided).await;
    let late = resource.server().delay_next(Step::CommitLast);
    let statement = table.last_statement(at(own), &decided);
    let reply = last.commit_last(&statement).await;
    assert!(matches!(reply, OnePhaseReply::Undetermined(_)), "{reply:?}");
    drop(last);
    let stands = table.put_rollback(decided.gtrid).await.unwrap();
    assert_eq!(stands, RowState::RolledBack);
    late.release();
    assert_eq!(table.row(decided.gtrid), Some(RowState::RolledBack));
    assert_eq!(resource.server().row("k"), None);

    // After it: whoever asks waits for its end.
    let decided = row(own, 2);
    let mut last = branch(&resource, &decided).await;
    let late = resource.server().delay_next(Step::LastCommit);
    let statement = table.last_statement(at(own), &decided);
    let reply = last.commit_last(&statement).await;
    assert!(matches!(reply, OnePhaseReply::Undetermined(_)), "{reply:?}");
    drop(last);
    assert_eq!(table.row(decided.gtrid), None, "not for others yet");
    let putting = tokio::spawn({
        let table = table.clone();
        async move { table.put_rollback(decided.gtrid).await }
    });
    tokio::task::yield_now().await;
    late.release();
    assert_eq!(putting.await.unwrap().unwrap(), RowState::Pending);
    assert!(resource.server().row("k").is_some());
    assert_eq!(resource.server().open_sessions(), 0);
}

#[tokio::test]
async fn a_crash_between_statement_and_commit_leaves_neither_row() {
    let (table, resource, own) = hosted().await;
    let row = row(own, 1);
    let mut last = branch(&resource, &row).await;
    let late = resource.server().delay_next(Step::LastCommit);
    let statement = table.last_statement(at(own), &row);
    let reply = last.commit_last(&statement).await;
    assert!(matches!(reply, OnePhaseReply::Undetermined(_)), "{reply:?}");
    table.crash();
    late.release();
    assert_eq!(table.row(row.gtrid), None);
    assert_eq!(resource.server().row("k"), None);
    table.close(own.epoch).await.unwrap();
}

#[tokio::test]
async fn a_fail_over_that_loses_a_last_resource_loses_its_branch_with_it() {
    for lossless in [true, false] {
        let (table, resource, own) = hosted().await;
        let row = row(own, 1);
        let mut last = branch(&resource, &row).await;
        let statement = table.last_statement(at(own), &row);
        let reply = last.commit_last(&statement).await;
        assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
        table.fail_over(lossless);
        assert_eq!(table.row(row.gtrid).is_some(), lossless);
        assert_eq!(resource.server().row("k").is_some(), lossless);
        let again = branch(&resource, &row).await;
        let scope = table.check().await.unwrap().scope;
        assert_eq!(again.scope(), scope, "one server");
    }
}

#[tokio::test]
async fn a_statement_of_another_table_or_of_none_rolls_the_branch_back() {
    let (table, resource, own) = hosted().await;
    let row = row(own, 1);
    let other = MemoryTable::new("elsewhere");
    for statement in [other.last_statement(at(own), &row), "commit".into()] {
        let mut last = branch(&resource, &row).await;
        let reply = last.commit_last(&statement).await;
        assert!(matches!(reply, OnePhaseReply::RolledBack(_)), "{reply:?}");
        assert_eq!(resource.server().row("k"), None);
    }
    assert_eq!(table.row_count(), 0);
}

#[tokio::test]
async fn the_journal_has_what_the_table_was_asked_and_what_became_of_it() {
    let table = MemoryTable::new("alone");
    let own = joined(&table).await;
    let gtrid = own.gtrid(1);
    table.decide(at(own), None, &[row(own, 1)]).await.unwrap();
    table.complete(&[gtrid]).await.unwrap();
    table.close(own.epoch).await.unwrap();
    let asked = |step| Event::Log(LogStep::Table(step));
    assert_eq!(
        table.journal().events(),
        [
            asked(TableStep::Init),
            asked(TableStep::Join),
            Event::Log(LogStep::Opened(own.epoch)),
            asked(TableStep::Decide),
            Event::Log(LogStep::Decided(gtrid)),
            asked(TableStep::Complete),
            Event::Log(LogStep::Completed(gtrid)),
            asked(TableStep::Close),
            Event::Log(LogStep::Closed(own.epoch)),
        ]
    );
}
