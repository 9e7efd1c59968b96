//! One recovery pass at one resource. The four observations, in this order, and why it is safe:
//! [`unanimous_core::protocol::plan`].
//!
//! 1. **P**: what the resource holds prepared.
//! 2. **A**: which of those transactions are active here.
//! 3. **T**: the log's openings and pending decisions; then, for the decisions, A once more and the
//!    pending ones once more.
//! 4. **Q**: what the resource holds prepared, again.
//! 5. Each of ours in P and Q is ended as the plan says; the log is looked up for one that is not
//!    pending, because a completed decision is a decision, too.
//! 6. Each pending decision that names this resource, whose transaction is not active and whose
//!    branch is not in Q, is proven by the adapter: *absent is not finished*.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use unanimous_core::ports::{
    Absence, BranchErrorKind, BranchRecord, ByHand, DecisionRecord, LogError, LogSnapshot, Lookup,
    Problem, RecoveryScan, ResourceError, ResourceManager, XidOwner,
};
use unanimous_core::protocol::{Decision, EpochView, Heuristic, LeaveReason, Resolution, plan};
use unanimous_core::xid::{Gtrid, Opening, Xid};

use super::by_hand::{close_records, rolled_back_by_hand};
use super::lost::{complete_what_is_over, how_to_give_up, note_given_up};
use super::{Left, ResourceReport};
use crate::bounded::bounded;
use crate::manager::Inner;
use crate::observe::Point;

const ENDED_ELSEWHERE: &str = "another resource on the same server is ending it";

/// T: the log, seen after A.
pub(super) struct Recorded {
    pub(super) own: Opening,
    pub(super) openings: HashMap<Opening, bool>,
    /// In order, oldest first.
    pending: BTreeMap<Gtrid, DecisionRecord>,
}

enum Done {
    Committed,
    RolledBack,
    Left(Left),
}

impl Done {
    /// For those who watch the pass.
    fn count(&self, inner: &Inner) {
        match self {
            Self::Committed | Self::RolledBack => {
                inner.recovery.ended.fetch_add(1, Ordering::Relaxed);
            }
            Self::Left(_) => {}
        }
    }
}

/// What was seen, in the order of the fields.
struct Observed {
    p: Vec<Xid>,
    a: HashSet<Gtrid>,
    t: Recorded,
    /// What pending decisions name here.
    named: Vec<(Xid, BranchRecord)>,
    q: HashSet<Xid>,
}

pub(super) async fn run(inner: &Inner, resource: &dyn ResourceManager) -> ResourceReport {
    let mut report = ResourceReport::new(resource.name().clone());
    let reached = |point| inner.probes.at(resource.name(), point);
    reached(Point::PassBegun).await;
    let Some(Observed { p, a, t, named, q }) = observe(inner, resource, &mut report).await else {
        return report;
    };
    // After Q: whoever has ended a branch by hand had recorded it before.
    let hands = match ask_log(inner, inner.log.by_hand()).await {
        Ok(hands) => hands,
        Err(error) => {
            report.cannot_read_log(p, error);
            return report;
        }
    };
    reached(Point::ByHandRead).await;
    let concurrency = inner.config.recovery_concurrency.max(1);
    let ended = futures_util::stream::iter(p).map(|xid| {
        let (a, t, q, hands) = (&a, &t, &q, &hands);
        async move {
            let done = end_present(inner, resource, &xid, a, t, q).await;
            note_hands(inner, hands, &xid, &done).await;
            done.count(inner);
            (xid, done)
        }
    });
    let ended: Vec<_> = ended.buffer_unordered(concurrency).collect().await;
    report.count(ended);
    let absent = named.into_iter().filter(|(xid, _)| !q.contains(xid));
    let hands = &hands;
    let proofs = absent.map(|(xid, branch)| async move {
        let done = prove_absent(inner, resource, &xid, &branch, hands).await;
        done.count(inner);
        (xid, done)
    });
    let proofs = futures_util::stream::iter(proofs.collect::<Vec<_>>());
    let proven: Vec<_> = proofs.buffer_unordered(concurrency).collect().await;
    report.count(proven);
    reached(Point::BranchesEnded).await;
    for decision in t.pending.values() {
        inner.recovery.complete_if_resolved(inner, decision);
    }
    reached(Point::PassEnded).await;
    report
}

