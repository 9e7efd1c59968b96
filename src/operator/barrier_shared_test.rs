//! A barrier on a shared log, and people who end branches by hand beside it.

use std::sync::Arc;

use unanimous_core::ports::{DecisionLog, DecisionRecord, HandAct, LogHome, Remark, UnixTime};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::Opening;
use unanimous_testing::MemoryTable;

use super::*;
use crate::log::TableLog;

fn by_hand(by: Opening, act: HandAct, state: HandState) -> ByHand {
    ByHand {
        id: 7,
        gtrid: by.gtrid(1),
        resource: "orders".parse().unwrap(),
        act,
        by,
        who: Remark::new("alice@db7").unwrap(),
        when: UnixTime(1_790_000_000),
        reason: Remark::new("it blocks the orders").unwrap(),
        proof: None,
        state,
    }
}

struct World {
    table: MemoryTable,
    member: Arc<dyn DecisionLog>,
}

impl World {
    async fn new() -> Self {
        let table = MemoryTable::new("log");
        let member = Box::new(TableLog::on(&table)).open().await.unwrap();
        Self { table, member }
    }

    async fn record(&self, act: HandAct, state: HandState) {
        let record = by_hand(self.member.opening(), act, state);
        self.member.record_by_hand(&record).await.unwrap();
    }

    async fn stand(&self) -> Result<HeldTable, OperatorError> {
        self.stand_within(Duration::from_millis(300)).await
    }

    async fn stand_within(&self, within: Duration) -> Result<HeldTable, OperatorError> {
        let wanted = BarrierOptions {
            within,
            ..BarrierOptions::default()
        };
        let stood = stand_shared(Arc::new(self.table.another_link()), &wanted);
        stood.await.map(|(held, _, _)| held)
    }

    async fn another_member(&self) -> Arc<dyn DecisionLog> {
        let log = TableLog::on(&self.table.another_link());
        Box::new(log).open().await.unwrap()
    }
}

const ROLLBACK: HandAct = HandAct::End(Decision::Rollback);

#[tokio::test(start_paused = true)]
async fn a_barrier_does_not_stand_beside_somebody_who_is_ending_a_branch_by_hand() {
    let world = World::new().await;
    world.record(ROLLBACK, HandState::Intended).await;
    let error = world.stand().await.unwrap_err().to_string();
    assert!(error.contains("alice@db7"), "{error}");
    world.record(ROLLBACK, HandState::Done).await;
    let held = world.stand().await.unwrap();
    held.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_barrier_has_not_held_if_somebody_ended_a_branch_by_hand_meanwhile() {
    for (act, has_held) in [(ROLLBACK, false), (HandAct::Forget, true)] {
        let world = World::new().await;
        let held = world.stand().await.unwrap();
        world.record(act, HandState::Intended).await;
        world.record(act, HandState::Done).await;
        let ended = held.end().await;
        assert_eq!(ended.is_ok(), has_held, "{ended:?}");
        let told = ended.is_err_and(|error| error.to_string().contains("by hand"));
        assert_eq!(told, !has_held);
    }
}

/// The tool was killed, and nobody has closed its epoch yet: what would do that, and every
/// decision, would wait for the barrier's locks.
#[tokio::test(start_paused = true)]
async fn i6_no_decision_waits_for_a_tool_that_has_died_with_a_branch_in_its_hand() {
    let world = World::new().await;
    world.record(ROLLBACK, HandState::Intended).await;
    let other = world.another_member().await;
    let deciding = async {
        let mut longest = Duration::ZERO;
        for sequence in 1..=20 {
            sleep(LOOK_PAUSE).await;
            let begun = Instant::now();
            let gtrid = other.opening().gtrid(sequence);
            let branches = Vec::new();
            let decision = DecisionRecord { gtrid, branches };
            other.decide(&decision).await.unwrap();
            other.complete(gtrid);
            longest = longest.max(begun.elapsed());
        }
        longest
    };
    let (stood, longest) = tokio::join!(world.stand_within(Duration::from_secs(3)), deciding);
    let error = stood.unwrap_err().to_string();
    assert!(error.contains("unanimous recover"), "{error}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn i6_a_barrier_stands_once_the_epoch_of_a_tool_that_has_died_is_closed() {
    let world = World::new().await;
    world.record(ROLLBACK, HandState::Intended).await;
    let other = world.another_member().await;
    let closing = async {
        sleep(CHECK_PAUSE).await;
        let begun = Instant::now();
        let dead = world.member.opening().epoch;
        other.close(dead).await.unwrap();
        begun.elapsed()
    };
    let (stood, took) = tokio::join!(world.stand_within(Duration::from_secs(10)), closing);
    assert!(took < Duration::from_secs(1), "{took:?}");
    stood.unwrap().end().await.unwrap();
}

/// A pass of a member, under the barrier, finds out what became of it.
#[tokio::test(start_paused = true)]
async fn a_barrier_has_held_if_what_a_dead_tool_meant_is_found_not_done() {
    for (found, has_held) in [
        (HandState::Void, true),
        (HandState::Unproven, false),
        (HandState::Done, false),
    ] {
        let world = World::new().await;
        world.record(ROLLBACK, HandState::Intended).await;
        let other = world.another_member().await;
        other.close(world.member.opening().epoch).await.unwrap();
        let held = world.stand().await.unwrap();
        let record = by_hand(world.member.opening(), ROLLBACK, found);
        other.record_by_hand(&record).await.unwrap();
        let ended = held.end().await;
        assert_eq!(ended.is_ok(), has_held, "{found:?}: {ended:?}");
        let told = ended.is_err_and(|error| error.to_string().contains("perhaps done"));
        assert_eq!(told, !has_held, "{found:?}");
    }
}
