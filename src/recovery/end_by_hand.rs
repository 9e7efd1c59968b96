//! A person ends the branches of a transaction by hand: steps 2 to 4 of `by_hand`.
//!
//! People do not know of each other. So that two of them never end one transaction in two ways:
//! every branch is claimed before anything is recorded, every record is made before anything is
//! done, and whoever then finds another's record of the other direction gives way. If both do, both
//! look again.
//!
//! Who has recorded something under an epoch that is closed seems to be gone, and may only be slow.
//! Whoever goes on against such a record makes it void first, and whoever acts looks, just before
//! each command, whether the own record still holds. What is left is the time of that one command:
//! somebody who is held up in it for so long that the epoch is closed meanwhile.

use futures_util::future::join_all;
use unanimous_core::ports::{BranchErrorKind, ByHand, HandState, LogError, OpeningState};
use unanimous_core::protocol::{ByHandCase, Decision, Heuristic};
use unanimous_core::xid::{Gtrid, Xid};

use super::SHUTTING_DOWN;
use super::by_hand::{hands_of, mark, stand_against};
use super::look_for_hand::ForHand;
use super::pass::{ask_log, ours, scan};
use crate::bounded::bounded;
use crate::manager::{AnyResource, Inner};

/// One branch that is to be ended.
pub(crate) struct HandEnd<'a> {
    pub(crate) resource: &'a dyn AnyResource,
    pub(crate) branch: &'a ForHand,
    /// What is recorded before.
    pub(crate) by_hand: ByHand,
}

/// How an attempt to end a branch by hand came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HandEnded {
    pub(crate) ended: EndedByHand,
    /// What of it the log has not taken.
    pub(crate) unrecorded: Option<&'static str>,
}

/// What is known of the branch then.
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
    /// It was still prepared when it was looked at; the command, to which there was no answer, may
    /// take effect yet. Says why.
    Late(String),
    /// This has not ended it, and it cannot be seen whether anybody has. Says why.
    NotByThis(String),
    /// There was no answer, and it could not be looked at. Says why.
    Unknown(String),
    /// It was not touched: the record does not hold any more, or nobody can tell. Says why.
    TakenBack(String),
    /// It was not touched, because one before it did not end as told.
    Left,
}

/// Ends these branches of one transaction in this way, one after the other, until one does not end
/// as told; and records who did, before. Every word that it may be done has been given, also
/// against the others' records in `excused`.
///
/// # Errors
/// Nothing was done: somebody else is ending one of them, or means the opposite, or the log did not
/// take the records.
pub(crate) async fn end_by_hand(
    inner: &Inner,
    wanted: Decision,
    ends: &[HandEnd<'_>],
    excused: &[u64],
) -> Result<Vec<HandEnded>, String> {
    let Some(_act) = inner.recovery.act() else {
        return Err(SHUTTING_DOWN.to_owned());
    };
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
            return Err(unrecorded(&error));
        }
    }
    if let Err(refusal) = gives_way(inner, wanted, ends, excused).await {
        void(inner, ends).await;
        return Err(refusal);
    }
    let mut ended: Vec<HandEnded> = Vec::with_capacity(ends.len());
    for end in ends {
        let one = if ended.iter().all(|one| one.ended == EndedByHand::AsTold) {
            end_one(inner, wanted, end).await
        } else {
            void(inner, std::slice::from_ref(end)).await;
            EndedByHand::Left.on_record()
        };
        ended.push(one);
    }
    drop(claims);
    Ok(ended)
}

impl EndedByHand {
    const fn on_record(self) -> HandEnded {
        HandEnded {
            ended: self,
            unrecorded: None,
        }
    }
}

fn unread(error: LogError) -> String {
    format!("the log cannot be read: {error}")
}

fn unrecorded(error: &LogError) -> String {
    format!("it cannot be recorded: {error}")
}

