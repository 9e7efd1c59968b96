//! JSON lines: what is written is read back, and nothing else is.

use proptest::prelude::*;
use unanimous_core::ports::{
    DecisionRow, Evidence, HandRow, NotedEnd, OpeningRow, ServerIdentity, UnixTime,
};
use unanimous_core::xid::{Epoch, Opening};
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::log::encode_branches;

fn opening(epoch: u32, nonce: u64) -> Opening {
    Opening {
        manager: ManagerId::from_bytes([7; 10]),
        epoch: Epoch(epoch),
        nonce,
    }
}

fn row(epoch: u32, server: &str, is_closed: bool) -> OpeningRow {
    OpeningRow {
        opening: opening(epoch, u64::from(epoch) * 77),
        identity: ServerIdentity::new(server).unwrap(),
        label: "web-5c9d:1 \u{e4} \"quoted\"".into(),
        is_closed,
        is_released: epoch == 1,
    }
}

fn decided(gtrid: Gtrid, state: RowState, evidence: &str) -> KeptRow {
    let branch = BranchRecord {
        resource: "orders".parse().unwrap(),
        identity: ServerIdentity::new("pg:7/1").unwrap(),
        evidence: Evidence::new(evidence).unwrap(),
    };
    let branches = encode_branches(&[branch]);
    KeptRow {
        row: DecisionRow { gtrid, branches },
        state,
        decided_at: (state == RowState::Pending).then_some(UnixTime(1_790_000_000)),
    }
}

fn ended(gtrid: Gtrid, resource: &str, end: char, when: Option<u64>) -> NotedEnd {
    NotedEnd {
        gtrid,
        resource: resource.parse().unwrap(),
        end,
        noted_at: when.map(UnixTime),
    }
}

/// Of an opening that is not listed.
fn by_hand(by: Gtrid) -> HandRow {
    HandRow {
        id: 7,
        gtrid: opening(9, 9).gtrid(9),
        resource: "orders".parse().unwrap(),
        state: 'D',
        words: format!("act commit\nby {by}\nwho alice@db7\nwhen 1790000000\nreason 顧客 \"x\"\n"),
    }
}

fn export() -> Export {
    let (first, second) = (opening(1, 77), opening(2, 154));
    Export {
        manager: first.manager,
        from: "folder /srv/log".into(),
        sealed: true,
        image: LogImage {
            openings: vec![row(1, "file", true), row(2, "doubtful", false)],
            rows: vec![
                decided(first.gtrid(1), RowState::Pending, "xid8=7 pid=\\ '\""),
                decided(first.gtrid(2), RowState::Completed, ""),
                decided(second.gtrid(1), RowState::RolledBack, "x"),
            ],
            heuristics: vec![
                ended(first.gtrid(1), "orders", 'm', Some(1_790_000_000)),
                ended(second.gtrid(9), "ledger", 'h', None),
            ],
            by_hand: vec![by_hand(first.gtrid(0))],
        },
        losses: vec![Loss {
            segment: "segment-000000000007".into(),
            from: 4096,
            to: 8192,
            legible: vec![second.gtrid(3)],
        }],
    }
}

fn written(export: &Export) -> Vec<u8> {
    let mut bytes = Vec::new();
    export.write(&mut bytes).unwrap();
    bytes
}

/// The lines with another end that fits them, as somebody would write it who edits by hand.
fn sealed_again(text: &str) -> Vec<u8> {
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("\"end\",\"lines\""))
        .collect();
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let (count, sum) = (lines.len(), xxh3_64(body.as_bytes()));
    format!("{body}{{\"kind\":\"end\",\"lines\":{count},\"checksum\":\"{sum:016x}\"}}\n").into()
}

#[test]
fn what_is_written_is_read_back() {
    let export = export();
    let bytes = written(&export);
    assert_eq!(read(&bytes), Ok(export.clone()));
    assert_eq!(
        sealed_again(&String::from_utf8(bytes).unwrap()),
        written(&export)
    );
}

/// The label is what an older member, or a hand, has put into a table.
#[test]
fn i6_a_label_that_does_not_fit_keeps_no_export_from_being_read() {
    let mut long = export();
    long.image.openings[0].label = format!("a\n{}", "x".repeat(300));
    let read = read(&written(&long)).unwrap();
    assert_eq!(read.image.openings[0].label, format!("a{}", "x".repeat(99)));
    long.image.openings[0].label = read.image.openings[0].label.clone();
    assert_eq!(read, long);
}

