//! The worlds that are explored: each is large where it asks something, and small elsewhere.

use unanimous_core::protocol::{BranchRole, Vote};

use super::world::{BranchSpec, Bug, Home, Kind, Settled, World};

const fn branch(role: BranchRole, kind: Kind) -> BranchSpec {
    BranchSpec { role, kind }
}

const WRITER: BranchSpec = branch(BranchRole::Writer, Kind::Plain);
const HOLDING: BranchSpec = branch(BranchRole::Writer, Kind::Holding);
const READER: BranchSpec = branch(BranchRole::Reader, Kind::Plain);

const WILLING: &[Vote] = &[Vote::Commit];
const WILLING_OR_NOT: &[Vote] = &[Vote::Commit, Vote::Rollback];
const ANY: &[Vote] = &[Vote::Commit, Vote::ReadOnly, Vote::Rollback];

fn world(home: Home, branches: &'static [BranchSpec]) -> World {
    World {
        bug: Bug::None,
        branches,
        home,
        votes: WILLING,
        crashes: 1,
        server_crashes: 0,
        log_crashes: 0,
        only_owner_crashes: true,
        passes: 1,
        standbys: false,
        has_last_resource: false,
        settled: Settled::default(),
    }
}

/// Bounds for those who can wait.
pub(super) fn larger(world: World) -> World {
    World {
        crashes: world.crashes + 1,
        server_crashes: world.server_crashes * 2,
        log_crashes: world.log_crashes * 2,
        only_owner_crashes: false,
        // Three branches with two passes are hours, not minutes.
        passes: if world.branches.len() < 3 { 2 } else { 1 },
        ..world
    }
}

/// Every vote, two crashes, passes at both resources at a time.
pub(super) fn two_writers() -> World {
    World {
        votes: ANY,
        crashes: 2,
        passes: 2,
        ..world(Home::File, &[WRITER, WRITER])
    }
}

/// A server that hides prepared branches and forgets rollbacks; a standby that lists nothing.
pub(super) fn holding_server() -> World {
    World {
        server_crashes: 1,
        passes: 2,
        standbys: true,
        ..world(Home::File, &[WRITER, HOLDING])
    }
}

pub(super) fn two_writers_and_a_reader() -> World {
    World {
        server_crashes: 1,
        ..world(Home::File, &[WRITER, WRITER, READER])
    }
}

pub(super) fn three_writers() -> World {
    world(Home::File, &[WRITER, WRITER, WRITER])
}

/// The only writer commits in one phase.
pub(super) fn one_writer() -> World {
    World {
        crashes: 1,
        server_crashes: 2,
        ..world(Home::File, &[WRITER])
    }
}

/// Its server cannot tell how a transaction ended.
pub(super) fn one_writer_on_a_holding_server() -> World {
    World {
        server_crashes: 2,
        ..world(Home::File, &[HOLDING])
    }
}

pub(super) fn one_writer_and_a_reader() -> World {
    World {
        server_crashes: 2,
        ..world(Home::File, &[WRITER, READER])
    }
}

/// Two members that share a log; its home may crash.
pub(super) fn two_members() -> World {
    World {
        log_crashes: 1,
        votes: WILLING_OR_NOT,
        ..world(Home::Table, &[WRITER, WRITER])
    }
}

/// Both members crash and recover, at the same time.
pub(super) fn two_members_that_crash() -> World {
    World {
        only_owner_crashes: false,
        passes: 2,
        ..world(Home::Table, &[WRITER, WRITER])
    }
}

pub(super) fn two_members_and_a_holding_server() -> World {
    World {
        server_crashes: 1,
        ..world(Home::Table, &[WRITER, HOLDING])
    }
}

/// Three writers, none of which refuses.
pub(super) fn two_members_and_three_writers() -> World {
    world(Home::Table, &[WRITER, WRITER, WRITER])
}

/// A last resource beside two branches that prepare.
pub(super) fn last_resource() -> World {
    World {
        votes: WILLING_OR_NOT,
        log_crashes: 1,
        has_last_resource: true,
        ..world(Home::Table, &[WRITER, WRITER])
    }
}

/// A last resource beside one that may have nothing to commit, and members that all crash.
pub(super) fn last_resource_beside_one() -> World {
    World {
        votes: ANY,
        log_crashes: 1,
        only_owner_crashes: false,
        passes: 2,
        has_last_resource: true,
        ..world(Home::Table, &[WRITER])
    }
}
