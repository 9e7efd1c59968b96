//! A storage that tells a watcher of every step of the log. Only tests put it between the log and
//! its folder; without it a step costs nothing.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::appender::{SEGMENT_TEMP, segment_number};
use super::identity::IDENTITY;
use super::open::IDENTITY_TEMP;
use super::storage::{Storage, StoredFile};

/// Every step by its name.
#[doc(hidden)]
pub const STEPS: &[&str] = &[
    "log.segment_read",
    "log.identity_read",
    "log.segment_created",
    "log.identity_created",
    "log.segment_renamed",
    "log.identity_renamed",
    "log.old_segment_removed",
    "log.segment_durable",
    "log.identity_durable",
    "log.before_batch",
    "log.identity_written",
    "log.segment_zeroed",
    "log.segment_begun",
    "log.batch_written",
    "log.identity_synced",
    "log.segment_zeros_synced",
    "log.segment_begin_synced",
    "log.batch_synced",
];

/// Is told of each step that was taken, in the log's own threads, which wait for it.
#[derive(Clone)]
pub(super) struct Watch(Arc<dyn Fn(&'static str) + Send + Sync>);

impl Watch {
    pub(super) fn new(watch: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(watch))
    }

    fn told(&self, step: &'static str) {
        (self.0)(step);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// See the module.
pub(super) struct Probed<S> {
    inner: S,
    watch: Watch,
    /// What the next sync of the folder makes durable.
    renamed_segment: AtomicBool,
}

impl<S: Storage> Probed<S> {
    pub(super) const fn new(inner: S, watch: Watch) -> Self {
        Self {
            inner,
            watch,
            renamed_segment: AtomicBool::new(false),
        }
    }

    fn done<T>(&self, value: T, step: Option<&'static str>) -> T {
        if let Some(step) = step {
            self.watch.told(step);
        }
        value
    }
}

impl<S: Storage> Storage for Probed<S> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let segment = segment_number(name).map(|_| "log.segment_read");
        let point = segment.or_else(|| (name == IDENTITY).then_some("log.identity_read"));
        let read = self.inner.read(name);
        self.done(read, point)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        let inner = self.inner.create(name)?;
        let (stage, point) = match name {
            SEGMENT_TEMP => (NEW_SEGMENT, Some("log.segment_created")),
            IDENTITY_TEMP => (NEW_IDENTITY, Some("log.identity_created")),
            _ => (OTHER, None),
        };
        let (watch, stage) = (self.watch.clone(), AtomicU8::new(stage));
        let file = ProbedFile {
            inner,
            watch,
            stage,
        };
        Ok(self.done(Box::new(file), point))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)?;
        let is_segment = segment_number(to).is_some();
        self.renamed_segment.store(is_segment, Ordering::Relaxed);
        let renamed = if is_segment {
            "log.segment_renamed"
        } else {
            "log.identity_renamed"
        };
        self.done(Ok(()), Some(renamed))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)?;
        let point = segment_number(name).map(|_| "log.old_segment_removed");
        self.done(Ok(()), point)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.inner.sync_folder()?;
        let point = if self.renamed_segment.load(Ordering::Relaxed) {
            "log.segment_durable"
        } else {
            "log.identity_durable"
        };
        self.done(Ok(()), Some(point))
    }
}

/// What a file is, by what was done to it last.
const OTHER: u8 = 0;
const NEW_IDENTITY: u8 = 1;
const NEW_SEGMENT: u8 = 2;
const ZEROED_SEGMENT: u8 = 3;
const BEGUN_SEGMENT: u8 = 4;
const SEGMENT: u8 = 5;

struct ProbedFile {
    inner: Box<dyn StoredFile>,
    watch: Watch,
    stage: AtomicU8,
}

impl ProbedFile {
    fn goes_on(&self, stage: u8, step: &'static str) -> io::Result<()> {
        self.stage.store(stage, Ordering::Relaxed);
        self.watch.told(step);
        Ok(())
    }
}

impl StoredFile for ProbedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let stage = self.stage.load(Ordering::Relaxed);
        if stage == SEGMENT {
            self.watch.told("log.before_batch");
        }
        self.inner.write_at(offset, bytes)?;
        match stage {
            NEW_IDENTITY => self.goes_on(stage, "log.identity_written"),
            NEW_SEGMENT => self.goes_on(stage, "log.segment_zeroed"),
            ZEROED_SEGMENT => self.goes_on(BEGUN_SEGMENT, "log.segment_begun"),
            SEGMENT => self.goes_on(stage, "log.batch_written"),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()?;
        match self.stage.load(Ordering::Relaxed) {
            NEW_IDENTITY => self.goes_on(OTHER, "log.identity_synced"),
            NEW_SEGMENT => self.goes_on(ZEROED_SEGMENT, "log.segment_zeros_synced"),
            _ => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()?;
        match self.stage.load(Ordering::Relaxed) {
            BEGUN_SEGMENT => self.goes_on(SEGMENT, "log.segment_begin_synced"),
            SEGMENT => self.goes_on(SEGMENT, "log.batch_synced"),
            _ => Ok(()),
        }
    }

    fn has_name(&self, name: &str) -> bool {
        self.inner.has_name(name)
    }
}
