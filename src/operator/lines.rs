//! A log as JSON lines: what `unanimous log export` writes and `unanimous log import` reads.
//! `docs/log-export.md` is the format. A file is read only if it is whole and unchanged.

mod read;

use std::collections::HashSet;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{BranchRecord, KeptRow, LogImage, RowState};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ManagerId, Opening};
use xxhash_rust::xxh3::Xxh3;

pub(super) use self::read::read;
use super::error::OperatorError;
use super::shared::failed;
use crate::log::{Loss, decode_branches, end_of, fit_label, read_hand};

/// The version of the format that is written, and the only one that is read.
pub(super) const FORMAT: u32 = 1;

/// A log in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    pub(super) manager: ManagerId,
    /// The home that it was read from.
    pub(super) from: String,
    /// That home is sealed: nothing is recorded there any more.
    pub(super) sealed: bool,
    pub(super) image: LogImage,
    /// What could not be read of a damaged log.
    pub(super) losses: Vec<Loss>,
}

/// One line, as it is written.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    Log {
        format: u32,
        manager: String,
        from: &'a str,
        sealed: bool,
    },
    Opening {
        epoch: u32,
        random: String,
        label: &'a str,
        server: &'a str,
        closed: bool,
        released: bool,
        doubtful: bool,
    },
    Decision {
        gtrid: String,
        state: &'static str,
        decided_at: Option<u64>,
        branches: Vec<BranchLine>,
    },
    Heuristic {
        gtrid: String,
        resource: &'a str,
        end: &'static str,
        when: Option<u64>,
    },
    ByHand {
        id: String,
        gtrid: String,
        resource: &'a str,
        state: char,
        words: &'a str,
    },
    Loss {
        file: &'a str,
        start: u64,
        end: u64,
        legible: Vec<String>,
    },
    End {
        lines: usize,
        checksum: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchLine {
    resource: String,
    server: String,
    evidence: String,
}

const STATES: [(RowState, &str); 3] = [
    (RowState::Pending, "pending"),
    (RowState::Completed, "completed"),
    (RowState::RolledBack, "rolled_back"),
];

const ENDS: [(Heuristic, &str); 4] = [
    (Heuristic::Commit, "commit"),
    (Heuristic::Rollback, "rollback"),
    (Heuristic::Mixed, "mixed"),
    (Heuristic::Hazard, "hazard"),
];

pub(super) fn state_word(state: RowState) -> &'static str {
    let word = STATES.iter().find(|(has, _)| *has == state);
    word.map_or("unknown", |(_, word)| word)
}

pub(super) fn end_word(end: Heuristic) -> &'static str {
    let word = ENDS.iter().find(|(has, _)| *has == end);
    word.map_or("unknown", |(_, word)| word)
}

impl Export {
    /// Whether it can be written, and what is written can be imported: to be asked before a home is
    /// sealed.
    ///
    /// # Errors
    /// It cannot: says which row is in the way.
    pub(super) fn check(&self) -> Result<(), OperatorError> {
        let mut bytes = Vec::new();
        let written = self.write(&mut bytes).map_err(|error| error.to_string());
        let read = written.and_then(|()| read(&bytes).map_err(|error| error.to_string()));
        match read {
            Ok(_) => Ok(()),
            Err(problem) => Err(failed(&format!("{}: {problem}", self.from))),
        }
    }

    /// # Errors
    /// It cannot be written; or a row of the log cannot be understood, which is named.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = Lines {
            out,
            count: 0,
            sum: Xxh3::new(),
        };
        lines.put(&Line::Log {
            format: FORMAT,
            manager: self.manager.to_string(),
            from: &self.from,
            sealed: self.sealed,
        })?;
        for row in &self.image.openings {
            lines.put(&Line::Opening {
                epoch: row.opening.epoch.0,
                random: format!("{:016x}", row.opening.nonce),
                label: &fit_label(&row.label),
                server: row.identity.as_str(),
                closed: row.is_closed,
                released: row.is_released,
                doubtful: row.is_doubtful(),
            })?;
        }
        self.write_rows(&mut lines)?;
        for loss in &self.losses {
            lines.put(&Line::Loss {
                file: &loss.segment,
                start: loss.from,
                end: loss.to,
                legible: loss.legible.iter().map(ToString::to_string).collect(),
            })?;
        }
        lines.end()
    }

    fn write_rows(&self, lines: &mut Lines<'_>) -> io::Result<()> {
        let listed = self.image.openings.iter().map(|row| row.opening);
        let listed: HashSet<Opening> = listed.collect();
        let is_listed = |gtrid: &Gtrid| listed.contains(&gtrid.opening);
        for kept in &self.image.rows {
            match (is_listed(&kept.row.gtrid), kept.state) {
                (true, _) => lines.put(&decision_line(kept)?)?,
                // Put there after a fail-over that has lost the opening: it says nothing.
                (false, RowState::RolledBack) => {}
                (false, RowState::Pending | RowState::Completed) => {
                    return Err(strange(&kept.row.gtrid, "opening"));
                }
            }
        }
        for noted in &self.image.heuristics {
            if !is_listed(&noted.gtrid) {
                return Err(strange(&noted.gtrid, "opening"));
            }
            let end = end_of(noted.end).ok_or_else(|| strange(&noted.gtrid, "heuristic end"))?;
            lines.put(&Line::Heuristic {
                gtrid: noted.gtrid.to_string(),
                resource: noted.resource.as_str(),
                end: end_word(end),
                when: noted.noted_at.map(|when| when.0),
            })?;
        }
        for row in &self.image.by_hand {
            read_hand(row).ok_or_else(|| strange(&row.gtrid, "record by hand"))?;
            lines.put(&Line::ByHand {
                id: format!("{:016x}", row.id),
                gtrid: row.gtrid.to_string(),
                resource: row.resource.as_str(),
                state: row.state,
                words: &row.words,
            })?;
        }
        Ok(())
    }
}

fn decision_line(kept: &KeptRow) -> io::Result<Line<'static>> {
    let row = &kept.row;
    let branches = decode_branches(&row.branches);
    let branches = branches.ok_or_else(|| strange(&row.gtrid, "branches"))?;
    let line = |branch: BranchRecord| BranchLine {
        resource: branch.resource.to_string(),
        server: branch.identity.as_str().to_owned(),
        evidence: branch.evidence.as_str().to_owned(),
    };
    Ok(Line::Decision {
        gtrid: row.gtrid.to_string(),
        state: state_word(kept.state),
        decided_at: kept.decided_at.map(|when| when.0),
        branches: branches.into_iter().map(line).collect(),
    })
}

fn strange(gtrid: &Gtrid, what: &str) -> io::Error {
    io::Error::other(format!(
        "the {what} of {gtrid} is not there, or cannot be understood: see unanimous log verify"
    ))
}

struct Lines<'a> {
    out: &'a mut dyn Write,
    count: usize,
    sum: Xxh3,
}

impl Lines<'_> {
    fn put(&mut self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.sum.update(&text);
        self.count += 1;
        self.out.write_all(&text)
    }

    fn end(mut self) -> io::Result<()> {
        let (lines, checksum) = (self.count, format!("{:016x}", self.sum.digest()));
        self.put(&Line::End { lines, checksum })?;
        self.out.flush()
    }
}

#[cfg(test)]
#[path = "lines/lines_test.rs"]
mod tests;
