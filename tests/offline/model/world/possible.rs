//! What can happen next.

use unanimous_core::protocol::{Coordinator, Phase, Vote};

use super::{Action, Ask, BOTH, Bug, Deciding, Pass, Record, ServerBranch, World, WorldState};

/// What can happen.
impl WorldState {
    pub(in super::super) fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.wire_actions(actions);
        if !self.is_up {
            actions.push(Action::Restart);
            return;
        }
        let phase = self.running.as_ref().map(Coordinator::phase);
        if phase == Some(Phase::Active) {
            actions.extend([Action::AskCommit, Action::AskRollback]);
        }
        self.log_actions(actions);
        self.recovery_actions(world, actions);
        if self.crashes < world.crashes {
            for power in [false, true] {
                for lucky in [false, true] {
                    actions.push(Action::Crash { power, lucky });
                }
            }
        }
    }

    pub(super) fn wire_actions(&self, actions: &mut Vec<Action>) {
        for i in BOTH {
            let wire = self.wires[i];
            match wire.ask {
                Some(Ask::Prepare) => {
                    let votes = [Vote::Commit, Vote::ReadOnly, Vote::Rollback];
                    actions.extend(votes.map(|vote| Action::Arrive(i, vote)));
                }
                Some(Ask::Commit | Ask::Rollback) => {
                    actions.push(Action::Arrive(i, Vote::Commit));
                }
                None => {}
            }
            if wire.ask.is_some() {
                actions.push(Action::LoseRequest(i));
                if wire.is_connected {
                    actions.push(Action::GiveUp(i));
                }
            }
            if wire.reply.is_some() {
                actions.extend([Action::Hear(i), Action::LoseReply(i)]);
            }
            for decision in self.finishes[i].decisions() {
                actions.push(Action::FinishArrives(i, decision));
                actions.push(Action::FinishIsLost(i, decision));
            }
        }
    }

    pub(super) fn log_actions(&self, actions: &mut Vec<Action>) {
        match (self.deciding, self.record) {
            (Deciding::Asked, Record::Absent) => {
                actions.extend([Action::Write, Action::Refuse, Action::Fail]);
            }
            (Deciding::Asked, _) => actions.extend([Action::Sync, Action::Fail]),
            (Deciding::Uncertain, _) => {
                actions.extend([Action::Land, Action::Repeat]);
                actions.extend([false, true].map(|lucky| Action::ReopenLog { lucky }));
            }
            (Deciding::Abandoned, _) => actions.push(Action::Land),
            (Deciding::No, _) => {}
        }
    }

    pub(super) fn recovery_actions(&self, world: &World, actions: &mut Vec<Action>) {
        for i in BOTH {
            actions.extend(match self.passes[i] {
                None if self.servers[i] == ServerBranch::Prepared => Some(Action::LookP(i)),
                None => None,
                Some(pass) => Some(pass.next_look(world, i)),
            });
        }
        match self.gone_count {
            None if self.is_pending(world) && self.running.is_none() => {
                actions.push(Action::LookForCompletion);
            }
            Some(_) => actions.push(Action::SeeGone),
            None => {}
        }
    }

    /// The record as the log answers it (T).
    pub(super) fn is_pending(&self, world: &World) -> bool {
        match self.record {
            Record::Durable => true,
            Record::Written => world.bug == Bug::ActsOnUnsynced,
            Record::Absent | Record::Completed => false,
        }
    }
}

impl Pass {
    pub(super) fn next_look(self, world: &World, i: usize) -> Action {
        let a = (self.is_active, Action::LookA(i));
        let t = (self.is_decided, Action::LookT(i));
        let order = if world.bug == Bug::LooksAtTBeforeA {
            [t, a]
        } else {
            [a, t]
        };
        let mut missing = order.into_iter().filter(|(seen, _)| seen.is_none());
        missing.next().map_or(Action::LookQ(i), |(_, look)| look)
    }
}
