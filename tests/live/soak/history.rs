//! What an application was told, in a file that survives it: one line for each thing, written
//! before or after it happened and never changed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use unanimous::{Gtrid, TransactionOutcome};

/// What an application was told of a transaction's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Committed,
    RolledBack,
    Heuristic,
    /// The answer was that nobody can say yet, or the future was dropped.
    Unknown,
}

/// The file, as an application writes it. Appending a line of this length is one system call,
/// which a SIGKILL does not divide.
pub(super) struct Writer(File);

impl Writer {
    pub(super) fn at(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        Self(options.create(true).append(true).open(path).unwrap())
    }

    /// Before anything else: which list, and which databases are written to.
    pub(super) fn begun(&self, id: u64, gtrid: Gtrid, list: u32, servers: &[usize]) {
        let mask: u32 = servers.iter().map(|server| 1 << server).sum();
        self.line(&format!("begun {id} {gtrid} {list} {mask}"));
    }

    pub(super) fn ended(&self, id: u64, claim: Claim) {
        self.line(&format!("ended {id} {claim:?}"));
    }

    /// The answer to `outcome`.
    pub(super) fn outcome(&self, id: u64, outcome: Option<&TransactionOutcome>) {
        let word = match outcome {
            Some(TransactionOutcome::Committed) => "Committed",
            Some(TransactionOutcome::RolledBack) => "RolledBack",
            Some(TransactionOutcome::Unknown) => "Unknown",
            Some(TransactionOutcome::Heuristic(_)) => "Heuristic",
            Some(_) | None => "Stuck",
        };
        self.line(&format!("outcome {id} {word}"));
    }

    /// What a transaction saw of its list before its own entry: how many bytes, and their digest.
    pub(super) fn seen(&self, id: u64, server: usize, length: usize, digest: u64) {
        self.line(&format!("seen {id} {server} {length} {digest}"));
    }

    fn line(&self, line: &str) {
        (&self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// A list as a transaction saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) server: usize,
    /// Bytes.
    pub(super) length: usize,
    pub(super) digest: u64,
}

/// One transaction, as its application knows it.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) gtrid: String,
    pub(super) list: u32,
    mask: u32,
    /// None: the application was killed before it was told.
    pub(super) claim: Option<Claim>,
    pub(super) outcome: Option<String>,
    pub(super) seen: Vec<Seen>,
}

impl Told {
    /// The databases that it writes to.
    pub(super) fn servers(&self) -> impl Iterator<Item = usize> {
        (0..u32::BITS as usize).filter(|server| self.mask & (1 << server) != 0)
    }
}

#[cfg(test)]
impl Told {
    /// A transaction on two databases.
    pub(super) fn of_both(claim: Option<Claim>, outcome: Option<&str>) -> Self {
        Self {
            gtrid: String::new(),
            list: 0,
            mask: 0b11,
            claim,
            outcome: outcome.map(str::to_owned),
            seen: Vec::new(),
        }
    }
}

pub(super) type Transactions = BTreeMap<u64, Told>;

/// Reads what has been written since the last time.
pub(super) struct Reader {
    file: File,
    at: u64,
}

impl Reader {
    pub(super) fn at(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        // It may not be there yet.
        let file = options.read(true).append(true).create(true).open(path);
        Self {
            file: file.unwrap(),
            at: 0,
        }
    }

    /// Adds to the transactions.
    pub(super) fn read_into(&mut self, transactions: &mut Transactions) {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(self.at)).unwrap();
        self.file.read_to_string(&mut text).unwrap();
        self.at += text.len() as u64;
        for line in text.lines() {
            take(transactions, line);
        }
    }
}

fn take(transactions: &mut Transactions, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |text: &str| text.parse::<u64>().unwrap();
    let id = number(words[1]);
    if words[0] == "begun" {
        let told = Told {
            gtrid: words[2].to_owned(),
            list: words[3].parse().unwrap(),
            mask: words[4].parse().unwrap(),
            claim: None,
            outcome: None,
            seen: Vec::new(),
        };
        assert!(
            transactions.insert(id, told).is_none(),
            "{id} is used twice"
        );
        return;
    }
    let told = transactions.get_mut(&id).expect("it has begun");
    match words[0] {
        "ended" => told.claim = Some(claim_of(words[2])),
        "outcome" => told.outcome = Some(words[2].to_owned()),
        "seen" => told.seen.push(Seen {
            server: words[2].parse().unwrap(),
            length: words[3].parse().unwrap(),
            digest: number(words[4]),
        }),
        other => panic!("no history has the word {other}"),
    }
}

fn claim_of(word: &str) -> Claim {
    let all = [
        Claim::Committed,
        Claim::RolledBack,
        Claim::Heuristic,
        Claim::Unknown,
    ];
    let found = all.into_iter().find(|claim| format!("{claim:?}") == word);
    found.expect("a name printed by Debug")
}

#[test]
fn what_was_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let gtrid: Gtrid = "0123456789abcdef-1-0123456789abc-4".parse().unwrap();
    let (writer, mut reader) = (Writer::at(&path), Reader::at(&path));
    let mut transactions = Transactions::new();
    writer.begun(7, gtrid, 3, &[0, 2]);
    reader.read_into(&mut transactions);
    assert_eq!(transactions[&7].claim, None);
    writer.seen(7, 2, 14, 99);
    writer.ended(7, Claim::Unknown);
    writer.outcome(7, Some(&TransactionOutcome::RolledBack));
    reader.read_into(&mut transactions);
    let told = &transactions[&7];
    assert_eq!(told.servers().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(told.claim, Some(Claim::Unknown));
    assert_eq!(told.outcome.as_deref(), Some("RolledBack"));
    assert_eq!(
        (told.gtrid.as_str(), told.seen[0].digest),
        (gtrid.to_string().as_str(), 99)
    );
}
