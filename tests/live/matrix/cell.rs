//! What a cell of the matrix is, which cells there are, and which can mean nothing.

use unanimous::Point;

use super::home::{HOMES, Home};
use crate::support::Db;

/// What strikes at the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL of the application.
    KillCoordinator,
    /// SIGKILL of the branch's server, which then comes back.
    KillServer,
    /// The branch's next request is lost with its connection.
    CutRequest,
    /// The branch's next reply is lost with its connection.
    CutReply,
    /// The branch's replies, or a step of the log, come after every limit has passed.
    Delay,
    /// The future that the application waits for is dropped.
    DropFuture,
    /// The application stands still, all of it, until another member has closed its epoch.
    Pause,
}

/// The databases of a transaction, in the order in which they are enlisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mix {
    PgMy,
    MariaPg,
    MyMaria,
    PgPg,
    Three,
    MyReader,
    PgReader,
    TwoWritersReader,
}

/// What the application does around the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Story {
    Commit,
    Rollback,
    /// The log's epoch is closed after all have prepared.
    Refused,
    /// The log records the decision and says that it does not know.
    Uncertain,
    /// The log takes longer than `commit` waits.
    Overdue,
    /// The branch's connection is cut when it is to commit.
    CutCommit,
    /// Somebody else rolls the branch back when it is to commit.
    HandRollsBack,
    /// Somebody else commits the branch when it is to commit.
    HandCommits,
    /// What became of the transaction is asked before, during and after its commit.
    Asked,
    /// An earlier life ended after the decision, before any commit.
    RecoverCommit,
    /// An earlier life ended after all had prepared.
    RecoverRollback,
    /// An earlier life ended after this branch had committed, before the others.
    RecoverProof,
    /// The branch's server cannot be reached while the manager starts.
    DownAtStart,
    /// The last resource's connection is cut before its server hears of the commit.
    LastUnsent,
    /// The last resource commits, and its connection is cut instead of the answer.
    LastUnanswered,
    /// The last resource commits long after nobody waits for its answer any more.
    LastLate,
    /// Another member lives while this one is killed; nobody takes its place.
    Survivor,
    /// Another member lives while this one is paused.
    Paused,
    /// The same, and the decision was recorded without an answer.
    PausedUnsure,
}

pub(super) const FAULTS: [(Fault, &str); 7] = [
    (Fault::KillCoordinator, "kill_coordinator"),
    (Fault::KillServer, "kill_server"),
    (Fault::CutRequest, "cut_request"),
    (Fault::CutReply, "cut_reply"),
    (Fault::Delay, "delay"),
    (Fault::DropFuture, "drop_future"),
    (Fault::Pause, "pause"),
];

const MIXES: [(Mix, &str); 8] = [
    (Mix::PgMy, "pg+my"),
    (Mix::MariaPg, "maria+pg"),
    (Mix::MyMaria, "my+maria"),
    (Mix::PgPg, "pg+pg"),
    (Mix::Three, "three"),
    (Mix::MyReader, "my+reader"),
    (Mix::PgReader, "pg+reader"),
    (Mix::TwoWritersReader, "two+reader"),
];

const STORIES: [(Story, &str); 19] = [
    (Story::Commit, "commit"),
    (Story::Rollback, "rollback"),
    (Story::Refused, "refused"),
    (Story::Uncertain, "uncertain"),
    (Story::Overdue, "overdue"),
    (Story::CutCommit, "cut_commit"),
    (Story::HandRollsBack, "hand_rolls_back"),
    (Story::HandCommits, "hand_commits"),
    (Story::Asked, "asked"),
    (Story::RecoverCommit, "recover_commit"),
    (Story::RecoverRollback, "recover_rollback"),
    (Story::RecoverProof, "recover_proof"),
    (Story::DownAtStart, "down_at_start"),
    (Story::LastUnsent, "last_unsent"),
    (Story::LastUnanswered, "last_unanswered"),
    (Story::LastLate, "last_late"),
    (Story::Survivor, "survivor"),
    (Story::Paused, "paused"),
    (Story::PausedUnsure, "paused_unsure"),
];

