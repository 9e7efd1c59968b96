//! The texts of the file log's errors: each names the place and the mend.

use std::io::{Error, ErrorKind};
use std::path::Path;

use unanimous_core::ports::LogError;

use super::segment::{FORMAT, Fault};

/// `doing` failed in the log's folder.
pub(super) fn io(folder: &Path, doing: &str, error: Error) -> LogError {
    let mend = mend(&error);
    LogError::new(format!(
        "log {}: cannot {doing}: {error}; {mend}",
        folder.display()
    ))
    .with_source(error)
}

fn mend(error: &Error) -> &'static str {
    let known = MENDS
        .iter()
        .find(|(kinds, _)| kinds.contains(&error.kind()));
    known.map_or("look for errors of this disk in the system's log", |row| {
        row.1
    })
}

const MENDS: [(&[ErrorKind], &str); 5] = [
    (
        &[
            ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded,
            ErrorKind::FileTooLarge,
        ],
        "make room on this file system; a log that is open goes on by itself then",
    ),
    (
        &[ErrorKind::ReadOnlyFilesystem],
        "the file system is mounted read-only: mount it writable, or put the log elsewhere",
    ),
    (
        &[ErrorKind::PermissionDenied],
        "give this process's user the right to write in the folder and its files",
    ),
    (
        &[ErrorKind::NotFound],
        "something was removed: put it back; if it was the whole folder, shut this process down in \
         the usual way, which ends its transactions, and start it anew",
    ),
    (
        &[ErrorKind::NotADirectory, ErrorKind::AlreadyExists],
        "a file is where the folder should be: remove it, or put the log elsewhere",
    ),
];

/// The segment `name` cannot be read.
pub(super) fn segment(folder: &Path, name: &str, fault: Fault) -> LogError {
    let place = folder.join(name);
    let place = place.display();
    LogError::new(match fault {
        Fault::Format(found) => format!(
            "log segment {place} is of format version {found}, and this program reads version \
             {FORMAT}: use the release that wrote it"
        ),
        Fault::NotASegment => format!(
            "log segment {place} does not begin as a segment does: it was overwritten or is \
             another program's; {DAMAGE_MEND}"
        ),
        Fault::Length { expected, found } => format!(
            "log segment {place} is damaged: {found} bytes long instead of {expected}; \
             {DAMAGE_MEND}"
        ),
        Fault::Damage { offset } => format!(
            "log segment {place} is damaged at offset {offset}: bytes that had been synced were \
             changed or lost, so decisions may be missing; {DAMAGE_MEND}"
        ),
    })
}

/// What to do about damage.
pub(super) const DAMAGE_MEND: &str = "keep the folder as it is and check the disk; a new log in \
     another folder leaves the branches of this one prepared, for a person to resolve";
