//! What happens between the core and its branches: requests, replies, and their loss.

use unanimous_core::protocol::{
    BranchIndex, BranchState, Command, Coordinator, Finish, Outcome, Vote,
};

use super::{AT, Ask, Bug, Deciding, Reply, ServerBranch, Told, World, WorldState};

impl WorldState {
    /// Tells the core something, and sends what it commands. Ended, it leaves A.
    pub(super) fn drive(&mut self, tell: impl FnOnce(&mut Coordinator)) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        tell(&mut running);
        while let Some(command) = running.poll_command() {
            match command {
                Command::Prepare(i) => self.ask(i, Ask::Prepare),
                Command::Commit(i, at) => {
                    assert_eq!(at, AT, "a commit rests on the record");
                    self.ask(i, Ask::Commit);
                }
                Command::Rollback(i) => self.ask(i, Ask::Rollback),
                Command::HandOver(i) => self.disconnect(i.0),
                Command::Decide(_) => self.deciding = Deciding::Asked,
                Command::Complete(_) => self.complete(),
                Command::EndReader(_) | Command::CommitOnePhase(_) => {
                    panic!("two writers need two phases")
                }
            }
        }
        match running.outcome() {
            None => self.running = Some(running),
            Some(Outcome::Committed { .. }) => self.told = Some(Told::Committed),
            Some(Outcome::RolledBack { .. }) => self.told = Some(Told::RolledBack),
            Some(other) => panic!("nobody interferes here: {other:?}"),
        }
    }

    pub(super) fn ask(&mut self, index: BranchIndex, ask: Ask) {
        let wire = &mut self.wires[index.0];
        wire.ask = Some(ask);
        wire.reply = None;
    }

    pub(super) fn disconnect(&mut self, i: usize) {
        let wire = &mut self.wires[i];
        wire.is_connected = false;
        wire.reply = None;
        if wire.ask.is_none() && self.servers[i] == ServerBranch::Active {
            self.servers[i] = ServerBranch::RolledBack;
        }
    }

    pub(super) fn arrive(&mut self, i: usize, vote: Vote) {
        let ask = self.wires[i].ask.take().expect("a request arrives");
        let (end, reply) = match (ask, self.servers[i]) {
            (Ask::Prepare, ServerBranch::Active) => {
                let end = match vote {
                    Vote::Commit => ServerBranch::Prepared,
                    Vote::ReadOnly => ServerBranch::ReadOnly,
                    Vote::Rollback | Vote::Unheard => ServerBranch::RolledBack,
                };
                (end, Reply::Vote(vote))
            }
            (Ask::Commit, ServerBranch::Prepared) => (ServerBranch::Committed, Reply::Done),
            (Ask::Rollback, ServerBranch::Active | ServerBranch::Prepared) => {
                (ServerBranch::RolledBack, Reply::Done)
            }
            (_, end) => (end, Reply::Unknown),
        };
        self.servers[i] = end;
        if self.wires[i].is_connected {
            self.wires[i].reply = Some(reply);
        } else {
            self.disconnect(i);
        }
    }

    pub(super) fn hear(&mut self, world: &World, i: usize) {
        let reply = self.wires[i].reply.take().expect("a reply is heard");
        match reply {
            Reply::Vote(vote) => {
                self.drive(|running| running.handle_vote(BranchIndex(i), vote));
                if world.bug == Bug::DecidesBeforeAllVotes && vote == Vote::Commit {
                    self.take_vote_for_granted(1 - i);
                }
            }
            Reply::Done => self.finished(i, Finish::Done),
            Reply::Unknown => self.finished(i, Finish::Unconfirmed),
        }
    }

    pub(super) fn take_vote_for_granted(&mut self, i: usize) {
        let state = self
            .running
            .as_ref()
            .map(|r| r.branch_state(BranchIndex(i)));
        if state == Some(BranchState::Preparing) {
            self.wires[i].ask = None;
            self.wires[i].reply = None;
            self.drive(|running| running.handle_vote(BranchIndex(i), Vote::Commit));
        }
    }

    /// No answer will be heard any more.
    pub(super) fn miss(&mut self, i: usize) {
        let state = self
            .running
            .as_ref()
            .map(|r| r.branch_state(BranchIndex(i)));
        if self.wires[i].is_connected && state == Some(BranchState::Preparing) {
            self.drive(|running| running.handle_vote(BranchIndex(i), Vote::Unheard));
        } else if self.wires[i].is_connected {
            self.finished(i, Finish::Unconfirmed);
        }
        self.disconnect(i);
    }

    pub(super) fn finished(&mut self, i: usize, finish: Finish) {
        let state = self
            .running
            .as_ref()
            .map(|r| r.branch_state(BranchIndex(i)));
        match state {
            Some(BranchState::Committing) => {
                self.drive(|running| running.handle_committed(BranchIndex(i), finish));
            }
            Some(BranchState::RollingBack) => {
                self.drive(|running| running.handle_rolled_back(BranchIndex(i), finish));
            }
            other => panic!("an answer to nothing: {other:?}"),
        }
    }
}
