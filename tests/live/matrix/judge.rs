//! What must be true after every cell.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use unanimous::{Gtrid, Heuristic, TransactionManager, TransactionOutcome};

use super::app::App;
use super::cell::{Cell, Story};
use super::home::Home;
use super::rows::Places;
use crate::databases::{Judges, Place};

/// How long recovery has, on a machine that does much else.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a cell.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) acknowledged: u64,
    pub(super) violations: Vec<String>,
    pub(super) left_in_doubt: u64,
    pub(super) leaks: u64,
    /// The point was not reached, so nothing was tested.
    pub(super) is_unreached: bool,
}

impl Findings {
    pub(super) const fn is_good(&self) -> bool {
        self.violations.is_empty()
            && self.left_in_doubt == 0
            && self.leaks == 0
            && !self.is_unreached
    }
}

/// What the application was promised of one transaction.
#[derive(Debug, Default, Clone)]
struct Promise {
    gtrid: Option<Gtrid>,
    is_decided: bool,
    claim: String,
    /// Somebody else rolled the target's branch back.
    is_rolled_back_by_hand: bool,
    /// What `outcome` answered, and when.
    said: Vec<(String, String)>,
    /// What `completed` answered.
    completed: Option<String>,
}

/// Everything that the judge needs to know.
pub(super) struct Case {
    pub(super) cell: Cell,
    /// Of a log in a file.
    pub(super) folder: PathBuf,
    /// Of this worker, if the log is in a table.
    pub(super) database: String,
    pub(super) table: String,
    pub(super) first: i64,
    pub(super) places: Places,
    pub(super) notes: Vec<String>,
}

impl Case {
    fn promises(&self) -> BTreeMap<i64, Promise> {
        let mut promises: BTreeMap<i64, Promise> = BTreeMap::new();
        for note in &self.notes {
            let words: Vec<&str> = note.split_whitespace().collect();
            let [word, number, rest @ ..] = &words[..] else {
                continue;
            };
            if *word == "stuck" {
                continue;
            }
            let promise = promises.entry(number.parse().unwrap()).or_default();
            match (*word, rest) {
                ("begun", [gtrid]) => promise.gtrid = Some(gtrid.parse().unwrap()),
                ("decided", []) => promise.is_decided = true,
                ("hand", [how]) => promise.is_rolled_back_by_hand = *how == "rolledback",
                ("said", [when, answer]) => {
                    promise
                        .said
                        .push(((*when).to_owned(), (*answer).to_owned()));
                }
                ("completed", [answer]) => promise.completed = Some((*answer).to_owned()),
                (claim, []) => promise.claim = claim.to_owned(),
                _ => panic!("a note that nobody understands: {note}"),
            }
        }
        promises
    }

    /// A last life without faults, or a member that was there all the time, recovers what is left;
    /// then everything is counted.
    pub(super) async fn judge(
        &self,
        judges: &mut Judges,
        second: Option<TransactionManager>,
    ) -> Findings {
        let mut findings = Findings::default();
        let promises = self.promises();
        let stuck = self.notes.iter().filter(|note| note.starts_with("stuck"));
        for note in stuck {
            let text = format!("I6: only a restart resolves it: {note}");
            findings.violations.push(text);
        }
        let tm = match second {
            Some(tm) => Some(tm),
            None => self.last_life().await,
        };
        let Some(tm) = tm else {
            let text = "the manager does not start any more".to_owned();
            findings.violations.push(text);
            return findings;
        };
        let managers: Vec<String> = promises
            .values()
            .filter_map(|promise| promise.gtrid.as_ref())
            .map(|gtrid| gtrid.opening.manager.to_string())
            .take(1)
            .collect();
        for manager in &managers {
            findings.left_in_doubt += self.left_in_doubt(judges, manager).await;
        }
        self.check_rows(judges, &tm, &promises, &mut findings).await;
        if let Some(text) = self.left_pending().await {
            findings.violations.push(text);
        }
        if tm.shutdown().await.is_err() {
            let text = "the log did not close".to_owned();
            findings.violations.push(text);
        }
        drop(tm);
        for place in &self.places.branches {
            if judges.is_locked(place, &self.table, self.first).await {
                findings.leaks += 1;
                let text = format!("a row is locked at {}", scheme(place));
                findings.violations.push(text);
            }
        }
        for manager in &managers {
            findings.leaks += self.sessions_left(judges, manager).await;
        }
        findings
    }

