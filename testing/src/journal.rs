//! What happened at the parts in memory, in one order.

use std::sync::{Arc, Mutex, PoisonError};

use unanimous_core::protocol::Decision;
use unanimous_core::xid::{Epoch, Gtrid, ResourceName, Xid};

/// What a resource can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// `Resource::open`.
    Open,
    /// `Branch::prepare`.
    Prepare,
    /// `Branch::commit`.
    Commit,
    /// `Branch::rollback`.
    Rollback,
    /// `Branch::commit_one_phase`.
    OnePhase,
    /// `Branch::commit_last`, on its way.
    CommitLast,
    /// `Branch::commit_last`, after its statement and before its commit: the row is locked. Asked
    /// only if something is planned for it.
    LastCommit,
    /// `Branch::end_read_only`.
    EndReadOnly,
    /// `ResourceManager::preflight`.
    Preflight,
    /// `ResourceManager::recover`.
    Recover,
    /// `ResourceManager::finish`.
    Finish,
    /// `ResourceManager::absent`.
    Absent,
}

/// What a decision table can be asked for: its methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableStep {
    /// `DecisionTable::init`.
    Init,
    /// `DecisionTable::check`.
    Check,
    /// `DecisionTable::join`.
    Join,
    /// `DecisionTable::decide`.
    Decide,
    /// `DecisionTable::put_rollback`.
    PutRollback,
    /// `DecisionTable::complete`.
    Complete,
    /// `DecisionTable::forget`.
    Forget,
    /// `DecisionTable::record_heuristic`.
    RecordHeuristic,
    /// `DecisionTable::record_by_hand`.
    RecordByHand,
    /// `DecisionTable::ends`.
    Ends,
    /// `DecisionTable::decided_at`.
    DecidedAt,
    /// `DecisionTable::close`.
    Close,
    /// `DecisionTable::release`.
    Release,
    /// `DecisionTable::beat`.
    Beat,
    /// `DecisionTable::read`.
    Read,
    /// `DecisionTable::find`.
    Find,
    /// `DecisionTable::closed_for`.
    ClosedFor,
    /// `DecisionTable::hold`.
    Hold,
}

/// What a decision log can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStep {
    /// Opened under this epoch.
    Opened(Epoch),
    /// `decide` was asked.
    Asked(Gtrid),
    /// The decision is recorded.
    Decided(Gtrid),
    /// Completed.
    Completed(Gtrid),
    /// This epoch is closed.
    Closed(Epoch),
    /// The log's table was asked; the request may still get lost.
    Table(TableStep),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request was sent to a resource; it may still get lost.
    Asked {
        /// Where.
        resource: ResourceName,
        /// What was asked.
        step: Step,
        /// For which branch, if for one.
        xid: Option<Xid>,
    },
    /// A branch is prepared.
    Prepared(Xid),
    /// A branch ended at its server.
    Ended(Xid, Decision),
    /// A connection was wiped and kept for the next branch.
    Released(Xid),
    /// A connection was closed instead of released.
    Closed(Xid),
    /// A server crashed.
    Crashed,
    /// Something happened at the decision log.
    Log(LogStep),
}

/// The record of what happened, shared by all parts that were given it. Cloning gives the same one.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<Event>>>);

impl Journal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything so far, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// Everything since the last call, oldest first.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.lock())
    }

    /// Where the first event is that `wanted` accepts.
    pub fn position(&self, wanted: impl Fn(&Event) -> bool) -> Option<usize> {
        self.lock().iter().position(wanted)
    }

    /// How many events `wanted` accepts.
    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.lock().iter().filter(|event| wanted(event)).count()
    }

    pub(crate) fn push(&self, event: Event) {
        self.lock().push(event);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
