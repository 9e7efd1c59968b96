//! The transaction manager: owns the log, the resources, the set A and the recovery tasks.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};
use unanimous_core::ports::{
    Cause, DecisionLog, LogError, LogHome, Lookup, Resource, ResourceManager,
};
use unanimous_core::xid::{Gtrid, ResourceName};

use crate::active::{ActiveSet, ActiveToken};
use crate::config::Config;
use crate::error::StartError;
use crate::gate::Gate;
use crate::observe::{Point, Probe, Probes};
use crate::outcome::{RecentEnds, TransactionOutcome};
use crate::places::Places;
use crate::preflight;
use crate::recovery::{
    Recovery, RecoveryReport, ResourceReport, Survey, run_passes, survey, unknown_resources,
};
use crate::shutdown::{RecoveryTasks, end};
use crate::transaction::Transaction;

/// A registered resource, whose type is found again by whoever enlists it.
pub(crate) trait AnyResource: ResourceManager + Any {}

impl<R: Resource> AnyResource for R {}

/// What handles, transactions, drivers and recovery tasks share.
pub(crate) struct Inner {
    pub(crate) log: Arc<dyn DecisionLog>,
    pub(crate) resources: BTreeMap<ResourceName, Arc<dyn AnyResource>>,
    pub(crate) active: Arc<ActiveSet>,
    pub(crate) places: Places,
    pub(crate) gate: Gate,
    pub(crate) recovery: Recovery,
    pub(crate) recent_ends: RecentEnds,
    pub(crate) config: Arc<Config>,
    pub(crate) probes: Probes,
    pub(crate) runtime: Handle,
    sequence: AtomicU64,
    shutting_down: AtomicBool,
}

impl Inner {
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::SeqCst)
    }
}

/// Begins transactions and recovers what earlier ones left. Cheap to clone; the recovery tasks stop
/// when the last clone is dropped.
#[derive(Clone)]
pub struct TransactionManager {
    inner: Arc<Inner>,
    tasks: Arc<RecoveryTasks>,
    start_report: Arc<RecoveryReport>,
}

impl fmt::Debug for TransactionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TransactionManager");
        debug.field("opening", &self.inner.log.opening());
        debug.field(
            "resources",
            &self.inner.resources.keys().collect::<Vec<_>>(),
        );
        debug.finish_non_exhaustive()
    }
}

/// Builds a [`TransactionManager`].
#[must_use = "nothing happens before start"]
#[derive(Default)]
pub struct TransactionManagerBuilder {
    log: Option<Box<dyn LogHome>>,
    resources: Vec<Arc<dyn AnyResource>>,
    config: Config,
    probes: Probes,
    /// Where the file log lies, if it is one: the place of the control socket.
    #[cfg(feature = "operator")]
    log_folder: Option<std::path::PathBuf>,
}

