//! Records by hand as rows: every one is read back, and nothing else is taken for one.

use super::*;
use unanimous_core::xid::{Epoch, ManagerId, Opening};

const OPENING: Opening = Opening {
    manager: ManagerId::from_bytes([1; 10]),
    epoch: Epoch(3),
    nonce: u64::MAX,
};

/// A record of somebody's, for the tests of what keeps it.
pub(in crate::log) fn by_hand(gtrid: Gtrid) -> HandRow {
    let act = HandAct::End(Decision::Rollback);
    let by_hand = record(act, HandState::Intended, true);
    row_of(&ByHand { gtrid, ..by_hand })
}

fn record(act: HandAct, state: HandState, has_proof: bool) -> ByHand {
    let proof = has_proof.then(|| {
        (
            ServerIdentity::new("pg:1:2:3").unwrap(),
            Evidence::new("xid8=9").unwrap(),
        )
    });
    ByHand {
        id: u64::MAX,
        gtrid: OPENING.gtrid(7),
        resource: "orders".parse().unwrap(),
        act,
        by: OPENING,
        who: Remark::new("alice@db7").unwrap(),
        when: UnixTime(u64::MAX),
        reason: Remark::new("reason when who; 顧客").unwrap(),
        proof,
        state,
    }
}

fn all() -> Vec<ByHand> {
    let mut all = Vec::new();
    for act in [
        HandAct::End(Decision::Commit),
        HandAct::End(Decision::Rollback),
        HandAct::Forget,
    ] {
        for state in [
            HandState::Intended,
            HandState::Unproven,
            HandState::Done,
            HandState::Void,
        ] {
            all.extend([record(act, state, false), record(act, state, true)]);
        }
    }
    all
}

#[test]
fn what_is_written_is_read_back() {
    for by_hand in all() {
        assert_eq!(read(&row_of(&by_hand)), Some(by_hand));
    }
}

#[test]
fn a_row_that_is_cut_or_changed_is_not_taken_for_the_same() {
    let original = record(HandAct::End(Decision::Commit), HandState::Done, true);
    let row = row_of(&original);
    for (at, _) in row.words.char_indices() {
        let words = row.words[..at].to_owned();
        let cut = HandRow {
            words,
            ..row.clone()
        };
        assert_ne!(read(&cut), Some(original.clone()), "cut at {at}");
        let mut words = row.words.clone();
        words.insert(at, '0');
        let longer = HandRow {
            words,
            ..row.clone()
        };
        assert_ne!(read(&longer), Some(original.clone()), "longer at {at}");
    }
    for state in ['i', 'X', ' '] {
        let odd = HandRow {
            state,
            ..row.clone()
        };
        assert_eq!(read(&odd), None);
    }
}

#[test]
fn what_has_ended_stays_as_it_is() {
    for (before, after, stays) in [
        ('I', 'D', 'D'),
        ('I', 'V', 'V'),
        ('I', 'U', 'U'),
        ('U', 'D', 'D'),
        ('D', 'V', 'D'),
        ('D', 'I', 'D'),
        ('V', 'D', 'V'),
    ] {
        let mut row = row_of(&all()[0]);
        row.state = before;
        advance(&mut row, after);
        assert_eq!(row.state, stays, "{before} {after}");
    }
}
