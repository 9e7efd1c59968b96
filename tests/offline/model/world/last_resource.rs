//! A last resource: the decision is written inside its own transaction, which commits in one phase.
//!
//! The core has no command for it. To the core it is the log: its `decide` is that commit, so that
//! record and branch are there together or not at all. Whoever did not hear the answer cannot
//! repeat it, for the transaction is gone with its connection: a refusal is put under the same key
//! instead, which finds what is recorded, and beats a commit that arrives later.

use super::{Bug, Deciding, Record, ServerBranch, World, WorldState};

impl WorldState {
    /// Recorded, and the last resource is committed in the same step.
    pub(super) fn record(&mut self) {
        self.log.record = Record::Written;
        if self.last.is_some() {
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
        match self.log.record {
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
