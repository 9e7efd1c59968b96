//! The records of the file log, as bytes.
//!
//! Owns the encoding of single records; promises that each record has exactly one encoding, that
//! decoding is total (it answers `None`, and never panics, for bytes that no record encodes to),
//! and that encoding asserts that decoding gives the same record back. Numbers are little-endian.
//! `docs/log-format.md` is the layout; the golden files hold it fast.
//!
//! Does not know about batches, checksums or files: see `segment`.

use unanimous_core::ports::{
    BranchRecord, DecisionRecord, Evidence, HandRow, ServerIdentity, UnixTime,
};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Epoch, Gtrid, ResourceName, XID_PART_BYTES_MAX};

use super::hand;

/// A transaction as the records of one log name it: manager and random bits of the opening are
/// those that the log lists for the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) epoch: Epoch,
    pub(super) sequence: u64,
}

impl Id {
    pub(super) const fn of(gtrid: Gtrid) -> Self {
        Self {
            epoch: gtrid.opening.epoch,
            sequence: gtrid.sequence,
        }
    }
}

/// One branch of a decision, borrowed from the bytes or from a [`BranchRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BranchText<'a> {
    resource: &'a str,
    identity: &'a str,
    evidence: &'a str,
}

impl<'a> BranchText<'a> {
    fn of(branch: &'a BranchRecord) -> Self {
        Self {
            resource: branch.resource.as_str(),
            identity: branch.identity.as_str(),
            evidence: branch.evidence.as_str(),
        }
    }

    const fn encoded_bytes(self) -> usize {
        3 + self.resource.len() + self.identity.len() + self.evidence.len()
    }

    fn to_record(self) -> Option<BranchRecord> {
        Some(BranchRecord {
            resource: self.resource.parse().ok()?,
            identity: ServerIdentity::new(self.identity)?,
            evidence: Evidence::new(self.evidence)?,
        })
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// An opening is listed, and open.
    Opened { epoch: Epoch, nonce: u64 },
    /// What is recorded for the epoch is final.
    Closed { epoch: Epoch },
    /// The transaction is to be committed.
    Decided {
        id: Id,
        when: UnixTime,
        branches: Vec<BranchText<'a>>,
    },
    /// Every branch of it is committed.
    Completed { id: Id },
    /// A branch of it ended against the decision.
    Heuristic {
        id: Id,
        resource: &'a str,
        heuristic: Heuristic,
        when: UnixTime,
    },
    /// What a person did, or the new state of that.
    ByHand(Box<HandRow>),
    /// Decisions of the epoch may be missing: that one is not there proves nothing.
    Doubtful { epoch: Epoch },
}

/// The most branches that one decision can name.
pub(super) const BRANCHES_MAX: usize = u16::MAX as usize;

/// The length of a [`Record::Completed`].
pub(super) const COMPLETED_BYTES: usize = KIND_AND_ID_BYTES;

const OPENED: u8 = 1;
const CLOSED: u8 = 2;
const DECIDED: u8 = 3;
const COMPLETED: u8 = 4;
const HEURISTIC: u8 = 5;
const BY_HAND: u8 = 6;
const DOUBTFUL: u8 = 7;

/// Kind and transaction.
const KIND_AND_ID_BYTES: usize = 13;

#[cfg(test)]
pub(super) const SOME_TIME: UnixTime = UnixTime(1_790_000_000);

/// Encodes a decision. `None` when it names more than [`BRANCHES_MAX`] branches.
///
/// # Panics
/// As [`encode`].
pub(super) fn encode_decision(
    id: Id,
    when: UnixTime,
    branches: &[BranchRecord],
) -> Option<Box<[u8]>> {
    if branches.len() > BRANCHES_MAX {
        return None;
    }
    // Every commit comes through here: exactly one allocation.
    let branches = branches.iter().map(BranchText::of);
    let branch_bytes = branches.clone().map(BranchText::encoded_bytes);
    let len = KIND_AND_ID_BYTES + number_bytes(when.0) + 2 + branch_bytes.sum::<usize>();
    let mut bytes = Vec::with_capacity(len);
    put_decision(id, when, branches.clone(), &mut bytes);
    debug_assert_eq!(bytes.len(), len);
    assert!(
        is_decision(&bytes, id, when, branches),
        "a record is read back as it was written"
    );
    Some(bytes.into_boxed_slice())
}

/// The decision that [`encode_decision`] encoded for `gtrid`.
pub(super) fn decode_decision(gtrid: Gtrid, bytes: &[u8]) -> Option<DecisionRecord> {
    let mut rest = bytes;
    let Record::Decided { id, branches, .. } = decode(&mut rest)? else {
        return None;
    };
    let branches = branches.into_iter().map(BranchText::to_record).collect();
    let branches: Option<Vec<_>> = branches;
    (id == Id::of(gtrid) && rest.is_empty()).then_some(DecisionRecord {
        gtrid,
        branches: branches?,
    })
}

/// When the decision that [`encode_decision`] encoded was made.
pub(super) fn decided_at(bytes: &[u8]) -> Option<UnixTime> {
    let mut rest = bytes.get(KIND_AND_ID_BYTES..)?;
    take_number(&mut rest).map(UnixTime)
}

/// The same decision, whenever it was made: one that is asked for again is asked for later.
pub(super) fn is_same_decision(one: &[u8], other: &[u8]) -> bool {
    let undated = |bytes| -> Option<(&[u8], &[u8])> {
        let (id, mut rest) = <[u8]>::split_at_checked(bytes, KIND_AND_ID_BYTES)?;
        take_number(&mut rest)?;
        Some((id, rest))
    };
    match (undated(one), undated(other)) {
        (Some(one), Some(other)) => one == other,
        (Some(_) | None, None) | (None, Some(_)) => one == other,
    }
}

/// Appends the record to `out`.
///
/// # Panics
/// When decoding would not give the same record back: going on would write what cannot be read.
pub(super) fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    match record {
        Record::Opened { epoch, nonce } => {
            out.push(OPENED);
            out.extend_from_slice(&epoch.0.to_le_bytes());
            out.extend_from_slice(&nonce.to_le_bytes());
        }
        Record::Closed { epoch } => {
            out.push(CLOSED);
            out.extend_from_slice(&epoch.0.to_le_bytes());
        }
        Record::Decided { id, when, branches } => {
            put_decision(*id, *when, branches.iter().copied(), out);
        }
        Record::Completed { id } => {
            out.push(COMPLETED);
            put_id(*id, out);
        }
        Record::Heuristic {
            id,
            resource,
            heuristic,
            when,
        } => {
            out.push(HEURISTIC);
            put_id(*id, out);
            put_text(resource, out);
            out.push(heuristic_code(*heuristic));
            put_number(when.0, out);
        }
        Record::Doubtful { epoch } => {
            out.push(DOUBTFUL);
            out.extend_from_slice(&epoch.0.to_le_bytes());
        }
        Record::ByHand(row) => put_by_hand(row, out),
    }
    let mut written = &out[start..];
    let read_back = decode(&mut written);
    assert!(
        read_back.as_ref() == Some(record) && written.is_empty(),
        "a record is read back as it was written"
    );
}

