//! What recovery sees and does; what it does is what the core's plan says.

use unanimous_core::protocol::{Decision, EpochView, Resolution, plan};
use unanimous_core::xid::{Epoch, ManagerId, Opening, Xid};

use super::{Bug, ServerBranch, World, WorldState};

impl WorldState {
    pub(super) fn view(&self) -> EpochView {
        let opening = |epoch: u32| Opening {
            manager: ManagerId::from_bytes([1; 10]),
            epoch: Epoch(epoch),
            nonce: u64::from(epoch),
        };
        let xid = Xid {
            gtrid: opening(0).gtrid(1),
            bqual: "orders".parse().expect("a resource name"),
        };
        EpochView::of(&xid, opening(self.epoch), |candidate| {
            let epoch = (0..=self.epoch).find(|epoch| opening(*epoch) == *candidate);
            epoch.map(|epoch| epoch < self.epoch)
        })
    }

    pub(super) fn look_a(&mut self, world: &World, i: usize) {
        let is_listed = self.running.is_some() || self.is_stuck_in_a;
        let is_active = is_listed && world.bug != Bug::LeavesOutA;
        let view = self.view();
        let pass = self.passes[i].as_mut().expect("a pass looks");
        pass.is_active = Some(is_active);
        // The plan wants to know nothing more of a running transaction.
        if is_active && pass.is_decided.is_none() {
            let nobody_asks = || panic!("A is asked first");
            let resolution = plan(view, || true, nobody_asks, nobody_asks);
            assert!(matches!(resolution, Resolution::LeaveAlone(_)));
            self.passes[i] = None;
        }
    }

    pub(super) fn look_q(&mut self, world: &World, i: usize) {
        let pass = self.passes[i].take().expect("a pass looks");
        let is_still_prepared = self.servers[i] == ServerBranch::Prepared;
        let resolution = plan(
            self.view(),
            || pass.is_active.expect("A was looked at"),
            || pass.is_decided.expect("T was looked at"),
            || is_still_prepared || world.bug == Bug::LeavesOutQ,
        );
        let decision = match resolution {
            Resolution::Commit => Decision::Commit,
            Resolution::RollBackOrphan => Decision::Rollback,
            Resolution::LeaveAlone(_) => return,
        };
        *self.finishes[i].of(decision) = true;
        self.ended_running |= self.running.is_some();
        self.contradicted_record |= (decision == Decision::Commit) != self.was_durable;
    }

    /// Another connection finishes the branch, if it is still there to be finished.
    pub(super) fn finish_arrives(&mut self, i: usize, decision: Decision) {
        *self.finishes[i].of(decision) = false;
        if self.servers[i] == ServerBranch::Prepared {
            self.servers[i] = match decision {
                Decision::Commit => ServerBranch::Committed,
                Decision::Rollback => ServerBranch::RolledBack,
            };
            self.recovered[i] = true;
        }
    }

    pub(super) fn see_gone(&mut self, world: &World) {
        let count = self.gone_count.take().expect("somebody looks");
        if self.servers[count] == ServerBranch::Prepared {
            return;
        }
        let enough = if world.bug == Bug::CompletesTooEarly {
            1
        } else {
            2
        };
        if count + 1 == enough {
            self.complete();
        } else {
            self.gone_count = Some(count + 1);
        }
    }
}
