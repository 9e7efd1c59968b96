//! Where the world comes to when nothing more goes wrong and recovery has its turn (I6).

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use unanimous_core::protocol::{Coordinator, Phase, Vote};

use super::{Action, Deciding, Link, OWNER, Prepared, Record, ServerBranch, World, WorldState};

/// States that are known to resolve, by their hashes: each step is taken once.
#[derive(Default)]
pub(in super::super) struct Settled(Mutex<HashSet<u64>>);

/// More steps than any way to the end has: whoever takes so many goes round in a circle.
const STEPS_MAX: usize = 300;

impl WorldState {
    /// Everything is resolved in the end, without a person.
    pub(in super::super) fn settles(&self, world: &World) -> bool {
        let mut state = self.clone();
        let mut passed = Vec::new();
        for _ in 0..STEPS_MAX {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            let hash = hasher.finish();
            if world.settled.contains(hash) {
                world.settled.extend(passed);
                return true;
            }
            passed.push(hash);
            match state.undisturbed(world) {
                Some(action) => state.take(world, action),
                None if state.is_resolved() => {
                    world.settled.extend(passed);
                    return true;
                }
                None => return false,
            }
        }
        false
    }

    /// Nothing is left to be done by anybody, and whoever lived to hear it was answered.
    fn is_resolved(&self) -> bool {
        let is_ended = self.branches.iter().all(|branch| {
            let is_open = branch.server == ServerBranch::Active || branch.server.is_prepared();
            let is_quiet = branch.wire.ask.is_none() && branch.finishes.decisions().count() == 0;
            !is_open && is_quiet
        });
        is_ended
            && self.running.is_none()
            && !self.log.is_under_way
            && self.last != Some(ServerBranch::Active)
            && !matches!(self.log.record, Record::Written | Record::Durable)
            && (self.told.is_some() || self.owner_has_crashed)
    }

    /// The next thing that happens of itself. No member that crashed comes back while another
    /// lives: nobody has to.
    fn undisturbed(&self, world: &World) -> Option<Action> {
        if !self.members.iter().any(|member| member.is_up) {
            return Some(Action::Restart(OWNER));
        }
        let mut branches = 0..self.branches.len();
        let wires = branches.find_map(|i| self.undisturbed_branch(i));
        wires
            .or_else(|| self.undisturbed_log(world))
            .or_else(|| {
                let phase = self.running.as_ref().map(Coordinator::phase);
                (phase == Some(Phase::Active)).then_some(Action::AskRollback)
            })
            .or_else(|| self.undisturbed_recovery(world))
    }

    fn undisturbed_branch(&self, i: usize) -> Option<Action> {
        let branch = &self.branches[i];
        let wire = branch.wire;
        if wire.ask.is_some() {
            return Some(Action::Arrive(i, Vote::Commit));
        }
        if wire.reply.is_some() {
            return Some(Action::Hear(i));
        }
        if branch.inquiry.is_wanted {
            return Some(Action::AskStatus(i));
        }
        if let Some(decision) = branch.finishes.decisions().next() {
            return Some(Action::FinishArrives(i, decision));
        }
        let is_busy = self.branch_state(i).is_some_and(|state| state.is_busy());
        if wire.link != Link::Down && is_busy {
            return Some(Action::GiveUp(i));
        }
        let is_held = branch.server == ServerBranch::Prepared(Prepared::Held);
        (wire.link == Link::Down && is_held).then_some(Action::SessionEnds(i))
    }

    fn undisturbed_log(&self, world: &World) -> Option<Action> {
        if self.log.is_under_way {
            return Some(Action::Write);
        }
        if self.can_sync(world) {
            return Some(Action::Sync);
        }
        match self.log.deciding {
            Deciding::Asked => Some(Action::Fail),
            Deciding::Answered => Some(Action::HearDecision),
            Deciding::Uncertain if world.has_last_resource => {
                Some(Action::InsertRefusal { heard: true })
            }
            Deciding::Uncertain => Some(Action::Repeat),
            Deciding::No => None,
        }
    }

    fn undisturbed_recovery(&self, world: &World) -> Option<Action> {
        for (i, branch) in self.branches.iter().enumerate() {
            for (m, pass) in branch.passes.iter().enumerate() {
                if let Some(pass) = pass {
                    return Some(pass.next_look(world, m, i));
                }
            }
        }
        if self.looker.is_some() {
            return Some(Action::SeeGone);
        }
        let is_left = |i: &usize| self.is_looked_at(world, *i);
        let left = (0..self.branches.len()).find(is_left);
        if left.is_none() && self.log.record != Record::Durable {
            return None;
        }
        let living = (0..world.members()).filter(|m| self.members[*m].is_up);
        let owner = self.members[OWNER];
        let is_owner_gone = !(owner.is_up && owner.has_first_opening);
        for m in living {
            // Here nobody is suspected wrongly.
            if is_owner_gone && self.can_close(world, m) {
                return Some(Action::Close(m));
            }
            if self.can_look_for_completion(world, m) && left.is_none() {
                return Some(Action::LookForCompletion(m));
            }
            let is_foreign = m != OWNER && self.log.is_open && !is_owner_gone;
            if let Some(i) = left.filter(|_| !is_foreign) {
                return Some(Action::LookP(m, i));
            }
        }
        None
    }
}

impl Settled {
    fn contains(&self, hash: u64) -> bool {
        let settled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        settled.contains(&hash)
    }

    fn extend(&self, hashes: Vec<u64>) {
        let mut settled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        settled.extend(hashes);
    }
}
