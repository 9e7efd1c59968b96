//! The gate before a decision. A barrier shuts it: then nothing new is decided, until it opens.
//!
//! * What has passed goes on: whoever shuts the gate waits until its transaction is ended, or left
//!   to recovery with its decision in the log. So once it is shut, the log's pending decisions are
//!   all that is not finished.
//! * What waits here has attempted nothing: it can still be rolled back for certain (I3).
//! * Whoever passes while nobody shuts the gate takes one of many permits, and waits for nobody.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// More than will ever pass at once; all of them are taken to shut the gate.
const ROOM: u32 = 1 << 28;

#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

/// Kept by a transaction from before its decision is attempted until it leaves A.
#[derive(Debug)]
pub(crate) struct Passed {
    _permit: OwnedSemaphorePermit,
}

/// Nobody passes as long as this exists.
#[cfg(feature = "operator")]
#[derive(Debug)]
pub(crate) struct Shut {
    _permits: OwnedSemaphorePermit,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM as usize)))
    }
}

impl Gate {
    /// Passes, if nobody shuts the gate.
    pub(crate) fn try_pass(&self) -> Option<Passed> {
        let permit = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Passed { _permit: permit })
    }

    /// Waits as long as the gate is shut; nothing if that is longer than until then.
    pub(crate) async fn pass_until(self, deadline: Instant) -> Option<Passed> {
        let permit = timeout_at(deadline, self.0.acquire_owned()).await.ok()?;
        // Nobody closes the semaphore.
        Some(Passed {
            _permit: permit.ok()?,
        })
    }

    /// How many have passed and not ended yet. Asked before the gate is shut.
    #[cfg(feature = "operator")]
    pub(crate) fn passed(&self) -> usize {
        (ROOM as usize).saturating_sub(self.0.available_permits())
    }

    /// Lets nobody pass from its first poll on, and waits for those who have. Dropped, it opens
    /// again.
    #[cfg(feature = "operator")]
    pub(crate) async fn shut(&self) -> Option<Shut> {
        let permits = Arc::clone(&self.0).acquire_many_owned(ROOM).await;
        // Nobody closes the semaphore.
        Some(Shut {
            _permits: permits.ok()?,
        })
    }
}

#[cfg(all(test, feature = "operator"))]
#[path = "gate_test.rs"]
mod gate_test;
