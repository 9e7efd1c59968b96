//! What happens to the record of the decision, and in crashes.

use unanimous_core::protocol::Coordinator;

use super::{AT, BOTH, Bug, Deciding, Record, World, WorldState};

impl WorldState {
    pub(super) fn make_durable(&mut self) {
        self.record = Record::Durable;
        self.was_durable = true;
    }

    pub(super) fn decided(&mut self) {
        self.make_durable();
        self.deciding = Deciding::No;
        self.drive(|running| running.handle_decision_durable(AT));
    }

    pub(super) fn refused(&mut self) {
        self.deciding = Deciding::No;
        self.drive(Coordinator::handle_decision_refused);
    }

    pub(super) fn fail(&mut self, world: &World) {
        self.deciding = Deciding::Uncertain;
        let finds_nothing = self.record == Record::Absent;
        let gives_in = world.bug == Bug::RollsBackUncertain
            || world.bug == Bug::BelievesLookup && finds_nothing;
        if gives_in {
            self.deciding = Deciding::Abandoned;
            self.drive(Coordinator::handle_decision_refused);
        }
    }

    /// The epoch of the transaction is closed thereby, so that repeating the decision is answered
    /// for good.
    pub(super) fn reopen_log(&mut self, lucky: bool) {
        self.epoch += 1;
        match self.record {
            Record::Written if lucky => self.make_durable(),
            Record::Written => self.record = Record::Absent,
            Record::Absent | Record::Durable | Record::Completed => {}
        }
        if self.record == Record::Durable {
            self.decided();
        } else {
            self.refused();
        }
    }

    pub(super) fn complete(&mut self) {
        if self.record == Record::Durable {
            self.record = Record::Completed;
        }
    }

    pub(super) fn crash(&mut self, power: bool, lucky: bool) {
        self.crashes += 1;
        self.is_up = false;
        self.running = None;
        self.is_stuck_in_a = false;
        self.deciding = Deciding::No;
        self.passes = [None; 2];
        self.gone_count = None;
        match (self.record, power, lucky) {
            (Record::Written, true, false) => self.record = Record::Absent,
            (Record::Written, true, true) => self.make_durable(),
            (Record::Completed, _, false) => self.record = Record::Durable,
            (Record::Absent | Record::Written | Record::Durable | Record::Completed, _, _) => {}
        }
        for i in BOTH {
            self.disconnect(i);
        }
    }

    /// Opening the log closes all earlier epochs and makes durable what it reads.
    pub(super) fn restart(&mut self, world: &World) {
        self.is_up = true;
        self.epoch += 1;
        if self.record == Record::Written && world.bug != Bug::ActsOnUnsynced {
            self.make_durable();
        }
    }
}
