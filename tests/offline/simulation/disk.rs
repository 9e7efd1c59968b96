//! A disk under the real log: live and durable bytes apart, and a machine around it that can die
//! in the middle of any operation.
//!
//! * Kill -9 leaves the page cache: what was written is there, the write under way in part.
//! * Loss of power leaves what was synced; of the rest each sector, and each change of a name, as
//!   luck will have it.
//! * A sync that fails leaves the page cache as it is and never tries these bytes again, so that a
//!   later one answers `Ok` without them; or they had reached the disk after all.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard};

use unanimous::log::stepped::{Storage, StoredFile};

use super::journal::lock;
use super::life::{Death, Life};
use super::luck::Luck;

const SECTOR: usize = 512;

/// The disk as one life of a process sees it. Cloning gives the same one.
#[derive(Clone)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
    luck: Luck,
    life: Arc<Life>,
}

#[derive(Default, Clone)]
struct State {
    files: Vec<Bytes>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Each is one change that happens as a whole: names and what they lead to then.
    unsynced_names: Vec<NameChange>,
    plan: Plan,
    bytes_max: Option<usize>,
}

type NameChange = Vec<(String, Option<usize>)>;

#[derive(Default, Clone)]
struct Bytes {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// What goes wrong next.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Plan {
    /// So many operations that change something fail, after so many that go well.
    pub(super) fails: u64,
    pub(super) after: u64,
    /// The failing ones had the effect that they deny.
    pub(super) took_effect: bool,
    /// The process dies in the middle of the operation after so many.
    pub(super) dies_in: Option<(u64, Death)>,
}

/// How an operation goes.
enum Going {
    Well,
    Fails {
        took_effect: bool,
    },
    /// The process dies; a write may have been done in part.
    Dies,
    Dead,
}

impl Disk {
    pub(super) fn new(luck: Luck, life: Arc<Life>) -> Self {
        Self {
            state: Arc::default(),
            luck,
            life,
        }
    }

    pub(super) fn set_plan(&self, plan: Plan) {
        self.lock().plan = plan;
    }

    /// No more room than what is taken now and so many bytes; `None` for no limit.
    pub(super) fn set_room(&self, room: Option<usize>) {
        let mut state = self.lock();
        state.bytes_max = room.map(|room| state.bytes() + room);
    }

