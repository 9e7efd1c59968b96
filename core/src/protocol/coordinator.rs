//! The coordinator of one global transaction.
//!
//! ```text
//! Active ─┬─ Preparing ── Deciding ── Committing ── Committed
//!         │    (Deciding is the commit of the last resource, where there is one)
//!         ├─ EndingReaders ── OnePhase ─┬─ Committed
//!         │                             ├─ RolledBack
//!         │                             └─ Undetermined
//!         └─ RollingBack ── RolledBack         (from Active, EndingReaders, Preparing;
//!                                               from Deciding only if the log refuses)
//! Deciding ── Undetermined                         (the log cannot tell any more)
//! ```
//! Invariants:
//! * `Commit` is commanded only with the position of a durable decision (I1, I2).
//! * A decision is asked for once, after the vote of every branch is in, and is not revoked by
//!   anything but the log's own refusal (I3).
//! * One phase is chosen before any prepare is sent, never after.
//! * A last resource is asked after the vote of every other branch is in, and its commit is the
//!   decision: it is committed if, and only if, the decision is recorded.
//! * At most one command per branch is under way.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::branch::{BranchRole, BranchState, Finish, Heuristic, Vote};
use super::command::{BranchIndex, Command, LogSeq, OnePhaseEnd, Outcome, Phase};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct BranchSlot {
    role: BranchRole,
    state: BranchState,
}

/// The protocol state of one global transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinator {
    phase: Phase,
    branches: Vec<BranchSlot>,
    last: Option<BranchIndex>,
    commands: VecDeque<Command>,
}

impl Default for Coordinator {
    fn default() -> Self {
        Self::new()
    }
}

/// Getters.
impl Coordinator {
    /// A transaction without branches.
    pub const fn new() -> Self {
        Self {
            phase: Phase::Active,
            branches: Vec::new(),
            last: None,
            commands: VecDeque::new(),
        }
    }

    /// Where the transaction is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Where the branch is.
    ///
    /// # Panics
    /// When there is no such branch.
    pub fn branch_state(&self, index: BranchIndex) -> BranchState {
        self.branches[index.0].state
    }

    /// Nothing more will be commanded but what is queued, and no event is awaited.
    pub fn is_ended(&self) -> bool {
        matches!(
            self.phase,
            Phase::Committed | Phase::RolledBack | Phase::Undetermined
        )
    }

    /// What became of it, once it has ended.
    pub fn outcome(&self) -> Option<Outcome> {
        let unfinished = self.in_state(|state| state == BranchState::HandedOver);
        match self.phase {
            Phase::Committed => Some(match self.heuristics() {
                heuristics if heuristics.is_empty() => Outcome::Committed { unfinished },
                heuristics => Outcome::Heuristic(heuristics),
            }),
            Phase::RolledBack => Some(match self.heuristics() {
                heuristics if heuristics.is_empty() => Outcome::RolledBack { unfinished },
                heuristics => Outcome::Heuristic(heuristics),
            }),
            Phase::Undetermined => Some(Outcome::Undetermined),
            Phase::Active
            | Phase::EndingReaders
            | Phase::Preparing
            | Phase::Deciding
            | Phase::OnePhase
            | Phase::Committing(_)
            | Phase::RollingBack => None,
        }
    }

    fn heuristics(&self) -> Vec<(BranchIndex, Heuristic)> {
        let found = self
            .branches
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| match slot.state {
                BranchState::Heuristic(heuristic) => Some((BranchIndex(index), heuristic)),
                BranchState::Enlisted
                | BranchState::Preparing
                | BranchState::Prepared
                | BranchState::ReadOnly
                | BranchState::Committing
                | BranchState::Committed
                | BranchState::RollingBack
                | BranchState::RolledBack
                | BranchState::HandedOver => None,
            });
        found.collect()
    }

    fn in_state(&self, wanted: impl Fn(BranchState) -> bool) -> Vec<BranchIndex> {
        let slots = self.branches.iter().enumerate();
        slots
            .filter(|(_, slot)| wanted(slot.state))
            .map(|(i, _)| BranchIndex(i))
            .collect()
    }

    fn with_role(&self, role: BranchRole) -> Vec<BranchIndex> {
        let slots = self.branches.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.role == role)
            .map(|(i, _)| BranchIndex(i))
            .collect()
    }

    fn is_any_busy(&self) -> bool {
        self.branches.iter().any(|slot| slot.state.is_busy())
    }
}

