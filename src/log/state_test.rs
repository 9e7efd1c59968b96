//! The state, record by record.

use unanimous_core::ports::{
    BranchRecord, DecisionRecord, Evidence, HeuristicEnd, Lookup, ServerIdentity,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening};

use super::record::{Id, SOME_TIME, encode_decision};
use super::state::{Change, Recorded, State};

const OPENING: Opening = Opening {
    manager: ManagerId::from_bytes([9; 10]),
    epoch: Epoch(3),
    nonce: 4,
};

fn open(retain_completed: usize) -> State {
    let mut state = State::new(OPENING.manager, retain_completed);
    state.open(OPENING);
    state
}

fn record(gtrid: Gtrid) -> DecisionRecord {
    let branch = BranchRecord {
        resource: "orders".parse().unwrap(),
        identity: ServerIdentity::new("pg 1").unwrap(),
        evidence: Evidence::default(),
    };
    DecisionRecord {
        gtrid,
        branches: vec![branch],
    }
}

fn decided(gtrid: Gtrid) -> Change {
    let id = Id::of(gtrid);
    let bytes = encode_decision(id, SOME_TIME, &record(gtrid).branches).unwrap();
    Change::Decided { id, bytes }
}

/// The same epoch under other random bits, as in a log that was restored from a backup, and the
/// same opening of another manager.
fn twins(of: Opening) -> [Opening; 2] {
    let nonce = of.nonce + 1;
    let manager = ManagerId::from_bytes([8; 10]);
    [Opening { nonce, ..of }, Opening { manager, ..of }]
}

#[test]
fn as_many_completed_decisions_are_kept_as_was_said() {
    for retained in [0, 1, 3] {
        let mut state = open(retained as usize);
        for sequence in 1..=5 {
            let gtrid = OPENING.gtrid(sequence);
            state.apply(decided(gtrid), LogSeq(sequence));
            assert!(state.complete(gtrid));
        }
        for sequence in 1..=5 {
            let found = state.recorded(OPENING.gtrid(sequence));
            let expected = if sequence > 5 - retained {
                Recorded::Completed(LogSeq(sequence))
            } else {
                Recorded::Not
            };
            assert_eq!(found, expected, "{sequence}, {retained} retained");
        }
    }
}

/// A completion may be in a snapshot and in a batch behind it.
#[test]
fn what_is_completed_twice_takes_one_place_and_keeps_its_position() {
    let mut state = open(2);
    for (sequence, at) in [(1, 10), (2, 20), (2, 30), (1, 40)] {
        let id = Id::of(OPENING.gtrid(sequence));
        state.apply(Change::Completed { id }, LogSeq(at));
    }
    for (sequence, at) in [(1, 10), (2, 20)] {
        let found = state.recorded(OPENING.gtrid(sequence));
        assert_eq!(found, Recorded::Completed(LogSeq(at)));
    }
}

#[test]
fn i5_a_decision_is_found_and_completed_only_under_its_own_opening() {
    for closed in [false, true] {
        let mut state = open(10);
        let own = OPENING.gtrid(1);
        state.apply(decided(own), LogSeq(7));
        let resource = "orders".parse().unwrap();
        let change = Change::Heuristic {
            id: Id::of(OPENING.gtrid(2)),
            resource,
            heuristic: Heuristic::Hazard,
            when: SOME_TIME,
        };
        state.apply(change, LogSeq(8));
        if closed {
            let epoch = OPENING.epoch;
            state.apply(Change::Closed { epoch }, LogSeq(9));
        }
        for twin in twins(OPENING) {
            assert!(!state.is_listed(twin) && !state.is_open(twin), "{twin:?}");
            for sequence in [1, 2] {
                let gtrid = twin.gtrid(sequence);
                assert_eq!(state.recorded(gtrid), Recorded::Not);
                assert_eq!(state.lookup(gtrid), Lookup::UnknownOpening);
                assert!(!state.complete(gtrid));
            }
        }
        assert!(state.is_listed(OPENING));
        assert_eq!(state.is_open(OPENING), !closed);
        assert!(matches!(
            state.recorded(own),
            Recorded::Pending(LogSeq(7), _)
        ));
        assert_eq!(state.lookup(own), Lookup::Pending(record(own)));
        assert!(state.complete(own) && !state.complete(own));
        assert_eq!(state.lookup(own), Lookup::Completed);
        let unknown = if closed {
            Lookup::NoRecord
        } else {
            Lookup::Open
        };
        assert_eq!(state.lookup(OPENING.gtrid(3)), unknown);
    }
}

#[test]
fn closing_an_epoch_closes_no_other() {
    let mut state = open(10);
    let next = state.next_opening(77).unwrap();
    assert_eq!((next.epoch, next.nonce), (Epoch(4), 77));
    state.open(next);
    assert_eq!(state.is_closed(OPENING.epoch), Some(true));
    for (epoch, is_open) in [(OPENING.epoch, true), (next.epoch, false)] {
        state.apply(Change::Closed { epoch }, LogSeq(1));
        assert_eq!(state.is_open(next), is_open);
        assert_eq!(state.is_closed(next.epoch), Some(!is_open));
    }
    assert_eq!(state.is_closed(Epoch(5)), None);
}

#[test]
fn a_heuristic_end_that_comes_again_is_one() {
    let mut state = open(10);
    let gtrid = OPENING.gtrid(1);
    let resource: unanimous_core::xid::ResourceName = "orders".parse().unwrap();
    // That it may have ended otherwise is replaced by how it did, and that by nothing.
    for (heuristic, told) in [
        (Heuristic::Hazard, Heuristic::Hazard),
        (Heuristic::Hazard, Heuristic::Hazard),
        (Heuristic::Rollback, Heuristic::Rollback),
        (Heuristic::Hazard, Heuristic::Rollback),
    ] {
        let change = Change::Heuristic {
            id: Id::of(gtrid),
            resource: resource.clone(),
            heuristic,
            when: SOME_TIME,
        };
        state.apply(change, LogSeq(1));
        let expected = HeuristicEnd {
            gtrid,
            resource: resource.clone(),
            end: told,
            when: Some(SOME_TIME),
        };
        assert_eq!(state.heuristics(), [expected]);
    }
}

#[test]
fn no_epoch_is_used_twice_even_at_the_end_of_all_epochs() {
    let mut state = State::new(OPENING.manager, 1);
    assert_eq!(state.next_opening(1).unwrap().epoch, Epoch(1));
    state.open(Opening {
        epoch: Epoch(u32::MAX),
        ..OPENING
    });
    let error = state.next_opening(1).unwrap_err().to_string();
    assert!(error.contains("no epoch is left"), "{error}");
}

/// What was imported from an incomplete export: a decision that is there counts, and one that is
/// not there may have been lost. Written to the next segment, too.
#[test]
fn i3_of_a_doubtful_epoch_no_record_proves_nothing() {
    let (there, missing) = (OPENING.gtrid(1), OPENING.gtrid(2));
    let mut state = open(10);
    state.apply(decided(there), LogSeq(1));
    let epoch = OPENING.epoch;
    state.apply(Change::Doubtful { epoch }, LogSeq(2));
    state.apply(Change::Closed { epoch }, LogSeq(3));
    let next = state.next_opening(7).unwrap();
    state.open(next);
    assert_eq!(state.lookup(there), Lookup::Pending(record(there)));
    assert_eq!(state.lookup(missing), Lookup::MayBeLost);
    assert!(!state.is_doubtful(next.epoch));
    assert!(state.complete(there));
    assert_eq!(state.lookup(there), Lookup::Completed);
}