/// Takes one record off the front of `bytes`; `None` if there is none that is valid.
pub(super) fn decode<'a>(bytes: &mut &'a [u8]) -> Option<Record<'a>> {
    let [kind] = take_array(bytes)?;
    match kind {
        OPENED => Some(Record::Opened {
            epoch: take_epoch(bytes)?,
            nonce: u64::from_le_bytes(take_array(bytes)?),
        }),
        CLOSED => Some(Record::Closed {
            epoch: take_epoch(bytes)?,
        }),
        DECIDED => Some(Record::Decided {
            id: take_id(bytes)?,
            when: take_time(bytes)?,
            branches: take_branches(bytes)?,
        }),
        COMPLETED => Some(Record::Completed {
            id: take_id(bytes)?,
        }),
        HEURISTIC => Some(Record::Heuristic {
            id: take_id(bytes)?,
            resource: take_resource(bytes)?,
            heuristic: heuristic_of(take_array(bytes)?)?,
            when: take_time(bytes)?,
        }),
        BY_HAND => take_by_hand(bytes).map(Record::ByHand),
        DOUBTFUL => Some(Record::Doubtful {
            epoch: take_epoch(bytes)?,
        }),
        _ => None,
    }
}

fn put_id(id: Id, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.epoch.0.to_le_bytes());
    out.extend_from_slice(&id.sequence.to_le_bytes());
}

fn put_decision<'a>(
    id: Id,
    when: UnixTime,
    branches: impl ExactSizeIterator<Item = BranchText<'a>>,
    out: &mut Vec<u8>,
) {
    out.push(DECIDED);
    put_id(id, out);
    put_number(when.0, out);
    // A count that does not fit is cut here, and caught when the record is read back.
    out.extend_from_slice(&(branches.len() as u16).to_le_bytes());
    for branch in branches {
        put_text(branch.resource, out);
        put_text(branch.identity, out);
        put_text(branch.evidence, out);
    }
}

/// Would decoding give this decision?
fn is_decision<'a>(
    mut bytes: &[u8],
    id: Id,
    when: UnixTime,
    mut branches: impl ExactSizeIterator<Item = BranchText<'a>>,
) -> bool {
    let bytes = &mut bytes;
    take_array(bytes) == Some([DECIDED])
        && take_id(bytes) == Some(id)
        && take_time(bytes) == Some(when)
        && take_array(bytes) == u16::try_from(branches.len()).ok().map(u16::to_le_bytes)
        && branches.all(|branch| take_branch(bytes) == Some(branch))
        && bytes.is_empty()
}

