//! The fuzz targets without a fuzzer: `fuzz/corpus` as it is, and a few thousand changed copies of
//! it, fresh in each run. `cargo xtask fuzz` goes on where this ends.
//!
//! A failure prints the bytes, and proptest the smallest that fail.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

#[path = "../../fuzz/src/targets.rs"]
mod targets;

const CASES: u32 = 2_000;

/// What is done to the bytes, as a fuzzer would.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Double(Index, u8),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let special = prop::sample::select(vec![0, 1, b'-', b':', b'0', b'\n', 0x7f, 0x80, 0xff]);
    let inserted = prop::collection::vec(prop_oneof![any::<u8>(), special], 1..9);
    prop_oneof![
        4 => (any::<Index>(), 1..=255u8).prop_map(|(at, mask)| Change::Flip(at, mask)),
        2 => (any::<Index>(), inserted).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (any::<Index>(), 1..33u8).prop_map(|(at, len)| Change::Remove(at, len)),
        1 => (any::<Index>(), 1..65u8).prop_map(|(at, len)| Change::Double(at, len)),
        1 => any::<Index>().prop_map(Change::Cut),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index| index.index(bytes.len() + 1);
        let range = |index: &Index, len: u8| at(index)..bytes.len().min(at(index) + len as usize);
        match self {
            Self::Flip(index, mask) if !bytes.is_empty() => {
                let at = index.index(bytes.len());
                bytes[at] ^= mask;
            }
            Self::Flip(..) => {}
            Self::Insert(index, inserted) => {
                let at = at(index);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Self::Remove(index, len) => drop(bytes.drain(range(index, *len))),
            Self::Double(index, len) => {
                let doubled = bytes[range(index, *len)].to_vec();
                let at = at(index);
                bytes.splice(at..at, doubled);
            }
            Self::Cut(index) => bytes.truncate(at(index)),
        }
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let entries = folder.join(target).read_dir().unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

fn drive(name: &str) {
    let found = targets::TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = found.unwrap();
    let corpus = corpus(name);
    assert!(corpus.len() >= 3, "the corpus of {name} is there");
    for (path, bytes) in &corpus {
        println!("{}", path.display());
        target(bytes);
    }
    let seeds: Vec<_> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    let changes = prop::collection::vec(change(), 1..7);
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let bytes = (prop::sample::select(seeds), changes).prop_map(|(mut bytes, changes)| {
        for change in changes {
            change.apply(&mut bytes);
        }
        bytes
    });
    let ran = runner.run(&bytes, |bytes| {
        target(&bytes);
        Ok(())
    });
    ran.unwrap();
}

macro_rules! every_target {
    ($($target:ident),*) => {
        const DRIVEN: &[&str] = &[$(stringify!($target)),*];

        $(#[test]
        fn $target() {
            drive(stringify!($target));
        })*
    };
}

every_target!(config, control, gid, identity, record, segment, xa_row, xid);

#[test]
fn every_fuzz_target_is_driven_here_and_has_a_corpus() {
    let targets = targets::TARGETS.map(|(name, _)| name);
    assert_eq!(DRIVEN, targets);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    assert_eq!(root.read_dir().unwrap().count(), targets.len());
}
