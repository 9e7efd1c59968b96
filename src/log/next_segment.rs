//! The next segment's file, made ahead of its need on a thread of its own, so that commits do not
//! wait for megabytes of zeros; and the removal of old segments, for the same reason.
//!
//! At most one thread works at a time, and all are joined before the folder's lock is given back.
//! Failing to make the file harms nothing recorded: decisions go on until the segment is full and
//! are refused cleanly from then on, and it is tried again, smaller, after a pause.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unanimous_core::ports::LogError;

use super::appender::{Prepared, SEGMENT_TEMP, prepare};
use super::home::{Home, SEGMENT_BYTES_FIRST};
use super::open::{remove_older, remove_unfinished};

/// See the module.
pub(super) struct NextSegment {
    home: Home,
    thread: Option<JoinHandle<Option<io::Result<Prepared>>>>,
    ready: Option<Prepared>,
    failed: Option<Failed>,
}

struct Failed {
    error: LogError,
    retry_at: Instant,
}

impl NextSegment {
    pub(super) const fn new(home: Home) -> Self {
        Self {
            home,
            thread: None,
            ready: None,
            failed: None,
        }
    }

    /// Begins to make a file of twice `bytes`, within the limit, if that is not done or under way.
    pub(super) fn prepare_ahead(&mut self, bytes: u64) {
        let busy = self.thread.as_ref().is_some_and(|t| !t.is_finished());
        if busy || !self.home.options.prepare_ahead {
            return;
        }
        self.join();
        if self.ready.is_some() || self.failure().is_some() {
            return;
        }
        let bytes = self.bytes_after(bytes);
        let storage = self.home.storage.clone();
        self.thread = spawn("unanimous-log-next", move || {
            Some(prepare(&*storage, bytes))
        });
    }

    /// The next segment's file, for use after one of `bytes`, of at least `bytes_min`.
    ///
    /// # Errors
    /// It cannot be made; nothing else was touched. Repeated until the pause is over.
    pub(super) fn take(&mut self, bytes: u64, bytes_min: u64) -> Result<Prepared, LogError> {
        self.join();
        match self.ready.take() {
            Some(ready) if ready.bytes() >= bytes_min => return Ok(ready),
            Some(_) | None => {}
        }
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let bytes = self.bytes_after(bytes).max(bytes_min);
        let prepared = prepare(&*self.home.storage, bytes);
        self.ended(prepared)
    }

    /// Removes the segments before `number`.
    pub(super) fn remove_older(&mut self, number: u64) {
        self.join();
        if self.home.options.prepare_ahead {
            let home = self.home.clone();
            self.thread = spawn("unanimous-log-old", move || {
                remove_older(&home, number);
                None
            });
        }
        if self.thread.is_none() {
            remove_older(&self.home, number);
        }
    }

    /// Waits for the thread and gives up what was made.
    pub(super) fn discard(&mut self) {
        self.join();
        self.failed = None;
        if self.ready.take().is_some()
            && let Err(error) = self.home.storage.remove(SEGMENT_TEMP)
        {
            tracing::debug!(%error, "the unused next segment stays for now");
        }
    }

    /// Twice as long as the last, so that a busy log changes segments seldom and an idle one stays
    /// small; short again when there was no room.
    fn bytes_after(&self, bytes: u64) -> u64 {
        let wanted = match self.failed {
            Some(_) => SEGMENT_BYTES_FIRST,
            None => bytes.saturating_mul(2),
        };
        wanted.min(self.home.options.segment_bytes_max)
    }

    fn failure(&self) -> Option<LogError> {
        let failed = self.failed.as_ref()?;
        (Instant::now() < failed.retry_at).then(|| failed.error.clone())
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A thread that panicked made nothing; the file is then made in line.
            if let Ok(Some(prepared)) = thread.join() {
                self.ready = self.ended(prepared).ok();
            }
        }
    }

    fn ended(&mut self, prepared: io::Result<Prepared>) -> Result<Prepared, LogError> {
        match prepared {
            Ok(prepared) => {
                self.failed = None;
                Ok(prepared)
            }
            Err(error) => {
                let error = self.home.failed("make the next segment of the log", error);
                tracing::warn!(%error, "the decision log will refuse decisions when it is full");
                let pause: Duration = self.home.options.retry_pause;
                self.failed = Some(Failed {
                    error: error.clone(),
                    retry_at: Instant::now() + pause,
                });
                remove_unfinished(&self.home);
                Err(error)
            }
        }
    }
}

/// Also where the writer panics: its lock is given back after this.
impl Drop for NextSegment {
    fn drop(&mut self) {
        self.join();
    }
}

/// `None` if the system gives no thread: then the caller does without.
fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<JoinHandle<T>> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(work).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::probed::{Probed, Watch};
    use super::super::recover_test::home;
    use super::super::sim_disk::SimDisk;
    use super::*;

    #[test]
    fn i5_nothing_is_written_to_the_folder_once_whoever_began_it_is_gone() {
        let pause = Duration::from_millis(300);
        let watch = Watch::new(move |_| std::thread::sleep(pause));
        let mut home = home(Probed::new(SimDisk::new(), watch));
        home.options.prepare_ahead = true;
        let storage = Arc::clone(&home.storage);
        let mut next = NextSegment::new(home);
        next.prepare_ahead(1);
        assert!(Arc::strong_count(&storage) > 2, "a thread is at work");
        drop(next);
        assert_eq!(Arc::strong_count(&storage), 1);
    }
}
