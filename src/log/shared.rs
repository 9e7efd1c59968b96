//! What the writer's thread shares with those who ask: the state, and how the log ended.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use unanimous_core::ports::{DecideError, LogError, Refusal};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Gtrid, Opening};

use super::home::TornTail;
use super::record::{Id, is_same_decision};
use super::state::{Recorded, State};

/// See the module. Its locks are held for as long as a map takes to be read or changed, never
/// during I/O. Whoever takes both takes the view's first.
#[derive(Debug)]
pub(super) struct Shared {
    view: Mutex<View>,
    front: Mutex<Front>,
}

/// The durable state, as the last batch left it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) state: State,
    /// Completions that count in the state and are not on the disk yet.
    pub(super) unwritten: Vec<Gtrid>,
    /// The transactions whose decisions may or may not be on the disk, because their write failed
    /// and the log has not been reopened since.
    pub(super) attempted: HashSet<Id>,
    /// Set when the writer has let go of the log.
    pub(super) end: Option<End>,
    /// What the last opening cut off.
    pub(super) torn_tail: Option<TornTail>,
}

/// What every transaction asks for, kept apart from the view so that it need not wait for it.
#[derive(Debug)]
struct Front {
    opening: Opening,
    /// Completions that the state does not know yet.
    completed: Vec<Gtrid>,
    /// The writer waits for requests alone, and has to be woken for completions.
    asleep: bool,
}

/// How a log ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// Its epoch was closed, durably: both answers of `decide` are final.
    Closed,
    /// Its epoch could not be closed; the next opening will do it.
    Left(LogError),
}

impl Shared {
    pub(super) fn new(state: State, opening: Opening, torn_tail: Option<TornTail>) -> Self {
        Self {
            view: Mutex::new(View {
                state,
                unwritten: Vec::new(),
                attempted: HashSet::new(),
                end: None,
                torn_tail,
            }),
            front: Mutex::new(Front {
                opening,
                completed: Vec::new(),
                asleep: false,
            }),
        }
    }

    /// The view as it is, for what does not depend on completions: `decide` answers alike for
    /// what is pending and for what is completed.
    pub(super) fn lock_unsettled(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    /// The view, with every completion counted.
    pub(super) fn lock(&self) -> MutexGuard<'_, View> {
        let mut view = self.lock_unsettled();
        self.settle(&mut view);
        view
    }

    /// Counts the completions that were noted.
    pub(super) fn settle(&self, view: &mut View) {
        let completed = std::mem::take(&mut self.front().completed);
        for gtrid in completed {
            // What is not pending was never decided here, or is completed already.
            if view.state.complete(gtrid) {
                view.unwritten.push(gtrid);
            }
        }
    }

    /// The opening under which new transactions begin.
    pub(super) fn opening(&self) -> Opening {
        self.front().opening
    }

    pub(super) fn set_opening(&self, opening: Opening) {
        self.front().opening = opening;
    }

    /// Notes a completion; `true` if the writer has to be woken for it.
    pub(super) fn complete(&self, gtrid: Gtrid) -> bool {
        let mut front = self.front();
        front.completed.push(gtrid);
        std::mem::take(&mut front.asleep)
    }

    /// The writer is about to wait for requests alone; `false` if it must not.
    pub(super) fn fall_asleep(&self) -> bool {
        let mut front = self.front();
        front.asleep = front.completed.is_empty();
        front.asleep
    }

    pub(super) fn wake_up(&self) {
        self.front().asleep = false;
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        lock(&self.front)
    }
}

/// A panic of another holder changes nothing: every change is one that can stand alone.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl View {
    /// What `decide` answers without a write, if it can.
    pub(super) fn answer(&self, gtrid: Gtrid, bytes: &[u8]) -> Option<Result<LogSeq, DecideError>> {
        match self.state.recorded(gtrid) {
            Recorded::Pending(at, recorded) if is_same_decision(recorded, bytes) => Some(Ok(at)),
            Recorded::Pending(..) => Some(Err(conflict(gtrid))),
            Recorded::Completed(at) => Some(Ok(at)),
            Recorded::Not if self.state.is_open(gtrid.opening) => None,
            Recorded::Not => Some(Err(DecideError::Refused(Refusal::EpochClosed))),
        }
    }

    /// What `decide` answers for an unrecorded transaction of the open epoch while nothing can be
    /// written because of `error`.
    pub(super) fn answer_failed(&self, gtrid: Gtrid, error: &LogError) -> DecideError {
        if self.attempted.contains(&Id::of(gtrid)) {
            DecideError::Uncertain(error.clone())
        } else {
            DecideError::Refused(Refusal::NotAttempted(error.clone()))
        }
    }

    /// What `decide` answers when the writer's thread is gone and never took the request up.
    pub(super) fn answer_ended(&self, gtrid: Gtrid, bytes: &[u8]) -> Result<LogSeq, DecideError> {
        match (self.answer(gtrid, bytes), &self.end) {
            (Some(answer), Some(End::Closed | End::Left(_))) => answer,
            (Some(Ok(at)), None) => Ok(at),
            (None, Some(End::Left(error))) => Err(self.answer_failed(gtrid, error)),
            // Not reached: an open epoch was not closed. Uncertain is never wrong.
            (None, Some(End::Closed)) | (None | Some(Err(_)), None) => {
                Err(DecideError::Uncertain(writer_died()))
            }
        }
    }
}

/// The same transaction was decided with other branches: a bug of the caller. Never "refused",
/// because a decision is recorded.
pub(super) fn conflict(gtrid: Gtrid) -> DecideError {
    DecideError::Uncertain(LogError::new(format!(
        "transaction {gtrid} is recorded with other branches: report this as a bug"
    )))
}

/// The writer's thread panicked.
pub(super) fn writer_died() -> LogError {
    LogError::new("the decision log's thread has died: open the log again")
}

/// The log was shut down by its owner.
pub(super) fn shut_down() -> LogError {
    LogError::new("the decision log was shut down: open it again")
}
