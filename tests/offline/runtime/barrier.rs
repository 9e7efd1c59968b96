//! Decisions of a shared log that somebody holds: members wait, and nobody's outcome is in doubt.

use std::time::Duration;

use unanimous::log::TableLog;
use unanimous::ports::{DecisionTable, LogHome};
use unanimous::{CommitError, RollbackCause, TransactionManager, TransactionOutcome};
use unanimous_core::ports::HeldDecisions;
use unanimous_testing::{MemoryTable, TableStep};

use super::World;

const LOCK_WAIT: Duration = Duration::from_millis(100);

/// A world whose log is a table that two members can share.
struct Held {
    world: World,
    table: MemoryTable,
}

impl Held {
    fn new() -> Self {
        let world = World::new();
        let table = MemoryTable::with("orders", world.journal.clone());
        world.orders.server().hosts(&table);
        table.set_lock_wait(LOCK_WAIT);
        Self { world, table }
    }

    async fn member(&self, last_resource: bool, deadline: Duration) -> TransactionManager {
        let log = TableLog::on(&self.table).last_resource(last_resource);
        let builder = self.world.builder().log(log).config(|config| {
            config.deadline = deadline;
        });
        let builder = builder.resource(&self.world.orders);
        builder.resource(&self.world.ledger).start().await.unwrap()
    }

    async fn hold(&self) -> Box<dyn HeldDecisions> {
        DecisionTable::hold(&self.table.another_link())
            .await
            .unwrap()
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn decisions_that_are_held_wait_longer_than_any_answer_and_are_made_then() {
    let held = Held::new();
    let tm = held.member(false, LONG).await;
    let barrier = held.hold().await;
    let tx = held.world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let committing = tokio::spawn(tx.commit());
    // Many locks' waits, and many times what `commit` waits for an answer.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!committing.is_finished(), "it waits");
    assert_eq!(held.table.row_count(), 0);
    assert_eq!(held.world.rows(), (None, None));
    barrier.end().await.unwrap();
    committing.await.unwrap().unwrap();
    assert_eq!(held.world.rows(), World::both("1"));
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Committed);
    held.world.settle().await;
    tm.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn i3_what_is_held_past_its_deadline_is_rolled_back_and_says_so() {
    let held = Held::new();
    let tm = held.member(false, Duration::from_secs(5)).await;
    let mut barrier = held.hold().await;
    let tx = held.world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let error = tx.commit().await.unwrap_err();
    let CommitError::RolledBack { cause, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(cause, RollbackCause::Held), "{error}");
    assert!(error.to_string().contains("unanimous barrier"), "{error}");
    held.world.settle().await;
    barrier.check().await.unwrap();
    barrier.end().await.unwrap();
    assert_eq!(held.table.row_count(), 0, "it was not decided afterwards");
    assert_eq!(held.world.rows(), (None, None));
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::RolledBack);
    tm.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn i1_a_last_resource_that_is_held_rolls_back_with_all_others() {
    let held = Held::new();
    let tm = held.member(true, LONG).await;
    let barrier = held.hold().await;
    let tx = held.world.begin_with_both(&tm, "1").await;
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    assert!(error.to_string().contains("decisions are held"), "{error}");
    held.world.settle().await;
    assert_eq!(held.world.rows(), (None, None));
    barrier.end().await.unwrap();
    held.world
        .begin_with_both(&tm, "2")
        .await
        .commit()
        .await
        .unwrap();
    assert_eq!(held.world.rows(), World::both("2"));
    tm.shutdown().await.unwrap();
}

/// Neither is an error to it.
#[tokio::test(start_paused = true)]
async fn whoever_joins_or_leaves_meanwhile_waits() {
    let held = Held::new();
    let before = held.member(true, LONG).await;
    let barrier = held.hold().await;
    let leaving = tokio::spawn(async move { before.shutdown().await });
    let joining = held.member(true, LONG);
    let mut joining = std::pin::pin!(joining);
    let waited = tokio::time::timeout(Duration::from_secs(3), &mut joining).await;
    assert!(waited.is_err(), "it has joined");
    assert_eq!(held.table.openings().len(), 1);
    assert!(!held.table.openings()[0].is_closed);
    assert!(held.world.journal.count(is_join) > 3);
    barrier.end().await.unwrap();
    let tm = joining.await;
    held.world
        .begin_with_both(&tm, "1")
        .await
        .commit()
        .await
        .unwrap();
    leaving.await.unwrap().unwrap();
    tm.shutdown().await.unwrap();
    assert_eq!(held.world.rows(), World::both("1"));
}

fn is_join(event: &unanimous_testing::Event) -> bool {
    let wanted = unanimous_testing::LogStep::Table(TableStep::Join);
    *event == unanimous_testing::Event::Log(wanted)
}

/// Whoever wants to close a dead member's epoch waits for the barrier, and gives signs of life all
/// the same.
#[tokio::test(start_paused = true)]
async fn i5_nobody_alive_is_taken_for_dead_because_of_a_barrier() {
    for quarters_of_a_second in 6..24 {
        let held = Held::new();
        held.table.set_lock_wait(Duration::from_secs(3));
        let open = || {
            let log = TableLog::on(&held.table.another_link());
            Box::new(log.suspect_after(Duration::from_secs(1))).open()
        };
        let living = [open().await.unwrap(), open().await.unwrap()];
        drop(open().await.unwrap());
        let before = [living[0].opening(), living[1].opening()];
        let barrier = held.hold().await;
        tokio::time::sleep(Duration::from_millis(250 * quarters_of_a_second)).await;
        barrier.end().await.unwrap();
        tokio::time::sleep(LONG).await;
        assert_eq!([living[0].opening(), living[1].opening()], before);
        let closed: Vec<_> = held
            .table
            .openings()
            .iter()
            .map(|row| row.is_closed)
            .collect();
        assert_eq!(closed, [false, false, true]);
    }
}

/// With the limits that everybody has who sets none: they wait for more than one batch's turn.
#[tokio::test(start_paused = true)]
async fn i3_however_many_are_held_nobody_is_told_that_nobody_knows() {
    let held = Held::new();
    held.table.set_lock_wait(Duration::from_secs(5));
    let log = TableLog::on(&held.table).last_resource(false);
    let builder = held.world.builder().log(log).config(|config| {
        config.deadline = LONG;
        config.decide_timeout = Duration::from_secs(10);
    });
    let (orders, ledger) = (&held.world.orders, &held.world.ledger);
    let tm = builder
        .resource(orders)
        .resource(ledger)
        .start()
        .await
        .unwrap();
    let barrier = held.hold().await;
    let mut committing = tokio::task::JoinSet::new();
    for number in 0..600 {
        let mut tx = tm.begin();
        let (one, other) = tx.enlist((orders, ledger)).await.unwrap();
        one.put(&format!("k{number}"), "1").unwrap();
        other.put(&format!("k{number}"), "1").unwrap();
        committing.spawn(tx.commit());
    }
    tokio::time::sleep(LONG / 2).await;
    barrier.end().await.unwrap();
    while let Some(committed) = committing.join_next().await {
        committed.unwrap().unwrap();
    }
}
