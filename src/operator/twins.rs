//! Other folders that hold a log of the same manager: a copy that was adopted, or the original that
//! was not removed. Two logs of one manager would each end what the other has not decided (I5).
//!
//! Only the folders beside the log are looked at; nobody knows where else a copy is.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use unanimous_core::ports::{Finding, Severity};

use super::check_log::whole;
use crate::log::FileLog;

/// So many entries of the folder above are looked at.
const ENTRIES_MAX: usize = 256;

/// One for each of them, whoever runs.
pub(super) fn findings(log: &FileLog) -> Vec<Finding> {
    let Ok(Some(manager)) = log.manager() else {
        return Vec::new();
    };
    let own = whole(log.folder());
    let is_original = log.check_place().is_ok();
    let twins = beside(&own).into_iter().filter_map(|folder| {
        let twin = FileLog::at(&folder);
        if twin.manager().ok()?? != manager {
            return None;
        }
        let place = folder.display();
        // One that is refused at every opening harms nobody, be it this or the other.
        let opens = || twin.check_place().and_then(|()| twin.inspect()).is_ok();
        let (severity, evidence) = if is_original && opens() {
            let text = format!(
                "{place} holds a log of the same manager ({manager}), and can be opened: an \
                 application that does so ends branches that this log has not decided"
            );
            (Severity::Error, text)
        } else {
            let text = format!(
                "{place} holds a log of the same manager ({manager}); one of the two is refused at \
                 every opening, as long as nobody adopts it"
            );
            (Severity::Note, text)
        };
        Some(Finding::new(
            severity,
            "duplicate log",
            evidence,
            "find out which of the two is the one that applications use, and move the other out of \
             the way: nobody may open it again",
        ))
    });
    twins.collect()
}

/// The other folders in the folder above, each once.
fn beside(own: &Path) -> Vec<PathBuf> {
    let Some(Ok(entries)) = own.parent().map(Path::read_dir) else {
        return Vec::new();
    };
    let id = |path: &Path| {
        let metadata = path.metadata().ok()?;
        metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
    };
    let own = id(own);
    let mut folders: Vec<_> = entries
        .flatten()
        .take(ENTRIES_MAX)
        .filter_map(|entry| Some((id(&entry.path())?, entry.path())))
        .filter(|(found, _)| Some(*found) != own)
        .collect();
    folders.sort();
    folders.dedup_by_key(|(found, _)| *found);
    folders.into_iter().map(|(_, path)| path).collect()
}
