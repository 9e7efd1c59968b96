//! Unpacks packages into a folder of their own, and makes their programs run from there.

use std::{
    fs::{self, Permissions},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{apt::Package, cache::make_open_folder};
use crate::servers::Error;

/// Folders that no server reads. PostgreSQL's programs are below `usr/lib`, the others' servers in
/// `usr/sbin`.
const USELESS: [&str; 7] = [
    "usr/bin",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/perl5",
    "usr/share/gdb",
];

/// Unpacks the packages' files into `root` and wraps every program in it.
pub(super) fn unpack(packages: &[Package], root: &Path) -> Result<(), Error> {
    make_open_folder(root)?;
    let Some(folder) = packages.first().map(|package| package.folder.as_path()) else {
        return Err(Error::program(
            "apt-get download",
            "it planned no package at all",
        ));
    };
    let is_package = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "deb");
    for package in entries(folder)?.into_iter().filter(is_package) {
        let unpacked = Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(root)
            .output();
        let unpacked = unpacked.map_err(|error| Error::program("dpkg-deb", error.to_string()))?;
        if !unpacked.status.success() {
            let said = String::from_utf8_lossy(&unpacked.stderr).trim().to_owned();
            return Err(Error::program(
                format!("dpkg-deb --extract {}", package.display()),
                said,
            ));
        }
    }
    let loader = Loader::find(root)?;
    // Character sets for programs that convert text by the C library; databases have their own.
    let conversions = loader.libraries.iter().map(|folder| folder.join("gconv"));
    for folder in USELESS.map(PathBuf::from).into_iter().chain(conversions) {
        // Not every package has every one of them.
        let _ = fs::remove_dir_all(root.join(folder));
    }
    for folder in program_folders(root) {
        for program in entries(&folder)? {
            if is_elf(&program) {
                loader.wrap(root, &program)?;
            }
        }
    }
    Ok(())
}

/// The dynamic loader among the unpacked files, and the folders of libraries; relative to the root.
struct Loader {
    loader: PathBuf,
    libraries: Vec<PathBuf>,
}

impl Loader {
    fn find(root: &Path) -> Result<Self, Error> {
        let mut libraries = Vec::new();
        let mut loader = None;
        for parent in ["usr/lib", "lib"] {
            for folder in entries(&root.join(parent)).unwrap_or_default() {
                // Libraries are in `x86_64-linux-gnu` and the like.
                let is_for_machine = folder.to_str().is_some_and(|path| path.contains("-linux-"));
                if is_for_machine && folder.is_dir() {
                    let found = entries(&folder)?.into_iter().find(|path| is_loader(path));
                    loader = loader.or(found);
                    libraries.push(folder);
                }
            }
        }
        let relative = |path: &PathBuf| path.strip_prefix(root).unwrap_or(path).to_path_buf();
        match loader {
            Some(loader) => Ok(Self {
                loader: relative(&loader),
                libraries: libraries.iter().map(relative).collect(),
            }),
            None => Err(Error::program(
                "package libc6",
                "the dynamic loader (ld-linux) is not among its files",
            )),
        }
    }

    /// Puts a script in the place of a program.
    ///
    /// PostgreSQL's programs look for each other beside themselves, by the name they were called
    /// with; so the script keeps the program's place, and passes its name on.
    fn wrap(&self, root: &Path, program: &Path) -> Result<(), Error> {
        let name = program.file_name().unwrap_or_default();
        let mut hidden_name = name.to_owned();
        hidden_name.push(".real");
        let hidden = program.with_file_name(hidden_name);
        let below_root = program.strip_prefix(root).unwrap_or(program);
        let up = "/..".repeat(below_root.components().count() - 1);
        let libraries: Vec<String> = self
            .libraries
            .iter()
            .map(|folder| format!("$root/{}", folder.display()))
            .collect();
        let (libraries, loader) = (libraries.join(":"), self.loader.display());
        let script = format!(
            "#!/bin/sh\n\
             # Runs the program beside this script with its own libraries.\n\
             root=${{0%/*}}{up}\n\
             exec \"$root/{loader}\" --library-path \"{libraries}\" --argv0 \"$0\" \"$0.real\" \
             \"$@\"\n"
        );
        fs::rename(program, &hidden).map_err(Error::io("rename", program))?;
        fs::write(program, script).map_err(Error::io("write", program))?;
        fs::set_permissions(program, Permissions::from_mode(0o755))
            .map_err(Error::io("make executable", program))
    }
}

fn is_loader(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    // `ld-linux-x86-64.so.2`, `ld-linux-aarch64.so.1`; some machines call theirs `ld64.so.2`.
    let is_named = name.starts_with("ld-linux") || name.starts_with("ld64.so");
    is_named && path.is_file()
}

/// The folders that have programs in them.
fn program_folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.join("usr/sbin")];
    let of_postgres = entries(&root.join("usr/lib/postgresql")).unwrap_or_default();
    folders.extend(of_postgres.into_iter().map(|version| version.join("bin")));
    folders.retain(|folder| folder.is_dir());
    folders
}

/// Whether this is a program for the machine itself: a file, not a link, that begins as those do.
fn is_elf(path: &Path) -> bool {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let mut start = [0; 4];
    is_file
        && fs::File::open(path)
            .and_then(|mut file| file.read_exact(&mut start))
            .is_ok()
        && start == *b"\x7fELF"
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    Ok(paths)
}
