//! What can happen, one step at a time.

use unanimous_core::protocol::{Coordinator, Decision, Vote};

use super::{Bug, Deciding, Looker, OWNER, Pass, Record, Told, World, WorldState};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Action {
    AskCommit,
    AskRollback,
    /// The request arrives; a prepare, and a commit in one phase, are answered by this vote.
    Arrive(usize, Vote),
    Hear(usize),
    /// The owner's patience ends or the connection breaks; a request stays under way.
    GiveUp(usize),
    /// A request that nobody waits for never arrives.
    Lose(usize),
    /// The server notices that the connection is gone.
    SessionEnds(usize),
    /// What was acknowledged lazily survives only if lucky.
    ServerCrash {
        i: usize,
        lucky: bool,
    },
    /// After a lost reply in one phase: asks the server what became of the transaction.
    AskStatus(usize),
    CannotAskStatus(usize),
    GiveNumberAway(usize),
    /// The request to decide arrives at the log.
    Write,
    /// A wrong log looks at the epoch, and writes later.
    CheckEpoch,
    Sync,
    HearDecision,
    /// The log refuses before anything was sent or written.
    Refuse,
    /// The write or the sync fails, or its answer is lost.
    Fail,
    Repeat,
    /// With a last resource: puts a refusal under the key of the decision, if there is none.
    InsertRefusal {
        heard: bool,
    },
    /// Once its epoch is closed, the refusal may go: a commit that arrives later is refused anyway.
    DropRefusal,
    /// The log reopens itself under a new epoch; an unsynced record survives if lucky.
    ReopenLog {
        lucky: bool,
    },
    LogCrash {
        lucky: bool,
    },
    /// A member closes the transaction's epoch, rightly or wrongly suspecting the owner.
    Close(usize),
    /// With a file: what is unsynced survives a power failure, and what is lazy any crash, only if
    /// lucky.
    Crash {
        member: usize,
        power: bool,
        lucky: bool,
    },
    Restart(usize),
    /// Member, branch: looks which branches are prepared (P), at one resource.
    LookP(usize, usize),
    LookA(usize, usize),
    LookT(usize, usize),
    /// Looks again (Q), and does what the plan says.
    LookQ(usize, usize),
    FinishArrives(usize, Decision),
    /// Begins to look whether the decision can be completed.
    LookForCompletion(usize),
    /// Sees whether the next resource still lists the branch.
    SeeGone,
    /// A standby answers instead.
    SeeNothing,
}

impl WorldState {
    pub(in super::super) fn take(&mut self, world: &World, action: Action) {
        let was_running = self.running.is_some();
        self.take_rightly(world, action);
        if world.bug == Bug::AnswersTooEarly && self.log.deciding == Deciding::Asked {
            self.told = Some(Told::Committed);
        }
        let has_left = was_running && self.running.is_none();
        if world.bug == Bug::StaysInA && self.members[OWNER].is_up && has_left {
            self.is_stuck_in_a = true;
        }
    }

    fn take_rightly(&mut self, world: &World, action: Action) {
        match action {
            Action::AskCommit => {
                if world.bug == Bug::AsksLastWithOthers {
                    self.send_last();
                }
                let last = world.last();
                self.drive(world, |running| running.commit_with_last(last));
            }
            Action::AskRollback => self.drive(world, Coordinator::rollback),
            Action::Arrive(i, vote) => self.arrive(world, i, vote),
            Action::Hear(i) => self.hear(world, i),
            Action::GiveUp(i) => self.miss(world, i),
            Action::Lose(i) => {
                self.branches[i].wire.ask = None;
                self.disconnect(i);
            }
            Action::SessionEnds(i) => self.let_go(i),
            Action::ServerCrash { i, lucky } => self.server_crash(world, i, lucky),
            Action::AskStatus(i) => self.ask_status(world, i),
            Action::CannotAskStatus(i) => self.answer_inquiry(world, i, None),
            Action::GiveNumberAway(i) => self.branches[i].inquiry.is_given_away = true,
            Action::Write => self.write(world),
            Action::CheckEpoch => self.log.has_passed = true,
            Action::Sync => self.sync(),
            Action::HearDecision => self.decided(world),
            Action::Refuse => self.refuse(world),
            Action::Fail => self.fail(world),
            Action::Repeat => self.repeat(world),
            Action::InsertRefusal { heard } => self.insert_refusal(world, heard),
            Action::DropRefusal => self.log.record = Record::Absent,
            Action::ReopenLog { lucky } => self.reopen_log(lucky),
            Action::LogCrash { lucky } => self.log_crash(world, lucky),
            Action::Close(_) => self.log.is_open = false,
            Action::Crash {
                member,
                power,
                lucky,
            } => self.crash(world, member, power, lucky),
            Action::Restart(member) => self.restart(world, member),
            Action::LookP(m, i) => self.branches[i].passes[m] = Some(Pass::default()),
            Action::LookA(m, i) => self.look_a(world, m, i),
            Action::LookT(m, i) => self.look_t(world, m, i),
            Action::LookQ(m, i) => self.look_q(world, m, i),
            Action::FinishArrives(i, decision) => self.finish_arrives(world, i, decision),
            Action::LookForCompletion(member) => self.looker = Some(Looker { member, gone: 0 }),
            Action::SeeGone => self.see_gone(world),
            Action::SeeNothing => self.see_nothing(world),
        }
    }
}
