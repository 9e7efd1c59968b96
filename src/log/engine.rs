//! The log's one writer, without a thread: takes requests, writes one batch, answers.
//!
//! Promises (I2, I3):
//! * Batch n+1 is written only after batch n was synced, because nothing else writes.
//! * `decide` checks the epoch and writes in one step, because nothing else closes.
//! * The state that is asked changes only after the sync.
//! * After the first write or sync that fails in the segment nothing more is written under this
//!   opening. Whoever waited for that batch is told that it is uncertain. The log then reads itself
//!   from the disk, lists a new opening, closes the old one, and writes all of this to a new
//!   segment, with what it holds and the disk does not say: what it read may have been in the page
//!   cache only, and is durable from then on. Only after that does it give final answers about the
//!   old opening.
//!   As long as the disk refuses this, what was attempted stays uncertain and everything else is
//!   refused unattempted.
//! * Where somebody has removed, renamed or replaced the segment, all of the state is written to a
//!   new one before anything more is acknowledged.
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
use super::request::{Reply, Request, Staged, WriteError, answer};
use super::segment::Batch;
use super::shared::{End, Shared, View, writer_died};
use super::state::Change;

/// See the module.
pub(super) struct Engine {
    home: Home,
    shared: Arc<Shared>,
    health: Health,
    next: NextSegment,
    /// When to look for completions without being asked; `None` while asleep.
    look_at: Option<Instant>,
}

enum Health {
    Good(Appender),
    Failed(Failure),
}

struct Failure {
    error: LogError,
    /// The segment that it wrote to.
    number: u64,
    retry_at: Instant,
    pause: Duration,
}

impl Engine {
    pub(super) fn new(home: Home, opened: Opened) -> (Self, Arc<Shared>) {
        let shared = Shared::new(opened.state, opened.opening, opened.torn_tail);
        let shared = Arc::new(shared);
        let engine = Self {
            next: NextSegment::new(home.clone()),
            look_at: Some(Instant::now() + home.options.lazy_pause),
            home,
            shared: shared.clone(),
            health: Health::Good(opened.appender),
        };
        (engine, shared)
    }

