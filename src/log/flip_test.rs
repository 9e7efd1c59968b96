//! Every bit of every file of a log's folder changes, and every byte becomes 0 and 255. (Where
//! nothing is written, one bit of each byte; all of them with `UNANIMOUS_TEST_DISK=full`.)
//!
//! What this proves: whatever single byte changes, the log is refused with an error that names the
//! file and the offset, or what is read is exactly what was written. Nothing is lost, nothing
//! changed, nothing invented, and that holds for the last batch, too. Refused is every change in a
//! header, in a batch and in `identity`; harmless is every change where nothing was written, and in
//! files that are not read.
//!
//! The one exception, of a change that is taken for a torn tail, is in
//! `a_last_sector_of_nothing_but_zeros_cannot_be_told_from_one_that_is_missing`.

use std::sync::Arc;

use unanimous_core::ports::{
    BranchRecord, ByHand, DecisionRecord, Evidence, HeuristicEnd, OpeningState, ServerIdentity,
    UnixTime,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening};

use super::appender::{SEGMENT_TEMP, begin, prepare, segment_name};
use super::hand::tests::by_hand;
use super::home::{Home, Options};
use super::identity::{Birth, FolderId, IDENTITY, Identity};
use super::open::{IDENTITY_TEMP, open};
use super::record::{Id, Record, SOME_TIME, encode, encode_decision};
use super::recover::recover;
use super::segment::{BLOCK, Batch};
use super::sim_disk::{Op, Plan, SimDisk, Survival};
use super::state::{Change, State};
use super::storage::Storage;

const MANAGER: ManagerId = ManagerId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
const FOLDER: FolderId = FolderId {
    device: 1,
    inode: 2,
};
const NUMBER: u64 = 7;
const BATCH_HEADER: usize = 32;

const fn opening(epoch: u32) -> Opening {
    Opening {
        manager: MANAGER,
        epoch: Epoch(epoch),
        nonce: 0x1111_2222_3333_4444 + epoch as u64,
    }
}

fn home(disk: &SimDisk) -> Home {
    Home {
        storage: Arc::new(disk.clone()),
        folder: "sim".into(),
        options: Options {
            segment_bytes_max: 0,
            prepare_ahead: false,
            ..Options::default()
        },
    }
}

fn decision(gtrid: Gtrid, evidence: &str) -> Box<[u8]> {
    let branches = ["orders", "ledger"].map(|resource| BranchRecord {
        resource: resource.parse().unwrap(),
        identity: ServerIdentity::new("7412345678901234567/1/shop").unwrap(),
        evidence: Evidence::new(evidence).unwrap(),
    });
    encode_decision(Id::of(gtrid), SOME_TIME, &branches).unwrap()
}

fn put(disk: &SimDisk, name: &str, bytes: &[u8]) {
    disk.create(name).unwrap().write_at(0, bytes).unwrap();
}

/// A folder with all that a log can leave in it, and where the batches of its newest segment lie:
/// from where to where their sealed bytes go. Records of every kind are in them; the last takes two
/// sectors.
fn folder() -> (SimDisk, Vec<(usize, usize)>) {
    let disk = SimDisk::new();
    let identity = Identity {
        manager: MANAGER,
        folder: FOLDER,
        birth: Birth::Done,
    };
    put(&disk, IDENTITY, identity.encode().as_bytes());
    let mut state = State::new(MANAGER, 10);
    state.open(opening(1));
    let earlier = opening(1).gtrid(1);
    let bytes = decision(earlier, "xid 4711");
    let id = Id::of(earlier);
    state.apply(Change::Decided { id, bytes }, LogSeq(0));
    let begin_segment = |number: u64, state: &State, opening| {
        let prepared = prepare(&disk, 5 * BLOCK as u64).unwrap();
        begin(&disk, prepared, opening, number, state.snapshot()).unwrap()
    };
    begin_segment(NUMBER - 1, &state, opening(1));
    state.open(opening(2));
    let mut segment = begin_segment(NUMBER, &state, opening(2));
    let mut batch = Batch::new();
    batch.push(|out| encode(&Record::Completed { id }, out));
    batch.push(|out| out.extend_from_slice(&decision(opening(2).gtrid(1), "")));
    let heuristic = Record::Heuristic {
        id,
        resource: "ledger",
        heuristic: Heuristic::Rollback,
        when: SOME_TIME,
    };
    batch.push(|out| encode(&heuristic, out));
    let by_hand = Record::ByHand(Box::new(by_hand(opening(2).gtrid(1))));
    batch.push(|out| encode(&by_hand, out));
    let epoch = Epoch(1);
    batch.push(|out| encode(&Record::Closed { epoch }, out));
    segment.append(batch).unwrap();
    let mut batch = Batch::new();
    for sequence in 2..5 {
        let decided = decision(opening(2).gtrid(sequence), "a longer piece of evidence");
        batch.push(|out| out.extend_from_slice(&decided));
    }
    segment.append(batch).unwrap();
    put(&disk, SEGMENT_TEMP, b"the next segment, half made");
    put(&disk, IDENTITY_TEMP, b"unanimous decision log\nformat");
    let disk = disk.after_crash(Survival::Everything);
    let bytes = disk.read(&segment_name(NUMBER)).unwrap();
    (disk, sealed(&bytes))
}

