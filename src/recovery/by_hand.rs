//! What people do with branches (`unanimous resolve`), and what is left of it when they, or their
//! tool, are gone.
//!
//! 1. The branch is looked at by the four observations of a pass (see `pass`), and what it would
//!    mean to end it is told: [`ByHandCase`].
//! 2. What is about to be done is recorded, durably. Alone it changes no branch: if nothing
//!    follows, recovery goes on by the decision.
//! 3. The branch is ended, under the same claim by which passes keep out of each other's way.
//! 4. If that was against the decision, the heuristic end is recorded; then the record of 2 is
//!    done.
//!
//! Whoever dies between 2 and 4 leaves a record that is still open. A pass that ends the branch
//! itself closes it. Where the branch is gone and nobody can prove how it ended, it is a hazard
//! (I3): see [`settle`], and `prove_absent` for a decision to commit.

use std::collections::HashSet;

use tracing::{error, warn};
use unanimous_core::ports::{BranchErrorKind, BranchRecord, ByHand, HandState, LogError, Lookup};
use unanimous_core::protocol::{ByHandCase, Decision, EpochView, Heuristic, plan};
use unanimous_core::xid::{Gtrid, Xid};

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

/// The record takes its new state, or is found by [`settle`] later.
async fn mark(inner: &Inner, by_hand: &ByHand, state: HandState) {
    let marked = ByHand {
        state,
        ..by_hand.clone()
    };
    if let Err(error) = ask_log(inner, inner.log.record_by_hand(&marked)).await {
        let gtrid = by_hand.gtrid;
        warn!(target: "unanimous", %gtrid, %error,
            "what became of a branch that was to be ended by hand is recorded later");
    }
}

/// A pass has ended the branch itself: what a person had meant to do, and has not done, is over.
pub(super) async fn close_records(inner: &Inner, hands: &[ByHand], xid: &Xid, decision: Decision) {
    for by_hand in of_branch(hands, xid).filter(|hand| hand.state.is_open()) {
        let state = if by_hand.ended() == Some(decision) {
            HandState::Done
        } else {
            HandState::Void
        };
        mark(inner, by_hand, state).await;
    }
}

/// Of a branch that was to be committed and is gone without proof: how it ended, if people are on
/// record who meant to roll it back, and nobody who has committed it.
pub(super) fn rolled_back_by_hand(hands: &[ByHand], xid: &Xid) -> Option<(Heuristic, String)> {
    let mut hazard = None;
    for hand in of_branch(hands, xid) {
        let (who, reason) = (&hand.who, &hand.reason);
        match (hand.ended(), hand.state) {
            (Some(Decision::Commit), HandState::Done) => return None,
            (Some(Decision::Rollback), HandState::Done) => {
                let words = format!("it was rolled back by {who}: {reason}");
                return Some((Heuristic::Rollback, words));
            }
            (Some(Decision::Rollback), HandState::Intended | HandState::Unproven) => {
                let words = format!(
                    "it is gone, and nobody can prove whether {who} has rolled it back as was \
                     intended: {reason}"
                );
                hazard = Some((Heuristic::Hazard, words));
            }
            (
                None | Some(Decision::Commit | Decision::Rollback),
                HandState::Intended | HandState::Unproven | HandState::Done | HandState::Void,
            ) => {}
        }
    }
    hazard
}

fn of_branch<'h>(hands: &'h [ByHand], xid: &'h Xid) -> impl Iterator<Item = &'h ByHand> {
    let is_of = |hand: &&ByHand| hand.gtrid == xid.gtrid && hand.resource == xid.bqual;
    hands.iter().filter(is_of)
}

/// Finds out what became of records whose owners are gone. After a pass over all resources, which
/// ends what is still prepared by the decision.
pub(crate) async fn settle(inner: &Inner) {
    let hands = match ask_log(inner, inner.log.by_hand()).await {
        Ok(hands) => hands,
        Err(error) => {
            warn!(target: "unanimous", %error, "what people did cannot be read");
            return;
        }
    };
    let is_open = |hand: &&ByHand| hand.state == HandState::Intended && hand.ended().is_some();
    for by_hand in hands.iter().filter(is_open) {
        if let Err(why) = settle_one(inner, by_hand, &hands).await {
            let gtrid = by_hand.gtrid;
            warn!(target: "unanimous", %gtrid, %why, "what a person did is looked at again later");
        }
    }
}

