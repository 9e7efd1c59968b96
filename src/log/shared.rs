//! What the writer's thread shares with those who ask: the state, and how the log ended.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use unanimous_core::ports::{DecideError, LogError, Refusal};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Gtrid, Opening};

use super::home::TornTail;
use super::record::Id;
use super::state::{Recorded, State};

/// See the module. Locked for as long as a map takes to be read or changed, never during I/O.
#[derive(Debug)]
pub(super) struct Shared(Mutex<View>);

/// The durable state, as the last batch left it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) state: State,
    /// The opening under which new transactions begin.
    pub(super) opening: Opening,
    /// The transactions whose decisions may or may not be on the disk, because their write failed
    /// and the log has not been reopened since.
    pub(super) attempted: HashSet<Id>,
    /// Set when the writer has let go of the log.
    pub(super) end: Option<End>,
    /// What the last opening cut off.
    pub(super) torn_tail: Option<TornTail>,
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
    pub(super) const fn new(view: View) -> Self {
        Self(Mutex::new(view))
    }

    /// A panic of another holder changes nothing: every change is one that can stand alone.
    pub(super) fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// What `decide` answers without a write, if it can.
    pub(super) fn answer(&self, gtrid: Gtrid, bytes: &[u8]) -> Option<Result<LogSeq, DecideError>> {
        match self.state.recorded(gtrid) {
            Recorded::Pending(at, recorded) if recorded == bytes => Some(Ok(at)),
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
