//! A last resource: the decision commits inside its own transaction, or not at all, and whoever did
//! not hear which asks the log.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimous::log::TableLog;
use unanimous::ports::DecisionTable;
use unanimous::{
    CommitError, Gtrid, Point, Probe, RollbackCause, Transaction, TransactionManager,
    TransactionOutcome,
};
use unanimous_core::ports::{Refusal, RowState};
use unanimous_core::protocol::Decision;
use unanimous_testing::{
    Event, Fault, LogStep, MemoryResource, MemoryTable, Step, TableFault, TableStep,
};

use super::fragile::{Call, Fate, FragileResource};
use super::{World, eventually, write_both};

/// A world whose log is a table in the database of `orders`, shared by members with links of their
/// own.
struct Shared {
    world: World,
    table: MemoryTable,
}

impl Shared {
    fn new() -> Self {
        let world = World::new();
        let table = MemoryTable::with("orders", world.journal.clone());
        world.orders.server().hosts(&table);
        Self { world, table }
    }

    /// A member, over this link.
    async fn join(&self, link: &MemoryTable) -> TransactionManager {
        let log = member(link);
        let builder = self.world.builder().log(log);
        let builder = builder.resource(&self.world.orders);
        builder.resource(&self.world.ledger).start().await.unwrap()
    }

    async fn start(&self) -> TransactionManager {
        self.join(&self.table).await
    }

    async fn begin(&self, tm: &TransactionManager) -> Transaction {
        self.world.begin_with_both(tm, "1").await
    }

    /// How often a resource was asked for this.
    fn asked(&self, resource: &MemoryResource, wanted: Step) -> usize {
        let name = unanimous::ports::ResourceManager::name(resource).clone();
        self.world.journal.count(|event| {
            let Event::Asked { resource, step, .. } = event else {
                return false;
            };
            *resource == name && *step == wanted
        })
    }

    fn asked_table(&self, wanted: TableStep) -> usize {
        let wanted = Event::Log(LogStep::Table(wanted));
        self.world.journal.count(|event| *event == wanted)
    }

    /// Both are rolled back and free, and nobody can commit it any more.
    async fn assert_rolled_back(&self, tm: &TransactionManager, gtrid: Gtrid) {
        self.world.settle().await;
        assert_eq!(self.world.rows(), (None, None));
        let outcome = tm.outcome(gtrid).await.unwrap();
        assert_eq!(outcome, TransactionOutcome::RolledBack);
        assert!(!matches!(
            self.table.row(gtrid),
            Some(RowState::Pending | RowState::Completed)
        ));
    }

    /// Both are committed, and the decision is completed.
    async fn assert_committed(&self, tm: &TransactionManager, gtrid: Gtrid) {
        self.world.settle().await;
        assert_eq!(self.world.rows(), World::both("1"));
        let outcome = tm.outcome(gtrid).await.unwrap();
        assert_eq!(outcome, TransactionOutcome::Committed);
        let is_completed = || self.table.row(gtrid) == Some(RowState::Completed);
        eventually("the decision is completed", is_completed).await;
    }
}

fn member(link: &MemoryTable) -> TableLog {
    TableLog::on(link)
        .suspect_after(Duration::from_millis(500))
        .label("a member")
}

fn refusal(error: CommitError) -> Refusal {
    let text = format!("{error:?}");
    if let CommitError::RolledBack { cause, .. } = error
        && let RollbackCause::Log(refusal) = cause
    {
        return refusal;
    }
    panic!("{text}")
}

#[tokio::test(start_paused = true)]
async fn i1_the_last_resource_commits_with_the_decision_when_the_others_are_prepared() {
    let shared = Shared::new();
    let tm = shared.start().await;
    let tx = shared.begin(&tm).await;
    let gtrid = tx.gtrid();
    let committed = tx.commit().await.unwrap();
    assert_eq!(committed.unfinished(), []);
    shared.assert_committed(&tm, gtrid).await;
    let at = |wanted: &dyn Fn(&Event) -> bool| shared.world.journal.position(wanted).unwrap();
    let prepared = at(&|e| matches!(e, Event::Prepared(xid) if xid.bqual.as_str() == "ledger"));
    let decided = at(&|e| *e == Event::Log(LogStep::Decided(gtrid)));
    let ended = |name: &'static str| {
        at(&move |e| matches!(e, Event::Ended(xid, Decision::Commit) if xid.bqual.as_str() == name))
    };
    assert!(prepared < decided && decided < ended("ledger"));
    assert!(prepared < ended("orders") && ended("orders") < ended("ledger"));
    assert_eq!(shared.asked(&shared.world.orders, Step::Prepare), 0);
    assert_eq!(shared.asked(&shared.world.orders, Step::CommitLast), 1);
    assert_eq!(shared.asked(&shared.world.orders, Step::Commit), 0);
    assert_eq!(shared.asked_table(TableStep::Decide), 0, "one write less");
    tm.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_last_resource_every_branch_prepares_and_the_log_decides() {
    let shared = Shared::new();
    let log = member(&shared.table).last_resource(false);
    let builder = shared.world.builder().log(log);
    let builder = builder.resource(&shared.world.orders);
    let tm = builder
        .resource(&shared.world.ledger)
        .start()
        .await
        .unwrap();
    let tx = shared.begin(&tm).await;
    let gtrid = tx.gtrid();
    tx.commit().await.unwrap();
    shared.assert_committed(&tm, gtrid).await;
    assert_eq!(shared.asked(&shared.world.orders, Step::CommitLast), 0);
    assert_eq!(shared.asked(&shared.world.orders, Step::Prepare), 1);
    assert_eq!(shared.asked_table(TableStep::Decide), 1);
}

