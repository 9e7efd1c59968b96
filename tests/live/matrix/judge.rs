//! What must be true after every cell.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use unanimous::{Gtrid, TransactionManager, TransactionOutcome};

use super::cell::Cell;
use super::databases::{Judges, Place};
use super::story::App;

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
}

/// Everything that the judge needs to know.
pub(super) struct Case {
    pub(super) cell: Cell,
    pub(super) log: PathBuf,
    pub(super) table: String,
    pub(super) first: i64,
    pub(super) places: Vec<Place>,
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
            match *word {
                "begun" => promise.gtrid = rest.first().map(|text| text.parse().unwrap()),
                "decided" => promise.is_decided = true,
                claim => promise.claim = claim.to_owned(),
            }
        }
        promises
    }

    /// A last life without faults recovers what is left; then everything is counted.
    pub(super) async fn judge(&self, judges: &mut Judges) -> Findings {
        let mut findings = Findings::default();
        let promises = self.promises();
        let stuck = self.notes.iter().filter(|note| note.starts_with("stuck"));
        for note in stuck {
            let text = format!("I6: only a restart resolves it: {note}");
            findings.violations.push(text);
        }
        let tm = self.last_life().await;
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
        if tm.shutdown().await.is_err() {
            let text = "the log did not close".to_owned();
            findings.violations.push(text);
        }
        drop(tm);
        for place in &self.places {
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

    fn app(&self) -> App {
        let (log, table) = (self.log.clone(), self.table.clone());
        App::new(
            self.cell,
            log,
            table,
            self.first,
            &self.places,
            &self.places,
        )
    }

    async fn last_life(&self) -> Option<TransactionManager> {
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
            for place in &self.places {
                left += judges.prepared(place, manager).await as u64;
            }
            if left == 0 || begin.elapsed() > PATIENCE {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn sessions_left(&self, judges: &mut Judges, manager: &str) -> u64 {
        let begin = Instant::now();
        loop {
            let mut left = 0;
            for place in &self.places {
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
        for place in &self.places[..self.cell.mix.writers()] {
            columns.push(judges.rows(place, &self.table, self.first).await);
        }
        for (number, promise) in promises {
            let found: Vec<u32> = columns.iter().map(|rows| rows[*number as usize]).collect();
            let outcome = match &promise.gtrid {
                Some(gtrid) => tm.outcome(*gtrid).await.ok(),
                None => None,
            };
            findings.acknowledged += u64::from(promise.claim == "committed");
            let is_recorded = self.cell.mix.writers() > 1 && self.cell.nth == 1;
            if let Some(wrong) = wrong_of(promise, &found, outcome.as_ref(), is_recorded) {
                let text = format!("transaction {number}: {wrong}: {promise:?} {found:?}");
                findings.violations.push(text);
            }
        }
    }
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
