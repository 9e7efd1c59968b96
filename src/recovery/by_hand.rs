//! What people do with branches (`unanimous resolve`), and what is left of it when they, or their
//! tool, are gone.
//!
//! 1. The branch is looked at by the four observations of a pass (see `pass`), and what it would
//!    mean to end it is told: `ByHandCase`.
//! 2. What is about to be done is recorded, durably. Alone it changes no branch: if nothing
//!    follows, recovery goes on by the decision. What others have recorded is read afterwards, so
//!    that of two people who mean the opposite at most one goes on.
//! 3. The branch is ended, under the same claim by which passes keep out of each other's way.
//! 4. If that was against the decision, the heuristic end is recorded; then the record of 2 is
//!    done.
//!
//! Whoever dies between 2 and 4 leaves a record that is still open. A pass that ends the branch
//! itself closes it. Where the branch is gone and nobody can prove how it ended, it is a hazard
//! (I3): see [`settle`], and `ended_by_whom` for a decision to commit; and for the time that others
//! have to say how it ended, `gone`.

use futures_util::future::join_all;
use tracing::{error, warn};
use unanimous_core::ports::{ByHand, HandState, Lookup, ResourceManager};
use unanimous_core::protocol::{Decision, Heuristic};
use unanimous_core::xid::{Opening, Xid};
#[cfg(feature = "operator")]
use unanimous_core::{
    ports::{Hands, LogError},
    xid::Gtrid,
};

#[cfg(feature = "operator")]
use super::pass::ILLEGIBLE;
use super::pass::{ask_log, ours, scan};
use crate::bounded::bounded;
use crate::manager::Inner;

/// The record takes its new state, or is found by [`settle`] later: whether it has.
pub(super) async fn mark(inner: &Inner, by_hand: &ByHand, state: HandState) -> bool {
    let marked = ByHand {
        state,
        ..by_hand.clone()
    };
    let recorded = ask_log(inner, inner.log.record_by_hand(&marked)).await;
    if let Err(error) = &recorded {
        let gtrid = by_hand.gtrid;
        warn!(target: "unanimous", %gtrid, %error,
            "what became of a branch that was to be ended by hand is recorded later");
    }
    recorded.is_ok()
}

/// A pass has ended the branch itself, so nobody else has: what people had meant to do is over.
pub(super) async fn close_records(inner: &Inner, hands: &[ByHand], xid: &Xid) {
    let open = of_branch(hands, xid).filter(|hand| hand.state.is_open());
    // All at once: other members wait for one answer of the log, see `gone`.
    join_all(open.map(|by_hand| mark(inner, by_hand, HandState::Void))).await;
}

/// What people are on record to have done with a branch that was to be committed, and is gone
/// without proof.
pub(super) enum RolledBack<'h> {
    /// By this one's hand.
    Done(&'h ByHand),
    /// Nobody can prove whether it was by this one's.
    Perhaps(&'h ByHand),
}

/// `None`: nobody is on record who meant to roll it back, or somebody who has committed it.
pub(super) fn rolled_back_by_hand<'h>(hands: &'h [ByHand], xid: &Xid) -> Option<RolledBack<'h>> {
    let mut perhaps = None;
    for hand in of_branch(hands, xid) {
        match (hand.ended(), hand.state) {
            (Some(Decision::Commit), HandState::Done) => return None,
            (Some(Decision::Rollback), HandState::Done) => return Some(RolledBack::Done(hand)),
            (Some(Decision::Rollback), HandState::Intended | HandState::Unproven) => {
                perhaps = Some(RolledBack::Perhaps(hand));
            }
            (
                None | Some(Decision::Commit | Decision::Rollback),
                HandState::Intended | HandState::Unproven | HandState::Done | HandState::Void,
            ) => {}
        }
    }
    perhaps
}

/// Records of people who have done the opposite with a branch of this transaction, or may have, or
/// may be about to.
#[cfg(feature = "operator")]
pub(crate) fn stand_against(
    hands: &[ByHand],
    gtrid: Gtrid,
    wanted: Decision,
) -> impl Iterator<Item = &ByHand> {
    hands.iter().filter(move |hand| {
        let is_opposite = hand.ended().is_some_and(|ended| ended != wanted);
        hand.gtrid == gtrid && is_opposite && hand.state != HandState::Void
    })
}

