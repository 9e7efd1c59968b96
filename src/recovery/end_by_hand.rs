//! A person ends a branch by hand: steps 1 to 4 of `by_hand`.

use std::collections::HashSet;

use unanimous_core::ports::{BranchErrorKind, BranchRecord, ByHand, HandState, LogError};
use unanimous_core::protocol::{ByHandCase, Decision, EpochView, Heuristic, plan};
use unanimous_core::xid::{Gtrid, Xid};

use super::by_hand::mark;
use super::pass::{Recorded, ask_log, look_up, ours, scan};
use crate::bounded::bounded;
use crate::manager::{AnyResource, Inner};

/// A prepared branch, and what it would mean to end it by hand.
#[derive(Debug, Clone)]
pub(crate) struct ForHand {
    pub(crate) xid: Xid,
    pub(crate) case: ByHandCase,
    /// `None` if the log cannot tell.
    pub(crate) is_decided: Option<bool>,
    /// What the decision says of it.
    pub(crate) record: Option<BranchRecord>,
}

/// What was seen at one resource.
#[derive(Debug, Default)]
pub(crate) struct LookedForHand {
    pub(crate) prepared: Vec<ForHand>,
    /// Branches that the decision names here and that are not prepared any more.
    pub(crate) absent: Vec<(Xid, BranchRecord)>,
}

/// How an attempt to end a branch by hand came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndedByHand {
    /// The server has confirmed it, and does not list the branch any more.
    AsTold,
    /// It ended in another way before. Says how, as far as that can be told.
    Otherwise(String),
    /// It is gone, and nobody can prove who ended it: recorded as a hazard where it matters.
    Unproven(String),
    /// It is still prepared. Says why.
    Still(String),
}

/// Looks for the branches of one transaction at one resource.
///
/// # Errors
/// The resource or the log could not be asked: says which.
pub(crate) async fn look_for_hand(
    inner: &Inner,
    resource: &dyn AnyResource,
    gtrid: Gtrid,
    wanted: Decision,
) -> Result<LookedForHand, String> {
    let unseen = |error: &dyn std::fmt::Display| error.to_string();
    let log_unseen = |error: LogError| format!("the log cannot be read: {error}");
    let p = scan(inner, resource).await.map_err(|e| unseen(&e))?;
    let p = ours(p, &mut Vec::new()).into_iter();
    // Two resources on one server list each other's.
    let is_here = |xid: &Xid| {
        xid.gtrid == gtrid
            && (xid.bqual == *resource.name() || !inner.resources.contains_key(&xid.bqual))
    };
    let p: Vec<Xid> = p.filter(is_here).collect();
    let is_active = inner.active.contains(gtrid);
    let t = ask_log(inner, Recorded::read(inner)).await;
    let t = t.map_err(log_unseen)?;
    let q = scan(inner, resource).await.map_err(|e| unseen(&e))?;
    let q: HashSet<Xid> = ours(q, &mut Vec::new()).into_iter().collect();
    let mut looked = LookedForHand::default();
    for xid in p {
        let view = EpochView::of(&xid, t.own, |opening| t.openings.get(opening).copied());
        let found = look_up(inner, &xid, view, &t).await;
        let (view, is_decided) = found.map_err(log_unseen)?;
        let planned = plan(view, || is_active, || is_decided, || q.contains(&xid));
        let is_known = matches!(view, EpochView::OwnOpen | EpochView::Closed);
        looked.prepared.push(ForHand {
            case: ByHandCase::of(planned, wanted),
            is_decided: is_known.then_some(is_decided),
            record: t.branch(&xid).cloned(),
            xid,
        });
    }
    let of_resource = |branch: &&BranchRecord| branch.resource == *resource.name();
    let named = t.branches(gtrid).iter().filter(of_resource);
    let named = named.map(|branch| (branch.xid(gtrid), branch.clone()));
    looked.absent = named.filter(|(xid, _)| !q.contains(xid)).collect();
    Ok(looked)
}

