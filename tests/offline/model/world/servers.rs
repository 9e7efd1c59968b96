//! What happens to branches at their servers.

use unanimous_core::protocol::{Decision, Vote};

use super::{Ask, Kind, Link, Prepared, Reply, ServerBranch, World, WorldState};

impl WorldState {
    /// A request of the owner arrives. Those of a session that has ended are gone with it.
    pub(super) fn arrive(&mut self, world: &World, i: usize, vote: Vote) {
        let branch = &mut self.branches[i];
        let ask = branch.wire.ask.take().expect("a request arrives");
        let reply = match (ask, branch.server) {
            (Ask::Prepare, ServerBranch::Active) => {
                branch.server = match (vote, world.branches[i].kind) {
                    (Vote::Commit, Kind::Plain) => ServerBranch::Prepared(Prepared::Free),
                    (Vote::Commit, Kind::Holding) => ServerBranch::Prepared(Prepared::Held),
                    (Vote::ReadOnly, _) => ServerBranch::ReadOnly,
                    (Vote::Rollback | Vote::Unheard, _) => ServerBranch::RolledBack,
                };
                Reply::Vote(vote)
            }
            (Ask::EndReader, ServerBranch::Active) => {
                branch.server = ServerBranch::ReadOnly;
                Reply::ReaderEnded
            }
            (Ask::OnePhase, ServerBranch::Active) => {
                let committed = vote == Vote::Commit;
                branch.server = if committed {
                    ServerBranch::Committed
                } else {
                    ServerBranch::RolledBack
                };
                Reply::OnePhase { committed }
            }
            (Ask::Rollback, ServerBranch::Active) => {
                branch.server = ServerBranch::RolledBack;
                Reply::Done
            }
            (Ask::Commit, ServerBranch::Prepared(_)) => {
                self.end_prepared(world, i, Decision::Commit);
                Reply::Done
            }
            (Ask::Rollback, ServerBranch::Prepared(_)) => {
                self.end_prepared(world, i, Decision::Rollback);
                Reply::Done
            }
            (Ask::Commit | Ask::Rollback, _) => Reply::Unknown,
            (ask, server) => panic!("{ask:?} of a branch that is {server:?}"),
        };
        if self.branches[i].wire.link == Link::Up {
            self.branches[i].wire.reply = Some(reply);
        } else {
            self.disconnect(i);
        }
    }

    /// A request of recovery arrives, on another connection than the one that prepared.
    pub(super) fn finish_arrives(&mut self, world: &World, i: usize, decision: Decision) {
        *self.branches[i].finishes.of(decision) = false;
        match self.branches[i].server {
            ServerBranch::Prepared(Prepared::Free | Prepared::Again) => {
                self.end_prepared(world, i, decision);
            }
            // Answered by "unknown XID", which proves nothing: another pass will look again.
            ServerBranch::Prepared(Prepared::Held)
            | ServerBranch::Active
            | ServerBranch::Committed
            | ServerBranch::RolledBack
            | ServerBranch::RolledBackLazily
            | ServerBranch::ReadOnly => {}
        }
    }

    /// A prepared branch is ended, which only the record may decide.
    fn end_prepared(&mut self, world: &World, i: usize, decision: Decision) {
        let can_come_back =
            world.branches[i].kind == Kind::Holding && self.server_crashes < world.server_crashes;
        self.branches[i].server = match decision {
            Decision::Commit => ServerBranch::Committed,
            Decision::Rollback if can_come_back => ServerBranch::RolledBackLazily,
            Decision::Rollback => ServerBranch::RolledBack,
        };
        self.contradicted_record |= (decision == Decision::Commit) != self.log.was_durable;
    }

    /// The owner lets go of its connection; the server notices when nothing is under way on it.
    pub(super) fn disconnect(&mut self, i: usize) {
        let branch = &mut self.branches[i];
        branch.wire.link = Link::Down;
        branch.wire.reply = None;
        if branch.wire.ask.is_none() && branch.server == ServerBranch::Active {
            branch.server = ServerBranch::RolledBack;
        }
    }

    /// The server has noticed.
    pub(super) fn let_go(&mut self, i: usize) {
        let branch = &mut self.branches[i];
        if branch.server == ServerBranch::Prepared(Prepared::Held) {
            branch.server = ServerBranch::Prepared(Prepared::Free);
        }
    }

    /// Sessions end, with what was not prepared; prepared branches stay.
    pub(super) fn server_crash(&mut self, world: &World, i: usize, lucky: bool) {
        self.server_crashes += 1;
        self.let_go(i);
        let branch = &mut self.branches[i];
        match branch.server {
            ServerBranch::Active => branch.server = ServerBranch::RolledBack,
            ServerBranch::RolledBackLazily if !lucky => {
                branch.server = ServerBranch::Prepared(Prepared::Again);
            }
            ServerBranch::RolledBackLazily => branch.server = ServerBranch::RolledBack,
            ServerBranch::Prepared(_)
            | ServerBranch::Committed
            | ServerBranch::RolledBack
            | ServerBranch::ReadOnly => {}
        }
        branch.wire.ask = None;
        if branch.wire.link == Link::Up {
            branch.wire.link = Link::Cut;
        }
        branch.inquiry.has_restarted |= world.commits_in_one_phase();
        // Nothing can be undone any more: one state less to tell apart.
        if self.server_crashes == world.server_crashes {
            for branch in &mut self.branches {
                if branch.server == ServerBranch::RolledBackLazily {
                    branch.server = ServerBranch::RolledBack;
                }
            }
        }
    }
}
