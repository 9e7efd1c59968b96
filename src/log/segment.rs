//! Segments and batches, as bytes: what a segment file holds, and how a torn tail is told from
//! damage.
//!
//! A segment is a zero-filled file of fixed length. Block 0 holds the header; each batch begins at
//! a block of its own, so that appending never rewrites a block that was synced before. Batch 0 is
//! the whole state at the time the segment was begun.
//!
//! Each batch's checksum covers its bytes, among them the checksum of the batch before, and is
//! seeded with the header's checksum, which covers manager, segment number and the opening's
//! random bits. So the bytes of another segment, opening or log are never taken for a batch of
//! this one, and a batch can be told to be genuine without its predecessor.
//!
//! The argument for [`read`]: batch n+1 is written only after batch n was synced. So if a genuine
//! batch stands behind an invalid one, the invalid one had been synced: the disk lost or changed
//! it, and decisions may be gone (damage). An invalid batch with nothing genuine behind it may be
//! the one whose write was under way when the writer died; nobody was told that it is durable
//! (torn tail). But such a write leaves a part of the batch as zeros: if no part is missing, the
//! whole of it had arrived, and something changed it later (damage, see [`was_written`]). Batch 0
//! is synced before the segment gets its name: if it is invalid, that is damage.

use unanimous_core::xid::{Epoch, ManagerId, Opening};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The unit in which batches are laid out. Not smaller than any disk's sector or any kernel's page
/// that matters: a torn write of one batch cannot harm the batch before it.
pub(super) const BLOCK: usize = 4096;

/// The version of the format that this module writes, and the only one that it reads.
pub(super) const FORMAT: u32 = 1;

/// What a disk writes in one step. A write that did not end leaves each sector as it was (zeros) or
/// as it was to be.
const SECTOR: usize = 512;

/// More zeros in a row than any batch has: its longest are a completed decision's epoch and
/// sequence number.
const ZEROS: usize = 16;

const MAGIC: [u8; 8] = *b"UNANLOG\0";
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const BATCH_HEADER_BYTES: usize = 32;

/// What identifies a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Rises with each segment of a log; also in the file's name.
    pub(super) number: u64,
    /// Who writes it.
    pub(super) opening: Opening,
    /// The file's length.
    pub(super) bytes: u64,
}

impl Header {
    /// The header's bytes, and the chain that the segment's batches go on.
    pub(super) fn encode(&self) -> ([u8; HEADER_BYTES], Chain) {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&self.opening.epoch.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.opening.nonce.to_le_bytes());
        out[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        out[40..50].copy_from_slice(&self.opening.manager.to_bytes());
        let checksum = xxh3_64(&out[..56]);
        out[56..].copy_from_slice(&checksum.to_le_bytes());
        let read_back = Self::decode(&out);
        assert!(
            read_back == Ok((*self, Chain::new(checksum))),
            "a header is read back as it was written"
        );
        (out, Chain::new(checksum))
    }

    fn decode(bytes: &[u8]) -> Result<(Self, Chain), Fault> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(Fault::NotASegment);
        };
        if bytes[..8] != MAGIC {
            return Err(Fault::NotASegment);
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err(Fault::Format(format));
        }
        let checksum = u64_at(bytes, 56);
        if checksum != xxh3_64(&bytes[..56]) || bytes[50..56] != [0; 6] {
            return Err(Fault::Damage { offset: 0 });
        }
        let mut manager = [0; 10];
        manager.copy_from_slice(&bytes[40..50]);
        let header = Self {
            number: u64_at(bytes, 16),
            opening: Opening {
                manager: ManagerId::from_bytes(manager),
                epoch: Epoch(u32_at(bytes, 12)),
                nonce: u64_at(bytes, 24),
            },
            bytes: u64_at(bytes, 32),
        };
        Ok((header, Chain::new(checksum)))
    }
}

/// Why a segment cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not begin as a segment does.
    NotASegment,
    /// It is of another version of the format.
    Format(u32),
    /// It is shorter or longer than its header says.
    Length { expected: u64, found: u64 },
    /// What was synced at this offset is not there any more.
    Damage { offset: u64 },
}