    pub(super) fn app(&self) -> App {
        let (table, places) = (self.table.clone(), &self.places);
        App::new(self.cell, table, self.first, places, places)
    }

    /// A manager without faults.
    pub(super) async fn last_life(&self) -> Option<TransactionManager> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match self.app().last_builder().start().await {
                Ok(tm) => return Some(tm),
                Err(error) => {
                    if begin.elapsed() > PATIENCE / 2 {
                        eprintln!("{}: {error}", self.cell.name());
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        None
    }

    async fn left_in_doubt(&self, judges: &mut Judges, manager: &str) -> u64 {
        let begin = Instant::now();
        loop {
            let mut left = 0;
            for place in &self.places.branches {
                left += judges.prepared(place, manager).await as u64;
            }
            if left == 0 || begin.elapsed() > PATIENCE {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// I6: recovery completes what is decided, too.
    async fn left_pending(&self) -> Option<String> {
        let (app, begin) = (self.app(), Instant::now());
        loop {
            let pending = app.pending(None).await;
            if pending == Ok(0) {
                return None;
            }
            if begin.elapsed() > PATIENCE {
                return Some(format!("I6: {pending:?} decisions stay pending"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether a record of each commit must still be there: a log in a file keeps some of those
    /// that are completed, one in a table all of a member's that has not said that it asks no more.
    fn is_recorded(&self) -> bool {
        let cell = self.cell;
        let is_kept = match cell.home {
            Home::File => cell.nth == 1,
            Home::Pg | Home::PgLast | Home::My | Home::MyLast => cell.story == Story::Survivor,
        };
        cell.mix.writers() > 1 && is_kept
    }

    async fn sessions_left(&self, judges: &mut Judges, manager: &str) -> u64 {
        let begin = Instant::now();
        loop {
            let mut left = 0;
            for place in &self.places.branches {
                left += judges.sessions(place, manager).await as u64;
            }
            if left == 0 || begin.elapsed() > PATIENCE / 4 {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn check_rows(
        &self,
        judges: &mut Judges,
        tm: &TransactionManager,
        promises: &BTreeMap<i64, Promise>,
        findings: &mut Findings,
    ) {
        let mut columns = Vec::new();
        for place in &self.places.branches[..self.cell.mix.writers()] {
            columns.push(judges.rows(place, &self.table, self.first).await);
        }
        let is_recorded = self.is_recorded();
        for (number, promise) in promises {
            let found: Vec<u32> = columns.iter().map(|rows| rows[*number as usize]).collect();
            let outcome = outcome_of(tm, promise).await;
            findings.acknowledged += u64::from(promise.claim == "committed");
            let wrong = if promise.is_rolled_back_by_hand {
                wrong_by_hand(promise, &found, outcome.as_ref(), self.cell)
            } else {
                wrong_of(promise, &found, outcome.as_ref(), is_recorded)
            };
            let wrong = wrong.or_else(|| untrue(promise, &found, self.cell, is_recorded));
            if let Some(wrong) = wrong {
                let text = format!("transaction {number}: {wrong}: {promise:?} {found:?}");
                findings.violations.push(text);
            }
        }
    }
}

/// What became of it; recovery may still have to find a branch that somebody else has ended.
async fn outcome_of(tm: &TransactionManager, promise: &Promise) -> Option<TransactionOutcome> {
    let gtrid = promise.gtrid?;
    let begin = Instant::now();
    loop {
        let outcome = tm.outcome(gtrid).await.ok();
        let is_told = matches!(outcome, Some(TransactionOutcome::Heuristic(_)));
        if is_told == promise.is_rolled_back_by_hand || begin.elapsed() > PATIENCE / 2 {
            return outcome;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A decided branch that somebody else rolled back is told, and it alone is not there.
fn wrong_by_hand(
    promise: &Promise,
    found: &[u32],
    outcome: Option<&TransactionOutcome>,
    cell: Cell,
) -> Option<&'static str> {
    let name = cell.target_name().parse().unwrap();
    let told = TransactionOutcome::Heuristic(vec![(name, Heuristic::Rollback)]);
    let is_there = |(index, n): (usize, &u32)| *n == u32::from(index != cell.target);
    if !found.iter().enumerate().all(is_there) {
        Some("I2: it was decided, and not all but the one ended by hand is there")
    } else if promise.claim == "rolledback" {
        Some("I3: it was decided, and its application was told otherwise")
    } else if outcome != Some(&told) {
        Some("I1: a branch was rolled back by hand, and nobody is told")
    } else {
        None
    }
}

/// What `outcome` and `completed` told the application, against what is there.
fn untrue(promise: &Promise, found: &[u32], cell: Cell, is_recorded: bool) -> Option<&'static str> {
    let is_by_hand = promise.is_rolled_back_by_hand;
    let was_told = is_by_hand && promise.completed.is_some();
    let (all, none) = (found.iter().all(|n| *n == 1), found.iter().all(|n| *n == 0));
    let untrue = promise.said.iter().find_map(|(when, answer)| {
        let is_after = matches!(when.as_str(), "After" | "AtTheEnd");
        let is_claimed = is_after && promise.claim == "committed";
        match answer.as_str() {
            "committed" if !all && !is_by_hand || when == "Before" => {
                Some("I3: it was said to be committed, and is not")
            }
            "rolledback" if !none || is_claimed => {
                Some("I3: it was said to be rolled back, and is not")
            }
            "heuristic" if !is_by_hand => Some("I1: said to be heuristic, and nobody touched it"),
            "indoubt" if is_claimed || when == "InALaterLife" => {
                Some("I6: it was said to be in doubt, and is not")
            }
            // The last answer may have come after that of `commit`.
            "unknown" if when == "During" && promise.claim == "undetermined" => None,
            "unknown" if matches!(when.as_str(), "Before" | "During") || is_claimed => {
                Some("I3: a running transaction was said to be unknown")
            }
            "unknown" if is_recorded && all => Some("I3: a record was said to be unknown"),
            "unread" if cell.log_may_be_away() => None,
            "unread" => Some("I6: the log could not be read"),
            // Without `completed`, nobody has waited for recovery to find it.
            answer if was_told && when == "AtTheEnd" && answer != "heuristic" => {
                Some("I1: a heuristic end is told, and then it is not")
            }
            _ => None,
        }
    });
    untrue.or(match promise.completed.as_deref() {
        None => None,
        Some("committed") if !is_by_hand => None,
        Some("heuristic") if is_by_hand => None,
        Some("heuristic") => Some("I1: completed as heuristic, and nobody touched it"),
        Some("committed") => Some("I1: completed, though a branch was rolled back by hand"),
        Some("early") => Some("I3: said to be completed, and it is not"),
        Some(_) => Some("I6: nobody is told that it is completed"),
    })
}

/// What the rows or the outcome say against the promise.
fn wrong_of(
    promise: &Promise,
    found: &[u32],
    outcome: Option<&TransactionOutcome>,
    is_recorded: bool,
) -> Option<&'static str> {
    let (all, none) = (found.iter().all(|n| *n == 1), found.iter().all(|n| *n == 0));
    let is_promised = promise.claim == "committed" || promise.is_decided;
    let says_committed = outcome == Some(&TransactionOutcome::Committed);
    if !all && !none {
        Some("I1: some of it is there, and some is not")
    } else if is_promised && !all {
        Some("I2: it was committed, and is not there")
    } else if promise.claim == "rolledback" && !none {
        Some("I3: it was rolled back, and is there")
    } else if promise.claim == "heuristic"
        || matches!(outcome, Some(TransactionOutcome::Heuristic(_)))
    {
        Some("I1: heuristic, and nobody has touched it")
    } else if says_committed && !all || is_recorded && all && !says_committed {
        Some("I3: the outcome is not true")
    } else if outcome == Some(&TransactionOutcome::InDoubt) || outcome.is_none() {
        Some("I6: the outcome is not known")
    } else {
        None
    }
}

fn scheme(place: &Place) -> &str {
    place.url.split("://").next().unwrap_or_default()
}
