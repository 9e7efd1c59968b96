//! What must be reached for an exploration to mean anything: a world that never loses a reply
//! proves nothing about lost replies.

use unanimous_core::protocol::{BranchRole, Vote};

use super::{
    Ask, Bug, Deciding, Home, Kind, Link, OWNER, Prepared, Record, ServerBranch, Told, World,
    WorldState,
};

/// A state that some way leads to, in every world that has what it takes.
pub(in super::super) struct Path {
    pub(in super::super) name: &'static str,
    pub(in super::super) is_there: fn(&World) -> bool,
    pub(in super::super) is_taken: fn(&World, &WorldState) -> bool,
}

impl World {
    /// The paths that this world has to take.
    pub(in super::super) fn paths(&self) -> Vec<&'static Path> {
        // A wrong variant is explored only until it is caught.
        if self.bug != Bug::None {
            return Vec::new();
        }
        let groups = [COMMON, TWO_PHASES, LOG, MEMBERS, ONE_PHASE];
        let paths = groups.into_iter().flatten();
        paths.filter(|path| (path.is_there)(self)).collect()
    }

    fn has(&self, role: BranchRole, kind: Kind) -> bool {
        let mut specs = self.branches.iter();
        specs.any(|spec| spec.role == role && spec.kind == kind)
    }

    fn can_inquire(&self) -> bool {
        self.commits_in_one_phase() && self.has(BranchRole::Writer, Kind::Plain)
    }

    fn has_table(&self) -> bool {
        self.home == Home::Table
    }

    fn has_two_phases(&self) -> bool {
        !self.commits_in_one_phase()
    }
}

impl WorldState {
    fn is_sent(&self, is_commit: bool) -> bool {
        self.branches.iter().any(|branch| {
            let is_free = branch.server == ServerBranch::Prepared(Prepared::Free);
            let finishes = branch.finishes;
            is_free
                && if is_commit {
                    finishes.commit
                } else {
                    finishes.rollback
                }
        })
    }

    fn is_told(&self, told: Told) -> bool {
        self.told == Some(told)
    }

    /// The owner never crashed; others closed its epoch.
    fn is_suspected_wrongly(&self) -> bool {
        !self.log.is_open && !self.owner_has_crashed
    }
}

const COMMON: &[Path] = &[
    Path {
        name: "everybody commits, and the application is told so",
        is_there: |_| true,
        is_taken: |_, state| {
            let is_good = |end| matches!(end, ServerBranch::Committed | ServerBranch::ReadOnly);
            state.is_told(Told::Committed)
                && state.all(is_good)
                && state.any(|end| end == ServerBranch::Committed)
        },
    },
    Path {
        name: "everybody rolls back, and the application is told so",
        is_there: |_| true,
        is_taken: |_, state| {
            state.is_told(Told::RolledBack) && state.all(ServerBranch::is_rolled_back)
        },
    },
    Path {
        name: "a branch without effect ends before the others commit",
        is_there: |world| {
            world.has(BranchRole::Reader, Kind::Plain) || world.votes.contains(&Vote::ReadOnly)
        },
        is_taken: |_, state| {
            let is = |wanted| state.any(|end| end == wanted);
            state.is_told(Told::Committed)
                && is(ServerBranch::ReadOnly)
                && is(ServerBranch::Committed)
        },
    },
    Path {
        name: "a server crashes, and its connection is found cut",
        is_there: |world| world.server_crashes > 0,
        is_taken: |_, state| {
            let mut branches = 0..state.branches.len();
            branches.any(|i| {
                let is_busy = state.branch_state(i).is_some_and(|branch| branch.is_busy());
                state.branches[i].wire.link == Link::Cut && is_busy
            })
        },
    },
];

const TWO_PHASES: &[Path] = &[
    Path {
        name: "recovery commits a branch",
        is_there: World::has_two_phases,
        is_taken: |_, state| state.running.is_none() && state.is_sent(true),
    },
    Path {
        name: "recovery rolls a branch back",
        is_there: World::has_two_phases,
        is_taken: |_, state| state.running.is_none() && state.is_sent(false),
    },
    Path {
        name: "a prepare is still under way when its transaction has been rolled back",
        is_there: World::has_two_phases,
        is_taken: |_, state| {
            let mut wires = state.branches.iter().map(|branch| branch.wire);
            state.is_told(Told::RolledBack) && wires.any(|wire| wire.ask == Some(Ask::Prepare))
        },
    },
    Path {
        name: "recovery meets a branch that its connection still holds",
        is_there: |world| world.has_two_phases() && world.has(BranchRole::Writer, Kind::Holding),
        is_taken: |_, state| {
            state.branches.iter().any(|branch| {
                let is_held = branch.server == ServerBranch::Prepared(Prepared::Held);
                is_held && branch.finishes.decisions().count() > 0
            })
        },
    },
    Path {
        name: "a branch is prepared again after its rollback was acknowledged",
        is_there: |world| {
            let can_come_back = world.has(BranchRole::Writer, Kind::Holding);
            world.has_two_phases() && can_come_back && world.server_crashes > 0
        },
        is_taken: |_, state| {
            let again = ServerBranch::Prepared(Prepared::Again);
            state.is_told(Told::RolledBack) && state.any(|end| end == again)
        },
    },
];

