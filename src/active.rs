//! The set A: transactions of this process that may still be decided or ended by their own driver.
//!
//! A transaction enters A before its first XID is sent anywhere, and leaves it when the last holder
//! of its [`ActiveToken`] is gone: the handle, the driver, and every task that opens a branch for
//! it hold one. So whatever is not in A cannot issue a command any more (I5).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use unanimous_core::xid::{Gtrid, ResourceName};

use crate::recovery::Wake;

#[derive(Debug, Default)]
pub(crate) struct ActiveSet {
    gtrids: Mutex<HashSet<Gtrid>>,
    left: Notify,
}

impl ActiveSet {
    pub(crate) fn contains(&self, gtrid: Gtrid) -> bool {
        self.lock().contains(&gtrid)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Resolves when no transaction is active.
    pub(crate) async fn drained(&self) {
        self.wait_until(HashSet::is_empty).await;
    }

    /// Resolves when the transaction is not active.
    pub(crate) async fn ended(&self, gtrid: Gtrid) {
        self.wait_until(|gtrids| !gtrids.contains(&gtrid)).await;
    }

    async fn wait_until(&self, reached: impl Fn(&HashSet<Gtrid>) -> bool) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // Registered before looking: a departure in between is not missed.
            left.as_mut().enable();
            if reached(&self.lock()) {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Gtrid>> {
        // The set is consistent after every statement: a panic elsewhere does not spoil it.
        self.gtrids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps its transaction in A; the last one to be dropped lets it leave, and only then wakes the
/// recovery of the branches that were handed over.
pub(crate) struct ActiveToken {
    gtrid: Gtrid,
    set: Arc<ActiveSet>,
    wake: Wake,
    handed_over: Mutex<Vec<ResourceName>>,
}

impl ActiveToken {
    pub(crate) fn enter(set: &Arc<ActiveSet>, wake: Wake, gtrid: Gtrid) -> Arc<Self> {
        set.lock().insert(gtrid);
        let handed_over = Mutex::default();
        Arc::new(Self {
            gtrid,
            set: Arc::clone(set),
            wake,
            handed_over,
        })
    }

    /// Leaves a branch to recovery, which acts once the transaction has left A.
    pub(crate) fn hand_over(&self, resource: ResourceName) {
        self.handed_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(resource);
    }
}

/// A decision is on its way to the log. If its task dies with it (a panic, a runtime that shuts
/// down), the log may still record it: then the transaction never leaves A in this process, so that
/// no recovery pass here takes "no record" for final. The next start resolves it.
pub(crate) struct DecisionInFlight(Option<Arc<ActiveToken>>);

impl DecisionInFlight {
    pub(crate) fn new(token: &Arc<ActiveToken>) -> Self {
        Self(Some(Arc::clone(token)))
    }

    /// The log has answered; what it answered is the driver's to handle.
    pub(crate) fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for DecisionInFlight {
    fn drop(&mut self) {
        if let Some(token) = self.0.take() {
            std::mem::forget(token);
        }
    }
}

impl Drop for ActiveToken {
    fn drop(&mut self) {
        self.set.lock().remove(&self.gtrid);
        self.set.left.notify_waiters();
        let handed_over = self
            .handed_over
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for resource in handed_over.drain(..) {
            self.wake.resource(&resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::xid::{Epoch, ManagerId, Opening};

    fn enter(set: &Arc<ActiveSet>) -> Arc<ActiveToken> {
        let opening = Opening {
            manager: ManagerId::from_bytes([1; 10]),
            epoch: Epoch(1),
            nonce: 1,
        };
        ActiveToken::enter(set, Wake::new(std::iter::empty()), opening.gtrid(1))
    }

    #[test]
    fn a_transaction_leaves_with_its_last_token() {
        let set = Arc::<ActiveSet>::default();
        let token = enter(&set);
        let second = Arc::clone(&token);
        drop(token);
        assert_eq!(set.len(), 1);
        drop(second);
        assert_eq!(set.len(), 0);
    }

    #[test]
    fn i5_a_decision_that_died_on_its_way_keeps_its_transaction_active() {
        let set = Arc::<ActiveSet>::default();
        let token = enter(&set);
        DecisionInFlight::new(&token).answered();
        drop(token);
        assert_eq!(set.len(), 0);

        let token = enter(&set);
        drop(DecisionInFlight::new(&token));
        drop(token);
        assert_eq!(set.len(), 1);
    }
}
