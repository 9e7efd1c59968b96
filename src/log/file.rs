//! The file log as the port sees it: hands requests to the writer's thread and answers questions
//! from memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::oneshot;
use unanimous_core::ports::{
    ByHand, DecideError, DecisionLog, DecisionRecord, HeuristicEnd, LogError, LogHome, Lookup,
    OpeningState, Refusal, UnixTime,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use super::hand;
use super::home::{Options, TornTail};
use super::open::{adopt, inspect};
#[cfg(feature = "operator")]
use super::open::{check_place, read_identity};
use super::probed::Watch;
use super::record::{BRANCHES_MAX, Id, encode_decision};
use super::request::{Reply, Request};
use super::segment::BLOCK;
use super::shared::{End, Shared, View, shut_down, writer_died};
use super::wall_clock;
use super::writer::{enter, run, visit};

/// A decision log in a folder of its own, for one process at a time: where it lies and how it
/// behaves. The folder is made if its parent exists; it belongs to the log alone.
///
/// ```no_run
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// use unanimous::log::FileLog;
///
/// let log = FileLog::at("./unanimous-log").open().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "this opens no log yet"]
pub struct FileLog {
    folder: PathBuf,
    options: Options,
}

impl FileLog {
    /// The log in this folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            options: Options::default(),
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// The length to which segments grow, in bytes: 64 MiB unless said otherwise, 64 KiB at least.
    /// The folder holds at most three segments at a time. One is longer than this only if the
    /// pending decisions and what is retained do not fit a quarter of it.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.options.segment_bytes_max = bytes.max(16 * BLOCK as u64);
        self
    }

    /// See [`segment_bytes`](Self::segment_bytes).
    #[cfg(feature = "operator")]
    pub(crate) const fn segment_bytes_max(&self) -> u64 {
        self.options.segment_bytes_max
    }

    /// Whether the folder is the one that the log was made in; an opening of a copy is refused.
    /// Reads without a lock; without a log, nothing is wrong.
    #[cfg(feature = "operator")]
    pub(crate) fn check_place(&self) -> Result<(), LogError> {
        check_place(&visit(self.folder.clone(), self.options.clone())?)
    }

    /// Whose log the folder holds. Reads without a lock; `None` without a log.
    #[cfg(feature = "operator")]
    pub(crate) fn manager(&self) -> Result<Option<ManagerId>, LogError> {
        let home = visit(self.folder.clone(), self.options.clone())?;
        Ok(read_identity(&home)?.map(|identity| identity.manager))
    }

    #[cfg(feature = "operator")]
    pub(super) fn into_parts(self) -> (PathBuf, Options) {
        (self.folder, self.options)
    }

    /// How many completed decisions are kept, so that `outcome` can answer "committed" for them:
    /// the last 10,000 unless said otherwise. Older ones are answered by
    /// [`Lookup::NoRecord`]. Each takes some 13 bytes in every segment.
    pub const fn retain_completed(mut self, count: usize) -> Self {
        self.options.retain_completed = count;
        self
    }

    #[doc(hidden)]
    pub fn watch(mut self, watch: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        self.options.watch = Some(Watch::new(watch));
        self
    }

    /// Opens the log under a new opening, which closes all earlier ones.
    ///
    /// Cancel safety: if the future is dropped, the log is opened and closed in the background.
    ///
    /// # Errors
    /// In use (names the process), missing parent, not writable, no room, damaged, of another
    /// version, emptied, copied: each says which, and the mend.
    pub async fn open(self) -> Result<Arc<OpenFileLog>, LogError> {
        let (sender, receiver) = channel();
        let (opened, is_open) = oneshot::channel();
        let name = format!("log {}", self.folder.display());
        let thread = std::thread::Builder::new().name("unanimous-log".into());
        let thread = thread
            .spawn(move || run(self.folder, self.options, &receiver, opened))
            .map_err(|error| {
                LogError::new(format!("{name}: the system gives no thread")).with_source(error)
            })?;
        let shared = is_open.await.unwrap_or_else(|_| Err(writer_died()))?;
        Ok(Arc::new(OpenFileLog::of(shared, sender, Some(thread))))
    }

    /// Declares a folder that was copied, restored or moved to another disk to be the log's own.
    /// Only for a person who knows that the original is not in use and that nothing was decided in
    /// it since the copy was made: otherwise committed transactions would be rolled back in part.
    /// Answers whose log it is. Blocks; opens nothing.
    ///
    /// # Errors
    /// There is no log in the folder, it is in use, or it cannot be read.
    pub fn adopt(self) -> Result<ManagerId, LogError> {
        if !self.folder.is_dir() {
            return Err(LogError::new(format!(
                "log {}: there is no such folder: check the path",
                self.folder.display()
            )));
        }
        let (lock, home) = enter(self.folder, self.options)?;
        adopt(&home, lock.folder())
    }

    /// What the log says now, for a person to read: also while a process has it open. Changes
    /// nothing, takes no lock, blocks.
    ///
    /// Nothing of it may be acted upon: what was read may not be durable yet, and may be outdated.
    ///
    /// # Errors
    /// There is no log in the folder, or it cannot be read.
    pub fn inspect(self) -> Result<LogContents, LogError> {
        let recovered = inspect(&visit(self.folder, self.options)?)?;
        Ok(LogContents {
            openings: recovered.state.openings(),
            pending: recovered.state.pending(),
            heuristics: recovered.state.heuristics(),
            by_hand: recovered.state.by_hand(),
            unfinished_batch: recovered.torn_tail,
        })
    }
}

