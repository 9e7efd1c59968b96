//! Recovery while running: one task per resource, so that an unreachable database never delays the
//! branches of another (I6), and no two tasks act on one branch.
//!
//! Passes never stop: a prepare whose answer was never heard may take effect at the server long
//! after its transaction was rolled back, and MariaDB's `XA ROLLBACK` does not survive a crash of
//! the server (observed with 10.11 and 11.8). They back off while there is nothing to do.

#[cfg(feature = "operator")]
mod acts;
mod by_hand;
#[cfg(feature = "operator")]
mod end_by_hand;
#[cfg(feature = "operator")]
mod give_up;
mod gone;
mod late;
#[cfg(feature = "operator")]
mod look_for_hand;
mod lost;
mod pass;
mod recorded;
mod report;
mod survey;
mod unrecorded;
mod warned;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};
use unanimous_core::ports::{BranchError, DecisionRecord, ResourceManager};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

#[cfg(feature = "operator")]
pub(crate) use self::by_hand::{hands_of, stand_against};
#[cfg(feature = "operator")]
pub(crate) use self::end_by_hand::{EndedByHand, HandEnd, HandEnded, end_by_hand};
#[cfg(feature = "operator")]
pub(crate) use self::give_up::{LostBranch, give_up, look_for_lost};
#[cfg(feature = "operator")]
pub(crate) use self::look_for_hand::{Absent, ForHand, look_for_hand};
#[cfg(feature = "operator")]
pub(crate) use self::lost::is_dealt_with;
pub(crate) use self::lost::unknown_resources;
#[cfg(feature = "operator")]
pub(crate) use self::pass::ILLEGIBLE;
#[cfg(feature = "operator")]
pub(crate) use self::recorded::{ask_log as ask, decided_by};
pub use self::report::{Left, RecoveryReport, ResourceReport};
pub(crate) use self::survey::survey;
pub use self::survey::{ForeignBranch, Planned, ResourceSurvey, Survey, SurveyedBranch};
use crate::manager::{AnyResource, Inner};

#[cfg(feature = "operator")]
const SHUTTING_DOWN: &str = "the application is being shut down: nothing was done";

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

    pub(crate) fn all(&self) {
        self.0.values().for_each(Notify::notify_one);
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
    /// Heuristic ends that were seen, but that the log has not taken yet. Kept here, because not
    /// every server can be asked again.
    unrecorded: Mutex<HashMap<Xid, Heuristic>>,
    gone: gone::Gone,
    /// Branches that some pass is ending or proving right now: two resources on one server list
    /// the same ones.
    claimed: Mutex<HashSet<Xid>>,
    #[cfg(feature = "operator")]
    acts: acts::Acts,
    /// At most one pass per resource at a time.
    turns: BTreeMap<ResourceName, tokio::sync::Mutex<()>>,
    /// Resources that did not answer when they were checked at the start.
    pub(crate) late: late::LateChecks,
    /// What a person was warned of already; said once, not once a pass.
    warned: Mutex<warned::Warned>,
    /// Resources whose account has not the rights that a last resource needs.
    no_last: Mutex<BTreeSet<ResourceName>>,
    /// How many transactions the log is asked for at once.
    asked_max: recorded::AskedMax,
    /// Told at each decision that is complete. Whether the manager was shut down, or its last
    /// handle dropped: no pass comes by itself any more.
    progress: watch::Sender<bool>,
    /// When each resource's next pass is due; nothing while one is under way.
    due: Mutex<BTreeMap<ResourceName, Instant>>,
    /// How many branches passes have ended so far.
    ended: AtomicU64,
}

