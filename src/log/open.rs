//! Opening a log: whose it is, what it says, and a segment of the new opening's own.
//!
//! Order of a first opening: identity (birth begun), segment, identity (birth done). So a folder
//! with a `done` identity has once answered an opening, and if it has no segment now, something was
//! lost; with a `begun` one nobody can have recorded anything, and the opening begins again.
//!
//! Every opening writes the surviving state to a new segment and makes that durable before anybody
//! acts upon it, and only then removes older segments. A crash at any point leaves either the old
//! newest segment or the new one, both of which say the same of every decision.

use unanimous_core::ports::LogError;
use unanimous_core::xid::{ManagerId, Opening};

use super::appender::{
    Appender, BeginError, SEGMENT_TEMP, begin, prepare, segment_name, segment_number,
};
use super::home::{Home, SEGMENT_BYTES_FIRST, TornTail};
use super::identity::{Birth, FolderId, IDENTITY, Identity, IdentityFault};
use super::moved::{MOVED_TEMP, refuse_moved};
use super::recover::{Recovered, manager_of, recover, segment_numbers};
use super::segment::{BLOCK, Batch, FORMAT};
use super::state::State;

pub(super) const IDENTITY_TEMP: &str = "identity.tmp";

/// What is in a log's folder beside its files, or is left there by crashes and file systems: the
/// lock, the control socket and where it is made.
pub(super) const BESIDE: [&str; 4] = ["lock", "control.sock", ".control", "lost+found"];

/// What a crash leaves of what was being written.
pub(super) const UNDER_WAY: [&str; 3] = [SEGMENT_TEMP, IDENTITY_TEMP, MOVED_TEMP];

/// A log that has just been opened.
pub(super) struct Opened {
    pub(super) state: State,
    pub(super) opening: Opening,
    pub(super) appender: Appender,
    pub(super) torn_tail: Option<TornTail>,
}

/// Opens the log in `home`, or makes one. `folder` is what the operating system calls the folder.
pub(super) fn open(home: &Home, folder: FolderId) -> Result<Opened, LogError> {
    refuse_moved(home)?;
    let identity = match read_identity(home)? {
        Some(identity) => identity,
        None => new_identity(home, folder)?,
    };
    check_folder(home, identity, folder)?;
    let opened = reopen_or_make(home, identity)?;
    if identity.birth == Birth::Begun {
        let birth = Birth::Done;
        write_identity(home, &Identity { birth, ..identity })?;
    }
    Ok(opened)
}

/// Opens again the log whose lock is held, and which held this much, all of it durable once, in
/// segment `number` when it failed. What the folder does not say any more is in the new segment,
/// too: somebody has removed it there, or put an old copy in its place.
pub(super) fn reopen(home: &Home, held: State, number: u64) -> Result<Opened, LogError> {
    let manager = held.manager();
    let mut recovered = match segment_numbers(home)?.last() {
        Some(newest) => recover(home, manager, *newest)?,
        None => Recovered {
            state: State::new(manager, home.options.retain_completed),
            number,
            torn_tail: None,
        },
    };
    recovered.number = recovered.number.max(number);
    if recovered.state.take_over(held) {
        tracing::error!(
            folder = %home.folder.display(),
            "the decision log's segment was removed or replaced while it was open: what is missing \
             there is written anew"
        );
    }
    start(home, recovered)
}

fn reopen_or_make(home: &Home, identity: Identity) -> Result<Opened, LogError> {
    match (segment_numbers(home)?.last(), identity.birth) {
        (Some(number), Birth::Begun | Birth::Done) => {
            start(home, recover(home, identity.manager, *number)?)
        }
        (None, Birth::Begun) => start(
            home,
            Recovered {
                state: State::new(identity.manager, home.options.retain_completed),
                number: 0,
                torn_tail: None,
            },
        ),
        (None, Birth::Done) => Err(emptied(home, identity.manager)),
    }
}

/// Lists a new opening, closes all earlier ones, and makes the whole durable in a new segment.
fn start(home: &Home, recovered: Recovered) -> Result<Opened, LogError> {
    let Recovered {
        mut state,
        number,
        torn_tail,
    } = recovered;
    if let Some(torn) = &torn_tail {
        tracing::warn!(
            segment = %torn.segment.display(),
            offset = torn.offset,
            "the decision log ends in a batch that was not written to its end; cut off"
        );
    }
    let opening = state.next_opening(random_u64(home)?)?;
    state.open(opening);
    let snapshot = state.snapshot();
    let first = SEGMENT_BYTES_FIRST.min(home.options.segment_bytes_max);
    let bytes = first.max(segment_bytes_min(snapshot.stored_bytes(), 0));
    let appender = begin_segment(home, bytes, opening, number + 1, snapshot)?;
    remove_older(home, appender.number());
    Ok(Opened {
        state,
        opening,
        appender,
        torn_tail,
    })
}

