//! The world around the core: what servers, the log, the network and crashes may do to it.

mod log;
mod possible;
mod recovery;
mod wires;

use unanimous_core::protocol::{BranchRole, Coordinator, Decision, LogSeq, Phase, Vote};

const AT: LogSeq = LogSeq(1);
const BOTH: [usize; 2] = [0, 1];

/// A driver or recoverer that is wrong in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// Answers "committed" when it begins to decide.
    AnswersTooEarly,
    /// Does not let a transaction leave A when it has ended with a branch handed over.
    StaysInA,
    /// Takes the first vote to commit for everybody's.
    DecidesBeforeAllVotes,
    /// Reads the record (T) before it asks what is running (A).
    LooksAtTBeforeA,
    /// Ends what was prepared once (P) without looking again (Q).
    LeavesOutQ,
    /// Never asks what is running.
    LeavesOutA,
    /// Takes an uncertain write of the decision for a refusal.
    RollsBackUncertain,
    /// Takes "no record" after an uncertain write for a refusal.
    BelievesLookup,
    /// Acts on a record that the dead process wrote, without making it durable.
    ActsOnUnsynced,
    /// Completes a decision when one of its two resources does not list it any more.
    CompletesTooEarly,
}

pub(super) struct World {
    pub(super) bug: Bug,
    pub(super) crashes: u8,
}

/// A branch as its server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ServerBranch {
    Active,
    Prepared,
    Committed,
    RolledBack,
    /// Ended by a read-only vote: neither committed nor rolled back anything.
    ReadOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ask {
    Prepare,
    Commit,
    Rollback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reply {
    Vote(Vote),
    Done,
    /// The server does not know the XID: proves nothing.
    Unknown,
}

/// The connection of one branch. What is under way may arrive even if nobody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wire {
    is_connected: bool,
    ask: Option<Ask>,
    reply: Option<Reply>,
}

/// The record of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Record {
    Absent,
    /// Written but not synced: readable, and gone after a power failure.
    Written,
    Durable,
    /// Completed, lazily: not pending any more, and pending again after some crashes.
    Completed,
}

/// Where the one running `decide` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Deciding {
    No,
    Asked,
    /// It answered "uncertain". The write may still be under way.
    Uncertain,
    /// A wrong driver does not repeat it. The write may still be under way.
    Abandoned,
}

/// Requests of recovery that are under way for one branch; a dead recoverer's stay so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Finishes {
    commit: bool,
    rollback: bool,
}

impl Finishes {
    fn of(&mut self, decision: Decision) -> &mut bool {
        match decision {
            Decision::Commit => &mut self.commit,
            Decision::Rollback => &mut self.rollback,
        }
    }

    fn decisions(mut self) -> impl Iterator<Item = Decision> {
        let both = [Decision::Commit, Decision::Rollback].into_iter();
        both.filter(move |decision| *self.of(*decision))
    }
}

