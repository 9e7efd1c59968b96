//! Servers from Debian packages, unpacked into the cache folder and never installed.
//!
//! The machine's own `apt-get` finds, checks and downloads the packages, with a state of its own
//! below the cache folder: its own list of sources, its own package lists, and an empty list of
//! installed packages, so that a server comes with every library it needs, down to the C library.
//! The mirror and the proxy are the machine's, and Debian's keyring decides what is believed.
//!
//! What was unpacked runs with its own libraries: every program is replaced by a small script that
//! calls the unpacked dynamic loader. So a server from any release of Debian runs on this machine.
//!
//! A folder in the cache is complete if it is there under its final name; `versions.txt` in it
//! records what it was made from. It is used from then on without a question to the network, until
//! somebody removes it.

mod apt;
mod cache;
mod sources;
mod unpack;

use std::{
    fs,
    path::{Path, PathBuf},
};

use apt::Apt;
use cache::Cache;
use sources::Machine;

use super::{Error, Kind};

/// What to download for one server.
struct Recipe {
    /// The folder in the cache.
    folder: &'static str,
    /// The package to ask for. `postgresql` stands for the release's own version.
    package: &'static str,
    /// The releases to try, in this order.
    releases: &'static [Release],
    /// Where the server program is, with `*` for one folder of any name.
    server: &'static str,
}

/// A release of Debian.
#[derive(Clone, Copy, Debug)]
enum Release {
    Named(&'static str),
    /// The machine's own, where the others are no longer to be had.
    OfMachine,
}

const POSTGRES_15: Recipe = Recipe {
    folder: "postgresql-15",
    package: "postgresql",
    releases: &[Release::Named("bookworm"), Release::OfMachine],
    server: "usr/lib/postgresql/*/bin/postgres",
};

const POSTGRES_NEWEST: Recipe = Recipe {
    folder: "postgresql-newest",
    package: "postgresql",
    releases: &[Release::Named("sid")],
    server: "usr/lib/postgresql/*/bin/postgres",
};

const MYSQL: Recipe = Recipe {
    folder: "mysql",
    package: "mysql-server-core",
    releases: &[Release::Named("sid")],
    server: "usr/sbin/mysqld",
};

const MARIADB: Recipe = Recipe {
    folder: "mariadb",
    package: "mariadb-server-core",
    releases: &[Release::Named("bookworm"), Release::OfMachine],
    server: "usr/sbin/mariadbd",
};

const PGBOUNCER: Recipe = Recipe {
    folder: "pgbouncer",
    package: "pgbouncer",
    releases: &[Release::Named("bookworm"), Release::OfMachine],
    server: "usr/sbin/pgbouncer",
};

/// The server program of a kind, downloaded if the cache does not have it.
pub(super) fn server(kind: Kind) -> Result<PathBuf, Error> {
    provide(match kind {
        Kind::Postgres15 => &POSTGRES_15,
        Kind::PostgresNewest => &POSTGRES_NEWEST,
        Kind::Mysql => &MYSQL,
        Kind::Mariadb => &MARIADB,
    })
}

/// The program `pgbouncer`, downloaded if the cache does not have it.
pub(super) fn pgbouncer() -> Result<PathBuf, Error> {
    provide(&PGBOUNCER)
}

fn provide(recipe: &Recipe) -> Result<PathBuf, Error> {
    let cache = Cache::open()?;
    let folder = cache.folder(recipe.folder);
    if !folder.is_dir() {
        let _lock = cache.lock(recipe.folder)?;
        // Another process may have made it while this one waited for the lock.
        if !folder.is_dir() {
            download(recipe, &cache, &folder)?;
        }
    }
    find_program(&folder, recipe.server).ok_or_else(|| {
        let folder = folder.display();
        let missing = recipe.server;
        Error::program(
            recipe.package,
            format!("{missing} is not in {folder}: remove this folder to download it anew"),
        )
    })
}

/// Downloads and unpacks from the first release that has it.
fn download(recipe: &Recipe, cache: &Cache, folder: &Path) -> Result<(), Error> {
    let machine = Machine::read()?;
    let mut releases: Vec<&str> = recipe
        .releases
        .iter()
        .map(|release| match release {
            Release::Named(name) => name,
            Release::OfMachine => machine.codename(),
        })
        .collect();
    // The machine's release may be the named one.
    releases.dedup();
    let mut refusals = Vec::new();
    for release in releases {
        match download_from(release, recipe, &machine, cache, folder) {
            Ok(()) => return Ok(()),
            Err(error) => refusals.push(format!("from Debian {release}: {error}")),
        }
    }
    Err(Error::program(
        format!("package {}", recipe.package),
        refusals.join("; "),
    ))
}

fn download_from(
    release: &str,
    recipe: &Recipe,
    machine: &Machine,
    cache: &Cache,
    folder: &Path,
) -> Result<(), Error> {
    // A clean slate: whoever died here before has left half a folder.
    let work = cache.fresh_folder(&format!("{}.new", recipe.folder))?;
    let packages = {
        let _lock = cache.lock(&format!("apt-{release}"))?;
        let apt = Apt::open(&cache.folder(&format!("apt-{release}")), release, machine)?;
        apt.download(recipe.package, &work)?
    };
    let root = work.join("root");
    unpack::unpack(&packages, &root)?;
    let versions = work.join("root/versions.txt");
    let text = packages
        .iter()
        .map(|package| format!("{release} {package}\n"));
    fs::write(&versions, text.collect::<String>()).map_err(Error::io("write", &versions))?;
    fs::rename(&root, folder).map_err(Error::io("move into place", folder))?;
    // Only the packages' files are left in it, and nobody needs them.
    let _ = fs::remove_dir_all(work);
    Ok(())
}

/// Finds a program by a path in which `*` stands for one folder.
fn find_program(root: &Path, pattern: &str) -> Option<PathBuf> {
    let path = match pattern.split_once("/*/") {
        None => root.join(pattern),
        Some((parent, rest)) => {
            let entries = fs::read_dir(root.join(parent)).ok()?;
            let mut programs = entries.filter_map(|entry| Some(entry.ok()?.path().join(rest)));
            programs.find(|program| program.is_file())?
        }
    };
    path.is_file().then_some(path)
}
