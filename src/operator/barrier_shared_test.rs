//! A barrier on a shared log, and people who end branches by hand beside it.

use std::sync::Arc;

use unanimous_core::ports::{DecisionLog, HandAct, LogHome, Remark, UnixTime};
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
        let wanted = BarrierOptions {
            within: Duration::from_millis(300),
            ..BarrierOptions::default()
        };
        let stood = stand_shared(Arc::new(self.table.another_link()), &wanted);
        stood.await.map(|(held, _, _)| held)
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
