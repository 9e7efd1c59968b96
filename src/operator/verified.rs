//! Whether a log is sound, to its last byte or row. It is only read.
//!
//! Subjects of findings, which stay the same: of a folder `segments`, `segment`, `damage`, `loss`,
//! `torn tail`, `padding`, `identity`, `place`, `mark of a move`, `other file`; of a table
//! `tables`, `rows`, `orphan row`, `strange row`, `mark of a move`.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{
    Finding, LogImage, OpeningRow, RowState, Severity, Standing, TableErrorKind, TableMove,
};
use unanimous_core::xid::{Gtrid, Opening};

use super::counts::{LogCounts, doubtful_epochs};
use super::error::OperatorError;
use super::file::ConfigFile;
use super::finding::CheckedFinding;
use super::place::Place;
use super::shared::{failed, of_table};
use super::source::{doubt_lost, folder_place, on_a_thread};
use crate::bounded::bounded;
use crate::log::{FolderVerified, decode_branches, end_of, read_hand, verify_folder};

/// How long one question to a database may take.
const LIMIT: Duration = Duration::from_secs(60);

/// So many rows are named one by one.
const NAMED_MAX: usize = 10;

/// How sound a log is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verified {
    /// Where it is.
    pub place: String,
    /// Whose log it is, if that can be read.
    pub manager: Option<String>,
    /// Nothing worse than notes was found.
    pub sound: bool,
    /// Files that were read, or tables.
    pub parts: Vec<VerifiedPart>,
    /// How much of it can be read.
    #[serde(flatten)]
    pub counts: LogCounts,
    /// Epochs of which decisions may be missing.
    pub doubtful_epochs: Vec<u32>,
    /// Transactions that seem to be decided in what cannot be read: a hint, proven by nothing.
    pub legible: Vec<String>,
    /// What was found, the worst first.
    pub findings: Vec<VerifiedFinding>,
}

/// A file or table that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VerifiedPart {
    /// Its name.
    pub name: String,
    /// The length of a file.
    pub bytes: Option<u64>,
    /// Batches whose checksum is right, in a segment.
    pub batches: Option<usize>,
    /// Records, or rows.
    pub records: usize,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VerifiedFinding {
    /// In which file or table.
    pub part: Option<String>,
    /// Where in the file, in bytes.
    pub offset: Option<u64>,
    /// What it is, and what mends it.
    #[serde(flatten)]
    pub finding: CheckedFinding,
}

impl Verified {
    /// Reads all of it.
    ///
    /// # Errors
    /// There is no log, or it cannot be reached.
    pub async fn run(file: &ConfigFile) -> Result<Self, OperatorError> {
        let mut verified = match file.log() {
            Place::Folder(log) => {
                let place = folder_place(log);
                let seen = on_a_thread(&place, log, |log| Ok(verify_folder(log)?)).await?;
                Self::of_folder(place, seen)
            }
            Place::Table(at) => {
                let table = file.table_move()?;
                let looking = Self::of_table(&*table, at.is_lossless());
                let looked = bounded(LIMIT, looking).await;
                looked.unwrap_or_else(|silence| {
                    Err(failed(&format!("{}: {silence}", table.place())))
                })?
            }
        };
        let worst = |found: &VerifiedFinding| std::cmp::Reverse(found.finding.severity);
        verified.findings.sort_by_key(worst);
        let mut found = verified.findings.iter();
        verified.sound = found.all(|found| found.finding.severity == Severity::Note);
        Ok(verified)
    }

    /// The worst that was found.
    pub fn worst(&self) -> Option<Severity> {
        let severities = self.findings.iter().map(|found| found.finding.severity);
        severities.max()
    }

