//! The world around the core: what servers, the log, the network and crashes may do to it.
//!
//! One transaction, begun by member 0 (the *owner*) under the first epoch, with a connection to
//! each of its branches. There are two kinds of decision log:
//! * [`Home::File`]: one member, alone on its disk. Opening the log closes all earlier epochs. What
//!   is written and not synced outlives the process, and a power failure only by luck.
//! * [`Home::Table`]: two members. A decision travels to the log and may arrive when nobody waits
//!   for it any more, its writer dead or suspected. Any member may close the epoch of another at
//!   any time, rightly or wrongly. Nobody waits for the log to sync but who asked for the decision.
//!
//! What bounds a world is in [`World`]; what can happen in it is in [`Action`].

mod action;
mod last_resource;
mod log;
mod one_phase;
mod paths;
mod possible;
mod recovery;
mod servers;
mod settle;
mod wires;

use unanimous_core::protocol::{BranchRole, Coordinator, Decision, EpochView, LogSeq, Vote};

pub(super) use super::bug::Bug;
pub(super) use action::Action;
pub(super) use settle::Settled;

const AT: LogSeq = LogSeq(1);
const OWNER: usize = 0;

/// How a server treats its branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As PostgreSQL and MySQL: prepared branches belong to nobody, an end that was acknowledged is
    /// durable, and (as PostgreSQL) a transaction's number tells how it ended.
    Plain,
    /// As MariaDB: a prepared branch is hidden from everybody else while its connection lives, and
    /// an acknowledged rollback may be undone by a crash of the server.
    Holding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BranchSpec {
    pub(super) role: BranchRole,
    pub(super) kind: Kind,
}

/// Where the decision log lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    File,
    Table,
}

/// What is wrong, and the bounds of what can happen.
pub(super) struct World {
    pub(super) bug: Bug,
    pub(super) branches: &'static [BranchSpec],
    pub(super) home: Home,
    /// What a branch may answer to prepare.
    pub(super) votes: &'static [Vote],
    /// How often members may crash.
    pub(super) crashes: u8,
    /// How often servers of branches may crash.
    pub(super) server_crashes: u8,
    /// How often the home of the log may crash on its own.
    pub(super) log_crashes: u8,
    /// Whether those crashes are the owner's alone, which keeps a world small.
    pub(super) only_owner_crashes: bool,
    /// How many recovery passes may be under way at a time.
    pub(super) passes: usize,
    /// Whether a scan may be answered by a standby, which lists nothing.
    pub(super) standbys: bool,
    /// Whether a last resource commits together with the record.
    pub(super) has_last_resource: bool,
    /// States that are known to resolve.
    pub(super) settled: Settled,
}

impl World {
    pub(super) fn members(&self) -> usize {
        match self.home {
            Home::File => 1,
            Home::Table => 2,
        }
    }
}

/// A branch as its server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ServerBranch {
    Active,
    Prepared(Prepared),
    Committed,
    RolledBack,
    /// Rolled back, acknowledged, and not durable yet.
    RolledBackLazily,
    /// Ended by a read-only vote, or a reader that was ended: neither committed nor rolled back.
    ReadOnly,
}

impl ServerBranch {
    pub(super) const fn is_prepared(self) -> bool {
        matches!(self, Self::Prepared(_))
    }

