//! The control socket's place: `control.sock` in the log's folder, for its owner alone.
//!
//! * Only whoever holds the log makes it, so one that is there already is a dead owner's and is
//!   replaced. It appears under its name by a rename, with mode 0600 from the first moment: until
//!   then it is in a folder that nobody else may enter.
//! * A socket's address has at most 107 bytes. Where the folder's path is longer, Linux lets us go
//!   through `/proc/self/fd`; elsewhere there is no socket, and a warning says why.
//! * It is removed at the end, if it is still the one that was made.

use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the log's folder.
pub(super) const NAME: &str = "control.sock";

/// In which it is made.
const NURSERY: &str = ".control";

/// `sun_path` has 108 bytes, of which the last ends it.
const ADDRESS_BYTES_MAX: usize = 107;

/// A socket that is listened on. Its file goes when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    made: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|metadata| id(&metadata) == self.made);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket could not be removed");
        }
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Makes the socket in the folder of a log that the caller holds.
pub(super) fn listen(folder: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let nursery = folder.join(NURSERY);
    // Left by an owner that died while it made its socket.
    if nursery.symlink_metadata().is_ok() {
        std::fs::remove_dir_all(&nursery)?;
    }
    DirBuilder::new().mode(0o700).create(&nursery)?;
    let made = listen_in(&nursery, folder);
    // Empty now, or not worth more words than the error that is returned.
    drop(std::fs::remove_dir_all(&nursery));
    made
}

fn listen_in(nursery: &Path, folder: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let newborn = nursery.join("s");
    let listener = UnixListener::bind(&Address::of(&newborn)?.path)?;
    std::fs::set_permissions(&newborn, Permissions::from_mode(0o600))?;
    let made = id(&newborn.symlink_metadata()?);
    let path = folder.join(NAME);
    std::fs::rename(&newborn, &path)?;
    Ok((listener, SocketFile { path, made }))
}

/// Connects to the socket in this folder. Does not wait: an application that accepts no more is an
/// error.
pub(super) async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let address = Address::of(&folder.join(NAME))?;
    UnixStream::connect(&address.path).await
}

/// An address that fits, and leads to the path for as long as this is kept.
struct Address {
    path: PathBuf,
    _folder: Option<File>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Self> {
        let length = path.as_os_str().len();
        if length <= ADDRESS_BYTES_MAX {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = File::open(folder)?;
        let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        if !through.exists() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "its path has {length} bytes, and a socket's at most {ADDRESS_BYTES_MAX}: put \
                     the log into a folder with a shorter path"
                ),
            ));
        }
        Ok(Self {
            path: through.join(name),
            _folder: Some(folder),
        })
    }
}
