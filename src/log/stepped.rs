//! The log without its thread and on another disk, for tests that own time and luck: the same
//! engine, stepped by hand.
//!
//! Nothing here waits and nothing looks at a clock: what is due by itself (lazy completions, the
//! reopening of a failed log) is due whenever it is asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use unanimous_core::ports::LogError;

use super::engine::Engine;
use super::file::OpenFileLog;
use super::home::{Home, Options};
use super::identity::FolderId;
use super::open::open;
use super::request::{Request, answer_all};
pub use super::storage::{Storage, StoredFile};
use super::writer::batch;

/// The writer of a log that has no thread.
pub struct Writer {
    /// `None` when the log was shut down.
    engine: Option<Engine>,
    requests: Receiver<Request>,
}

/// Opens the log on this disk. Its folder's lock is the caller's to keep: one log at a time.
///
/// # Errors
/// As [`FileLog::open`](super::FileLog::open).
pub fn open_stepped(
    storage: Arc<dyn Storage>,
    segment_bytes_max: u64,
    retain_completed: usize,
) -> Result<(Arc<OpenFileLog>, Writer), LogError> {
    let home = Home {
        storage,
        folder: PathBuf::from("simulated"),
        options: Options {
            segment_bytes_max,
            retain_completed,
            lazy_pause: Duration::ZERO,
            retry_pause: Duration::ZERO,
            prepare_ahead: false,
            watch: None,
        },
    };
    let folder = FolderId {
        device: 1,
        inode: 2,
    };
    let opened = open(&home, folder)?;
    let (engine, shared) = Engine::new(home, opened);
    let (sender, requests) = channel();
    let writer = Writer {
        engine: Some(engine),
        requests,
    };
    Ok((Arc::new(OpenFileLog::of(shared, sender, None)), writer))
}

impl Writer {
    /// Takes what is queued as one batch, as the thread does when it becomes free. `false` if
    /// nothing was queued.
    pub fn step(&mut self) -> bool {
        let Some(engine) = &mut self.engine else {
            return false;
        };
        let Ok(first) = self.requests.try_recv() else {
            return false;
        };
        if let Some((replies, ended)) = engine.commit(batch(first, &self.requests)) {
            engine.leave();
            self.engine = None;
            answer_all(replies, &ended);
        }
        true
    }

    /// Writes lazy completions, or tries to reopen a failed log.
    pub fn do_what_is_due(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.do_what_is_due();
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    use unanimous_core::ports::DecisionLog;

    use super::super::probed::{Probed, Watch};
    use super::super::sim_disk::SimDisk;
    use super::*;

    type Answer = Result<(), String>;
    type Shutdown = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn asked(log: &Arc<OpenFileLog>) -> Shutdown {
        let log = Arc::clone(log);
        let mut shutdown: Shutdown =
            Box::pin(async move { log.shutdown().await.map_err(|error| error.to_string()) });
        assert_eq!(looked_at(&mut shutdown), None);
        shutdown
    }

    fn looked_at(shutdown: &mut Shutdown) -> Option<Answer> {
        let mut context = Context::from_waker(Waker::noop());
        match shutdown.as_mut().poll(&mut context) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    /// Looked at while the end is being written, none of them was told anything.
    #[test]
    fn i3_of_shutdowns_that_meet_in_one_batch_every_one_is_answered() {
        let waiting: Arc<Mutex<Vec<Shutdown>>> = Arc::default();
        let early: Arc<Mutex<Vec<Answer>>> = Arc::default();
        let watch = Watch::new({
            let (waiting, early) = (waiting.clone(), early.clone());
            move |step| {
                if step == "log.batch_written" {
                    let mut waiting = waiting.lock().unwrap();
                    let answers = waiting.iter_mut().filter_map(looked_at);
                    early.lock().unwrap().extend(answers);
                }
            }
        });
        let disk = Probed::new(SimDisk::new(), watch);
        let (log, mut writer) = open_stepped(Arc::new(disk), 0, 10).unwrap();
        *waiting.lock().unwrap() = vec![asked(&log), asked(&log)];
        assert!(writer.step());
        assert_eq!(*early.lock().unwrap(), []);
        for mut shutdown in waiting.lock().unwrap().drain(..) {
            assert_eq!(looked_at(&mut shutdown), Some(Ok(())));
        }
    }
}
