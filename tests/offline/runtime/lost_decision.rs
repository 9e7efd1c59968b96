//! Decisions of which nobody can tell any more whether they were recorded: their transactions are
//! left to recovery and to a person, and nothing of them goes on or is guessed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;
use unanimous::log::TableLog;
use unanimous::ports::{
    BranchErrorKind, BranchRecord, Cause, DecisionRecord, DecisionTable, Evidence, LogHome,
    ServerIdentity,
};
use unanimous::{CommitError, Gtrid, Left, Point, Probe, TransactionManager, TransactionOutcome};
use unanimous_core::protocol::LeaveReason;
use unanimous_testing::{
    Event, Fault, LogStep, MemoryServer, MemoryTable, Step, TableFault, TableStep,
};

use super::{World, eventually, write_both};

const A_MINUTE: Duration = Duration::from_secs(60);

fn home(table: &MemoryTable) -> TableLog {
    // Nobody is suspected, and nothing is written in between.
    TableLog::on(table).suspect_after(Duration::from_secs(36_000))
}

async fn start(world: &World, log: TableLog) -> TransactionManager {
    let builder = world.builder().log(log);
    let builder = builder.resource(&world.orders).resource(&world.ledger);
    builder.start().await.unwrap()
}

fn servers(world: &World) -> [MemoryServer; 2] {
    [&world.orders, &world.ledger].map(|resource| resource.server().clone())
}

fn asked(world: &World, step: TableStep) -> usize {
    let wanted = Event::Log(LogStep::Table(step));
    world.journal.count(|event| *event == wanted)
}

/// Nobody knows, and nothing goes on: no connection is kept, and nothing is asked again and again.
async fn assert_left_to_a_person(
    world: &World,
    tm: &TransactionManager,
    gtrid: Gtrid,
    left: usize,
) {
    let is_closed = || {
        servers(world)
            .iter()
            .all(|server| server.open_sessions() == 0)
    };
    eventually("its connections are closed", is_closed).await;
    sleep(A_MINUTE).await;
    let count = |world| asked(world, TableStep::Decide) + asked(world, TableStep::PutRollback);
    let before = count(world);
    sleep(A_MINUTE).await;
    assert_eq!(count(world), before, "nobody repeats it");
    let report = tm.recover().await;
    let of_all = report.resources.iter().flat_map(|resource| &resource.left);
    let told: Vec<_> = of_all.map(|(xid, why)| (xid.gtrid, why.clone())).collect();
    let why = Left::Plan(LeaveReason::DecisionMayBeLost);
    assert_eq!(told, vec![(gtrid, why); left]);
    assert!(!report.is_clean());
    let survey = tm.survey().await;
    let of_all = survey
        .resources
        .iter()
        .flat_map(|resource| &resource.branches);
    let in_doubt = of_all.filter(|branch| branch.planned.is_in_doubt());
    assert_eq!(in_doubt.count(), left);
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Unknown);
    let prepared: usize = servers(world)
        .iter()
        .map(|server| server.prepared().len())
        .sum();
    assert_eq!(prepared, left, "nobody has ended them");
}

