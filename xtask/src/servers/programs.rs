//! Which programs a server is made from: the machine's own, or downloaded ones.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use super::{Error, Kind, Version, debian};

/// Where a server's programs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They were on the machine already.
    Machine,
    /// They were downloaded into the cache folder.
    Cache,
}

/// The programs of one kind of server.
#[derive(Clone, Debug)]
pub struct Programs {
    kind: Kind,
    version: Version,
    release: String,
    server: PathBuf,
    origin: Origin,
}

impl Programs {
    /// The kind of server these are for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The version of the server.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// What the server program itself says of its version.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The server program.
    #[must_use]
    pub fn server(&self) -> &Path {
        &self.server
    }

    /// The folder of the server program, where PostgreSQL has its other programs too.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.server.parent().unwrap_or(Path::new("/"))
    }

    /// Where the programs come from.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Asks a program for its version; `None` if it is not a server of this kind that fits.
    fn examine(kind: Kind, server: PathBuf, origin: Origin) -> Option<Self> {
        let answer = Command::new(&server)
            .arg("--version")
            .env("LC_ALL", "C")
            .output()
            .ok()?;
        let release = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        let is_mariadb = release.contains("MariaDB");
        let is_the_kind = match kind {
            Kind::Postgres15 | Kind::PostgresNewest => release.contains("PostgreSQL"),
            Kind::Mysql => !is_mariadb,
            Kind::Mariadb => is_mariadb,
        };
        let version = Version::parse(&release)?;
        let fits = is_the_kind && kind.accepts(version);
        fits.then_some(Self {
            kind,
            version,
            release,
            server,
            origin,
        })
    }
}

/// Which of the steps the environment allows: `UNANIMOUS_SERVERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Whatever is there first.
    Any,
    /// The shared servers from containers, or not at all.
    Compose,
    /// Only programs that the machine has.
    Machine,
    /// Only programs that were downloaded.
    Download,
}

impl Choice {
    pub(super) fn from_env() -> Result<Self, Error> {
        Self::parse(&env::var("UNANIMOUS_SERVERS").unwrap_or_default())
    }

    fn parse(value: &str) -> Result<Self, Error> {
        match value {
            "" => Ok(Self::Any),
            "compose" => Ok(Self::Compose),
            "machine" => Ok(Self::Machine),
            "download" => Ok(Self::Download),
            other => Err(Error::Environment(format!(
                "UNANIMOUS_SERVERS is `{other}`: leave it unset, or set it to `compose` (the \
                 shared servers from containers only), `machine` (no containers, and never \
                 download) or `download` (neither containers nor the machine's own programs)"
            ))),
        }
    }
}

/// Finds the programs of a kind of server, once per process.
///
/// # Errors
/// When neither the machine nor a download has them; the error says what each step answered.
pub fn find(kind: Kind) -> Result<Programs, Error> {
    static FOUND: Mutex<Option<HashMap<Kind, Programs>>> = Mutex::new(None);
    let known = |found: &Option<HashMap<Kind, Programs>>| found.as_ref()?.get(&kind).cloned();
    if let Some(programs) = known(&FOUND.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(programs);
    }
    // Without the lock, so that several kinds can be downloaded at the same time.
    let programs = search(kind)?;
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    found.get_or_insert_default().insert(kind, programs.clone());
    Ok(programs)
}

fn search(kind: Kind) -> Result<Programs, Error> {
    let choice = Choice::from_env()?;
    let mut tried = Vec::new();
    if choice != Choice::Download {
        match on_machine(kind) {
            Some(programs) => return Ok(programs),
            None => tried.push("the machine has no such server of a fitting version".to_owned()),
        }
    } else {
        tried.push("UNANIMOUS_SERVERS=download leaves out the machine's programs".to_owned());
    }
    if choice != Choice::Machine {
        match debian::server(kind) {
            Ok(server) => {
                let path = server.display().to_string();
                match Programs::examine(kind, server, Origin::Cache) {
                    Some(programs) => return Ok(programs),
                    None => tried.push(format!(
                        "{path} was downloaded and is not a {kind} that runs here: remove its \
                         folder to download it anew"
                    )),
                }
            }
            Err(error) => tried.push(error.to_string()),
        }
    } else {
        tried.push("UNANIMOUS_SERVERS=machine leaves out the download".to_owned());
    }
    Err(Error::Unavailable { kind, tried })
}