/// Where a segment's batches stand: what the next one has to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    seed: u64,
    previous: u64,
    number: u64,
}

impl Chain {
    const fn new(header_checksum: u64) -> Self {
        Self {
            seed: header_checksum,
            previous: header_checksum,
            number: 0,
        }
    }
}

/// A batch that is being filled: records behind each other, room for the header in front.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    records: u32,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self::with_capacity(0)
    }

    /// With room for that many bytes of records.
    pub(super) fn with_capacity(record_bytes: usize) -> Self {
        let mut bytes =
            Vec::with_capacity((BATCH_HEADER_BYTES + record_bytes).next_multiple_of(BLOCK));
        bytes.resize(BATCH_HEADER_BYTES, 0);
        Self { bytes, records: 0 }
    }

    /// Appends a record by `encode`.
    pub(super) fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.bytes);
        self.records += 1;
    }

    pub(super) const fn records(&self) -> u32 {
        self.records
    }

    /// How many bytes of the segment it will take.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.bytes.len().next_multiple_of(BLOCK) as u64
    }

    /// The bytes to write, padded with zeros to whole blocks; moves the chain on.
    ///
    /// # Panics
    /// When the batch is 4 GiB or larger: the log asks for room for its batches beforehand.
    pub(super) fn seal(mut self, chain: &mut Chain) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len() - BATCH_HEADER_BYTES);
        let len = len.expect("a batch is smaller than 4 GiB");
        self.bytes[8..16].copy_from_slice(&chain.previous.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&chain.number.to_le_bytes());
        self.bytes[24..28].copy_from_slice(&len.to_le_bytes());
        self.bytes[28..32].copy_from_slice(&self.records.to_le_bytes());
        let checksum = xxh3_64_with_seed(&self.bytes[8..], chain.seed);
        self.bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        chain.previous = checksum;
        chain.number += 1;
        self.bytes
    }
}

/// One batch that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadBatch<'a> {
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// How many batches are before it in its segment, by its own word.
    pub(super) number: u64,
    /// How many records its payload holds.
    pub(super) records: u32,
    /// The records.
    pub(super) payload: &'a [u8],
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents<'a> {
    pub(super) header: Header,
    /// At least one: the state that the segment began with.
    pub(super) batches: Vec<ReadBatch<'a>>,
    /// Where a batch begins that was not written to its end, if there is one.
    pub(super) torn_at: Option<u64>,
}

/// Reads a segment: every batch that is valid, up to the end or a torn tail.
pub(super) fn read(bytes: &[u8]) -> Result<Contents<'_>, Fault> {
    let (header, mut chain) = Header::decode(bytes)?;
    let found = bytes.len() as u64;
    if found != header.bytes {
        return Err(Fault::Length {
            expected: header.bytes,
            found,
        });
    }
    let mut batches = Vec::new();
    let mut at = BLOCK;
    while let Some((sealed, batch)) = read_batch(bytes, at, chain.seed) {
        if sealed.previous != chain.previous || sealed.number != chain.number {
            break;
        }
        at += (BATCH_HEADER_BYTES + batch.payload.len()).next_multiple_of(BLOCK);
        chain.previous = sealed.checksum;
        chain.number += 1;
        batches.push(batch);
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let is_zero = rest.iter().all(|byte| *byte == 0);
    let is_torn = || !has_batch(bytes, at, chain.seed) && !was_written(rest, chain);
    let damaged = batches.is_empty() || (!is_zero && !is_torn());
    if damaged {
        return Err(Fault::Damage { offset: at as u64 });
    }
    Ok(Contents {
        header,
        batches,
        torn_at: (!is_zero).then_some(at as u64),
    })
}

/// What stands behind each other in a segment, whatever has happened to it.
#[cfg(feature = "operator")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Genuine, by its own checksum.
    Batch(ReadBatch<'a>),
    /// From here to there is no batch of this segment.
    Gap { from: u64, to: u64 },
}

