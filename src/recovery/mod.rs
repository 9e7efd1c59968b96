//! Recovery while running: one task per resource, so that an unreachable database never delays the
//! branches of another (I6), and no two tasks act on one branch.
//!
//! Passes never stop: a prepare whose answer was never heard may take effect at the server long
//! after its transaction was rolled back, and MariaDB's `XA ROLLBACK` does not survive a crash of
//! the server (observed with 10.11 and 11.8). They back off while there is nothing to do.

mod pass;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};
use unanimous_core::ports::{DecisionRecord, ResourceManager};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName};

pub use self::report::{Left, RecoveryReport, ResourceReport};
use crate::manager::Inner;

/// Wakes the recovery task of a resource.
#[derive(Clone)]
pub(crate) struct Wake(Arc<BTreeMap<ResourceName, Notify>>);

impl Wake {
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a ResourceName>) -> Self {
        Self(Arc::new(
            names.map(|name| (name.clone(), Notify::new())).collect(),
        ))
    }

    pub(crate) fn resource(&self, name: &ResourceName) {
        if let Some(notify) = self.0.get(name) {
            notify.notify_one();
        }
    }

    async fn woken(&self, name: &ResourceName) {
        match self.0.get(name) {
            Some(notify) => notify.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// What the passes of all resources share.
pub(crate) struct Recovery {
    pub(crate) wake: Wake,
    /// Branches proven to be committed, of decisions that are not complete yet.
    resolved: Mutex<HashMap<Gtrid, BTreeSet<ResourceName>>>,
    /// At most one pass per resource at a time.
    turns: BTreeMap<ResourceName, tokio::sync::Mutex<()>>,
    /// What a person was warned of already; said once, not once a pass.
    warned: Mutex<HashSet<String>>,
    progress: watch::Sender<u64>,
}

impl Recovery {
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a ResourceName> + Clone) -> Self {
        Self {
            wake: Wake::new(names.clone()),
            resolved: Mutex::default(),
            turns: names
                .map(|name| (name.clone(), tokio::sync::Mutex::default()))
                .collect(),
            warned: Mutex::default(),
            progress: watch::Sender::new(0),
        }
    }

    /// Changes whenever a decision was completed.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Notes branches that were seen committed.
    pub(crate) fn note_resolved(&self, gtrid: Gtrid, names: impl Iterator<Item = ResourceName>) {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.entry(gtrid).or_default().extend(names);
    }

    fn is_resolved(&self, gtrid: Gtrid, name: &ResourceName) -> bool {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved
            .get(&gtrid)
            .is_some_and(|names| names.contains(name))
    }

    /// Completes the decision if each branch that it names is proven committed.
    fn complete_if_resolved(&self, inner: &Inner, decision: &DecisionRecord) {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(names) = resolved.get(&decision.gtrid) else {
            return;
        };
        if decision
            .branches
            .iter()
            .all(|branch| names.contains(&branch.resource))
        {
            resolved.remove(&decision.gtrid);
            drop(resolved);
            inner.log.complete(decision.gtrid);
            self.progress.send_modify(|count| *count += 1);
        }
    }

    /// Records a heuristic end durably. If the log cannot take it now, the branch stays unresolved
    /// and the next pass finds it again.
    pub(crate) async fn record_heuristic(
        &self,
        inner: &Inner,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> bool {
        match inner.log.record_heuristic(gtrid, resource, heuristic).await {
            Ok(()) => {
                error!(target: "unanimous", %gtrid, %resource, ?heuristic,
                    "a branch ended against the decision; a person has to look");
                true
            }
            Err(error) => {
                error!(target: "unanimous", %gtrid, %resource, ?heuristic, %error,
                    "a heuristic end could not be recorded");
                false
            }
        }
    }

    fn warn_once(&self, text: String) {
        const LEN_MAX: usize = 10_000;
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < LEN_MAX && warned.insert(text.clone()) {
            warn!(target: "unanimous", "{text}");
        }
    }

    /// One pass at one resource; waits for one that is under way.
    pub(crate) async fn pass(
        &self,
        inner: &Inner,
        resource: &dyn ResourceManager,
    ) -> ResourceReport {
        let turn = match self.turns.get(resource.name()) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let report = pass::run(inner, resource).await;
        drop(turn);
        self.log_report(&report);
        report
    }

    fn log_report(&self, report: &ResourceReport) {
        if report.committed + report.rolled_back > 0 {
            info!(target: "unanimous", resource = %report.resource, committed = report.committed,
                rolled_back = report.rolled_back, "in-doubt branches were resolved");
        }
        if let Some(error) = &report.error {
            self.warn_once(format!("recovery cannot look at {error}"));
        }
        for (xid, left) in &report.left {
            if left.needs_a_person() {
                self.warn_once(format!("branch {xid} is left in doubt: {left}"));
            }
        }
    }
}

/// The task of one resource: passes for ever.
pub(crate) async fn run_passes(inner: Arc<Inner>, resource: Arc<dyn ResourceManager>) {
    let name = resource.name().clone();
    let mut pacing = Pacing::new(&inner);
    loop {
        let report = inner.recovery.pass(&inner, &*resource).await;
        let pause = pacing.next(&report);
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = inner.recovery.wake.woken(&name) => pacing.reset(),
        }
    }
}

/// How long to wait after a pass: short and growing while something is left that may resolve
/// itself, long and growing while there is nothing.
struct Pacing {
    retry: Duration,
    idle: Duration,
    interval: Duration,
    interval_max: Duration,
}

impl Pacing {
    const RETRY_MIN: Duration = Duration::from_millis(50);

    fn new(inner: &Inner) -> Self {
        let (interval, interval_max) = (
            inner.config.recovery_interval,
            inner.config.recovery_interval_max,
        );
        Self {
            retry: Self::RETRY_MIN,
            idle: interval,
            interval,
            interval_max,
        }
    }

    fn reset(&mut self) {
        self.retry = Self::RETRY_MIN;
        self.idle = self.interval;
    }

    fn next(&mut self, report: &ResourceReport) -> Duration {
        if report.may_resolve_itself() {
            self.idle = self.interval;
            let pause = self.retry.min(self.interval);
            self.retry = (self.retry * 2).min(self.interval);
            pause
        } else {
            self.retry = Self::RETRY_MIN;
            let pause = self.idle;
            self.idle = (self.idle * 2).min(self.interval_max);
            pause
        }
    }
}

/// Between 0.75 and 1.25 of the pause, so that many processes do not scan in step.
fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
