//! The log's folder: made if it is missing, locked, and known by device and inode.
//!
//! Promises: at most one open log per folder, on this machine and in this process, whatever path
//! or symbolic link leads to it. The lock is the kernel's and ends with its holder; the file `lock`
//! is never stale and need not be removed. The folder itself is locked, too, where the file system
//! can do that, so that removing the file does not let a second log in.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

use unanimous_core::ports::LogError;

use super::errors;
use super::identity::FolderId;
use super::storage::DiskFolder;

const LOCK: &str = "lock";

/// The right to use the folder; given back when dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
    folder: FolderId,
    handle: File,
}

impl FolderLock {
    /// Makes the folder if its parent is there, and locks it.
    pub(super) fn acquire(path: &Path) -> Result<Self, LogError> {
        make_folder(path)?;
        let failed = |doing| move |error| errors::io(path, doing, error);
        let open_failed = failed("open the folder");
        let handle = File::open(path).map_err(open_failed)?;
        let metadata = handle.metadata().map_err(open_failed)?;
        warn_if_others_may_write(path, &metadata);
        let disk = DiskFolder::of(handle.try_clone().map_err(open_failed)?);
        let mut file = disk
            .file(LOCK, OFlags::RDWR | OFlags::CREATE)
            .map_err(failed("make the file `lock`"))?;
        match try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(path, &mut file)),
            Err(TryLockError::Error(error)) => return Err(failed("lock the file `lock`")(error)),
        }
        // Not every file system can lock a folder (NFS cannot): the lock file is what is promised.
        if let Err(TryLockError::WouldBlock) = try_lock(&handle) {
            return Err(in_use(path, &mut file));
        }
        let pid_failed = failed("write the file `lock`");
        file.set_len(0).map_err(pid_failed)?;
        writeln!(file, "{}", std::process::id()).map_err(pid_failed)?;
        Ok(Self {
            file,
            folder: FolderId {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            handle,
        })
    }

    /// The folder that is locked, whatever has become of its path.
    pub(super) fn open(&self) -> io::Result<DiskFolder> {
        self.handle.try_clone().map(DiskFolder::of)
    }

    /// Which folder it is.
    pub(super) const fn folder(&self) -> FolderId {
        self.folder
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // So that nobody is told a pid that no longer holds it. The lock itself ends with the file.
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(%error, "the pid stays in the file `lock`");
        }
    }
}

/// Tries for a moment: a child that is just being started by the process that let go of the lock
/// holds it, too, from its fork to its exec.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    try_often(|| file.try_lock())
}

fn try_often(lock: impl Fn() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    const TRIES: usize = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 1..TRIES {
        match lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            answer => return answer,
        }
    }
    lock()
}

fn make_folder(path: &Path) -> Result<(), LogError> {
    let folder = path.display();
    let error = match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            sync_name(path);
            return Ok(());
        }
        Ok(_) => {
            return Err(LogError::new(format!(
                "log {folder}: this is not a folder: remove it, or put the log elsewhere"
            )));
        }
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::NotFound {
        return Err(errors::io(path, "look at the folder", error));
    }
    if let Ok(target) = path.read_link() {
        return Err(LogError::new(format!(
            "log {folder}: this is a symbolic link to {}, which does not exist: make that folder, \
             or correct the link",
            target.display()
        )));
    }
    match DiskFolder::create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LogError::new(format!(
            "log {folder}: the folder that it should be made in does not exist: make that, or \
             correct the path"
        ))
        .with_source(error)),
        made => made.map_err(|error| errors::io(path, "make the folder", error)),
    }
}

/// Whoever made the folder may have died before its name was durable: after that it makes the file
/// `lock`. Not every folder above can be synced, and who made this one may not be a log.
fn sync_name(path: &Path) {
    if !path.join(LOCK).exists()
        && let Err(error) = DiskFolder::sync_parent(path)
    {
        tracing::warn!(
            folder = %path.display(), %error,
            "the name of the decision log's folder may not be durable"
        );
    }
}

/// Who holds the folder now, for people; `None` if nobody does. Makes and changes nothing; the lock
/// that this takes for a moment is shared, and whoever opens the log tries for longer.
///
/// # Errors
/// That cannot be told.
#[cfg(feature = "operator")]
pub(crate) fn held_by(path: &Path) -> Result<Option<String>, LogError> {
    let failed = |doing| move |error| errors::io(path, doing, error);
    let handle = File::open(path).map_err(failed("open the folder"))?;
    let mut file = match File::open(path.join(LOCK)) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("open the file `lock`")(error)),
    };
    if let Some(file) = &mut file {
        match try_often(|| file.try_lock_shared()) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Some(holder(file))),
            Err(TryLockError::Error(error)) => return Err(failed("lock the file `lock`")(error)),
        }
    }
    match try_often(|| handle.try_lock_shared()) {
        Err(TryLockError::WouldBlock) => Ok(Some("another process".to_owned())),
        // Not every file system can lock a folder.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// The log is opened by nobody else as long as that process has it.
pub(crate) fn in_use_by(path: &Path, holder: &str) -> LogError {
    LogError::new(format!(
        "log {}: in use by {holder}: stop it, or give each instance a log of its own",
        path.display()
    ))
}

fn in_use(path: &Path, file: &mut File) -> LogError {
    in_use_by(path, &holder(file))
}

/// As its file says.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file
        .read_to_string(&mut text)
        .map(|_| text.trim().parse::<u32>())
    {
        Ok(Ok(pid)) if pid == std::process::id() => format!("this process itself (pid {pid})"),
        Ok(Ok(pid)) if is_dead(pid) => format!(
            "a process that pid {pid}, which has ended, left behind, or by one in another \
             container (`fuser -v` on the file `lock` names it)"
        ),
        Ok(Ok(pid)) => format!("the process with pid {pid}"),
        Ok(Err(_)) | Err(_) => "another process".into(),
    }
}

/// As far as can be seen from here. Only for the text of an error.
fn is_dead(pid: u32) -> bool {
    Path::new("/proc/self").exists() && !Path::new("/proc").join(pid.to_string()).exists()
}

fn warn_if_others_may_write(path: &Path, metadata: &std::fs::Metadata) {
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        tracing::warn!(
            folder = %path.display(),
            mode = format_args!("{mode:o}"),
            "other users may write in the decision log's folder: chmod it to 700"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A child that lives until it is dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn with(stdin: Stdio) -> Self {
            let mut command = Command::new("sleep");
            Self(command.arg("600").stdin(stdin).spawn().unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// What a fork without exec does to a lock: the child holds it, too.
    #[test]
    fn i5_a_child_that_was_given_the_lock_holds_it_and_is_told_from_a_stale_file() {
        let temp = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(temp.path()).unwrap();
        let child = Sleeper::with(lock.file.try_clone().unwrap().into());
        drop(lock);
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        std::fs::write(temp.path().join(LOCK), ended.id().to_string()).unwrap();
        let text = FolderLock::acquire(temp.path()).unwrap_err().to_string();
        let said = format!("pid {}, which has ended, left behind", ended.id());
        assert!(text.contains(&said) && text.contains("fuser"), "{text}");
        drop(child);
        // Now the file is stale, and nobody cares.
        FolderLock::acquire(temp.path()).unwrap();
    }

    #[test]
    fn a_program_that_is_run_inherits_no_lock() {
        let temp = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(temp.path()).unwrap();
        let _child = Sleeper::with(Stdio::null());
        drop(lock);
        FolderLock::acquire(temp.path()).unwrap();
    }
}
