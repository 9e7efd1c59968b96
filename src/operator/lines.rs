//! A log as JSON lines: what `unanimous log export` writes and `unanimous log import` reads.
//! `docs/log-export.md` is the format. A file is read only if it is whole and unchanged.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use unanimous_core::ports::{
    BranchRecord, DecisionRow, Evidence, LogImage, OpeningRow, RowState, ServerIdentity,
};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::log::{Loss, decode_branches, encode_branches, end_of, letter_of};

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

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    line: usize,
    field: Option<&'static str>,
    problem: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Some(field) => write!(f, "line {}, field {field}: {}", self.line, self.problem),
            None => write!(f, "line {}: {}", self.line, self.problem),
        }
    }
}

fn at(line: usize, problem: impl Into<String>) -> Malformed {
    Malformed {
        line,
        field: None,
        problem: problem.into(),
    }
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
        branches: Vec<BranchLine>,
    },
    Heuristic {
        gtrid: String,
        resource: &'a str,
        end: &'static str,
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
                label: &row.label,
                server: row.identity.as_str(),
                closed: row.is_closed,
                released: row.is_released,
                doubtful: row.is_doubtful(),
            })?;
        }
        for (row, state) in &self.image.rows {
            lines.put(&decision_line(row, *state)?)?;
        }
        for (gtrid, resource, letter) in &self.image.heuristics {
            let end = end_of(*letter).ok_or_else(|| strange(gtrid, "heuristic end"))?;
            lines.put(&Line::Heuristic {
                gtrid: gtrid.to_string(),
                resource: resource.as_str(),
                end: end_word(end),
            })?;
        }
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
}

fn decision_line(row: &DecisionRow, state: RowState) -> io::Result<Line<'static>> {
    let branches = decode_branches(&row.branches);
    let branches = branches.ok_or_else(|| strange(&row.gtrid, "branches"))?;
    let line = |branch: BranchRecord| BranchLine {
        resource: branch.resource.to_string(),
        server: branch.identity.as_str().to_owned(),
        evidence: branch.evidence.as_str().to_owned(),
    };
    Ok(Line::Decision {
        gtrid: row.gtrid.to_string(),
        state: state_word(state),
        branches: branches.into_iter().map(line).collect(),
    })
}

