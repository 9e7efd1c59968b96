//! Making segments and appending to them: the only writes that a log consists of.
//!
//! A segment comes into being in this order: zero-filled under [`SEGMENT_TEMP`] and synced
//! ([`prepare`]); header and batch 0 (the whole state) written and synced; renamed; folder synced
//! ([`begin`]). So a file with a segment's name always has a durable header and a durable batch 0,
//! whenever the machine stops, and from the moment that the newest segment is durable no older one
//! is needed. Until the rename is tried nothing of the log is touched: a failure before it changes
//! nothing. After a failed rename or folder sync nobody knows which segment the next opening will
//! find, so nothing may be written to either.

use std::io;

use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::Opening;

use super::segment::{BLOCK, Batch, Chain, Header};
use super::storage::{Storage, StoredFile};

/// The name under which the next segment is made.
pub(super) const SEGMENT_TEMP: &str = "segment.tmp";

static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// The name of segment `number`.
pub(super) fn segment_name(number: u64) -> String {
    format!("segment-{number:012}")
}

/// The number in a segment's name; `None` for every other name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("segment-")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// A zero-filled, synced file that has no segment's name yet.
pub(super) struct Prepared {
    file: Box<dyn StoredFile>,
    bytes: u64,
}

impl Prepared {
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Makes the file of the next segment: its blocks are taken and its length is durable, so that
/// appending finds room and a data sync suffices.
pub(super) fn prepare(storage: &dyn Storage, bytes: u64) -> io::Result<Prepared> {
    let bytes = bytes.next_multiple_of(BLOCK as u64);
    let file = storage.create(SEGMENT_TEMP)?;
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(ZEROS.len() as u64);
        file.write_at(at, &ZEROS[..len as usize])?;
        at += len;
    }
    file.sync()?;
    Ok(Prepared { file, bytes })
}

/// Why a segment could not be begun.
#[derive(Debug)]
pub(super) enum BeginError {
    /// It has no name yet: the log is as it was.
    Unnamed(io::Error),
    /// It may or may not have its name after a crash.
    Named(io::Error),
}

/// Turns the prepared file into segment `number`, durably, with `snapshot` as batch 0.
///
/// # Panics
/// When the snapshot does not fit: the caller asks for room for it.
pub(super) fn begin(
    storage: &dyn Storage,
    prepared: Prepared,
    opening: Opening,
    number: u64,
    snapshot: Batch,
) -> Result<Appender, BeginError> {
    let Prepared { file, bytes } = prepared;
    let header = Header {
        number,
        opening,
        bytes,
    };
    let (header_bytes, mut chain) = header.encode();
    let records = u64::from(snapshot.records());
    let mut block = vec![0; BLOCK];
    block[..header_bytes.len()].copy_from_slice(&header_bytes);
    block.extend_from_slice(&snapshot.seal(&mut chain));
    let end = block.len() as u64;
    assert!(end <= bytes, "room was made for the state");
    let unnamed = BeginError::Unnamed;
    file.write_at(0, &block).map_err(unnamed)?;
    file.sync_data().map_err(unnamed)?;
    let name = segment_name(number);
    let named = BeginError::Named;
    storage.rename(SEGMENT_TEMP, &name).map_err(named)?;
    storage.sync_folder().map_err(named)?;
    if !file.has_name(&name) {
        let gone = "somebody has removed or replaced it meanwhile";
        return Err(named(io::Error::other(gone)));
    }
    Ok(Appender {
        file,
        number,
        bytes,
        chain,
        end,
        records,
    })
}

/// A segment that is written to.
pub(super) struct Appender {
    file: Box<dyn StoredFile>,
    number: u64,
    bytes: u64,
    chain: Chain,
    end: u64,
    records: u64,
}

impl Appender {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn is_half_full(&self) -> bool {
        self.end > self.bytes / 2
    }

    pub(super) fn fits(&self, batch: &Batch) -> bool {
        self.end + batch.stored_bytes() <= self.bytes
    }

    /// The next opening will not find the segment: somebody has removed it, renamed it, or put
    /// another in its place. What is written to it is lost with this process.
    pub(super) fn is_removed(&self) -> bool {
        !self.file.has_name(&segment_name(self.number))
    }

    /// Writes the batch and makes it durable. After an error this segment must not be written to
    /// again: what is on the disk is unknown, and a later success would prove nothing.
    ///
    /// Answers the position of its first record; the others have the following ones.
    ///
    /// # Errors
    /// The batch may or may not be durable.
    pub(super) fn append(&mut self, batch: Batch) -> io::Result<LogSeq> {
        assert!(self.fits(&batch), "room was made for the batch");
        let at = position(self.number, self.records);
        self.records += u64::from(batch.records());
        let bytes = batch.seal(&mut self.chain);
        self.file.write_at(self.end, &bytes)?;
        self.file.sync_data()?;
        self.end += bytes.len() as u64;
        Ok(at)
    }
}

/// Where a record lies: the segment's number, and how many records are before it there.
pub(super) const fn position(number: u64, records_before: u64) -> LogSeq {
    LogSeq((number << 32) + records_before)
}