/// Commands of the application.
impl Coordinator {
    /// Adds a branch, which is open at its resource.
    ///
    /// # Panics
    /// When the transaction is not active any more.
    pub fn enlist(&mut self, role: BranchRole) -> BranchIndex {
        assert_eq!(
            self.phase,
            Phase::Active,
            "branches are enlisted before commit or rollback"
        );
        self.branches.push(BranchSlot {
            role,
            state: BranchState::Enlisted,
        });
        BranchIndex(self.branches.len() - 1)
    }

    /// Asks for the commit. With one writer it is done in one phase, after its readers ended.
    ///
    /// # Panics
    /// When the transaction is not active any more.
    pub fn commit(&mut self) {
        self.commit_with_last(None);
    }

    /// Asks for the commit, with a writer that can be the last resource: it does not prepare, and
    /// its commit records the decision. With one writer it is done in one phase all the same.
    ///
    /// # Panics
    /// When the transaction is not active any more, or the last resource is no writer.
    pub fn commit_with_last(&mut self, last: Option<BranchIndex>) {
        assert_eq!(self.phase, Phase::Active, "commit is asked for once");
        if let Some(index) = last {
            let role = self.branches[index.0].role;
            assert_eq!(role, BranchRole::Writer, "a reader records nothing");
        }
        let writers = self.with_role(BranchRole::Writer);
        let readers = self.with_role(BranchRole::Reader);
        for index in &readers {
            self.start(*index, BranchState::Preparing, Command::EndReader(*index));
        }
        if writers.len() == 1 {
            self.phase = Phase::EndingReaders;
        } else {
            self.phase = Phase::Preparing;
            self.last = last;
            for index in writers.into_iter().filter(|index| Some(*index) != last) {
                self.start(index, BranchState::Preparing, Command::Prepare(index));
            }
        }
        self.advance();
    }

    /// Asks for the rollback: by the application, a drop, or a deadline that passed before the
    /// commit was asked for.
    ///
    /// # Panics
    /// When the transaction is not active any more.
    pub fn rollback(&mut self) {
        assert_eq!(
            self.phase,
            Phase::Active,
            "after commit was asked for, votes decide"
        );
        self.start_rollback();
        self.advance();
    }
}

/// Events.
impl Coordinator {
    /// The branch answered [`Command::Prepare`].
    ///
    /// # Panics
    /// When it was not asked.
    pub fn handle_vote(&mut self, index: BranchIndex, vote: Vote) {
        let slot = &mut self.branches[index.0];
        assert_eq!(slot.role, BranchRole::Writer, "a reader has no vote");
        assert_eq!(
            slot.state,
            BranchState::Preparing,
            "a vote answers a prepare"
        );
        slot.state = match vote {
            Vote::Commit => BranchState::Prepared,
            Vote::ReadOnly => BranchState::ReadOnly,
            Vote::Rollback => BranchState::RolledBack,
            Vote::Unheard => BranchState::HandedOver,
        };
        if vote == Vote::Unheard {
            self.commands.push_back(Command::HandOver(index));
        }
        match (self.phase, vote) {
            (Phase::Preparing, Vote::Rollback | Vote::Unheard) => self.start_rollback(),
            (Phase::RollingBack, Vote::Commit) => self.start_rollback_of(index),
            (Phase::Preparing, Vote::Commit | Vote::ReadOnly) | (Phase::RollingBack, _) => {}
            (phase, _) => panic!("a vote in phase {phase:?}"),
        }
        self.advance();
    }