fn assert_undetermined(answer: Result<unanimous::Committed, CommitError>) {
    match answer {
        Err(CommitError::Undetermined { reason, .. }) => {
            assert!(reason.contains("cannot be found out any more"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

/// It was recorded, the reply was lost, and with the fail-over the record.
#[tokio::test(start_paused = true)]
async fn i3_a_transaction_whose_decision_a_fail_over_may_have_lost_is_left_to_a_person() {
    let world = World::new();
    let table = MemoryTable::with("log", world.journal.clone());
    let tm = start(&world, home(&table).last_resource(false)).await;
    table.fail_next(TableStep::Decide, TableFault::LoseReply);
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let answer = tokio::spawn(tx.commit());
    sleep(Duration::from_millis(10)).await;
    assert!(table.row(gtrid).is_some());
    table.fail_over(false);
    assert_eq!(table.row(gtrid), None);
    assert_undetermined(answer.await.unwrap());
    assert_left_to_a_person(&world, &tm, gtrid, 2).await;
    // Others go on.
    let tx = tm.begin();
    tx.commit().await.unwrap();
}

/// The old server was given the data of the new one, and takes over again: its identity is the one
/// on which the decision was made, and its data are not.
#[tokio::test(start_paused = true)]
async fn i1_a_server_that_comes_back_without_the_decision_is_not_taken_for_the_one_that_had_it() {
    let world = World::new();
    let table = MemoryTable::with("log", world.journal.clone());
    let tm = start(&world, home(&table).last_resource(false)).await;
    table.fail_next(TableStep::Decide, TableFault::LoseReply);
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let answer = tokio::spawn(tx.commit());
    sleep(Duration::from_millis(10)).await;
    table.fail_over(false);
    assert_undetermined(answer.await.unwrap());
    table.move_to("log");
    assert_left_to_a_person(&world, &tm, gtrid, 2).await;
}

/// The last resource has committed, and is lost with the decision.
#[tokio::test(start_paused = true)]
async fn i3_a_transaction_whose_last_resource_a_fail_over_has_lost_is_left_to_a_person() {
    let world = World::new();
    let table = MemoryTable::with("orders", world.journal.clone());
    world.orders.server().hosts(&table);
    let tm = start(&world, home(&table)).await;
    world
        .orders
        .server()
        .fail_next(Step::CommitLast, Fault::LoseReply);
    table.fail_next(TableStep::PutRollback, TableFault::NotSent);
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let answer = tokio::spawn(tx.commit());
    sleep(Duration::from_millis(10)).await;
    assert!(table.row(gtrid).is_some());
    table.fail_over(false);
    assert_undetermined(answer.await.unwrap());
    assert_left_to_a_person(&world, &tm, gtrid, 1).await;
}

/// A pause of more than an hour: others have closed its epoch, and released it. On the same server,
/// the log's answer for a closed epoch is final: what is prepared was not decided.
#[tokio::test(start_paused = true)]
async fn i3_a_transaction_whose_epoch_was_released_is_ended_as_the_log_says() {
    let world = World::new();
    let table = MemoryTable::with("log", world.journal.clone());
    let tm = start(&world, home(&table).last_resource(false)).await;
    table.fail_next(TableStep::Decide, TableFault::LoseRequest);
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let answer = tokio::spawn(tx.commit());
    sleep(Duration::from_millis(10)).await;
    table.close(gtrid.opening.epoch).await.unwrap();
    table.release(gtrid.opening.epoch).await.unwrap();
    assert_undetermined(answer.await.unwrap());
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
    assert_eq!(table.row_count(), 0);
}

/// Fails the log's database over when a pass has read it.
struct FailOver {
    table: MemoryTable,
    is_armed: Arc<AtomicBool>,
}

#[async_trait]
impl Probe for FailOver {
    async fn reached(&self, point: Point) {
        if matches!(point, Point::LogRead(_)) && self.is_armed.swap(false, Ordering::SeqCst) {
            self.table.fail_over(false);
        }
    }
}

/// The fail-over has lost that it was closed: its branches are its owner's business again.
#[tokio::test(start_paused = true)]
async fn i5_nothing_is_proven_of_an_epoch_that_a_fail_over_has_opened_again() {
    let world = World::new();
    let table = MemoryTable::with("log", world.journal.clone());
    let is_armed = Arc::<AtomicBool>::default();
    let probe = FailOver {
        table: table.clone(),
        is_armed: Arc::clone(&is_armed),
    };
    let builder = world.builder().log(home(&table)).probe(Arc::new(probe));
    let builder = builder.resource(&world.orders).resource(&world.ledger);
    let tm = builder.start().await.unwrap();
    let owner = Box::new(home(&table)).open().await.unwrap();
    let gtrid = owner.opening().gtrid(1);
    let branch = BranchRecord {
        resource: "ledger".parse().unwrap(),
        identity: ServerIdentity::new("ledger").unwrap(),
        evidence: Evidence::default(),
    };
    let branches = vec![branch];
    owner
        .decide(&DecisionRecord { gtrid, branches })
        .await
        .unwrap();
    tm.recover().await;
    table.close(gtrid.opening.epoch).await.unwrap();
    is_armed.store(true, Ordering::SeqCst);
    eventually("a pass has read it", || !is_armed.load(Ordering::SeqCst)).await;
    sleep(A_MINUTE).await;
    let proofs = world.journal.count(|event| {
        matches!(
            event,
            Event::Asked {
                step: Step::Absent,
                ..
            }
        )
    });
    assert_eq!(proofs, 0);
    assert!(table.row(gtrid).is_some());
}

/// Its account may not write to the log's tables: that costs one transaction, which is retried.
#[tokio::test(start_paused = true)]
async fn a_branch_without_the_rights_of_a_last_resource_prepares_from_then_on() {
    let world = World::new();
    let table = MemoryTable::with("orders", world.journal.clone());
    world.orders.server().hosts(&table);
    let tm = start(&world, home(&table)).await;
    let no_rights = BranchErrorKind::RolledBack(Cause::NoRightsAsLast);
    let orders = world.orders.server();
    orders.fail_next(Step::CommitLast, Fault::Refuse(no_rights));
    let (one, other) = (&world.orders, &world.ledger);
    let tried = tm.retry(|mut tx| async move {
        write_both(tx.enlist((one, other)).await?, "1");
        tx.commit().await?;
        Ok::<_, unanimous::BoxError>(())
    });
    tried.await.unwrap();
    world.settle().await;
    assert_eq!(world.rows(), World::both("1"));
    world
        .begin_with_both(&tm, "2")
        .await
        .commit()
        .await
        .unwrap();
    let count = |wanted| {
        world.journal.count(|event| {
            matches!(event, Event::Asked { resource, step, .. }
                if resource.as_str() == "orders" && *step == wanted)
        })
    };
    assert_eq!((count(Step::CommitLast), count(Step::Prepare)), (1, 2));
}
