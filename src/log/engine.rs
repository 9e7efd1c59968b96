//! The log's one writer, without a thread: takes requests, writes one batch, answers.
//!
//! Promises (I2, I3):
//! * Batch n+1 is written only after batch n was synced, because nothing else writes.
//! * `decide` checks the epoch and writes in one step, because nothing else closes.
//! * The state that is asked changes only after the sync.
//! * After the first write or sync that fails in the segment nothing more is written under this
//!   opening. Whoever waited for that batch is told that it is uncertain. The log then reads itself
//!   from the disk, lists a new opening, closes the old one, and writes all of this to a new
//!   segment: what it read may have been in the page cache only, and is durable from then on. Only
//!   after that does it give final answers about the old opening.
//!   As long as the disk refuses this, what was attempted stays uncertain and everything else is
//!   refused unattempted.
//! * A next segment that cannot be made (disk full) refuses decisions and harms nothing: it is made
//!   under a temporary name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unanimous_core::ports::{DecideError, LogError, Refusal};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Epoch, Gtrid, ResourceName};

use super::appender::{Appender, BeginError, begin};
use super::home::{Home, RETRY_PAUSE_MAX};
use super::next_segment::NextSegment;
use super::open::{Opened, reopen, segment_bytes_min};
use super::record::Id;
use super::request::{DecideReply, Reply, Request, Staged, WriteError, answer};
use super::segment::Batch;
use super::shared::{End, Shared, View, writer_died};

/// See the module.
pub(super) struct Engine {
    home: Home,
    shared: Arc<Shared>,
    health: Health,
    next: NextSegment,
    /// Completions that are not on the disk yet.
    lazy: Vec<Gtrid>,
    lazy_since: Option<Instant>,
}

enum Health {
    Good(Appender),
    Failed(Failure),
}

struct Failure {
    error: LogError,
    retry_at: Instant,
    pause: Duration,
}

impl Engine {
    pub(super) fn new(home: Home, opened: Opened) -> (Self, Arc<Shared>) {
        let shared = Arc::new(Shared::new(View {
            state: opened.state,
            opening: opened.opening,
            attempted: Default::default(),
            end: None,
            torn_tail: opened.torn_tail,
        }));
        let engine = Self {
            next: NextSegment::new(home.clone()),
            home,
            shared: shared.clone(),
            health: Health::Good(opened.appender),
            lazy: Vec::new(),
            lazy_since: None,
        };
        (engine, shared)
    }

