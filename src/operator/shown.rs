//! What a log says, for a person: openings, decisions and how they ended. Read beside whoever uses
//! the log; nothing is joined, locked or changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{BranchRecord, LogImage, OpeningRow, RowState};
use unanimous_core::xid::Gtrid;

use super::error::OperatorError;
use super::file::ConfigFile;
use super::heuristics::ListedHand;
use super::lines::end_word;
use super::shared::failed;
use super::source::Source;
use crate::log::{decode_branches, end_of, read_hand};

/// What a log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShownLog {
    /// Where it is.
    pub place: String,
    /// Whose log it is.
    pub manager: String,
    /// Where it went, if it is sealed: nothing is recorded here any more.
    pub sealed_for: Option<String>,
    /// Every opening.
    pub openings: Vec<ShownOpening>,
    /// The transactions that were asked for, by gtrid.
    pub transactions: Vec<ShownTransaction>,
    /// A batch that is just being written, or a torn tail: its file.
    pub unfinished_batch: Option<String>,
}

/// A line of the log's list of openings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShownOpening {
    /// Its number.
    pub epoch: u32,
    /// Its random bits, in hex: openings of two logs are told apart by them.
    pub random: String,
    /// Who opened it, where the log knows.
    pub label: String,
    /// On which server, or `file`.
    pub server: String,
    /// Nothing more is decided under it.
    pub closed: bool,
    /// Decisions of it may be missing: what has no record is left to a person.
    pub doubtful: bool,
}

/// What the log says of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShownTransaction {
    /// Which.
    pub gtrid: String,
    /// The epoch in which it was begun.
    pub epoch: u32,
    /// What was decided, and how far it is.
    pub record: TransactionRecord,
    /// What has to be committed; empty once that is done, in a log in a folder.
    pub branches: Vec<ShownBranch>,
    /// When it was decided, in seconds since 1970, if that is known.
    #[serde(default)]
    pub decided_at: Option<u64>,
    /// Branches that ended against the decision.
    pub heuristics: Vec<ShownEnd>,
    /// What people did with it, oldest first.
    #[serde(default)]
    pub by_hand: Vec<ListedHand>,
}

/// What the log has of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TransactionRecord {
    /// Decided to commit; not every branch is known to be committed.
    Pending,
    /// Decided to commit, and every branch is.
    Completed,
    /// Never to be committed: put there after the lost reply of a last resource.
    RolledBack,
    /// None, and its epoch is closed: rolled back, or completed long ago.
    None,
    /// None yet: its epoch is open.
    Open,
    /// None, and that proves nothing: decisions of its epoch may have been lost.
    MayBeLost,
    /// The log does not list its opening: another log's, or this one was restored or copied.
    Unlisted,
}

/// A branch that a decision names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShownBranch {
    /// At which resource.
    pub resource: String,
    /// On which server it was prepared.
    pub server: String,
    /// What will prove its end there.
    pub evidence: String,
}

/// A branch that ended against the decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShownEnd {
    /// At which resource.
    pub resource: String,
    /// `commit`, `rollback`, `mixed` or `hazard`.
    pub end: String,
}

/// Which transactions are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Those that a person may have to do with: pending ones and heuristic ends.
    Unfinished,
    /// Decisions that are not completed.
    Pending,
    /// All that the log has, completed ones included.
    All,
    /// This one, whatever the log says of it.
    One(String),
}

impl ShownLog {
    /// Reads the log.
    ///
    /// # Errors
    /// There is no log, or it cannot be read; what was asked for is no transaction's name.
    pub async fn read(file: &ConfigFile, which: &Shown) -> Result<Self, OperatorError> {
        let one = match which {
            Shown::One(text) => Some(parsed(text)?),
            Shown::Unfinished | Shown::Pending | Shown::All => None,
        };
        let source = Source::read(file).await?;
        let mut all = transactions(&source.image)?;
        if let Some(gtrid) = one {
            let found = all.remove(&gtrid);
            let found = found.unwrap_or_else(|| without_record(gtrid, &source.image));
            all = BTreeMap::from([(gtrid, found)]);
        }
        all.retain(|_, shown| match which {
            Shown::All | Shown::One(_) => true,
            Shown::Pending => shown.record == TransactionRecord::Pending,
            Shown::Unfinished => {
                shown.record == TransactionRecord::Pending || !shown.heuristics.is_empty()
            }
        });
        let torn = source.unfinished_batch;
        Ok(Self {
            place: source.place,
            manager: source.manager.to_string(),
            sealed_for: source.sealed_for,
            openings: source.image.openings.iter().map(Into::into).collect(),
            transactions: all.into_values().collect(),
            unfinished_batch: torn.map(|torn| torn.segment.display().to_string()),
        })
    }
}

