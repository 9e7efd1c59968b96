//! What recovery sees and does; what it does is what the core's plan says.

use unanimous_core::protocol::{Decision, EpochView, Resolution, plan};
use unanimous_core::xid::{Epoch, ManagerId, Opening, Xid};

use super::{Bug, OWNER, Pass, Prepared, Record, ServerBranch, World, WorldState};

const fn opening(epoch: u32) -> Opening {
    Opening {
        manager: ManagerId::from_bytes([1; 10]),
        epoch: Epoch(epoch),
        nonce: epoch as u64,
    }
}

/// Of the transaction.
const FIRST: Opening = opening(0);

impl WorldState {
    /// The transaction's epoch as `member` sees it.
    pub(super) fn view(&self, world: &World, member: usize) -> EpochView {
        let own = match member {
            OWNER if self.members[OWNER].has_first_opening => FIRST,
            OWNER => opening(2),
            _ => opening(1),
        };
        let xid = Xid {
            gtrid: FIRST.gtrid(1),
            bqual: "orders".parse().expect("a resource name"),
        };
        let listed = [FIRST, opening(1), own];
        let is_forgotten =
            world.bug == Bug::ForgetsOpening && !self.log.is_open && !self.is_pending();
        let view = EpochView::of(&xid, own, |candidate| {
            let is_listed = listed.contains(candidate) && !(is_forgotten && *candidate == FIRST);
            is_listed.then(|| *candidate == FIRST && !self.log.is_open)
        });
        match (view, world.bug) {
            (EpochView::OtherOpen, Bug::EndsOthersOpen) => EpochView::Closed,
            _ => view,
        }
    }

    /// A, which only the transaction's own process has.
    fn is_listed_in_a(&self, world: &World, member: usize) -> bool {
        let is_listed = self.running.is_some() || self.is_stuck_in_a;
        member == OWNER && is_listed && world.bug != Bug::LeavesOutA
    }

    fn pass(&mut self, m: usize, i: usize) -> &mut Pass {
        self.branches[i].passes[m].as_mut().expect("a pass looks")
    }

    pub(super) fn look_a(&mut self, world: &World, m: usize, i: usize) {
        let is_active = self.is_listed_in_a(world, m);
        let view = self.view(world, m);
        let pass = self.pass(m, i);
        pass.is_active = Some(is_active);
        // The plan wants to know nothing more of a running transaction.
        if is_active && pass.recorded.is_none() {
            let nobody_asks = || panic!("A is asked first");
            let resolution = plan(view, || true, nobody_asks, nobody_asks);
            assert!(matches!(resolution, Resolution::LeaveAlone(_)));
            self.branches[i].passes[m] = None;
        }
    }

    /// The openings first, then the decisions. Whoever reads a record makes it durable.
    pub(super) fn look_t(&mut self, world: &World, m: usize, i: usize) {
        let view = self.view(world, m);
        if view == EpochView::OtherOpen && world.bug != Bug::LooksAtTBeforeClosed {
            let nobody_asks = || panic!("nothing else matters");
            let resolution = plan(view, nobody_asks, nobody_asks, nobody_asks);
            assert!(matches!(resolution, Resolution::LeaveAlone(_)));
            self.branches[i].passes[m] = None;
            return;
        }
        if self.log.record == Record::Written && world.bug != Bug::ActsOnUnsynced {
            self.make_durable();
        }
        let is_decided = self.is_pending();
        let pass = self.pass(m, i);
        pass.recorded = Some((view, is_decided));
        if m != OWNER {
            pass.is_active = Some(false);
        }
    }

    /// The record as the log answers it (T).
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.log.record, Record::Written | Record::Durable)
    }

    pub(super) fn look_q(&mut self, world: &World, m: usize, i: usize) {
        let pass = self.branches[i].passes[m].take().expect("a pass looks");
        let is_still_prepared = self.branches[i].server.is_prepared();
        let (mut view, is_decided) = pass.recorded.expect("T was looked at");
        if world.bug == Bug::LooksAtTBeforeClosed {
            view = self.view(world, m);
        }
        let resolution = plan(
            view,
            || pass.is_active.expect("A was looked at"),
            || is_decided,
            || is_still_prepared || world.bug == Bug::LeavesOutQ,
        );
        let decision = match resolution {
            Resolution::Commit => Decision::Commit,
            Resolution::RollBackOrphan => Decision::Rollback,
            Resolution::LeaveAlone(_) => return,
        };
        *self.branches[i].finishes.of(decision) = true;
        self.ended_running |= self.may_be_decided_beside(m);
        self.contradicted_record |= (decision == Decision::Commit) != self.log.was_durable;
    }

    /// The transaction runs, and no closed epoch keeps `member` and its owner apart.
    fn may_be_decided_beside(&self, member: usize) -> bool {
        self.running.is_some() && (self.log.is_open || member == OWNER)
    }

    /// Whether `member` may complete the decision. It need not have read it: what was decided
    /// before the epoch was closed, or before the transaction left A, was prepared before that.
    pub(super) fn may_complete(&self, world: &World, member: usize) -> bool {
        match self.view(world, member) {
            EpochView::OwnOpen | EpochView::Closed => !self.is_listed_in_a(world, member),
            EpochView::OtherOpen => world.bug == Bug::DeletesOthersOpen,
            EpochView::Unlisted
            | EpochView::MayBeLost
            | EpochView::OtherManager
            | EpochView::EndedOtherwise => false,
        }
    }

    pub(super) fn see_gone(&mut self, world: &World) {
        let looker = self.looker.expect("somebody looks");
        let branch = self.branches[looker.gone].server;
        // The wrong one asks to commit what is listed, and is answered that it is not known.
        let is_unknown = branch == ServerBranch::Prepared(Prepared::Held)
            && world.bug == Bug::TakesUnknownForDone;
        self.saw(world, !branch.is_prepared() || is_unknown);
    }

    /// A standby's list counts for nothing.
    pub(super) fn see_nothing(&mut self, world: &World) {
        self.saw(world, world.bug == Bug::BelievesEmptyList);
    }

    fn saw(&mut self, world: &World, is_gone: bool) {
        let Some(mut looker) = self.looker.take() else {
            return;
        };
        looker.gone += 1;
        let missing = usize::from(world.bug == Bug::CompletesTooEarly);
        if is_gone && looker.gone + missing >= self.branches.len() {
            self.complete();
        } else if is_gone {
            self.looker = Some(looker);
        }
    }
}