    /// How long nothing needs to be done unless something is asked.
    pub(super) fn idle_time(&self) -> Option<Duration> {
        let due = match &self.health {
            Health::Failed(failure) => Some(failure.retry_at),
            Health::Good(_) => self
                .lazy_since
                .map(|since| since + self.home.options.lazy_pause),
        };
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Does what is due without being asked: reopens a failed log, writes lazy records.
    pub(super) fn do_what_is_due(&mut self) {
        if self.idle_time().is_none_or(|time| time > Duration::ZERO) {
            return;
        }
        match &self.health {
            Health::Failed(_) => self.reopen(),
            Health::Good(_) => self.write(Staged::default()),
        }
    }

    /// Answers the requests, after one write for all of them if any needs it. The last may be a
    /// shutdown, which ends the engine: then this gives back whom to tell so, and what.
    pub(super) fn commit(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Option<(Reply, Result<(), LogError>)> {
        let mut staged = Staged::default();
        let mut shutdown = None;
        for request in requests {
            match request {
                Request::Decide {
                    gtrid,
                    bytes,
                    reply,
                } => self.stage_decide(&mut staged, gtrid, bytes, reply),
                Request::Complete(gtrid) => self.complete(gtrid),
                Request::Heuristic {
                    gtrid,
                    resource,
                    heuristic,
                    reply,
                } => match self.check_heuristic(gtrid, &resource) {
                    Ok(()) => staged.heuristic(Id::of(gtrid), resource, heuristic, reply),
                    Err(error) => answer(reply, Err(error)),
                },
                Request::Close { epoch, reply } => self.stage_close(&mut staged, epoch, reply),
                Request::Shutdown(reply) => shutdown = Some(reply),
            }
        }
        if !staged.is_empty() {
            self.write(staged);
        }
        shutdown.map(|reply| (reply, self.shut_down()))
    }

    /// Writes what is lazy, as far as that goes, and lets go of files and threads.
    pub(super) fn leave(&mut self) {
        if !self.lazy.is_empty() {
            self.write(Staged::default());
        }
        self.next.discard();
    }

    fn stage_decide(
        &mut self,
        staged: &mut Staged,
        gtrid: Gtrid,
        bytes: Box<[u8]>,
        reply: DecideReply,
    ) {
        let view = self.shared.lock();
        let known = match view.answer(gtrid, &bytes) {
            None if staged.is_closing(gtrid.opening.epoch) => {
                Some(Err(DecideError::Refused(Refusal::EpochClosed)))
            }
            None => match &self.health {
                Health::Good(_) => None,
                Health::Failed(failure) => Some(Err(view.answer_failed(gtrid, &failure.error))),
            },
            Some(known) => Some(known),
        };
        drop(view);
        match known {
            Some(known) => answer(reply, known),
            None => staged.decide(gtrid, bytes, reply),
        }
    }

    fn stage_close(&mut self, staged: &mut Staged, epoch: Epoch, reply: Reply) {
        let closed = self.shared.lock().state.is_closed(epoch);
        match (closed, &self.health) {
            (Some(true), _) => answer(reply, Ok(())),
            (None, _) => {
                let folder = self.home.folder.display();
                let text = format!("log {folder}: epoch {epoch} is not listed: check the number");
                answer(reply, Err(LogError::new(text)));
            }
            (Some(false), Health::Good(_)) => staged.close(epoch, Some(reply)),
            (Some(false), Health::Failed(failure)) => answer(reply, Err(failure.error.clone())),
        }
    }

    fn check_heuristic(&self, gtrid: Gtrid, resource: &ResourceName) -> Result<(), LogError> {
        if !self.shared.lock().state.is_listed(gtrid.opening) {
            return Err(LogError::new(format!(
                "log {}: the opening of {gtrid} (resource {resource}) is not listed: it is another \
                 log's, or this log was restored or copied",
                self.home.folder.display()
            )));
        }
        match &self.health {
            Health::Good(_) => Ok(()),
            Health::Failed(failure) => Err(failure.error.clone()),
        }
    }

    fn complete(&mut self, gtrid: Gtrid) {
        // It counts already, unless the log was reopened in between.
        self.shared.lock().state.complete(gtrid);
        self.lazy.push(gtrid);
        self.lazy_since.get_or_insert_with(Instant::now);
    }

    /// Writes the batch together with what is lazy, changes the state and answers.
    fn write(&mut self, staged: Staged) {
        let batch = staged.batch(&self.lazy);
        if batch.records() == 0 {
            return;
        }
        match self.append(batch) {
            Ok(at) => self.written(staged, LogSeq(at.0 + self.lazy.len() as u64)),
            Err(error) => self.not_written(staged, &error),
        }
    }

    /// `at`: the position of the first change's record.
    fn written(&mut self, mut staged: Staged, at: LogSeq) {
        self.lazy.clear();
        self.lazy_since = None;
        let mut view = self.shared.lock();
        for (change, at) in std::mem::take(&mut staged.changes).into_iter().zip(at.0..) {
            view.state.apply(change, LogSeq(at));
        }
        drop(view);
        staged.answer(Ok(at));
        if let Health::Good(segment) = &self.health
            && segment.is_half_full()
        {
            self.next.prepare_ahead(segment.bytes());
        }
    }

    fn not_written(&mut self, staged: Staged, error: &WriteError) {
        // Not at once again, or a log that is full would be asked for room in a loop.
        self.lazy_since = self.lazy_since.map(|_| Instant::now());
        match error {
            WriteError::NotBegun(_) => staged.answer(Err(error)),
            WriteError::Abandoned(reason) => {
                self.fail(reason.clone());
                staged.answer(Err(error));
                self.reopen();
            }
            WriteError::Uncertain(reason) => {
                self.shared.lock().attempted.extend(staged.decided());
                self.fail(reason.clone());
                staged.answer(Err(error));
                self.reopen();
            }
        }
    }

    fn fail(&mut self, error: LogError) {
        tracing::error!(
            %error,
            "the decision log failed: nothing more is decided until it has reopened itself"
        );
        self.health = Health::Failed(Failure {
            error,
            retry_at: Instant::now(),
            pause: self.home.options.retry_pause,
        });
    }

    fn append(&mut self, batch: Batch) -> Result<LogSeq, WriteError> {
        let segment = match &mut self.health {
            Health::Good(segment) => segment,
            Health::Failed(failure) => return Err(WriteError::NotBegun(failure.error.clone())),
        };
        if !segment.fits(&batch) {
            let view = self.shared.lock();
            let (snapshot, opening) = (view.state.snapshot(), view.opening);
            drop(view);
            let bytes_min = segment_bytes_min(snapshot.stored_bytes(), batch.stored_bytes());
            let prepared = self.next.take(segment.bytes(), bytes_min);
            let prepared = prepared.map_err(WriteError::NotBegun)?;
            let number = segment.number() + 1;
            let begun = begin(&*self.home.storage, prepared, opening, number, snapshot);
            let doing = "begin a segment of the log";
            *segment = begun.map_err(|error| match error {
                BeginError::Unnamed(e) => WriteError::NotBegun(self.home.failed(doing, e)),
                BeginError::Named(e) => WriteError::Abandoned(self.home.failed(doing, e)),
            })?;
            self.next.remove_older(number);
        }
        let appended = segment.append(batch);
        appended.map_err(|error| WriteError::Uncertain(self.home.failed("write to the log", error)))
    }

    /// Reads the log from the disk and goes on under a new opening, or tries again later.
    fn reopen(&mut self) {
        let Health::Failed(failure) = &mut self.health else {
            return;
        };
        self.next.discard();
        let mut view = self.shared.lock();
        let manager = view.opening.manager;
        drop(view);
        match reopen(&self.home, manager) {
            Ok(opened) => {
                tracing::warn!(epoch = %opened.opening.epoch, "the decision log reopened itself");
                self.health = Health::Good(opened.appender);
                view = self.shared.lock();
                view.state = opened.state;
                for gtrid in &self.lazy {
                    view.state.complete(*gtrid);
                }
                view.opening = opened.opening;
                view.attempted.clear();
                view.torn_tail = opened.torn_tail;
            }
            Err(error) => {
                tracing::error!(
                    %error, retry_in = ?failure.pause, "the decision log cannot reopen itself yet"
                );
                failure.error = error;
                failure.retry_at = Instant::now() + failure.pause;
                failure.pause = (failure.pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
    }

    /// Closes the epoch and says for good what became of everything.
    fn shut_down(&mut self) -> Result<(), LogError> {
        let mut staged = Staged::default();
        let (reply, mut closed) = tokio::sync::oneshot::channel();
        let epoch = self.shared.lock().opening.epoch;
        self.stage_close(&mut staged, epoch, reply);
        self.write(staged);
        let closed = closed.try_recv().unwrap_or_else(|_| Err(writer_died()));
        self.shared.lock().end = Some(match &closed {
            Ok(()) => End::Closed,
            Err(error) => End::Left(error.clone()),
        });
        closed
    }
}
