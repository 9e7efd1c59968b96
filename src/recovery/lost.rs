//! Branches that are lost: a decision names them, nobody can end them or prove how they ended, and
//! nobody ever will. A person gives them up (`unanimous forget --lost`).
//!
//! 1. The branch is looked at: what is prepared anywhere, or may still be decided or proven, is not
//!    lost (see `give_up`).
//! 2. What is about to be done is recorded, durably: who, when and why. Alone it changes nothing.
//! 3. The hazard is recorded: the branch may have ended either way.
//! 4. The record of 2 is done. From then on the branch counts as ended ([`note_given_up`]), for
//!    everybody who reads the log; its decision completes once the other branches have ended.
//!
//! Whoever dies between 2 and 4 leaves the decision pending: it can be done again.

use std::collections::BTreeSet;

use unanimous_core::ports::{ByHand, DecisionRecord, HandAct, HandState, LogError};
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use super::pass::{Recorded, ask_log};
use crate::manager::Inner;

/// Whether a person has dealt with the heuristic end of this branch, or has given it up.
pub(crate) fn is_dealt_with(hands: &[ByHand], gtrid: Gtrid, resource: &ResourceName) -> bool {
    hands.iter().any(|hand| {
        hand.act == HandAct::Forget
            && hand.state == HandState::Done
            && (hand.gtrid, &hand.resource) == (gtrid, resource)
    })
}

/// Branches of these decisions that people have given up count as ended.
pub(super) async fn note_given_up<'d>(
    inner: &Inner,
    decisions: impl Iterator<Item = &'d DecisionRecord>,
) -> Result<(), LogError> {
    let mut decisions = decisions.peekable();
    if decisions.peek().is_none() {
        return Ok(());
    }
    let hands = ask_log(inner, inner.log.hands()).await?.legible;
    for DecisionRecord { gtrid, branches } in decisions {
        let names = branches.iter().map(|branch| &branch.resource);
        let given_up = names.filter(|name| is_dealt_with(&hands, *gtrid, name));
        let mut given_up = given_up.cloned().peekable();
        if given_up.peek().is_some() {
            inner.recovery.note_resolved(*gtrid, given_up);
        }
    }
    Ok(())
}

/// For whoever has to look: what a person does when the data agree.
pub(super) fn how_to_give_up(why: &str, xid: &Xid) -> String {
    let name = &xid.bqual;
    format!("{why}; once the data agree: unanimous forget GTRID --lost {name} --reason …")
}

/// No branch is left to be looked at: a last resource decided for itself alone, or people have
/// given up the rest, at resources at which nobody makes a pass.
pub(super) fn complete_what_is_over<'d>(
    inner: &Inner,
    ours: impl Iterator<Item = &'d DecisionRecord>,
) {
    for decision in ours {
        if decision.branches.is_empty() {
            inner.log.complete(decision.gtrid);
        } else {
            inner.recovery.complete_if_resolved(inner, decision);
        }
    }
}

/// Resources that pending decisions name and nobody has registered here: of the decisions that are
/// to be carried out here. A living member may have what is not registered here, and looks after
/// its own. Where people have given the branches up, nothing waits for the resource.
pub(crate) async fn unknown_resources(inner: &Inner) -> Result<Vec<ResourceName>, LogError> {
    let reading = async {
        let t = Recorded::read(inner).await?;
        let mut unknown = Vec::new();
        for DecisionRecord { gtrid, branches } in t.ours_to_end(inner) {
            let names = branches.iter().map(|branch| &branch.resource);
            let names = names.filter(|name| !inner.resources.contains_key(*name));
            unknown.extend(names.map(|name| (*gtrid, name.clone())));
        }
        if !unknown.is_empty() {
            let hands = inner.log.hands().await?.legible;
            unknown.retain(|(gtrid, name)| !is_dealt_with(&hands, *gtrid, name));
        }
        Ok::<_, LogError>(unknown)
    };
    let unknown = ask_log(inner, reading).await?;
    let names = unknown.into_iter().map(|(_, name)| name);
    Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
}
