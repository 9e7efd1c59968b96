//! A log in a folder that is moved to another home, or arrives from one.
//!
//! A log that is sealed stays as it is for good. One that arrives is written anew whenever the move
//! is begun again, and is here once the file `moved` is gone.

use unanimous_core::ports::{
    DOUBTFUL, DecisionRow, KeptRow, LogError, LogImage, NotedEnd, OpeningRow, OpeningState,
    RowState, ServerIdentity, Standing, UnixTime,
};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Gtrid, ManagerId, Opening};

use super::FileLog;
use super::appender::segment_name;
use super::errors;
use super::folder::FolderLock;
use super::hand;
use super::home::{Home, TornTail};
use super::identity::{Birth, IDENTITY, Identity};
use super::moved::{MOVED, Mark, read_mark, write_mark};
use super::open::{
    adopt, begin_segment, check_folder, holds_nothing, inspect, no_log, read_any, read_identity,
    segment_bytes_min, write_identity,
};
use super::record::{Id, encode_decision};
use super::recover::{read_file, recover, segment_numbers};
use super::sound::{Loss, read_sound};
use super::state::{Change, State};
use super::table::{decode_branches, encode_branches, end_of, letter_of};
use super::writer::{enter, visit};

/// A folder whose lock is held for a move.
pub(crate) struct FolderMove {
    lock: FolderLock,
    home: Home,
}

impl FolderMove {
    /// Locks the folder, and makes it if it is missing.
    pub(crate) fn enter(log: FileLog) -> Result<Self, LogError> {
        let (folder, options) = log.into_parts();
        let (lock, home) = enter(folder, options)?;
        Ok(Self { lock, home })
    }

    pub(crate) fn standing(&self) -> Result<Standing, LogError> {
        match read_mark(&self.home)? {
            Some(mark) if mark.is_arriving => {
                return Ok(Standing::Arriving(mark.manager, mark.place));
            }
            Some(mark) => return Ok(Standing::Sealed(mark.manager, mark.place)),
            None => {}
        }
        if let Some(identity) = read_identity(&self.home)? {
            check_folder(&self.home, identity, self.lock.folder())?;
            return Ok(Standing::Here(identity.manager));
        }
        holds_nothing(&self.home)?;
        Ok(Standing::Empty)
    }

    /// Whether the folder is the log's own, as far as that can be read. Only of that one the lock
    /// proves anything: whoever has copied a folder may still use the original.
    fn is_original(&self) -> Result<bool, LogError> {
        let Ok(Some(identity)) = read_identity(&self.home) else {
            return Ok(false);
        };
        check_folder(&self.home, identity, self.lock.folder())?;
        Ok(true)
    }

    /// The lock proves that nobody has the log open, and none of its epochs can be used any more.
    ///
    /// # Errors
    /// The folder is a copy; or the mark could not be written.
    pub(crate) fn seal(&self, manager: ManagerId, to: &str) -> Result<(), LogError> {
        self.is_original()?;
        let mark = Mark {
            is_arriving: false,
            manager,
            place: one_line(to),
        };
        write_mark(&self.home, &mark)
    }

    pub(crate) fn image(&self, manager: ManagerId) -> Result<LogImage, LogError> {
        let folder = self.home.folder.display();
        let Some(number) = segment_numbers(&self.home)?.last().copied() else {
            return Err(LogError::new(format!(
                "log {folder}: it was never opened to the end: there is nothing to move"
            )));
        };
        self.closed(&recover(&self.home, manager, number)?.state)
    }

    /// The lock proves that the owners of all openings are gone. If nobody can tell whether the
    /// folder is the original, it proves nothing of the one that was open last.
    fn closed(&self, state: &State) -> Result<LogImage, LogError> {
        let (is_original, doubtful) = (self.is_original()?, identity_of(DOUBTFUL)?);
        let mut image = image_of(state)?;
        for row in &mut image.openings {
            if !row.is_closed && !is_original {
                row.identity = doubtful.clone();
            }
            row.is_closed = true;
        }
        Ok(image)
    }