    /// The reader answered [`Command::EndReader`]; `ended` is false if it could not be confirmed.
    ///
    /// # Panics
    /// When it was not asked.
    pub fn handle_reader_ended(&mut self, index: BranchIndex, ended: bool) {
        let slot = &mut self.branches[index.0];
        assert_eq!(slot.role, BranchRole::Reader, "a writer votes");
        assert_eq!(slot.state, BranchState::Preparing, "it was asked to end");
        // A reader has no effect, whichever way it ended: nothing is left for recovery.
        slot.state = BranchState::ReadOnly;
        if !ended && self.phase != Phase::RollingBack {
            self.start_rollback();
        }
        self.advance();
    }

    /// The branch answered [`Command::CommitOnePhase`].
    ///
    /// # Panics
    /// When it was not asked.
    pub fn handle_one_phase(&mut self, index: BranchIndex, end: OnePhaseEnd) {
        assert_eq!(self.phase, Phase::OnePhase, "one phase was commanded");
        let slot = &mut self.branches[index.0];
        assert_eq!(
            slot.state,
            BranchState::Committing,
            "one phase was commanded to this branch"
        );
        (slot.state, self.phase) = match end {
            OnePhaseEnd::Committed => (BranchState::Committed, Phase::Committed),
            OnePhaseEnd::RolledBack => (BranchState::RolledBack, Phase::RolledBack),
            OnePhaseEnd::Undetermined => (BranchState::HandedOver, Phase::Undetermined),
        };
        if end == OnePhaseEnd::Undetermined {
            self.commands.push_back(Command::HandOver(index));
        }
    }

    /// The decision is durable at `decided_at`.
    ///
    /// # Panics
    /// When no decision was asked for: the driver is broken, and going on could commit half.
    pub fn handle_decision_durable(&mut self, decided_at: LogSeq) {
        assert_eq!(
            self.phase,
            Phase::Deciding,
            "a decision is logged once, after every vote"
        );
        assert_eq!(self.last, None, "the last resource records the decision");
        self.start_commit(decided_at);
    }

    /// The log refused the decision: it is not recorded and never will be. An uncertain write is
    /// *not* this event; the driver repeats it until it is durable or refused.
    ///
    /// # Panics
    /// When no decision was asked for.
    pub fn handle_decision_refused(&mut self) {
        assert_eq!(
            self.phase,
            Phase::Deciding,
            "only what was asked for can be refused"
        );
        assert_eq!(self.last, None, "the last resource records the decision");
        self.start_rollback();
        self.advance();
    }

    /// The last resource is committed, and with it the decision at `decided_at`: answered by
    /// itself, or found out by the log. No answer is *not* an event; the driver asks the log until
    /// it knows.
    ///
    /// # Panics
    /// When it was not asked.
    pub fn handle_last_committed(&mut self, decided_at: LogSeq) {
        self.end_last(BranchState::Committed);
        self.start_commit(decided_at);
    }

    /// The last resource is rolled back, and no decision is recorded nor ever will be.
    ///
    /// # Panics
    /// When it was not asked.
    pub fn handle_last_rolled_back(&mut self) {
        self.end_last(BranchState::RolledBack);
        self.start_rollback();
        self.advance();
    }

    /// Whether it was decided cannot be found out any more: every branch that is prepared, or whose
    /// commit was not heard, is left to recovery and to a person.
    ///
    /// # Panics
    /// When no decision was asked for.
    pub fn handle_decision_lost(&mut self) {
        assert_eq!(
            self.phase,
            Phase::Deciding,
            "only what was asked for can be lost"
        );
        let is_open = |state| matches!(state, BranchState::Prepared | BranchState::Committing);
        for index in self.in_state(is_open) {
            self.branches[index.0].state = BranchState::HandedOver;
            self.commands.push_back(Command::HandOver(index));
        }
        self.phase = Phase::Undetermined;
    }

    /// The branch answered [`Command::Commit`].
    ///
    /// # Panics
    /// When it was not asked.
    pub fn handle_committed(&mut self, index: BranchIndex, finish: Finish) {
        assert!(
            matches!(self.phase, Phase::Committing(_)),
            "phase two comes after the decision"
        );
        self.finish(
            index,
            BranchState::Committing,
            BranchState::Committed,
            finish,
        );
    }