    /// What the next life finds.
    pub(super) fn after(&self, death: Death, life: Arc<Life>) -> Self {
        let mut state = self.lock().clone();
        state.plan = Plan::default();
        match death {
            Death::Killed | Death::Left => {}
            Death::PowerLost => state.lose_power(&self.luck),
        }
        Self {
            state: Arc::new(Mutex::new(state)),
            luck: self.luck.clone(),
            life,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn begin(&self, state: &mut State) -> Going {
        if !self.life.is_alive() {
            return Going::Dead;
        }
        let plan = &mut state.plan;
        if let Some((left, death)) = &mut plan.dies_in {
            if *left == 0 {
                let death = *death;
                plan.dies_in = None;
                self.life.end(death, "in the middle of a disk operation");
                return Going::Dies;
            }
            *left -= 1;
        }
        if plan.after > 0 {
            plan.after -= 1;
        } else if plan.fails > 0 {
            plan.fails -= 1;
            let took_effect = plan.took_effect;
            return Going::Fails { took_effect };
        }
        Going::Well
    }

    /// Does it, or not, and answers as the plan says.
    fn change(&self, effect: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.lock();
        let (has_effect, answer) = match self.begin(&mut state) {
            Going::Well => (true, Ok(())),
            Going::Fails { took_effect } => (took_effect, Err(failure())),
            Going::Dies => (self.luck.chance(500), Err(failure())),
            Going::Dead => (false, Err(failure())),
        };
        if has_effect {
            effect(&mut state);
        }
        answer
    }

    /// Does a sync reach the disk? `None` when the process dies of it: by luck, later.
    fn sync(&self, effect: impl FnOnce(&mut State, bool)) -> Result<()> {
        let mut state = self.lock();
        let (reaches, answer) = match self.begin(&mut state) {
            Going::Well => (true, Ok(())),
            Going::Fails { took_effect } => (took_effect, Err(failure())),
            Going::Dies | Going::Dead => return Err(failure()),
        };
        effect(&mut state, reaches);
        answer
    }

    fn write(&self, file: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let grows_by = (offset + bytes.len()).saturating_sub(state.files[file].live.len());
        if state
            .bytes_max
            .is_some_and(|max| state.bytes() + grows_by > max)
        {
            return Err(ErrorKind::StorageFull.into());
        }
        let (written, answer) = match self.begin(&mut state) {
            Going::Well => (bytes.len(), Ok(())),
            Going::Fails { took_effect: true } => (bytes.len(), Err(failure())),
            // Cut short, as a killed or failing write may be.
            Going::Fails { took_effect: false } | Going::Dies => {
                let sectors = bytes.len().div_ceil(SECTOR) as u64;
                let sectors = self.luck.below(sectors + 1) as usize;
                ((sectors * SECTOR).min(bytes.len()), Err(failure()))
            }
            Going::Dead => (0, Err(failure())),
        };
        let file = &mut state.files[file];
        put(&mut file.live, offset, &bytes[..written]);
        file.unsynced.push((offset, bytes[..written].to_vec()));
        answer
    }
}

impl State {
    fn bytes(&self) -> usize {
        let lengths = self.names.values().map(|file| self.files[*file].live.len());
        lengths.sum()
    }

    fn file(&self, name: &str) -> Result<usize> {
        let file = self.names.get(name).copied();
        file.ok_or_else(|| Error::from(ErrorKind::NotFound))
    }

    fn change_names(&mut self, change: NameChange) {
        apply_names(&mut self.names, change.clone());
        self.unsynced_names.push(change);
    }

    fn lose_power(&mut self, luck: &Luck) {
        for change in std::mem::take(&mut self.unsynced_names) {
            if luck.chance(500) {
                apply_names(&mut self.durable_names, change);
            }
        }
        self.names = self.durable_names.clone();
        for file in &mut self.files {
            for (offset, written) in std::mem::take(&mut file.unsynced) {
                let chance = luck.below(1001);
                for (n, sector) in written.chunks(SECTOR).enumerate() {
                    if luck.chance(chance) {
                        put(&mut file.durable, offset + n * SECTOR, sector);
                    }
                }
            }
            file.live = file.durable.clone();
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

fn apply_names(names: &mut BTreeMap<String, usize>, change: NameChange) {
    for (name, file) in change {
        match file {
            Some(file) => drop(names.insert(name, file)),
            None => drop(names.remove(&name)),
        }
    }
}

fn failure() -> Error {
    Error::other("the simulated disk fails")
}

impl Storage for Disk {
    fn list(&self) -> Result<Vec<String>> {
        if !self.life.is_alive() {
            return Err(failure());
        }
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        if !self.life.is_alive() {
            return Err(failure());
        }
        let state = self.lock();
        let file = state.file(name)?;
        Ok(state.files[file].live.clone())
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>> {
        self.change(|state| {
            state.files.push(Bytes::default());
            let file = state.files.len() - 1;
            state.change_names(vec![(name.into(), Some(file))]);
        })?;
        let file = self.lock().files.len() - 1;
        let disk = self.clone();
        Ok(Box::new(OpenFile { disk, file }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let file = self.lock().file(from)?;
        self.change(|state| {
            state.change_names(vec![(to.into(), Some(file)), (from.into(), None)]);
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.lock().file(name)?;
        self.change(|state| state.change_names(vec![(name.into(), None)]))
    }

    fn sync_folder(&self) -> Result<()> {
        self.sync(|state, reaches| {
            for change in std::mem::take(&mut state.unsynced_names) {
                if reaches {
                    apply_names(&mut state.durable_names, change);
                }
            }
        })
    }

    fn fill_random(&self, bytes: &mut [u8]) -> std::result::Result<(), getrandom::Error> {
        bytes.fill_with(|| self.luck.next() as u8);
        Ok(())
    }
}

struct OpenFile {
    disk: Disk,
    file: usize,
}

impl OpenFile {
    fn sync_file(&self) -> Result<()> {
        self.disk.sync(|state, reaches| {
            let file = &mut state.files[self.file];
            for (offset, written) in std::mem::take(&mut file.unsynced) {
                if reaches {
                    put(&mut file.durable, offset, &written);
                }
            }
        })
    }
}

impl StoredFile for OpenFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.disk.write(self.file, offset as usize, bytes)
    }

    fn sync(&self) -> Result<()> {
        self.sync_file()
    }

    fn sync_data(&self) -> Result<()> {
        self.sync_file()
    }

    fn has_name(&self, name: &str) -> bool {
        self.disk.lock().names.get(name) == Some(&self.file)
    }
}