/// Ends the branch, and records who did, before. Every word that it may be done has been given.
///
/// # Errors
/// Nothing was done: another task is ending the branch, or the log did not take the record.
pub(crate) async fn end_by_hand(
    inner: &Inner,
    resource: &dyn AnyResource,
    branch: &ForHand,
    by_hand: &ByHand,
) -> Result<EndedByHand, String> {
    let (xid, Some(decision)) = (&branch.xid, by_hand.ended()) else {
        return Err("there is nothing to be done".to_owned());
    };
    let Some(_claim) = inner.recovery.claim(xid) else {
        return Err("recovery is ending it just now: look again".to_owned());
    };
    // Under the claim: since it was shown somebody here may have ended it, and what is gone before
    // anything was recorded is not to be anybody's doing.
    let listed = scan(inner, resource).await;
    let listed = listed.map_err(|error| format!("nothing was done: {error}"))?;
    if !ours(listed, &mut Vec::new()).contains(xid) {
        let words = "it was not prepared any more when it was its turn";
        return Ok(EndedByHand::Otherwise(words.to_owned()));
    }
    let recording = ask_log(inner, inner.log.record_by_hand(by_hand)).await;
    recording.map_err(|error| format!("nothing was done, for it cannot be recorded: {error}"))?;
    let finishing = resource.finish(xid, decision, branch.record.as_ref());
    let finished = bounded(inner.config.recovery_timeout, finishing).await;
    let (heard, words) = match finished {
        Ok(Ok(())) => (Heard::Done, "the server has confirmed it".to_owned()),
        Ok(Err(error)) => (Heard::of(error.kind(), decision), error.to_string()),
        Err(silence) => (Heard::Nothing, silence.to_string()),
    };
    // Seen in the database itself, whatever was answered.
    let listed = scan(inner, resource).await;
    let listed = listed.map(|listed| ours(listed, &mut Vec::new()).contains(xid));
    let ended = match (listed, heard) {
        (Ok(true), _) => EndedByHand::Still(words),
        (Ok(false) | Err(_), Heard::Done) => EndedByHand::AsTold,
        (Ok(false), Heard::NotDone) | (Ok(false) | Err(_), Heard::RolledBack) => {
            EndedByHand::Otherwise(words)
        }
        (Ok(false), Heard::Nothing) => EndedByHand::Unproven(words),
        (Err(error), Heard::NotDone | Heard::Nothing) => EndedByHand::Still(format!(
            "{words}; and it cannot be seen whether it is still prepared: {error}"
        )),
    };
    if heard == Heard::NotDone && matches!(ended, EndedByHand::Still(_)) {
        mark(inner, by_hand, HandState::Void).await;
    } else {
        note_end(inner, branch, by_hand, (&ended, heard)).await;
    }
    Ok(ended)
}

/// What the server's answer says of who has ended the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Done,
    /// It was to be committed, and the server has rolled it back instead.
    RolledBack,
    /// This command has not ended it.
    NotDone,
    /// It may have, now or later.
    Nothing,
}

impl Heard {
    const fn of(kind: BranchErrorKind, decision: Decision) -> Self {
        match (kind, decision) {
            (BranchErrorKind::RolledBack(_), Decision::Rollback) => Self::Done,
            (BranchErrorKind::RolledBack(_), Decision::Commit) => Self::RolledBack,
            (
                BranchErrorKind::UnknownXid
                | BranchErrorKind::WrongState
                | BranchErrorKind::Unavailable
                | BranchErrorKind::Failed,
                _,
            ) => Self::NotDone,
            (BranchErrorKind::DuplicateXid | BranchErrorKind::Undetermined | _, _) => Self::Nothing,
        }
    }
}

/// After the end: first the heuristic end, then the record's new state. What the log does not take
/// now is found by [`settle`].
async fn note_end(
    inner: &Inner,
    branch: &ForHand,
    by_hand: &ByHand,
    (ended, heard): (&EndedByHand, Heard),
) {
    let xid = &branch.xid;
    let is_unproven = matches!(ended, EndedByHand::Unproven(_));
    if is_unproven && branch.record.is_some() {
        // Perhaps the database can prove it: a pass asks, and finds the record as it is.
        inner.recovery.wake.resource(&xid.bqual);
        return;
    }
    let end = match (ended, branch.case) {
        (EndedByHand::AsTold, ByHandCase::Against(end)) => Some(end),
        (EndedByHand::Unproven(_), ByHandCase::Against(_)) => Some(Heuristic::Hazard),
        (EndedByHand::Otherwise(_), ByHandCase::AsRecovery) if heard == Heard::RolledBack => {
            Some(Heuristic::Rollback)
        }
        (
            EndedByHand::AsTold
            | EndedByHand::Unproven(_)
            | EndedByHand::Otherwise(_)
            | EndedByHand::Still(_),
            _,
        ) => None,
    };
    if let Some(end) = end {
        let recovery = &inner.recovery;
        let recorded = recovery.record_heuristic(inner, xid.gtrid, &xid.bqual, end);
        if !recorded.await {
            return;
        }
    }
    let is_over = matches!(ended, EndedByHand::AsTold);
    if (is_over || end.is_some()) && branch.is_decided == Some(true) {
        let names = std::iter::once(xid.bqual.clone());
        inner.recovery.note_resolved(xid.gtrid, names);
        if let Ok(pending) = ask_log(inner, inner.log.pending()).await
            && let Some(decision) = pending.iter().find(|d| d.gtrid == xid.gtrid)
        {
            inner.recovery.complete_if_resolved(inner, decision);
        }
    }
    let state = match ended {
        EndedByHand::AsTold => HandState::Done,
        EndedByHand::Otherwise(_) => HandState::Void,
        EndedByHand::Unproven(_) => HandState::Unproven,
        EndedByHand::Still(_) => return,
    };
    mark(inner, by_hand, state).await;
}
