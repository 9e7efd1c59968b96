//! A simulated disk for the crash and fault tests: keeps live and durable bytes apart.
//!
//! Meaner than a real one. What was written and not synced survives a crash sector by sector as
//! luck will have it, in any order; so do names, until the folder is synced. A sync that fails
//! leaves the page cache as it is and never tries these bytes again, so that a later sync answers
//! `Ok` without them (seen on Linux); or they had reached the disk after all.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use super::storage::{Storage, StoredFile};

const SECTOR: usize = 512;

/// A small generator of luck: the tests print the seed, and the same seed gives the same run.
#[derive(Debug, Clone)]
pub(super) struct Luck(pub(super) u64);

impl Luck {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What of the unsynced survives a crash.
#[derive(Debug, Clone, Copy)]
pub(super) enum Survival {
    Nothing,
    Everything,
    /// Of each unsynced write, only that many sectors at its front.
    Front(usize),
    /// Of each unsynced write, all but that many sectors at its front.
    Back(usize),
    /// Each sector and each change of a name by luck.
    Luck(u64),
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does nothing. A sync leaves the bytes in the page cache, and no later one writes them.
    Nothing,
    /// It has the effect that it denies.
    TookEffect,
    /// A write ends after that many sectors, for want of room; everything else does nothing.
    Short(usize),
    /// A sync throws the page cache away: from then on one reads what is durable, and that is not
    /// what was written. Everything else does nothing.
    Dropped,
}

/// What goes wrong, and when. Operations are counted from 0.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    faults: Vec<(Range<u64>, Fault)>,
    crash_at: u64,
}

impl Plan {
    pub(super) const fn well() -> Self {
        Self {
            faults: Vec::new(),
            crash_at: u64::MAX,
        }
    }

    /// This operation is begun, and nothing works any more.
    pub(super) const fn crash(at: u64) -> Self {
        let faults = Vec::new();
        Self {
            faults,
            crash_at: at,
        }
    }

    /// That many operations from this one on fail.
    pub(super) fn fail(at: u64, count: u64, fault: Fault) -> Self {
        Self::well().then_fail(at, count, fault)
    }

    /// And later others.
    pub(super) fn then_fail(mut self, at: u64, count: u64, fault: Fault) -> Self {
        self.faults.push((at..at + count, fault));
        self
    }

    /// And later it crashes.
    pub(super) fn then_crash(self, at: u64) -> Self {
        Self {
            crash_at: at,
            ..self
        }
    }
}

/// What was asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    List,
    Read,
    Create,
    Write,
    Sync,
    SyncData,
    Rename,
    Remove,
    SyncFolder,
}

#[derive(Debug, Clone)]
pub(super) struct SimDisk(Arc<Mutex<Disk>>);

#[derive(Debug, Clone)]
struct Disk {
    files: Vec<Bytes>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Each is one change that happens as a whole: names and what they lead to then.
    unsynced_names: Vec<Vec<(String, Option<usize>)>>,
    ops: Vec<Op>,
    plan: Plan,
    bytes_max: usize,
}

#[derive(Debug, Clone, Default)]
struct Bytes {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// How an operation goes.
enum Going {
    Well,
    Fails(Fault),
    Crashed { begun: bool },
}

impl SimDisk {
    pub(super) fn new() -> Self {
        Self::of(Disk {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            ops: Vec::new(),
            plan: Plan::well(),
            bytes_max: usize::MAX,
        })
    }

    fn of(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// Changes a byte behind everybody's back, in what is read and in what is durable. Answers the
    /// byte that was there.
    pub(super) fn change(&self, name: &str, at: usize, byte: u8) -> u8 {
        let mut disk = self.lock();
        let file = disk.names[name];
        let file = &mut disk.files[file];
        file.durable[at] = byte;
        std::mem::replace(&mut file.live[at], byte)
    }

    /// Puts another file in the place of this one behind everybody's back, or removes it.
    pub(super) fn replace(&self, name: &str, by: Option<Vec<u8>>) {
        let mut disk = self.lock();
        let file = by.map(|bytes| {
            let (live, durable) = (bytes.clone(), bytes);
            let unsynced = Vec::new();
            disk.files.push(Bytes {
                live,
                durable,
                unsynced,
            });
            disk.files.len() - 1
        });
        let change = vec![(name.into(), file)];
        apply_names(&mut disk.names, change.clone());
        apply_names(&mut disk.durable_names, change);
    }

    /// From now on, operations being counted anew.
    pub(super) fn set_plan(&self, plan: Plan) {
        let mut disk = self.lock();
        disk.plan = plan;
        disk.ops.clear();
    }

    pub(super) fn set_bytes_max(&self, bytes_max: usize) {
        self.lock().bytes_max = bytes_max;
    }

    /// What was asked since the plan was set.
    pub(super) fn ops(&self) -> Vec<Op> {
        self.lock().ops.clone()
    }

    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes()
    }