/// What [`FileLog::inspect`] read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LogContents {
    /// Every opening that the log lists. The open one, if there is one, is that of the process that
    /// has the log open, or of the last one if that did not shut it down.
    pub openings: Vec<OpeningState>,
    /// The decisions that are not completed.
    pub pending: Vec<DecisionRecord>,
    /// The branches that ended against the decision.
    pub heuristics: Vec<HeuristicEnd>,
    /// What people did.
    pub by_hand: Vec<ByHand>,
    /// A batch that is just being written, or a torn tail.
    pub unfinished_batch: Option<TornTail>,
}

#[async_trait]
impl LogHome for FileLog {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        let log: Arc<dyn DecisionLog> = (*self).open().await?;
        Ok(log)
    }
}

/// An open file log. Dropping it without [`shutdown`](DecisionLog::shutdown) waits for the write
/// under way and lets go of the folder; its epoch is closed by the next opening.
#[derive(Debug)]
pub struct OpenFileLog {
    shared: Arc<Shared>,
    /// `Some` until dropped.
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl OpenFileLog {
    /// The log whose writer takes these requests; without a thread, somebody else runs it.
    pub(super) const fn of(
        shared: Arc<Shared>,
        requests: Sender<Request>,
        thread: Option<JoinHandle<()>>,
    ) -> Self {
        Self {
            shared,
            requests: Some(requests),
            thread,
        }
    }

    /// What the last opening cut off, if the log did not end in a whole batch.
    pub fn torn_tail(&self) -> Option<TornTail> {
        self.shared.lock().torn_tail.clone()
    }

    fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // If the thread is gone, the reply's sender is dropped with the request, and whoever
            // waits for it sees that.
            drop(requests.send(request));
        }
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply));
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.gone()),
        }
    }

    /// Why nobody answers.
    fn gone(&self) -> LogError {
        match &self.shared.lock().end {
            Some(End::Closed | End::Left(_)) => shut_down(),
            None => writer_died(),
        }
    }

    fn read<T>(&self, read: impl FnOnce(&View) -> T) -> Result<T, LogError> {
        let view = self.shared.lock();
        match view.end {
            Some(End::Closed | End::Left(_)) => Err(shut_down()),
            None => Ok(read(&view)),
        }
    }
}

impl Drop for OpenFileLog {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the decision log's thread panicked");
        }
    }
}

#[async_trait]
impl DecisionLog for OpenFileLog {
    fn opening(&self) -> Opening {
        self.shared.opening()
    }

    async fn decide(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let gtrid = decision.gtrid;
        let when = wall_clock::now();
        let Some(bytes) = encode_decision(Id::of(gtrid), when, &decision.branches) else {
            let text = format!("{gtrid} has more than {BRANCHES_MAX} branches");
            let refusal = Refusal::NotAttempted(LogError::new(text));
            return Err(DecideError::Refused(refusal));
        };
        let (reply, answer) = oneshot::channel();
        self.send(Request::Decide {
            gtrid,
            bytes,
            reply,
        });
        match answer.await {
            Ok(answer) => answer,
            Err(_) => {
                // The bytes went with the request; they are made again in this rare case.
                let bytes = encode_decision(Id::of(gtrid), when, &decision.branches);
                let bytes = bytes.unwrap_or_default();
                self.shared.lock().answer_ended(gtrid, &bytes)
            }
        }
    }

    fn complete(&self, gtrid: Gtrid) {
        // It counts at once; the writer makes it durable with its next batch, or after a while.
        if self.shared.complete(gtrid) {
            self.send(Request::Wake);
        }
    }

    async fn force(&self) -> Result<(), LogError> {
        self.ask(Request::Force).await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> Result<(), LogError> {
        let resource = resource.clone();
        self.ask(|reply| Request::Heuristic {
            gtrid,
            resource,
            heuristic,
            when: wall_clock::now(),
            reply,
        })
        .await
    }

    async fn heuristics(&self) -> Result<Vec<HeuristicEnd>, LogError> {
        self.read(|view| view.state.heuristics())
    }

    async fn record_by_hand(&self, by_hand: &ByHand) -> Result<(), LogError> {
        let row = Box::new(hand::row_of(by_hand));
        self.ask(|reply| Request::ByHand { row, reply }).await
    }

    async fn by_hand(&self) -> Result<Vec<ByHand>, LogError> {
        self.read(|view| view.state.by_hand())
    }

    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, LogError> {
        self.read(|view| {
            let dated = |gtrid: &Gtrid| Some((*gtrid, view.state.decided_at(*gtrid)?));
            gtrids.iter().filter_map(dated).collect()
        })
    }

    async fn close(&self, epoch: Epoch) -> Result<(), LogError> {
        self.ask(|reply| Request::Close { epoch, reply }).await
    }

    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError> {
        self.read(|view| view.state.lookup(gtrid))
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        self.read(|view| view.state.pending())
    }

    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        self.read(|view| view.state.openings())
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Shutdown(reply));
        match answer.await {
            Ok(answer) => answer,
            // Shut down before: what that one answered holds.
            Err(_) => match &self.shared.lock().end {
                Some(End::Closed) => Ok(()),
                Some(End::Left(error)) => Err(error.clone()),
                None => Err(writer_died()),
            },
        }
    }
}
