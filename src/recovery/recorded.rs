//! T: what the log says, and what follows from it for a branch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use unanimous_core::ports::{
    BranchRecord, DecisionRecord, LogError, LogSnapshot, Lookup, OpeningState, ResourceManager,
};
use unanimous_core::protocol::{EpochView, Heuristic};
use unanimous_core::xid::{Gtrid, Opening, ResourceName, Xid};

use super::lost::note_given_up;
use crate::bounded::bounded;
use crate::manager::Inner;

/// T: the log, seen after A.
pub(super) struct Recorded {
    pub(super) own: Opening,
    pub(super) openings: HashMap<Opening, bool>,
    /// In order, oldest first.
    pub(super) pending: BTreeMap<Gtrid, DecisionRecord>,
}

pub(crate) async fn ask_log<T>(
    inner: &Inner,
    question: impl Future<Output = Result<T, LogError>>,
) -> Result<T, LogError> {
    match bounded(inner.config.recovery_timeout, question).await {
        Ok(answer) => answer,
        Err(silence) => Err(LogError::new(silence.to_string())),
    }
}

impl Recorded {
    pub(super) async fn read(inner: &Inner) -> Result<Self, LogError> {
        // The own opening is read first: if the log reopens meanwhile, the old one is listed
        // closed.
        let own = inner.log.opening();
        let LogSnapshot { openings, pending } = inner.log.snapshot().await?;
        Ok(Self {
            own,
            openings: openings
                .into_iter()
                .map(|state| (state.opening, state.closed))
                .collect(),
            pending: pending
                .into_iter()
                .map(|record| (record.gtrid, record))
                .collect(),
        })
    }

    pub(super) fn listed(&self) -> impl Iterator<Item = OpeningState> {
        let openings = self.openings.iter();
        openings.map(|(opening, closed)| OpeningState {
            opening: *opening,
            closed: *closed,
        })
    }

    /// Of a branch's epoch, before the log is asked for its transaction.
    fn view(&self, xid: &Xid) -> EpochView {
        EpochView::of(xid, self.own, |opening| self.openings.get(opening).copied())
    }

    pub(super) fn decision(&self, gtrid: Gtrid) -> Option<&DecisionRecord> {
        self.pending.get(&gtrid)
    }

    /// What a pending decision says of a branch.
    pub(super) fn branch(&self, xid: &Xid) -> Option<&BranchRecord> {
        let mut branches = self.branches(xid.gtrid).iter();
        branches.find(|branch| branch.resource == xid.bqual)
    }

    /// The branches of a pending decision.
    pub(super) fn branches(&self, gtrid: Gtrid) -> &[BranchRecord] {
        let decision = self.pending.get(&gtrid);
        decision.map_or(&[], |decision| &decision.branches)
    }

    /// Branches at this resource that pending decisions name, which no driver here looks after and
    /// which are not proven yet. The set A is asked after T: whoever is not in it has ended.
    pub(super) async fn unproven(
        &self,
        inner: &Inner,
        resource: &dyn ResourceManager,
    ) -> Result<Vec<Xid>, LogError> {
        note_given_up(inner, self.ours_to_end(inner)).await?;
        let names_it = |decision: &DecisionRecord| {
            let mut branches = decision.branches.iter();
            branches.any(|branch| branch.resource == *resource.name())
        };
        let (ours, bqual) = (self.ours_to_end(inner), resource.name());
        let named = ours.filter(|decision| {
            names_it(decision) && !inner.recovery.is_resolved(decision.gtrid, bqual)
        });
        let xid = |decision: &DecisionRecord| Xid {
            gtrid: decision.gtrid,
            bqual: bqual.clone(),
        };
        Ok(named.map(xid).collect())
    }

    /// Those of them that were left to recovery, with what the decision says of them. The log is
    /// asked once more: one that ended between T and A has completed its decision before it left A,
    /// and its connections may serve others by now, which a proof would end. What is pending yet
    /// was left to recovery, unless its epoch is open again: a fail-over of the log may have lost
    /// that it was closed, and then its owner looks after it.
    pub(super) async fn left_behind(
        &self,
        inner: &Inner,
        mut unproven: Vec<Xid>,
    ) -> Result<Vec<(Xid, BranchRecord)>, LogError> {
        if unproven.is_empty() {
            return Ok(Vec::new());
        }
        let again = ask_log(inner, Self::read(inner)).await?;
        unproven.retain(|xid| {
            again.pending.contains_key(&xid.gtrid) && again.is_ours_to_end(inner, xid.gtrid)
        });
        let recorded = unproven.into_iter().filter_map(|xid| {
            let branch = self.branch(&xid)?.clone();
            Some((xid, branch))
        });
        Ok(recorded.collect())
    }

    /// [`unproven`](Self::unproven) and [`left_behind`](Self::left_behind).
    pub(super) async fn named(
        &self,
        inner: &Inner,
        resource: &dyn ResourceManager,
    ) -> Result<Vec<(Xid, BranchRecord)>, LogError> {
        let unproven = self.unproven(inner, resource).await?;
        self.left_behind(inner, unproven).await
    }

    pub(super) fn ours_to_end(&self, inner: &Inner) -> impl Iterator<Item = &DecisionRecord> {
        let pending = self.pending.values();
        pending.filter(|decision| self.is_ours_to_end(inner, decision.gtrid))
    }