    /// The branch answered [`Command::Rollback`].
    ///
    /// # Panics
    /// When it was not asked.
    pub fn handle_rolled_back(&mut self, index: BranchIndex, finish: Finish) {
        assert_eq!(self.phase, Phase::RollingBack, "rollback was commanded");
        self.finish(
            index,
            BranchState::RollingBack,
            BranchState::RolledBack,
            finish,
        );
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }
}

impl Coordinator {
    fn start(&mut self, index: BranchIndex, state: BranchState, command: Command) {
        let slot = &mut self.branches[index.0];
        assert!(!slot.state.is_busy(), "one command per branch at a time");
        slot.state = state;
        self.commands.push_back(command);
    }

    fn end_last(&mut self, end: BranchState) {
        assert_eq!(self.phase, Phase::Deciding, "the last resource decides");
        let index = self.last.expect("a last resource was chosen");
        let slot = &mut self.branches[index.0];
        let asked = BranchState::Committing;
        assert_eq!(slot.state, asked, "it was asked to commit");
        slot.state = end;
    }

    fn start_commit(&mut self, decided_at: LogSeq) {
        self.phase = Phase::Committing(decided_at);
        for index in self.in_state(|state| state == BranchState::Prepared) {
            let command = Command::Commit(index, decided_at);
            self.start(index, BranchState::Committing, command);
        }
        self.advance();
    }

    fn start_rollback(&mut self) {
        self.phase = Phase::RollingBack;
        let idle = |state| matches!(state, BranchState::Enlisted | BranchState::Prepared);
        for index in self.in_state(idle) {
            self.start_rollback_of(index);
        }
    }

    fn start_rollback_of(&mut self, index: BranchIndex) {
        self.start(index, BranchState::RollingBack, Command::Rollback(index));
    }

    fn finish(&mut self, index: BranchIndex, busy: BranchState, done: BranchState, finish: Finish) {
        let slot = &mut self.branches[index.0];
        assert_eq!(slot.state, busy, "an answer needs a question");
        slot.state = match finish {
            Finish::Done => done,
            Finish::Unconfirmed => BranchState::HandedOver,
            Finish::Heuristic(heuristic) => BranchState::Heuristic(heuristic),
        };
        if finish == Finish::Unconfirmed {
            self.commands.push_back(Command::HandOver(index));
        }
        self.advance();
    }

    /// Goes to the next phase once no branch is busy any more.
    fn advance(&mut self) {
        if self.is_any_busy() {
            return;
        }
        match self.phase {
            Phase::EndingReaders => {
                self.phase = Phase::OnePhase;
                let writer = self.with_role(BranchRole::Writer)[0];
                let command = Command::CommitOnePhase(writer);
                self.start(writer, BranchState::Committing, command);
            }
            Phase::Preparing => self.advance_to_decision(),
            Phase::Committing(decided_at) => {
                self.phase = Phase::Committed;
                if self
                    .in_state(|state| state == BranchState::HandedOver)
                    .is_empty()
                {
                    self.commands.push_back(Command::Complete(decided_at));
                }
            }
            Phase::RollingBack => self.phase = Phase::RolledBack,
            Phase::Active
            | Phase::Deciding
            | Phase::OnePhase
            | Phase::Committed
            | Phase::RolledBack
            | Phase::Undetermined => {}
        }
    }

    fn advance_to_decision(&mut self) {
        let prepared = self.in_state(|state| state == BranchState::Prepared);
        if let Some(last) = self.last {
            self.phase = Phase::Deciding;
            let command = Command::CommitLast(last, prepared);
            self.start(last, BranchState::Committing, command);
        } else if prepared.is_empty() {
            self.phase = Phase::Committed;
        } else {
            self.phase = Phase::Deciding;
            self.commands.push_back(Command::Decide(prepared));
        }
    }
}
