//! The thread that owns an open log: opens it, takes whatever is queued as one batch, lets go.
//!
//! Group commit without a timer: while one batch is being synced, requests queue up; when the
//! writer becomes free, all of them are the next batch and one flush serves them all. A lone
//! request is written at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use tokio::sync::oneshot::Sender;
use unanimous_core::ports::LogError;

use super::engine::Engine;
use super::errors;
use super::folder::FolderLock;
use super::home::{Home, Options};
use super::open::open;
use super::probed::Probed;
use super::request::{Request, answer, answer_all};
use super::shared::Shared;
use super::storage::{DiskFolder, Storage};

/// The most requests in one batch: bounds the memory of a batch and the time that the first in it
/// waits for the last.
const BATCH_REQUESTS_MAX: usize = 4096;

/// Whom to tell how the opening ended.
pub(super) type OpenReply = Sender<Result<Arc<Shared>, LogError>>;

/// Locks the folder, and makes it if it is missing.
pub(super) fn enter(folder: PathBuf, options: Options) -> Result<(FolderLock, Home), LogError> {
    let lock = FolderLock::acquire(&folder)?;
    let home = home(lock.open(), folder, options)?;
    Ok((lock, home))
}

/// The folder as it is, without a lock: for reading only.
pub(super) fn visit(folder: PathBuf, options: Options) -> Result<Home, LogError> {
    home(DiskFolder::open(&folder), folder, options)
}

fn home(
    storage: std::io::Result<DiskFolder>,
    folder: PathBuf,
    options: Options,
) -> Result<Home, LogError> {
    let storage = storage.map_err(|error| errors::io(&folder, "open the folder", error))?;
    let storage: Arc<dyn Storage> = match options.watch.clone() {
        None => Arc::new(storage),
        Some(watch) => Arc::new(Probed::new(storage, watch)),
    };
    Ok(Home {
        storage,
        folder,
        options,
    })
}

/// The thread's whole life. Returns when the log was shut down, or nobody is left who could ask.
pub(super) fn run(
    folder: PathBuf,
    options: Options,
    requests: &Receiver<Request>,
    opened: OpenReply,
) {
    let entered = enter(folder, options).and_then(|(lock, home)| {
        let opened = open(&home, lock.folder())?;
        Ok((lock, Engine::new(home, opened)))
    });
    match entered {
        Ok((lock, (engine, shared))) => {
            if opened.send(Ok(shared)).is_ok() {
                serve(lock, engine, requests);
            }
        }
        Err(error) => answer(opened, Err(error)),
    }
}

fn serve(lock: FolderLock, mut engine: Engine, requests: &Receiver<Request>) {
    loop {
        let first = match engine.idle_time() {
            None => requests.recv().map_err(RecvTimeoutError::from),
            Some(time) => requests.recv_timeout(time),
        };
        engine.do_what_is_due();
        let first = match first {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some((replies, ended)) = engine.commit(batch(first, requests)) {
            engine.leave();
            drop(engine);
            drop(lock);
            return answer_all(replies, &ended);
        }
    }
    engine.leave();
}

/// What is queued, as far as one batch takes it.
pub(super) fn batch(first: Request, requests: &Receiver<Request>) -> impl Iterator<Item = Request> {
    let rest = requests.try_iter().take(BATCH_REQUESTS_MAX - 1);
    std::iter::once(first).chain(rest)
}