/// The machine's own server: for PostgreSQL 15 the oldest that fits, else the newest.
fn on_machine(kind: Kind) -> Option<Programs> {
    let mut found: Vec<Programs> = candidates(kind)
        .into_iter()
        .filter_map(|server| resolve(kind, &server))
        .filter_map(|server| Programs::examine(kind, server, Origin::Machine))
        .collect();
    found.sort_by_key(Programs::version);
    match kind {
        Kind::Postgres15 => found.into_iter().next(),
        Kind::PostgresNewest | Kind::Mysql | Kind::Mariadb => found.pop(),
    }
}

/// Where a server program really is, behind any links: its other files are beside that place. A
/// PostgreSQL counts only with the programs that make its data.
fn resolve(kind: Kind, server: &Path) -> Option<PathBuf> {
    let server = fs::canonicalize(server).ok()?;
    let has = |name: &str| server.with_file_name(name).is_file();
    let is_whole = !kind.is_postgres() || (has("initdb") && has("pg_basebackup"));
    is_whole.then_some(server)
}

/// Where a server program may be.
fn candidates(kind: Kind) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    let names: &[&str] = match kind {
        Kind::Postgres15 | Kind::PostgresNewest => {
            // Debian and its kin; Fedora and its kin.
            folders.extend(below("/usr/lib/postgresql", ""));
            folders.extend(below("/usr", "pgsql-"));
            &["postgres"]
        }
        Kind::Mysql | Kind::Mariadb => {
            folders.extend(["/usr/sbin", "/usr/libexec"].map(PathBuf::from));
            &["mariadbd", "mysqld"]
        }
    };
    folders
        .iter()
        .flat_map(|folder| names.iter().map(|name| folder.join(name)))
        .collect()
}

/// The `bin` folders of the folders below `parent` whose names begin with `prefix`.
fn below(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let fits = |name: &Path| name.to_str().is_some_and(|name| name.starts_with(prefix));
    entries
        .filter_map(Result::ok)
        .filter(|entry| fits(Path::new(&entry.file_name())))
        .map(|entry| entry.path().join("bin"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::servers::process::ProcessId;

    #[test]
    fn a_choice_that_does_not_exist_is_refused_with_those_that_do() {
        assert_eq!(Choice::parse("").unwrap(), Choice::Any);
        assert_eq!(Choice::parse("compose").unwrap(), Choice::Compose);
        let refusal = Choice::parse("docker").unwrap_err().to_string();
        for word in ["docker", "compose", "machine", "download"] {
            assert!(refusal.contains(&format!("`{word}`")), "{refusal}");
        }
    }

    #[test]
    fn a_program_that_calls_itself_mariadb_is_not_taken_for_mysql() {
        let folder = env::temp_dir().join(format!("xtask-examine-{}", ProcessId::current()));
        fs::create_dir_all(&folder).unwrap();
        let server = folder.join("mysqld");
        let says = "#!/bin/sh\necho 'mysqld  Ver 10.11.19-MariaDB for debian-linux-gnu'\n";
        fs::write(&server, says).unwrap();
        fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
        let examine = |kind| Programs::examine(kind, server.clone(), Origin::Machine);
        assert!(examine(Kind::Mysql).is_none());
        assert_eq!(
            examine(Kind::Mariadb).unwrap().version(),
            Version {
                major: 10,
                minor: 11
            }
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