/// What people did with this transaction, for whoever acts by hand, to whom every record of it
/// matters.
///
/// # Errors
/// The log, or a record of this transaction, cannot be read.
#[cfg(feature = "operator")]
pub(crate) async fn hands_of(inner: &Inner, gtrid: Gtrid) -> Result<Vec<ByHand>, LogError> {
    let Hands {
        mut legible,
        illegible,
    } = inner.log.hands().await?;
    if let Some((_, name)) = illegible.iter().find(|(of, _)| *of == gtrid) {
        return Err(LogError::new(format!("{gtrid} at {name}: {ILLEGIBLE}")));
    }
    legible.retain(|hand| hand.gtrid == gtrid);
    Ok(legible)
}

fn of_branch<'h>(
    hands: impl IntoIterator<Item = &'h ByHand>,
    xid: &Xid,
) -> impl Iterator<Item = &'h ByHand> {
    let is_of = |hand: &&ByHand| hand.gtrid == xid.gtrid && hand.resource == xid.bqual;
    hands.into_iter().filter(is_of)
}

/// Finds out what became of records of branches here whose owners are gone. After a pass, which
/// ends by the decision what is still prepared. What could not be found out is told, and looked at
/// again after the next one.
pub(crate) async fn settle(inner: &Inner, resource: &dyn ResourceManager) -> Vec<String> {
    let noted = inner.recovery.gone.noted();
    let hands = match ask_log(inner, inner.log.hands()).await {
        Ok(hands) => hands.legible,
        Err(error) => return vec![format!("what people did cannot be read: {error}")],
    };
    let is_open = |hand: &&ByHand| {
        hand.resource == *resource.name()
            && hand.state == HandState::Intended
            && hand.ended().is_some()
    };
    inner.recovery.gone.keep(resource.name(), &hands, &noted);
    let mut left = Vec::new();
    for by_hand in hands.iter().filter(is_open) {
        let Err(Unsettled { why, is_mute }) = settle_one(inner, resource, by_hand).await else {
            continue;
        };
        let (gtrid, who, name) = (by_hand.gtrid, &by_hand.who, resource.name());
        left.push(format!(
            "what {who} did with the branch of {gtrid} at {name} is looked at again later: {why}"
        ));
        if is_mute {
            // The others would be waited for as long, each.
            break;
        }
    }
    left
}

/// Why a record could not be settled.
struct Unsettled {
    why: String,
    /// Whoever has not answered answers for the others no better.
    is_mute: bool,
}

fn mute(why: impl ToString) -> Unsettled {
    Unsettled {
        why: why.to_string(),
        is_mute: true,
    }
}

async fn settle_one(
    inner: &Inner,
    resource: &dyn ResourceManager,
    by_hand: &ByHand,
) -> Result<(), Unsettled> {
    let (gtrid, bqual) = (by_hand.gtrid, by_hand.resource.clone());
    let xid = Xid { gtrid, bqual };
    let gone = &inner.recovery.gone;
    let own = inner.log.opening();
    let openings = ask_log(inner, inner.log.openings()).await.map_err(mute)?;
    let others = gone.note_members(inner, own, openings);
    if others.contains(&by_hand.by) {
        // Another member's, who may be about to act.
        return Ok(());
    }
    let Some(_claim) = inner.recovery.claim(&xid) else {
        return Ok(());
    };
    // Once more: nobody here, and not its owner, does anything about it from now on.
    let hands = ask_log(inner, inner.log.hands()).await;
    let hands = hands.map_err(mute)?.legible;
    let is_it = |hand: &ByHand| hand.id == by_hand.id && hand.state == HandState::Intended;
    if !hands.iter().any(is_it) {
        return Ok(());
    }
    let listed = scan(inner, resource).await.map_err(mute)?;
    if ours(listed, &mut Vec::new()).contains(&xid) || inner.active.contains(gtrid) {
        gone.is_back(&xid);
        return Ok(());
    }
    let state = if gone.was_by_decision(&xid) {
        HandState::Void
    } else {
        match how_it_ended(inner, &others, by_hand, &hands).await? {
            Some(state) => state,
            None => return Ok(()),
        }
    };
    if mark(inner, by_hand, state).await {
        Ok(())
    } else {
        Err(mute("what became of it is not recorded yet"))
    }
}

