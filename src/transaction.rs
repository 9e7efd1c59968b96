//! The handle of one global transaction: enlist branches, work in them, then commit or roll back.
//!
//! Cancellation (I7): before `commit` is called, dropping the handle or any future of it rolls the
//! transaction back in the background. `commit` runs in a task of its own: dropping its future
//! changes nothing.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;
use unanimous_core::ports::{Branch, BranchRecord};
use unanimous_core::protocol::BranchRole;
use unanimous_core::xid::{Gtrid, ResourceName};

use crate::active::ActiveToken;
use crate::config::Config;
use crate::driver::Driver;
use crate::enlist::EnlistSet;
use crate::error::{CommitError, EnlistError, RollbackCause};
use crate::manager::Inner;
use crate::opening::Opening;
use crate::outcome::Committed;
use crate::places::Place;

/// A branch whose type is found again by the resource that opened it.
pub(crate) trait AnyBranch: Branch + Any {}

impl<B: Branch> AnyBranch for B {}

/// One branch of a transaction, in the order in which they were enlisted.
pub(crate) struct Slot {
    pub(crate) name: ResourceName,
    pub(crate) role: BranchRole,
    /// `None` while a command is under way in it, and after its end.
    pub(crate) branch: Option<Box<dyn AnyBranch>>,
    /// What the decision will say of it; known once it has prepared.
    pub(crate) record: Option<BranchRecord>,
    /// Where places are counted: given back with the slot.
    pub(crate) _place: Option<Place>,
}

/// What a transaction consists of, moved into its driver when it ends.
pub(crate) struct Parts {
    pub(crate) manager: Arc<Inner>,
    pub(crate) gtrid: Gtrid,
    pub(crate) slots: Vec<Slot>,
    /// Branches whose `enlist` was dropped while they were being opened: one that is enlisted again
    /// is the same one, for two sessions of one XID would be in each other's way.
    pub(crate) opening: Vec<Opening>,
    pub(crate) token: Arc<ActiveToken>,
    pub(crate) span: Span,
    pub(crate) deadline: Instant,
    pub(crate) rollback_only: Option<RollbackCause>,
}

/// A global transaction. Made by [`begin`](crate::TransactionManager::begin).
///
/// Dropping it rolls it back, in the background.
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction {
    /// `None` only after `commit` or `rollback` has taken it.
    parts: Option<Parts>,
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let resources = self
            .parts
            .iter()
            .flat_map(|parts| &parts.slots)
            .map(|slot| &slot.name);
        let gtrid = self.parts.as_ref().map(|parts| parts.gtrid);
        let mut debug = f.debug_struct("Transaction");
        debug
            .field("gtrid", &gtrid)
            .field("resources", &resources.collect::<Vec<_>>())
            .finish()
    }
}

impl Transaction {
    pub(crate) fn new(manager: Arc<Inner>, gtrid: Gtrid, token: Arc<ActiveToken>) -> Self {
        let span = tracing::info_span!(target: "unanimous", "transaction", %gtrid);
        let deadline = Instant::now() + manager.config.deadline;
        let slots = Vec::new();
        let rollback_only = None;
        let parts = Parts {
            manager,
            gtrid,
            slots,
            opening: Vec::new(),
            token,
            span,
            deadline,
            rollback_only,
        };
        Self { parts: Some(parts) }
    }

    pub(crate) fn parts(&self) -> &Parts {
        self.parts
            .as_ref()
            .expect("only commit and rollback take the parts, and they take self")
    }

    pub(crate) fn parts_mut(&mut self) -> &mut Parts {
        self.parts
            .as_mut()
            .expect("only commit and rollback take the parts, and they take self")
    }

    /// The transaction's id: unique for ever, shown by both servers while it is in doubt, and what
    /// [`outcome`](crate::TransactionManager::outcome) takes.
    pub fn gtrid(&self) -> Gtrid {
        self.parts().gtrid
    }

    /// Enlists one resource, a tuple, an array or a slice of them, opens what is missing in
    /// parallel, and lends the branches. The borrow checker ends the loans before `commit`.
    /// Enlisting again gives the same branch. Opened is the resource that was *registered* under
    /// this name, for that is where recovery looks.
    ///
    /// Where a pool is used up, this waits its turn. Transactions that enlist everything in one
    /// call never wait for each other in a circle. Those that enlist one resource after the other
    /// do, unless all of them follow the order of the resources' names; whoever has waited for too
    /// long is told so, and its rollback lets the others go on.
    ///
    /// Cancel safe: a branch that was being opened is there for the next `enlist`, or is closed
    /// when the transaction ends.
    ///
    /// # Errors
    /// [`EnlistError`]; the transaction is rollback-only then.
    pub async fn enlist<'t, S: EnlistSet<'t>>(
        &'t mut self,
        set: S,
    ) -> Result<S::Branches, EnlistError> {
        set.enlist(self, BranchRole::Writer).await
    }

    /// Enlists for reading only, enforced by the servers. Such a branch has no vote and no second
    /// phase, and it ends *before* the decision: its locks are gone by then. What each server lets
    /// through in a read-only transaction is told by its adapter.
    ///
    /// Cancel safe, like [`enlist`](Self::enlist).
    ///
    /// # Errors
    /// [`EnlistError`]; the transaction is rollback-only then.
    pub async fn enlist_read_only<'t, S: EnlistSet<'t>>(
        &'t mut self,
        set: S,
    ) -> Result<S::Branches, EnlistError> {
        set.enlist(self, BranchRole::Reader).await
    }

    /// Sets this transaction's own deadline, counted from now, in place of
    /// [`Config::deadline`](crate::Config::deadline). Branches that are open already keep the
    /// limit that their server was told. At most ten days.
    pub fn set_deadline(&mut self, from_now: Duration) {
        self.parts_mut().deadline = Instant::now() + from_now.min(Config::LIMIT_MAX);
    }

    /// From now on the transaction can only be rolled back.
    pub fn mark_rollback_only(&mut self) {
        self.parts_mut()
            .rollback_only
            .get_or_insert(RollbackCause::MarkedRollbackOnly);
    }

    /// Commits everywhere, or nowhere.
    ///
    /// Not cancelled by dropping the future: it then goes on in the background.
    ///
    /// # Errors
    /// [`CommitError`] says what to do next: retry, ask later, or call a person.
    pub async fn commit(mut self) -> Result<Committed, CommitError> {
        let parts = self.parts.take().expect("commit and rollback take self");
        let gtrid = parts.gtrid;
        let (answer, answered) = oneshot::channel();
        let runtime = parts.manager.runtime.clone();
        runtime.spawn(Driver::new(parts, Some(answer)).commit());
        answered.await.unwrap_or_else(|_| {
            let reason = "the runtime was shut down during the commit".to_owned();
            Err(CommitError::Undetermined { gtrid, reason })
        })
    }

    /// Rolls back everywhere and waits until it is done or handed to recovery.
    ///
    /// Not cancelled by dropping the future: it then goes on in the background.
    pub async fn rollback(mut self) {
        let parts = self.parts.take().expect("commit and rollback take self");
        let runtime = parts.manager.runtime.clone();
        // A driver that ended early (runtime shut down) has closed its connections: rolled back.
        let _ = runtime.spawn(Driver::new(parts, None).rollback()).await;
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            let runtime = parts.manager.runtime.clone();
            runtime.spawn(Driver::new(parts, None).rollback());
        }
    }
}
