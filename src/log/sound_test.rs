//! What is saved of a damaged segment: all that is sound, nothing that is not, and doubt where a
//! decision may be missing.

use unanimous_core::ports::Lookup;
use unanimous_core::xid::{Epoch, ManagerId, Opening};

use super::super::appender::{begin, prepare, segment_name};
use super::super::record::{Id, encode};
use super::super::segment::Batch;
use super::super::sim_disk::SimDisk;
use super::super::storage::Storage;
use super::*;

const OLD: Opening = Opening {
    manager: ManagerId::from_bytes([9; 10]),
    epoch: Epoch(2),
    nonce: 4,
};
const OWN: Opening = Opening {
    epoch: Epoch(3),
    nonce: 5,
    ..OLD
};

fn decided(id: Id) -> Record<'static> {
    Record::Decided {
        when: super::super::record::SOME_TIME,
        id,
        branches: Vec::new(),
    }
}

fn id(opening: Opening, sequence: u64) -> Id {
    Id::of(opening.gtrid(sequence))
}

/// Batch 0 holds a decision of an earlier epoch; 1, 2 and 3 one of their own each; 4 completes 2.
fn segment() -> Vec<u8> {
    segment_with([
        decided(id(OWN, 1)),
        decided(id(OWN, 2)),
        decided(id(OWN, 3)),
        Record::Completed { id: id(OWN, 2) },
    ])
}

fn batch_of(record: &Record<'_>) -> Batch {
    let mut batch = Batch::new();
    batch.push(|out| encode(record, out));
    batch
}