/// Steps 1 to 4. `None` if there is nothing to be ended, or something could not be seen, which the
/// report says then.
async fn observe(
    inner: &Inner,
    resource: &dyn ResourceManager,
    report: &mut ResourceReport,
) -> Option<Observed> {
    let reached = |point| inner.probes.at(resource.name(), point);
    let p = match scan(inner, resource).await {
        Ok(scan) => ours(scan, &mut report.foreign),
        Err(error) => {
            report.error = Some(error);
            return None;
        }
    };
    reached(Point::PreparedSeen).await;
    let gtrids = p.iter().map(|xid| xid.gtrid);
    let a = gtrids
        .filter(|gtrid| inner.active.contains(*gtrid))
        .collect();
    reached(Point::ActiveSeen).await;
    let t = match ask_log(inner, Recorded::read(inner)).await {
        Ok(recorded) => recorded,
        Err(error) => {
            report.cannot_read_log(p, error);
            return None;
        }
    };
    reached(Point::LogRead).await;
    let named = match t.named(inner, resource).await {
        Ok(named) => named,
        Err(error) => {
            report.cannot_read_log(p, error);
            return None;
        }
    };
    complete_what_is_over(inner, t.ours_to_end(inner));
    if p.is_empty() && named.is_empty() {
        return None;
    }
    let q = match scan(inner, resource).await {
        Ok(scan) => ours(scan, &mut Vec::new()).into_iter().collect(),
        Err(error) => {
            report.error = Some(error);
            return None;
        }
    };
    reached(Point::PreparedSeenAgain).await;
    Some(Observed { p, a, t, named, q })
}

impl ResourceReport {
    fn cannot_read_log(&mut self, p: Vec<Xid>, error: LogError) {
        let why = format!("the log cannot be read: {error}");
        let left = p.into_iter().map(|xid| (xid, Left::Retry(why.clone())));
        self.left = left.collect();
        self.log_error = Some(error);
    }

    fn count(&mut self, ended: Vec<(Xid, Done)>) {
        for (xid, done) in ended {
            match done {
                Done::Committed => self.committed += 1,
                Done::RolledBack => self.rolled_back += 1,
                Done::Left(Left::Plan(LeaveReason::Gone)) => {}
                Done::Left(left) => self.left.push((xid, left)),
            }
        }
    }
}