/// Every batch that is genuine, and what is between them. The zeros at the end are no gap.
#[cfg(feature = "operator")]
pub(super) fn pieces(bytes: &[u8]) -> Result<(Header, Vec<Piece<'_>>), Fault> {
    let (header, chain) = Header::decode(bytes)?;
    let mut pieces = Vec::new();
    let mut gap = None;
    let mut at = BLOCK;
    while at < bytes.len() {
        let Some((_, batch)) = read_batch(bytes, at, chain.seed) else {
            gap.get_or_insert(at);
            at += BLOCK;
            continue;
        };
        if let Some(from) = gap.take() {
            let (from, to) = (from as u64, at as u64);
            pieces.push(Piece::Gap { from, to });
        }
        at += (BATCH_HEADER_BYTES + batch.payload.len()).next_multiple_of(BLOCK);
        pieces.push(Piece::Batch(batch));
    }
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    if let Some(from) = gap.filter(|from| *from <= last) {
        let to = (last + 1).next_multiple_of(BLOCK).min(bytes.len());
        let (from, to) = (from as u64, to as u64);
        pieces.push(Piece::Gap { from, to });
    }
    Ok((header, pieces))
}

struct Sealed {
    checksum: u64,
    previous: u64,
    number: u64,
}

/// The batch at `at`, if one of this segment is there; says nothing about its place in the chain.
fn read_batch(bytes: &[u8], at: usize, seed: u64) -> Option<(Sealed, ReadBatch<'_>)> {
    let block = bytes.get(at..)?;
    let header = block.first_chunk::<BATCH_HEADER_BYTES>()?;
    let len = u32_at(header, 24) as usize;
    let whole = block.get(..BATCH_HEADER_BYTES.checked_add(len)?)?;
    let sealed = Sealed {
        checksum: u64_at(header, 0),
        previous: u64_at(header, 8),
        number: u64_at(header, 16),
    };
    let batch = ReadBatch {
        offset: at as u64,
        number: sealed.number,
        records: u32_at(header, 28),
        payload: &whole[BATCH_HEADER_BYTES..],
    };
    (sealed.checksum == xxh3_64_with_seed(&whole[8..], seed)).then_some((sealed, batch))
}

/// Is there a genuine batch anywhere behind `at`?
fn has_batch(bytes: &[u8], at: usize, seed: u64) -> bool {
    let mut blocks = (at..bytes.len()).step_by(BLOCK);
    blocks.any(|at| read_batch(bytes, at, seed).is_some())
}

/// Had the whole of the next batch arrived at the front of `rest`, where it is invalid now? Then
/// something changed it, and it may have been durable.
///
/// It has if its header names the batch before, and neither a sector nor the end of the bytes that
/// it claims is missing. A change of either of these two fields would hide that; so it is tried
/// whether the batch is valid with the right one.
fn was_written(rest: &[u8], chain: Chain) -> bool {
    let Some(header) = rest.first_chunk::<BATCH_HEADER_BYTES>() else {
        return false;
    };
    let claimed = BATCH_HEADER_BYTES.saturating_add(u32_at(header, 24) as usize);
    if u64_at(header, 8) != chain.previous {
        return is_valid_with(rest, chain, claimed);
    }
    let Some(sealed) = rest.get(..claimed) else {
        // A batch is never longer than its segment.
        return true;
    };
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let is_missing = is_zero(&rest[BATCH_HEADER_BYTES..])
        || sealed.chunks(SECTOR).any(is_zero)
        || sealed.ends_with(&[0; ZEROS]);
    let end = rest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    let mut lengths = (end..).take(ZEROS);
    !is_missing || lengths.any(|len| is_valid_with(rest, chain, len))
}

/// Would `rest` begin with a valid batch if it were that long and named the batch before?
fn is_valid_with(rest: &[u8], chain: Chain, bytes: usize) -> bool {
    let Some(len) = bytes.checked_sub(BATCH_HEADER_BYTES) else {
        return false;
    };
    let (Some(sealed), Ok(len)) = (rest.get(..bytes), u32::try_from(len)) else {
        return false;
    };
    let mut sealed = sealed.to_vec();
    sealed[8..16].copy_from_slice(&chain.previous.to_le_bytes());
    sealed[24..28].copy_from_slice(&len.to_le_bytes());
    u64_at(&sealed, 0) == xxh3_64_with_seed(&sealed[8..], chain.seed)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
