//! The seam between the log and the disk: few operations, each with what it promises about
//! durability, so that a simulated disk can keep live and durable bytes apart.
//!
//! Promises, which [`DiskFolder`] gets from the operating system and `docs/log-format.md` lists as
//! assumptions about the disk: what [`StoredFile::sync`] or [`StoredFile::sync_data`] has answered
//! `Ok` for survives a crash; a name survives once [`Storage::sync_folder`] has answered `Ok`; a
//! rename replaces the target in one step. After an error nothing is promised.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A folder that holds a log.
pub(super) trait Storage: Send + Sync + 'static {
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
}

/// A file that is open for writing.
pub(super) trait StoredFile: Send + 'static {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes bytes and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Makes bytes durable, in a file whose length and place on the disk are durable already.
    fn sync_data(&self) -> io::Result<()>;
}

/// A real folder.
#[derive(Debug)]
pub(super) struct DiskFolder {
    path: PathBuf,
    handle: File,
}

impl DiskFolder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            handle: File::open(path)?,
        })
    }

    /// Makes a folder that only its owner can enter, durably.
    pub(super) fn create(path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        File::open(parent)?.sync_all()
    }
}

impl Storage for DiskFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.path.read_dir()? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path.join(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl StoredFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