const LOG: &[Path] = &[
    Path {
        name: "a decision is asked for again after an uncertain write",
        is_there: |world| world.has_two_phases() && !world.has_last_resource,
        is_taken: |_, state| state.log.deciding == Deciding::Asked && state.log.was_uncertain,
    },
    Path {
        name: "a record outlives its writer, unsynced",
        is_there: World::has_two_phases,
        is_taken: |_, state| state.log.record == Record::Written && state.owner_has_crashed,
    },
    Path {
        name: "a decision is completed by a member that did not take it",
        is_there: World::has_two_phases,
        is_taken: |_, state| state.log.record == Record::Completed && state.owner_has_crashed,
    },
    Path {
        name: "a last resource commits with its record",
        is_there: |world| world.has_last_resource,
        is_taken: |_, state| {
            state.is_told(Told::Committed) && state.last == Some(ServerBranch::Committed)
        },
    },
    Path {
        name: "a last resource is committed, and its reply is lost",
        is_there: |world| world.has_last_resource,
        is_taken: |_, state| {
            let is_committed = state.last == Some(ServerBranch::Committed);
            is_committed && state.log.deciding == Deciding::Uncertain
        },
    },
    Path {
        name: "a last resource decides, and has nobody to decide for",
        is_there: |world| world.has_last_resource && world.votes.contains(&Vote::ReadOnly),
        is_taken: |_, state| {
            let mut ends = state.branches.iter().map(|branch| branch.server);
            state.is_told(Told::Committed) && ends.all(|end| end == ServerBranch::ReadOnly)
        },
    },
    Path {
        name: "another member closes the epoch before the last resource is asked",
        is_there: |world| world.has_last_resource,
        is_taken: |_, state| {
            let is_asked = state.log.deciding == Deciding::Asked && state.log.is_under_way;
            is_asked && state.is_suspected_wrongly()
        },
    },
    Path {
        name: "a refusal stands before the commit of the last resource arrives",
        is_there: |world| world.has_last_resource,
        is_taken: |_, state| state.log.record == Record::Refused && state.log.is_under_way,
    },
];

const MEMBERS: &[Path] = &[
    Path {
        name: "a dead member's decision is under way, and its epoch open",
        is_there: World::has_table,
        is_taken: |_, state| state.log.is_under_way && state.log.is_open && state.owner_has_crashed,
    },
    Path {
        name: "a dead member's decision arrives after its epoch was closed",
        is_there: World::has_table,
        is_taken: |_, state| {
            state.log.is_under_way && !state.log.is_open && state.owner_has_crashed
        },
    },
    Path {
        name: "a member that was suspected wrongly is refused, rolls back and opens a new epoch",
        is_there: World::has_table,
        is_taken: |_, state| {
            state.is_suspected_wrongly()
                && !state.members[OWNER].has_first_opening
                && state.is_told(Told::RolledBack)
        },
    },
    Path {
        name: "another member rolls back beside the living owner",
        is_there: World::has_table,
        is_taken: |_, state| {
            state.is_suspected_wrongly() && state.running.is_some() && state.is_sent(false)
        },
    },
    Path {
        name: "another member commits beside the living owner",
        is_there: World::has_table,
        is_taken: |_, state| {
            state.is_suspected_wrongly() && state.running.is_some() && state.is_sent(true)
        },
    },
    Path {
        name: "a living owner asks again for what others have committed and completed",
        is_there: World::has_table,
        is_taken: |_, state| {
            state.log.record == Record::Completed && state.log.deciding == Deciding::Uncertain
        },
    },
    Path {
        name: "a member restarts, and leaves its own former epoch alone until it is closed",
        is_there: World::has_table,
        is_taken: |_, state| {
            let has_opened_again = !state.members[OWNER].has_first_opening;
            let mut passes = state.branches.iter().map(|branch| branch.passes[OWNER]);
            has_opened_again && state.log.is_open && passes.any(|pass| pass.is_some())
        },
    },
];

const ONE_PHASE: &[Path] = &[
    Path {
        name: "the end of a commit in one phase is asked for after its reply was lost",
        is_there: World::can_inquire,
        is_taken: |_, state| state.branches.iter().any(|branch| branch.inquiry.is_wanted),
    },
    Path {
        name: "the number of a commit in one phase is another transaction's",
        is_there: World::can_inquire,
        is_taken: |_, state| {
            state
                .branches
                .iter()
                .any(|branch| branch.inquiry.is_given_away)
        },
    },
    Path {
        name: "a commit in one phase is undetermined, and was done",
        is_there: World::commits_in_one_phase,
        is_taken: |_, state| {
            state.is_told(Told::Undetermined) && state.any(|end| end == ServerBranch::Committed)
        },
    },
    Path {
        name: "a commit in one phase is undetermined, and was not done",
        is_there: World::commits_in_one_phase,
        is_taken: |_, state| {
            state.is_told(Told::Undetermined) && state.any(ServerBranch::is_rolled_back)
        },
    },
];