impl Story {
    /// Somebody else ends the target's branch.
    pub(super) const fn is_by_hand(self) -> bool {
        matches!(self, Self::HandRollsBack | Self::HandCommits)
    }

    /// An earlier life left something to recover.
    pub(super) const fn is_recovery(self) -> bool {
        matches!(
            self,
            Self::RecoverCommit | Self::RecoverRollback | Self::RecoverProof
        )
    }

    /// It is about a commit whose answer the last resource does not give.
    pub(super) const fn loses_last(self) -> bool {
        matches!(
            self,
            Self::LastUnsent | Self::LastUnanswered | Self::LastLate
        )
    }

    /// This member is paused.
    pub(super) const fn pauses(self) -> bool {
        matches!(self, Self::Paused | Self::PausedUnsure)
    }

    /// Another member is there all the time.
    pub(super) const fn has_second(self) -> bool {
        matches!(self, Self::Survivor | Self::Paused | Self::PausedUnsure)
    }
}

impl Mix {
    /// The databases, and whether the last one only reads.
    pub(super) const fn branches(self) -> (&'static [Db], bool) {
        match self {
            Self::PgMy => (&[Db::Postgres15, Db::Mysql], false),
            Self::MariaPg => (&[Db::Mariadb, Db::PostgresNewest], false),
            Self::MyMaria => (&[Db::Mysql, Db::Mariadb], false),
            Self::PgPg => (&[Db::Postgres15, Db::PostgresNewest], false),
            Self::Three => (&[Db::PostgresNewest, Db::Mysql, Db::Mariadb], false),
            Self::MyReader => (&[Db::Mysql, Db::Postgres15], true),
            Self::PgReader => (&[Db::PostgresNewest, Db::Mariadb], true),
            Self::TwoWritersReader => (&[Db::Mariadb, Db::Postgres15, Db::Mysql], true),
        }
    }

    pub(super) const fn writers(self) -> usize {
        let (branches, has_reader) = self.branches();
        branches.len() - has_reader as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    pub(super) story: Story,
    pub(super) point: &'static str,
    /// Which branch: that of the point, or the one whose wire or server fails. One more than there
    /// are branches: the log in a table.
    pub(super) target: usize,
    pub(super) fault: Fault,
    pub(super) mix: Mix,
    /// Where the decisions are.
    pub(super) home: Home,
    /// The fault strikes when the point is reached for the nth time.
    pub(super) nth: u32,
}

/// Every point's name.
pub(super) fn catalogue() -> Vec<&'static str> {
    [
        Point::OF_A_RESOURCE,
        Point::OF_THE_WHOLE,
        unanimous::log::STEPS,
    ]
    .concat()
}

/// What an application has to do for a point to be reached.
pub(super) fn stories(point: &str) -> &'static [Story] {
    match point {
        "rollback.before" | "rollback.answered" => &[Story::Rollback, Story::Refused],
        "rollback.begun" => &[Story::Rollback],
        "driver.handed_over" => &[Story::CutCommit],
        "decide.refused" => &[Story::Refused],
        "decide.uncertain" | "decide.before_again" => &[Story::Uncertain],
        "decide.overdue" => &[Story::Overdue],
        "recovery.before_late_check" | "recovery.late_checked" => &[Story::DownAtStart],
        "recovery.before_lookup" => &[Story::RecoverRollback],
        "recovery.before_finish" | "recovery.finish_answered" => {
            &[Story::RecoverCommit, Story::RecoverRollback]
        }
        "recovery.before_proof" | "recovery.proof_answered" => &[
            Story::RecoverProof,
            Story::HandRollsBack,
            Story::HandCommits,
        ],
        "heuristic.before" | "heuristic.answered" => &[Story::HandRollsBack],
        "completed.before_look" | "completed.looked" => &[Story::CutCommit, Story::HandRollsBack],
        "outcome.before" | "outcome.answered" => &[
            Story::Asked,
            Story::RecoverCommit,
            Story::RecoverRollback,
            Story::HandRollsBack,
        ],
        // The second story is about the record of a heuristic end.
        "log.before_batch" | "log.batch_written" | "log.batch_synced" => {
            &[Story::Commit, Story::HandRollsBack]
        }
        _ if point.starts_with("recovery.") => &[Story::RecoverCommit],
        _ => &[Story::Commit],
    }
}

