//! The format as bytes in files: a log of version 1 stays readable, and what is written today is
//! what was written then. To fix the bytes of a new version, run these tests once with
//! `UNANIMOUS_WRITE_GOLDEN=1`.

use std::path::PathBuf;
use std::sync::Arc;

use unanimous_core::ports::{
    BranchRecord, DecisionRecord, Evidence, HandRow, Lookup, OpeningState, ServerIdentity,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, ManagerId, Opening};

use super::appender::{begin, prepare};
use super::hand;
use super::home::{Home, Options};
use super::identity::{Birth, FolderId, IDENTITY, Identity};
use super::record::{Id, Record, SOME_TIME, encode, encode_decision};
use super::recover::recover;
use super::segment::{BLOCK, Batch};
use super::sim_disk::SimDisk;
use super::state::{Change, State};
use super::storage::Storage;

const SEGMENT: &str = "segment-000000000007";
const MANAGER: ManagerId = ManagerId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

const fn opening(epoch: u32, nonce: u64) -> Opening {
    Opening {
        manager: MANAGER,
        epoch: Epoch(epoch),
        nonce,
    }
}

const FIRST: Opening = opening(1, 0x1111_2222_3333_4444);
const SECOND: Opening = opening(2, 0x5555_6666_7777_8888);

fn decision(opening: Opening, sequence: u64) -> DecisionRecord {
    let branch = |resource: &str, identity: &str, evidence: &str| BranchRecord {
        resource: resource.parse().unwrap(),
        identity: ServerIdentity::new(identity).unwrap(),
        evidence: Evidence::new(evidence).unwrap(),
    };
    DecisionRecord {
        gtrid: opening.gtrid(sequence),
        branches: vec![
            branch("orders", "7412345678901234567/1/shop", "xid 4711"),
            branch("ledger", "6ccd780c-baba-1026-9564-5b8c656024db", ""),
        ],
    }
}

fn encoded(decision: &DecisionRecord) -> (Id, Box<[u8]>) {
    let id = Id::of(decision.gtrid);
    (
        id,
        encode_decision(id, SOME_TIME, &decision.branches).unwrap(),
    )
}

const HEURISTICS: [(u64, Heuristic); 4] = [
    (40, Heuristic::Commit),
    (41, Heuristic::Rollback),
    (42, Heuristic::Mixed),
    (43, Heuristic::Hazard),
];

/// One in each state, one of them of an opening that is not listed.
fn by_hand() -> [HandRow; 4] {
    let strange = opening(9, 9).gtrid(9);
    let gtrids = [FIRST.gtrid(40), FIRST.gtrid(41), strange, FIRST.gtrid(42)];
    let acts = ["commit", "rollback", "commit", "forget"];
    let proof = "identity pg 1\nevidence xid8=9\n";
    let rows = [('I', ""), ('U', proof), ('D', ""), ('V', "")];
    std::array::from_fn(|at| {
        let (act, by, (state, proof)) = (acts[at], FIRST.gtrid(0), rows[at]);
        HandRow {
            id: u64::MAX - at as u64,
            gtrid: gtrids[at],
            resource: "ledger".parse().unwrap(),
            state,
            words: format!(
                "act {act}\nby {by}\nwho alice@db7\nwhen 1790000000\n\
                 reason \u{9867}\u{5ba2}\n{proof}"
            ),
        }
    })
}

fn golden(name: &str) -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "tests",
        "log-golden",
        "v1",
        name,
    ]
    .iter()
    .collect()
}

#[track_caller]
fn assert_golden(name: &str, written: &[u8]) {
    let path = golden(name);
    if std::env::var_os("UNANIMOUS_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, written).unwrap();
    }
    let fixed = std::fs::read(&path).unwrap();
    let differs = (0..fixed.len().max(written.len())).find(|at| fixed.get(*at) != written.get(*at));
    assert_eq!(
        differs, None,
        "{name}: first byte that is not as it was fixed"
    );
}