    /// The set A is asked after T: whoever is not in it has ended.
    pub(super) fn is_ours_to_end(&self, inner: &Inner, gtrid: Gtrid) -> bool {
        let opening = gtrid.opening;
        let closed = self.openings.get(&opening) == Some(&true);
        (closed || opening == self.own) && !inner.active.contains(gtrid)
    }
}

/// What was found of transactions that are not pending.
#[derive(Default)]
pub(super) struct LookedUp {
    found: HashMap<Gtrid, Result<Lookup, LogError>>,
    /// Why it is not known of the others.
    error: Option<LogError>,
}

/// How many are asked for within one `recovery_timeout`: fewer as long as the log is too slow.
pub(super) struct AskedMax(AtomicUsize);

impl Default for AskedMax {
    fn default() -> Self {
        Self(AtomicUsize::new(Self::MOST))
    }
}

impl AskedMax {
    const MOST: usize = 500;

    /// Relaxed: whoever reads an older one asks for more, or fewer, than is best.
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn was_too_many(&self, asked: usize) {
        self.0.store((asked / 2).max(1), Ordering::Relaxed);
    }

    fn was_answered(&self, asked: usize) {
        let more = (asked + asked / 8 + 1).min(Self::MOST);
        self.0.fetch_max(more, Ordering::Relaxed);
    }
}

impl LookedUp {
    /// Asks the log for all of these branches that are not pending and that may be ended here.
    pub(super) async fn read(inner: &Inner, t: &Recorded, xids: &[Xid]) -> Self {
        let is_asked = |xid: &&Xid| {
            !t.pending.contains_key(&xid.gtrid)
                && matches!(t.view(xid), EpochView::OwnOpen | EpochView::Closed)
        };
        let asked: HashSet<Gtrid> = { xids.iter() }
            .filter(is_asked)
            .map(|xid| xid.gtrid)
            .collect();
        let mut asked: Vec<Gtrid> = asked.into_iter().collect();
        asked.sort_unstable();
        let mut looked_up = Self::default();
        let mut asked = asked.as_slice();
        while !asked.is_empty() {
            let count = inner.recovery.asked_max.get().min(asked.len());
            let (some, rest) = asked.split_at(count);
            if let Err(error) = looked_up.ask(inner, some).await {
                looked_up.error = Some(error);
                break;
            }
            asked = rest;
        }
        looked_up
    }

    /// # Errors
    /// The log answers for none of them.
    async fn ask(&mut self, inner: &Inner, some: &[Gtrid]) -> Result<(), LogError> {
        let asked_max = &inner.recovery.asked_max;
        let asking = inner.log.lookup_all(some);
        let found = match bounded(inner.config.recovery_timeout, asking).await {
            Ok(found) => found?,
            Err(silence) => {
                asked_max.was_too_many(some.len());
                return Err(LogError::new(silence.to_string()));
            }
        };
        asked_max.was_answered(some.len());
        let is_mute = found.iter().all(Result::is_err);
        let error = found.iter().find_map(|found| found.as_ref().err()).cloned();
        self.found.extend(some.iter().copied().zip(found));
        match error {
            Some(error) if is_mute => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    /// The view of its epoch in the light of what the log answers, and whether it is decided, if
    /// the log can tell. Only the log's word that there is no record is one: whatever else it
    /// answers leaves the branch alone (I3).
    pub(super) fn judge(
        &self,
        t: &Recorded,
        xid: &Xid,
    ) -> Result<(EpochView, Option<bool>), LogError> {
        let view = t.view(xid);
        if t.pending.contains_key(&xid.gtrid) {
            return Ok((view, Some(true)));
        }
        match view {
            EpochView::OwnOpen | EpochView::Closed => {}
            EpochView::OtherOpen
            | EpochView::Unlisted
            | EpochView::MayBeLost
            | EpochView::OtherManager
            | EpochView::EndedOtherwise => {
                return Ok((view, None));
            }
        }
        let unknown = || LogError::new("it has not answered");
        let found = self.found.get(&xid.gtrid);
        let found = found.ok_or_else(|| self.error.clone().unwrap_or_else(unknown))?;
        let (ends, beside) = found.clone()?.apart();
        // Who has ended this very branch otherwise is on record, and it is back: what holds now is
        // for a person to say. That one was rolled back against the decision says what that was,
        // also where the decision itself is kept no longer.
        let has_ended = ends.iter().any(|(name, _)| *name == xid.bqual);
        let was_decided = decided_by(&ends);
        match beside {
            Lookup::Pending(_) | Lookup::Completed => Ok((view, Some(true))),
            Lookup::NoRecord | Lookup::Open if has_ended => {
                Ok((EpochView::EndedOtherwise, was_decided))
            }
            Lookup::NoRecord | Lookup::Open if was_decided == Some(true) => Ok((view, Some(true))),
            Lookup::NoRecord => Ok((view, Some(false))),
            Lookup::Open if view == EpochView::OwnOpen => Ok((view, Some(false))),
            Lookup::Open => Err(LogError::new("a closed epoch was answered to be open")),
            Lookup::MayBeLost => Ok((EpochView::MayBeLost, None)),
            Lookup::UnknownOpening | _ => Ok((EpochView::Unlisted, None)),
        }
    }
}

/// What the ends that are on record say of the decision: only against one can a branch be rolled
/// back otherwise, and only without one be committed.
pub(crate) fn decided_by(ends: &[(ResourceName, Heuristic)]) -> Option<bool> {
    let has = |wanted| ends.iter().any(|(_, end)| *end == wanted);
    if has(Heuristic::Rollback) {
        return Some(true);
    }
    has(Heuristic::Commit).then_some(false)
}
