//! Checks of the decision log. A folder is only read: no lock is taken, for one that is held for a
//! moment would keep an application from starting. For a table see `check_table`.
//!
//! The subjects of findings stay the same; `docs/findings.md` lists them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use unanimous_core::ports::{ByHand, DecisionRecord, Finding, HeuristicEnd, Severity};

use super::client::Client;
use super::file::ConfigFile;
use super::finding::CheckedFinding;
use super::place::Place;
use super::{twins, volume};
use crate::bounded::bounded;
use crate::log::{FileLog, LogContents};
use crate::recovery::is_dealt_with;

/// How long the folder may take to be read: a network file system can hang for ever.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// So many heuristic ends are named one by one.
const NAMED_MAX: usize = 10;

/// What the log looks like. It was only read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckedLog {
    /// Where it is: a folder, or the table's server and database.
    pub place: String,
    /// The folder, if it is in one.
    pub folder: Option<String>,
    /// There is a log; else the application will make it at its first start.
    pub exists: bool,
    /// An application holds it and answers on its control socket.
    pub has_application: bool,
    /// How often it has been opened, as far as it remembers.
    pub openings: usize,
    /// Decisions that are not completed.
    pub pending: usize,
    /// Branches that ended against the decision. A person has to look.
    pub heuristics: usize,
    /// What was found, the worst first. Empty: all is well.
    pub findings: Vec<CheckedFinding>,
}

impl CheckedLog {
    pub(super) async fn look(file: &ConfigFile) -> Self {
        let mut checked = match file.log() {
            Place::Folder(log) => Self::look_at_folder(file, log).await,
            Place::Table(place) => Self::look_at_table(file, place).await,
        };
        checked
            .findings
            .sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        checked
    }

    pub(super) const fn unseen(place: String, folder: Option<String>) -> Self {
        Self {
            place,
            folder,
            exists: false,
            has_application: false,
            openings: 0,
            pending: 0,
            heuristics: 0,
            findings: Vec::new(),
        }
    }

    async fn look_at_folder(file: &ConfigFile, log: &FileLog) -> Self {
        let folder = whole(log.folder()).display().to_string();
        let mut checked = Self::unseen(folder.clone(), Some(folder));
        let folder = log.folder();
        let log = log.clone();
        let reading = tokio::task::spawn_blocking(move || Read::all(log));
        match bounded(READ_LIMIT, reading).await {
            Ok(Ok(read)) => checked.judge(file, folder, read).await,
            Ok(Err(_)) => checked.error("log", "reading it panicked, which is a bug", "report it"),
            Err(silence) => {
                let mend = "see whether its file system hangs: ls -l in it by hand";
                checked.error("folder", &format!("reading it gave {silence}"), mend);
            }
        }
        checked
    }

    async fn judge(&mut self, file: &ConfigFile, folder: &Path, read: Read) {
        self.findings.extend(read.findings.map(Into::into));
        let Some(contents) = read.contents else {
            return;
        };
        self.exists = true;
        match Client::find(folder).await {
            Ok(client) => self.has_application = client.is_some(),
            Err(error) => self.error("control socket", &error.to_string(), RUN_AS),
        }
        if let (false, Some(pid)) = (self.has_application, read.holder) {
            let evidence = format!(
                "process {pid} seems to hold the log and offers no control socket, so list and \
                 recover can only refuse while it runs"
            );
            let mend = "build that application with the feature `operator` of unanimous";
            self.warn("control socket", &evidence, mend);
        }
        match contents {
            Ok(contents) => self.judge_contents(file, &contents),
            Err(problem) => {
                let mend = "do what the evidence says; change nothing in the folder before";
                self.error("log", &problem, mend);
            }
        }
    }

    fn judge_contents(&mut self, file: &ConfigFile, contents: &LogContents) {
        self.openings = contents.openings.len();
        self.pending = contents.pending.len();
        self.judge_names(file, &contents.pending);
        self.judge_heuristics(&contents.heuristics, &contents.by_hand);
        if self.has_application {
            // It is working on them.
            return;
        }
        if self.pending > 0 {
            let evidence = format!("not completed: {}; no application runs", self.pending);
            let mend = "start the application, or: unanimous recover";
            self.note("pending decisions", &evidence, mend);
        }
        if let Some(torn) = &contents.unfinished_batch {
            let (segment, offset) = (torn.segment.display(), torn.offset);
            let evidence = format!(
                "{segment} ends at offset {offset} in a batch that was not written to its end; \
                 nobody was told that anything in it is recorded"
            );
            self.note(
                "torn tail",
                &evidence,
                "nothing: the next opening cuts it off",
            );
        }
    }

    /// Those that no person has dealt with.
    pub(super) fn judge_heuristics(&mut self, ends: &[HeuristicEnd], by_hand: &[ByHand]) {
        let is_forgotten = |end: &HeuristicEnd| is_dealt_with(by_hand, end.gtrid, &end.resource);
        let ends: Vec<_> = ends.iter().filter(|end| !is_forgotten(end)).collect();
        self.heuristics = ends.len();
        for end in ends.iter().take(NAMED_MAX) {
            let (gtrid, resource, heuristic) = (end.gtrid, &end.resource, end.end);
            let evidence = format!(
                "transaction {gtrid} at resource {resource}: {heuristic:?}: it ended against the \
                 decision"
            );
            let mend = format!(
                "compare the data of all its resources, and correct them by hand; then: unanimous \
                 forget {gtrid} --reason …"
            );
            self.warn("heuristic ends", &evidence, &mend);
        }
    }