impl fmt::Debug for TransactionManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .resources
            .iter()
            .map(|resource| resource.name())
            .collect();
        let mut debug = f.debug_struct("TransactionManagerBuilder");
        debug
            .field("resources", &names)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl TransactionManagerBuilder {
    /// Where decisions are recorded.
    pub fn log(mut self, home: impl LogHome) -> Self {
        #[cfg(feature = "operator")]
        {
            let file = (&home as &dyn Any).downcast_ref::<crate::log::FileLog>();
            self.log_folder = file.map(|file| file.folder().to_owned());
        }
        self.log = Some(Box::new(home));
        self
    }

    /// Registers a resource: transactions can enlist it, and recovery looks after it. Register
    /// every resource that was ever used with this log, or its in-doubt branches stay prepared.
    pub fn resource<R: Resource>(mut self, resource: &R) -> Self {
        self.resources.push(Arc::new(resource.clone()));
        self
    }

    /// Registers a resource whose type only its owner knows.
    #[cfg(feature = "operator")]
    pub(crate) fn any_resource(mut self, resource: Arc<dyn AnyResource>) -> Self {
        self.resources.push(resource);
        self
    }

    /// Changes the limits.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    #[doc(hidden)]
    pub fn probe(mut self, probe: Arc<dyn Probe>) -> Self {
        self.probes = Probes(Some(probe));
        self
    }

    /// Checks the resources, opens the log, and recovers what can be reached. A database that
    /// cannot be reached does not delay the start by more than `start_timeout`; it is looked after
    /// in the background. Call it within a tokio runtime.
    ///
    /// Cancel safe: the log may have been opened then, and recovery passes that have begun go on to
    /// their end.
    ///
    /// # Errors
    /// [`StartError`] with what to mend.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(mut self) -> Result<TransactionManager, StartError> {
        self.config = self.config.within_reach();
        let limit = self.config.start_timeout;
        let until = Instant::now() + limit;
        #[cfg(feature = "operator")]
        let log_folder = self.log_folder.take();
        let probes = self.probes.clone();
        probes.reached(|| Point::StartBegun).await;
        let inner = self.open(Some(limit / 2)).await?;
        probes.reached(|| Point::LogOpened).await;
        #[cfg(feature = "operator")]
        let control = log_folder.and_then(|folder| crate::operator::serve(&inner, &folder));
        let rest = until.saturating_duration_since(Instant::now());
        let start_report = recover_all(&inner, Some(rest)).await;
        probes.reached(|| Point::FirstPassDone).await;
        for name in &start_report.unknown_resources {
            warn!(target: "unanimous", resource = %name,
                "pending decisions name a resource that is not registered: register it under this \
                 name; the decisions are kept until then");
        }
        let passes = inner.resources.values().map(|resource| {
            tokio::spawn(run_passes(Arc::clone(&inner), Arc::clone(resource))).abort_handle()
        });
        let tasks = Arc::new(RecoveryTasks {
            tasks: passes.collect(),
            inner: Arc::clone(&inner),
            #[cfg(feature = "operator")]
            control: std::sync::Mutex::new(control),
        });
        info!(target: "unanimous", manager = %inner.log.opening().manager,
            epoch = %inner.log.opening().epoch, "transaction manager started");
        probes.reached(|| Point::Started).await;
        Ok(TransactionManager {
            inner,
            tasks,
            start_report: Arc::new(start_report),
        })
    }

    /// Opens the log, after the resources' checks if there is time for them. Nothing is recovered.
    pub(crate) async fn open(self, checks: Option<Duration>) -> Result<Arc<Inner>, StartError> {
        let home = self.log.ok_or(StartError::NoLog)?;
        let resources = by_name(self.resources)?;
        let unchecked = match checks {
            Some(limit) => preflight::check_all(&resources, limit).await?,
            None => resources.keys().cloned().collect(),
        };
        self.probes.reached(|| Point::ResourcesChecked).await;
        let log = home.open().await?;
        let recovery = Recovery::new(resources.keys(), unchecked);
        let wake = recovery.wake.clone();
        log.on_close(Arc::new(move || wake.all()));
        Ok(Arc::new(Inner {
            log,
            active: Arc::default(),
            gate: Gate::default(),
            recovery,
            recent_ends: RecentEnds::default(),
            places: Places::at(&resources),
            resources,
            config: Arc::new(self.config.within_reach()),
            probes: self.probes,
            runtime: Handle::current(),
            sequence: AtomicU64::new(1),
            shutting_down: AtomicBool::new(false),
        }))
    }
}

fn by_name(
    resources: Vec<Arc<dyn AnyResource>>,
) -> Result<BTreeMap<ResourceName, Arc<dyn AnyResource>>, StartError> {
    let mut named: BTreeMap<ResourceName, Arc<dyn AnyResource>> = BTreeMap::new();
    for resource in resources {
        let name = resource.name().clone();
        if named.insert(name.clone(), resource).is_some() {
            return Err(StartError::NameUsedTwice(name));
        }
    }
    Ok(named)
}

/// A pass over every resource, in parallel. With a limit, what is not done by then goes on in the
/// background.
pub(crate) async fn recover_all(inner: &Arc<Inner>, limit: Option<Duration>) -> RecoveryReport {
    recover_some(inner, None, limit).await
}

/// One recovery pass at one resource, or at all.
#[cfg(feature = "operator")]
pub(crate) async fn recover_at(inner: &Arc<Inner>, only: Option<&ResourceName>) -> RecoveryReport {
    recover_some(inner, only, None).await
}

