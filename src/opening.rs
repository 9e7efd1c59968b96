//! How a transaction opens the branches of what it enlists.
//!
//! First everything is refused that can be refused without a server; then the places are taken, in
//! an order in which nobody waits in a circle (`places.rs`); then all branches are opened in
//! parallel, inside the future of `enlist`. If that is dropped, what is being opened goes on in a
//! task that ends by itself: a request that was sent is not left half-way, and as long as it runs
//! the transaction stays in A (I5).

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use unanimous_core::ports::{BranchEnv, BranchError, BranchErrorKind, Resource};
use unanimous_core::protocol::BranchRole;
use unanimous_core::xid::{ResourceName, Xid};

use crate::active::ActiveToken;
use crate::bounded::{Unanswered, bounded};
use crate::error::{EnlistError, RollbackCause};
use crate::manager::AnyResource;
use crate::observe::{Point, Probes};
use crate::places::Place;
use crate::transaction::{AnyBranch, Parts, Slot, Transaction};

type Opened = Result<(Box<dyn AnyBranch>, Option<Place>), EnlistError>;

/// A branch that is being opened.
pub(crate) struct Opening {
    name: ResourceName,
    role: BranchRole,
    progress: Progress,
    /// By the `enlist` that is under way.
    is_wanted: bool,
}

enum Progress {
    /// Polled by whoever wants it.
    Here(BoxFuture<'static, Opened>),
    /// Goes on by itself.
    Elsewhere(JoinHandle<Opened>),
    Done(Opened),
}

/// What an opening needs beside its resource.
struct OpenEnv {
    env: BranchEnv,
    place: Option<Place>,
    limit: Duration,
    probes: Probes,
    token: Arc<ActiveToken>,
}

/// A resource to be enlisted, with its type forgotten.
pub(crate) struct OpenRequest {
    name: ResourceName,
    is_of_this_type: fn(&dyn AnyResource) -> bool,
    /// `None` if the registered resource is of another type.
    open: fn(&dyn AnyResource, OpenEnv) -> Option<BoxFuture<'static, Opened>>,
}

impl OpenRequest {
    pub(crate) fn new<R: Resource>(resource: &R) -> Self {
        Self {
            name: resource.name().clone(),
            is_of_this_type: |registered| as_type::<R>(registered).is_some(),
            open: open_as::<R>,
        }
    }
}

/// One that is not open yet.
struct Missing<'r> {
    request: &'r OpenRequest,
    place: Option<Place>,
}

/// What [`EnlistSet`](crate::EnlistSet) needs.
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
            let mut earlier = requests[..index].iter();
            if earlier.any(|earlier| earlier.name == request.name) {
                return Err(EnlistError::Twice(request.name.clone()));
            }
        }
        let is_missing = |request: &&OpenRequest| parts.slot_of(&request.name).is_none();
        let missing = requests.iter().filter(is_missing);
        let mut missing: Vec<_> = missing
            .map(|request| Missing {
                request,
                place: None,
            })
            .collect();
        let until = Instant::now() + parts.manager.config.open_timeout;
        for Missing { request, .. } in &missing {
            let manager = &parts.manager;
            let late = &manager.recovery.late;
            late.check_fit(manager, &request.name, role, until).await?;
        }
        parts.take_places(&mut missing, until).await?;
        let mut all = OpenAll(parts);
        for Missing { request, place } in missing {
            all.0.open(request, role, place, until)?;
        }
        (&mut all).await;
        let parts = &mut *all.0;
        parts.add_opened()
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

/// Ready when all that is wanted has been opened, or has failed. Dropped before, what has begun
/// goes on in tasks.
struct OpenAll<'p>(&'p mut Parts);

impl Future for OpenAll<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Parts {
            manager, opening, ..
        } = &mut *self.0;
        // Wherever the application polls: adapters count time, and begin tasks, in the manager's.
        let _entered = manager.runtime.enter();
        let mut is_ready = true;
        for one in opening.iter_mut().filter(|one| one.is_wanted) {
            is_ready &= one.progress.poll(context).is_ready();
        }
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for OpenAll<'_> {
    fn drop(&mut self) {
        let runtime = &self.0.manager.runtime;
        for one in self.0.opening.iter_mut().filter(|one| one.is_wanted) {
            one.is_wanted = false;
            let progress = mem::replace(
                &mut one.progress,
                Progress::Done(Err(EnlistError::ShutDown)),
            );
            one.progress = match progress {
                Progress::Here(opening) => Progress::Elsewhere(runtime.spawn(opening)),
                progress @ (Progress::Elsewhere(_) | Progress::Done(_)) => progress,
            };
        }
    }
}

