//! The handle of one global transaction: enlist branches, work in them, then commit or roll back.
//!
//! Cancellation (I7): before `commit` is called, dropping the handle or any future of it rolls the
//! transaction back in the background. `commit` runs in a task of its own: dropping its future
//! changes nothing.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;
use unanimous_core::ports::{
    Branch, BranchEnv, BranchError, BranchErrorKind, BranchRecord, Resource,
};
use unanimous_core::protocol::BranchRole;
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use crate::active::ActiveToken;
use crate::bounded::{Unanswered, bounded};
use crate::config::Config;
use crate::driver::Driver;
use crate::enlist::EnlistSet;
use crate::error::{CommitError, EnlistError, RollbackCause};
use crate::manager::{AnyResource, Inner};
use crate::observe::Point;
use crate::outcome::Committed;

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
}

/// What a transaction consists of, moved into its driver when it ends.
pub(crate) struct Parts {
    pub(crate) manager: Arc<Inner>,
    pub(crate) gtrid: Gtrid,
    pub(crate) slots: Vec<Slot>,
    /// Branches whose `enlist` was dropped while they were being opened: one that is enlisted again
    /// is the same one, for two sessions of one XID would be in each other's way.
    opening: HashMap<ResourceName, (BranchRole, Opening)>,
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
            opening: HashMap::new(),
            token,
            span,
            deadline,
            rollback_only,
        };
        Self { parts: Some(parts) }
    }

    fn parts(&self) -> &Parts {
        self.parts
            .as_ref()
            .expect("only commit and rollback take the parts, and they take self")
    }

    fn parts_mut(&mut self) -> &mut Parts {
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

/// What [`EnlistSet`] needs.
impl Transaction {
    /// Opens the branches that are missing, in parallel, and returns where each resource's branch
    /// is.
    pub(crate) async fn open_all(
        &mut self,
        requests: Vec<OpenRequest>,
        role: BranchRole,
    ) -> Result<Vec<usize>, EnlistError> {
        let probes = self.parts().manager.probes.clone();
        probes.reached(|| Point::EnlistBegun).await;
        let opened = self.open_missing(&requests, role).await;
        probes.reached(|| Point::EnlistDone).await;
        if let Err(error) = opened {
            let cause = match &error {
                EnlistError::Branch(error) => RollbackCause::Branch(error.clone()),
                EnlistError::DeadlinePassed => RollbackCause::DeadlinePassed,
                EnlistError::NotRegistered(_)
                | EnlistError::Twice(_)
                | EnlistError::RoleMixed(_)
                | EnlistError::SameServer { .. }
                | EnlistError::RollbackOnly
                | EnlistError::ShutDown => RollbackCause::Enlist(Box::new(error.clone())),
            };
            self.parts_mut().rollback_only.get_or_insert(cause);
            return Err(error);
        }
        let slots = &self.parts().slots;
        let index_of = |request: &OpenRequest| slots.iter().position(|s| s.name == request.name);
        Ok(requests.iter().filter_map(index_of).collect())
    }

    async fn open_missing(
        &mut self,
        requests: &[OpenRequest],
        role: BranchRole,
    ) -> Result<(), EnlistError> {
        let parts = self.parts_mut();
        parts.check_may_enlist()?;
        for (index, request) in requests.iter().enumerate() {
            parts.check_request(request, role)?;
            if requests[..index]
                .iter()
                .any(|earlier| earlier.name == request.name)
            {
                return Err(EnlistError::Twice(request.name.clone()));
            }
        }
        let missing: Vec<_> = requests
            .iter()
            .filter(|r| parts.slots.iter().all(|s| s.name != r.name))
            .collect();
        for request in &missing {
            parts.check_fit(&request.name)?;
            parts.open(request, role)?;
        }
        let mut failed = None;
        // Awaited one after the other, but running at the same time.
        for name in missing.into_iter().map(|request| request.name.clone()) {
            let Some((_, opening)) = parts.opening.get_mut(&name) else {
                continue;
            };
            // Not taken out before it has ended: this future may be dropped here.
            let opened = opening.await;
            parts.opening.remove(&name);
            match opened.unwrap_or_else(|_| Err(EnlistError::ShutDown)) {
                Ok(branch) => {
                    if let Err(error) = parts.add(name, role, branch) {
                        failed.get_or_insert(error);
                    }
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    pub(crate) fn slots_mut(&mut self) -> &mut [Slot] {
        &mut self.parts_mut().slots
    }

    /// The branch of `slot`, if it has the type that its resource opens.
    pub(crate) fn branch_of<R: Resource>(slot: &mut Slot) -> Option<&mut R::Branch> {
        let branch: &mut dyn Any = slot.branch.as_deref_mut()?;
        branch.downcast_mut()
    }
}

impl Parts {
    fn check_may_enlist(&self) -> Result<(), EnlistError> {
        if self.manager.is_shutting_down() {
            Err(EnlistError::ShutDown)
        } else if self.rollback_only.is_some() {
            Err(EnlistError::RollbackOnly)
        } else if Instant::now() >= self.deadline {
            Err(EnlistError::DeadlinePassed)
        } else {
            Ok(())
        }
    }

    fn check_request(&self, request: &OpenRequest, role: BranchRole) -> Result<(), EnlistError> {
        let name = &request.name;
        if !self.manager.resources.contains_key(name) {
            return Err(EnlistError::NotRegistered(name.clone()));
        }
        let enlisted = self.slots.iter().find(|slot| slot.name == *name);
        let opening = self.opening.get(name).map(|(role, _)| *role);
        let has_role = enlisted.map(|slot| slot.role).or(opening);
        if has_role.is_some_and(|has_role| has_role != role) {
            return Err(EnlistError::RoleMixed(name.clone()));
        }
        Ok(())
    }

    /// What was away at the start and unfit afterwards would lose what was acknowledged.
    fn check_fit(&self, name: &ResourceName) -> Result<(), EnlistError> {
        match self.manager.recovery.unfit(name) {
            None => Ok(()),
            Some(unfit) => {
                let message = format!("it is not used until this is mended: {unfit}");
                let error = BranchError::new(BranchErrorKind::Failed, name.clone(), message);
                Err(error.with_source(unfit).into())
            }
        }
    }

    /// Starts to open a branch, unless it is being opened, in a task that ends by itself: the
    /// transaction stays in A as long as the task lives.
    fn open(&mut self, request: &OpenRequest, role: BranchRole) -> Result<(), EnlistError> {
        let name = request.name.clone();
        if self.opening.contains_key(&name) {
            return Ok(());
        }
        let config = &self.manager.config;
        let idle_timeout = self.deadline.saturating_duration_since(Instant::now());
        let env = BranchEnv {
            xid: Xid {
                gtrid: self.gtrid,
                bqual: name.clone(),
            },
            read_only: role == BranchRole::Reader,
            lock_timeout: config.lock_timeout,
            idle_timeout: idle_timeout + config.prepare_timeout + Duration::from_secs(1),
        };
        let registered = self.manager.resources.get(&name);
        let opening = registered.and_then(|registered| (request.open)(&**registered, env));
        let opening = opening.ok_or_else(|| EnlistError::NotRegistered(name.clone()))?;
        let token = Arc::clone(&self.token);
        let open_timeout = config.open_timeout;
        let runtime = &self.manager.runtime;
        let task_name = name.clone();
        let probes = self.manager.probes.clone();
        let task = runtime.spawn(async move {
            probes.at(&task_name, Point::BeforeOpen).await;
            let opened = bounded(open_timeout, opening).await;
            probes.at(&task_name, Point::Opened).await;
            drop(token);
            opened.unwrap_or_else(|silence| Err(not_opened(task_name, silence)))
        });
        self.opening.insert(name, (role, task));
        Ok(())
    }

    fn add(
        &mut self,
        name: ResourceName,
        role: BranchRole,
        branch: Box<dyn AnyBranch>,
    ) -> Result<(), EnlistError> {
        let scope = branch.scope();
        let same = |slot: &&Slot| slot.branch.as_ref().is_some_and(|b| b.scope() == scope);
        if let Some(other) = self.slots.iter().find(same) {
            let other = other.name.clone();
            return Err(EnlistError::SameServer {
                resource: name,
                other,
            });
        }
        self.slots.push(Slot {
            name,
            role,
            branch: Some(branch),
            record: None,
        });
        Ok(())
    }
}

type Opened = Result<Box<dyn AnyBranch>, EnlistError>;
type Opening = tokio::task::JoinHandle<Opened>;

/// A resource to be enlisted, with its type forgotten.
pub(crate) struct OpenRequest {
    name: ResourceName,
    /// `None` if the registered resource is of another type.
    open: fn(&dyn AnyResource, BranchEnv) -> Option<BoxFuture<'static, Opened>>,
}

impl OpenRequest {
    pub(crate) fn new<R: Resource>(resource: &R) -> Self {
        Self {
            name: resource.name().clone(),
            open: open_as::<R>,
        }
    }
}

fn open_as<R: Resource>(
    registered: &dyn AnyResource,
    env: BranchEnv,
) -> Option<BoxFuture<'static, Opened>> {
    let registered: &dyn Any = registered;
    let resource = registered.downcast_ref::<R>()?.clone();
    Some(Box::pin(async move {
        let branch = resource.open(env).await?;
        Ok(Box::new(branch) as Box<dyn AnyBranch>)
    }))
}

fn not_opened(resource: ResourceName, silence: Unanswered) -> EnlistError {
    let message = match silence {
        Unanswered::Late(limit) => {
            format!(
                "could not be opened within {limit:?}: is the server reachable, and has its pool \
                 a connection left?"
            )
        }
        Unanswered::Panicked => format!("could not be opened: {silence}"),
    };
    let kind = BranchErrorKind::Unavailable;
    EnlistError::Branch(BranchError::new(kind, resource, message))
}