/// Its length, and its bytes without leading zeros: no number makes a row of zeros.
fn put_number(number: u64, out: &mut Vec<u8>) {
    let len = number_bytes(number) - 1;
    out.push(len as u8);
    out.extend_from_slice(&number.to_le_bytes()[..len]);
}

const fn number_bytes(number: u64) -> usize {
    1 + (u64::BITS - number.leading_zeros()).div_ceil(8) as usize
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let [len] = take_array(bytes)?;
    let mut number = [0; 8];
    let given = take(bytes, usize::from(len))?;
    number.get_mut(..given.len())?.copy_from_slice(given);
    (given.last() != Some(&0)).then_some(u64::from_le_bytes(number))
}

fn take_time(bytes: &mut &[u8]) -> Option<UnixTime> {
    take_number(bytes).map(UnixTime)
}

fn put_by_hand(row: &HandRow, out: &mut Vec<u8>) {
    out.push(BY_HAND);
    out.extend_from_slice(&row.id.to_le_bytes());
    out.push(row.state as u8);
    put_text(&row.gtrid.to_string(), out);
    put_text(row.resource.as_str(), out);
    // A length that does not fit is cut here, and caught when the record is read back.
    out.extend_from_slice(&(row.words.len() as u16).to_le_bytes());
    out.extend_from_slice(row.words.as_bytes());
}

fn take_by_hand(bytes: &mut &[u8]) -> Option<Box<HandRow>> {
    let id = u64::from_le_bytes(take_array(bytes)?);
    let [state] = take_array(bytes)?;
    let gtrid = take_printable(bytes, XID_PART_BYTES_MAX)?.parse().ok()?;
    let resource = take_resource(bytes)?.parse().ok()?;
    let len = u16::from_le_bytes(take_array(bytes)?);
    let words = core::str::from_utf8(take(bytes, usize::from(len))?).ok()?;
    let row = HandRow {
        id,
        gtrid,
        resource,
        state: char::from(state),
        words: words.to_owned(),
    };
    hand::read(&row).map(|_| Box::new(row))
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_epoch(bytes: &mut &[u8]) -> Option<Epoch> {
    take_array(bytes).map(u32::from_le_bytes).map(Epoch)
}

fn take_id(bytes: &mut &[u8]) -> Option<Id> {
    Some(Id {
        epoch: take_epoch(bytes)?,
        sequence: u64::from_le_bytes(take_array(bytes)?),
    })
}

fn take_branches<'a>(bytes: &mut &'a [u8]) -> Option<Vec<BranchText<'a>>> {
    let count = u16::from_le_bytes(take_array(bytes)?);
    // Each branch takes at least four bytes: a count that lies cannot make this allocate much.
    let mut branches = Vec::with_capacity(usize::from(count).min(bytes.len() / 4));
    for _ in 0..count {
        branches.push(take_branch(bytes)?);
    }
    Some(branches)
}

fn take_branch<'a>(bytes: &mut &'a [u8]) -> Option<BranchText<'a>> {
    Some(BranchText {
        resource: take_resource(bytes)?,
        identity: take_printable(bytes, ServerIdentity::BYTES_MAX)?,
        evidence: take_printable(bytes, Evidence::BYTES_MAX)?,
    })
}

fn take_resource<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let text = take_printable(bytes, XID_PART_BYTES_MAX)?;
    let valid = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    debug_assert_eq!(valid, text.parse::<ResourceName>().is_ok());
    valid.then_some(text)
}

fn take_printable<'a>(bytes: &mut &'a [u8], bytes_max: usize) -> Option<&'a str> {
    let [len] = take_array(bytes)?;
    let text = take(bytes, usize::from(len))?;
    let fits = text.len() <= bytes_max && text.iter().all(|byte| (0x20..0x7f).contains(byte));
    if fits {
        core::str::from_utf8(text).ok()
    } else {
        None
    }
}

const fn heuristic_code(heuristic: Heuristic) -> u8 {
    match heuristic {
        Heuristic::Commit => 1,
        Heuristic::Rollback => 2,
        Heuristic::Mixed => 3,
        Heuristic::Hazard => 4,
    }
}

const fn heuristic_of([code]: [u8; 1]) -> Option<Heuristic> {
    match code {
        1 => Some(Heuristic::Commit),
        2 => Some(Heuristic::Rollback),
        3 => Some(Heuristic::Mixed),
        4 => Some(Heuristic::Hazard),
        _ => None,
    }
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
