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
//! (I3): see [`settle`], and `prove_absent` for a decision to commit.

use std::collections::HashMap;
use std::sync::Mutex;

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::{error, warn};
use unanimous_core::ports::{ByHand, HandState, LogError, Lookup, OpeningState, ResourceManager};
use unanimous_core::protocol::{Decision, Heuristic};
use unanimous_core::xid::{ResourceName, Xid};
#[cfg(feature = "operator")]
use unanimous_core::{ports::Hands, xid::Gtrid};

use super::lock;
#[cfg(feature = "operator")]
use super::pass::ILLEGIBLE;
use super::pass::{ask_log, ours, scan};
use crate::manager::Inner;

/// Branches that people had meant to end, that are gone, and nobody says how: since when that is
/// seen.
#[derive(Default)]
pub(super) struct Gone(Mutex<HashMap<Xid, Instant>>);

impl Gone {
    /// Whether it has been gone for longer than another member's pass takes to record what it has
    /// ended, the first look being now.
    fn is_for_long(&self, inner: &Inner, xid: &Xid) -> bool {
        let mut gone = lock(&self.0);
        let since = *gone.entry(xid.clone()).or_insert_with(Instant::now);
        // One answer of the server, and one of the log.
        since.elapsed() > inner.config.recovery_timeout * 2
    }

    /// It is listed again.
    fn forget(&self, xid: &Xid) {
        lock(&self.0).remove(xid);
    }

    /// Of this resource, only what these records are about.
    fn keep(&self, resource: &ResourceName, open: &[&ByHand]) {
        let is_open = |xid: &Xid| of_branch(open.iter().copied(), xid).next().is_some();
        lock(&self.0).retain(|xid, _| xid.bqual != *resource || is_open(xid));
    }
}

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
    // All at once: other members wait for one answer of the log, see `Gone`.
    join_all(open.map(|by_hand| mark(inner, by_hand, HandState::Void))).await;
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
    let hands = match ask_log(inner, inner.log.hands()).await {
        Ok(hands) => hands.legible,
        Err(error) => return vec![format!("what people did cannot be read: {error}")],
    };
    let is_open = |hand: &&ByHand| {
        hand.resource == *resource.name()
            && hand.state == HandState::Intended
            && hand.ended().is_some()
    };
    let open: Vec<_> = hands.iter().filter(is_open).collect();
    inner.recovery.gone.keep(resource.name(), &open);
    let mut left = Vec::new();
    for by_hand in open {
        let Err(unsettled) = settle_one(inner, resource, by_hand).await else {
            continue;
        };
        let (gtrid, who, name) = (by_hand.gtrid, &by_hand.who, resource.name());
        let (why, is_mute) = match unsettled {
            Unsettled::Server(why) => (why, true),
            Unsettled::Log(why) => (why, false),
        };
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

/// Why a record could not be settled: who has not answered, in words.
enum Unsettled {
    Server(String),
    Log(String),
}

fn unread(error: LogError) -> Unsettled {
    Unsettled::Log(error.to_string())
}

async fn settle_one(
    inner: &Inner,
    resource: &dyn ResourceManager,
    by_hand: &ByHand,
) -> Result<(), Unsettled> {
    let (gtrid, bqual) = (by_hand.gtrid, by_hand.resource.clone());
    let xid = Xid { gtrid, bqual };
    let own = inner.log.opening();
    let openings = ask_log(inner, inner.log.openings()).await;
    let mut others = openings.map_err(unread)?;
    others.retain(|listed| listed.opening != own && !listed.closed);
    if others.iter().any(|listed| listed.opening == by_hand.by) {
        // Another member's, who may be about to act.
        return Ok(());
    }
    let Some(_claim) = inner.recovery.claim(&xid) else {
        return Ok(());
    };
    // Once more: nobody here, and not its owner, does anything about it from now on.
    let hands = ask_log(inner, inner.log.hands()).await;
    let hands = hands.map_err(unread)?.legible;
    let is_it = |hand: &ByHand| hand.id == by_hand.id && hand.state == HandState::Intended;
    if !hands.iter().any(is_it) {
        return Ok(());
    }
    let listed = scan(inner, resource).await;
    let listed = listed.map_err(|error| Unsettled::Server(error.to_string()))?;
    if ours(listed, &mut Vec::new()).contains(&xid) || inner.active.contains(gtrid) {
        inner.recovery.gone.forget(&xid);
        return Ok(());
    }
    if let Some(end) = inner.recovery.unrecorded(&xid) {
        let recorded = inner
            .recovery
            .record_heuristic(inner, gtrid, &xid.bqual, end);
        if !recorded.await {
            let why = "how it ended is not recorded yet";
            return Err(Unsettled::Log(why.to_owned()));
        }
    }
    let found = ask_log(inner, inner.log.lookup(gtrid)).await;
    let state = match what_became(by_hand, &hands, found.map_err(unread)?) {
        Became::NotKnown => return Ok(()),
        Became::Known(state) => state,
        Became::Unproven if may_be_told_yet(inner, &others, by_hand) => return Ok(()),
        Became::Unproven if hazard(inner, by_hand).await => HandState::Unproven,
        Became::Unproven => {
            let why = "that it is a hazard is not recorded yet";
            return Err(Unsettled::Log(why.to_owned()));
        }
    };
    mark(inner, by_hand, state).await;
    Ok(())
}

/// Whether another member's pass may have ended it by the decision, and be about to record that.
/// One whose epoch is closed may be slow, too: what it then records takes the place of the hazard.
fn may_be_told_yet(inner: &Inner, others: &[OpeningState], by_hand: &ByHand) -> bool {
    let (gtrid, bqual) = (by_hand.gtrid, by_hand.resource.clone());
    !others.is_empty()
        && !inner
            .recovery
            .gone
            .is_for_long(inner, &Xid { gtrid, bqual })
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

/// It may have been ended as was intended, and that was against the decision. Recorded?
async fn hazard(inner: &Inner, by_hand: &ByHand) -> bool {
    let (gtrid, resource) = (by_hand.gtrid, &by_hand.resource);
    let (who, reason) = (&by_hand.who, &by_hand.reason);
    error!(target: "unanimous", %gtrid, %resource, %who, %reason,
        "a branch is gone, and nobody can prove whether it was ended by hand against the decision, \
         as was intended");
    let recovery = &inner.recovery;
    let recorded = recovery.record_heuristic(inner, gtrid, resource, Heuristic::Hazard);
    recorded.await
}
