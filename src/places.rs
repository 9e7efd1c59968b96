//! Places for branches: a resource with a pool has room for so many at a time.
//!
//! * A transaction has the places of all that it enlists in one call before it opens any of them,
//!   and takes them in the order of the resources' names. So whoever waits holds only places whose
//!   names come earlier: nobody waits in a circle (I6).
//! * No pool is asked for more than it has, so nobody waits in it, but for a session that is still
//!   being wiped.
//! * Whoever waits longest gets the next place. A future that is dropped takes none.
//! * A place is kept as long as the branch for which it was taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use unanimous_core::ports::{BranchError, BranchErrorKind, Room};
use unanimous_core::xid::ResourceName;

use crate::bounded::{Unanswered, bounded_on};
use crate::error::EnlistError;
use crate::manager::AnyResource;

/// Those of all resources that tell how much room they have.
#[derive(Default)]
pub(crate) struct Places(BTreeMap<ResourceName, PlacesAt>);

struct PlacesAt {
    free: Arc<Semaphore>,
    room: Room,
}

/// The right to open one branch.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn at(resources: &BTreeMap<ResourceName, Arc<dyn AnyResource>>) -> Self {
        let places_at = |(name, resource): (&ResourceName, &Arc<dyn AnyResource>)| {
            let room = resource.room()?;
            let count = room.branches_max.min(Semaphore::MAX_PERMITS);
            let free = Arc::new(Semaphore::new(count));
            Some((name.clone(), PlacesAt { free, room }))
        };
        Self(resources.iter().filter_map(places_at).collect())
    }

    /// A place there, where places are counted; waits for it until then at most.
    pub(crate) async fn take(
        &self,
        name: &ResourceName,
        until: Instant,
        runtime: &Handle,
    ) -> Result<Option<Place>, EnlistError> {
        let Some(PlacesAt { free, room }) = self.0.get(name) else {
            return Ok(None);
        };
        let place = |permit| Some(Place { _permit: permit });
        if let Ok(permit) = Arc::clone(free).try_acquire_owned() {
            return Ok(place(permit));
        }
        let wait = room
            .wait
            .min(until.saturating_duration_since(Instant::now()));
        let taking = Arc::clone(free).acquire_owned();
        match bounded_on(runtime, wait, taking).await {
            Ok(Ok(permit)) => Ok(place(permit)),
            Err(Unanswered::Late(_)) => Err(in_vain(name, wait, room.mend)),
            // Nobody closes it: the runtime that counts the time is gone.
            Ok(Err(_)) | Err(Unanswered::Panicked) => Err(EnlistError::ShutDown),
        }
    }
}

fn in_vain(resource: &ResourceName, wait: Duration, mend: &str) -> EnlistError {
    let message =
        format!("cannot open a branch: no connection of the pool was free within {wait:?}; {mend}");
    let kind = BranchErrorKind::Unavailable;
    EnlistError::Branch(BranchError::new(kind, resource.clone(), message))
}
