//! What a segment file is believed, and what is refused.

use std::sync::Arc;

use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Epoch, ManagerId, Opening};

use super::appender::{Appender, begin, position, prepare, segment_name};
use super::hand::tests::by_hand;
use super::home::{Home, Options};
use super::record::{Id, Record, SOME_TIME, encode, encode_decision};
use super::recover::{Recovered, manager_of, recover, segment_numbers};
use super::segment::{BLOCK, Batch};
use super::sim_disk::SimDisk;
use super::state::{Recorded, State};
use super::storage::Storage;

const MANAGER: ManagerId = ManagerId::from_bytes([9; 10]);
const OPENING: Opening = opening(3);

const fn opening(epoch: u32) -> Opening {
    Opening {
        manager: MANAGER,
        epoch: Epoch(epoch),
        nonce: 4,
    }
}

pub(super) fn home(storage: impl Storage) -> Home {
    Home {
        storage: Arc::new(storage),
        folder: "sim".into(),
        options: Options::default(),
    }
}

/// A segment of eight blocks that begins with the state of a log just opened.
fn segment_of(disk: &SimDisk, opening: Opening, number: u64) -> Appender {
    let mut state = State::new(opening.manager, 10);
    state.open(opening);
    let prepared = prepare(disk, 8 * BLOCK as u64).unwrap();
    begin(disk, prepared, opening, number, state.snapshot()).unwrap()
}

fn batch(records: &[Record<'_>]) -> Batch {
    let mut batch = Batch::new();
    for record in records {
        batch.push(|out| encode(record, out));
    }
    batch
}

fn decided(sequence: u64) -> Record<'static> {
    let epoch = OPENING.epoch;
    let id = Id { epoch, sequence };
    let branches = Vec::new();
    let when = SOME_TIME;
    Record::Decided { id, when, branches }
}

fn refused(recovered: Result<Recovered, unanimous_core::ports::LogError>) -> String {
    recovered.unwrap_err().to_string()
}

#[test]
fn a_record_that_is_read_again_has_the_position_that_was_answered() {
    let disk = SimDisk::new();
    let mut segment = segment_of(&disk, OPENING, 7);
    let mut answered = Vec::new();
    for sequences in [1..3, 3..4, 4..8] {
        let records: Vec<_> = sequences.clone().map(decided).collect();
        let first = segment.append(batch(&records)).unwrap();
        answered.extend(sequences.zip(first.0..));
    }
    let recovered = recover(&home(disk), MANAGER, 7).unwrap();
    assert_eq!(recovered.number, 7);
    assert_eq!(answered[0], (1, position(7, 1).0), "the opening is before");
    for (sequence, at) in answered {
        let gtrid = OPENING.gtrid(sequence);
        let bytes = encode_decision(Id::of(gtrid), SOME_TIME, &[]).unwrap();
        let at = unanimous_core::protocol::LogSeq(at);
        let found = recovered.state.recorded(gtrid);
        assert_eq!(found, Recorded::Pending(at, &bytes), "{sequence}");
    }
}

#[test]
fn a_segment_under_another_number_or_of_another_manager_is_refused() {
    let disk = SimDisk::new();
    drop(segment_of(&disk, OPENING, 7));
    disk.rename(&segment_name(7), &segment_name(8)).unwrap();
    let other = ManagerId::from_bytes([8; 10]);
    let other_opening = Opening {
        manager: other,
        ..OPENING
    };
    drop(segment_of(&disk, other_opening, 9));
    let home = home(disk);
    for (number, is, of) in [(8, 7, MANAGER), (9, 9, other)] {
        let text = refused(recover(&home, MANAGER, number));
        let said = format!("is segment {is} of manager {of}, in the log of manager {MANAGER}");
        assert!(text.contains(&said), "{text}");
    }
    assert_eq!(manager_of(&home, 9).unwrap(), other);
    assert_eq!(segment_numbers(&home).unwrap(), [8, 9]);
}

#[test]
fn the_numbers_of_segments_rise_however_many_digits_they_have() {
    let disk = SimDisk::new();
    for number in [1_000_000_000_000, 999_999_999_999, 2] {
        drop(disk.create(&segment_name(number)).unwrap());
    }
    drop(disk.create("segment-3").unwrap());
    let numbers = segment_numbers(&home(disk)).unwrap();
    assert_eq!(numbers, [2, 999_999_999_999, 1_000_000_000_000]);
}

