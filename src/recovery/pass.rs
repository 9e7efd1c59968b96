//! One recovery pass at one resource. The four observations, in this order, and why it is safe:
//! [`unanimous_core::protocol::plan`].
//!
//! 1. **P**: what the resource holds prepared.
//! 2. **A**: which of those transactions are active here.
//! 3. **T**: the log's openings and pending decisions; then, for the decisions, A once more.
//! 4. **Q**: what the resource holds prepared, again.
//! 5. Each of ours in P and Q is ended as the plan says; the log is asked once for all that are not
//!    pending, because a completed decision is a decision, too.
//! 6. Each pending decision that names this resource, whose transaction is not active and whose
//!    branch is not in Q, is looked at once more in log and A, and proven by the adapter: *absent
//!    is not finished*.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use unanimous_core::ports::{
    Absence, BranchError, BranchErrorKind, BranchRecord, ByHand, HeuristicEnd, LogError, Problem,
    RecoveryScan, ResourceError, ResourceManager, XidOwner,
};
use unanimous_core::protocol::{Decision, Heuristic, LeaveReason, Resolution, plan};
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use super::by_hand::{RolledBack, close_records, hazard, rolled_back_by_hand};
use super::lost::{complete_what_is_over, how_to_give_up};
use super::recorded::LookedUp;
pub(super) use super::recorded::{Recorded, ask_log};
use super::{Left, ResourceReport};
use crate::bounded::{Unanswered, bounded};
use crate::manager::Inner;
use crate::observe::Point;

const ENDED_ELSEWHERE: &str = "another resource on the same server is ending it";

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
    q: HashSet<Xid>,
    /// What pending decisions name here, and Q does not list.
    absent: Vec<Xid>,
}

/// What the log says of the branches that were seen.
struct Told {
    looked_up: LookedUp,
    absent: Vec<(Xid, BranchRecord)>,
    hands: Vec<ByHand>,
    /// What people did with these cannot be read.
    illegible: HashSet<Xid>,
    /// Absent branches that are on record to have ended otherwise: nobody has to look again.
    ends: HashSet<Xid>,
}

pub(super) async fn run(inner: &Inner, resource: &dyn ResourceManager) -> ResourceReport {
    let mut report = ResourceReport::new(resource.name().clone());
    let reached = |point| inner.probes.at(resource.name(), point);
    reached(Point::PassBegun).await;
    let Some(mut seen) = observe(inner, resource, &mut report).await else {
        return report;
    };
    let mut told = match ask_of(inner, &mut seen, reached).await {
        Ok(told) => told,
        Err(error) => {
            report.cannot_read_log(seen.p, error);
            return report;
        }
    };
    let concurrency = inner.config.recovery_concurrency.max(1);
    let (p, absent) = (
        std::mem::take(&mut seen.p),
        std::mem::take(&mut told.absent),
    );
    let (seen, told) = (&seen, &told);
    let ended = futures_util::stream::iter(p).map(|xid| async move {
        let done = if told.illegible.contains(&xid) {
            Done::Left(Left::Refused(ILLEGIBLE.to_owned()))
        } else {
            end_present(inner, resource, &xid, seen, told).await
        };
        done.count(inner);
        (xid, done)
    });
    let ended: Vec<_> = ended.buffer_unordered(concurrency).collect().await;
    report.count(ended);
    let proven = futures_util::stream::iter(absent).map(|(xid, branch)| async move {
        let done = if told.illegible.contains(&xid) {
            Done::Left(Left::Refused(ILLEGIBLE.to_owned()))
        } else {
            prove_absent(inner, resource, &xid, &branch, told).await
        };
        done.count(inner);
        (xid, done)
    });
    let proven: Vec<_> = proven.buffer_unordered(concurrency).collect().await;
    report.count(proven);
    reached(Point::BranchesEnded).await;
    for decision in seen.t.pending.values() {
        inner.recovery.complete_if_resolved(inner, decision);
    }
    reached(Point::PassEnded).await;
    report
}

pub(crate) const ILLEGIBLE: &str = "what a person did with it is on record in words that cannot be \
    read here: see unanimous log verify";

pub(super) fn illegible(branches: Vec<(Gtrid, ResourceName)>) -> HashSet<Xid> {
    let xids = branches.into_iter();
    xids.map(|(gtrid, bqual)| Xid { gtrid, bqual }).collect()
}

