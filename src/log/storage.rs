//! The seam between the log and the disk: few operations, each with what it promises about
//! durability, so that a simulated disk can keep live and durable bytes apart.
//!
//! Promises, which [`DiskFolder`] gets from the operating system and `docs/log-format.md` lists as
//! assumptions about the disk: what [`StoredFile::sync`] or [`StoredFile::sync_data`] has answered
//! `Ok` for survives a crash; a name survives once [`Storage::sync_folder`] has answered `Ok`; a
//! rename replaces the target in one step. After an error nothing is promised.
//!
//! A real folder is its inode, not its path: a log goes on where it is when its folder is moved,
//! and never touches another that has taken its place.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, fstat, openat, renameat, statat, unlinkat};

/// A folder that holds a log.
pub trait Storage: Send + Sync + 'static {
    /// The names of everything in the folder.
    fn list(&self) -> io::Result<Vec<String>>;
    /// The bytes of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// A new, empty file in place of any that has this name.
    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>>;
    /// Gives the file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Fills in random bits, by which logs and openings are told apart for ever.
    fn fill_random(&self, bytes: &mut [u8]) -> Result<(), getrandom::Error> {
        getrandom::fill(bytes)
    }
}

/// A file that is open for writing.
pub trait StoredFile: Send + 'static {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes bytes and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Makes bytes durable, in a file whose length and place on the disk are durable already.
    fn sync_data(&self) -> io::Result<()>;
    /// Whoever reads `name` in the folder reads this file, as far as can be told: nobody has
    /// removed it, given it another name, or put another file in its place.
    fn has_name(&self, name: &str) -> bool;
}

/// A real folder.
#[derive(Debug)]
pub(super) struct DiskFolder {
    handle: Arc<File>,
}

/// A file of it.
struct DiskFile {
    file: File,
    /// As it was made. As long as it is open, no other file gets its inode.
    born: Stat,
    folder: Arc<File>,
}

impl DiskFolder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self::of)
    }

    /// The folder that is open.
    pub(super) fn of(handle: File) -> Self {
        let handle = Arc::new(handle);
        Self { handle }
    }

    /// A file of this folder, made if `flags` say so, for its owner alone.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat(&self.handle, name, flags | OFlags::CLOEXEC, mode);
        Ok(File::from(file.map_err(|error| self.told(error.into()))?))
    }

    /// Tells a missing file from a missing folder.
    fn told(&self, error: io::Error) -> io::Error {
        let is_gone = || self.handle.metadata().is_ok_and(|data| data.nlink() == 0);
        if error.kind() == io::ErrorKind::NotFound && is_gone() {
            return io::Error::new(error.kind(), "the folder itself was removed");
        }
        error
    }

    /// Makes a folder that only its owner can enter, durably.
    pub(super) fn create(path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        Self::sync_parent(path)
    }

    /// Makes the name of a folder durable.
    pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
        let path = path.canonicalize()?;
        let parent = match path.parent() {
            Some(parent) => parent,
            // The root has no name.
            None => return Ok(()),
        };
        File::open(parent)?.sync_all()
    }
}

impl Storage for DiskFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(name, OFlags::RDONLY)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        match self.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = self.file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let born = fstat(&file)?;
        let folder = Arc::clone(&self.handle);
        Ok(Box::new(DiskFile { file, born, folder }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let renamed = renameat(&self.handle, from, &self.handle, to);
        renamed.map_err(|error| self.told(error.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = unlinkat(&self.handle, name, AtFlags::empty());
        removed.map_err(|error| self.told(error.into()))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl StoredFile for DiskFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn has_name(&self, name: &str) -> bool {
        // The links are not counted: another one may be what is left.
        match statat(&*self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => (named.st_dev, named.st_ino) == (self.born.st_dev, self.born.st_ino),
            Err(error) => io::Error::from(error).kind() != io::ErrorKind::NotFound,
        }
    }
}