    /// Whose log it is, and what is sound of it, if it is damaged. Every epoch of it is closed.
    ///
    /// # Errors
    /// Nothing is sound, or the folder is a copy; without its file `identity` nobody can tell, and
    /// the opening that was the last one is doubtful.
    pub(crate) fn salvage(&self) -> Result<(ManagerId, LogImage, Vec<Loss>), LogError> {
        let folder = self.home.folder.display();
        self.is_original().map_err(|error| {
            LogError::new(format!(
                "{error}. If it is damaged and the only one that is left, remove its file \
                 `identity`: what is not decided in its last opening is then left to a person"
            ))
        })?;
        let Some(number) = segment_numbers(&self.home)?.last().copied() else {
            return Err(LogError::new(format!(
                "log {folder}: it has no segment: there is nothing that could be saved"
            )));
        };
        let name = segment_name(number);
        let bytes = read_file(&self.home, &name)?;
        let retain = self.home.options.retain_completed;
        let sound = read_sound(&name, &bytes, retain)
            .map_err(|fault| errors::segment(&self.home.folder, &name, fault))?;
        let manager = sound.header.opening.manager;
        if sound.header.number != number {
            return Err(LogError::new(format!(
                "log {folder}: {name} is segment {} of manager {manager}: it was copied here; put \
                 the log's own segment back",
                sound.header.number
            )));
        }
        if let Ok(Some(identity)) = read_identity(&self.home)
            && identity.manager != manager
        {
            return Err(LogError::new(format!(
                "log {folder}: {name} is of manager {manager}, in the log of manager {}: put the \
                 log's own segment back",
                identity.manager
            )));
        }
        Ok((manager, self.closed(&sound.state)?, sound.losses))
    }

    /// Whose log it is, whether the folder is its own, and what it says.
    pub(crate) fn to_be_adopted(&self) -> Result<(ManagerId, bool, LogImage), LogError> {
        let (manager, identity, recovered) = read_any(&self.home)?;
        let is_own = identity.is_some_and(|identity| identity.folder == self.lock.folder());
        Ok((manager, is_own, image_of(&recovered.state)?))
    }

    /// From now on the folder is the log's own.
    pub(crate) fn adopt(&self) -> Result<(), LogError> {
        adopt(&self.home, self.lock.folder()).map(drop)
    }

