//! Resources that did not answer when they were checked at the start (I2).
//!
//! Nothing that writes is opened there before a check has found it fit: what is unfit could lose
//! what it acknowledged. Whoever wants to enlist it checks it, as long as no check has told; its
//! recovery task does before every pass, also where one has found it unfit. One check at a time,
//! and whoever waited takes the result of one that began after he had asked: an older one may have
//! seen what is mended by now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tracing::warn;
use unanimous_core::ports::{
    BranchError, BranchErrorKind, Problem, ResourceError, ResourceManager,
};
use unanimous_core::protocol::BranchRole;
use unanimous_core::xid::ResourceName;

use super::lock;
use crate::bounded::{Unanswered, bounded, bounded_on};
use crate::error::EnlistError;
use crate::manager::Inner;
use crate::observe::Point;
use crate::preflight;

pub(crate) struct LateChecks {
    /// Every resource was found fit: the common case, without a lock.
    all_fit: AtomicBool,
    unchecked: Mutex<BTreeMap<ResourceName, Unchecked>>,
    /// One for each that was unchecked at the start.
    turns: BTreeMap<ResourceName, tokio::sync::Mutex<()>>,
}

#[derive(Debug, Clone, Default)]
struct Unchecked {
    /// How many checks have begun.
    begun: u64,
    /// What the last one said, if it said something.
    why: Option<ResourceError>,
}

impl Unchecked {
    fn is_unfit(&self) -> bool {
        let problem = self.why.as_ref().map(ResourceError::problem);
        problem == Some(Problem::Unfit)
    }
}

impl LateChecks {
    pub(super) fn new(unchecked: BTreeSet<ResourceName>) -> Self {
        let turn = |name: &ResourceName| (name.clone(), tokio::sync::Mutex::default());
        let turns = unchecked.iter().map(turn).collect();
        let unjudged = |name| (name, Unchecked::default());
        Self {
            all_fit: AtomicBool::new(unchecked.is_empty()),
            turns,
            unchecked: Mutex::new(unchecked.into_iter().map(unjudged).collect()),
        }
    }

    fn of(&self, name: &ResourceName) -> Option<Unchecked> {
        lock(&self.unchecked).get(name).cloned()
    }

    /// Whether a branch may be opened there; asks the server, until then at most, if that is not
    /// known and the branch may write.
    pub(crate) async fn check_fit(
        &self,
        inner: &Arc<Inner>,
        name: &ResourceName,
        role: BranchRole,
        until: Instant,
    ) -> Result<(), EnlistError> {
        // Relaxed: whoever still reads that some are not looks into the map.
        if self.all_fit.load(Ordering::Relaxed) {
            return Ok(());
        }
        let is_unjudged = |unchecked: &Unchecked| !unchecked.is_unfit();
        if role == BranchRole::Writer && self.of(name).as_ref().is_some_and(is_unjudged) {
            let (shared, resource) = (Arc::clone(inner), inner.resources.get(name).cloned());
            // Goes on for others if this caller gives up.
            let check = inner.runtime.spawn(async move {
                let Some(resource) = resource else { return };
                tokio::select! {
                    // The same run for the same luck.
                    biased;
                    () = shared.recovery.late.check(&shared, &*resource) => {}
                    // No check outlives the manager (I8).
                    () = shared.recovery.stopped() => {}
                }
            });
            let limit = until.saturating_duration_since(Instant::now());
            match bounded_on(&inner.runtime, limit, check).await {
                Ok(Ok(())) | Err(Unanswered::Late(_)) => {}
                Ok(Err(_)) | Err(Unanswered::Panicked) => return Err(EnlistError::ShutDown),
            }
        }
        match self.of(name) {
            None => Ok(()),
            Some(unchecked) if unchecked.is_unfit() || role == BranchRole::Writer => {
                Err(not_used(name, unchecked).into())
            }
            // A reader has nothing that could be lost.
            Some(_) => Ok(()),
        }
    }

    /// Checks a resource until it answers once and is fit. If it is found to be unfit no branch is
    /// opened there, as if that had been seen at the start; recovery goes on.
    pub(super) async fn check(&self, inner: &Inner, resource: &dyn ResourceManager) {
        let name = resource.name();
        let begun = || self.of(name).map(|unchecked| unchecked.begun);
        let (Some(before), Some(turn)) = (begun(), self.turns.get(name)) else {
            return;
        };
        let _turn = turn.lock().await;
        match lock(&self.unchecked).get_mut(name) {
            Some(unchecked) if unchecked.begun == before => unchecked.begun += 1,
            // Another has begun since, and has ended.
            Some(_) | None => return,
        }
        inner.probes.at(name, Point::BeforeLateCheck).await;
        let checked = bounded(inner.config.recovery_timeout, resource.preflight()).await;
        inner.probes.at(name, Point::LateChecked).await;
        let why = match checked.map(|checked| preflight::judge(name, checked)) {
            Ok(Ok(())) => {
                let mut unchecked = lock(&self.unchecked);
                unchecked.remove(name);
                self.all_fit.store(unchecked.is_empty(), Ordering::Relaxed);
                return;
            }
            Ok(Err(error)) => error,
            Err(silence) => {
                let text = format!("a check: {silence}");
                ResourceError::new(Problem::Unavailable, name.clone(), text)
            }
        };
        self.note(name, why);
    }

    fn note(&self, name: &ResourceName, why: ResourceError) {
        let mut unchecked = lock(&self.unchecked);
        let Some(unchecked) = unchecked.get_mut(name) else {
            return;
        };
        let is_unfit = why.problem() == Problem::Unfit;
        let said = unchecked.why.as_ref().map(ToString::to_string);
        // Said once, not once a check. That it cannot be reached is the pass's to say.
        if is_unfit && said != Some(why.to_string()) {
            warn!(target: "unanimous", "unfit for two-phase commit: {why}");
        }
        // What was found unfit is, until it is seen to be mended.
        if is_unfit || !unchecked.is_unfit() {
            unchecked.why = Some(why);
        }
    }
}

fn not_used(name: &ResourceName, unchecked: Unchecked) -> BranchError {
    let (is_unfit, name) = (unchecked.is_unfit(), name.clone());
    let Some(why) = unchecked.why else {
        let message = "cannot open a branch: it has not answered a check since the start";
        return BranchError::new(BranchErrorKind::Unavailable, name, message);
    };
    let (kind, message) = if is_unfit {
        let message = format!("it is not used until a recovery pass has seen this mended: {why}");
        (BranchErrorKind::Failed, message)
    } else {
        let message = format!("cannot open a branch: not checked since the start: {why}");
        (BranchErrorKind::Unavailable, message)
    };
    BranchError::new(kind, name, message).with_source(why)
}