/// A branch's whole XID names its transaction, too.
fn parsed(text: &str) -> Result<Gtrid, OperatorError> {
    let gtrid = text.split_once(':').map_or(text, |(gtrid, _)| gtrid);
    gtrid.parse().map_err(|_| {
        failed(
            "this is no transaction of Unanimous: copy the XID, or its part before the colon, from \
             unanimous list",
        )
    })
}

fn transactions(image: &LogImage) -> Result<BTreeMap<Gtrid, ShownTransaction>, OperatorError> {
    let mut all = BTreeMap::new();
    for kept in &image.rows {
        let (row, gtrid) = (&kept.row, kept.row.gtrid);
        let branches = decode_branches(&row.branches);
        let branches = branches.ok_or_else(|| strange(gtrid))?;
        let record = match kept.state {
            RowState::Pending => TransactionRecord::Pending,
            RowState::Completed => TransactionRecord::Completed,
            RowState::RolledBack => TransactionRecord::RolledBack,
        };
        let shown = ShownTransaction {
            branches: branches.iter().map(Into::into).collect(),
            decided_at: kept.decided_at.map(|when| when.0),
            ..ShownTransaction::new(gtrid, record)
        };
        all.insert(gtrid, shown);
    }
    for noted in &image.heuristics {
        let gtrid = noted.gtrid;
        let end = end_of(noted.end).ok_or_else(|| strange(gtrid))?;
        let shown = all
            .entry(gtrid)
            .or_insert_with(|| without_record(gtrid, image));
        shown.heuristics.push(ShownEnd {
            resource: noted.resource.to_string(),
            end: end_word(end).to_owned(),
        });
    }
    let hands = image.by_hand.iter();
    let hands = hands.map(|row| read_hand(row).ok_or_else(|| strange(row.gtrid)));
    let mut hands = hands.collect::<Result<Vec<_>, _>>()?;
    hands.sort_by_key(|hand| hand.when);
    for hand in &hands {
        let shown = all
            .entry(hand.gtrid)
            .or_insert_with(|| without_record(hand.gtrid, image));
        shown.by_hand.push(hand.into());
    }
    Ok(all)
}

fn strange(gtrid: Gtrid) -> OperatorError {
    failed(&format!(
        "the log's record of {gtrid} cannot be understood: see unanimous log verify"
    ))
}

fn without_record(gtrid: Gtrid, image: &LogImage) -> ShownTransaction {
    let mut listed = image.openings.iter();
    let record = match listed.find(|row| row.opening == gtrid.opening) {
        None => TransactionRecord::Unlisted,
        Some(row) if row.is_doubtful() => TransactionRecord::MayBeLost,
        Some(row) if row.is_closed => TransactionRecord::None,
        Some(_) => TransactionRecord::Open,
    };
    ShownTransaction::new(gtrid, record)
}

impl ShownTransaction {
    fn new(gtrid: Gtrid, record: TransactionRecord) -> Self {
        Self {
            gtrid: gtrid.to_string(),
            epoch: gtrid.opening.epoch.0,
            record,
            branches: Vec::new(),
            decided_at: None,
            heuristics: Vec::new(),
            by_hand: Vec::new(),
        }
    }
}

impl TransactionRecord {
    /// As a person reads it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "commit, pending",
            Self::Completed => "commit, completed",
            Self::RolledBack => "rolled back",
            Self::None => "no record: rolled back, or completed long ago",
            Self::Open => "no record yet: its epoch is open",
            Self::MayBeLost => "no record, and one may have been lost",
            Self::Unlisted => "not of this log: its opening is not listed",
        }
    }
}

impl From<&OpeningRow> for ShownOpening {
    fn from(row: &OpeningRow) -> Self {
        Self {
            epoch: row.opening.epoch.0,
            random: format!("{:016x}", row.opening.nonce),
            label: row.label.clone(),
            server: row.identity.as_str().to_owned(),
            closed: row.is_closed,
            doubtful: row.is_doubtful(),
        }
    }
}

impl From<&BranchRecord> for ShownBranch {
    fn from(branch: &BranchRecord) -> Self {
        Self {
            resource: branch.resource.to_string(),
            server: branch.identity.as_str().to_owned(),
            evidence: branch.evidence.as_str().to_owned(),
        }
    }
}
