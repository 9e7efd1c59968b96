//! What people do by hand while the manager lives, and how its end waits for that.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// Read by whoever ends branches by hand; written by a shutdown, which waits for them.
#[derive(Default)]
pub(super) struct Acts {
    lock: RwLock<()>,
    /// Set before the lock is written: whoever comes later sees one or the other.
    no_more: AtomicBool,
    /// Those who have begun were not waited for to their end.
    is_over: AtomicBool,
}

impl Acts {
    /// To be kept while branches are ended by hand. `None`: the manager is being shut down.
    pub(super) fn begin(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let act = self.lock.try_read().ok()?;
        (!self.no_more.load(Ordering::SeqCst)).then_some(act)
    }

    /// Asked before each branch: whether the manager ends without waiting any longer.
    pub(super) fn are_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// From now on none begins. Waits, until then at most, for those that have; they end no further
    /// branch then.
    pub(super) async fn end(&self, until: Instant) {
        self.no_more.store(true, Ordering::SeqCst);
        if timeout_at(until, self.lock.write()).await.is_err() {
            self.is_over.store(true, Ordering::SeqCst);
            warn!(target: "unanimous", "shutting down while a person is ending branches by hand");
        }
    }
}
