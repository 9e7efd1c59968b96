//! What happens between the core and its branches: commands become requests, replies and their
//! loss become events.

use unanimous_core::protocol::{
    BranchIndex, BranchRole, BranchState, Command, Coordinator, Finish, Outcome, Phase, Vote,
};

use super::{AT, Ask, Bug, Deciding, Inquiry, Link, Reply, Told, World, WorldState};

impl WorldState {
    /// Tells the core something, and sends what it commands. Ended, it leaves A.
    pub(super) fn drive(&mut self, world: &World, tell: impl FnOnce(&mut Coordinator)) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        tell(&mut running);
        while let Some(command) = running.poll_command() {
            match command {
                Command::Prepare(i) if world.has_one_phase_bug(i) => self.ask(i, Ask::OnePhase),
                Command::Prepare(i) => self.ask(i, Ask::Prepare),
                Command::EndReader(i) => self.ask(i, Ask::EndReader),
                Command::CommitOnePhase(i) => self.ask(i, Ask::OnePhase),
                Command::Commit(i, at) => {
                    assert_eq!(at, AT, "a commit rests on the record");
                    self.ask(i, Ask::Commit);
                }
                Command::Rollback(i) if world.last() == Some(i) => {
                    self.roll_back_last(&mut running, i);
                }
                Command::Rollback(i) => self.ask(i, Ask::Rollback),
                Command::HandOver(i) => self.disconnect(i.0),
                Command::Decide(_) if world.bug == Bug::OnePhaseAfterPrepare => {
                    running.handle_decision_durable(AT);
                }
                Command::Decide(_) => {
                    self.log.deciding = Deciding::Asked;
                    self.log.is_under_way = true;
                }
                Command::CommitLast(i, _) => {
                    assert_eq!(world.last(), Some(i), "it was named");
                    self.ask_last();
                }
                Command::Complete(_) => self.complete(),
            }
        }
        match running.outcome() {
            None => self.running = Some(running),
            Some(outcome) => self.leave_a(&outcome),
        }
    }

    fn leave_a(&mut self, outcome: &Outcome) {
        self.told = Some(match outcome {
            Outcome::Committed { unfinished } => {
                let is_left = unfinished.is_empty() && self.is_pending();
                assert!(
                    !is_left,
                    "a decision with every branch confirmed is completed at once"
                );
                Told::Committed
            }
            Outcome::RolledBack { .. } => Told::RolledBack,
            Outcome::Undetermined => Told::Undetermined,
            Outcome::Heuristic(_) => panic!("nobody interferes here: {outcome:?}"),
        });
        self.log.was_uncertain = false;
        self.hang_up();
    }

    /// Nobody listens any more on any connection of the transaction.
    pub(super) fn hang_up(&mut self) {
        for i in 0..self.branches.len() {
            self.disconnect(i);
            self.branches[i].inquiry = Inquiry::default();
        }
        self.disconnect_last();
    }

    /// On a connection whose other end is gone, the request is lost.
    fn ask(&mut self, index: BranchIndex, ask: Ask) {
        let wire = &mut self.branches[index.0].wire;
        wire.ask = (wire.link == Link::Up).then_some(ask);
        wire.reply = None;
    }

    pub(super) fn branch_state(&self, i: usize) -> Option<BranchState> {
        let running = self.running.as_ref();
        running.map(|running| running.branch_state(BranchIndex(i)))
    }

    pub(super) fn hear(&mut self, world: &World, i: usize) {
        let reply = self.branches[i]
            .wire
            .reply
            .take()
            .expect("a reply is heard");
        match reply {
            Reply::Vote(vote) => {
                self.drive(world, |running| running.handle_vote(BranchIndex(i), vote));
                if world.bug == Bug::DecidesBeforeAllVotes && vote == Vote::Commit {
                    self.take_votes_for_granted(world);
                }
            }
            Reply::ReaderEnded => self.reader_ended(world, i, true),
            Reply::OnePhase { .. } if world.bug == Bug::OnePhaseAfterPrepare => {
                let vote = Vote::Commit;
                self.drive(world, |running| running.handle_vote(BranchIndex(i), vote));
            }
            Reply::OnePhase { committed } => self.answer_inquiry(world, i, Some(committed)),
            Reply::Done => self.finished(world, i, Finish::Done),
            Reply::Unknown => self.finished(world, i, Finish::Unconfirmed),
        }
    }

    fn reader_ended(&mut self, world: &World, i: usize, ended: bool) {
        self.drive(world, |running| {
            running.handle_reader_ended(BranchIndex(i), ended);
        });
    }

    fn take_votes_for_granted(&mut self, world: &World) {
        for i in 0..self.branches.len() {
            if self.branch_state(i) == Some(BranchState::Preparing) {
                self.branches[i].wire.ask = None;
                self.branches[i].wire.reply = None;
                let vote = Vote::Commit;
                self.drive(world, |running| running.handle_vote(BranchIndex(i), vote));
            }
        }
    }

    /// No answer will be heard any more.
    pub(super) fn miss(&mut self, world: &World, i: usize) {
        let phase = self.running.as_ref().map(Coordinator::phase);
        let is_reader = world.branches[i].role == BranchRole::Reader;
        match self.branch_state(i) {
            Some(BranchState::Preparing) if is_reader => {
                self.reader_ended(world, i, world.bug == Bug::ForgivesReader);
            }
            Some(BranchState::Preparing) => {
                let vote = if world.bug == Bug::TakesSilenceForConsent {
                    Vote::Commit
                } else {
                    Vote::Unheard
                };
                self.drive(world, |running| running.handle_vote(BranchIndex(i), vote));
            }
            Some(BranchState::Committing) if phase == Some(Phase::OnePhase) => {
                self.miss_one_phase(world, i);
            }
            Some(BranchState::Committing) if world.bug == Bug::TakesSilenceForDone => {
                self.finished(world, i, Finish::Done);
            }
            _ => self.finished(world, i, Finish::Unconfirmed),
        }
        self.disconnect(i);
    }

    fn finished(&mut self, world: &World, i: usize, finish: Finish) {
        let index = BranchIndex(i);
        match self.branch_state(i) {
            Some(BranchState::Committing) => {
                self.drive(world, |running| running.handle_committed(index, finish));
            }
            Some(BranchState::RollingBack) => {
                self.drive(world, |running| running.handle_rolled_back(index, finish));
            }
            other => panic!("an answer to nothing: {other:?}"),
        }
    }
}

impl World {
    fn has_one_phase_bug(&self, i: BranchIndex) -> bool {
        self.bug == Bug::OnePhaseAfterPrepare && i.0 + 1 == self.branches.len()
    }
}
