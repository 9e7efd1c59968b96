//! A commit in one phase whose reply was lost: what may be believed of its end.

use unanimous_core::protocol::{BranchIndex, BranchRole, OnePhaseEnd};

use super::{BranchSpec, Bug, Inquiry, Kind, ServerBranch, World, WorldState};

impl World {
    /// Exactly one branch may write.
    pub(super) fn commits_in_one_phase(&self) -> bool {
        let is_writer = |spec: &&BranchSpec| spec.role == BranchRole::Writer;
        self.branches.iter().filter(is_writer).count() == 1 && !self.has_last_resource
    }
}

impl WorldState {
    /// The reply will not be heard. Where the server can tell, it is asked.
    pub(super) fn miss_one_phase(&mut self, world: &World, i: usize) {
        self.disconnect(i);
        match world.branches[i].kind {
            Kind::Plain => self.branches[i].inquiry.is_wanted = true,
            Kind::Holding => self.answer_inquiry(world, i, None),
        }
    }

    /// Sees the session gone, and then asks for the end of the transaction's number.
    pub(super) fn ask_status(&mut self, world: &World, i: usize) {
        if world.bug != Bug::BelievesStatusUnfenced {
            self.branches[i].wire.ask = None;
            self.disconnect(i);
        }
        let branch = &self.branches[i];
        let is_same_start = !branch.inquiry.has_restarted;
        let is_committed = branch.server == ServerBranch::Committed || branch.inquiry.is_given_away;
        let is_believed = is_same_start || world.bug == Bug::BelievesStatusAcrossRestart;
        self.answer_inquiry(world, i, is_believed.then_some(is_committed));
    }

    /// `is_committed`: `None` if nobody can tell.
    pub(super) fn answer_inquiry(&mut self, world: &World, i: usize, is_committed: Option<bool>) {
        self.branches[i].inquiry = Inquiry::default();
        let end = match is_committed {
            Some(true) => OnePhaseEnd::Committed,
            Some(false) => OnePhaseEnd::RolledBack,
            None => OnePhaseEnd::Undetermined,
        };
        self.drive(world, |running| {
            running.handle_one_phase(BranchIndex(i), end);
        });
    }
}