/// Under the claims: since it was shown somebody here may have ended one of them, and what is gone
/// before anything was recorded is not to be anybody's doing.
async fn still_prepared(inner: &Inner, ends: &[HandEnd<'_>]) -> Result<(), String> {
    let looks = ends.iter().map(|end| async move {
        let xid = &end.branch.xid;
        if is_listed(inner, end.resource, xid).await? {
            Ok(())
        } else {
            Err(format!("{xid} is not prepared any more: look again"))
        }
    });
    join_all(looks).await.into_iter().collect()
}

async fn is_listed(inner: &Inner, resource: &dyn AnyResource, xid: &Xid) -> Result<bool, String> {
    let listed = scan(inner, resource).await.map_err(|e| e.to_string())?;
    Ok(ours(listed, &mut Vec::new()).contains(xid))
}

/// They were meant, and are not done.
async fn void(inner: &Inner, ends: &[HandEnd<'_>]) {
    for HandEnd { by_hand, .. } in ends {
        mark(inner, by_hand, HandState::Void).await;
    }
}

/// Once everything is recorded: whether somebody else is on record by now who means the opposite,
/// or is about to do it.
async fn gives_way(
    inner: &Inner,
    wanted: Decision,
    ends: &[HandEnd<'_>],
    excused: &[u64],
) -> Result<(), String> {
    let Some(HandEnd { branch, .. }) = ends.first() else {
        return Ok(());
    };
    let gtrid = branch.xid.gtrid;
    let reading = async {
        let hands = hands_of(inner, gtrid).await?;
        Ok::<_, LogError>((hands, inner.log.openings().await?))
    };
    let (hands, openings) = ask_log(inner, reading).await.map_err(unread)?;
    let opposite: Vec<_> = stand_against(&hands, gtrid, wanted).collect();
    for other in &opposite {
        if !excused.contains(&other.id) || is_under_way(inner, ends, &openings, other) {
            let (name, who) = (&other.resource, &other.who);
            return Err(format!(
                "{name}: {who} means the opposite at the same time: look again"
            ));
        }
    }
    let intended = opposite.into_iter();
    let intended = intended.filter(|other| other.state == HandState::Intended);
    take_back(inner, ends, intended.collect()).await
}

fn branch_of(by_hand: &ByHand) -> Xid {
    Xid {
        gtrid: by_hand.gtrid,
        bqual: by_hand.resource.clone(),
    }
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
    let xid = branch_of(other);
    let is_mine = ends.iter().any(|end| end.branch.xid == xid);
    let is_open = |listed: &OpeningState| listed.opening == other.by && !listed.closed;
    let is_others = other.by != inner.log.opening() && openings.iter().any(is_open);
    is_others || (!is_mine && inner.recovery.claim(&xid).is_none())
}

/// Makes records void of which nobody knows whether anybody acts on them yet. Not where the branch
/// is gone: nothing can be done with it any more, and perhaps that was done.
async fn take_back(
    inner: &Inner,
    ends: &[HandEnd<'_>],
    intended: Vec<&ByHand>,
) -> Result<(), String> {
    let mut void = Vec::new();
    for other in intended {
        let (xid, name) = (branch_of(other), &other.resource);
        let is_mine = ends.iter().any(|end| end.branch.xid == xid);
        let is_prepared = is_mine
            || match inner.resources.get(name) {
                Some(resource) => is_listed(inner, &**resource, &xid).await?,
                None => {
                    let who = &other.who;
                    return Err(format!(
                        "{name} is not registered here, and {who} may be about to do the opposite \
                         there: use a config file that has it"
                    ));
                }
            };
        if is_prepared {
            let taken_back = ByHand {
                state: HandState::Void,
                ..other.clone()
            };
            let recording = ask_log(inner, inner.log.record_by_hand(&taken_back)).await;
            recording.map_err(|error| unrecorded(&error))?;
            void.push(other);
        }
    }
    let Some(gtrid) = void.first().map(|other| other.gtrid) else {
        return Ok(());
    };
    let hands = ask_log(inner, hands_of(inner, gtrid))
        .await
        .map_err(unread)?;
    let is_void = |other: &ByHand| state_of(&hands, other) == Some(HandState::Void);
    match void.into_iter().find(|other| !is_void(other)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "{}: {} has done the opposite meanwhile: look again",
            other.resource, other.who
        )),
    }
}

fn state_of(hands: &[ByHand], by_hand: &ByHand) -> Option<HandState> {
    let found = hands.iter().find(|hand| hand.id == by_hand.id);
    found.map(|found| found.state)
}

/// Just before something is done: the record holds, and that was no old picture of it, for it was
/// written once more; and the manager lives.
async fn still_holds(inner: &Inner, by_hand: &ByHand) -> Result<(), String> {
    let recording = ask_log(inner, inner.log.record_by_hand(by_hand)).await;
    recording.map_err(|error| unrecorded(&error))?;
    let hands = ask_log(inner, hands_of(inner, by_hand.gtrid))
        .await
        .map_err(unread)?;
    if state_of(&hands, by_hand) != Some(HandState::Intended) {
        return Err(
            "this took so long that somebody has taken its record back, to do the opposite: look \
             again"
                .to_owned(),
        );
    }
    if inner.recovery.acts.are_over() {
        return Err("the application has been shut down meanwhile".to_owned());
    }
    Ok(())
}

/// Under its claim, and recorded.
async fn end_one(inner: &Inner, wanted: Decision, end: &HandEnd<'_>) -> HandEnded {
    let HandEnd {
        resource,
        branch,
        by_hand,
    } = end;
    let xid = &branch.xid;
    if let Err(why) = still_holds(inner, by_hand).await {
        mark(inner, by_hand, HandState::Void).await;
        return EndedByHand::TakenBack(why).on_record();
    }
    inner.recovery.gone.forget(xid);
    let finishing = resource.finish(xid, wanted, branch.record.as_ref());
    let finished = bounded(inner.config.recovery_timeout, finishing).await;
    let (heard, words) = match finished {
        Ok(Ok(())) => (Heard::Done, "the server has confirmed it".to_owned()),
        Ok(Err(error)) => (Heard::of(error.kind(), wanted), error.to_string()),
        Err(silence) => (Heard::Nothing, silence.to_string()),
    };
    // Seen in the database itself, whatever was answered.
    let listed = is_listed(inner, *resource, xid).await;
    let unseen = |error: &str| {
        format!("{words}; and it cannot be seen whether it is still prepared: {error}")
    };
    let ended = match (listed, heard) {
        (Ok(true), Heard::Nothing) => EndedByHand::Late(words),
        (Ok(true), Heard::Done | Heard::RolledBack | Heard::NotDone) => EndedByHand::Still(words),
        (Ok(false), Heard::Done) => EndedByHand::AsTold,
        (Err(error), Heard::Done) => EndedByHand::Unseen(error),
        (Ok(false), Heard::NotDone) | (Ok(false) | Err(_), Heard::RolledBack) => {
            EndedByHand::Otherwise(words)
        }
        (Ok(false), Heard::Nothing) => EndedByHand::Unproven(words),
        (Err(error), Heard::NotDone) => EndedByHand::NotByThis(unseen(&error)),
        (Err(error), Heard::Nothing) => EndedByHand::Unknown(unseen(&error)),
    };
    let is_left = matches!(ended, EndedByHand::Still(_) | EndedByHand::NotByThis(_));
    let unrecorded = if heard == Heard::NotDone && is_left {
        mark(inner, by_hand, HandState::Void).await;
        None
    } else {
        note_end(inner, branch, by_hand, (&ended, heard)).await
    };
    HandEnded { ended, unrecorded }
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

/// After the end: first the heuristic end, then the record's new state. Answers what the log does
/// not take now, and [`settle`](super::by_hand::settle) finds, as far as it can be found.
async fn note_end(
    inner: &Inner,
    branch: &ForHand,
    by_hand: &ByHand,
    (ended, heard): (&EndedByHand, Heard),
) -> Option<&'static str> {
    let xid = &branch.xid;
    let is_unproven = matches!(ended, EndedByHand::Unproven(_));
    if is_unproven && branch.record.is_some() {
        // Perhaps the database can prove it: a pass asks, and finds the record as it is.
        inner.recovery.wake.resource(&xid.bqual);
        return None;
    }
    let end = heuristic_end(branch.case, ended, heard);
    if let Some(end) = end {
        let recovery = &inner.recovery;
        let recorded = recovery.record_heuristic(inner, xid.gtrid, &xid.bqual, end);
        if !recorded.await {
            return Some("that it was, or may be, against the decision");
        }
    }
    let state = match ended {
        EndedByHand::AsTold | EndedByHand::Unseen(_) => HandState::Done,
        EndedByHand::Otherwise(_) => HandState::Void,
        EndedByHand::Unproven(_) => HandState::Unproven,
        EndedByHand::Still(_)
        | EndedByHand::Late(_)
        | EndedByHand::NotByThis(_)
        | EndedByHand::Unknown(_)
        | EndedByHand::TakenBack(_)
        | EndedByHand::Left => return None,
    };
    if (state == HandState::Done || end.is_some()) && branch.is_decided == Some(true) {
        let names = std::iter::once(xid.bqual.clone());
        inner.recovery.note_resolved(xid.gtrid, names);
        complete_pending(inner, xid.gtrid).await;
    }
    let is_marked = mark(inner, by_hand, state).await;
    (!is_marked).then_some("what became of it")
}

/// What is to be recorded of it, if it ended otherwise than was decided, or may have.
const fn heuristic_end(case: ByHandCase, ended: &EndedByHand, heard: Heard) -> Option<Heuristic> {
    match (ended, case) {
        (EndedByHand::AsTold | EndedByHand::Unseen(_), ByHandCase::Against(end)) => Some(end),
        (EndedByHand::Unproven(_), ByHandCase::Against(_)) => Some(Heuristic::Hazard),
        (EndedByHand::Otherwise(_), ByHandCase::AsRecovery)
            if matches!(heard, Heard::RolledBack) =>
        {
            Some(Heuristic::Rollback)
        }
        (
            EndedByHand::AsTold
            | EndedByHand::Unseen(_)
            | EndedByHand::Unproven(_)
            | EndedByHand::Otherwise(_)
            | EndedByHand::Still(_)
            | EndedByHand::Late(_)
            | EndedByHand::NotByThis(_)
            | EndedByHand::Unknown(_)
            | EndedByHand::TakenBack(_)
            | EndedByHand::Left,
            _,
        ) => None,
    }
}

/// Completes the decision if it is pending, and each of its branches is known to have ended.
pub(super) async fn complete_pending(inner: &Inner, gtrid: Gtrid) -> bool {
    let Ok(pending) = ask_log(inner, inner.log.pending()).await else {
        return false;
    };
    let found = pending.iter().find(|decision| decision.gtrid == gtrid);
    if let Some(decision) = found {
        inner.recovery.complete_if_resolved(inner, decision);
    }
    found.is_some()
}