    /// Decisions for resources that the file does not name.
    pub(super) fn judge_names(&mut self, file: &ConfigFile, pending: &[DecisionRecord]) {
        let mut unknown: Vec<_> = pending.iter().flat_map(|d| &d.branches).collect();
        unknown.retain(|branch| file.resource_names().all(|name| *name != branch.resource));
        unknown.sort_by_key(|branch| &branch.resource);
        unknown.dedup_by_key(|branch| &branch.resource);
        for branch in unknown {
            let (name, identity) = (&branch.resource, &branch.identity);
            let evidence = format!(
                "the log has decisions for resource {name} (server {identity}), which the config \
                 file does not name: its branches stay prepared"
            );
            let mend = format!("[resources.{name}]\nurl = \"…\"");
            self.warn("unknown resource", &evidence, &mend);
        }
    }

    pub(super) fn error(&mut self, subject: &str, evidence: &str, mend: &str) {
        let finding = Finding::new(Severity::Error, subject, evidence, mend);
        self.findings.push(finding.into());
    }

    pub(super) fn warn(&mut self, subject: &str, evidence: &str, mend: &str) {
        let finding = Finding::new(Severity::Warning, subject, evidence, mend);
        self.findings.push(finding.into());
    }

    pub(super) fn note(&mut self, subject: &str, evidence: &str, mend: &str) {
        let finding = Finding::new(Severity::Note, subject, evidence, mend);
        self.findings.push(finding.into());
    }
}

const RUN_AS: &str = "run this as the user that the application runs as";

/// What the disk answers, in one go on a thread that may block.
struct Read {
    findings: std::vec::IntoIter<Finding>,
    /// `None`: there is no log yet.
    contents: Option<Result<LogContents, String>>,
    /// Who wrote its number into the file `lock` and runs.
    holder: Option<u32>,
}

impl Read {
    fn all(log: FileLog) -> Self {
        let folder = whole(log.folder());
        let mut findings = Vec::new();
        let mut contents = None;
        let to_be_made = is_to_be_made(&folder);
        match folder.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                findings.extend(foreign_eyes(&folder, &metadata));
                findings.extend(unwritable(&folder));
                findings.extend(volume::findings(&folder, log.segment_bytes_max()));
            }
            Ok(_) => findings.push(Finding::new(
                Severity::Error,
                "folder",
                format!("log {}: this is not a folder", folder.display()),
                "remove it, or put the log elsewhere",
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                findings.extend(no_place(&folder, log.segment_bytes_max()));
            }
            Err(error) => findings.push(Finding::new(
                Severity::Error,
                "folder",
                format!("log {}: cannot be looked at: {error}", folder.display()),
                RUN_AS,
            )),
        }
        if !to_be_made && folder.is_dir() {
            findings.extend(twins::findings(&log));
            let place = log.check_place();
            let read = place.and_then(|()| log.inspect());
            contents = Some(read.map_err(|error| error.to_string()));
        }
        Self {
            findings: findings.into_iter(),
            contents,
            holder: holder(&folder),
        }
    }
}

/// Where the log will be made.
fn no_place(folder: &Path, segment_bytes: u64) -> Vec<Finding> {
    let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return vec![Finding::new(
            Severity::Error,
            "folder",
            format!(
                "log {}: the folder that it should be made in does not exist",
                folder.display()
            ),
            format!("mkdir -p {}", quoted(parent)),
        )];
    }
    let mut findings: Vec<_> = unwritable(parent).into_iter().collect();
    findings.extend(volume::findings(parent, segment_bytes));
    findings
}

/// For this user and now; another one may get another answer.
fn unwritable(folder: &Path) -> Option<Finding> {
    let refusal = access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).err()?;
    let error = std::io::Error::from(refusal);
    Some(Finding::new(
        Severity::Error,
        "permissions",
        format!(
            "{}: this user cannot write there: {error}",
            folder.display()
        ),
        RUN_AS,
    ))
}

/// Others may look into the folder, or change it.
fn foreign_eyes(folder: &Path, metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        let may = if mode & 0o022 == 0 { "read" } else { "change" };
        findings.push(Finding::new(
            Severity::Warning,
            "permissions",
            format!(
                "{} has mode {mode:o}: other users may {may} what is in it",
                folder.display()
            ),
            format!("chmod 700 {}", quoted(folder)),
        ));
    }
    let user = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    if owner != user {
        findings.push(Finding::new(
            Severity::Warning,
            "permissions",
            format!(
                "{} belongs to the user with number {owner}, and this is {user}",
                folder.display()
            ),
            RUN_AS,
        ));
    }
    findings
}

/// The process whose number is in the file `lock`, if the kernel says that the file is locked: the
/// number alone may be left from a crash. `None` also where the kernel does not tell (not Linux).
fn holder(folder: &Path) -> Option<u32> {
    let path = folder.join("lock");
    let inode = path.metadata().ok()?.ino();
    let pid: u32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    is_locked(&locks, inode).then_some(pid)
}

/// Whether `/proc/locks` (see `proc_locks(5)`) has a whole-file lock of this inode.
fn is_locked(locks: &str, inode: u64) -> bool {
    let place = format!(":{inode}");
    locks.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some("FLOCK") && words.nth(3).is_some_and(|word| word.ends_with(&place))
    })
}

/// Nothing is there, or an empty folder.
fn is_to_be_made(folder: &Path) -> bool {
    match folder.read_dir() {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The path from the root on: what is copied has to be right in another folder, too.
pub(super) fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let path = whole(path);
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_by_its_inode_alone() {
        let locks = "1: POSIX  ADVISORY  WRITE 41 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 42 00:2a:1234 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 43 08:01:99 0 EOF\n";
        assert!(is_locked(locks, 1234));
        for inode in [77, 234, 99, 12345] {
            assert!(!is_locked(locks, inode), "{inode}");
        }
    }

    #[test]
    fn a_mend_for_a_shell_is_one_word_whatever_the_path() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