/// Makes segment `number`, of at least `bytes`, with this state.
pub(super) fn begin_segment(
    home: &Home,
    bytes: u64,
    opening: Opening,
    number: u64,
    snapshot: Batch,
) -> Result<Appender, LogError> {
    let storage = &*home.storage;
    let prepared = prepare(storage, bytes).map_err(|error| {
        remove_unfinished(home);
        home.failed("make a segment of the log", error)
    })?;
    begin(storage, prepared, opening, number, snapshot).map_err(|error| {
        let error = match error {
            BeginError::Unnamed(error) => {
                remove_unfinished(home);
                error
            }
            BeginError::Named(error) => error,
        };
        home.failed("begin a segment of the log", error)
    })
}

/// What was written of a segment takes room that somebody may need.
pub(super) fn remove_unfinished(home: &Home) {
    if let Err(error) = home.storage.remove(SEGMENT_TEMP) {
        tracing::debug!(%error, "an unfinished segment stays for now");
    }
}

/// The least length of a segment that begins with a state of `snapshot` bytes and has to take a
/// batch of `need` bytes: at least three quarters are for new batches, so that rewriting the state
/// costs at most a third of what is recorded.
pub(super) const fn segment_bytes_min(snapshot: u64, need: u64) -> u64 {
    BLOCK as u64 + 4 * snapshot + need
}

/// Removes every segment older than `number`, which is durable. Failing to is harmless: they are
/// never read again, and the next segment tries again.
pub(super) fn remove_older(home: &Home, number: u64) {
    let older = segment_numbers(home).map(|mut numbers| {
        numbers.retain(|candidate| *candidate < number);
        numbers
    });
    let removed = older.and_then(|numbers| {
        numbers.into_iter().try_for_each(|older| {
            let name = segment_name(older);
            let removed = home.storage.remove(&name);
            removed.map_err(|error| home.failed(&format!("remove {name}"), error))
        })
    });
    if let Err(error) = removed {
        tracing::warn!(%error, "an old segment of the decision log stays for now");
    }
}

/// What the log says, for a person: read without a lock, so perhaps while it is written. Nothing of
/// it may be acted upon (see `recover`).
pub(super) fn inspect(home: &Home) -> Result<Recovered, LogError> {
    let Some(identity) = read_identity(home)? else {
        return Err(no_log(home));
    };
    let recovered = read_newest(home, |number| {
        let recovered = recover(home, identity.manager, number);
        (recovered.is_ok(), recovered)
    })?;
    recovered.unwrap_or_else(|| Err(emptied(home, identity.manager)))
}

/// What `read` says of the newest segment, and whether that is well; `None` if there is none.
///
/// While it is read, the newest segment may be replaced, and may be seen with a later batch and
/// without an earlier one, as if it were damaged: what stays so is.
pub(super) fn read_newest<T>(
    home: &Home,
    mut read: impl FnMut(u64) -> (bool, T),
) -> Result<Option<T>, LogError> {
    let mut tries = 0;
    loop {
        let Some(number) = segment_numbers(home)?.last().copied() else {
            return Ok(None);
        };
        let (is_well, found) = read(number);
        let is_newest = segment_numbers(home)?.last() == Some(&number);
        tries += 1;
        if (is_well && is_newest) || tries >= TRIES_MAX {
            return Ok(Some(found));
        }
    }
}

/// A log that changes that often while it is read is taken as it was read last.
const TRIES_MAX: u32 = 10;

pub(super) fn no_log(home: &Home) -> LogError {
    LogError::new(format!(
        "log {}: there is no log in this folder: check the path",
        home.folder.display()
    ))
}

/// Whose log is in the folder, and what it says; which folder it is matters not.
pub(super) fn read_any(home: &Home) -> Result<(ManagerId, Option<Identity>, Recovered), LogError> {
    let newest = segment_numbers(home)?.last().copied();
    let identity = read_identity(home)?;
    let manager = match (identity, newest) {
        (Some(identity), _) => identity.manager,
        (None, Some(number)) => manager_of(home, number)?,
        (None, None) => {
            return Err(no_log(home));
        }
    };
    let Some(number) = newest else {
        return Err(emptied(home, manager));
    };
    Ok((manager, identity, recover(home, manager, number)?))
}