impl Progress {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let polled = match self {
            Self::Here(opening) => {
                // An adapter's panic is caught inside: here the runtime was shut down.
                let poll = AssertUnwindSafe(|| opening.as_mut().poll(context));
                catch_unwind(poll).unwrap_or(Poll::Ready(Err(EnlistError::ShutDown)))
            }
            Self::Elsewhere(task) => {
                let polled = Pin::new(task).poll(context);
                polled.map(|opened| opened.unwrap_or(Err(EnlistError::ShutDown)))
            }
            Self::Done(_) => return Poll::Ready(()),
        };
        polled.map(|opened| *self = Self::Done(opened))
    }
}

impl Parts {
    fn slot_of(&self, name: &ResourceName) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.name == *name)
    }

    fn opening_of(&self, name: &ResourceName) -> Option<&Opening> {
        self.opening.iter().find(|opening| opening.name == *name)
    }

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
        let registered = self.manager.resources.get(name);
        // Another resource of the same name but of another type is not the one that was registered.
        if !registered.is_some_and(|registered| (request.is_of_this_type)(&**registered)) {
            return Err(EnlistError::NotRegistered(name.clone()));
        }
        let enlisted = self.slot_of(name).map(|slot| slot.role);
        let opening = || self.opening_of(name).map(|opening| opening.role);
        let has_role = enlisted.or_else(opening);
        if has_role.is_some_and(|has_role| has_role != role) {
            return Err(EnlistError::RoleMixed(name.clone()));
        }
        Ok(())
    }

    /// In the order of names, whatever that of the request.
    async fn take_places(
        &mut self,
        missing: &mut [Missing<'_>],
        until: Instant,
    ) -> Result<(), EnlistError> {
        let is_new = |one: &&mut Missing<'_>| self.opening_of(&one.request.name).is_none();
        let mut by_name: Vec<_> = missing.iter_mut().filter(is_new).collect();
        by_name.sort_unstable_by(|a, b| a.request.name.cmp(&b.request.name));
        for one in by_name {
            let (places, runtime) = (&self.manager.places, &self.manager.runtime);
            one.place = places.take(&one.request.name, until, runtime).await?;
        }
        Ok(())
    }

    /// Begins to open a branch, unless it is being opened.
    fn open(
        &mut self,
        request: &OpenRequest,
        role: BranchRole,
        place: Option<Place>,
        until: Instant,
    ) -> Result<(), EnlistError> {
        let name = &request.name;
        let mut all = self.opening.iter_mut();
        if let Some(opening) = all.find(|opening| opening.name == *name) {
            opening.is_wanted = true;
            return Ok(());
        }
        let config = &self.manager.config;
        let now = Instant::now();
        let idle_timeout = self.deadline.saturating_duration_since(now);
        let env = BranchEnv {
            xid: Xid {
                gtrid: self.gtrid,
                bqual: name.clone(),
            },
            read_only: role == BranchRole::Reader,
            lock_timeout: config.lock_timeout,
            idle_timeout: idle_timeout + config.prepare_timeout + Duration::from_secs(1),
        };
        let env = OpenEnv {
            env,
            place,
            limit: until.saturating_duration_since(now),
            probes: self.manager.probes.clone(),
            token: Arc::clone(&self.token),
        };
        let registered = self.manager.resources.get(name);
        let opening = registered.and_then(|registered| (request.open)(&**registered, env));
        let opening = opening.ok_or_else(|| EnlistError::NotRegistered(name.clone()))?;
        self.opening.push(Opening {
            name: name.clone(),
            role,
            progress: Progress::Here(opening),
            is_wanted: true,
        });
        Ok(())
    }

    /// Takes what has been opened. The first failure is told; the others follow from it.
    fn add_opened(&mut self) -> Result<(), EnlistError> {
        let mut failed = None;
        for opening in mem::take(&mut self.opening) {
            match opening.progress {
                Progress::Done(opened) if opening.is_wanted => {
                    let (name, role) = (opening.name, opening.role);
                    let added =
                        opened.and_then(|(branch, place)| self.add(name, role, branch, place));
                    failed = failed.or(added.err());
                }
                Progress::Done(_) | Progress::Here(_) | Progress::Elsewhere(_) => {
                    self.opening.push(opening);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn add(
        &mut self,
        name: ResourceName,
        role: BranchRole,
        branch: Box<dyn AnyBranch>,
        place: Option<Place>,
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
            _place: place,
        });
        Ok(())
    }
}

fn as_type<R: Resource>(registered: &dyn AnyResource) -> Option<&R> {
    let registered: &dyn Any = registered;
    registered.downcast_ref()
}

fn open_as<R: Resource>(
    registered: &dyn AnyResource,
    env: OpenEnv,
) -> Option<BoxFuture<'static, Opened>> {
    let resource = as_type::<R>(registered)?.clone();
    Some(Box::pin(async move {
        let name = resource.name();
        env.probes.at(name, Point::BeforeOpen).await;
        let opened = bounded(env.limit, resource.open(env.env)).await;
        env.probes.at(name, Point::Opened).await;
        drop(env.token);
        let branch = opened.map_err(|silence| not_opened(name.clone(), silence))??;
        Ok((Box::new(branch) as Box<dyn AnyBranch>, env.place))
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
