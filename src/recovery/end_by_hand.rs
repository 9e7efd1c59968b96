//! A person ends the branches of a transaction by hand: steps 1 to 4 of `by_hand`.
//!
//! People do not know of each other. So that two of them never end one transaction in two ways:
//! every branch is claimed before anything is recorded, every record is made before anything is
//! done, and whoever then finds another's record of the other direction gives way. If both do, both
//! look again.

use std::collections::HashSet;

use futures_util::future::join_all;
use unanimous_core::ports::{
    BranchErrorKind, BranchRecord, ByHand, HandState, LogError, OpeningState,
};
use unanimous_core::protocol::{ByHandCase, Decision, EpochView, Heuristic, plan};
use unanimous_core::xid::{Gtrid, Xid};

use super::by_hand::{mark, stand_against};
use super::pass::{Recorded, ask_log, ours, scan};
use super::recorded::look_up;
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
    pub(crate) absent: Vec<(Xid, Absent)>,
}

/// What is known of a branch that is not prepared any more. The server is not asked for a proof:
/// that ends the connection on which the branch was prepared, which may serve others by now (I5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It has ended.
    Ended,
    /// It is its owner's business, or was until just now.
    Owners,
    /// A recovery pass proves how.
    Unproven,
}

/// One branch that is to be ended.
pub(crate) struct HandEnd<'a> {
    pub(crate) resource: &'a dyn AnyResource,
    pub(crate) branch: &'a ForHand,
    /// What is recorded before.
    pub(crate) by_hand: ByHand,
}

/// How an attempt to end a branch by hand came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndedByHand {
    /// The server has confirmed it, and does not list the branch any more.
    AsTold,
    /// The server has confirmed it, and could not be looked at afterwards. Says why.
    Unseen(String),
    /// It ended in another way before. Says how, as far as that can be told.
    Otherwise(String),
    /// It is gone, and nobody has heard who ended it: recorded as a hazard where it matters.
    Unproven(String),
    /// It is still prepared. Says why.
    Still(String),
    /// It was not touched, because one before it did not end as told.
    Left,
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
        let found = look_up(inner, &xid, &t).await;
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
    let absent = named.map(|branch| branch.xid(gtrid));
    let absent: Vec<Xid> = absent.filter(|xid| !q.contains(xid)).collect();
    if !absent.is_empty() {
        let unproven = t.named(inner, resource).await.map_err(log_unseen)?;
        let is_unproven = |xid: &Xid| unproven.iter().any(|(named, _)| named == xid);
        let known = |xid: &Xid| match inner.recovery.is_resolved(gtrid, &xid.bqual) {
            true => Absent::Ended,
            false if is_unproven(xid) => Absent::Unproven,
            false => Absent::Owners,
        };
        let absent = absent.into_iter().map(|xid| (known(&xid), xid));
        looked.absent = absent.map(|(known, xid)| (xid, known)).collect();
    }
    Ok(looked)
}