async fn recover_some(
    inner: &Arc<Inner>,
    only: Option<&ResourceName>,
    limit: Option<Duration>,
) -> RecoveryReport {
    let until = limit.map(|limit| Instant::now() + limit);
    let is_meant = |name: &&ResourceName| only.is_none_or(|only| only == *name);
    let names = inner.resources.keys().filter(is_meant);
    let mut unfinished: BTreeSet<ResourceName> = names.cloned().collect();
    let (reports_in, mut reports_out) = tokio::sync::mpsc::unbounded_channel::<ResourceReport>();
    let resources = inner.resources.values();
    for resource in resources.filter(|at| is_meant(&at.name())).cloned() {
        let (inner, reports_in) = (Arc::clone(inner), reports_in.clone());
        tokio::spawn(async move {
            tokio::select! {
                // The same run for the same luck.
                biased;
                report = inner.recovery.pass(&inner, &*resource) => {
                    // Whoever asked may have stopped waiting; its work is done all the same.
                    let _ = reports_in.send(report);
                }
                // No pass outlives the manager (I8).
                () = inner.recovery.stopped() => {}
            }
        });
    }
    drop(reports_in);
    let mut report = RecoveryReport::default();
    let collect = async {
        while let Some(resource) = reports_out.recv().await {
            unfinished.remove(&resource.resource);
            report.resources.push(resource);
        }
    };
    // Running into the limit is told by `unfinished`.
    let _ = within(until, collect).await;
    report.resources.sort_by(|a, b| a.resource.cmp(&b.resource));
    let is_over =
        |at: &&Arc<dyn AnyResource>| is_meant(&at.name()) && !unfinished.contains(at.name());
    for resource in inner.resources.values().filter(is_over) {
        // What had to wait for the passes at the other resources. What is left is told by a pass.
        let _ = within(until, inner.recovery.settle(inner, &**resource)).await;
    }
    report.unfinished = unfinished.into_iter().collect();
    match within(until, unknown_resources(inner)).await {
        Some(Ok(unknown)) => report.unknown_resources = unknown,
        Some(Err(error)) => report.log_error = Some(error),
        None => report.log_error = Some(LogError::new("it did not answer within the limit")),
    }
    report
}

/// `None`: not until then.
async fn within<T>(until: Option<Instant>, task: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, task).await.ok(),
        None => Some(task.await),
    }
}

/// What [`recover_all`] would do.
pub(crate) async fn survey_all(inner: &Arc<Inner>) -> Survey {
    let mut surveys = JoinSet::new();
    for resource in inner.resources.values().cloned() {
        let inner = Arc::clone(inner);
        surveys.spawn(async move { survey(&inner, &*resource).await });
    }
    let mut all = Survey {
        resources: surveys.join_all().await,
        ..Survey::default()
    };
    all.resources.sort_by(|a, b| a.resource.cmp(&b.resource));
    match unknown_resources(inner).await {
        Ok(unknown) => {
            all.unknown_resources = unknown;
            let mut errors = all.resources.iter().map(|at| &at.log_error);
            all.log_error = errors.find_map(Clone::clone);
        }
        Err(error) => all.log_error = Some(error),
    }
    all
}

/// What the log's answer means if nothing else is known.
fn found_alone(found: Lookup, was_active: bool) -> TransactionOutcome {
    match found {
        Lookup::Pending(_) | Lookup::Completed => TransactionOutcome::Committed,
        Lookup::Heuristic { ends, .. } => TransactionOutcome::Heuristic(ends),
        _ if was_active => TransactionOutcome::InDoubt,
        Lookup::NoRecord | Lookup::Open | Lookup::UnknownOpening | _ => TransactionOutcome::Unknown,
    }
}

impl TransactionManager {
    #[cfg(feature = "operator")]
    pub(crate) const fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Begins to describe a manager.
    pub fn builder() -> TransactionManagerBuilder {
        TransactionManagerBuilder::default()
    }

    /// Begins a transaction. No server hears of it before a resource is enlisted.
    ///
    /// Never fails; after [`shutdown`](Self::shutdown) has begun, its `enlist` does.
    pub fn begin(&self) -> Transaction {
        let inner = &self.inner;
        let gtrid = inner
            .log
            .opening()
            .gtrid(inner.sequence.fetch_add(1, Ordering::Relaxed));
        let token = ActiveToken::enter(&inner.active, inner.recovery.wake.clone(), gtrid);
        Transaction::new(Arc::clone(inner), gtrid, token)
    }