    /// The disk after a crash now.
    pub(super) fn after_crash(&self, survival: Survival) -> Self {
        let disk = self.lock().clone();
        let mut luck = Luck(match survival {
            Survival::Luck(seed) => seed,
            Survival::Nothing | Survival::Everything | Survival::Front(_) | Survival::Back(_) => 0,
        });
        let mut names = disk.durable_names;
        for change in disk.unsynced_names {
            let survives = match survival {
                Survival::Nothing => false,
                Survival::Everything | Survival::Front(_) | Survival::Back(_) => true,
                Survival::Luck(_) => luck.below(2) == 0,
            };
            if survives {
                apply_names(&mut names, change);
            }
        }
        let files = disk.files.into_iter().map(|file| {
            let durable = file.after_crash(survival, &mut luck);
            let live = durable.clone();
            let unsynced = Vec::new();
            Bytes {
                live,
                durable,
                unsynced,
            }
        });
        Self::of(Disk {
            files: files.collect(),
            durable_names: names.clone(),
            names,
            unsynced_names: Vec::new(),
            ops: Vec::new(),
            plan: Plan::well(),
            bytes_max: disk.bytes_max,
        })
    }
}

impl Bytes {
    fn after_crash(self, survival: Survival, luck: &mut Luck) -> Vec<u8> {
        let mut bytes = self.durable;
        for (offset, written) in self.unsynced {
            let chance = 1 + luck.below(9);
            for (n, sector) in written.chunks(SECTOR).enumerate() {
                let survives = match survival {
                    Survival::Nothing => false,
                    Survival::Everything => true,
                    Survival::Front(sectors) => n < sectors,
                    Survival::Back(sectors) => n >= sectors,
                    Survival::Luck(_) => luck.below(10) < chance,
                };
                if survives {
                    put(&mut bytes, offset + n * SECTOR, sector);
                }
            }
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

fn apply_names(names: &mut BTreeMap<String, usize>, change: Vec<(String, Option<usize>)>) {
    for (name, file) in change {
        match file {
            Some(file) => drop(names.insert(name, file)),
            None => drop(names.remove(&name)),
        }
    }
}

impl Disk {
    fn begin(&mut self, op: Op) -> Going {
        let number = self.ops.len() as u64;
        self.ops.push(op);
        if number >= self.plan.crash_at {
            let begun = number == self.plan.crash_at;
            Going::Crashed { begun }
        } else {
            let mut faults = self.plan.faults.iter();
            let fault = faults.find(|(numbers, _)| numbers.contains(&number));
            fault.map_or(Going::Well, |(_, fault)| Going::Fails(*fault))
        }
    }

    /// Does it, or not, and answers as the plan says.
    fn act(&mut self, op: Op, effect: impl FnOnce(&mut Self)) -> Result<()> {
        let (has_effect, answer) = match self.begin(op) {
            Going::Well => (true, Ok(())),
            Going::Fails(fault) => (fault == Fault::TookEffect, Err(failure())),
            // What was begun is unsynced, and survives by luck.
            Going::Crashed { begun } => (begun, Err(failure())),
        };
        if has_effect {
            effect(self);
        }
        answer
    }

    /// Does a sync reach the disk? `None` when it never ends.
    fn begin_sync(&mut self, op: Op) -> Option<std::result::Result<(), Fault>> {
        match self.begin(op) {
            Going::Well => Some(Ok(())),
            Going::Fails(fault) => Some(Err(fault)),
            Going::Crashed { begun: _ } => None,
        }
    }

    fn change_names(&mut self, change: Vec<(String, Option<usize>)>) {
        apply_names(&mut self.names, change.clone());
        self.unsynced_names.push(change);
    }

    fn file(&self, name: &str) -> Result<usize> {
        let file = self.names.get(name).copied();
        file.ok_or_else(|| Error::from(ErrorKind::NotFound))
    }

    fn bytes(&self) -> usize {
        let lengths = self.names.values().map(|file| self.files[*file].live.len());
        lengths.sum()
    }

    fn sync(&mut self, op: Op, file: usize) -> Result<()> {
        let Some(ended) = self.begin_sync(op) else {
            return Err(failure());
        };
        let file = &mut self.files[file];
        let unsynced = std::mem::take(&mut file.unsynced);
        if matches!(ended, Ok(()) | Err(Fault::TookEffect)) {
            for (offset, written) in unsynced {
                put(&mut file.durable, offset, &written);
            }
        } else if ended == Err(Fault::Dropped) {
            file.live.clone_from(&file.durable);
        }
        ended.map_err(|_| failure())
    }
}

fn failure() -> Error {
    Error::other("the simulated disk fails")
}

impl Storage for SimDisk {
    fn list(&self) -> Result<Vec<String>> {
        let mut disk = self.lock();
        disk.act(Op::List, |_| {})?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let mut disk = self.lock();
        disk.act(Op::Read, |_| {})?;
        let file = disk.file(name)?;
        Ok(disk.files[file].live.clone())
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>> {
        let mut disk = self.lock();
        disk.act(Op::Create, |disk| {
            disk.files.push(Bytes::default());
            let file = disk.files.len() - 1;
            disk.change_names(vec![(name.into(), Some(file))]);
        })?;
        let file = disk.files.len() - 1;
        drop(disk);
        let disk = self.clone();
        Ok(Box::new(SimFile { disk, file }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut disk = self.lock();
        let file = disk.file(from)?;
        disk.act(Op::Rename, |disk| {
            disk.change_names(vec![(to.into(), Some(file)), (from.into(), None)]);
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut disk = self.lock();
        disk.file(name)?;
        disk.act(Op::Remove, |disk| {
            disk.change_names(vec![(name.into(), None)]);
        })
    }

    fn sync_folder(&self) -> Result<()> {
        let mut disk = self.lock();
        let Some(ended) = disk.begin_sync(Op::SyncFolder) else {
            return Err(failure());
        };
        let changes = std::mem::take(&mut disk.unsynced_names);
        if matches!(ended, Ok(()) | Err(Fault::TookEffect)) {
            for change in changes {
                apply_names(&mut disk.durable_names, change);
            }
        } else if ended == Err(Fault::Dropped) {
            disk.names = disk.durable_names.clone();
        }
        ended.map_err(|_| failure())
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl StoredFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut disk = self.disk.lock();
        let offset = offset as usize;
        let grows_by = (offset + bytes.len()).saturating_sub(disk.files[self.file].live.len());
        if disk.bytes() + grows_by > disk.bytes_max {
            return Err(ErrorKind::StorageFull.into());
        }
        let (len, answer) = match disk.begin(Op::Write) {
            Going::Well => (bytes.len(), Ok(())),
            Going::Fails(Fault::Nothing | Fault::Dropped) => (0, Err(failure())),
            Going::Fails(Fault::TookEffect) => (bytes.len(), Err(failure())),
            Going::Fails(Fault::Short(sectors)) => {
                let full = Err(ErrorKind::StorageFull.into());
                (bytes.len().min(sectors * SECTOR), full)
            }
            Going::Crashed { begun } => (if begun { bytes.len() } else { 0 }, Err(failure())),
        };
        if len > 0 {
            let (file, written) = (&mut disk.files[self.file], &bytes[..len]);
            put(&mut file.live, offset, written);
            file.unsynced.push((offset, written.to_vec()));
        }
        answer
    }

    fn sync(&self) -> Result<()> {
        self.disk.lock().sync(Op::Sync, self.file)
    }

    fn sync_data(&self) -> Result<()> {
        self.disk.lock().sync(Op::SyncData, self.file)
    }

    fn has_name(&self, name: &str) -> bool {
        self.disk.lock().names.get(name) == Some(&self.file)
    }
}