/// Declares the folder, which was copied or moved here, to be the log's own from now on.
pub(super) fn adopt(home: &Home, folder: FolderId) -> Result<ManagerId, LogError> {
    let (manager, _, _) = read_any(home)?;
    let birth = Birth::Done;
    let identity = Identity {
        manager,
        folder,
        birth,
    };
    write_identity(home, &identity)?;
    Ok(manager)
}

pub(super) fn read_identity(home: &Home) -> Result<Option<Identity>, LogError> {
    let place = home.folder.join(IDENTITY);
    let place = place.display();
    let bytes = match home.storage.read(IDENTITY) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(home.failed("read the file `identity`", error)),
    };
    match Identity::parse(&bytes) {
        Ok(identity) => Ok(Some(identity)),
        Err(IdentityFault::Format(found)) => Err(LogError::new(format!(
            "log identity {place} is of format version {found}, and this program reads version \
             {FORMAT}: use the release that wrote it"
        ))),
        Err(IdentityFault::Damage) => Err(LogError::new(format!(
            "log identity {place} is damaged or was edited: put the original back; if it is lost \
             and this folder is the original, remove the file and adopt the log by `unanimous \
             log adopt` (or `FileLog::adopt`)"
        ))),
    }
}

/// Neither a log nor anything else is in the folder.
pub(super) fn holds_nothing(home: &Home) -> Result<(), LogError> {
    let names = home.storage.list();
    let names = names.map_err(|error| home.failed("list the folder", error))?;
    if names.iter().any(|name| segment_number(name).is_some()) {
        return Err(LogError::new(format!(
            "log {}: its file `identity` is gone: put it back; if it is lost and this folder is \
             the original, adopt it by `unanimous log adopt` (or `FileLog::adopt`)",
            home.folder.display()
        )));
    }
    let is_harmless = |name: &&str| BESIDE.contains(name) || UNDER_WAY.contains(name);
    let mut names = names.iter().map(String::as_str);
    let foreign = names.find(|name| !is_harmless(name));
    if let Some(foreign) = foreign {
        return Err(LogError::new(format!(
            "log {}: the folder holds no log but other files, such as {foreign:?}: give the log a \
             folder of its own",
            home.folder.display()
        )));
    }
    Ok(())
}

fn new_identity(home: &Home, folder: FolderId) -> Result<Identity, LogError> {
    holds_nothing(home)?;
    let identity = Identity {
        manager: ManagerId::from_bytes(random(home)?),
        folder,
        birth: Birth::Begun,
    };
    write_identity(home, &identity)?;
    Ok(identity)
}

/// Whether a log's folder is the one that it was made in.
#[cfg(feature = "operator")]
pub(super) fn check_place(home: &Home) -> Result<(), LogError> {
    use std::os::unix::fs::MetadataExt;

    let looked = home.folder.metadata();
    let metadata = looked.map_err(|error| home.failed("look at the folder", error))?;
    let folder = FolderId {
        device: metadata.dev(),
        inode: metadata.ino(),
    };
    read_identity(home)?.map_or(Ok(()), |identity| check_folder(home, identity, folder))
}

pub(super) fn check_folder(
    home: &Home,
    identity: Identity,
    folder: FolderId,
) -> Result<(), LogError> {
    if identity.folder == folder {
        return Ok(());
    }
    let (was, is) = (identity.folder, folder);
    Err(LogError::new(format!(
        "log {}: this folder is a copy, or was restored or moved to another disk (device {} inode \
         {} when the log was made, now device {} inode {}). If the original is used by nobody and \
         this is its latest state, adopt it by `unanimous log adopt` (or `FileLog::adopt`); else \
         begin a new log in another folder",
        home.folder.display(),
        was.device,
        was.inode,
        is.device,
        is.inode
    )))
}

pub(super) fn emptied(home: &Home, manager: ManagerId) -> LogError {
    LogError::new(format!(
        "log {}: the segments of manager {manager} are gone, and decisions with them: put them \
         back; if they are lost for good, remove the file `identity`, too: the log is then a new \
         one, and a person has to resolve the branches of the old manager",
        home.folder.display()
    ))
}

/// Replaces the file `identity` in one step, durably.
pub(super) fn write_identity(home: &Home, identity: &Identity) -> Result<(), LogError> {
    home.replace(IDENTITY, IDENTITY_TEMP, &identity.encode())
}

fn random_u64(home: &Home) -> Result<u64, LogError> {
    random(home).map(u64::from_le_bytes)
}

fn random<const N: usize>(home: &Home) -> Result<[u8; N], LogError> {
    let mut bytes = [0; N];
    match home.storage.fill_random(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(LogError::new(format!(
            "log {}: the operating system gives no random bits",
            home.folder.display()
        ))
        .with_source(error)),
    }
}
