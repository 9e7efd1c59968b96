//! Where the decisions of a cell are, and the cells whose decisions are in a table.

use unanimous::Point;

use super::cell::{Cell, Fault, Mix, Story, catalogue, combined, stories};
use crate::support::Db;

/// Where the decisions are; with or without a last resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Home {
    File,
    /// In a table of the mix's first PostgreSQL.
    Pg,
    PgLast,
    /// In a table of the mix's first MySQL or MariaDB.
    My,
    MyLast,
}

pub(super) const HOMES: [(Home, &str); 5] = [
    (Home::File, "file"),
    (Home::Pg, "pg"),
    (Home::PgLast, "pg+last"),
    (Home::My, "my"),
    (Home::MyLast, "my+last"),
];

/// Which tables with which databases: each kind of server as home with and without last resource,
/// the last resource first, second and beside one of its own kind.
const SHARED: [(Mix, &[Home]); 5] = [
    (Mix::PgMy, &[Home::Pg, Home::PgLast, Home::My, Home::MyLast]),
    (Mix::MariaPg, &[Home::My, Home::MyLast]),
    (Mix::Three, &[Home::PgLast, Home::My]),
    (Mix::PgPg, &[Home::PgLast]),
    (Mix::MyReader, &[Home::My]),
];

impl Home {
    /// The server of the table.
    pub(super) fn db(self, mix: Mix) -> Option<Db> {
        let is_postgres = match self {
            Self::File => return None,
            Self::Pg | Self::PgLast => true,
            Self::My | Self::MyLast => false,
        };
        let branches = mix.branches().0.iter();
        branches.copied().find(|db| db.is_postgres() == is_postgres)
    }

    pub(super) const fn has_last(self) -> bool {
        matches!(self, Self::PgLast | Self::MyLast)
    }
}

/// From the first branch to the last word on the transaction: where a member is killed or paused
/// while another one lives.
fn members_meet(point: &str) -> bool {
    let local = ["open.", "prepare.", "reader.", "last.", "one_phase."];
    let ends = ["commit.", "release.", "enlist.", "complete.", "end."];
    let starts = |start: &&str| point.starts_with(*start);
    local.iter().any(&starts)
        || ends.iter().any(starts)
        || ["decide.before", "decide.durable"].contains(&point)
}

/// What an application whose decisions are in a table has to do for a point to be reached.
fn table_stories(point: &str, home: Home) -> Vec<Story> {
    let unsure = ["decide.uncertain", "decide.before_again"].contains(&point);
    let mut all = match point {
        "log.before_batch" | "log.batch_written" | "log.batch_synced" => Vec::new(),
        "last.before" => vec![Story::Commit, Story::Refused],
        "last.answered" => vec![Story::Commit, Story::Refused, Story::LastUnanswered],
        _ if point.starts_with("log.") => Vec::new(),
        "decide.before" if home.has_last() => vec![Story::LastUnanswered, Story::LastLate],
        "decide.durable" if home.has_last() => vec![Story::LastUnanswered],
        "decide.refused" if home.has_last() => vec![Story::LastUnsent, Story::LastLate],
        _ if unsure && home.has_last() => vec![Story::LastUnanswered],
        _ => stories(point).to_vec(),
    };
    if members_meet(point) && !(home.has_last() && point.starts_with("decide.")) {
        all.extend([Story::Survivor, Story::Paused]);
    }
    if unsure {
        all.push(Story::PausedUnsure);
    }
    all
}

impl Cell {
    pub(super) fn with_a_table() -> Vec<Self> {
        let mut all = Vec::new();
        for (mix, homes) in SHARED {
            for &home in homes {
                for point in catalogue() {
                    for story in table_stories(point, home) {
                        let count = mix.branches().0.len();
                        // The last one is the log.
                        let targets = (0..=count).collect();
                        all.extend(combined(story, point, mix, home, targets));
                    }
                }
            }
        }
        all
    }

    /// The branch that is the last resource.
    pub(super) fn last_resource(&self) -> Option<usize> {
        let db = self.home.db(self.mix).filter(|_| self.home.has_last())?;
        self.mix.branches().0.iter().position(|of| *of == db)
    }

    /// There is a time when the log cannot be read.
    pub(super) fn log_may_be_away(&self) -> bool {
        match self.fault {
            Fault::KillServer => self.home.db(self.mix) == Some(self.target_db()),
            Fault::CutRequest | Fault::CutReply | Fault::Delay => {
                self.home != Home::File && self.is_at_log()
            }
            Fault::KillCoordinator | Fault::DropFuture | Fault::Pause => false,
        }
    }

