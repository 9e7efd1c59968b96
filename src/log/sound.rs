//! What can still be read of a segment that is damaged, and where it cannot.
//!
//! Every batch has a checksum of its own, seeded with the segment's: it is genuine or not whatever
//! happened to the others. So what is lost is what stands between genuine ones, and what one of
//! them has taken the place of: their chain tells that. Only decisions of the segment's own opening
//! can be among it, for every earlier epoch was closed before batch 0. Unless it is batch 0 itself
//! that is not understood to its end, as one of a newer release may be: then any epoch's can.
//!
//! Whatever `segment::read` or `recover` refuses is at least one loss, so that nobody takes what is
//! left for the whole log.

use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::Gtrid;

use super::record::{Record, decode};
use super::recover::{replay, replay_batch};
use super::segment::{BATCH_HEADER_BYTES, BLOCK, Fault, Header, Piece, ReadBatch, pieces, read};
use super::state::{Change, Recorded, State};

/// A part of a segment that is not what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) segment: String,
    pub(crate) from: u64,
    /// Where what is sound goes on, or where there is nothing more.
    pub(crate) to: u64,
    /// Transactions that seem to be decided there: what is legible is not proven by a checksum.
    pub(crate) legible: Vec<Gtrid>,
}

/// A segment, as far as it is sound.
#[derive(Debug)]
pub(super) struct Sound {
    pub(super) header: Header,
    pub(super) state: State,
    pub(super) batches: usize,
    pub(super) records: usize,
    pub(super) torn_at: Option<u64>,
    /// The state that the segment began with is there, all of it.
    pub(super) has_beginning: bool,
    /// Empty: it is whole.
    pub(super) losses: Vec<Loss>,
    /// Where bytes are that nobody has written, without a meaning: behind a batch, in its block.
    pub(super) strange: Vec<u64>,
}

/// Reads a segment called `name`, whatever has happened to it behind its header.
///
/// # Errors
/// Its header cannot be read: then nothing can.
pub(super) fn read_sound(name: &str, bytes: &[u8], retain: usize) -> Result<Sound, Fault> {
    let (header, pieces) = pieces(bytes)?;
    let mut state = State::new(header.opening.manager, retain);
    let (epoch, nonce) = (header.opening.epoch, header.opening.nonce);
    state.apply(Change::Opened { epoch, nonce }, LogSeq(0));
    let mut sound = Sound {
        header,
        state,
        batches: 0,
        records: 0,
        torn_at: None,
        has_beginning: pieces.iter().any(is_beginning),
        losses: Vec::new(),
        strange: strange(bytes, &pieces),
    };
    for piece in &pieces {
        match piece {
            Piece::Batch(batch) => sound.take(name, batch),
            Piece::Gap { from, to } => sound.lose(name, bytes, *from, *to),
        }
    }
    let len = bytes.len() as u64;
    match read(bytes) {
        Ok(contents) => {
            sound.torn_at = contents.torn_at;
            // What is behind the last whole batch was promised to nobody.
            let torn = contents.torn_at.unwrap_or(u64::MAX);
            sound.losses.retain(|loss| loss.from != torn);
            let replayed = replay(header.opening.manager, &contents, retain);
            if replayed.is_err() && sound.losses.is_empty() {
                // Its opening is not in the state that it began with: who knows what else is not.
                sound.has_beginning = false;
                sound.lose_illegible(name, 0, len);
            }
        }
        Err(Fault::Length { expected, found }) => {
            sound.lose_illegible(name, found.min(expected), found.max(expected));
        }
        // Zeros where batches were, or a batch of this segment in the place of another: no gap.
        Err(Fault::Damage { offset }) if !sound.has_lost(offset) => {
            sound.lose_illegible(name, offset, len);
        }
        Err(Fault::Damage { .. }) => {}
        Err(Fault::NotASegment | Fault::Format(_)) => sound.lose_illegible(name, 0, len),
    }
    if !sound.losses.is_empty() {
        sound.state.apply(Change::Doubtful { epoch }, LogSeq(0));
    }
    if !sound.has_beginning {
        for listed in sound.state.openings() {
            let epoch = listed.opening.epoch;
            sound.state.apply(Change::Doubtful { epoch }, LogSeq(0));
        }
    }
    let state = &sound.state;
    for loss in &mut sound.losses {
        loss.legible
            .retain(|gtrid| state.recorded(*gtrid) == Recorded::Not);
    }
    Ok(sound)
}

impl Sound {
    /// Every record that is one, by itself: what it needs to be understood may be lost.
    fn take(&mut self, name: &str, batch: &ReadBatch<'_>) {
        self.batches += 1;
        let mut at = LogSeq(0);
        let mut rest = batch.payload;
        let mut is_refused = false;
        for _ in 0..batch.records {
            let before = rest;
            if decode(&mut rest).is_none() {
                is_refused = true;
                break;
            }
            self.records += 1;
            let one = ReadBatch {
                records: 1,
                payload: &before[..before.len() - rest.len()],
                ..*batch
            };
            // Of an epoch that is not listed: its opening is lost, and it with it.
            is_refused |= replay_batch(&mut self.state, &mut at, &one).is_none();
        }
        if is_refused || !rest.is_empty() {
            self.has_beginning &= batch.number != 0;
            let end = batch.offset + (BATCH_HEADER_BYTES + batch.payload.len()) as u64;
            let end = end.next_multiple_of(BLOCK as u64);
            self.lose_illegible(name, batch.offset, end);
        }
    }

    fn has_lost(&self, offset: u64) -> bool {
        let mut losses = self.losses.iter();
        losses.any(|loss| (loss.from..loss.to).contains(&offset))
    }

    fn lose_illegible(&mut self, name: &str, from: u64, to: u64) {
        self.losses.push(Loss {
            segment: name.to_owned(),
            from,
            to,
            legible: Vec::new(),
        });
    }

    fn lose(&mut self, name: &str, bytes: &[u8], from: u64, to: u64) {
        let opening = self.header.opening;
        let mut legible = Vec::new();
        let (first, end) = (from as usize + BATCH_HEADER_BYTES, to as usize);
        let mut rest = bytes.get(first..end).unwrap_or_default();
        while let Some(record) = decode(&mut rest) {
            if let Record::Decided { id, .. } = record
                && id.epoch == opening.epoch
            {
                legible.push(opening.gtrid(id.sequence));
            }
        }
        self.losses.push(Loss {
            segment: name.to_owned(),
            from,
            to,
            legible,
        });
    }
}

/// Is this the state that the segment began with?
fn is_beginning(piece: &Piece<'_>) -> bool {
    match piece {
        Piece::Batch(batch) => batch.number == 0,
        Piece::Gap { .. } => false,
    }
}

/// Where the padding of the header or of a batch is not zero.
fn strange(bytes: &[u8], pieces: &[Piece<'_>]) -> Vec<u64> {
    let batch_end = |piece: &Piece<'_>| match piece {
        Piece::Batch(batch) => {
            Some(batch.offset as usize + BATCH_HEADER_BYTES + batch.payload.len())
        }
        Piece::Gap { .. } => None,
    };
    let ends = pieces.iter().filter_map(batch_end);
    let ends = std::iter::once(super::segment::HEADER_BYTES).chain(ends);
    let first_of = |end: usize| {
        let padding = bytes.get(end..end.next_multiple_of(BLOCK).min(bytes.len()))?;
        let at = padding.iter().position(|byte| *byte != 0)?;
        Some((end + at) as u64)
    };
    ends.filter_map(first_of).collect()
}

#[cfg(test)]
#[path = "sound_test.rs"]
mod tests;