    pub(super) const fn is_rolled_back(self) -> bool {
        matches!(self, Self::RolledBack | Self::RolledBackLazily)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Prepared {
    /// Whoever knows its XID can end it.
    Free,
    /// Only the connection that prepared it can end it.
    Held,
    /// It was rolled back before the server crashed.
    Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ask {
    Prepare,
    EndReader,
    OnePhase,
    Commit,
    Rollback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reply {
    Vote(Vote),
    ReaderEnded,
    OnePhase {
        committed: bool,
    },
    Done,
    /// The server does not know the XID: proves nothing.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Link {
    Up,
    /// The server's end is gone, and the member has not noticed.
    Cut,
    /// The member has let go of it. What it sent may still arrive.
    Down,
}

/// The owner's connection to one branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wire {
    link: Link,
    ask: Option<Ask>,
    reply: Option<Reply>,
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

/// A member's recovery pass over one resource that has found its branch prepared (P).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Pass {
    is_active: Option<bool>,
    /// The epoch, and whether the transaction is decided (T).
    recorded: Option<(EpochView, bool)>,
}

/// Whether the owner asks how its commit in one phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Inquiry {
    is_wanted: bool,
    /// The server is not the one that gave the transaction its number.
    has_restarted: bool,
    /// The number is another transaction's, which has committed.
    is_given_away: bool,
}

/// All that belongs to one branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Branch {
    server: ServerBranch,
    wire: Wire,
    finishes: Finishes,
    /// By member.
    passes: [Option<Pass>; 2],
    inquiry: Inquiry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Member {
    is_up: bool,
    /// It has not opened the log again since the beginning.
    has_first_opening: bool,
}

/// The record of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Record {
    Absent,
    /// Written but not synced: readable, and gone after a power failure.
    Written,
    Durable,
    /// Completed, lazily: not pending any more, and pending again after some crashes. A reader
    /// finds nothing; only the owner, asking again in a closed epoch, is told that it was decided.
    Completed,
    /// A standing refusal under the same key, so that no commit can come later.
    Refused,
}

/// Where the owner's `decide` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Deciding {
    No,
    Asked,
    /// "Recorded" is on its way to the owner.
    Answered,
    /// It will not be answered, and has to be repeated.
    Uncertain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Log {
    /// Of the transaction's epoch.
    is_open: bool,
    record: Record,
    deciding: Deciding,
    /// A request to record the decision is on its way to the log.
    is_under_way: bool,
    /// An earlier request of this `decide` has not been answered.
    was_uncertain: bool,
    was_durable: bool,
    /// A wrong log has found the epoch open for the request that is under way.
    has_passed: bool,
}

/// A member that looks, resource by resource, whether the decision can be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Looker {
    member: usize,
    gone: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Told {
    Committed,
    RolledBack,
    Undetermined,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WorldState {
    branches: Vec<Branch>,
    /// The branch in the log's own database, which is not prepared.
    last: Option<ServerBranch>,
    members: [Member; 2],
    /// The transaction, from its begin until it leaves A.
    running: Option<Coordinator>,
    log: Log,
    looker: Option<Looker>,
    told: Option<Told>,
    crashes: u8,
    server_crashes: u8,
    log_crashes: u8,
    owner_has_crashed: bool,
    /// A wrong driver still lists the ended transaction in A.
    is_stuck_in_a: bool,
    contradicted_record: bool,
    ended_running: bool,
}

impl WorldState {
    pub(super) fn new(world: &World) -> Self {
        let mut running = Coordinator::new();
        for spec in world.branches {
            running.enlist(spec.role);
        }
        if world.has_last_resource {
            running.enlist(BranchRole::Writer);
        }
        let branch = Branch {
            server: ServerBranch::Active,
            wire: Wire {
                link: Link::Up,
                ask: None,
                reply: None,
            },
            finishes: Finishes::default(),
            passes: [None; 2],
            inquiry: Inquiry::default(),
        };
        let member = |m| Member {
            is_up: m < world.members(),
            has_first_opening: true,
        };
        Self {
            branches: vec![branch; world.branches.len()],
            last: world.has_last_resource.then_some(ServerBranch::Active),
            members: [member(0), member(1)],
            running: Some(running),
            log: Log {
                is_open: true,
                record: Record::Absent,
                deciding: Deciding::No,
                is_under_way: false,
                was_uncertain: false,
                was_durable: false,
                has_passed: false,
            },
            looker: None,
            told: None,
            crashes: 0,
            server_crashes: 0,
            log_crashes: 0,
            owner_has_crashed: false,
            is_stuck_in_a: false,
            contradicted_record: false,
            ended_running: false,
        }
    }
}

/// What the properties ask.
impl WorldState {
    pub(super) const fn told(&self) -> Option<Told> {
        self.told
    }

    pub(super) const fn contradicted_record(&self) -> bool {
        self.contradicted_record
    }

    pub(super) const fn ended_running(&self) -> bool {
        self.ended_running
    }

    pub(super) fn any(&self, is: impl Fn(ServerBranch) -> bool) -> bool {
        self.ends().any(is)
    }

    pub(super) fn all(&self, is: impl Fn(ServerBranch) -> bool) -> bool {
        self.ends().all(is)
    }

    fn ends(&self) -> impl Iterator<Item = ServerBranch> {
        let branches = self.branches.iter().map(|branch| branch.server);
        branches.chain(self.last)
    }
}
