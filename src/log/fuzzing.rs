//! The log's readers for the fuzz targets: whatever the bytes are, they answer, what they read is
//! written back the same, and nothing is read that was not written.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use unanimous_core::ports::{ByHand, DecisionRecord, HeuristicEnd, LogError, OpeningState};
use unanimous_core::xid::{Epoch, ManagerId, Opening};

use super::appender::segment_name;
use super::home::{Home, Options};
use super::identity::{Birth, FolderId, IDENTITY, Identity};
use super::open::open;
use super::record::{Id, Record, decode, decode_decision, encode, encode_decision};
use super::recover::recover;
use super::segment::{BLOCK, Batch, Header};
use super::state::State;
use super::storage::{Storage, StoredFile};

const OPENING: Opening = Opening {
    manager: ManagerId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    epoch: Epoch(2),
    nonce: 0x5555_6666_7777_8888,
};

const FOLDER: FolderId = FolderId {
    device: 1,
    inode: 2,
};

/// As the golden segment has it.
const NUMBER: u64 = 7;

/// Any bytes as records behind each other: each that is read has this one encoding.
pub fn record(bytes: &[u8]) {
    let mut rest = bytes;
    let mut before = rest;
    while let Some(record) = decode(&mut rest) {
        let taken = &before[..before.len() - rest.len()];
        let mut again = Vec::new();
        encode(&record, &mut again);
        assert_eq!(taken, again);
        if let Record::Decided { id, when, .. } = record {
            let (epoch, sequence) = (id.epoch, id.sequence);
            let gtrid = Opening { epoch, ..OPENING }.gtrid(sequence);
            let decision = decode_decision(gtrid, taken).expect("it is a decision");
            assert_eq!(Id::of(decision.gtrid), id);
            let again = encode_decision(id, when, &decision.branches);
            assert_eq!(again.as_deref(), Some(taken));
        }
        before = rest;
    }
}

/// Any text as the file `identity`, and any text with the right checksum behind it.
pub fn identity(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    let checksum = xxhash_rust::xxh3::xxh3_64(bytes);
    sealed.extend_from_slice(format!("checksum {checksum:016x}\n").as_bytes());
    for text in [bytes, &sealed] {
        if let Ok(identity) = Identity::parse(text) {
            assert_eq!(identity.encode().as_bytes(), text);
        }
    }
}

/// A folder with any bytes as its segment; or, by the first byte, with a segment of batches that
/// have any bytes as their records and right checksums; and with one byte of that changed.
pub fn segment(bytes: &[u8]) {
    match bytes.split_first() {
        Some((b'+', rest)) => sealed(rest),
        Some((b'!', rest)) => changed(rest),
        Some(_) | None => drop(whole(bytes)),
    }
}

fn sealed(bytes: &[u8]) {
    drop(whole(&write(&batches(bytes))));
}

/// One byte that changes: what was written, or all but its last batch, or an error. Nothing else.
fn changed(bytes: &[u8]) {
    let Some((change, rest)) = bytes.split_first_chunk::<5>() else {
        return;
    };
    let [change, at @ ..] = *change;
    let batches = batches(rest);
    let original = write(&batches);
    let Ok(said) = whole(&original) else {
        return;
    };
    let mut bytes = original.clone();
    let at = u32::from_le_bytes(at) as usize % bytes.len();
    bytes[at] ^= change;
    if let Ok(found) = whole(&bytes) {
        let cut = whole(&write(&batches[..batches.len() - 1]));
        assert!(found == said || cut.is_ok_and(|cut| found == cut), "{at}");
    }
}

/// A length, a count and as many bytes make a batch; the first lists the opening before anything.
fn batches(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut listed = Vec::new();
    let (epoch, nonce) = (OPENING.epoch, OPENING.nonce);
    encode(&Record::Opened { epoch, nonce }, &mut listed);
    let mut batches = vec![listed];
    let mut rest = bytes;
    while let Some(([len, extends], next)) = rest.split_first_chunk::<2>() {
        let (records, next) = next.split_at(next.len().min(usize::from(*len) * 8));
        match batches.last_mut() {
            Some(last) if extends % 2 == 1 => last.extend_from_slice(records),
            Some(_) | None => batches.push(records.to_vec()),
        }
        rest = next;
    }
    batches
}