fn home(disk: &SimDisk) -> Home {
    Home {
        storage: Arc::new(disk.clone()),
        folder: "golden".into(),
        options: Options::default(),
    }
}

#[test]
fn a_log_is_written_as_it_was_fixed() {
    let mut state = State::new(MANAGER, 10);
    state.open(FIRST);
    let (id, bytes) = encoded(&decision(FIRST, 1));
    state.apply(Change::Decided { id, bytes }, LogSeq(0));
    let completed = Id::of(FIRST.gtrid(2));
    state.apply(Change::Completed { id: completed }, LogSeq(0));
    for (sequence, heuristic) in HEURISTICS {
        let change = Change::Heuristic {
            id: Id::of(FIRST.gtrid(sequence)),
            resource: "ledger".parse().unwrap(),
            heuristic,
            when: SOME_TIME,
        };
        state.apply(change, LogSeq(0));
    }
    for row in by_hand() {
        state.apply(Change::ByHand(Box::new(row)), LogSeq(0));
    }
    state.open(SECOND);
    let disk = SimDisk::new();
    let prepared = prepare(&disk, 5 * BLOCK as u64).unwrap();
    let mut segment = begin(&disk, prepared, SECOND, 7, state.snapshot()).unwrap();

    let mut batch = Batch::new();
    batch.push(|out| encode(&Record::Completed { id }, out));
    for sequence in [1, u64::MAX] {
        let (_, bytes) = encoded(&decision(SECOND, sequence));
        batch.push(|out| out.extend_from_slice(&bytes));
    }
    segment.append(batch).unwrap();
    let mut batch = Batch::new();
    let epoch = SECOND.epoch;
    batch.push(|out| encode(&Record::Closed { epoch }, out));
    segment.append(batch).unwrap();
    assert_golden(SEGMENT, &disk.read(SEGMENT).unwrap());
}

#[test]
fn a_log_of_version_1_is_read() {
    let disk = SimDisk::new();
    let bytes = std::fs::read(golden(SEGMENT)).unwrap();
    disk.create(SEGMENT).unwrap().write_at(0, &bytes).unwrap();
    let recovered = recover(&home(&disk), MANAGER, 7).unwrap();
    assert_eq!(recovered.torn_tail, None);
    let state = recovered.state;
    let closed = |opening| OpeningState {
        opening,
        closed: true,
    };
    assert_eq!(state.openings(), [closed(FIRST), closed(SECOND)]);
    assert_eq!(
        state.pending(),
        [decision(SECOND, 1), decision(SECOND, u64::MAX)]
    );
    for sequence in [1, 2] {
        assert_eq!(state.lookup(FIRST.gtrid(sequence)), Lookup::Completed);
    }
    for (sequence, heuristic) in HEURISTICS {
        let ends = vec![("ledger".parse().unwrap(), heuristic)];
        let beside = Box::new(Lookup::NoRecord);
        let found = state.lookup(FIRST.gtrid(sequence));
        assert_eq!(found, Lookup::Heuristic { ends, beside });
    }
    let ends = state.heuristics();
    assert!(ends.iter().all(|end| end.when == Some(SOME_TIME)));
    let read = by_hand().map(|row| hand::read(&row).unwrap());
    assert_eq!(state.by_hand(), read);
    assert_eq!(state.decided_at(SECOND.gtrid(1)), Some(SOME_TIME));
    assert_eq!(state.lookup(SECOND.gtrid(2)), Lookup::NoRecord);
    assert_eq!(state.lookup(opening(2, 3).gtrid(1)), Lookup::UnknownOpening);
}

#[test]
fn an_identity_is_written_and_read_as_it_was_fixed() {
    let identity = Identity {
        manager: MANAGER,
        folder: FolderId {
            device: 65025,
            inode: 4_194_304,
        },
        birth: Birth::Done,
    };
    assert_golden(IDENTITY, identity.encode().as_bytes());
    let fixed = std::fs::read(golden(IDENTITY)).unwrap();
    assert_eq!(Identity::parse(&fixed), Ok(identity));
}