/// Asks the log, after Q, for what steps 5 and 6 have to know.
async fn ask_of<P: Future<Output = ()>>(
    inner: &Inner,
    seen: &mut Observed,
    reached: impl Fn(fn(ResourceName) -> Point) -> P,
) -> Result<Told, LogError> {
    let absent = std::mem::take(&mut seen.absent);
    let absent = seen.t.left_behind(inner, absent).await?;
    // After Q: whoever has ended a branch by hand had recorded it before.
    let hands = ask_log(inner, inner.log.hands()).await?;
    reached(Point::ByHandRead).await;
    let mut ends = HashSet::new();
    if !absent.is_empty() {
        let noted = ask_log(inner, inner.log.heuristics()).await?.into_iter();
        let is_known = noted.filter(|noted| noted.end != Heuristic::Hazard);
        ends.extend(is_known.map(|noted| Xid {
            gtrid: noted.gtrid,
            bqual: noted.resource,
        }));
    }
    if !seen.p.is_empty() {
        reached(Point::BeforeLookup).await;
    }
    Ok(Told {
        looked_up: LookedUp::read(inner, &seen.t, &seen.p).await,
        absent,
        illegible: illegible(hands.illegible),
        hands: hands.legible,
        ends,
    })
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
    p.iter().for_each(|xid| inner.recovery.gone.is_back(xid));
    let gtrids = p.iter().map(|xid| xid.gtrid);
    let a = gtrids
        .filter(|gtrid| inner.active.contains(*gtrid))
        .collect();
    reached(Point::ActiveSeen).await;
    let noted = inner.recovery.noted();
    let t = match ask_log(inner, Recorded::read(inner)).await {
        Ok(recorded) => recorded,
        Err(error) => {
            report.cannot_read_log(p, error);
            return None;
        }
    };
    inner.recovery.forget_completed(noted, &t);
    inner.recovery.gone.note_members(inner, t.own, t.listed());
    reached(Point::LogRead).await;
    let mut absent = match t.unproven(inner, resource).await {
        Ok(unproven) => unproven,
        Err(error) => {
            report.cannot_read_log(p, error);
            return None;
        }
    };
    complete_what_is_over(inner, t.ours_to_end(inner));
    if p.is_empty() && absent.is_empty() {
        return None;
    }
    let q: HashSet<Xid> = match scan(inner, resource).await {
        Ok(scan) => ours(scan, &mut Vec::new()).into_iter().collect(),
        Err(error) => {
            report.error = Some(error);
            return None;
        }
    };
    reached(Point::PreparedSeenAgain).await;
    absent.retain(|xid| !q.contains(xid));
    Some(Observed { p, a, t, q, absent })
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

/// Ours (of any manager), in the order in which the adapter lists them, and the others' texts.
pub(super) fn ours(scan: RecoveryScan, foreign: &mut Vec<String>) -> Vec<Xid> {
    let mut xids = Vec::with_capacity(scan.branches.len());
    let mut seen = HashSet::with_capacity(scan.branches.len());
    for branch in scan.branches {
        match branch.owner {
            // Each once: a branch that is listed twice would be ended twice.
            XidOwner::Unanimous(xid) if seen.contains(&xid) => {}
            XidOwner::Unanimous(xid) => {
                seen.insert(xid.clone());
                xids.push(xid);
            }
            XidOwner::Foreign(text) => foreign.push(text),
        }
    }
    xids
}

async fn end_present(
    inner: &Inner,
    resource: &dyn ResourceManager,
    xid: &Xid,
    Observed { a, t, q, .. }: &Observed,
    told: &Told,
) -> Done {
    let (view, decided) = match told.looked_up.judge(t, xid) {
        Ok(found) => found,
        Err(error) => return Done::Left(Left::Retry(format!("the log cannot be read: {error}"))),
    };
    let resolution = plan(
        view,
        || a.contains(&xid.gtrid),
        || decided == Some(true),
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
    let done = end_claimed(inner, resource, xid, decision, t).await;
    // Under the claim: whoever found it gone, and the records open, would take it for a hazard.
    note_hands(inner, &told.hands, xid, &done).await;
    done
}

async fn end_claimed(
    inner: &Inner,
    resource: &dyn ResourceManager,
    xid: &Xid,
    decision: Decision,
    t: &Recorded,
) -> Done {
    let reached = |point| inner.probes.at(resource.name(), point);
    let finishing = resource.finish(xid, decision, t.branch(xid));
    reached(Point::BeforeFinish).await;
    let finished = bounded(inner.config.recovery_timeout, finishing).await;
    if is_ended(&finished, decision) && inner.resources.contains_key(&xid.bqual) {
        // Before anything is waited for: a shutdown ends passes.
        inner.recovery.gone.note_by_decision(xid);
    }
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
            inner.recovery.gone.forget(xid);
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

/// Whether it was this command that has ended the branch, and as was decided.
fn is_ended(finished: &Result<Result<(), BranchError>, Unanswered>, decision: Decision) -> bool {
    match (finished, decision) {
        (Ok(Ok(())), _) => true,
        (Ok(Err(error)), Decision::Rollback) => {
            matches!(error.kind(), BranchErrorKind::RolledBack(_))
        }
        (Ok(Err(_)), Decision::Commit) | (Err(_), _) => false,
    }
}

async fn prove_absent(
    inner: &Inner,
    resource: &dyn ResourceManager,
    xid: &Xid,
    branch: &BranchRecord,
    told: &Told,
) -> Done {
    let Some(_claim) = inner.recovery.claim(xid) else {
        return Done::Left(Left::Retry(ENDED_ELSEWHERE.to_owned()));
    };
    if inner.recovery.is_resolved(xid.gtrid, &xid.bqual) {
        // By another pass, since the log was read.
        return Done::Left(Left::Plan(LeaveReason::Gone));
    }
    if let Some(end) = inner.recovery.unrecorded(xid) {
        return heuristic(inner, xid, end, "it ended against the decision".to_owned()).await;
    }
    if told.ends.contains(xid) {
        return resolved(inner, xid, Done::Left(Left::Plan(LeaveReason::Gone)));
    }
    let by_hand = rolled_back_by_hand(&told.hands, xid);
    let proving = resource.absent(xid, branch);
    inner.probes.at(&xid.bqual, Point::BeforeProof).await;
    let proven = bounded(inner.config.recovery_timeout, proving).await;
    inner.probes.at(&xid.bqual, Point::ProofAnswered).await;
    let proven = match proven {
        Ok(proven) => proven,
        Err(silence) => return Done::Left(Left::Retry(silence.to_string())),
    };
    match (proven, by_hand) {
        (Ok(Absence::Presumed), Some(_)) => ended_by_whom(inner, xid).await,
        (Ok(Absence::Finished | Absence::Presumed), _) => resolved(inner, xid, Done::Committed),
        (Ok(Absence::Heuristic(end)), _) => {
            heuristic(inner, xid, end, "it is gone, and not as decided".to_owned()).await
        }
        (Ok(Absence::InDoubt(why)), _) => Done::Left(Left::Retry(why)),
        (Ok(Absence::Hazard(why)), _) => Done::Left(Left::Person(how_to_give_up(&why, xid))),
        (Err(error), _) => Done::Left(Left::Retry(error.to_string())),
    }
}

/// It was to be committed, is gone without proof, and people were on record who meant to roll it
/// back. Under the claim, and read once more: whoever has ended it since the log was read may have
/// said so.
async fn ended_by_whom(inner: &Inner, xid: &Xid) -> Done {
    let own = inner.log.opening();
    let reading = async {
        // Of whoever is closed by now the records are read.
        let openings = inner.log.openings().await?;
        let hands = inner.log.hands().await?;
        Ok::<_, LogError>((openings, hands, inner.log.heuristics().await?))
    };
    let (openings, hands, noted) = match ask_log(inner, reading).await {
        Ok(read) => read,
        Err(error) => return Done::Left(Left::Retry(format!("the log cannot be read: {error}"))),
    };
    if illegible(hands.illegible).contains(xid) {
        return Done::Left(Left::Refused(ILLEGIBLE.to_owned()));
    }
    let gone = &inner.recovery.gone;
    let others = gone.note_members(inner, own, openings);
    let is_its = |noted: &HeuristicEnd| (noted.gtrid, &noted.resource) == (xid.gtrid, &xid.bqual);
    let is_known = |noted: &HeuristicEnd| is_its(noted) && noted.end != Heuristic::Hazard;
    if noted.iter().any(is_known) {
        return resolved(inner, xid, Done::Left(Left::Plan(LeaveReason::Gone)));
    }
    match rolled_back_by_hand(&hands.legible, xid) {
        None => resolved(inner, xid, Done::Committed),
        Some(RolledBack::Done(ByHand { who, reason, .. })) => {
            let why = format!("it was rolled back by {who}: {reason}");
            heuristic(inner, xid, Heuristic::Rollback, why).await
        }
        Some(RolledBack::Perhaps(hand)) => {
            let ByHand { who, reason, .. } = hand;
            let why = format!(
                "it is gone, and nobody can prove whether {who} has rolled it back as was \
                 intended: {reason}"
            );
            // The one who meant it may be about to record it, or another what was decided. Not for
            // ever: what they record later takes the place of a hazard.
            if gone.may_be_told_yet(inner, &others, hand) || !hazard(inner, hand).await {
                return Done::Left(Left::Retry(why));
            }
            resolved(inner, xid, Done::Left(Left::Person(why)))
        }
    }
}

/// From now on its decision waits for it no more.
fn resolved(inner: &Inner, xid: &Xid, done: Done) -> Done {
    let names = std::iter::once(xid.bqual.clone());
    inner.recovery.note_resolved(xid.gtrid, names);
    done
}

/// What a person had meant to do with a branch that was ended just now is over.
async fn note_hands(inner: &Inner, hands: &[ByHand], xid: &Xid, done: &Done) {
    match done {
        Done::Committed | Done::RolledBack => close_records(inner, hands, xid).await,
        Done::Left(_) => {}
    }
}

/// Recorded durably first; then the branch counts as ended, and its decision can be completed.
async fn heuristic(inner: &Inner, xid: &Xid, end: Heuristic, why: String) -> Done {
    let recording = { &inner.recovery }.record_heuristic(inner, xid.gtrid, &xid.bqual, end);
    if recording.await {
        resolved(inner, xid, Done::Left(Left::Person(why)))
    } else {
        Done::Left(Left::Retry(why))
    }
}
