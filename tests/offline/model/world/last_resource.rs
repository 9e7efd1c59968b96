//! A last resource: the decision is written inside its own transaction, which commits in one phase.
//!
//! To the core it is one more writer, behind all others, whose commit it commands once they have
//! prepared. That commit and the record are there together or not at all. Whoever did not hear the
//! answer cannot repeat it, for the transaction is gone with its connection: a refusal is put under
//! the same key instead, which finds what is recorded, and beats a commit that arrives later.

use unanimous_core::protocol::{BranchIndex, Coordinator, Finish};

use super::{Bug, Deciding, Record, ServerBranch, World, WorldState};

impl World {
    /// The one that the core is told to ask last.
    pub(super) fn last(&self) -> Option<BranchIndex> {
        let behind_all_others = BranchIndex(self.branches.len());
        self.has_last_resource.then_some(behind_all_others)
    }
}

impl WorldState {
    /// Asks it to commit.
    pub(super) fn ask_last(&mut self) {
        self.log.deciding = Deciding::Asked;
        self.send_last();
    }

    /// On a connection whose other end is gone, the request is lost.
    pub(super) fn send_last(&mut self) {
        self.log.is_under_way = self.last == Some(ServerBranch::Active);
    }

    /// It has no part in phase two and is not prepared: without a connection it is rolled back.
    pub(super) fn roll_back_last(&mut self, running: &mut Coordinator, index: BranchIndex) {
        self.disconnect_last();
        running.handle_rolled_back(index, Finish::Done);
    }

    /// Recorded, and the last resource is committed in the same step.
    pub(super) fn record(&mut self) {
        self.log.record = Record::Written;
        if self.last.is_some() {
            assert_eq!(self.last, Some(ServerBranch::Active), "it can commit");
            self.last = Some(ServerBranch::Committed);
        }
    }

    /// Not recorded, and the last resource is rolled back in the same step.
    pub(super) fn refuse_last(&mut self, world: &World, is_asked: bool) {
        self.cut_last();
        if is_asked {
            self.refused(world);
        }
    }

    /// On a fresh connection.
    pub(super) fn insert_refusal(&mut self, world: &World, heard: bool) {
        let is_running = self.log.is_under_way && self.log.is_open;
        match self.log.record {
            // The row that the running commit has put there is not seen, and not waited for.
            Record::Absent if world.bug == Bug::RefusesBesideRunning && is_running => {
                return self.refused(world);
            }
            Record::Absent => self.log.record = Record::Refused,
            Record::Completed if world.bug == Bug::ForgetsTooEarly => {
                self.log.record = Record::Refused;
            }
            Record::Written => self.make_durable(),
            Record::Durable | Record::Completed | Record::Refused => {}
        }
        match self.log.record {
            _ if !heard => {}
            Record::Refused => self.refused(world),
            Record::Absent | Record::Written | Record::Durable | Record::Completed => {
                self.log.deciding = Deciding::Answered;
            }
        }
    }

    /// What a wrong driver does instead: has the log decide, without the last resource.
    pub(super) fn decide_without_last(&mut self) {
        self.cut_last();
        self.log.deciding = Deciding::Asked;
        if self.log.is_open && self.log.record == Record::Absent {
            self.log.record = Record::Written;
        }
    }

    /// Its commit was not durable: it is lost with the record.
    pub(super) fn lose_last(&mut self) {
        if self.last.is_some() {
            self.last = Some(ServerBranch::RolledBack);
        }
    }

    /// Its connection is gone, unless a commit is still under way on it.
    pub(super) fn disconnect_last(&mut self) {
        if !self.log.is_under_way {
            self.cut_last();
        }
    }

    /// Its session has ended, and with it what is under way.
    pub(super) fn cut_last(&mut self) {
        if self.last == Some(ServerBranch::Active) {
            self.last = Some(ServerBranch::RolledBack);
            self.log.is_under_way = false;
        }
    }
}