/// Each fault, the first and the second time, with each of these targets.
pub(super) fn combined(
    story: Story,
    point: &'static str,
    mix: Mix,
    home: Home,
    targets: Vec<usize>,
) -> Vec<Cell> {
    let mut all = Vec::new();
    let faults = FAULTS.into_iter().map(|(fault, _)| fault);
    for fault in faults.filter(|fault| (*fault == Fault::Pause) == story.pauses()) {
        for nth in [1, 2] {
            all.extend(targets.iter().map(|&target| Cell {
                story,
                point,
                target,
                fault,
                mix,
                home,
                nth,
            }));
        }
    }
    all
}

impl Cell {
    /// All cells, and those that can mean nothing, with the rule that dropped them: first those
    /// with a file log.
    pub(super) fn all() -> (Vec<Self>, Vec<(Self, &'static str)>) {
        let all = [Self::with_a_file(), Self::with_a_table()].concat();
        let (mut cells, mut dropped) = (Vec::new(), Vec::new());
        for cell in all {
            match cell.means_nothing() {
                Some(why) => dropped.push((cell, why)),
                None => cells.push(cell),
            }
        }
        (cells, dropped)
    }

    fn with_a_file() -> Vec<Self> {
        let mut all = Vec::new();
        for point in catalogue() {
            if point.starts_with("last.") {
                continue;
            }
            for &story in stories(point) {
                for (mix, _) in MIXES {
                    let has_target = story.is_by_hand() || Point::OF_A_RESOURCE.contains(&point);
                    let last = if has_target {
                        mix.branches().0.len() - 1
                    } else {
                        0
                    };
                    let home = Home::File;
                    all.extend(combined(story, point, mix, home, (0..=last).collect()));
                }
            }
        }
        all
    }

    /// The rule by which this cell can mean nothing.
    fn means_nothing(&self) -> Option<&'static str> {
        if self.home != Home::File
            && let Some(why) = self.table_means_nothing()
        {
            return Some(why);
        }
        if self.is_at_log() {
            return None;
        }
        self.role_means_nothing()
            .or_else(|| self.hand_means_nothing())
            .or_else(|| self.fault_means_nothing())
    }

