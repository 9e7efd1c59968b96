//! Where the runtime can be watched: named points of a commit, for tests that kill it there.
//!
//! Spans and events for people go through `tracing` where they happen: a span per transaction with
//! its gtrid, debug events per branch with phase and duration, warnings only for what a person or
//! recovery has to see to.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous_core::xid::ResourceName;

/// A point that a transaction's driver has reached.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    BeforePrepare(ResourceName),
    PrepareAnswered(ResourceName),
    BeforeDecide,
    DecisionDurable,
    BeforeCommit(ResourceName),
    CommitAnswered(ResourceName),
    BeforeOnePhase(ResourceName),
    OnePhaseAnswered(ResourceName),
    BeforeRollback(ResourceName),
    RollbackAnswered(ResourceName),
}

/// Is told of every point before the driver goes on.
#[doc(hidden)]
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    async fn reached(&self, point: Point);

    /// The luck of a pause's jitter, where a test owns it.
    fn luck(&self) -> Option<u32> {
        None
    }
}

/// No probe in production: then a point costs one branch.
#[derive(Clone, Default)]
pub(crate) struct Probes(pub(crate) Option<Arc<dyn Probe>>);

impl Probes {
    pub(crate) async fn reached(&self, point: impl FnOnce() -> Point) {
        if let Some(probe) = &self.0 {
            probe.reached(point()).await;
        }
    }

    /// Random bits for a pause's jitter; the highest if the system has none.
    pub(crate) fn luck(&self) -> u32 {
        let owned = self.0.as_ref().and_then(|probe| probe.luck());
        owned.unwrap_or_else(|| getrandom::u32().unwrap_or(u32::MAX))
    }
}
