//! The folder of one running server, and the sweep of folders whose owners are gone.
//!
//! All folders of one user are in `unanimous-UID` under the temporary directory. A server's folder
//! is named after its owner, `PID-START-NUMBER`, and holds:
//!
//! * `owner`: a file that the owner keeps locked as long as it lives;
//! * `server`: the server's process, `PID-START`;
//! * `log`, `data/`, `tmp/`, `s/` (sockets).
//!
//! The sweep removes a folder only if the owner has ended (number and start time) *and* its lock is
//! free. The name answers for the moment between the making of the folder and of the lock; the lock
//! answers where process numbers do not, as between containers that share a temporary directory.

use std::{
    env,
    fs::{self, DirBuilder, File, Permissions},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Error,
    process::ProcessId,
    user::{ServerUser, is_reachable},
};

/// A socket's path may have 107 bytes; a folder below a base of this length stays far from that.
const BASE_BYTES_MAX: usize = 48;

/// Ports are taken from below the range that systems use for outgoing connections, so that a port
/// stays free while its server restarts.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// The folder of one server. Dropping it removes the folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    user: ServerUser,
    _owner: File,
}

impl Folder {
    /// Makes a folder for a server that runs as `user`.
    pub(super) fn create(user: ServerUser) -> Result<Self, Error> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = base()?;
        SWEPT.call_once(|| sweep(&base));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{}-{number}", ProcessId::current()));
        make_folder(&path, 0o711)?;
        let owner_path = path.join("owner");
        let owner = File::create(&owner_path).map_err(Error::io("create", &owner_path))?;
        owner.lock().map_err(Error::io("lock", &owner_path))?;
        let folder = Self {
            path,
            user,
            _owner: owner,
        };
        for part in ["data", "tmp", "s"] {
            let part = folder.path.join(part);
            make_folder(&part, 0o700)?;
            user.own(&part)?;
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    pub(super) fn sockets(&self) -> PathBuf {
        self.path.join("s")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) const fn user(&self) -> ServerUser {
        self.user
    }

    /// Writes a file that only the server's user may read.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))
            .map_err(Error::io("close", &path))?;
        self.user.own(&path)?;
        Ok(path)
    }

    /// Notes the server's process for a later sweep.
    pub(super) fn note_server(&self, server: ProcessId) -> Result<(), Error> {
        self.write("server", &server.to_string()).map(drop)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is left to the next sweep.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A port on 127.0.0.1 that no other server of ours takes as long as this lives.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    _reservation: File,
}

impl Port {
    /// A port that is free now. Somebody else's server may still take it before ours does.
    pub(super) fn reserve() -> Result<Self, Error> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let folder = base()?.join("ports");
        make_folder(&folder, 0o700)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.subsec_nanos());
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let seed = (now / 64) ^ std::process::id().rotate_left(16) ^ call.wrapping_mul(0x9E37_79B9);
        for offset in 0..1_000_u32 {
            let wide = seed.wrapping_add(offset) % u32::from(PORTS.end - PORTS.start);
            let Ok(step) = u16::try_from(wide) else {
                continue;
            };
            let number = PORTS.start + step;
            if let Some(port) = Self::take(&folder, number)? {
                return Ok(port);
            }
        }
        Err(Error::Environment(
            "no free port on 127.0.0.1 after 1000 tries".to_owned(),
        ))
    }

    fn take(folder: &Path, number: u16) -> Result<Option<Self>, Error> {
        let path = folder.join(number.to_string());
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let is_ours = file.try_lock().is_ok();
        let is_free = is_ours && TcpListener::bind(("127.0.0.1", number)).is_ok();
        Ok(is_free.then_some(Self {
            number,
            _reservation: file,
        }))
    }
}

/// The folder of this user's server folders, made if it is not there.
fn base() -> Result<PathBuf, Error> {
    let temporary = env::temp_dir();
    let fits = temporary.as_os_str().len() <= BASE_BYTES_MAX && is_reachable(&temporary);
    let temporary = if fits {
        temporary
    } else {
        PathBuf::from("/tmp")
    };
    let uid = rustix::process::geteuid().as_raw();
    let path = temporary.join(format!("unanimous-{uid}"));
    make_folder(&path, 0o711)?;
    // Anybody may make a folder of this name in a shared directory; ours is a real folder of ours.
    let found = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
    if !found.is_dir() || found.uid() != uid {
        let path = path.display();
        return Err(Error::Environment(format!(
            "{path} belongs to somebody else: remove it, or set TMPDIR to another folder"
        )));
    }
    Ok(path)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        // Somebody else of this user made it at the same moment.
        Err(_) if path.is_dir() => return Ok(()),
        Err(source) => return Err(Error::io("create", path)(source)),
    }
    // The mode of `create` is narrowed by the umask.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("open up", path))
}

/// Stops the servers and removes the folders of owners that are gone.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if is_left_over(&path) {
            let server = fs::read_to_string(path.join("server")).unwrap_or_default();
            if let Ok(server) = server.parse::<ProcessId>() {
                server.kill_tree();
            }
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_left_over(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let owner = name
        .rsplit_once('-')
        .and_then(|(owner, _)| owner.parse::<ProcessId>().ok());
    let Some(owner) = owner else { return false };
    if owner.is_alive() {
        return false;
    }
    // No lock file: the owner died before it made one, or another sweep is at work.
    File::open(path.join("owner")).map_or(true, |file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;
    use crate::servers::process::wait_until;

    fn scratch(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("xtask-{name}-{}", ProcessId::current()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_sweep_kills_the_server_of_a_dead_owner_and_spares_the_living() {
        let base = scratch("sweep");
        let mut server = Command::new("sleep").arg("600").spawn().unwrap();
        let id = ProcessId::of(server.id()).unwrap();
        let dead = ProcessId {
            pid: std::process::id(),
            started: 1,
        };
        let left = base.join(format!("{dead}-0"));
        let living = base.join(format!("{}-0", ProcessId::current()));
        let other = base.join("ports");
        for path in [&left, &living, &other] {
            fs::create_dir(path).unwrap();
        }
        fs::write(left.join("server"), id.to_string()).unwrap();
        sweep(&base);
        assert!(!left.exists() && living.exists() && other.exists());
        server.wait().unwrap();
        assert!(!id.is_alive());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_locked_folder_is_not_swept_even_if_its_owner_is_not_to_be_seen() {
        let base = scratch("locked");
        let unseen = ProcessId {
            pid: std::process::id(),
            started: 1,
        };
        let path = base.join(format!("{unseen}-0"));
        fs::create_dir(&path).unwrap();
        let lock = File::create(path.join("owner")).unwrap();
        lock.lock().unwrap();
        sweep(&base);
        assert!(path.exists());
        drop(lock);
        // Another test may be starting a process, which holds every open file for a moment.
        let is_swept = || {
            sweep(&base);
            !path.exists()
        };
        assert!(wait_until(Duration::from_secs(10), is_swept));
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn two_reservations_never_hold_the_same_port() {
        let folder = scratch("ports");
        let number = Port::reserve().unwrap().number;
        let mut first = None;
        // Another test may be starting a process, which holds every open socket for a moment.
        let is_taken = || {
            first = Port::take(&folder, number).unwrap();
            first.is_some()
        };
        assert!(wait_until(Duration::from_secs(10), is_taken));
        assert!(Port::take(&folder, number).unwrap().is_none());
        fs::remove_dir_all(folder).unwrap();
    }
}