/// The same batch 0, and one batch for each of these.
fn segment_with<const N: usize>(records: [Record<'_>; N]) -> Vec<u8> {
    segment_of(beginning().snapshot(), records.each_ref().map(batch_of))
}

fn beginning() -> State {
    let mut state = State::new(OLD.manager, 10);
    state.open(OLD);
    let mut bytes = Vec::new();
    encode(&decided(id(OLD, 1)), &mut bytes);
    let change = Change::Decided {
        id: id(OLD, 1),
        bytes: bytes.into(),
    };
    state.apply(change, LogSeq(0));
    state.open(OWN);
    state
}

fn segment_of<const N: usize>(beginning: Batch, batches: [Batch; N]) -> Vec<u8> {
    let disk = SimDisk::new();
    let prepared = prepare(&disk, 8 * BLOCK as u64).unwrap();
    let mut appender = begin(&disk, prepared, OWN, 7, beginning).unwrap();
    for batch in batches {
        appender.append(batch).unwrap();
    }
    disk.read(&segment_name(7)).unwrap()
}

fn sound(bytes: &[u8]) -> Sound {
    read_sound("segment-000000000007", bytes, 10).unwrap()
}

fn is_pending(sound: &Sound, opening: Opening, sequence: u64) -> bool {
    matches!(
        sound.state.lookup(opening.gtrid(sequence)),
        Lookup::Pending(_)
    )
}

#[test]
fn a_whole_segment_has_no_losses() {
    let sound = sound(&segment());
    assert_eq!(
        (sound.batches, sound.records, sound.losses.len()),
        (5, 8, 0)
    );
    assert!(sound.has_beginning && sound.torn_at.is_none() && sound.strange.is_empty());
    assert_eq!(sound.state.lookup(OLD.gtrid(99)), Lookup::NoRecord);
    assert!(!sound.state.is_doubtful(OWN.epoch));
}

/// Wherever a sector is lost behind the header, what is not in it is saved, and only the epoch that
/// was being written is in doubt.
#[test]
fn i3_wherever_a_sector_is_lost_the_rest_is_saved_and_what_may_be_missing_is_in_doubt() {
    let whole = segment();
    let last = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for from in (BLOCK..=last).step_by(512) {
        let mut bytes = whole.clone();
        bytes[from..from + 512].fill(0x5a);
        if bytes.len() < from + 512 || whole[from..from + 512].iter().all(|byte| *byte == 0) {
            // Behind a batch: nothing is lost, and it is told.
            let sound = sound(&bytes);
            assert!(sound.losses.is_empty(), "{from}: {sound:?}");
            assert_eq!(sound.strange, [from as u64]);
            continue;
        }
        let sound = sound(&bytes);
        let block = from / BLOCK * BLOCK;
        let lost = (block as u64, (block + BLOCK) as u64);
        if block == 5 * BLOCK {
            // Of the last batch this is not told from a write that did not end.
            assert_eq!(sound.torn_at, Some(block as u64));
            assert!(sound.losses.is_empty(), "{sound:?}");
            continue;
        }
        let found: Vec<_> = sound
            .losses
            .iter()
            .map(|loss| (loss.from, loss.to))
            .collect();
        assert_eq!(found, [lost], "{from}");
        assert!(sound.state.is_doubtful(OWN.epoch), "{from}");
        assert_eq!(sound.state.lookup(OWN.gtrid(99)), Lookup::Open);
        for (batch, sequence) in [(2, 1), (4, 3)] {
            assert_eq!(
                is_pending(&sound, OWN, sequence),
                block != batch * BLOCK,
                "{from}"
            );
        }
        assert_eq!(is_pending(&sound, OLD, 1), block != BLOCK, "{from}");
        assert_eq!(sound.has_beginning, block != BLOCK, "{from}");
        assert!(!sound.state.is_doubtful(OLD.epoch), "{from}");
        let expected = if block == BLOCK {
            Lookup::UnknownOpening
        } else {
            Lookup::NoRecord
        };
        assert_eq!(sound.state.lookup(OLD.gtrid(99)), expected, "{from}");
        // Its completion tells that it was decided, wherever that stood.
        assert_eq!(
            sound.state.lookup(OWN.gtrid(2)),
            Lookup::Completed,
            "{from}"
        );
    }
}

/// Everything behind the header is gone, as when a file system has lost an extent: the newest epoch
/// is all that is known, and it is in doubt.
#[test]
fn i3_a_header_with_zeros_behind_it_is_not_a_segment_without_decisions() {
    let mut bytes = segment();
    bytes[BLOCK..].fill(0);
    let sound = sound(&bytes);
    assert_refused_and_in_doubt(&bytes, "zeros behind the header");
    assert!(!sound.has_beginning);
    assert_eq!(sound.state.lookup(OWN.gtrid(1)), Lookup::Open);
}

/// A write that hit another place than it was meant for: the batch there is genuine, and the one
/// that it replaced is gone without a trace of its own.
#[test]
fn i3_a_batch_in_the_place_of_another_is_a_loss() {
    let whole = segment();
    for (from, to) in (1..=5).flat_map(|from| (1..=5).map(move |to| (from, to))) {
        let mut bytes = whole.clone();
        bytes.copy_within(from * BLOCK..(from + 1) * BLOCK, to * BLOCK);
        let what = format!("{from} over {to}");
        if from == to {
            assert!(sound(&bytes).losses.is_empty());
            continue;
        }
        assert_refused_and_in_doubt(&bytes, &what);
        assert_eq!(sound(&bytes).has_beginning, to != 1, "{what}");
    }
    // One of a batch's copies stands where nothing was written yet.
    let mut bytes = whole;
    bytes.copy_within(3 * BLOCK..4 * BLOCK, 7 * BLOCK);
    assert_refused_and_in_doubt(&bytes, "behind the last");
}

/// Genuine, by its checksum, and still not of this program: `recover` refuses it.
#[test]
fn i3_a_batch_that_recovery_refuses_is_a_loss() {
    let of_no_opening = Opening {
        epoch: Epoch(9),
        ..OWN
    };
    let strange = decided(id(of_no_opening, 1));
    let bytes = segment_with([strange, decided(id(OWN, 1))]);
    assert!(read(&bytes).is_ok(), "its checksums are right");
    let sound = sound(&bytes);
    assert_eq!(sound.losses.len(), 1, "{sound:?}");
    assert!(sound.state.is_doubtful(OWN.epoch) && is_pending(&sound, OWN, 1));
}

/// A kind of record that only a newer release knows.
const UNKNOWN: u8 = 99;

/// The openings stand in front: that they are listed as closed does not say that their decisions
/// are all there.
#[test]
fn i1_a_beginning_that_is_not_understood_to_its_end_leaves_every_epoch_in_doubt() {
    let opened = |of: Opening| Record::Opened {
        epoch: of.epoch,
        nonce: of.nonce,
    };
    let mut beginning = Batch::new();
    let closed = Record::Closed { epoch: OLD.epoch };
    for record in [opened(OLD), closed, opened(OWN)] {
        beginning.push(|out| encode(&record, out));
    }
    beginning.push(|out| out.push(UNKNOWN));
    beginning.push(|out| encode(&decided(id(OLD, 1)), out));
    let bytes = segment_of(beginning, [batch_of(&decided(id(OWN, 1)))]);
    assert!(read(&bytes).is_ok(), "its checksums are right");
    let sound = sound(&bytes);
    assert_eq!(sound.state.lookup(OLD.gtrid(1)), Lookup::MayBeLost);
    assert!(is_pending(&sound, OWN, 1) && sound.state.is_doubtful(OWN.epoch));
    assert!(!sound.has_beginning && sound.losses.len() == 1);
}

/// What an opening refuses is a loss, so that no export of it is called complete.
#[test]
fn i3_whatever_an_opening_refuses_is_a_loss() {
    let mut too_few = batch_of(&decided(id(OWN, 1)));
    too_few.push(|_| {});
    let mut unknown = batch_of(&decided(id(OWN, 1)));
    unknown.push(|out| out.push(UNKNOWN));
    let whole = || beginning().snapshot();
    let mut without_it = State::new(OLD.manager, 10);
    without_it.open(OLD);
    for (what, begins_whole, bytes) in [
        ("too few records", true, segment_of(whole(), [too_few])),
        ("an unknown record", true, segment_of(whole(), [unknown])),
        (
            "not its opening",
            false,
            segment_of(without_it.snapshot(), []),
        ),
    ] {
        let contents = read(&bytes).unwrap();
        assert!(replay(OLD.manager, &contents, 10).is_err(), "{what}");
        let sound = sound(&bytes);
        assert_eq!(sound.losses.len(), 1, "{what}: {sound:?}");
        assert!(sound.state.is_doubtful(OWN.epoch), "{what}");
        assert_eq!(sound.has_beginning, begins_whole, "{what}");
        assert_eq!(sound.state.is_doubtful(OLD.epoch), !begins_whole, "{what}");
        assert_eq!(is_pending(&sound, OWN, 1), begins_whole, "{what}");
    }
}

#[track_caller]
fn assert_refused_and_in_doubt(bytes: &[u8], what: &str) {
    assert!(read(bytes).is_err(), "{what}");
    let sound = sound(bytes);
    assert!(!sound.losses.is_empty(), "{what}: {sound:?}");
    assert!(sound.state.is_doubtful(OWN.epoch), "{what}");
    let unknown = sound.state.lookup(OWN.gtrid(99));
    assert!(
        matches!(unknown, Lookup::Open | Lookup::MayBeLost),
        "{what}: {unknown:?}"
    );
}

#[test]
fn what_is_legible_without_a_checksum_is_told_and_not_believed() {
    let mut bytes = segment();
    // The checksum alone.
    bytes[4 * BLOCK] ^= 1;
    let sound = sound(&bytes);
    assert_eq!(sound.losses[0].legible, [OWN.gtrid(3)]);
    assert!(!is_pending(&sound, OWN, 3));
}

#[test]
fn a_segment_that_was_cut_has_lost_its_end_and_a_torn_tail_has_not() {
    let whole = segment();
    let cut = sound(&whole[..4 * BLOCK]);
    let lost: Vec<_> = cut.losses.iter().map(|loss| (loss.from, loss.to)).collect();
    assert_eq!(lost, [(4 * BLOCK as u64, 8 * BLOCK as u64)]);
    assert!(cut.state.is_doubtful(OWN.epoch));
    let mut torn = whole;
    torn[5 * BLOCK + 20..].fill(0);
    let torn = sound(&torn);
    assert_eq!(torn.torn_at, Some(5 * BLOCK as u64));
    assert!(torn.losses.is_empty() && !torn.state.is_doubtful(OWN.epoch));
    assert!(read_sound("segment-000000000007", &[0; 9000], 10).is_err());
}