#[test]
fn a_file_that_was_cut_or_changed_anywhere_is_not_read() {
    let bytes = written(&export());
    for at in 0..bytes.len() {
        assert!(read(&bytes[..at]).is_err(), "cut at {at}");
        for bit in [1, 0x20, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            assert!(read(&changed).is_err(), "byte {at}, bit {bit}");
        }
    }
    let twice = [&bytes[..], &bytes[..]].concat();
    let said = read(&twice).unwrap_err().to_string();
    assert!(said.contains("there is something behind the end"), "{said}");
}

/// Instead of what, which, and what is said of it.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "\"format\":1",
        "\"format\":2",
        "line 1, field format: it is of version 2",
    ),
    (
        "\"sealed\":true",
        "\"sealed\":1",
        "line 1, field sealed: invalid type",
    ),
    (
        "\"kind\":\"log\"",
        "\"kind\":\"opening\"",
        "line 1: the first line of an export",
    ),
    (
        "\"epoch\":2",
        "\"epoch\":1",
        "line 3, field epoch: it is 0, or was there before",
    ),
    (
        "\"epoch\":2",
        "\"epoch\":-2",
        "line 3, field epoch: invalid value",
    ),
    (
        "\"random\":\"0000",
        "\"random\":\"+000",
        "line 2, field random: write 16 digits",
    ),
    (
        "\"released\":true,",
        "",
        "line 2, field released: it is missing",
    ),
    (
        "\"doubtful\":true",
        "\"doubtful\":false",
        "line 3, field doubtful: it does not agree",
    ),
    (
        "\"pending\"",
        "\"maybe\"",
        "line 4, field state: \"maybe\" is none",
    ),
    (
        "\"orders\",\"server\"",
        "\"o rders\",\"server\"",
        "line 4, field branches: a resource",
    ),
    (
        "\"server\":\"pg:7/1\",",
        "",
        "line 4, field branches: missing field",
    ),
    (
        "\"end\":\"mixed\"",
        "\"end\":\"both\"",
        "line 7, field end: \"both\" is none",
    ),
    (
        "\"kind\":\"loss\"",
        "\"kind\":\"boss\"",
        "line 10, field kind: \"boss\" is none",
    ),
    (
        "\"start\":4096",
        "\"start\":4096,\"more\":1",
        "line 10: it has a field \"more\"",
    ),
    (
        "{\"kind\":\"loss\"",
        "\"kind\":\"loss\"",
        "line 10: it is no JSON object",
    ),
];

#[test]
fn what_is_wrong_names_its_line_and_field() {
    let text = String::from_utf8(written(&export())).unwrap();
    for (from, to, said) in WRONG {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let found = read(&sealed_again(&changed)).unwrap_err().to_string();
        assert!(found.starts_with(*said), "{found}");
    }
    let stranger = text.replacen("\"gtrid\":\"", "\"gtrid\":\"x", 1);
    let found = read(&sealed_again(&stranger)).unwrap_err().to_string();
    assert!(found.starts_with("line 4, field gtrid: "), "{found}");
    let without = text.lines().enumerate().filter(|(at, _)| *at != 1);
    let without: String = without.map(|(_, line)| format!("{line}\n")).collect();
    let found = read(&sealed_again(&without)).unwrap_err().to_string();
    assert_eq!(
        found,
        "line 3, field gtrid: no line before it lists its opening"
    );
}

proptest! {
    /// Whatever is read is one file's bytes and no other's.
    #[test]
    fn whatever_is_read_was_written(
        at in 0..2000usize, with in "[ -~\u{e4}\n]{0,12}", len in 0..12usize,
    ) {
        let text = String::from_utf8(written(&export())).unwrap();
        let chars: Vec<char> = text.chars().collect();
        let at = at.min(chars.len());
        let end = (at + len).min(chars.len());
        let changed = chars[..at].iter().copied().chain(with.chars());
        let changed: String = changed.chain(chars[end..].iter().copied()).collect();
        for bytes in [changed.clone().into_bytes(), sealed_again(&changed)] {
            if let Ok(found) = read(&bytes) {
                let again = written(&found);
                prop_assert_eq!(read(&again), Ok(found));
            }
        }
    }
}