    /// What became of a transaction. Remember the gtrid before `commit` to be able to ask.
    ///
    /// # Errors
    /// The log could not be read.
    pub async fn outcome(&self, gtrid: Gtrid) -> Result<TransactionOutcome, LogError> {
        let was_active = self.inner.active.contains(gtrid);
        let recent_end = self.inner.recent_ends.lookup(gtrid);
        let probes = &self.inner.probes;
        probes.reached(|| Point::BeforeOutcome).await;
        let found = self.inner.log.lookup(gtrid).await;
        probes.reached(|| Point::OutcomeAnswered).await;
        // A heuristic end may have been found, or made, since the driver has seen the end.
        Ok(match (found, recent_end) {
            (Ok(Lookup::Heuristic { ends, .. }), _) => TransactionOutcome::Heuristic(ends),
            (Err(_), Some(end @ TransactionOutcome::Heuristic(_))) => end,
            // A heuristic end that was seen since would be silent.
            (Err(error), _) => return Err(error),
            (Ok(_), Some(end)) => end,
            (Ok(found), None) => found_alone(found, was_active),
        })
    }

    /// The limits that this manager runs with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// What a driver's error means, in the words of whichever resource knows it.
    pub(crate) fn cause_of(&self, error: &(dyn std::error::Error + 'static)) -> Option<Cause> {
        self.inner
            .resources
            .values()
            .find_map(|resource| resource.cause_of(error))
    }

    /// Random bits for a pause's jitter.
    pub(crate) fn luck(&self) -> u32 {
        self.inner.probes.luck()
    }

    /// Resolves when the transaction is not active any more, or the drain limit has passed.
    pub(crate) async fn ended(&self, gtrid: Gtrid) {
        let limit = self.inner.config.drain_timeout;
        // Running into the limit leaves the transaction in A: the caller asks for its outcome.
        let _ = timeout(limit, self.inner.active.ended(gtrid)).await;
    }

    /// One recovery pass over all resources, now; waits for passes under way. For reports and
    /// tests: passes also run by themselves.
    pub async fn recover(&self) -> RecoveryReport {
        recover_all(&self.inner, None).await
    }

    /// What is prepared at all resources now, and what a recovery pass would do about it. Changes
    /// nothing.
    pub async fn survey(&self) -> Survey {
        survey_all(&self.inner).await
    }

    /// The gate before its decisions.
    #[cfg(all(test, feature = "operator"))]
    pub(crate) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    /// What the pass at the start found, did and left.
    pub fn start_report(&self) -> &RecoveryReport {
        &self.start_report
    }

    /// Refuses new branches, waits (up to `drain_timeout`) for running transactions and for people
    /// who are ending branches by hand, makes a last recovery pass (up to `start_timeout`) and
    /// closes the log (up to `drain_timeout`). A transaction that is still undecided then can only
    /// be rolled back.
    ///
    /// Cancel safe: dropped while transactions are running, it may be called again; after that it
    /// goes on to its end, also if the last handle is dropped.
    ///
    /// It works on the runtime on which the manager was started: while nobody drives that one (a
    /// current-thread runtime without a `block_on`), this waits, beyond its limits.
    ///
    /// # Errors
    /// The log could not be closed properly, or a decision on its way to it did not end; nothing is
    /// lost.
    pub async fn shutdown(&self) -> Result<(), LogError> {
        let inner = &self.inner;
        inner.shutting_down.store(true, Ordering::SeqCst);
        inner.probes.reached(|| Point::ShutdownBegun).await;
        let until = Instant::now() + inner.config.drain_timeout;
        if timeout_at(until, inner.active.drained()).await.is_err() {
            let count = inner.active.len();
            warn!(target: "unanimous", count, "shutting down with transactions still running");
        }
        inner.probes.reached(|| Point::Drained).await;
        self.tasks.stop();
        // Half stopped, it would neither end what is left nor say that it does not: this goes on if
        // the caller gives up.
        let tasks = Arc::clone(&self.tasks);
        let ending = inner.runtime.spawn(async move {
            let ended = end(&tasks, until).await;
            // Not before: with the last of them the last pass would stop.
            drop(tasks);
            ended
        });
        match ending.await {
            Ok(closed) => closed,
            // That runtime is gone.
            Err(_) => end(&self.tasks, until).await,
        }
    }
}
