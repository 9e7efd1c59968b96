//! What happens to the record of the decision, to its epoch, and in crashes of members and log.

use unanimous_core::protocol::Coordinator;

use super::{AT, Ask, Bug, Deciding, Home, OWNER, Record, World, WorldState};

impl WorldState {
    /// Durable from now on. Nobody may have rolled back before: nothing would mend that.
    pub(super) fn make_durable(&mut self) {
        self.log.record = Record::Durable;
        self.log.was_durable = true;
        let is_rolled_back = self.branches.iter().any(|branch| {
            branch.server.is_rolled_back()
                || branch.finishes.rollback
                || branch.wire.ask == Some(Ask::Rollback)
        });
        self.contradicted_record |= is_rolled_back;
    }

    /// The epoch is checked and the record written in one step.
    pub(super) fn write(&mut self, world: &World) {
        let is_asked = self.log.deciding == Deciding::Asked;
        let is_open = self.log.is_open
            || self.log.has_passed
            || world.bug == Bug::LastIgnoresEpoch
            || is_asked && world.bug == Bug::DecidesUnderNewEpoch;
        self.log.is_under_way = false;
        self.log.has_passed = false;
        let is_kept = world.bug != Bug::ForgetsTooEarly;
        match self.log.record {
            Record::Absent | Record::Completed if is_open => self.record(),
            Record::Refused if is_open && world.bug == Bug::UpsertsLastResource => self.record(),
            Record::Refused => self.refuse_last(world, is_asked),
            Record::Completed if is_asked && is_kept => self.log.deciding = Deciding::Answered,
            Record::Absent | Record::Completed => self.refuse_last(world, is_asked),
            Record::Durable if is_asked => self.log.deciding = Deciding::Answered,
            // It is being synced already, or nobody waits for an answer.
            Record::Written | Record::Durable => {}
        }
    }

    pub(super) fn sync(&mut self) {
        if self.log.record == Record::Written {
            self.make_durable();
        }
        if self.log.deciding == Deciding::Asked && !self.log.is_under_way {
            self.log.deciding = Deciding::Answered;
        }
    }

    pub(super) fn decided(&mut self, world: &World) {
        self.log.deciding = Deciding::No;
        self.log.was_uncertain = false;
        match world.last() {
            Some(_) => self.drive(world, |running| running.handle_last_committed(AT)),
            None => self.drive(world, |running| running.handle_decision_durable(AT)),
        }
    }

    /// Refused by the log. If the epoch was closed, new transactions begin under another opening.
    pub(super) fn refused(&mut self, world: &World) {
        self.log.deciding = Deciding::No;
        self.log.was_uncertain = false;
        self.members[OWNER].has_first_opening &= self.log.is_open;
        if world.bug == Bug::IgnoresRefusal {
            self.drive(world, |running| running.handle_decision_durable(AT));
        } else if world.has_last_resource {
            self.disconnect_last();
            self.drive(world, Coordinator::handle_last_rolled_back);
        } else {
            self.drive(world, Coordinator::handle_decision_refused);
        }
    }

    /// Nothing was sent. An earlier request may still be under way.
    pub(super) fn refuse(&mut self, world: &World) {
        self.log.is_under_way = self.log.was_uncertain;
        self.refused(world);
    }

    pub(super) fn fail(&mut self, world: &World) {
        self.log.deciding = Deciding::Uncertain;
        self.log.was_uncertain = true;
        let finds_nothing = self.log.record == Record::Absent;
        let gives_in = world.bug == Bug::RollsBackUncertain
            || world.bug == Bug::BelievesLookup && finds_nothing;
        if gives_in {
            self.refused(world);
        }
    }

    pub(super) fn repeat(&mut self, world: &World) {
        if world.has_last_resource {
            return self.decide_without_last();
        }
        self.log.deciding = Deciding::Asked;
        self.log.is_under_way = true;
    }

    /// A file log after a failed write: it reads itself from the disk, and the epoch is closed.
    pub(super) fn reopen_log(&mut self, lucky: bool) {
        self.log.is_open = false;
        self.log.is_under_way = false;
        self.members[OWNER].has_first_opening = false;
        self.lose_unsynced(lucky);
    }

    fn lose_unsynced(&mut self, lucky: bool) {
        match self.log.record {
            Record::Written if lucky => self.make_durable(),
            Record::Written => {
                self.log.record = Record::Absent;
                self.lose_last();
            }
            Record::Absent | Record::Durable | Record::Completed | Record::Refused => {}
        }
    }

    fn lose_lazy(&mut self, lucky: bool) {
        if self.log.record == Record::Completed && !lucky {
            self.log.record = Record::Durable;
        }
    }

    pub(super) fn log_crash(&mut self, world: &World, lucky: bool) {
        self.log_crashes += 1;
        self.cut_last();
        self.log.is_open |= world.bug == Bug::ClosesLazily && !lucky;
        self.lose_unsynced(lucky);
        self.lose_lazy(lucky);
    }

    pub(super) fn complete(&mut self) {
        if self.log.record == Record::Durable {
            self.log.record = Record::Completed;
        }
    }

    pub(super) fn crash(&mut self, world: &World, member: usize, power: bool, lucky: bool) {
        self.crashes += 1;
        self.members[member].is_up = false;
        for branch in &mut self.branches {
            branch.passes[member] = None;
        }
        if self.looker.is_some_and(|looker| looker.member == member) {
            self.looker = None;
        }
        if world.home == Home::File {
            self.log.is_under_way = false;
            self.lose_lazy(lucky);
            if power {
                self.lose_unsynced(lucky);
            }
        }
        if member != OWNER {
            return;
        }
        self.owner_has_crashed = true;
        self.running = None;
        self.is_stuck_in_a = false;
        self.log.deciding = Deciding::No;
        self.log.was_uncertain = false;
        self.hang_up();
    }

    /// A file's opening closes all earlier epochs, and makes durable what it reads.
    pub(super) fn restart(&mut self, world: &World, member: usize) {
        self.members[member].is_up = true;
        if member != OWNER {
            return;
        }
        self.members[OWNER].has_first_opening = false;
        if world.home == Home::File {
            self.log.is_open = false;
            if self.log.record == Record::Written && world.bug != Bug::ActsOnUnsynced {
                self.make_durable();
            }
        }
        if world.bug == Bug::ReusesEpoch {
            self.members[OWNER].has_first_opening = true;
            self.log.is_open = true;
        }
    }
}