/// The segment with these records, as the log would write them.
fn write(batches: &[Vec<u8>]) -> Vec<u8> {
    let sealed: Vec<_> = batches.iter().map(|records| batch(records)).collect();
    let stored: u64 = sealed.iter().map(Batch::stored_bytes).sum();
    let header = Header {
        number: NUMBER,
        opening: OPENING,
        // And a block that is still empty.
        bytes: 2 * BLOCK as u64 + stored,
    };
    let (bytes, mut chain) = header.encode();
    let mut bytes = bytes.to_vec();
    bytes.resize(BLOCK, 0);
    for batch in sealed {
        bytes.extend_from_slice(&batch.seal(&mut chain));
    }
    bytes.resize(bytes.len() + BLOCK, 0);
    bytes
}

/// Counts what can be read, as the log would have; what cannot is one record more.
fn batch(records: &[u8]) -> Batch {
    let mut batch = Batch::new();
    let mut rest = records;
    while !rest.is_empty() {
        let before = rest;
        let is_read = decode(&mut rest).is_some();
        let len = before.len() - if is_read { rest.len() } else { 0 };
        batch.push(|out| out.extend_from_slice(&before[..len]));
        rest = &before[len..];
    }
    batch
}

/// What a log says.
#[derive(Debug, PartialEq)]
struct Said {
    pending: Vec<DecisionRecord>,
    heuristics: Vec<HeuristicEnd>,
    by_hand: Vec<ByHand>,
    openings: Vec<OpeningState>,
}

impl Said {
    fn of(state: &State) -> Self {
        let mut openings = state.openings();
        for opening in &mut openings {
            opening.closed = true;
        }
        Self {
            pending: state.pending(),
            heuristics: state.heuristics(),
            by_hand: state.by_hand(),
            openings,
        }
    }

    fn without_last_opening(mut self) -> Self {
        self.openings.pop();
        self
    }
}

/// The folder with this segment: it is refused by its name, or opened, and then opened again it
/// says the same.
fn whole(segment: &[u8]) -> std::result::Result<Said, LogError> {
    let name = segment_name(NUMBER);
    let home = home(segment);
    let read = recover(&home, OPENING.manager, NUMBER).map(|found| Said::of(&found.state));
    let opened = open(&home, FOLDER);
    let (said, opened) = match (read, opened) {
        (Ok(said), Ok(opened)) => (said, opened),
        (Err(error), Err(_)) => {
            let text = error.to_string();
            assert!(text.contains(&name), "{text}");
            return Err(error);
        }
        // An epoch that cannot rise any more.
        (Ok(_), Err(error)) => {
            assert!(error.to_string().contains("no epoch is left"), "{error}");
            return Err(error);
        }
        (Err(error), Ok(_)) => panic!("{error}, and yet it was opened"),
    };
    assert_eq!(Said::of(&opened.state).without_last_opening(), said);
    let number = opened.appender.number();
    let again = recover(&home, OPENING.manager, number).expect("what was written is read");
    assert_eq!(Said::of(&again.state).without_last_opening(), said);
    Ok(said)
}

fn home(segment: &[u8]) -> Home {
    let identity = Identity {
        manager: OPENING.manager,
        folder: FOLDER,
        birth: Birth::Done,
    };
    let files = [
        (IDENTITY.to_owned(), identity.encode().into_bytes()),
        (segment_name(NUMBER), segment.to_vec()),
    ];
    let files = files.map(|(name, bytes)| (name, Bytes(Arc::new(Mutex::new(bytes)))));
    Home {
        storage: Arc::new(Memory(Mutex::new(files.into()))),
        folder: "fuzzed".into(),
        options: Options {
            segment_bytes_max: 0,
            prepare_ahead: false,
            ..Options::default()
        },
    }
}

/// A folder in memory that never fails.
struct Memory(Mutex<BTreeMap<String, Bytes>>);

#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for Memory {
    fn list(&self) -> Result<Vec<String>> {
        Ok(lock(&self.0).keys().cloned().collect())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let files = lock(&self.0);
        let file = files.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(lock(&file.0).clone())
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>> {
        let file = Bytes::default();
        lock(&self.0).insert(name.to_owned(), file.clone());
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut files = lock(&self.0);
        let file = files.remove(from).ok_or(ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let removed = lock(&self.0).remove(name);
        removed.map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> Result<()> {
        Ok(())
    }
}

impl StoredFile for Bytes {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut file = lock(&self.0);
        let offset = offset as usize;
        let end = file.len().max(offset + bytes.len());
        file.resize(end, 0);
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn has_name(&self, _name: &str) -> bool {
        true
    }
}
