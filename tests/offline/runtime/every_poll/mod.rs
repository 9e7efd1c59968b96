//! I7, exhaustively: the future of every public async function is dropped after its kth poll, for
//! every k until it is completed.
//!
//! In memory, every request, every reply and every named point takes a tick of virtual time, and
//! the future is polled once in every tick: so k goes through every stage of the work that other
//! tasks do for it, and is the same in every run. Each k has a world of its own: afterwards the
//! transaction is there as a whole or not at all, `outcome` tells the truth, nothing is
//! prepared, no session is open, the manager goes on and ends, and its log opens again.
//!
//! What needs real servers is in `tests/live/cancel`; that no function is missed is seen to in
//! `tests/offline/tidy/futures.rs`.

mod file_log;
mod last_resource;
mod manager;
mod operator;
mod table_log;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;
use unanimous::ports::{ByHand, HandAct, HandState, Remark, UnixTime};
use unanimous::{
    Decision, Gtrid, Opening, Point, Probe, Transaction, TransactionManager,
    TransactionManagerBuilder, TransactionOutcome,
};
use unanimous_testing::drop_after_ticks;

use super::attack::soon;
use super::{World, write_both};

const TICK: Duration = Duration::from_millis(1);

/// More polls than any future here needs.
const POLLS_MAX: usize = 1000;

/// Takes a tick at every named point.
struct Pauses;

#[async_trait]
impl Probe for Pauses {
    async fn reached(&self, _point: Point) {
        sleep(TICK).await;
    }

    fn luck(&self) -> Option<u32> {
        Some(0)
    }
}

/// Runs `one` with 0, 1, 2, … polls, each in a world of its own, until it says that the future was
/// completed. A future that is completed after fewer polls than expected was not dropped where it
/// should have been.
async fn at_every_poll(polls_min: usize, one: impl AsyncFn(World, usize) -> bool) {
    for polls in 0..POLLS_MAX {
        if one(World::slow(), polls).await {
            completed_after(polls, polls_min);
            return;
        }
    }
    panic!("not completed after {POLLS_MAX} polls");
}

fn completed_after(polls: usize, polls_min: usize) {
    let thread = std::thread::current();
    println!("{}: {polls} polls", thread.name().unwrap_or_default());
    assert!(polls >= polls_min, "completed after {polls} polls already");
}

/// The future polled in every tick; `None` if it was dropped.
async fn polled<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    drop_after_ticks(polls, TICK, future).await
}

impl World {
    /// A world in which everything takes time.
    fn slow() -> Self {
        let world = Self::new();
        world.orders.server().slow_down(TICK);
        world.ledger.server().slow_down(TICK);
        world.log.slow_down(TICK);
        world
    }

    fn slow_builder(&self) -> TransactionManagerBuilder {
        let builder = self.builder().probe(Arc::new(Pauses));
        builder.resource(&self.orders).resource(&self.ledger)
    }

    async fn start_slow(&self) -> TransactionManager {
        self.slow_builder().start().await.unwrap()
    }

    /// The transaction has ended as a whole, and its outcome is true. Is it committed?
    async fn is_committed_whole(&self, tm: &TransactionManager, gtrid: Gtrid) -> bool {
        let outcome = soon("the transaction", ended(tm, gtrid)).await;
        self.settle().await;
        if outcome == TransactionOutcome::Committed {
            return true;
        }
        assert_eq!(outcome, TransactionOutcome::RolledBack);
        assert_eq!(self.rows(), (None, None), "rolled back");
        false
    }

    /// The manager goes on, ends, and its log opens again.
    async fn goes_on(&self, tm: TransactionManager) {
        self.commits(&tm, "next").await;
        let report = soon("a recovery pass", tm.recover()).await;
        assert!(report.is_clean(), "{report:?}");
        soon("the shutdown", tm.shutdown()).await.unwrap();
        drop(tm);
        self.opens_again().await;
    }

    async fn opens_again(&self) {
        let tm = soon("the next start", self.start()).await;
        self.commits(&tm, "last").await;
        soon("the last shutdown", tm.shutdown()).await.unwrap();
        self.settle().await;
    }

    /// Sessions can be had, and rows be written.
    async fn commits(&self, tm: &TransactionManager, value: &str) {
        let committed = soon("the next transaction", async {
            let tx = self.begin_with_both(tm, value).await;
            tx.commit().await.unwrap()
        });
        assert_eq!(committed.await.unfinished(), []);
        assert_eq!(self.rows(), Self::both(value));
    }

    async fn write(&self, tx: &mut Transaction, value: &str) {
        let branches = tx.enlist((&self.orders, &self.ledger)).await.unwrap();
        write_both(branches, value);
    }
}

/// What became of it, once it is not in doubt.
async fn ended(tm: &TransactionManager, gtrid: Gtrid) -> TransactionOutcome {
    loop {
        let outcome = tm.outcome(gtrid).await.unwrap();
        if outcome != TransactionOutcome::InDoubt {
            return outcome;
        }
        sleep(TICK).await;
    }
}

/// What a person meant to do with a branch.
fn by_hand(by: Opening) -> ByHand {
    ByHand {
        id: 7,
        gtrid: by.gtrid(1),
        resource: "orders".parse().unwrap(),
        act: HandAct::End(Decision::Rollback),
        by,
        who: Remark::new("alice@db7").unwrap(),
        when: UnixTime(1_790_000_000),
        reason: Remark::new("it blocks the orders").unwrap(),
        proof: None,
        state: HandState::Intended,
    }
}
