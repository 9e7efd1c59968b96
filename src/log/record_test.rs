//! Records as bytes: every one is read back, and nothing else is taken for one.

use super::super::hand::tests::by_hand;
use super::*;
use proptest::prelude::*;

const HEURISTICS: [Heuristic; 4] = [
    Heuristic::Commit,
    Heuristic::Rollback,
    Heuristic::Mixed,
    Heuristic::Hazard,
];

fn id() -> impl Strategy<Value = Id> {
    (any::<u32>(), any::<u64>()).prop_map(|(epoch, sequence)| Id {
        epoch: Epoch(epoch),
        sequence,
    })
}

fn branches() -> impl Strategy<Value = Vec<BranchRecord>> {
    let branch = (
        "[A-Za-z][A-Za-z0-9_-]{0,63}",
        "[ -~]{0,128}",
        "[ -~]{0,128}",
    )
        .prop_map(|(resource, identity, evidence)| BranchRecord {
            resource: resource.parse().unwrap(),
            identity: ServerIdentity::new(identity).unwrap(),
            evidence: Evidence::new(evidence).unwrap(),
        });
    prop::collection::vec(branch, 0..5)
}

proptest! {
    #[test]
    fn every_decision_is_read_back(
        id in id(), branches in branches(), nonce: u64, when: u64, later: u64,
    ) {
        let bytes = encode_decision(id, UnixTime(when), &branches).unwrap();
        prop_assert_eq!(decided_at(&bytes), Some(UnixTime(when)));
        let again = encode_decision(id, UnixTime(later), &branches).unwrap();
        prop_assert!(is_same_decision(&bytes, &again));
        let other = Id { sequence: !id.sequence, ..id };
        let other = encode_decision(other, UnixTime(when), &branches).unwrap();
        prop_assert!(!is_same_decision(&bytes, &other));
        let manager = unanimous_core::xid::ManagerId::from_bytes([7; 10]);
        let opening = unanimous_core::xid::Opening { manager, epoch: id.epoch, nonce };
        let gtrid = opening.gtrid(id.sequence);
        let decision = DecisionRecord { gtrid, branches };
        prop_assert_eq!(decode_decision(gtrid, &bytes), Some(decision));
    }

    #[test]
    fn every_other_record_is_read_back(
        id in id(), nonce: u64, resource in "[A-Za-z][A-Za-z0-9_-]{0,63}", kind in 0..4usize,
        when: u64,
    ) {
        let manager = unanimous_core::xid::ManagerId::from_bytes([7; 10]);
        let opening = unanimous_core::xid::Opening { manager, epoch: id.epoch, nonce };
        let mut row = by_hand(opening.gtrid(id.sequence));
        (row.id, row.resource) = (when, resource.parse().unwrap());
        let records = [
            Record::Opened { epoch: id.epoch, nonce },
            Record::Closed { epoch: id.epoch },
            Record::Completed { id },
            Record::Heuristic {
                id, resource: &resource, heuristic: HEURISTICS[kind], when: UnixTime(when),
            },
            Record::ByHand(Box::new(row.clone())),
            Record::Doubtful { epoch: id.epoch },
        ];
        let mut bytes = Vec::new();
        for record in &records {
            encode(record, &mut bytes);
        }
        let mut rest = bytes.as_slice();
        for record in records {
            prop_assert_eq!(decode(&mut rest), Some(record));
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn whatever_is_decoded_has_one_encoding(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut rest = bytes.as_slice();
        if let Some(record) = decode(&mut rest) {
            let mut again = Vec::new();
            encode(&record, &mut again);
            prop_assert_eq!(&bytes[..bytes.len() - rest.len()], again.as_slice());
        }
    }

    #[test]
    fn a_shortened_or_changed_record_is_never_taken_for_the_same(
        id in id(), branches in branches(), at: prop::sample::Index, change in 1..=255u8,
    ) {
        let bytes = encode_decision(id, SOME_TIME, &branches).unwrap();
        let original = decode(&mut &*bytes);
        let at = at.index(bytes.len());
        prop_assert_eq!(decode(&mut &bytes[..at]), None);
        let mut changed = bytes.clone();
        changed[at] ^= change;
        prop_assert_ne!(decode(&mut &*changed), original);
    }
}

#[test]
fn a_resource_name_that_is_none_is_not_decoded() {
    let id = Id {
        epoch: Epoch(1),
        sequence: 1,
    };
    for name in ["", "1a", "a b"] {
        let mut bytes = vec![HEURISTIC];
        put_id(id, &mut bytes);
        put_text(name, &mut bytes);
        bytes.push(1);
        put_number(SOME_TIME.0, &mut bytes);
        assert_eq!(decode(&mut bytes.as_slice()), None, "{name:?}");
    }
}

#[test]
fn more_branches_than_a_record_can_name_are_refused() {
    let branch = BranchRecord {
        resource: "a".parse().unwrap(),
        identity: ServerIdentity::new("").unwrap(),
        evidence: Evidence::default(),
    };
    let id = Id {
        epoch: Epoch(1),
        sequence: 1,
    };
    let most = vec![branch.clone(); BRANCHES_MAX];
    assert!(encode_decision(id, SOME_TIME, &most).is_some());
    assert!(encode_decision(id, SOME_TIME, &vec![branch; BRANCHES_MAX + 1]).is_none());
}

const ID: Id = Id {
    epoch: Epoch(3),
    sequence: 4,
};

fn branch(resource: &str, identity: &str, evidence: &str) -> BranchRecord {
    BranchRecord {
        resource: resource.parse().unwrap(),
        identity: ServerIdentity::new(identity).unwrap(),
        evidence: Evidence::new(evidence).unwrap(),
    }
}

/// A decision of one branch with these texts, whatever they are.
fn raw_decision(texts: [&[u8]; 3]) -> Vec<u8> {
    let mut bytes = vec![DECIDED];
    put_id(ID, &mut bytes);
    put_number(SOME_TIME.0, &mut bytes);
    bytes.extend_from_slice(&1u16.to_le_bytes());
    for text in texts {
        bytes.push(text.len() as u8);
        bytes.extend_from_slice(text);
    }
    bytes
}

#[test]
fn a_text_that_is_too_long_or_not_printable_is_not_decoded() {
    fn is_decoded(texts: [&[u8]; 3]) -> bool {
        decode(&mut raw_decision(texts).as_slice()).is_some()
    }
    let (name, text) = (&[b'a'; 64], &[b'~'; 128]);
    assert!(is_decoded([name, text, text]));
    let (name_too_long, text_too_long) = (&[b'a'; 65], &[b'~'; 129]);
    assert!(!is_decoded([name_too_long, text, text]));
    assert!(!is_decoded([name, text_too_long, text]));
    assert!(!is_decoded([name, text, text_too_long]));
    for byte in [0, 0x1f, 0x7f, 0x80, 0xff] {
        assert!(!is_decoded([&[b'a', byte], b"", b""]), "{byte}");
        assert!(!is_decoded([b"a", &[byte], b""]), "{byte}");
        assert!(!is_decoded([b"a", b"", &[byte]]), "{byte}");
    }
}

#[test]
fn a_decision_is_only_that_of_its_transaction_and_nothing_may_follow_it() {
    let branches = vec![branch("Orders_2-eu", "pg 1", "xid 4711")];
    let bytes = encode_decision(ID, SOME_TIME, &branches).unwrap();
    let opening = unanimous_core::xid::Opening {
        manager: unanimous_core::xid::ManagerId::from_bytes([7; 10]),
        epoch: ID.epoch,
        nonce: 5,
    };
    let gtrid = opening.gtrid(ID.sequence);
    let decision = DecisionRecord { gtrid, branches };
    assert_eq!(decode_decision(gtrid, &bytes), Some(decision));

    let mut other_epoch = opening;
    other_epoch.epoch.0 += 1;
    for other in [opening.gtrid(5), other_epoch.gtrid(ID.sequence)] {
        assert_eq!(decode_decision(other, &bytes), None, "{other}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(decode_decision(gtrid, &longer), None);
    assert_eq!(decode_decision(gtrid, &bytes[..bytes.len() - 1]), None);
}

#[test]
fn what_is_checked_before_it_is_written_is_the_whole_decision() {
    let branches = [branch("orders", "pg 1", ""), branch("ledger", "my 2", "")];
    let is = |bytes: &[u8]| {
        let branches = branches.iter().map(BranchText::of);
        is_decision(bytes, ID, SOME_TIME, branches)
    };
    let bytes = encode_decision(ID, SOME_TIME, &branches).unwrap();
    assert!(is(&bytes));
    for at in 0..bytes.len() {
        assert!(!is(&bytes[..at]), "cut at {at}");
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(!is(&changed), "byte {at}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(!is(&longer));
}

/// Zeros in a row are what a write leaves that has not arrived.
#[test]
fn a_number_has_one_encoding_and_no_zeros_in_a_row() {
    for number in [0, 1, 255, 256, 1 << 56, u64::MAX, SOME_TIME.0] {
        let mut bytes = Vec::new();
        put_number(number, &mut bytes);
        assert_eq!(bytes.len(), number_bytes(number));
        assert_eq!(take_number(&mut bytes.as_slice()), Some(number));
        let mut longer = bytes.clone();
        longer[0] += 1;
        longer.push(0);
        assert_eq!(take_number(&mut longer.as_slice()), None, "{number}");
    }
    assert_eq!(take_number(&mut [9; 10].as_slice()), None);
}
