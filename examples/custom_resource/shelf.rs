//! The shelf: its state, what happens on the disk, and the way recovery sees it.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use unanimous::ports::{
    Absence, BranchEnv, BranchRecord, Preflight, RecoveryScan, Resource, ResourceManager,
    ScannedBranch, ServerIdentity, XidOwner,
};
use unanimous::{
    BranchError, BranchErrorKind, Decision, Problem, ResourceError, ResourceName, Xid,
};

use crate::branch::ShelfBranch;

/// Documents by name.
pub(crate) type Writes = BTreeMap<String, String>;

/// A folder of documents as a resource. Cloning gives the same shelf.
#[derive(Clone)]
pub(crate) struct Shelf {
    name: ResourceName,
    pub(crate) identity: ServerIdentity,
    state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    folder: PathBuf,
    /// Which branch has written a document and has not ended. Prepared branches are among them.
    pub(crate) locks: HashMap<String, Xid>,
    /// Branches that can still prepare.
    pub(crate) active: Vec<Xid>,
    /// After an error of unknown effect.
    pub(crate) is_closed: bool,
    /// Held for as long as the shelf is open.
    _owner: File,
}

impl Shelf {
    /// Opens the shelf in `folder`, or makes one, and finishes what was committed before a crash.
    pub(crate) fn open(name: &str, folder: &Path) -> Result<Self, Box<dyn Error + Send + Sync>> {
        for part in ["documents", "prepared", "committed"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let owner = File::create(folder.join("lock"))?;
        if owner.try_lock().is_err() {
            return Err("another process has this shelf open: stop it first".into());
        }
        let identity_file = folder.join("identity");
        if !identity_file.exists() {
            let born = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
            let text = format!("shelf {born} {}", std::process::id());
            write_then_rename(folder, &identity_file, &text)?;
        }
        let identity = ServerIdentity::new(fs::read_to_string(identity_file)?)
            .ok_or("the file `identity` is damaged")?;
        let mut state = State {
            folder: folder.to_owned(),
            locks: HashMap::new(),
            active: Vec::new(),
            is_closed: false,
            _owner: owner,
        };
        for entry in fs::read_dir(folder.join("committed"))? {
            state.write_documents(&entry?.path())?;
        }
        for file in state.prepared_names()? {
            let Ok(xid) = file.parse::<Xid>() else {
                continue;
            };
            for (document, _) in read_writes(&folder.join("prepared").join(&file))? {
                state.locks.insert(document, xid.clone());
            }
        }
        Ok(Self {
            name: name.parse()?,
            identity,
            state: Arc::new(Mutex::new(state)),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn error(&self, kind: BranchErrorKind, message: &str) -> BranchError {
        BranchError::new(kind, self.name.clone(), message)
    }

    fn unavailable(&self, error: io::Error) -> ResourceError {
        let message = "the shelf cannot be read; see to the disk, then open it again";
        ResourceError::new(Problem::Unavailable, self.name.clone(), message).with_source(error)
    }

    /// Ends what is prepared, from whichever branch or task.
    pub(crate) fn end_prepared(&self, xid: &Xid, decision: Decision) -> Result<(), BranchError> {
        let ended = self.state().end_prepared(xid, decision);
        ended.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                let message = "nothing is prepared under this XID";
                return self.error(BranchErrorKind::UnknownXid, message);
            }
            let undetermined = self.error(BranchErrorKind::Undetermined, "the disk failed");
            undetermined.with_source(error)
        })
    }
}

/// What happens on the disk.
impl State {
    pub(crate) fn path(&self, part: &str, file: &str) -> PathBuf {
        self.folder.join(part).join(file)
    }