/// Ends these branches of one transaction, one after the other, until one does not end as told; and
/// records who did, before. Every word that it may be done has been given, also against the others'
/// records in `excused`.
///
/// # Errors
/// Nothing was done: somebody else is ending one of them, or means the opposite, or the log did not
/// take the records.
pub(crate) async fn end_by_hand(
    inner: &Inner,
    ends: &[HandEnd<'_>],
    excused: &[u64],
) -> Result<Vec<EndedByHand>, String> {
    let mut claims = Vec::new();
    for HandEnd { branch, .. } in ends {
        let xid = &branch.xid;
        let claim = inner.recovery.claim(xid);
        claims.push(claim.ok_or_else(|| format!("{xid} is being ended just now: look again"))?);
    }
    still_prepared(inner, ends).await?;
    for (count, HandEnd { by_hand, .. }) in ends.iter().enumerate() {
        let recording = ask_log(inner, inner.log.record_by_hand(by_hand)).await;
        if let Err(error) = recording {
            void(inner, &ends[..count]).await;
            return Err(format!("it cannot be recorded: {error}"));
        }
    }
    if let Err(refusal) = gives_way(inner, ends, excused).await {
        void(inner, ends).await;
        return Err(refusal);
    }
    let mut ended = Vec::with_capacity(ends.len());
    for end in ends {
        if ended.iter().all(|ended| *ended == EndedByHand::AsTold) {
            ended.push(end_one(inner, end).await);
        } else {
            void(inner, std::slice::from_ref(end)).await;
            ended.push(EndedByHand::Left);
        }
    }
    drop(claims);
    Ok(ended)
}

/// Under the claims: since it was shown somebody here may have ended one of them, and what is gone
/// before anything was recorded is not to be anybody's doing.
async fn still_prepared(inner: &Inner, ends: &[HandEnd<'_>]) -> Result<(), String> {
    let looks = ends.iter().map(|end| async move {
        let xid = &end.branch.xid;
        let listed = scan(inner, end.resource).await.map_err(|e| e.to_string())?;
        if ours(listed, &mut Vec::new()).contains(xid) {
            Ok(())
        } else {
            Err(format!("{xid} is not prepared any more: look again"))
        }
    });
    join_all(looks).await.into_iter().collect()
}

/// They were meant, and are not done.
async fn void(inner: &Inner, ends: &[HandEnd<'_>]) {
    for HandEnd { by_hand, .. } in ends {
        mark(inner, by_hand, HandState::Void).await;
    }
}

/// Once everything is recorded: whether somebody else is on record by now who means the opposite,
/// or is about to do it.
async fn gives_way(inner: &Inner, ends: &[HandEnd<'_>], excused: &[u64]) -> Result<(), String> {
    let reading = async {
        let hands = inner.log.by_hand().await?;
        Ok::<_, LogError>((hands, inner.log.openings().await?))
    };
    let read = ask_log(inner, reading).await;
    let (hands, openings) = read.map_err(|error| format!("the log cannot be read: {error}"))?;
    for HandEnd { by_hand, .. } in ends {
        let Some(wanted) = by_hand.ended() else {
            return Err("there is nothing to be done".to_owned());
        };
        for other in stand_against(&hands, by_hand.gtrid, wanted) {
            if !excused.contains(&other.id) || is_under_way(inner, ends, &openings, other) {
                let (name, who) = (&other.resource, &other.who);
                return Err(format!(
                    "{name}: {who} means the opposite at the same time: look again"
                ));
            }
        }
    }
    Ok(())
}

/// Whether whoever has made this record may act on it yet.
fn is_under_way(
    inner: &Inner,
    ends: &[HandEnd<'_>],
    openings: &[OpeningState],
    other: &ByHand,
) -> bool {
    if other.state != HandState::Intended {
        return false;
    }
    let xid = Xid {
        gtrid: other.gtrid,
        bqual: other.resource.clone(),
    };
    let is_mine = ends.iter().any(|end| end.branch.xid == xid);
    let is_open = |listed: &OpeningState| listed.opening == other.by && !listed.closed;
    let is_others = other.by != inner.log.opening() && openings.iter().any(is_open);
    is_others || (!is_mine && inner.recovery.claim(&xid).is_none())
}

/// Under its claim, and recorded.
async fn end_one(inner: &Inner, end: &HandEnd<'_>) -> EndedByHand {
    let HandEnd {
        resource,
        branch,
        by_hand,
    } = end;
    let (xid, Some(decision)) = (&branch.xid, by_hand.ended()) else {
        return EndedByHand::Left;
    };
    let finishing = resource.finish(xid, decision, branch.record.as_ref());
    let finished = bounded(inner.config.recovery_timeout, finishing).await;
    let (heard, words) = match finished {
        Ok(Ok(())) => (Heard::Done, "the server has confirmed it".to_owned()),
        Ok(Err(error)) => (Heard::of(error.kind(), decision), error.to_string()),
        Err(silence) => (Heard::Nothing, silence.to_string()),
    };
    // Seen in the database itself, whatever was answered.
    let listed = scan(inner, *resource).await;
    let listed = listed.map(|listed| ours(listed, &mut Vec::new()).contains(xid));
    let ended = match (listed, heard) {
        (Ok(true), _) => EndedByHand::Still(words),
        (Ok(false), Heard::Done) => EndedByHand::AsTold,
        (Err(error), Heard::Done) => EndedByHand::Unseen(error.to_string()),
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
    ended
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
        (EndedByHand::AsTold | EndedByHand::Unseen(_), ByHandCase::Against(end)) => Some(end),
        (EndedByHand::Unproven(_), ByHandCase::Against(_)) => Some(Heuristic::Hazard),
        (EndedByHand::Otherwise(_), ByHandCase::AsRecovery) if heard == Heard::RolledBack => {
            Some(Heuristic::Rollback)
        }
        (
            EndedByHand::AsTold
            | EndedByHand::Unseen(_)
            | EndedByHand::Unproven(_)
            | EndedByHand::Otherwise(_)
            | EndedByHand::Still(_)
            | EndedByHand::Left,
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
    let is_over = matches!(ended, EndedByHand::AsTold | EndedByHand::Unseen(_));
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
        EndedByHand::AsTold | EndedByHand::Unseen(_) => HandState::Done,
        EndedByHand::Otherwise(_) => HandState::Void,
        EndedByHand::Unproven(_) => HandState::Unproven,
        EndedByHand::Still(_) | EndedByHand::Left => return,
    };
    mark(inner, by_hand, state).await;
}