impl Recovery {
    pub(crate) fn new<'a>(
        names: impl Iterator<Item = &'a ResourceName> + Clone,
        unchecked: BTreeSet<ResourceName>,
    ) -> Self {
        Self {
            late: late::LateChecks::new(unchecked),
            wake: Wake::new(names.clone()),
            resolved: Mutex::default(),
            unrecorded: Mutex::default(),
            gone: gone::Gone::default(),
            claimed: Mutex::default(),
            #[cfg(feature = "operator")]
            acts: acts::Acts::default(),
            turns: names
                .map(|name| (name.clone(), tokio::sync::Mutex::default()))
                .collect(),
            warned: Mutex::default(),
            no_last: Mutex::default(),
            asked_max: recorded::AskedMax::default(),
            progress: watch::Sender::default(),
            due: Mutex::default(),
            ended: AtomicU64::default(),
        }
    }

    /// Changes whenever a decision was completed, and at the end.
    pub(crate) fn progress(&self) -> watch::Receiver<bool> {
        self.progress.subscribe()
    }

    /// Resolves once nothing more comes by itself.
    pub(crate) async fn stopped(&self) {
        // Fails only when the sender is gone, and this holds it.
        let _ = self.progress().wait_for(|is_stopped| *is_stopped).await;
    }

    /// Tells those who wait, and passes under way, that nothing more comes by itself.
    pub(crate) fn stop(&self) {
        self.progress.send_modify(|is_stopped| *is_stopped = true);
    }

    /// Notes branches that were seen committed.
    pub(crate) fn note_resolved(&self, gtrid: Gtrid, names: impl Iterator<Item = ResourceName>) {
        let mut resolved = lock(&self.resolved);
        resolved.entry(gtrid).or_default().extend(names);
    }

    /// Of which transactions that is noted.
    fn noted(&self) -> Vec<Gtrid> {
        lock(&self.resolved).keys().copied().collect()
    }

    /// Of those whose branches were [`noted`](Self::noted) before T was read, and so were decided,
    /// what T does not list is complete.
    fn forget_completed(&self, noted: Vec<Gtrid>, t: &recorded::Recorded) {
        let over = noted.into_iter().filter(|g| t.decision(*g).is_none());
        let over: Vec<Gtrid> = over.collect();
        if !over.is_empty() {
            let mut resolved = lock(&self.resolved);
            over.iter().for_each(|gtrid| drop(resolved.remove(gtrid)));
        }
    }

    pub(crate) fn is_resolved(&self, gtrid: Gtrid, name: &ResourceName) -> bool {
        let resolved = lock(&self.resolved);
        resolved
            .get(&gtrid)
            .is_some_and(|names| names.contains(name))
    }

    /// Completes the decision if each branch that it names is proven committed.
    pub(crate) fn complete_if_resolved(&self, inner: &Inner, decision: &DecisionRecord) {
        let mut resolved = lock(&self.resolved);
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
            self.progress.send_modify(|_| ());
        }
    }

    /// How many branches passes have ended so far.
    #[cfg(feature = "operator")]
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// How long until the next pass there, if none is under way.
    #[cfg(feature = "operator")]
    pub(crate) fn next_pass(&self, resource: &str) -> Option<Duration> {
        let due = lock(&self.due);
        let (_, due) = due.iter().find(|(name, _)| name.as_str() == resource)?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// To be kept while branches are ended by hand. `None`: the manager is being shut down.
    #[cfg(feature = "operator")]
    fn act(&self) -> Option<tokio::sync::RwLockReadGuard<'_, ()>> {
        self.acts.begin()
    }

    /// From now on no person begins to end branches by hand. Waits, until then at most, for those
    /// who have.
    pub(crate) async fn hands_off(&self, until: Instant) {
        #[cfg(feature = "operator")]
        self.acts.end(until).await;
        #[cfg(not(feature = "operator"))]
        let _ = until;
    }

    /// The right to end or prove a branch, until it is dropped. `None` while another pass has it.
    fn claim(&self, xid: &Xid) -> Option<Claim<'_>> {
        let is_free = lock(&self.claimed).insert(xid.clone());
        let (claimed, xid) = (&self.claimed, xid.clone());
        is_free.then(|| Claim { claimed, xid })
    }

    /// From now on this resource's branches prepare like any other. Told once.
    pub(crate) fn deny_last(&self, resource: &ResourceName, error: &BranchError) {
        if lock(&self.no_last).insert(resource.clone()) {
            warn!(target: "unanimous", "branches of resource {resource} are prepared from now on, \
                for they cannot be last resource: {error}");
        }
    }

    pub(crate) fn may_be_last(&self, resource: &ResourceName) -> bool {
        !lock(&self.no_last).contains(resource)
    }

    async fn turn(&self, name: &ResourceName) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.turns.get(name) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }

    /// Finds out what became of records of people here; waits for a pass that is under way.
    pub(crate) async fn settle(&self, inner: &Inner, resource: &dyn ResourceManager) {
        let _turn = self.turn(resource.name()).await;
        // What is left is told by a pass. Boxed: it would be part of whatever waits for recovery.
        Box::pin(by_hand::settle(inner, resource)).await;
    }

    /// One pass at one resource; waits for one that is under way.
    pub(crate) async fn pass(
        &self,
        inner: &Inner,
        resource: &dyn ResourceManager,
    ) -> ResourceReport {
        let turn = self.turn(resource.name()).await;
        let pass = AssertUnwindSafe(pass::run(inner, resource)).catch_unwind();
        let panicked = |_| ResourceReport::panicked(resource.name().clone());
        let report = pass.await.unwrap_or_else(panicked);
        let rest = AssertUnwindSafe(self.after(inner, resource, &report)).catch_unwind();
        let panicked = |_| vec![report::PANICKED.to_owned()];
        let unsettled = rest.await.unwrap_or_else(panicked);
        drop(turn);
        self.log_report(&report, unsettled);
        report
    }

    /// What follows a pass. Answers what could not be settled.
    async fn after(
        &self,
        inner: &Inner,
        resource: &dyn ResourceManager,
        report: &ResourceReport,
    ) -> Vec<String> {
        if report.log_error.is_some() {
            return Vec::new();
        }
        self.record_left(inner).await;
        if report.error.is_some() {
            return Vec::new();
        }
        by_hand::settle(inner, resource).await
    }

    fn log_report(&self, report: &ResourceReport, unsettled: Vec<String>) {
        if report.committed + report.rolled_back > 0 {
            info!(target: "unanimous", resource = %report.resource, committed = report.committed,
                rolled_back = report.rolled_back, "in-doubt branches were resolved");
        }
        let news = lock(&self.warned).of_pass(report, unsettled);
        for text in news {
            // Whoever shows the report has no need of these.
            warn!(target: "unanimous::pass", "{text}");
        }
    }
}

/// See [`Recovery::claim`].
struct Claim<'r> {
    claimed: &'r Mutex<HashSet<Xid>>,
    xid: Xid,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(self.claimed).remove(&self.xid);
    }
}

/// Each of the maps is consistent after every statement: a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of one resource: passes for ever.
pub(crate) async fn run_passes(inner: Arc<Inner>, resource: Arc<dyn AnyResource>) {
    let name = resource.name().clone();
    let mut pacing = Pacing::new(&inner);
    loop {
        inner.recovery.late.check(&inner, &*resource).await;
        let report = inner.recovery.pass(&inner, &*resource).await;
        let pause = jittered(pacing.next(&report), inner.probes.luck());
        lock(&inner.recovery.due).insert(name.clone(), Instant::now() + pause);
        tokio::select! {
            // The same run for the same luck.
            biased;
            () = inner.recovery.wake.woken(&name) => pacing.reset(),
            () = tokio::time::sleep(pause) => {}
        }
        lock(&inner.recovery.due).remove(&name);
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
fn jittered(pause: Duration, luck: u32) -> Duration {
    pause.mul_f64(0.75 + 0.5 * f64::from(luck) / f64::from(u32::MAX))
}

#[cfg(test)]
mod pacing_test;