/// Where the batches lie, by the lengths that they claim.
fn sealed(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut sealed = Vec::new();
    let mut at = BLOCK;
    while bytes[at] != 0 {
        let len = u32::from_le_bytes(bytes[at + 24..at + 28].try_into().unwrap());
        let end = at + BATCH_HEADER + len as usize;
        sealed.push((at, end));
        at = end.next_multiple_of(BLOCK);
    }
    sealed
}

#[derive(Debug, PartialEq)]
struct Said {
    pending: Vec<DecisionRecord>,
    heuristics: Vec<HeuristicEnd>,
    by_hand: Vec<ByHand>,
    openings: Vec<OpeningState>,
    completed: bool,
}

fn said(state: &State) -> Said {
    Said {
        pending: state.pending(),
        heuristics: state.heuristics(),
        by_hand: state.by_hand(),
        openings: state.openings(),
        completed: state.recorded(opening(1).gtrid(1)) != super::state::Recorded::Not,
    }
}

/// Each other value of the byte that differs in one bit, and 0 and 255.
fn changes(byte: u8) -> impl Iterator<Item = u8> + Clone {
    let bits = (0..8).map(move |bit| byte ^ 1 << bit);
    bits.chain([0, 255]).filter(move |changed| *changed != byte)
}

/// What the segment says with this change: its offset of a torn tail, or the text of the error.
fn read_changed(disk: &SimDisk, expected: &Said, at: usize, to: u8) -> Result<Option<u64>, String> {
    let name = segment_name(NUMBER);
    let before = disk.change(&name, at, to);
    let read = recover(&home(disk), MANAGER, NUMBER);
    disk.change(&name, at, before);
    match read {
        Ok(found) => {
            assert_eq!(
                said(&found.state),
                *expected,
                "byte {at} was {before}, is {to}"
            );
            Ok(found.torn_tail.map(|torn| torn.offset))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn i3_any_changed_byte_of_a_segment_is_found_or_harmless() {
    let (disk, batches) = folder();
    let name = segment_name(NUMBER);
    let bytes = disk.read(&name).unwrap();
    let original = said(&recover(&home(&disk), MANAGER, NUMBER).unwrap().state);
    assert_eq!((original.pending.len(), batches.len()), (4, 3));
    let (_, end) = *batches.last().unwrap();
    let end = end.next_multiple_of(BLOCK);
    assert!(end < bytes.len(), "a part of it was not written yet");
    let is_full = std::env::var("UNANIMOUS_TEST_DISK").is_ok_and(|asked| asked == "full");
    let mut refused = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let batch = batches.iter().find(|(from, to)| (*from..*to).contains(&at));
        let is_empty = batch.is_none() && at >= 64;
        let count = if is_empty && !is_full { 1 } else { 10 };
        for to in changes(*byte).cycle().skip(at % 9).take(count) {
            let read = read_changed(&disk, &original, at, to);
            let place = format!("byte {at} was {byte}, is {to}: {read:?}");
            match (batch, &read) {
                (Some((from, _)), Err(text)) => {
                    let offset = format!("{name} is damaged at offset {from}:");
                    assert!(text.contains(&offset), "{place}");
                    refused += 1;
                }
                (None, Err(text)) => assert!(at < 64 && text.contains(&name), "{place}"),
                (None, Ok(torn)) if at >= end => assert_eq!(*torn, Some(end as u64), "{place}"),
                (None, Ok(torn)) => assert!(at >= 64 && torn.is_none(), "{place}"),
                (Some(_), Ok(_)) => panic!("{place}: it is believed, or cut off"),
            }
        }
    }
    println!("{refused} changes of batches, each refused");
}

#[test]
fn i3_any_changed_byte_of_the_identity_is_found() {
    let (disk, _) = folder();
    let bytes = disk.read(IDENTITY).unwrap();
    for (at, byte) in bytes.iter().enumerate() {
        for to in changes(*byte) {
            disk.change(IDENTITY, at, to);
            let opened = open(&home(&disk), FOLDER).map(|opened| opened.opening);
            disk.change(IDENTITY, at, *byte);
            let text = opened.unwrap_err().to_string();
            assert!(text.contains("sim/identity"), "byte {at}, {to}: {text}");
        }
    }
}

#[test]
fn what_is_not_read_can_say_anything() {
    let (disk, _) = folder();
    let expected = said(&recover(&home(&disk), MANAGER, NUMBER).unwrap().state);
    let others = [
        segment_name(NUMBER - 1),
        SEGMENT_TEMP.into(),
        IDENTITY_TEMP.into(),
    ];
    for name in others {
        for byte in [0, 255] {
            let changed = disk.after_crash(Survival::Everything);
            for at in 0..disk.read(&name).unwrap().len() {
                changed.change(&name, at, byte);
            }
            changed.set_plan(Plan::well());
            let opened = open(&home(&changed), FOLDER).unwrap();
            assert_eq!(opened.state.pending(), expected.pending);
            assert_eq!(opened.state.heuristics(), expected.heuristics);
            let ops = changed.ops();
            let reads = ops.iter().filter(|op| **op == Op::Read).count();
            assert_eq!(reads, 3, "mark of a move, identity and the newest segment");
        }
    }
}

/// A write may have been cut off between the last two sectors, and a batch may end in the zeros of
/// a number: then the missing sector looks as the whole one does. It takes a batch that ends with
/// one of its last bytes behind a sector's end, and a change in the same batch.
#[test]
fn a_last_sector_of_nothing_but_zeros_cannot_be_told_from_one_that_is_missing() {
    let disk = SimDisk::new();
    let mut state = State::new(MANAGER, 10);
    state.open(opening(2));
    let prepared = prepare(&disk, 4 * BLOCK as u64).unwrap();
    let mut segment = begin(&disk, prepared, opening(2), NUMBER, state.snapshot()).unwrap();
    let mut batch = Batch::new();
    let texts = [[64, 128, 128], [20, 78, 0]];
    let branches = texts.map(|[resource, identity, evidence]| BranchRecord {
        resource: "r".repeat(resource).parse().unwrap(),
        identity: ServerIdentity::new("i".repeat(identity)).unwrap(),
        evidence: Evidence::new("e".repeat(evidence)).unwrap(),
    });
    let id = Id::of(opening(2).gtrid(1));
    let decided = encode_decision(id, UnixTime(0), &branches).unwrap();
    assert_eq!(BATCH_HEADER + decided.len(), 472);
    batch.push(|out| out.extend_from_slice(&decided));
    let other = encode_decision(Id::of(opening(2).gtrid(2)), UnixTime(0), &branches[..0]).unwrap();
    batch.push(|out| out.extend_from_slice(&other));
    let other = encode_decision(Id::of(opening(2).gtrid(3)), UnixTime(0), &branches[..0]).unwrap();
    batch.push(|out| out.extend_from_slice(&other));
    for _ in 0..2 {
        let epoch = Epoch(2);
        batch.push(|out| encode(&Record::Closed { epoch }, out));
    }
    let from = 2 * BLOCK;
    segment.append(batch).unwrap();
    let disk = disk.after_crash(Survival::Everything);
    let name = segment_name(NUMBER);
    let bytes = disk.read(&name).unwrap();
    let (_, end) = sealed(&bytes)[1];
    assert_eq!(end - from, 514);
    disk.change(&name, from + 100, 0);
    let found = recover(&home(&disk), MANAGER, NUMBER).unwrap();
    assert_eq!(found.torn_tail.unwrap().offset, from as u64);
    assert_eq!(found.state.pending(), []);
}