    fn new(place: String) -> Self {
        Self {
            place,
            manager: None,
            sound: false,
            parts: Vec::new(),
            counts: LogCounts::default(),
            doubtful_epochs: Vec::new(),
            legible: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn of_folder(place: String, seen: FolderVerified) -> Self {
        let mut verified = Self::new(place);
        verified.manager = seen.manager.map(|manager| manager.to_string());
        for file in seen.files {
            let is_segment = file.batches > 0;
            verified.parts.push(VerifiedPart {
                name: file.name,
                bytes: Some(file.bytes),
                batches: is_segment.then_some(file.batches),
                records: file.records,
            });
        }
        let found = seen.found.into_iter().map(|found| VerifiedFinding {
            part: Some(found.file),
            offset: found.offset,
            finding: found.finding.into(),
        });
        verified.findings.extend(found);
        let legible = seen.losses.iter().flat_map(|loss| &loss.legible);
        verified.legible = legible.map(ToString::to_string).collect();
        if let Some(image) = &seen.image {
            verified.count(image);
        }
        verified
    }

    fn count(&mut self, image: &LogImage) {
        self.counts = LogCounts::of(image);
        self.doubtful_epochs = doubtful_epochs(image);
    }

    async fn of_table(table: &dyn TableMove, is_lossless: bool) -> Result<Self, OperatorError> {
        let mut verified = Self::new(table.place());
        match table.standing().await {
            Ok(Standing::Here(manager)) => verified.manager = Some(manager.to_string()),
            Ok(Standing::Empty) => {
                return Err(failed(&format!("{}: there is no log here", verified.place)));
            }
            Ok(Standing::Sealed(manager, to)) => {
                verified.manager = Some(manager.to_string());
                let evidence = format!("the log is sealed: it went to {to}");
                verified.note_mark(&evidence, "name that as the log's home");
            }
            Ok(Standing::Arriving(manager, from)) => {
                verified.manager = Some(manager.to_string());
                let evidence = format!("a log arrives here from {from}, and is not used yet");
                verified.note_mark(&evidence, "run the move, or the import, again: it goes on");
            }
            Err(error) => verified.refuse(error)?,
        }
        if verified.findings.is_empty()
            && let Err(error) = table.check().await
        {
            verified.refuse(error)?;
        }
        match table.image().await {
            Ok((mut image, server)) => {
                doubt_lost(&mut image, &server, is_lossless)?;
                verified.count(&image);
                verified.judge_rows(&image);
            }
            Err(error) => verified.refuse(error)?,
        }
        Ok(verified)
    }

    /// What the tables are not is a finding; that they cannot be asked is an error.
    fn refuse(&mut self, error: unanimous_core::ports::TableError) -> Result<(), OperatorError> {
        match error.kind() {
            TableErrorKind::NotSent | TableErrorKind::Busy | TableErrorKind::Lost => {
                Err(of_table(error))
            }
            TableErrorKind::Refused | TableErrorKind::Missing | TableErrorKind::Unfit => {
                let mend = "do what this says; change nothing in the tables before";
                self.add(Severity::Error, "tables", None, &error.to_string(), mend);
                Ok(())
            }
        }
    }

    fn note_mark(&mut self, evidence: &str, mend: &str) {
        self.add(
            Severity::Note,
            "mark of a move",
            Some("unanimous_log"),
            evidence,
            mend,
        );
    }

    fn judge_rows(&mut self, image: &LogImage) {
        for (name, rows) in [
            ("unanimous_opening", image.openings.len()),
            ("unanimous_decision", image.rows.len()),
            ("unanimous_heuristic", image.heuristics.len()),
            ("unanimous_by_hand", image.by_hand.len()),
        ] {
            self.parts.push(VerifiedPart {
                name: name.to_owned(),
                bytes: None,
                batches: None,
                records: rows,
            });
        }
        let listed: HashSet<Opening> = image.openings.iter().map(|row| row.opening).collect();
        let is_orphan = |gtrid: &&Gtrid| !listed.contains(&gtrid.opening);
        // That a last resource was rolled back is put there also where a fail-over has lost the
        // opening, and says nothing then.
        let decisions = image.rows.iter();
        let decisions = decisions.filter(|kept| kept.state != RowState::RolledBack);
        let decisions = decisions.map(|kept| &kept.row.gtrid);
        let orphans: Vec<_> = decisions.filter(is_orphan).collect();
        self.name_rows("orphan row", "unanimous_decision", &orphans, ORPHAN);
        let ends = image.heuristics.iter().map(|noted| &noted.gtrid);
        let orphans: Vec<_> = ends.filter(is_orphan).collect();
        self.name_rows("orphan row", "unanimous_heuristic", &orphans, ORPHAN);
        let strange = image.rows.iter().map(|kept| &kept.row);
        let strange = strange.filter(|row| decode_branches(&row.branches).is_none());
        let strange: Vec<_> = strange.map(|row| &row.gtrid).collect();
        self.name_rows("strange row", "unanimous_decision", &strange, STRANGE);
        let strange = image.heuristics.iter();
        let strange = strange.filter(|noted| end_of(noted.end).is_none());
        let strange: Vec<_> = strange.map(|noted| &noted.gtrid).collect();
        self.name_rows("strange row", "unanimous_heuristic", &strange, STRANGE);
        let strange = image.by_hand.iter().filter(|row| read_hand(row).is_none());
        let strange: Vec<_> = strange.map(|row| &row.gtrid).collect();
        self.name_rows("strange row", "unanimous_by_hand", &strange, STRANGE);
        self.judge_doubt(&image.openings);
    }

    fn judge_doubt(&mut self, openings: &[OpeningRow]) {
        let epochs = openings.iter().filter(|row| row.is_doubtful());
        let epochs: Vec<_> = epochs.map(|row| row.opening.epoch.to_string()).collect();
        if !epochs.is_empty() {
            let evidence = format!(
                "decisions of epoch {} may be missing: the server was another one then, or the log \
                 was imported from an incomplete export; branches without a record are left to a \
                 person",
                epochs.join(", ")
            );
            let mend = "nothing, if none of their branches is prepared any more: unanimous list";
            self.add(
                Severity::Note,
                "rows",
                Some("unanimous_opening"),
                &evidence,
                mend,
            );
        }
    }

    fn name_rows(&mut self, subject: &str, part: &str, gtrids: &[&Gtrid], why: (&str, &str)) {
        if gtrids.is_empty() {
            return;
        }
        let named: Vec<_> = gtrids
            .iter()
            .take(NAMED_MAX)
            .map(ToString::to_string)
            .collect();
        let more = gtrids.len() - named.len();
        let more = if more == 0 {
            String::new()
        } else {
            format!(" and {more} more")
        };
        let evidence = format!("{}: {}{more}", why.0, named.join(", "));
        self.add(Severity::Error, subject, Some(part), &evidence, why.1);
    }

    fn add(
        &mut self,
        severity: Severity,
        subject: &str,
        part: Option<&str>,
        evidence: &str,
        mend: &str,
    ) {
        self.findings.push(VerifiedFinding {
            part: part.map(str::to_owned),
            offset: None,
            finding: Finding::new(severity, subject, evidence, mend).into(),
        });
    }
}

const ORPHAN: (&str, &str) = (
    "of an opening that unanimous_opening does not list",
    "a row of unanimous_opening was deleted, or lost in a fail-over, or these rows were put here \
     by hand: restore that row, or delete these; until then their branches are left to a person, \
     and the log is neither moved to a folder nor exported",
);

const STRANGE: (&str, &str) = (
    "cannot be understood",
    "the rows were changed by hand, or by a newer release: restore them, or use that release",
);
