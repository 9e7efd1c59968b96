//! What can happen next.

use unanimous_core::protocol::{Coordinator, Phase, Vote};

use super::{
    Action, Ask, Bug, Deciding, Home, Link, OWNER, Pass, Prepared, Record, ServerBranch, Told,
    World, WorldState,
};

impl WorldState {
    pub(in super::super) fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let phase = self.running.as_ref().map(Coordinator::phase);
        if phase == Some(Phase::Active) {
            actions.extend([Action::AskCommit, Action::AskRollback]);
        }
        for i in 0..self.branches.len() {
            self.wire_actions(world, i, actions);
            self.server_actions(world, i, actions);
        }
        self.log_actions(world, actions);
        for m in 0..world.members() {
            self.member_actions(world, m, actions);
        }
        if self.looker.is_some() {
            actions.push(Action::SeeGone);
            actions.extend(world.standbys.then_some(Action::SeeNothing));
        }
    }

    fn wire_actions(&self, world: &World, i: usize, actions: &mut Vec<Action>) {
        let branch = &self.branches[i];
        let wire = branch.wire;
        let votes: &[Vote] = match wire.ask {
            Some(Ask::Prepare) => world.votes,
            Some(Ask::OnePhase) if world.commits_in_one_phase() => &[Vote::Commit, Vote::Rollback],
            Some(Ask::OnePhase | Ask::EndReader | Ask::Commit | Ask::Rollback) => &[Vote::Commit],
            None => &[],
        };
        actions.extend(votes.iter().map(|vote| Action::Arrive(i, *vote)));
        if wire.reply.is_some() {
            actions.push(Action::Hear(i));
        }
        if wire.link == Link::Down {
            if wire.ask.is_some() {
                actions.push(Action::Lose(i));
            } else if branch.server == ServerBranch::Prepared(Prepared::Held) {
                actions.push(Action::SessionEnds(i));
            }
        } else if self.branch_state(i).is_some_and(|state| state.is_busy()) {
            actions.push(Action::GiveUp(i));
        }
    }

    fn server_actions(&self, world: &World, i: usize, actions: &mut Vec<Action>) {
        let branch = &self.branches[i];
        let finishes = branch.finishes.decisions();
        actions.extend(finishes.map(|decision| Action::FinishArrives(i, decision)));
        if self.server_crashes < world.server_crashes {
            actions.push(Action::ServerCrash { i, lucky: true });
            if branch.server == ServerBranch::RolledBackLazily {
                actions.push(Action::ServerCrash { i, lucky: false });
            }
        }
        let inquiry = branch.inquiry;
        if inquiry.is_wanted {
            actions.extend([Action::AskStatus(i), Action::CannotAskStatus(i)]);
            let is_free = inquiry.has_restarted && branch.server.is_rolled_back();
            if is_free && !inquiry.is_given_away {
                actions.push(Action::GiveNumberAway(i));
            }
        }
    }

    fn log_actions(&self, world: &World, actions: &mut Vec<Action>) {
        let log = &self.log;
        if log.is_under_way {
            if world.bug != Bug::ChecksEpochFirst || log.has_passed || !log.is_open {
                actions.push(Action::Write);
            } else {
                actions.push(Action::CheckEpoch);
            }
        }
        if self.can_sync(world) {
            actions.push(Action::Sync);
        }
        match log.deciding {
            Deciding::Asked => {
                actions.push(Action::Fail);
                let is_first = !log.was_uncertain || world.bug == Bug::BelievesRefusalOfRepeat;
                if log.is_under_way && is_first {
                    actions.push(Action::Refuse);
                }
            }
            Deciding::Answered => actions.extend([Action::HearDecision, Action::Fail]),
            Deciding::Uncertain if world.bug == Bug::SettlesByDeciding => {
                actions.push(Action::Repeat);
            }
            Deciding::Uncertain if world.has_last_resource => {
                actions.extend([false, true].map(|heard| Action::InsertRefusal { heard }));
            }
            Deciding::Uncertain => actions.push(Action::Repeat),
            Deciding::No => {}
        }
        let may_drop = !log.is_open || world.bug == Bug::DropsRefusalTooEarly;
        if log.record == Record::Refused && may_drop {
            actions.push(Action::DropRefusal);
        }
        let luck = [false, true];
        match world.home {
            Home::File if log.deciding == Deciding::Uncertain && log.is_open => {
                actions.extend(luck.map(|lucky| Action::ReopenLog { lucky }));
            }
            Home::Table if self.log_crashes < world.log_crashes => {
                actions.extend(luck.map(|lucky| Action::LogCrash { lucky }));
            }
            Home::File | Home::Table => {}
        }
    }

    /// A file is synced by its process, a table by its server.
    pub(super) fn can_sync(&self, world: &World) -> bool {
        let is_asked = self.log.deciding == Deciding::Asked && !self.log.is_under_way;
        match self.log.record {
            Record::Absent | Record::Refused => false,
            Record::Written => world.home == Home::Table || self.members[OWNER].is_up,
            Record::Durable | Record::Completed => is_asked,
        }
    }

    fn member_actions(&self, world: &World, m: usize, actions: &mut Vec<Action>) {
        if !self.members[m].is_up {
            actions.push(Action::Restart(m));
            return;
        }
        if self.can_close(world, m) {
            actions.push(Action::Close(m));
        }
        let passes = self.branches.iter().flat_map(|branch| branch.passes);
        let can_begin = passes.flatten().count() < world.passes;
        for (i, branch) in self.branches.iter().enumerate() {
            match branch.passes[m] {
                Some(pass) => actions.push(pass.next_look(world, m, i)),
                None if can_begin && self.is_looked_at(world, i) => {
                    actions.push(Action::LookP(m, i));
                }
                None => {}
            }
        }
        if self.can_look_for_completion(world, m) {
            actions.push(Action::LookForCompletion(m));
        }
        self.crash_actions(world, m, actions);
    }

    fn crash_actions(&self, world: &World, member: usize, actions: &mut Vec<Action>) {
        let can_crash = member == OWNER || !world.only_owner_crashes;
        if self.crashes >= world.crashes || !can_crash {
            return;
        }
        let is_written = world.home == Home::File && self.log.record == Record::Written;
        let is_lazy = world.home == Home::File && self.log.record == Record::Completed;
        actions.push(Action::Crash {
            member,
            power: false,
            lucky: true,
        });
        if is_written || is_lazy {
            actions.push(Action::Crash {
                member,
                power: true,
                lucky: false,
            });
        }
        if is_written {
            actions.push(Action::Crash {
                member,
                power: true,
                lucky: true,
            });
        }
    }

    /// Anybody but the owner, as long as it has not opened the log again.
    pub(super) fn can_close(&self, world: &World, m: usize) -> bool {
        let is_own = m == OWNER && self.members[OWNER].has_first_opening;
        world.home == Home::Table
            && self.members[m].is_up
            && self.log.is_open
            && !is_own
            && world.bug != Bug::NeverCloses
    }

    pub(super) fn is_looked_at(&self, world: &World, i: usize) -> bool {
        let has_stopped = world.bug == Bug::StopsLooking && self.told == Some(Told::RolledBack);
        self.branches[i].server.is_prepared() && !has_stopped
    }

    pub(super) fn can_look_for_completion(&self, world: &World, m: usize) -> bool {
        let is_pending = self.log.record == Record::Durable;
        let may_come = world.bug == Bug::DeletesOthersOpen && self.running.is_some();
        self.looker.is_none() && (is_pending || may_come) && self.may_complete(world, m)
    }
}

impl Pass {
    /// Of another process's transactions, A lists none: that look is not one of its own.
    pub(super) fn next_look(self, world: &World, m: usize, i: usize) -> Action {
        let a = (self.is_active.is_some(), Action::LookA(m, i));
        let t = (self.recorded.is_some(), Action::LookT(m, i));
        let order = if world.bug == Bug::LooksAtTBeforeA || m != OWNER {
            [t, a]
        } else {
            [a, t]
        };
        let mut missing = order.into_iter().filter(|(seen, _)| !seen);
        missing.next().map_or(Action::LookQ(m, i), |(_, look)| look)
    }
}