fn strange(gtrid: &Gtrid, what: &str) -> io::Error {
    io::Error::other(format!(
        "the {what} of {gtrid} cannot be understood: see unanimous log verify"
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

/// Reads a whole file.
///
/// # Errors
/// It was cut or changed, is of another version, or was not written by this program: names the
/// line and the field.
pub(super) fn read(bytes: &[u8]) -> Result<Export, Malformed> {
    let text = core::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        at(line, "it is not UTF-8")
    })?;
    let count = text.lines().count();
    let mut reader = None;
    let mut offset = 0;
    for (index, whole) in text.split_inclusive('\n').enumerate() {
        let number = index + 1;
        let Some(line) = whole.strip_suffix('\n') else {
            return Err(at(number, "it has no end: the file was cut"));
        };
        let mut fields = Fields::parse(number, line)?;
        let kind: String = fields.take("kind")?;
        match &mut reader {
            None if kind == "log" => reader = Some(Reader::begin(fields)?),
            None => return Err(at(number, "the first line of an export has the kind log")),
            Some(reader) if kind == "end" => {
                fields.end_of_file(index, &bytes[..offset])?;
                if number != count {
                    return Err(at(number + 1, "there is something behind the end"));
                }
                return Ok(reader.export.clone());
            }
            Some(reader) => reader.take(&kind, fields)?,
        }
        offset += whole.len();
    }
    Err(at(
        count + 1,
        "the line of the kind end is missing: the file was cut",
    ))
}

/// What was read so far, and what has to be unique.
struct Reader {
    export: Export,
    openings: HashMap<Epoch, Opening>,
    decided: HashSet<Gtrid>,
    ended: HashSet<(Gtrid, ResourceName)>,
}

impl Reader {
    fn begin(mut fields: Fields) -> Result<Self, Malformed> {
        let format: u32 = fields.take("format")?;
        if format != FORMAT {
            let problem = format!(
                "it is of version {format}, and this program reads version {FORMAT}: use the \
                 release that wrote it"
            );
            return Err(fields.wrong("format", problem));
        }
        let export = Export {
            manager: fields.parsed("manager")?,
            from: fields.take("from")?,
            sealed: fields.take("sealed")?,
            image: LogImage::default(),
            losses: Vec::new(),
        };
        fields.done()?;
        Ok(Self {
            export,
            openings: HashMap::new(),
            decided: HashSet::new(),
            ended: HashSet::new(),
        })
    }

    fn take(&mut self, kind: &str, fields: Fields) -> Result<(), Malformed> {
        match kind {
            "opening" => self.opening(fields),
            "decision" => self.decision(fields),
            "heuristic" => self.heuristic(fields),
            "loss" => self.loss(fields),
            _ => Err(fields.wrong("kind", format!("{kind:?} is none that is known here"))),
        }
    }

    fn opening(&mut self, mut fields: Fields) -> Result<(), Malformed> {
        let epoch = Epoch(fields.take("epoch")?);
        let random: String = fields.take("random")?;
        let nonce = u64::from_str_radix(&random, 16).ok();
        let nonce = nonce.filter(|nonce| format!("{nonce:016x}") == random);
        let nonce = nonce.ok_or_else(|| fields.wrong("random", "write 16 digits of hex"))?;
        let manager = self.export.manager;
        let opening = Opening {
            manager,
            epoch,
            nonce,
        };
        if epoch == Epoch(0) || self.openings.insert(epoch, opening).is_some() {
            return Err(fields.wrong("epoch", "it is 0, or was there before"));
        }
        let label: String = fields.take("label")?;
        if label.chars().count() > LABEL_CHARS_MAX || label.chars().any(char::is_control) {
            return Err(fields.wrong("label", "it is too long, or has a control character"));
        }
        let server: String = fields.take("server")?;
        let identity = ServerIdentity::new(&*server);
        let row = OpeningRow {
            opening,
            identity: identity.ok_or_else(|| fields.wrong("server", NOT_PRINTABLE))?,
            label,
            is_closed: fields.take("closed")?,
            is_released: fields.take("released")?,
        };
        let doubtful: bool = fields.take("doubtful")?;
        if doubtful != row.is_doubtful() {
            return Err(fields.wrong("doubtful", "it does not agree with the field server"));
        }
        fields.done()?;
        self.export.image.openings.push(row);
        Ok(())
    }

    fn decision(&mut self, mut fields: Fields) -> Result<(), Malformed> {
        let gtrid = self.gtrid(&mut fields)?;
        let word: String = fields.take("state")?;
        let state = STATES.iter().find(|(_, has)| *has == word);
        let state = state
            .ok_or_else(|| fields.wrong("state", unknown(&word)))?
            .0;
        let lines: Vec<BranchLine> = fields.take("branches")?;
        let mut branches = Vec::with_capacity(lines.len());
        for line in lines {
            let resource = line.resource.parse().ok();
            let identity = ServerIdentity::new(&*line.server);
            let evidence = Evidence::new(&*line.evidence);
            let (Some(resource), Some(identity), Some(evidence)) = (resource, identity, evidence)
            else {
                let problem = "a resource, server or evidence of it is too long, or has a \
                               character that is not allowed";
                return Err(fields.wrong("branches", problem));
            };
            branches.push(BranchRecord {
                resource,
                identity,
                evidence,
            });
        }
        if !self.decided.insert(gtrid) {
            return Err(fields.wrong("gtrid", "a decision of it was there before"));
        }
        fields.done()?;
        let branches = encode_branches(&branches);
        let row = DecisionRow { gtrid, branches };
        self.export.image.rows.push((row, state));
        Ok(())
    }

    fn heuristic(&mut self, mut fields: Fields) -> Result<(), Malformed> {
        let gtrid = self.gtrid(&mut fields)?;
        let resource: ResourceName = fields.parsed("resource")?;
        let word: String = fields.take("end")?;
        let end = ENDS.iter().find(|(_, has)| *has == word);
        let end = end.ok_or_else(|| fields.wrong("end", unknown(&word)))?.0;
        fields.done()?;
        if !self.ended.insert((gtrid, resource.clone())) {
            return Err(fields.wrong("resource", "an end of this branch was there before"));
        }
        let ends = &mut self.export.image.heuristics;
        ends.push((gtrid, resource, letter_of(end)));
        Ok(())
    }

    fn loss(&mut self, mut fields: Fields) -> Result<(), Malformed> {
        let texts: Vec<String> = fields.take("legible")?;
        let legible = texts.iter().map(|text| text.parse().ok()).collect();
        let legible: Option<Vec<Gtrid>> = legible;
        let loss = Loss {
            segment: fields.take("file")?,
            from: fields.take("start")?,
            to: fields.take("end")?,
            legible: legible.ok_or_else(|| fields.wrong("legible", "one is no gtrid"))?,
        };
        fields.done()?;
        self.export.losses.push(loss);
        Ok(())
    }

    /// Of an opening that stands before it.
    fn gtrid(&self, fields: &mut Fields) -> Result<Gtrid, Malformed> {
        let gtrid: Gtrid = fields.parsed("gtrid")?;
        let listed = self.openings.get(&gtrid.opening.epoch);
        if listed == Some(&gtrid.opening) {
            Ok(gtrid)
        } else {
            Err(fields.wrong("gtrid", "no line before it lists its opening"))
        }
    }
}

/// More than any log writes.
const LABEL_CHARS_MAX: usize = 200;

const NOT_PRINTABLE: &str = "it is too long, or has a character that is not printable ASCII";

fn unknown(word: &str) -> String {
    format!("{word:?} is none that is known here")
}

/// The fields of one line, taken one by one.
struct Fields {
    line: usize,
    map: Map<String, Value>,
}

impl Fields {
    fn parse(line: usize, text: &str) -> Result<Self, Malformed> {
        let parsed: Result<Map<String, Value>, _> = serde_json::from_str(text);
        match parsed {
            Ok(map) => Ok(Self { line, map }),
            Err(error) => Err(at(line, format!("it is no JSON object: {error}"))),
        }
    }

    fn wrong(&self, field: &'static str, problem: impl Into<String>) -> Malformed {
        Malformed {
            line: self.line,
            field: Some(field),
            problem: problem.into(),
        }
    }

    fn take<T: DeserializeOwned>(&mut self, field: &'static str) -> Result<T, Malformed> {
        let value = self.map.remove(field);
        let value = value.ok_or_else(|| self.wrong(field, "it is missing"))?;
        serde_json::from_value(value).map_err(|error| self.wrong(field, error.to_string()))
    }

    fn parsed<T: std::str::FromStr>(&mut self, field: &'static str) -> Result<T, Malformed>
    where
        T::Err: fmt::Display,
    {
        let text: String = self.take(field)?;
        text.parse()
            .map_err(|error: T::Err| self.wrong(field, error.to_string()))
    }

    fn done(&self) -> Result<(), Malformed> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => Err(at(
                self.line,
                format!("it has a field {name:?}, which is not known here"),
            )),
        }
    }

    /// Is this the end of those lines?
    fn end_of_file(mut self, before: usize, bytes: &[u8]) -> Result<(), Malformed> {
        let lines: usize = self.take("lines")?;
        let checksum: String = self.take("checksum")?;
        self.done()?;
        if lines != before {
            let problem = format!("{lines} lines were written, and {before} are before it");
            return Err(self.wrong("lines", problem));
        }
        if checksum != format!("{:016x}", xxh3_64(bytes)) {
            let problem = "the file was changed since it was written";
            return Err(self.wrong("checksum", problem));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "lines_test.rs"]
mod tests;