#[tokio::test(start_paused = true)]
async fn a_single_writer_in_the_logs_database_leaves_no_record() {
    let shared = Shared::new();
    let tm = shared.start().await;
    let mut tx = tm.begin();
    let orders = tx.enlist(&shared.world.orders).await.unwrap();
    orders.put("k", "1").unwrap();
    tx.commit().await.unwrap();
    assert_eq!(shared.asked(&shared.world.orders, Step::OnePhase), 1);
    assert_eq!(shared.asked(&shared.world.orders, Step::CommitLast), 0);
    assert_eq!(shared.table.row_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn i3_a_vote_against_it_rolls_the_last_resource_back_unasked() {
    for fault in [Fault::CONFLICT, Fault::LoseRequest, Fault::LoseReply] {
        let shared = Shared::new();
        let tm = shared.start().await;
        shared.world.ledger.server().fail_next(Step::Prepare, fault);
        let tx = shared.begin(&tm).await;
        let gtrid = tx.gtrid();
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
        assert_eq!(shared.asked(&shared.world.orders, Step::CommitLast), 0);
        shared.assert_rolled_back(&tm, gtrid).await;
    }
}

/// Suspected wrongly, it is refused, and goes on under a new epoch by itself.
#[tokio::test(start_paused = true)]
async fn i5_a_last_resource_under_a_closed_epoch_is_refused() {
    let shared = Shared::new();
    let tm = shared.start().await;
    let tx = shared.begin(&tm).await;
    let gtrid = tx.gtrid();
    let other = shared.table.another_link();
    other.close(gtrid.opening.epoch).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    shared.assert_rolled_back(&tm, gtrid).await;

    let tries = async {
        loop {
            let tx = shared.begin(&tm).await;
            let gtrid = tx.gtrid();
            if tx.commit().await.is_ok() {
                return gtrid;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let next = tokio::time::timeout(Duration::from_secs(60), tries);
    let next = next.await.expect("it joins anew");
    assert!(next.opening.epoch > gtrid.opening.epoch);
    shared.assert_committed(&tm, next).await;
}

#[tokio::test(start_paused = true)]
async fn i3_a_last_resource_that_was_not_reached_is_kept_from_committing() {
    let shared = Shared::new();
    let tm = shared.start().await;
    let orders = shared.world.orders.server();
    orders.fail_next(Step::CommitLast, Fault::LoseRequest);
    let tx = shared.begin(&tm).await;
    let gtrid = tx.gtrid();
    let refusal = refusal(tx.commit().await.unwrap_err());
    assert!(matches!(refusal, Refusal::LastRolledBack), "{refusal}");
    assert_eq!(shared.table.row(gtrid), Some(RowState::RolledBack));
    shared.assert_rolled_back(&tm, gtrid).await;
}

#[tokio::test(start_paused = true)]
async fn i3_a_last_resource_that_was_not_heard_is_committed_if_its_row_stands() {
    let shared = Shared::new();
    let tm = shared.start().await;
    let orders = shared.world.orders.server();
    orders.fail_next(Step::CommitLast, Fault::LoseReply);
    let tx = shared.begin(&tm).await;
    let gtrid = tx.gtrid();
    assert_eq!(tx.commit().await.unwrap().unfinished(), []);
    assert_eq!(shared.asked_table(TableStep::PutRollback), 1);
    shared.assert_committed(&tm, gtrid).await;
}

#[tokio::test(start_paused = true)]
async fn i3_a_commit_that_arrives_after_the_rollback_row_is_refused() {
    let shared = Shared::new();
    let tm = shared.start().await;
    let late = shared.world.orders.server().delay_next(Step::CommitLast);
    let tx = shared.begin(&tm).await;
    let gtrid = tx.gtrid();
    let refusal = refusal(tx.commit().await.unwrap_err());
    assert!(matches!(refusal, Refusal::LastRolledBack), "{refusal}");
    late.release();
    shared.assert_rolled_back(&tm, gtrid).await;
    assert_eq!(shared.table.row(gtrid), Some(RowState::RolledBack));
}

/// Its row is there and locked: whoever looked would not see it, and must wait.
#[tokio::test(start_paused = true)]
async fn i3_a_commit_that_is_running_is_waited_for() {
    for wait in [100, 5000] {
        let shared = Shared::new();
        shared.table.set_lock_wait(Duration::from_millis(200));
        let tm = shared.start().await;
        let running = shared.world.orders.server().delay_next(Step::LastCommit);
        let tx = shared.begin(&tm).await;
        let gtrid = tx.gtrid();
        let answer = tokio::spawn(tx.commit());
        tokio::time::sleep(Duration::from_millis(wait)).await;
        assert_eq!(shared.table.row(gtrid), None, "nobody sees it yet");
        let outcome = tm.outcome(gtrid).await.unwrap();
        assert_eq!(outcome, TransactionOutcome::InDoubt);
        running.release();
        match answer.await.unwrap() {
            Ok(committed) => assert_eq!(committed.unfinished(), []),
            // Refused for want of the lock, again and again, for longer than it may take.
            Err(CommitError::Undetermined { .. }) if wait == 5000 => {}
            Err(error) => panic!("{error}"),
        }
        let is_decided = || shared.table.row(gtrid).is_some();
        eventually("it is decided", is_decided).await;
        eventually("it left A", || shared.world.rows() == World::both("1")).await;
        shared.assert_committed(&tm, gtrid).await;
    }
}

#[tokio::test(start_paused = true)]
async fn i3_a_last_resource_that_panics_or_hangs_is_asked_for_at_the_log() {
    for fate in [Fate::Panic, Fate::Hang] {
        let shared = Shared::new();
        let orders = FragileResource::new(&shared.world.orders);
        let builder = shared.world.builder().log(member(&shared.table));
        let builder = builder.resource(&orders).resource(&shared.world.ledger);
        let tm = builder.start().await.unwrap();
        orders.fates.next(Call::CommitLast, fate);
        let mut tx = tm.begin();
        let gtrid = tx.gtrid();
        let branches = tx.enlist((&orders, &shared.world.ledger)).await.unwrap();
        write_both((&mut branches.0.inner, branches.1), "1");
        let refusal = refusal(tx.commit().await.unwrap_err());
        assert!(matches!(refusal, Refusal::LastRolledBack), "{refusal}");
        assert!(orders.fates.are_met());
        shared.assert_rolled_back(&tm, gtrid).await;
    }
}

/// The application is told that nobody knows; the transaction stays in A, and is resolved as soon
/// as the log answers.
#[tokio::test(start_paused = true)]
async fn i3_a_log_that_cannot_be_reached_leaves_it_undetermined_until_it_can() {
    for (fault, is_committed) in [(Fault::LoseReply, true), (Fault::LoseRequest, false)] {
        let shared = Shared::new();
        let link = shared.table.another_link();
        let tm = shared.join(&link).await;
        let orders = shared.world.orders.server();
        orders.fail_next(Step::CommitLast, fault);
        let tx = shared.begin(&tm).await;
        let gtrid = tx.gtrid();
        link.set_reachable(false);
        let error = tx.commit().await.unwrap_err();
        let CommitError::Undetermined { gtrid: told, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(told, gtrid);
        tokio::time::sleep(Duration::from_secs(20)).await;
        let outcome = tm.outcome(gtrid).await;
        assert!(outcome.is_err(), "only the log knows: {outcome:?}");
        let prepared = shared.world.ledger.server().prepared();
        assert_eq!(prepared.len(), 1, "nobody ends it meanwhile");
        link.set_reachable(true);
        if is_committed {
            shared.assert_committed(&tm, gtrid).await;
        } else {
            shared.assert_rolled_back(&tm, gtrid).await;
        }
    }
}

/// Every error of the log is repeated, and its late answers change nothing.
#[tokio::test(start_paused = true)]
async fn i3_whatever_the_log_answers_first_it_is_asked_again() {
    for last in [Fault::LoseReply, Fault::LoseRequest] {
        for fault in [
            TableFault::NotSent,
            TableFault::Refused,
            TableFault::LoseRequest,
            TableFault::LoseReply,
            TableFault::LoseForce,
        ] {
            let shared = Shared::new();
            let tm = shared.start().await;
            let orders = shared.world.orders.server();
            orders.fail_next(Step::CommitLast, last);
            shared.table.fail_next(TableStep::PutRollback, fault);
            shared.table.fail_next(TableStep::Find, fault);
            let tx = shared.begin(&tm).await;
            let gtrid = tx.gtrid();
            let answer = tx.commit().await;
            let is_committed = last == Fault::LoseReply;
            assert_eq!(answer.is_ok(), is_committed, "{fault:?}: {answer:?}");
            assert!(shared.asked_table(TableStep::PutRollback) >= 2, "{fault:?}");
            if is_committed {
                shared.assert_committed(&tm, gtrid).await;
            } else {
                shared.assert_rolled_back(&tm, gtrid).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i3_the_outcome_is_in_doubt_until_the_last_resource_has_ended() {
    let shared = Shared::new();
    let tm = shared.start().await;
    let orders = shared.world.orders.server();
    let asked = orders.hang_next(Step::CommitLast);
    let tx = shared.begin(&tm).await;
    let gtrid = tx.gtrid();
    let outcome = async || tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome().await, TransactionOutcome::InDoubt, "active");
    let answer = tokio::spawn(tx.commit());
    let is_prepared = || !shared.world.ledger.server().prepared().is_empty();
    eventually("the other one is prepared", is_prepared).await;
    assert_eq!(outcome().await, TransactionOutcome::InDoubt, "being asked");
    let settling = shared.table.hang_next(TableStep::PutRollback);
    // The limit of a prepare has passed, that of the decision has not.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(outcome().await, TransactionOutcome::InDoubt, "settling");
    // The commit arrives first after all, and its row says so before the driver knows.
    asked.release();
    assert_eq!(outcome().await, TransactionOutcome::Committed, "not heard");
    settling.release();
    assert_eq!(answer.await.unwrap().unwrap().unfinished(), []);
    shared.assert_committed(&tm, gtrid).await;
    tm.shutdown().await.unwrap();
    let next = shared.start().await;
    let outcome = next.outcome(gtrid).await.unwrap();
    assert!(
        matches!(
            outcome,
            TransactionOutcome::Committed | TransactionOutcome::Unknown
        ),
        "{outcome:?}"
    );
}

/// Cuts the way to a resource when the last one has answered.
struct CutAfterLast(MemoryResource);

#[async_trait]
impl Probe for CutAfterLast {
    async fn reached(&self, point: Point) {
        if matches!(point, Point::LastAnswered(_)) {
            self.0.server().set_reachable(false);
        }
    }
}

/// The owner is gone right after its last resource has committed, and another member goes on.
#[tokio::test(start_paused = true)]
async fn i6_another_member_commits_what_a_dead_ones_last_resource_has_decided() {
    let shared = Shared::new();
    let ledger = shared.world.ledger.clone();
    let builder = shared.world.builder().log(member(&shared.table));
    let builder = builder.resource(&shared.world.orders).resource(&ledger);
    let cut = Arc::new(CutAfterLast(ledger.clone()));
    let owner = builder.probe(cut).start().await.unwrap();
    let tx = shared.begin(&owner).await;
    let gtrid = tx.gtrid();
    let committed = tx.commit().await.unwrap();
    assert_eq!(committed.unfinished().len(), 1);
    drop((owner, committed));
    ledger.server().crash();
    ledger.server().set_reachable(true);
    let other = shared.join(&shared.table.another_link()).await;
    shared.assert_committed(&other, gtrid).await;
}

/// With nobody else to commit, the row of a dead member has to be completed all the same.
#[tokio::test(start_paused = true)]
async fn i6_a_last_resource_that_decided_for_itself_alone_leaves_nothing_pending() {
    let shared = Shared::new();
    shared.world.ledger.server().set_detects_read_only(true);
    let link = shared.table.another_link();
    let owner = shared.join(&link).await;
    let mut tx = owner.begin();
    let gtrid = tx.gtrid();
    let both = (&shared.world.orders, &shared.world.ledger);
    let (orders, _) = tx.enlist(both).await.unwrap();
    orders.put("k", "1").unwrap();
    tx.commit().await.unwrap();
    // Dead before it has written that down.
    link.set_reachable(false);
    drop(owner);
    assert_eq!(shared.table.row(gtrid), Some(RowState::Pending));
    let other = shared.join(&shared.table.another_link()).await;
    let is_completed = || shared.table.row(gtrid) == Some(RowState::Completed);
    eventually("the decision is completed", is_completed).await;
    let outcome = other.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Committed);
}