/// Of a branch that is gone, under its claim. `None`: that is found out later.
async fn how_it_ended(
    inner: &Inner,
    others: &[Opening],
    by_hand: &ByHand,
    hands: &[ByHand],
) -> Result<Option<HandState>, Unsettled> {
    let (gtrid, bqual) = (by_hand.gtrid, by_hand.resource.clone());
    let xid = Xid { gtrid, bqual };
    let recovery = &inner.recovery;
    if let Some(end) = recovery.unrecorded(&xid) {
        let recorded = recovery.record_heuristic(inner, gtrid, &xid.bqual, end);
        if !recorded.await {
            return Err(mute("how it ended is not recorded yet"));
        }
    }
    let found = bounded(inner.config.recovery_timeout, inner.log.lookup(gtrid)).await;
    // That it cannot tell of this one says nothing of the others.
    let found = found.map_err(mute)?.map_err(|error| Unsettled {
        why: error.to_string(),
        is_mute: false,
    })?;
    match what_became(by_hand, hands, found) {
        Became::NotKnown => Ok(None),
        Became::Known(state) => Ok(Some(state)),
        Became::Unproven if recovery.gone.may_be_told_yet(inner, others, by_hand) => Ok(None),
        Became::Unproven if hazard(inner, by_hand).await => Ok(Some(HandState::Unproven)),
        Became::Unproven => Err(mute("that it is a hazard is not recorded yet")),
    }
}

/// What became of a branch that is gone.
enum Became {
    /// A pass finds out.
    NotKnown,
    Known(HandState),
    /// It may have been ended as was intended, and that was against the decision.
    Unproven,
}

fn what_became(by_hand: &ByHand, hands: &[ByHand], found: Lookup) -> Became {
    let (ends, beside) = found.apart();
    let mut ends = ends.into_iter();
    let end = ends.find(|(name, _)| *name == by_hand.resource);
    let Some(wanted) = by_hand.ended() else {
        return Became::NotKnown;
    };
    if let Some((_, end)) = end {
        return Became::Known(match (end, wanted) {
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
        return Became::Known(HandState::Void);
    }
    match (beside, wanted) {
        // A pass proves how it ended.
        (Lookup::Pending(_), _) => Became::NotKnown,
        // As was decided; by whose hand, nobody can tell.
        (Lookup::Completed, Decision::Commit) => Became::Known(HandState::Unproven),
        // A pass would not have completed what it could neither prove nor record.
        (Lookup::Completed | Lookup::NoRecord | Lookup::Open, Decision::Rollback)
            if by_hand.proof.is_some() =>
        {
            Became::Known(HandState::Void)
        }
        (Lookup::NoRecord | Lookup::Open, Decision::Rollback) => Became::Known(HandState::Unproven),
        (Lookup::Completed, Decision::Rollback)
        | (Lookup::NoRecord | Lookup::Open, Decision::Commit) => Became::Unproven,
        (Lookup::UnknownOpening | Lookup::MayBeLost, _) => Became::Known(HandState::Unproven),
        (Lookup::Heuristic { .. } | _, _) => Became::NotKnown,
    }
}

/// It may have been ended as was intended, and that was against the decision. Recorded? If not, the
/// record, which stays open, says so again.
pub(super) async fn hazard(inner: &Inner, by_hand: &ByHand) -> bool {
    let (gtrid, resource) = (by_hand.gtrid, &by_hand.resource);
    let (who, reason) = (&by_hand.who, &by_hand.reason);
    error!(target: "unanimous", %gtrid, %resource, %who, %reason,
        "a branch is gone, and nobody can prove whether it was ended by hand against the decision, \
         as was intended");
    let recovery = &inner.recovery;
    let recorded = recovery.record_heuristic(inner, gtrid, resource, Heuristic::Hazard);
    recorded.await
}