async fn settle_one(inner: &Inner, by_hand: &ByHand, hands: &[ByHand]) -> Result<(), String> {
    let Some(resource) = inner.resources.get(&by_hand.resource) else {
        return Ok(());
    };
    let xid = Xid {
        gtrid: by_hand.gtrid,
        bqual: by_hand.resource.clone(),
    };
    let unread = |error: LogError| error.to_string();
    let own = inner.log.opening();
    let openings = ask_log(inner, inner.log.openings()).await;
    let mut openings = openings.map_err(unread)?.into_iter();
    let is_its = |listed: &unanimous_core::ports::OpeningState| listed.opening == by_hand.by;
    if by_hand.by != own && openings.find(is_its).is_some_and(|listed| !listed.closed) {
        // Another member's, who may be about to act.
        return Ok(());
    }
    let Some(_claim) = inner.recovery.claim(&xid) else {
        return Ok(());
    };
    let listed = scan(inner, &**resource).await;
    let listed = listed.map_err(|error| error.to_string())?;
    if ours(listed, &mut Vec::new()).contains(&xid) || inner.active.contains(xid.gtrid) {
        return Ok(());
    }
    let found = ask_log(inner, inner.log.lookup(xid.gtrid)).await;
    let state = what_became(inner, by_hand, hands, found.map_err(unread)?).await;
    if let Some(state) = state {
        mark(inner, by_hand, state).await;
    }
    Ok(())
}

/// Of a branch that is gone. `None`: not known yet.
async fn what_became(
    inner: &Inner,
    by_hand: &ByHand,
    hands: &[ByHand],
    found: Lookup,
) -> Option<HandState> {
    let (ends, beside) = found.apart();
    let mut ends = ends.into_iter();
    let end = ends.find(|(name, _)| *name == by_hand.resource);
    let wanted = by_hand.ended()?;
    if let Some((_, end)) = end {
        return Some(match (end, wanted) {
            (Heuristic::Commit, Decision::Commit) | (Heuristic::Rollback, Decision::Rollback) => {
                HandState::Done
            }
            (Heuristic::Commit, Decision::Rollback) | (Heuristic::Rollback, Decision::Commit) => {
                HandState::Void
            }
            (Heuristic::Mixed | Heuristic::Hazard, _) => HandState::Unproven,
        });
    }
    let is_done = |hand: &ByHand| hand.ended().is_some() && hand.state == HandState::Done;
    let is_its = |hand: &ByHand| (hand.gtrid, &hand.resource) == (by_hand.gtrid, &by_hand.resource);
    if hands.iter().any(|hand| is_its(hand) && is_done(hand)) {
        return Some(HandState::Void);
    }
    match (beside, wanted) {
        // A pass proves how it ended.
        (Lookup::Pending(_), _) => None,
        (Lookup::Completed, Decision::Commit) => Some(HandState::Done),
        // A pass would not have completed what it could neither prove nor record.
        (Lookup::Completed | Lookup::NoRecord | Lookup::Open, Decision::Rollback)
            if by_hand.proof.is_some() =>
        {
            Some(HandState::Void)
        }
        (Lookup::NoRecord | Lookup::Open, Decision::Rollback) => Some(HandState::Done),
        (Lookup::Completed, Decision::Rollback)
        | (Lookup::NoRecord | Lookup::Open, Decision::Commit) => hazard(inner, by_hand).await,
        (Lookup::UnknownOpening | Lookup::MayBeLost, _) => Some(HandState::Unproven),
        (Lookup::Heuristic { .. } | _, _) => None,
    }
}

/// It may have been ended as was intended, and that was against the decision.
async fn hazard(inner: &Inner, by_hand: &ByHand) -> Option<HandState> {
    let (gtrid, resource) = (by_hand.gtrid, &by_hand.resource);
    let (who, reason) = (&by_hand.who, &by_hand.reason);
    error!(target: "unanimous", %gtrid, %resource, %who, %reason,
        "a branch is gone, and nobody can prove whether it was ended by hand against the decision, \
         as was intended");
    let recovery = &inner.recovery;
    let recorded = recovery.record_heuristic(inner, gtrid, resource, Heuristic::Hazard);
    recorded.await.then_some(HandState::Unproven)
}