/// The checksum is right, so a program wrote it; but not this one.
#[test]
fn i3_a_batch_that_this_program_does_not_write_is_damage() {
    let unlisted = Id {
        epoch: Epoch(2),
        sequence: 1,
    };
    let (epoch, id) = (OPENING.epoch, Id::of(OPENING.gtrid(1)));
    let strange: [(&str, Batch); 7] = [
        ("closed", batch(&[Record::Closed { epoch: Epoch(2) }])),
        ("completed", batch(&[Record::Completed { id: unlisted }])),
        (
            "decided",
            batch(&[Record::Decided {
                id: unlisted,
                when: SOME_TIME,
                branches: vec![],
            }]),
        ),
        (
            "heuristic",
            batch(&[Record::Heuristic {
                id: unlisted,
                resource: "orders",
                heuristic: Heuristic::Mixed,
                when: SOME_TIME,
            }]),
        ),
        ("no record", {
            let mut batch = batch(&[Record::Closed { epoch }]);
            batch.push(|out| out.push(0));
            batch
        }),
        ("more records than said", {
            let mut batch = Batch::new();
            batch.push(|out| {
                encode(&Record::Completed { id }, out);
                encode(&Record::Completed { id }, out);
            });
            batch
        }),
        ("fewer records than said", {
            let mut batch = batch(&[Record::Completed { id }]);
            batch.push(|_| {});
            batch
        }),
    ];
    for (what, strange) in strange {
        let disk = SimDisk::new();
        let mut segment = segment_of(&disk, OPENING, 7);
        segment.append(batch(&[decided(1)])).unwrap();
        segment.append(strange).unwrap();
        let text = refused(recover(&home(disk), MANAGER, 7));
        assert!(text.contains("damaged at offset 12288"), "{what}: {text}");
    }
}

#[test]
fn a_segment_that_does_not_list_its_own_opening_is_damage() {
    let disk = SimDisk::new();
    let mut state = State::new(MANAGER, 10);
    state.open(opening(2));
    let prepared = prepare(&disk, 8 * BLOCK as u64).unwrap();
    drop(begin(&disk, prepared, OPENING, 7, state.snapshot()).unwrap());
    let text = refused(recover(&home(disk), MANAGER, 7));
    assert!(text.contains("damaged at offset 0"), "{text}");
}

#[test]
fn everything_that_a_state_says_is_read_back_from_its_snapshot() {
    let disk = SimDisk::new();
    let mut segment = segment_of(&disk, OPENING, 7);
    let heuristic = |sequence, resource, heuristic| Record::Heuristic {
        id: Id::of(OPENING.gtrid(sequence)),
        resource,
        heuristic,
        when: SOME_TIME,
    };
    let completed = |sequence| Record::Completed {
        id: Id::of(OPENING.gtrid(sequence)),
    };
    let records = [
        decided(1),
        decided(2),
        completed(2),
        completed(3),
        heuristic(4, "orders", Heuristic::Hazard),
        heuristic(4, "ledger", Heuristic::Rollback),
        Record::ByHand(Box::new(by_hand(OPENING.gtrid(4)))),
    ];
    segment.append(batch(&records)).unwrap();
    let home = home(disk.clone());
    let mut state = recover(&home, MANAGER, 7).unwrap().state;
    let next = state.next_opening(5).unwrap();
    state.open(next);
    let prepared = prepare(&disk, 8 * BLOCK as u64).unwrap();
    drop(begin(&disk, prepared, next, 8, state.snapshot()).unwrap());
    let again = recover(&home, MANAGER, 8).unwrap().state;
    assert_eq!(again.openings(), state.openings());
    assert_eq!(again.pending(), state.pending());
    assert_eq!(again.pending().len(), 1);
    assert_eq!(again.heuristics(), state.heuristics());
    assert_eq!(again.heuristics().len(), 2);
    assert_eq!(again.by_hand(), state.by_hand());
    assert_eq!(again.by_hand().len(), 1);
    let dated = OPENING.gtrid(1);
    assert_eq!(again.decided_at(dated), Some(SOME_TIME));
    for sequence in 1..=5 {
        let gtrid = OPENING.gtrid(sequence);
        assert_eq!(again.lookup(gtrid), state.lookup(gtrid), "{sequence}");
    }
}