    /// What the target's branch is for, and what its transaction does.
    pub(super) fn role_means_nothing(&self) -> Option<&'static str> {
        let (point, writers) = (self.point, self.mix.writers());
        let is_reader = self.target >= writers;
        let is_recovery = point.starts_with("recovery.");
        let two_phases = ["prepare.", "commit.answered", "commit.before", "complete."];
        let is_two_phase = two_phases.iter().any(|start| point.starts_with(start))
            || point.starts_with("decide.")
            || matches!(self.story, Story::Refused | Story::CutCommit)
            || self.story.is_recovery()
            || self.story.is_by_hand();
        if point.starts_with("reader.") && !is_reader {
            return Some("a writer is not ended as a reader");
        }
        if is_two_phase && writers < 2 {
            return Some("a single writer commits in one phase");
        }
        if point.starts_with("one_phase.") && (writers > 1 || is_reader) {
            return Some("only a single writer commits in one phase");
        }
        let has_passes_of_its_own = is_reader && Point::OF_A_RESOURCE.contains(&point);
        let ends_as_reader = ["prepare.", "commit.", "driver."]
            .iter()
            .any(|start| point.starts_with(start))
            || point.starts_with("rollback.") && self.story == Story::Refused
            || is_recovery && self.story != Story::DownAtStart;
        if has_passes_of_its_own && ends_as_reader || is_reader && self.story.is_by_hand() {
            return Some("a reader is not prepared, and leaves nothing to recover");
        }
        None
    }

    /// What the servers allow to a foreign hand, and what they tell of it.
    fn hand_means_nothing(&self) -> Option<&'static str> {
        let db = self.target_db();
        if self.story == Story::HandRollsBack && !db.is_postgres() {
            return Some("MySQL and MariaDB do not tell how an absent branch ended");
        }
        if self.story == Story::HandCommits && db == Db::Mariadb {
            return Some("MariaDB ends no branch of a connection that is open for another");
        }
        None
    }

    fn fault_means_nothing(&self) -> Option<&'static str> {
        let point = self.point;
        let on_the_wire = matches!(
            self.fault,
            Fault::KillServer | Fault::CutRequest | Fault::CutReply
        );
        if on_the_wire && point.starts_with("log.") {
            return Some("no server takes part in a step of the log");
        }
        let is_last = ["shutdown.last_pass_done", "shutdown.log_closed"].contains(&point);
        if (on_the_wire || self.fault == Fault::Delay) && is_last {
            return Some("nothing is sent to a server after it");
        }
        let is_answered = [
            "end.answered",
            "end.left_active",
            "release.before",
            "release.answered",
        ];
        if self.fault == Fault::DropFuture && is_answered.contains(&point) {
            return Some("the future has been answered");
        }
        if self.fault == Fault::DropFuture && self.story == Story::DownAtStart {
            return Some("no future waits for a pass in the background");
        }
        None
    }

    pub(super) fn name(&self) -> String {
        let (fault, mix) = (text_of(&FAULTS, self.fault), text_of(&MIXES, self.mix));
        let story = text_of(&STORIES, self.story);
        let home = if self.home == Home::File {
            String::new()
        } else {
            format!(":{}", text_of(&HOMES, self.home))
        };
        let target = if self.is_at_log() {
            "log".to_owned()
        } else {
            self.target.to_string()
        };
        let Self { point, nth, .. } = self;
        format!("{story}/{point}@{target}/{fault}/{mix}{home}/{nth}")
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let [story, at, fault, mix, nth] = name.split('/').collect::<Vec<_>>().try_into().ok()?;
        let (point, target) = at.split_once('@')?;
        let (mix, home) = mix.split_once(':').unwrap_or((mix, "file"));
        let mix = of_text(&MIXES, mix)?;
        Some(Self {
            story: of_text(&STORIES, story)?,
            point: catalogue().into_iter().find(|known| *known == point)?,
            target: match target {
                "log" => mix.branches().0.len(),
                number => number.parse().ok()?,
            },
            fault: of_text(&FAULTS, fault)?,
            mix,
            home: of_text(&HOMES, home)?,
            nth: nth.parse().ok()?,
        })
    }

    /// The fault is the log's, which is a table.
    pub(super) fn is_at_log(&self) -> bool {
        self.target == self.mix.branches().0.len()
    }

    /// The name of the target's resource.
    pub(super) fn target_name(&self) -> String {
        format!("b{}", self.target)
    }

    /// The server that is killed.
    pub(super) fn target_db(&self) -> Db {
        let log = self.home.db(self.mix);
        let branch = self.mix.branches().0.get(self.target).copied();
        branch.or(log).expect("a branch, or a log in a table")
    }
}

pub(super) fn text_of<T: PartialEq + Copy>(table: &[(T, &'static str)], value: T) -> &'static str {
    let found = table.iter().find(|(candidate, _)| *candidate == value);
    found.expect("the table is complete").1
}

fn of_text<T: Copy>(table: &[(T, &'static str)], text: &str) -> Option<T> {
    let found = table.iter().find(|(_, candidate)| *candidate == text);
    found.map(|(value, _)| *value)
}