    /// Nothing is read or written after an error of unknown effect.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.is_closed {
            false => Ok(()),
            true => Err(io::Error::other("the shelf closed itself after an error")),
        }
    }

    fn prepared_names(&self) -> io::Result<Vec<String>> {
        self.check()?;
        let entries = fs::read_dir(self.folder.join("prepared"))?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Writes what the branch wrote into a file of `part`, durably.
    pub(crate) fn save(&mut self, part: &str, xid: &Xid, writes: &Writes) -> io::Result<()> {
        self.check()?;
        let lines = writes.iter().map(|(name, text)| format!("{name} {text}\n"));
        let target = self.path(part, &xid.to_string());
        write_then_rename(&self.folder, &target, &lines.collect::<String>())
    }

    /// Ends a prepared branch; `NotFound` if there is none.
    fn end_prepared(&mut self, xid: &Xid, decision: Decision) -> io::Result<()> {
        let name = xid.to_string();
        if !self.prepared_names()?.contains(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (prepared, committed) = (self.path("prepared", &name), self.path("committed", &name));
        let ended = match decision {
            Decision::Commit => fs::rename(&prepared, &committed)
                .and_then(|()| sync_folder(&self.folder.join("committed")))
                .and_then(|()| self.write_documents(&committed)),
            Decision::Rollback => fs::remove_file(&prepared),
        };
        ended
            .and_then(|()| sync_folder(&self.folder.join("prepared")))
            .inspect_err(|_| self.is_closed = true)
            // Whatever it was, it is not that the branch was never there.
            .map_err(io::Error::other)?;
        self.unlock(xid);
        Ok(())
    }

    /// Carries a committed file out, and takes it away. May be repeated.
    pub(crate) fn write_documents(&self, committed: &Path) -> io::Result<()> {
        for (name, text) in read_writes(committed)? {
            write_then_rename(&self.folder, &self.path("documents", &name), &text)?;
        }
        fs::remove_file(committed)
    }

    /// The branch cannot prepare any more, and is not prepared.
    pub(crate) fn unlock(&mut self, xid: &Xid) {
        self.active.retain(|active| active != xid);
        self.locks.retain(|_, holder| holder != xid);
    }
}

/// The file has its new content after this, or its old one, whatever happens.
fn write_then_rename(folder: &Path, target: &Path, text: &str) -> io::Result<()> {
    let new = folder.join("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, target)?;
    target.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn read_writes(file: &Path) -> io::Result<Writes> {
    let text = fs::read_to_string(file)?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect())
}

#[async_trait]
impl ResourceManager for Shelf {
    fn name(&self) -> &ResourceName {
        &self.name
    }

    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        let identity = Some(self.identity.clone());
        Ok(Preflight::new("shelf", identity, Vec::new()))
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        let names = self.state().prepared_names();
        let names = names.map_err(|error| self.unavailable(error))?;
        let branches = names.into_iter().map(|name| ScannedBranch {
            // Exact, or somebody else's (I4).
            owner: match name.parse() {
                Ok(xid) => XidOwner::Unanimous(xid),
                Err(_) => XidOwner::Foreign(name),
            },
            age: None,
        });
        Ok(RecoveryScan {
            identity: self.identity.clone(),
            branches: branches.collect(),
        })
    }

    async fn finish(
        &self,
        xid: &Xid,
        decision: Decision,
        _recorded: Option<&BranchRecord>,
    ) -> Result<(), BranchError> {
        self.end_prepared(xid, decision)
    }

    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError> {
        if branch.identity != self.identity {
            return Ok(Absence::Hazard("this is another shelf".to_owned()));
        }
        let state = self.state();
        let names = state.prepared_names();
        let is_prepared = names.map_err(|error| self.unavailable(error))?;
        if is_prepared.contains(&xid.to_string()) || state.active.contains(xid) {
            return Ok(Absence::InDoubt("the branch has not ended yet".to_owned()));
        }
        // Nothing here proves how it ended: as it was to be committed, only a person can have
        // rolled it back.
        Ok(Absence::Presumed)
    }
}

#[async_trait]
impl Resource for Shelf {
    type Branch = ShelfBranch;

    async fn open(&self, env: BranchEnv) -> Result<ShelfBranch, BranchError> {
        let mut state = self.state();
        let names = state.prepared_names().map_err(|error| {
            self.error(BranchErrorKind::Unavailable, "the shelf cannot be read")
                .with_source(error)
        })?;
        if names.contains(&env.xid.to_string()) || state.active.contains(&env.xid) {
            let message = "a branch of this XID exists";
            return Err(self.error(BranchErrorKind::DuplicateXid, message));
        }
        if !env.read_only {
            state.active.push(env.xid.clone());
        }
        drop(state);
        Ok(ShelfBranch::new(self.clone(), env))
    }
}
