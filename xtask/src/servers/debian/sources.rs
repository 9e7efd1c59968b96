//! What the machine's own package manager knows: its mirrors, its proxy, its release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::servers::Error;

/// Debian's well-known address, for machines that have no source of Debian packages at all.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// Debian's keyrings as its own package installs them; they know the keys of every release.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Settings that say how to reach a mirror. Others, hooks above all, are not the business of a
/// private download; those that switch signatures off are left behind on purpose.
const SETTINGS_KEPT: [&str; 8] = [
    "Acquire::http",
    "Acquire::https",
    "Acquire::socks",
    "Acquire::tor",
    "Acquire::Retries",
    "Acquire::ForceIPv",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
];

/// One source of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

/// What was read from the machine.
#[derive(Debug)]
pub(super) struct Machine {
    settings: String,
    sources: Vec<Source>,
    codename: String,
    keyring: Option<String>,
}

impl Machine {
    pub(super) fn read() -> Result<Self, Error> {
        let dump = Command::new("apt-config")
            .arg("dump")
            .env("LC_ALL", "C")
            .output();
        let dump = dump.map_err(|error| {
            Error::program(
                "apt-config",
                format!("{error}; only a Debian can download servers"),
            )
        })?;
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
        Ok(Self {
            settings: settings_kept(&dump),
            sources: read_sources(&dump),
            codename: value_of(&release, "VERSION_CODENAME")
                .unwrap_or("stable")
                .to_owned(),
            keyring: keyring.map(|path| (*path).to_owned()),
        })
    }

    /// The name of the machine's release.
    pub(super) fn codename(&self) -> &str {
        &self.codename
    }

    /// The settings for reaching mirrors, in apt's own syntax.
    pub(super) fn settings(&self) -> &str {
        &self.settings
    }

    /// A list of sources for one release, in the format of `.sources` files.
    pub(super) fn sources_for(&self, release: &str) -> Result<String, Error> {
        let mirror = self.mirror(release);
        let signed_by = self.signed_by(mirror)?;
        let uri = mirror.map_or(DEFAULT_MIRROR, |source| &source.uri);
        let mut text = stanza(uri, release, signed_by);
        let suite = format!("{release}-security");
        let has_security_fixes = !matches!(release, "sid" | "unstable");
        if has_security_fixes && let Some(source) = self.security_mirror() {
            text += &stanza(&source.uri, &suite, self.signed_by(Some(source))?);
        }
        Ok(text)
    }

    /// The source that has this release, or else the one that has the machine's own release: a
    /// mirror of Debian carries all of them.
    fn mirror(&self, release: &str) -> Option<&Source> {
        let of_debian = |suite: &str| {
            suite == self.codename
                || matches!(
                    suite,
                    "oldstable" | "stable" | "testing" | "unstable" | "sid"
                )
        };
        let main = || self.sources.iter().filter(|source| source.has_main());
        main()
            .find(|source| source.suites.iter().any(|suite| suite == release))
            .or_else(|| main().find(|source| source.suites.iter().any(|suite| of_debian(suite))))
            .filter(|source| !source.uri.contains("ubuntu"))
    }

    fn security_mirror(&self) -> Option<&Source> {
        let of_debian = |source: &&Source| source.uri.contains("debian");
        let mut with_fixes = self.sources.iter().filter(|source| {
            source.has_main()
                && source
                    .suites
                    .iter()
                    .any(|suite| suite.ends_with("-security"))
        });
        with_fixes.find(of_debian)
    }

    fn signed_by<'a>(&'a self, source: Option<&'a Source>) -> Result<&'a str, Error> {
        let of_source = || source.and_then(|source| source.signed_by.as_deref());
        self.keyring.as_deref().or_else(of_source).ok_or_else(|| {
            let [keyring, _] = KEYRINGS;
            Error::program(
                "debian-archive-keyring",
                format!("{keyring} is not there, and nothing is downloaded unchecked: install it"),
            )
        })
    }
}

impl Source {
    fn has_main(&self) -> bool {
        self.components.iter().any(|component| component == "main")
    }
}

fn stanza(uri: &str, suite: &str, signed_by: &str) -> String {
    format!(
        "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {signed_by}\n\n"
    )
}

/// The lines of `apt-config dump` that say how to reach a mirror.
fn settings_kept(dump: &str) -> String {
    let is_kept = |line: &&str| {
        SETTINGS_KEPT
            .iter()
            .any(|setting| line.starts_with(setting))
    };
    dump.lines()
        .filter(is_kept)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Reads the main list and the folder of lists, wherever the machine has them.
fn read_sources(dump: &str) -> Vec<Source> {
    let setting = |name: &str| {
        let start = format!("{name} \"");
        let line = dump.lines().find(|line| line.starts_with(&start))?;
        line[start.len()..].strip_suffix("\";")
    };
    let root = PathBuf::from(setting("Dir").unwrap_or("/"));
    let etc = root.join(setting("Dir::Etc").unwrap_or("etc/apt"));
    let main = etc.join(setting("Dir::Etc::sourcelist").unwrap_or("sources.list"));
    let parts = etc.join(setting("Dir::Etc::sourceparts").unwrap_or("sources.list.d"));
    let mut paths: Vec<PathBuf> = fs::read_dir(parts)
        .map(|entries| {
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        })
        .unwrap_or_default();
    paths.sort();
    paths.insert(0, main);
    paths.iter().flat_map(|path| read_list(path)).collect()
}

fn read_list(path: &Path) -> Vec<Source> {
    let text = fs::read_to_string(path).unwrap_or_default();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("list") => text.lines().filter_map(parse_line).collect(),
        Some("sources") => parse_stanzas(&text),
        // Such as `.list.save`, which the package manager does not read either.
        Some(_) | None => Vec::new(),
    }
}

/// Parses `deb [signed-by=/key arch=amd64] http://mirror/debian bookworm main contrib`.
fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line
        .strip_prefix("deb")?
        .strip_prefix([' ', '\t'])?
        .trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uri: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: signed_by.map(str::to_owned),
    })
}

/// Parses the newer format: fields in stanzas, lines that begin with a space belong to the field
/// before.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanzas = without_comments.split(|line| line.trim().is_empty());
    stanzas.flat_map(parse_stanza).collect()
}

fn parse_stanza(lines: &[&str]) -> Vec<Source> {
    let field = |name: &str| field_of(lines, name);
    let words = |name: &str| -> Vec<String> {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let is_off = field("Enabled").is_some_and(|value| value.trim().eq_ignore_ascii_case("no"));
    if is_off || !words("Types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let source = |uri| Source {
        uri,
        suites: words("Suites"),
        components: words("Components"),
        // A key in the place of a path keeps its lines.
        signed_by: field("Signed-By").map(|value| value.trim_end().to_owned()),
    };
    words("URIs").into_iter().map(source).collect()
}

fn field_of(lines: &[&str], name: &str) -> Option<String> {
    let value_in = |line: &str| {
        let (field, value) = line.split_once(':')?;
        field
            .trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    };
    let is_start = |line: &&str| !line.starts_with([' ', '\t']) && value_in(line).is_some();
    let start = lines.iter().position(is_start)?;
    let mut value = value_in(lines[start])?;
    for line in lines[start + 1..]
        .iter()
        .take_while(|line| line.starts_with([' ', '\t']))
    {
        value += "\n";
        value += line;
    }
    Some(value)
}

/// The value of a line `NAME=value` or `NAME="value"`.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches('"')).filter(|value| !value.is_empty())
}

#[cfg(test)]
#[path = "sources_test.rs"]
mod tests;
