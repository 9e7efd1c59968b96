//! `apt-get` with a state of its own.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{cache::make_open_folder, sources::Machine};
use crate::servers::Error;

/// How old package lists may be before they are fetched again.
const LISTS_AGE_MAX: Duration = Duration::from_secs(60 * 60);

/// The packages of a server's closure that are worth unpacking begin with these: libraries, and
/// the server itself.
const WANTED: [&str; 7] = [
    "lib",
    "zlib1g",
    "openssl-provider",
    "postgresql",
    "mysql-",
    "mariadb-",
    "pgbouncer",
];

/// Of those, what a server of ours never uses and what is large.
const UNWANTED: [&str; 6] = [
    // Compiles queries; it is switched off.
    "libllvm",
    "libz3",
    // For tools written in Perl, and for the installation of packages.
    "libperl",
    "libsystemd-shared",
    "postgresql-common",
    "postgresql-client-common",
];

/// One package at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    name: String,
    version: String,
    /// Where its file was downloaded to; several packages share the folder.
    pub(super) folder: PathBuf,
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.version)
    }
}

/// A private state of the package manager, for one release.
#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
    config: PathBuf,
}

impl Apt {
    /// Opens the state in `folder`. The caller holds the lock on it.
    pub(super) fn open(folder: &Path, release: &str, machine: &Machine) -> Result<Self, Error> {
        for part in [
            "lists/partial",
            "cache/archives/partial",
            "sources",
            "log",
            "empty",
        ] {
            make_open_folder(&folder.join(part))?;
        }
        let sources = machine.sources_for(release)?;
        let config = folder.join("apt.conf");
        let text = config_text(folder, machine.settings());
        for (path, text) in [
            (folder.join("sources/unanimous.sources"), sources.as_str()),
            (folder.join("status"), ""),
            (config.clone(), text.as_str()),
        ] {
            fs::write(&path, text).map_err(Error::io("write", &path))?;
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            config,
        })
    }

    /// Downloads a package with every library it needs into `target`.
    pub(super) fn download(&self, package: &str, target: &Path) -> Result<Vec<Package>, Error> {
        self.update(false)?;
        let packages = self.try_download(package, target).or_else(|_| {
            // The lists are young, but the mirror may have moved on.
            self.update(true)?;
            self.try_download(package, target)
        });
        // Large, and made anew from the lists in a second.
        let _ = fs::remove_dir_all(self.folder.join("cache"));
        packages
    }

    fn try_download(&self, package: &str, target: &Path) -> Result<Vec<Package>, Error> {
        let plan = self.run(["install", "--simulate", "--yes", package], target)?;
        let packages: Vec<Package> = plan
            .lines()
            .filter_map(|line| parse_plan_line(line, target))
            .filter(|package| is_wanted(&package.name))
            .collect();
        let names = packages.iter().map(Package::to_string);
        // Fetches into its working folder, after the checks.
        self.run(["download".to_owned()].into_iter().chain(names), target)?;
        Ok(packages)
    }

    fn update(&self, even_if_young: bool) -> Result<(), Error> {
        let stamp = self.folder.join("updated");
        let age = fs::metadata(&stamp).and_then(|stamp| stamp.modified());
        let age = age.ok().and_then(|time| time.elapsed().ok());
        if !even_if_young && age.is_some_and(|age| age < LISTS_AGE_MAX) {
            return Ok(());
        }
        self.run(["update", "--error-on=any"], &self.folder)?;
        fs::write(&stamp, "").map_err(Error::io("write", &stamp))
    }

    fn run<T: AsRef<str>>(
        &self,
        args: impl IntoIterator<Item = T>,
        working_folder: &Path,
    ) -> Result<String, Error> {
        let mut command = Command::new("apt-get");
        command
            .env("LC_ALL", "C")
            .env("APT_CONFIG", &self.config)
            .current_dir(working_folder);
        command.arg("--quiet=2");
        let mut name = "apt-get".to_owned();
        for (index, arg) in args.into_iter().enumerate() {
            command.arg(arg.as_ref());
            if index == 0 {
                name = format!("apt-get {}", arg.as_ref());
            }
        }
        let output = command
            .output()
            .map_err(|error| Error::program("apt-get", error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::program(name, said));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The configuration: nothing of the machine's is read but what stands in it.
fn config_text(folder: &Path, settings: &str) -> String {
    let folder = folder.display();
    format!(
        "Dir::Etc::main \"/dev/null\";\n\
         Dir::Etc::parts \"{folder}/empty\";\n\
         Dir::Etc::sourcelist \"/dev/null\";\n\
         Dir::Etc::sourceparts \"{folder}/sources\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"{folder}/empty\";\n\
         Dir::State \"{folder}\";\n\
         Dir::State::lists \"{folder}/lists\";\n\
         Dir::State::status \"{folder}/status\";\n\
         Dir::State::extended_states \"{folder}/extended_states\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         Dir::Cache::archives \"{folder}/cache/archives\";\n\
         Dir::Log \"{folder}/log\";\n\
         APT::Sandbox::User \"\";\n\
         APT::Install-Recommends \"false\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::GzipIndexes \"true\";\n\
         {settings}"
    )
}

/// Parses `Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []`.
fn parse_plan_line(line: &str, folder: &Path) -> Option<Package> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(' ')?;
    let version = rest.split_once('(')?.1.split(' ').next()?;
    let (name, version) = (name.to_owned(), version.to_owned());
    Some(Package {
        name,
        version,
        folder: folder.to_path_buf(),
    })
}

fn is_wanted(name: &str) -> bool {
    let is_any = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    is_any(&WANTED) && !is_any(&UNWANTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_and_what_no_server_needs_is_left_out() {
        let plan = "NOTE: this is only a simulation\n\
                    Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []\n\
                    Inst libllvm14 (1:14.0.6-12 Debian:12.15/oldstable [amd64])\n\
                    Inst perl-base (5.36.0-7 Debian:12.15/oldstable [amd64])\n\
                    Inst postgresql-15 (15.20-0+deb12u1 Debian-Security:12 [amd64])\n\
                    Conf postgresql-15 (15.20-0+deb12u1 Debian-Security:12 [amd64])\n";
        let names: Vec<String> = plan
            .lines()
            .filter_map(|line| parse_plan_line(line, Path::new("/x")))
            .filter(|package| is_wanted(&package.name))
            .map(|package| package.to_string())
            .collect();
        assert_eq!(
            names,
            ["libc6=2.36-9+deb12u14", "postgresql-15=15.20-0+deb12u1"]
        );
    }

    #[test]
    fn the_private_configuration_has_the_machines_proxy_and_none_of_its_folders() {
        let text = config_text(
            Path::new("/c/apt-sid"),
            "Acquire::http::Proxy \"http://p\";\n",
        );
        assert!(text.contains("Dir::State::status \"/c/apt-sid/status\";\n"));
        assert!(text.contains("Acquire::http::Proxy \"http://p\";\n"));
        assert!(!text.contains("/var/") && !text.contains("/etc/apt"));
    }
}