/// A recovery pass over one resource that has found its branch prepared (P).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pass {
    is_active: Option<bool>,
    is_decided: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Told {
    Committed,
    RolledBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    AskCommit,
    AskRollback,
    /// The request arrives; a prepare is answered by this vote.
    Arrive(usize, Vote),
    Hear(usize),
    /// The request never arrives, and the connection breaks.
    LoseRequest(usize),
    LoseReply(usize),
    /// The driver's patience ends; the request stays under way.
    GiveUp(usize),
    Write,
    Sync,
    /// The log refuses before it has written anything.
    Refuse,
    /// The write or the sync fails, as far as can be told.
    Fail,
    /// The uncertain write takes effect after all.
    Land,
    Repeat,
    /// The log reopens itself under a new epoch; an unsynced record survives if lucky.
    ReopenLog {
        lucky: bool,
    },
    /// What is unsynced survives a power failure, and what is lazy any crash, only if lucky.
    Crash {
        power: bool,
        lucky: bool,
    },
    Restart,
    /// Looks which branches are prepared (P), at one resource.
    LookP(usize),
    LookA(usize),
    LookT(usize),
    /// Looks again (Q), and does what the plan says.
    LookQ(usize),
    FinishArrives(usize, Decision),
    FinishIsLost(usize, Decision),
    /// Begins to look whether a decision can be completed.
    LookForCompletion,
    /// Sees that the next resource does not list the branch.
    SeeGone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WorldState {
    crashes: u8,
    is_up: bool,
    /// The transaction, from its begin until it leaves A.
    running: Option<Coordinator>,
    wires: [Wire; 2],
    pub(super) servers: [ServerBranch; 2],
    record: Record,
    deciding: Deciding,
    /// The epoch that is open; the transaction is of epoch 0.
    epoch: u32,
    passes: [Option<Pass>; 2],
    /// What recovery has sent, and is still under way, for either decision.
    finishes: [Finishes; 2],
    /// How many resources were seen not to list the branch, by a recoverer about to complete.
    gone_count: Option<usize>,
    pub(super) told: Option<Told>,
    /// A wrong driver still lists the ended transaction in A.
    is_stuck_in_a: bool,
    was_durable: bool,
    pub(super) contradicted_record: bool,
    pub(super) ended_running: bool,
    /// Which branches ended by recovery's hand.
    recovered: [bool; 2],
}

/// What can be seen of it.
impl WorldState {
    pub(super) fn new() -> Self {
        let mut running = Coordinator::new();
        for _ in BOTH {
            running.enlist(BranchRole::Writer);
        }
        let wire = Wire {
            is_connected: true,
            ask: None,
            reply: None,
        };
        Self {
            crashes: 0,
            is_up: true,
            running: Some(running),
            wires: [wire; 2],
            servers: [ServerBranch::Active; 2],
            record: Record::Absent,
            deciding: Deciding::No,
            epoch: 0,
            passes: [None; 2],
            finishes: [Finishes::default(); 2],
            gone_count: None,
            told: None,
            is_stuck_in_a: false,
            was_durable: false,
            contradicted_record: false,
            ended_running: false,
            recovered: [false; 2],
        }
    }

    pub(super) fn is_recovered_to(&self, end: ServerBranch) -> bool {
        BOTH.iter()
            .any(|i| self.recovered[*i] && self.servers[*i] == end)
    }

    /// Nothing is left to be done by anybody.
    pub(super) fn is_resolved(&self) -> bool {
        let is_open =
            |end: &ServerBranch| matches!(end, ServerBranch::Active | ServerBranch::Prepared);
        !self.servers.iter().any(is_open)
            && self.running.is_none()
            && matches!(self.record, Record::Absent | Record::Completed)
            && self.wires.iter().all(|wire| wire.ask.is_none())
            && self.finishes == [Finishes::default(); 2]
    }

    /// Where it comes to when nothing more goes wrong and recovery has its turn.
    pub(super) fn settled(&self, world: &World) -> Self {
        let mut state = self.clone();
        for _ in 0..4 {
            while let Some(action) = state.undisturbed() {
                state.take(world, action);
            }
            for action in [
                Action::LookP(0),
                Action::LookP(1),
                Action::LookForCompletion,
            ] {
                let mut possible = Vec::new();
                state.recovery_actions(world, &mut possible);
                if possible.contains(&action) {
                    state.take(world, action);
                }
                while let Some(action) = state.undisturbed() {
                    state.take(world, action);
                }
            }
        }
        state
    }

    /// The next thing that happens of itself.
    fn undisturbed(&self) -> Option<Action> {
        if !self.is_up {
            return Some(Action::Restart);
        }
        for i in BOTH {
            if self.wires[i].ask.is_some() {
                return Some(Action::Arrive(i, Vote::Commit));
            }
            if self.wires[i].reply.is_some() {
                return Some(Action::Hear(i));
            }
            if let Some(decision) = self.finishes[i].decisions().next() {
                return Some(Action::FinishArrives(i, decision));
            }
        }
        match (self.deciding, self.record) {
            (Deciding::Asked, Record::Absent) => return Some(Action::Write),
            (Deciding::Asked, _) => return Some(Action::Sync),
            (Deciding::Uncertain, _) => return Some(Action::Repeat),
            (Deciding::No | Deciding::Abandoned, _) => {}
        }
        if self.running.as_ref().map(Coordinator::phase) == Some(Phase::Active) {
            return Some(Action::AskRollback);
        }
        for i in BOTH {
            match self.passes[i] {
                Some(Pass {
                    is_active: None, ..
                }) => return Some(Action::LookA(i)),
                Some(Pass {
                    is_decided: None, ..
                }) => return Some(Action::LookT(i)),
                Some(_) => return Some(Action::LookQ(i)),
                None => {}
            }
        }
        self.gone_count.map(|_| Action::SeeGone)
    }
}

/// What happens.
impl WorldState {
    pub(super) fn take(&mut self, world: &World, action: Action) {
        let was_running = self.running.is_some();
        self.take_rightly(world, action);
        if world.bug == Bug::AnswersTooEarly && self.deciding == Deciding::Asked {
            self.told = Some(Told::Committed);
        }
        if world.bug == Bug::StaysInA && self.is_up && was_running && self.running.is_none() {
            self.is_stuck_in_a = true;
        }
    }

    fn take_rightly(&mut self, world: &World, action: Action) {
        match action {
            Action::AskCommit => self.drive(Coordinator::commit),
            Action::AskRollback => self.drive(Coordinator::rollback),
            Action::Arrive(i, vote) => self.arrive(i, vote),
            Action::Hear(i) => self.hear(world, i),
            Action::LoseRequest(i) => {
                self.wires[i].ask = None;
                self.miss(i);
            }
            Action::LoseReply(i) => {
                self.wires[i].reply = None;
                self.miss(i);
            }
            Action::GiveUp(i) => self.miss(i),
            Action::Write => self.record = Record::Written,
            Action::Sync | Action::Repeat => self.decided(),
            Action::Refuse => self.refused(),
            Action::Fail => self.fail(world),
            Action::Land => self.make_durable(),
            Action::ReopenLog { lucky } => self.reopen_log(lucky),
            Action::Crash { power, lucky } => self.crash(power, lucky),
            Action::Restart => self.restart(world),
            Action::LookP(i) => {
                self.passes[i] = Some(Pass {
                    is_active: None,
                    is_decided: None,
                });
            }
            Action::LookA(i) => self.look_a(world, i),
            Action::LookT(i) => {
                let is_decided = self.is_pending(world);
                let pass = self.passes[i].as_mut().expect("a pass looks");
                pass.is_decided = Some(is_decided);
            }
            Action::LookQ(i) => self.look_q(world, i),
            Action::FinishArrives(i, decision) => self.finish_arrives(i, decision),
            Action::FinishIsLost(i, decision) => *self.finishes[i].of(decision) = false,
            Action::LookForCompletion => self.gone_count = Some(0),
            Action::SeeGone => self.see_gone(world),
        }
    }
}