    /// Removes what an earlier attempt has left.
    pub(crate) fn begin_arrival(&self, manager: ManagerId, from: &str) -> Result<(), LogError> {
        let mark = Mark {
            is_arriving: true,
            manager,
            place: one_line(from),
        };
        match read_mark(&self.home)? {
            Some(found) if found == mark => {}
            Some(_) => return Err(self.not_arriving(from)),
            None => {
                holds_nothing(&self.home)?;
                write_mark(&self.home, &mark)?;
            }
        }
        let storage = &*self.home.storage;
        let mut left: Vec<_> = segment_numbers(&self.home)?;
        let names = left.drain(..).map(segment_name).chain([IDENTITY.into()]);
        for name in names {
            match storage.remove(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(self.home.failed(&format!("remove {name}"), error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The whole log, at once.
    pub(crate) fn arrive(
        &self,
        manager: ManagerId,
        from: &str,
        image: &LogImage,
    ) -> Result<(), LogError> {
        match read_mark(&self.home)? {
            Some(mark) if mark.is_arriving && mark.place == one_line(from) => {}
            Some(_) | None => return Err(self.not_arriving(from)),
        }
        let (state, newest) = self.take(manager, image)?;
        let identity = Identity {
            manager,
            folder: self.lock.folder(),
            birth: Birth::Begun,
        };
        write_identity(&self.home, &identity)?;
        let snapshot = state.snapshot();
        let bytes = segment_bytes_min(snapshot.stored_bytes(), 0);
        begin_segment(&self.home, bytes, newest, 1, snapshot)?;
        let birth = Birth::Done;
        write_identity(&self.home, &Identity { birth, ..identity })
    }

    /// From now on the log is here.
    pub(crate) fn end_arrival(&self, from: &str) -> Result<(), LogError> {
        match read_mark(&self.home)? {
            Some(mark) if mark.is_arriving && mark.place == one_line(from) => {}
            Some(_) | None => return Err(self.not_arriving(from)),
        }
        let storage = &*self.home.storage;
        let removed = storage.remove(MOVED).and_then(|()| storage.sync_folder());
        removed.map_err(|error| self.home.failed("remove the file `moved`", error))
    }

    /// Whether the folder can take all of it: to be asked before the old home is sealed.
    ///
    /// # Errors
    /// It cannot: says which row is in the way.
    pub(crate) fn fits(&self, manager: ManagerId, image: &LogImage) -> Result<(), LogError> {
        self.take(manager, image).map(drop)
    }

    fn take(&self, manager: ManagerId, image: &LogImage) -> Result<(State, Opening), LogError> {
        let taken = state_of(manager, image, self.home.options.retain_completed);
        taken.map_err(|strange| {
            let folder = self.home.folder.display();
            LogError::new(format!("log {folder}: {strange}: {SEE_VERIFY}"))
        })
    }

    fn not_arriving(&self, from: &str) -> LogError {
        LogError::new(format!(
            "log {}: no log arrives here from {from}: has somebody else changed the folder?",
            self.home.folder.display()
        ))
    }
}

/// Whether all of it can be understood, wherever it goes.
///
/// # Errors
/// A row cannot: says which.
pub(crate) fn check_rows(image: &LogImage) -> Result<(), LogError> {
    let strange = |gtrid| LogError::new(format!("{}: {SEE_VERIFY}", garbled(gtrid)));
    for kept in image
        .rows
        .iter()
        .filter(|kept| kept.state == RowState::Pending)
    {
        let branches = decode_branches(&kept.row.branches);
        branches.ok_or_else(|| strange(kept.row.gtrid))?;
    }
    for noted in &image.heuristics {
        end_of(noted.end).ok_or_else(|| strange(noted.gtrid))?;
    }
    for row in &image.by_hand {
        hand::read(row).ok_or_else(|| strange(row.gtrid))?;
    }
    Ok(())
}

const SEE_VERIFY: &str = "unanimous log verify names such rows, and the mend; the log stays where \
    it is until then";

fn garbled(gtrid: Gtrid) -> String {
    format!("the log's record of {gtrid} cannot be understood, and not be taken over")
}

/// The image as a state, and its newest opening; or why it is none.
fn state_of(
    manager: ManagerId,
    image: &LogImage,
    retain_completed: usize,
) -> Result<(State, Opening), String> {
    let mut state = State::new(manager, retain_completed);
    let at = LogSeq(0);
    for row in &image.openings {
        let Opening { epoch, nonce, .. } = row.opening;
        state.apply(Change::Opened { epoch, nonce }, at);
        state.apply(Change::Closed { epoch }, at);
        if row.is_doubtful() {
            state.apply(Change::Doubtful { epoch }, at);
        }
    }
    let dated = |when: Option<UnixTime>| when.unwrap_or(UnixTime(0));
    for kept in &image.rows {
        let row = &kept.row;
        let id = Id::of(row.gtrid);
        match kept.state {
            RowState::Pending => {
                let branches = decode_branches(&row.branches);
                let branches = branches.ok_or_else(|| garbled(row.gtrid))?;
                let bytes = encode_decision(id, dated(kept.decided_at), &branches);
                let bytes = bytes.ok_or_else(|| garbled(row.gtrid))?;
                state.apply(Change::Decided { id, bytes }, at);
            }
            RowState::Completed => state.apply(Change::Completed { id }, at),
            // No record of a closed epoch says the same.
            RowState::RolledBack => {}
        }
    }
    for noted in &image.heuristics {
        let change = Change::Heuristic {
            id: Id::of(noted.gtrid),
            resource: noted.resource.clone(),
            heuristic: end_of(noted.end).ok_or_else(|| garbled(noted.gtrid))?,
            when: dated(noted.noted_at),
        };
        state.apply(change, at);
    }
    for row in &image.by_hand {
        hand::read(row).ok_or_else(|| garbled(row.gtrid))?;
        state.apply(Change::ByHand(Box::new(row.clone())), at);
    }
    let is_listed = |gtrid: &Gtrid| state.is_listed(gtrid.opening);
    // A rollback of an opening that a fail-over has lost is put there all the same, and dropped.
    let rows = image
        .rows
        .iter()
        .filter(|kept| kept.state != RowState::RolledBack);
    let rows = rows.map(|kept| &kept.row.gtrid);
    let mut all = rows.chain(image.heuristics.iter().map(|noted| &noted.gtrid));
    if let Some(strange) = all.find(|gtrid| !is_listed(gtrid)) {
        return Err(format!("the opening of {strange} is not listed"));
    }
    let newest = image.openings.iter().map(|row| row.opening);
    let newest = newest.max_by_key(|opening| opening.epoch);
    let newest = newest.ok_or("it lists no opening")?;
    Ok((state, newest))
}

/// What a folder says now. An application may have the log open.
#[derive(Debug)]
pub(crate) struct FolderRead {
    pub(crate) manager: ManagerId,
    pub(crate) image: LogImage,
    pub(crate) unfinished_batch: Option<TornTail>,
    /// It is sealed for that place.
    pub(crate) sealed_for: Option<String>,
}

/// Reads a folder without its lock, and waits until what was read is durable.
pub(crate) fn read_folder(log: FileLog) -> Result<FolderRead, LogError> {
    let (folder, options) = log.into_parts();
    let home = visit(folder, options)?;
    let sealed_for = match read_mark(&home)? {
        Some(mark) if mark.is_arriving => {
            return Err(LogError::new(format!(
                "log {}: a log arrives here from {}, and is not whole yet",
                home.folder.display(),
                mark.place
            )));
        }
        Some(mark) => Some(mark.place),
        None => None,
    };
    let Some(identity) = read_identity(&home)? else {
        return Err(no_log(&home));
    };
    let recovered = inspect(&home)?;
    let manager = identity.manager;
    make_durable(&home, &segment_name(recovered.number))?;
    Ok(FolderRead {
        manager,
        image: image_of(&recovered.state)?,
        unfinished_batch: recovered.torn_tail,
        sealed_for,
    })
}

/// A batch that was read may not be synced yet, and its writer may die before it is. A segment that
/// is gone was replaced by one that says the same, and is durable.
fn make_durable(home: &Home, name: &str) -> Result<(), LogError> {
    let path = home.folder.join(name);
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    match synced.and_then(|()| home.storage.sync_folder()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(home.failed(&format!("sync {name}"), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// All that a log says.
pub(super) fn image_of(state: &State) -> Result<LogImage, LogError> {
    let (here, doubtful) = (identity_of("file")?, identity_of(DOUBTFUL)?);
    let opening = |listed: OpeningState| {
        let is_doubtful = state.is_doubtful(listed.opening.epoch);
        OpeningRow {
            opening: listed.opening,
            identity: if is_doubtful { &doubtful } else { &here }.clone(),
            label: "of a log in a folder".into(),
            is_closed: listed.closed,
            is_released: false,
        }
    };
    let row = |gtrid, branches, row_state| KeptRow {
        row: DecisionRow { gtrid, branches },
        state: row_state,
        decided_at: state.decided_at(gtrid),
    };
    let pending = state.pending().into_iter().map(|decision| {
        let branches = encode_branches(&decision.branches);
        row(decision.gtrid, branches, RowState::Pending)
    });
    let completed = state.completed().into_iter();
    let completed = completed.map(|gtrid| row(gtrid, String::new(), RowState::Completed));
    let noted = state.heuristics().into_iter().map(|end| NotedEnd {
        gtrid: end.gtrid,
        resource: end.resource,
        end: letter_of(end.end),
        noted_at: end.when,
    });
    Ok(LogImage {
        openings: state.openings().into_iter().map(opening).collect(),
        rows: pending.chain(completed).collect(),
        heuristics: noted.collect(),
        by_hand: state.by_hand_rows(),
    })
}

fn identity_of(place: &str) -> Result<ServerIdentity, LogError> {
    let nowhere = || LogError::new("a place that cannot be named, which is a bug");
    ServerIdentity::new(place).ok_or_else(nowhere)
}

/// Places are told apart by their text, and stand on one line.
pub(crate) fn one_line(place: &str) -> String {
    let plain = place.chars().map(|c| if c.is_control() { '?' } else { c });
    plain.collect()
}

#[cfg(test)]
#[path = "moving_test.rs"]
mod tests;