    /// How long nothing needs to be done unless something is asked.
    pub(super) fn idle_time(&self) -> Option<Duration> {
        let due = match &self.health {
            Health::Failed(failure) => Some(failure.retry_at),
            Health::Good(_) => self.look_at,
        };
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Does what is due without being asked: reopens a failed log, writes lazy completions.
    pub(super) fn do_what_is_due(&mut self) {
        if self.idle_time() != Some(Duration::ZERO) {
            return;
        }
        match &self.health {
            Health::Failed(_) => self.reopen(),
            Health::Good(_) => {
                self.write(Staged::default());
                self.look_at = if self.shared.fall_asleep() {
                    None
                } else {
                    Some(Instant::now() + self.home.options.lazy_pause)
                };
            }
        }
    }

    /// Answers the requests, after one write for all of them if any needs it. If a shutdown is
    /// among them, the engine has ended: then this gives back whom to tell so, and what.
    pub(super) fn commit(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Option<(Vec<Reply>, Result<(), LogError>)> {
        self.stay_awake();
        let mut staged = Staged::default();
        let mut shutdowns = Vec::new();
        let shared = self.shared.clone();
        let view = shared.lock_unsettled();
        for request in requests {
            match request {
                Request::Decide {
                    gtrid,
                    bytes,
                    reply,
                } => match self.known(&view, &staged, gtrid, &bytes) {
                    Some(known) => answer(reply, known),
                    None => staged.decide(gtrid, bytes, reply),
                },
                Request::Heuristic {
                    gtrid,
                    resource,
                    heuristic,
                    when,
                    reply,
                } => match self.check_heuristic(&view, gtrid, &resource) {
                    Ok(()) => {
                        let id = Id::of(gtrid);
                        let change = Change::Heuristic {
                            id,
                            resource,
                            heuristic,
                            when,
                        };
                        staged.change(change, reply);
                    }
                    Err(error) => answer(reply, Err(error)),
                },
                Request::ByHand { row, reply } => match self.refuse_if_failed() {
                    Ok(()) => staged.change(Change::ByHand(row), reply),
                    Err(error) => answer(reply, Err(error)),
                },
                Request::Close { epoch, reply } => {
                    self.stage_close(&view, &mut staged, epoch, reply);
                }
                Request::Wake => {}
                Request::Force(reply) => match self.refuse_if_failed() {
                    Ok(()) => staged.force(reply),
                    Err(error) => answer(reply, Err(error)),
                },
                Request::Shutdown(reply) => shutdowns.push(reply),
            }
        }
        drop(view);
        if staged.is_asked_for() {
            self.write(staged);
        }
        (!shutdowns.is_empty()).then(|| (shutdowns, self.shut_down()))
    }

    /// Writes what is lazy, as far as that goes, and lets go of files and threads.
    pub(super) fn leave(&mut self) {
        self.write(Staged::default());
        self.next.discard();
    }

    fn stay_awake(&mut self) {
        if self.look_at.is_none() {
            self.shared.wake_up();
            self.look_at = Some(Instant::now() + self.home.options.lazy_pause);
        }
    }

    /// What `decide` answers without a write; `None` if it has to be written.
    fn known(
        &self,
        view: &View,
        staged: &Staged,
        gtrid: Gtrid,
        bytes: &[u8],
    ) -> Option<Result<LogSeq, DecideError>> {
        if let Some(known) = view.answer(gtrid, bytes) {
            return Some(known);
        }
        if staged.is_closing(gtrid.opening.epoch) {
            return Some(Err(DecideError::Refused(Refusal::EpochClosed)));
        }
        match &self.health {
            Health::Good(_) => None,
            Health::Failed(failure) => Some(Err(view.answer_failed(gtrid, &failure.error))),
        }
    }

    fn stage_close(&self, view: &View, staged: &mut Staged, epoch: Epoch, reply: Reply) {
        match (view.state.is_closed(epoch), &self.health) {
            (Some(true), _) => answer(reply, Ok(())),
            (None, _) => {
                let folder = self.home.folder.display();
                let text = format!("log {folder}: epoch {epoch} is not listed: check the number");
                answer(reply, Err(LogError::new(text)));
            }
            (Some(false), Health::Good(_)) => staged.close(epoch, reply),
            (Some(false), Health::Failed(failure)) => answer(reply, Err(failure.error.clone())),
        }
    }

    fn check_heuristic(
        &self,
        view: &View,
        gtrid: Gtrid,
        resource: &ResourceName,
    ) -> Result<(), LogError> {
        if !view.state.is_listed(gtrid.opening) {
            return Err(LogError::new(format!(
                "log {}: the opening of {gtrid} (resource {resource}) is not listed: it is another \
                 log's, or this log was restored or copied",
                self.home.folder.display()
            )));
        }
        self.refuse_if_failed()
    }

    fn refuse_if_failed(&self) -> Result<(), LogError> {
        match &self.health {
            Health::Good(_) => Ok(()),
            Health::Failed(failure) => Err(failure.error.clone()),
        }
    }

    /// What is durable would not be found.
    fn is_removed(&self) -> bool {
        match &self.health {
            Health::Good(segment) => segment.is_removed(),
            Health::Failed(_) => false,
        }
    }

    /// Writes the batch together with what is lazy, changes the state and answers.
    fn write(&mut self, mut staged: Staged) {
        let mut view = if staged.is_asked_for() && !staged.is_forced() {
            // Completions wait for the time after the sync, when nobody waits for the writer.
            self.shared.lock_unsettled()
        } else {
            self.shared.lock()
        };
        staged.lazy = std::mem::take(&mut view.unwritten);
        drop(view);
        let batch = staged.batch();
        if batch.records() == 0 && !(staged.is_forced() && self.is_removed()) {
            // What was lazy is durable already.
            return staged.answer(Ok(LogSeq(0)));
        }
        match self.append(batch) {
            Ok(at) => self.written(staged, at),
            Err(error) => self.not_written(staged, &error),
        }
    }

    /// `at`: the position of the first record.
    fn written(&mut self, mut staged: Staged, at: LogSeq) {
        let at = LogSeq(at.0 + staged.lazy.len() as u64);
        let changes = std::mem::take(&mut staged.changes);
        // Whoever is answered and looks something up waits for the lock until it is there.
        let mut view = self.shared.lock_unsettled();
        staged.answer(Ok(at));
        for (change, at) in changes.into_iter().zip(at.0..) {
            view.state.apply(change, LogSeq(at));
        }
        self.shared.settle(&mut view);
        drop(view);
        if let Health::Good(segment) = &self.health
            && segment.is_half_full()
        {
            self.next.prepare_ahead(segment.bytes());
        }
    }

    fn not_written(&mut self, mut staged: Staged, error: &WriteError) {
        let mut view = self.shared.lock();
        view.unwritten.append(&mut staged.lazy);
        match error {
            WriteError::NotBegun(_) | WriteError::Abandoned(_) => {}
            WriteError::Uncertain(_) => view.attempted.extend(staged.decided()),
        }
        drop(view);
        match error {
            WriteError::NotBegun(_) => staged.answer(Err(error)),
            WriteError::Abandoned(reason) | WriteError::Uncertain(reason) => {
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
        let number = match &self.health {
            Health::Good(segment) => segment.number(),
            Health::Failed(failure) => failure.number,
        };
        self.health = Health::Failed(Failure {
            error,
            number,
            retry_at: Instant::now(),
            pause: self.home.options.retry_pause,
        });
    }

    fn append(&mut self, batch: Batch) -> Result<LogSeq, WriteError> {
        let segment = match &mut self.health {
            Health::Good(segment) => segment,
            Health::Failed(failure) => return Err(WriteError::NotBegun(failure.error.clone())),
        };
        let is_removed = segment.is_removed();
        if is_removed {
            tracing::error!(
                folder = %self.home.folder.display(),
                "the decision log's segment was removed, renamed or replaced while it is open: all \
                 of it is written anew"
            );
            // What was made ahead may be gone, too.
            self.next.discard();
        }
        if is_removed || !segment.fits(&batch) {
            let snapshot = self.shared.lock().state.snapshot();
            let bytes_min = segment_bytes_min(snapshot.stored_bytes(), batch.stored_bytes());
            let prepared = self.next.take(segment.bytes(), bytes_min);
            let prepared = prepared.map_err(WriteError::NotBegun)?;
            let (opening, number) = (self.shared.opening(), segment.number() + 1);
            let begun = begin(&*self.home.storage, prepared, opening, number, snapshot);
            let doing = "begin a segment of the log";
            *segment = begun.map_err(|error| match error {
                BeginError::Unnamed(e) => WriteError::NotBegun(self.home.failed(doing, e)),
                BeginError::Named(e) => WriteError::Abandoned(self.home.failed(doing, e)),
            })?;
            self.next.remove_older(number);
        }
        if batch.records() == 0 {
            // The state that the segment begins with is all.
            return Ok(LogSeq(0));
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
        let held = self.shared.lock().state.clone();
        match reopen(&self.home, held, failure.number) {
            Ok(opened) => {
                tracing::warn!(epoch = %opened.opening.epoch, "the decision log reopened itself");
                self.health = Health::Good(opened.appender);
                let mut view = self.shared.lock();
                let unwritten = std::mem::take(&mut view.unwritten);
                view.state = opened.state;
                for gtrid in unwritten {
                    if view.state.complete(gtrid) {
                        view.unwritten.push(gtrid);
                    }
                }
                view.attempted.clear();
                view.torn_tail = opened.torn_tail;
                self.shared.set_opening(opened.opening);
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
        let epoch = self.shared.opening().epoch;
        let shared = self.shared.clone();
        self.stage_close(&shared.lock(), &mut staged, epoch, reply);
        self.write(staged);
        let closed = closed.try_recv().unwrap_or_else(|_| Err(writer_died()));
        shared.lock().end = Some(match &closed {
            Ok(()) => End::Closed,
            Err(error) => End::Left(error.clone()),
        });
        closed
    }
}
