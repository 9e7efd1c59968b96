//! What every part of an open log needs to know of its place: storage, folder, options.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::LogError;

use super::errors;
use super::probed::Watch;
use super::storage::Storage;

/// A batch at the end of the log that was not written to its end when its writer died. Nobody was
/// told that anything in it is recorded; opening the log cut it off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment's file. It is removed by the opening that reports this.
    pub segment: PathBuf,
    /// Where in it the unfinished batch began, in bytes.
    pub offset: u64,
}

/// How a log behaves. Set by `FileLog`'s builder methods; the rest is fixed but for tests.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The length to which segments grow.
    pub(super) segment_bytes_max: u64,
    /// How many completed decisions are kept.
    pub(super) retain_completed: usize,
    /// How long a lazy record waits for company.
    pub(super) lazy_pause: Duration,
    /// How long to wait after a failure before trying again; doubles up to [`RETRY_PAUSE_MAX`].
    pub(super) retry_pause: Duration,
    /// Make the next segment on a thread, before this one is full.
    pub(super) prepare_ahead: bool,
    /// Who is told of every step.
    pub(super) watch: Option<Watch>,
}

pub(super) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The length of the first segment of an opening.
pub(super) const SEGMENT_BYTES_FIRST: u64 = 1024 * 1024;

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes_max: 64 * 1024 * 1024,
            retain_completed: 10_000,
            lazy_pause: Duration::from_secs(1),
            retry_pause: Duration::from_millis(100),
            prepare_ahead: true,
            watch: None,
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) folder: PathBuf,
    pub(super) options: Options,
}

impl Home {
    pub(super) fn failed(&self, doing: &str, error: std::io::Error) -> LogError {
        errors::io(&self.folder, doing, error)
    }

    /// Replaces a small file in one step, durably.
    pub(super) fn replace(&self, name: &str, temp: &str, text: &str) -> Result<(), LogError> {
        let storage = &*self.storage;
        let written = storage.create(temp).and_then(|file| {
            file.write_at(0, text.as_bytes())?;
            file.sync()?;
            storage.rename(temp, name)?;
            storage.sync_folder()
        });
        written.map_err(|error| self.failed(&format!("write the file `{name}`"), error))
    }
}