/// P and Q.
pub(super) async fn scan(
    inner: &Inner,
    at: &dyn ResourceManager,
) -> Result<RecoveryScan, ResourceError> {
    match bounded(inner.config.recovery_timeout, at.recover()).await {
        Ok(scanned) => scanned,
        Err(silence) => {
            let (problem, name) = (Problem::Unavailable, at.name().clone());
            Err(ResourceError::new(problem, name, silence.to_string()))
        }
    }
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

/// Ours (of any manager), and the others' texts.
pub(super) fn ours(scan: RecoveryScan, foreign: &mut Vec<String>) -> Vec<Xid> {
    let mut xids = Vec::new();
    for branch in scan.branches {
        match branch.owner {
            XidOwner::Unanimous(xid) => xids.push(xid),
            XidOwner::Foreign(text) => foreign.push(text),
        }
    }
    // Each once: a branch that is listed twice would be ended twice.
    xids.sort_unstable();
    xids.dedup();
    xids
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
    /// which are not proven yet.
    ///
    /// The set A is asked after T: whoever is not in it has ended. Then the log is asked once more:
    /// one that ended between T and A has completed its decision before it left A, and its
    /// connections may serve others by now, which a proof would end. What is pending yet was left
    /// to recovery, unless its epoch is open again: a fail-over of the log may have lost that it
    /// was closed, and then its owner looks after it.
    pub(super) async fn named(
        &self,
        inner: &Inner,
        resource: &dyn ResourceManager,
    ) -> Result<Vec<(Xid, BranchRecord)>, LogError> {
        let mut named = Vec::new();
        note_given_up(inner, self.ours_to_end(inner)).await?;
        for decision in self.ours_to_end(inner) {
            for branch in decision
                .branches
                .iter()
                .filter(|b| b.resource == *resource.name())
            {
                if !inner.recovery.is_resolved(decision.gtrid, &branch.resource) {
                    named.push((branch.xid(decision.gtrid), branch.clone()));
                }
            }
        }
        if !named.is_empty() {
            let again = ask_log(inner, Self::read(inner)).await?;
            named.retain(|(xid, _)| {
                again.pending.contains_key(&xid.gtrid) && again.is_ours_to_end(inner, xid.gtrid)
            });
        }
        Ok(named)
    }

    fn ours_to_end(&self, inner: &Inner) -> impl Iterator<Item = &DecisionRecord> {
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

async fn end_present(
    inner: &Inner,
    resource: &dyn ResourceManager,
    xid: &Xid,
    a: &HashSet<Gtrid>,
    t: &Recorded,
    q: &HashSet<Xid>,
) -> Done {
    let reached = |point| inner.probes.at(resource.name(), point);
    reached(Point::BeforeLookup).await;
    let view = EpochView::of(xid, t.own, |opening| t.openings.get(opening).copied());
    let (view, decided) = match look_up(inner, xid, view, t).await {
        Ok(found) => found,
        Err(error) => return Done::Left(Left::Retry(format!("the log cannot be read: {error}"))),
    };
    let resolution = plan(
        view,
        || a.contains(&xid.gtrid),
        || decided,
        || q.contains(xid),
    );
    let decision = match resolution {
        Resolution::Commit => Decision::Commit,
        Resolution::RollBackOrphan => Decision::Rollback,
        Resolution::LeaveAlone(reason) => return Done::Left(Left::Plan(reason)),
    };
    let Some(_claim) = inner.recovery.claim(xid) else {
        return Done::Left(Left::Retry(ENDED_ELSEWHERE.to_owned()));
    };
    let finishing = resource.finish(xid, decision, t.branch(xid));
    reached(Point::BeforeFinish).await;
    let finished = bounded(inner.config.recovery_timeout, finishing).await;
    reached(Point::FinishAnswered).await;
    let finished = match finished {
        Ok(finished) => finished,
        Err(silence) => return Done::Left(Left::Retry(silence.to_string())),
    };
    match (finished, decision) {
        (Ok(()), Decision::Commit) => {
            // A completed decision whose branch came back (an undurable commit) stays completed.
            if t.pending.contains_key(&xid.gtrid) {
                inner
                    .recovery
                    .note_resolved(xid.gtrid, std::iter::once(xid.bqual.clone()));
            }
            Done::Committed
        }
        (Ok(()), Decision::Rollback) => Done::RolledBack,
        (Err(error), Decision::Commit)
            if matches!(error.kind(), BranchErrorKind::RolledBack(_)) =>
        {
            heuristic(inner, xid, Heuristic::Rollback, error.to_string()).await
        }
        (Err(error), Decision::Rollback)
            if matches!(error.kind(), BranchErrorKind::RolledBack(_)) =>
        {
            Done::RolledBack
        }
        (Err(error), _) if error.kind() == BranchErrorKind::Failed => {
            Done::Left(Left::Refused(error.to_string()))
        }
        (Err(error), _) => Done::Left(Left::Retry(error.to_string())),
    }
}

/// Whether it is decided, and the view of its epoch in the light of what the log answers. Only the
/// log's word that there is no record is one: whatever else it answers leaves the branch alone
/// (I3).
pub(super) async fn look_up(
    inner: &Inner,
    xid: &Xid,
    view: EpochView,
    t: &Recorded,
) -> Result<(EpochView, bool), LogError> {
    match view {
        EpochView::OwnOpen | EpochView::Closed => {}
        EpochView::OtherOpen
        | EpochView::Unlisted
        | EpochView::MayBeLost
        | EpochView::OtherManager => {
            return Ok((view, false));
        }
    }
    if t.pending.contains_key(&xid.gtrid) {
        return Ok((view, true));
    }
    let mut found = ask_log(inner, inner.log.lookup(xid.gtrid)).await?;
    // That another branch has ended otherwise says nothing of what was decided.
    while let Lookup::Heuristic { beside, .. } = found {
        found = *beside;
    }
    match found {
        Lookup::Pending(_) | Lookup::Completed => Ok((view, true)),
        Lookup::NoRecord => Ok((view, false)),
        Lookup::Open if view == EpochView::OwnOpen => Ok((view, false)),
        Lookup::Open => Err(LogError::new("a closed epoch was answered to be open")),
        Lookup::MayBeLost => Ok((EpochView::MayBeLost, false)),
        Lookup::UnknownOpening | _ => Ok((EpochView::Unlisted, false)),
    }
}

async fn prove_absent(
    inner: &Inner,
    resource: &dyn ResourceManager,
    xid: &Xid,
    branch: &BranchRecord,
    hands: &[ByHand],
) -> Done {
    let Some(_claim) = inner.recovery.claim(xid) else {
        return Done::Left(Left::Retry(ENDED_ELSEWHERE.to_owned()));
    };
    if let Some(end) = inner.recovery.unrecorded(xid) {
        return heuristic(inner, xid, end, "it ended against the decision".to_owned()).await;
    }
    let by_hand = rolled_back_by_hand(hands, xid);
    match is_on_record(inner, xid, by_hand.as_ref()).await {
        Ok(false) => {}
        Ok(true) => {
            inner
                .recovery
                .note_resolved(xid.gtrid, std::iter::once(xid.bqual.clone()));
            return Done::Left(Left::Plan(LeaveReason::Gone));
        }
        Err(error) => {
            return Done::Left(Left::Retry(format!("the log cannot be read: {error}")));
        }
    }
    let proving = resource.absent(xid, branch);
    inner.probes.at(&xid.bqual, Point::BeforeProof).await;
    let proven = bounded(inner.config.recovery_timeout, proving).await;
    inner.probes.at(&xid.bqual, Point::ProofAnswered).await;
    let proven = match proven {
        Ok(proven) => proven,
        Err(silence) => return Done::Left(Left::Retry(silence.to_string())),
    };
    match (proven, by_hand) {
        (Ok(Absence::Presumed), Some((end, why))) => heuristic(inner, xid, end, why).await,
        (Ok(Absence::Finished | Absence::Presumed), _) => {
            inner
                .recovery
                .note_resolved(xid.gtrid, std::iter::once(xid.bqual.clone()));
            Done::Committed
        }
        (Ok(Absence::Heuristic(end)), _) => {
            heuristic(inner, xid, end, "it is gone, and not as decided".to_owned()).await
        }
        (Ok(Absence::InDoubt(why)), _) => Done::Left(Left::Retry(why)),
        (Ok(Absence::Hazard(why)), _) => Done::Left(Left::Person(how_to_give_up(&why, xid))),
        (Err(error), _) => Done::Left(Left::Retry(error.to_string())),
    }
}

/// Whether a person has rolled it back, and that is recorded as the heuristic end that it is: they
/// know, and nobody has to look again.
async fn is_on_record(
    inner: &Inner,
    xid: &Xid,
    by_hand: Option<&(Heuristic, String)>,
) -> Result<bool, LogError> {
    let Some((Heuristic::Rollback, _)) = by_hand else {
        return Ok(false);
    };
    let (ends, _) = ask_log(inner, inner.log.lookup(xid.gtrid)).await?.apart();
    Ok(ends.contains(&(xid.bqual.clone(), Heuristic::Rollback)))
}

/// What a person had meant to do with a branch that was ended just now is over.
async fn note_hands(inner: &Inner, hands: &[ByHand], xid: &Xid, done: &Done) {
    let decision = match done {
        Done::Committed => Decision::Commit,
        Done::RolledBack => Decision::Rollback,
        Done::Left(_) => return,
    };
    close_records(inner, hands, xid, decision).await;
}

/// Recorded durably first; then the branch counts as ended, and its decision can be completed.
async fn heuristic(inner: &Inner, xid: &Xid, end: Heuristic, why: String) -> Done {
    if inner
        .recovery
        .record_heuristic(inner, xid.gtrid, &xid.bqual, end)
        .await
    {
        inner
            .recovery
            .note_resolved(xid.gtrid, std::iter::once(xid.bqual.clone()));
        Done::Left(Left::Person(why))
    } else {
        Done::Left(Left::Retry(why))
    }
}