    /// The first branch that is prepared.
    fn first_prepared(&self) -> usize {
        usize::from(self.last_resource() == Some(0))
    }

    fn is_of_a_resource(&self) -> bool {
        Point::OF_A_RESOURCE.contains(&self.point)
    }

    /// What means nothing because the log is a table.
    pub(super) fn table_means_nothing(&self) -> Option<&'static str> {
        let is_whole = !self.is_of_a_resource() && !self.story.is_by_hand();
        let has_no_target = match self.fault {
            Fault::KillCoordinator | Fault::DropFuture | Fault::Pause => true,
            Fault::KillServer | Fault::CutRequest | Fault::CutReply | Fault::Delay => false,
        };
        let is_usual = self.target == self.first_prepared();
        let is_last = self.last_resource() == Some(self.target);
        if self.is_at_log() {
            self.log_means_nothing(has_no_target)
        } else if is_whole && !is_usual && (has_no_target || !is_last) {
            Some("the fault has another target already, or none")
        } else {
            self.last_means_nothing()
                .or_else(|| self.member_means_nothing())
        }
    }

    /// The fault is the log's.
    fn log_means_nothing(&self, has_no_target: bool) -> Option<&'static str> {
        let branches = self.mix.branches().0;
        let is_usual = |target: usize| Self { target, ..*self };
        if has_no_target {
            return Some("the fault has another target already, or none");
        }
        if self.story.is_by_hand()
            || matches!(
                self.story,
                Story::CutCommit | Story::RecoverProof | Story::DownAtStart
            )
        {
            return Some("the story is about one of the branches");
        }
        if self.point == "shutdown.log_closed" {
            return Some("nothing is sent to a server after it");
        }
        let log = self.home.db(self.mix);
        let dies_as_branch = self.is_of_a_resource() || log == branches.first().copied();
        if self.fault == Fault::KillServer && dies_as_branch {
            return Some("the log's server dies as that of a branch");
        }
        let why_not = |target| {
            let cell: Self = is_usual(target);
            let why = cell.role_means_nothing();
            why.or_else(|| cell.last_means_nothing())
                .or_else(|| cell.member_means_nothing())
        };
        let reasons: Vec<_> = (0..branches.len()).map(why_not).collect();
        reasons
            .iter()
            .all(Option::is_some)
            .then(|| reasons[0])
            .flatten()
    }

    /// What a last resource does not do.
    fn last_means_nothing(&self) -> Option<&'static str> {
        let (point, story) = (self.point, self.story);
        let Some(last) = self.last_resource() else {
            let is_about_it = point.starts_with("last.") || story.loses_last();
            return is_about_it.then_some("there is no last resource");
        };
        if matches!(story, Story::Uncertain | Story::Overdue) {
            return Some("the last resource decides, and not the log");
        }
        if point.starts_with("decide.") && !story.loses_last() && story != Story::PausedUnsure {
            return Some("the last resource decides, and not the log");
        }
        let is_it = self.target == last;
        if point.starts_with("last.") && !is_it {
            return Some("only the last resource commits so");
        }
        let not_prepared = ["prepare.", "commit.", "driver.", "recovery.", "heuristic."];
        let is_prepared_only = self.is_of_a_resource()
            && not_prepared.iter().any(|start| point.starts_with(start))
            && story != Story::DownAtStart
            || story.is_by_hand()
            || story == Story::CutCommit
            || point.starts_with("rollback.") && self.is_of_a_resource() && story == Story::Refused;
        if is_it && is_prepared_only {
            return Some("the last resource is not prepared, and leaves nothing to recover");
        }
        None
    }

    /// What is done while another member lives.
    fn member_means_nothing(&self) -> Option<&'static str> {
        match self.story {
            Story::Survivor if self.fault != Fault::KillCoordinator => {
                Some("a member is killed, and not its servers")
            }
            Story::Commit
            | Story::Rollback
            | Story::Refused
            | Story::Uncertain
            | Story::Overdue
            | Story::CutCommit
            | Story::HandRollsBack
            | Story::HandCommits
            | Story::Asked
            | Story::RecoverCommit
            | Story::RecoverRollback
            | Story::RecoverProof
            | Story::DownAtStart
            | Story::LastUnsent
            | Story::LastUnanswered
            | Story::LastLate
            | Story::Survivor
            | Story::Paused
            | Story::PausedUnsure => None,
        }
    }
}
