//! Reads a log from JSON lines, line by line and field by field: whatever is wrong is named.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use unanimous_core::ports::{
    BranchRecord, DecisionRow, Evidence, HandRow, KeptRow, LogImage, NotedEnd, OpeningRow,
    ServerIdentity, UnixTime,
};
use unanimous_core::xid::{Epoch, Gtrid, Opening, ResourceName};
use xxhash_rust::xxh3::xxh3_64;

use super::{BranchLine, ENDS, Export, FORMAT, STATES};
use crate::log::{LABEL_CHARS_MAX, Loss, encode_branches, letter_of, read_hand};

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operator) struct Malformed {
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

/// Reads a whole file.
///
/// # Errors
/// It was cut or changed, is of another version, or was not written by this program: names the
/// line and the field.
pub(in crate::operator) fn read(bytes: &[u8]) -> Result<Export, Malformed> {
    let text = core::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        at(line, "it is not UTF-8")
    })?;
    let count = text.lines().count();
    let mut reader: Option<Reader> = None;
    let mut offset = 0;
    for (index, whole) in text.split_inclusive('\n').enumerate() {
        let number = index + 1;
        let Some(line) = whole.strip_suffix('\n') else {
            return Err(at(number, "it has no end: the file was cut"));
        };
        let mut fields = Fields::parse(number, line)?;
        let kind: String = fields.take("kind")?;
        match (reader.take(), &*kind) {
            (None, "log") => reader = Some(Reader::begin(fields)?),
            (None, _) => return Err(at(number, "the first line of an export has the kind log")),
            (Some(read), "end") => {
                fields.end_of_file(index, &bytes[..offset])?;
                if number != count {
                    return Err(at(number + 1, "there is something behind the end"));
                }
                return Ok(read.export);
            }
            (Some(mut read), _) => {
                read.take(&kind, fields)?;
                reader = Some(read);
            }
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
    /// Of the records by hand.
    ids: HashSet<u64>,
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
            ids: HashSet::new(),
        })
    }

    fn take(&mut self, kind: &str, fields: Fields) -> Result<(), Malformed> {
        match kind {
            "opening" => self.opening(fields),
            "decision" => self.decision(fields),
            "heuristic" => self.heuristic(fields),
            "by_hand" => self.by_hand(fields),
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
        let when: Option<u64> = fields.take("decided_at")?;
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
        self.export.image.rows.push(KeptRow {
            row,
            state,
            decided_at: when.map(UnixTime),
        });
        Ok(())
    }

    fn heuristic(&mut self, mut fields: Fields) -> Result<(), Malformed> {
        let gtrid = self.gtrid(&mut fields)?;
        let resource: ResourceName = fields.parsed("resource")?;
        let word: String = fields.take("end")?;
        let end = ENDS.iter().find(|(_, has)| *has == word);
        let end = end.ok_or_else(|| fields.wrong("end", unknown(&word)))?.0;
        let when: Option<u64> = fields.take("when")?;
        fields.done()?;
        if !self.ended.insert((gtrid, resource.clone())) {
            return Err(fields.wrong("resource", "an end of this branch was there before"));
        }
        self.export.image.heuristics.push(NotedEnd {
            gtrid,
            resource,
            end: letter_of(end),
            noted_at: when.map(UnixTime),
        });
        Ok(())
    }

    /// Of whatever opening: its log may be lost.
    fn by_hand(&mut self, mut fields: Fields) -> Result<(), Malformed> {
        let id: String = fields.take("id")?;
        let number = u64::from_str_radix(&id, 16).ok();
        let number = number.filter(|number| format!("{number:016x}") == id);
        let row = HandRow {
            id: number.ok_or_else(|| fields.wrong("id", "write 16 digits of hex"))?,
            gtrid: fields.parsed("gtrid")?,
            resource: fields.parsed("resource")?,
            state: fields.take("state")?,
            words: fields.take("words")?,
        };
        if read_hand(&row).is_none() {
            return Err(fields.wrong("words", "state or words are not of a record by hand"));
        }
        if !self.ids.insert(row.id) {
            return Err(fields.wrong("id", "it was there before"));
        }
        fields.done()?;
        self.export.image.by_hand.push(row);
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
