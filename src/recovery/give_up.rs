//! Giving a lost branch up: what is looked at before, and what is recorded. The order, and what
//! comes of it: `lost`.

use futures_util::future::join_all;
use tracing::warn;
use unanimous_core::ports::{
    Absence, BranchRecord, ByHand, DecisionRecord, HandAct, HandState, LogError,
};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use super::SHUTTING_DOWN;
use super::by_hand::{hands_of, mark};
use super::end_by_hand::complete_pending;
use super::lost::is_dealt_with;
use super::pass::{Recorded, ask_log, ours, scan};
use crate::bounded::bounded;
use crate::manager::{AnyResource, Inner};

/// A branch that can be given up.
#[derive(Debug, Clone)]
pub(crate) struct LostBranch {
    pub(crate) record: BranchRecord,
    /// Why its end cannot be proven.
    pub(crate) why: String,
    /// The other branches of the decision.
    pub(crate) others: Vec<OtherBranch>,
    /// Resources that could not be looked at, and why.
    pub(crate) unseen: Vec<String>,
}

/// What is left of the transaction besides.
#[derive(Debug, Clone)]
pub(crate) struct OtherBranch {
    pub(crate) resource: ResourceName,
    pub(crate) is_prepared: bool,
    /// It is known to have ended.
    pub(crate) is_over: bool,
}

fn unread(error: LogError) -> String {
    format!("the log cannot be read: {error}")
}

async fn hands(inner: &Inner, gtrid: Gtrid) -> Result<Vec<ByHand>, String> {
    let hands = ask_log(inner, hands_of(inner, gtrid)).await;
    hands.map_err(unread)
}

/// Looks whether the branch is lost. `nobody_has_it`: a person says so of its resource.
///
/// # Errors
/// It is not, as far as can be seen: says why, and what to do instead.
pub(crate) async fn look_for_lost(
    inner: &Inner,
    gtrid: Gtrid,
    name: &ResourceName,
    nobody_has_it: bool,
) -> Result<LostBranch, String> {
    let scans = inner.resources.values().map(|resource| async move {
        let listed = scan(inner, &**resource).await;
        (
            resource.name(),
            listed.map(|listed| ours(listed, &mut Vec::new())),
        )
    });
    let scans = join_all(scans).await;
    let t = ask_log(inner, Recorded::read(inner))
        .await
        .map_err(unread)?;
    let decision = pending(inner, &t, gtrid)?;
    let xid = Xid {
        gtrid,
        bqual: name.clone(),
    };
    let Some(record) = t.branch(&xid) else {
        let names = decision.branches.iter().map(|b| b.resource.as_str());
        let names: Vec<_> = names.collect();
        return Err(format!(
            "the decision of {gtrid} names no branch at {name}: it names {}",
            names.join(", ")
        ));
    };
    let hands = hands(inner, gtrid).await?;
    if is_dealt_with(&hands, gtrid, name) {
        return Err(format!(
            "{xid} was given up before: the decision waits for its other branches: unanimous \
             recover"
        ));
    }
    let (mut unseen, mut prepared) = (Vec::new(), Vec::new());
    for (at, listed) in scans {
        match listed {
            Ok(listed) if listed.contains(&xid) => {
                return Err(format!(
                    "{at}: {xid} is prepared there, so it is not lost: unanimous recover \
                     commits it, as was decided"
                ));
            }
            Ok(listed) => prepared.extend(listed),
            Err(error) if at == name => {
                return Err(format!(
                    "{name} cannot be looked at: {error}; what may come back is not lost. If \
                     it is gone for good, do without it first: take it out of the application \
                     and of the config file"
                ));
            }
            Err(error) => unseen.push(format!("{at} cannot be looked at: {error}")),
        }
    }
    // Reads the log once more, before anything that a proof may end.
    let why = match inner.resources.get(name) {
        None if nobody_has_it => format!("{name} is not registered, and no member has it"),
        None => unregistered(inner, name).await?,
        Some(resource) => unproven(inner, &**resource, &t, &xid, record).await?,
    };
    let others = decision.branches.iter().filter(|b| b.resource != *name);
    let others = others.map(|branch| OtherBranch {
        resource: branch.resource.clone(),
        is_prepared: prepared.contains(&branch.xid(gtrid)),
        is_over: inner.recovery.is_resolved(gtrid, &branch.resource),
    });
    Ok(LostBranch {
        record: record.clone(),
        why,
        others: others.collect(),
        unseen,
    })
}

/// The decision, if it is pending and nobody else's to carry out.
fn pending<'t>(inner: &Inner, t: &'t Recorded, gtrid: Gtrid) -> Result<&'t DecisionRecord, String> {
    let Some(decision) = t.decision(gtrid) else {
        return Err(format!(
            "no decision of {gtrid} is pending in this log: nothing of it waits for a branch; \
             unanimous log show --pending lists those that do"
        ));
    };
    if inner.active.contains(gtrid) {
        return Err(format!(
            "{gtrid} is running, and its application is carrying it out: wait for its end"
        ));
    }
    if !t.is_ours_to_end(inner, gtrid) {
        let epoch = gtrid.opening.epoch;
        return Err(format!(
            "{gtrid} is of epoch {epoch}, which is open: its owner is carrying it out. Stop \
             that member, or: unanimous recover --close {epoch}"
        ));
    }
    Ok(decision)
}

/// Who shares the log may have what is not registered here.
async fn unregistered(inner: &Inner, name: &ResourceName) -> Result<String, String> {
    let members = ask_log(inner, inner.log.members()).await.map_err(unread)?;
    let own = inner.log.opening();
    let others = members.iter();
    let others = others.filter(|member| !member.is_closed && member.opening != own);
    let others: Vec<_> = others.map(|member| member.label.as_str()).collect();
    if others.is_empty() {
        return Ok(format!("{name} is not registered"));
    }
    Err(format!(
        "{name} is not in this config file, and members that share the log may have it: {}. If one \
         has, use its config file; if none has, add --nobody-has-it",
        others.join(", ")
    ))
}

/// Why nobody can prove how it ended.
async fn unproven(
    inner: &Inner,
    resource: &dyn AnyResource,
    t: &Recorded,
    xid: &Xid,
    record: &BranchRecord,
) -> Result<String, String> {
    let named = t.named(inner, resource).await.map_err(unread)?;
    if !named.iter().any(|(named, _)| named == xid) {
        return Err(format!("the end of {xid} is known by now: look again"));
    }
    let name = resource.name();
    let not_lost = |how: &str| {
        Err(format!(
            "{name}: how {xid} ended can be proven ({how}), so it is not lost: unanimous \
             recover does so"
        ))
    };
    let Some(_claim) = inner.recovery.claim(xid) else {
        return Err("recovery is proving it just now: look again".to_owned());
    };
    let proving = resource.absent(xid, record);
    match bounded(inner.config.recovery_timeout, proving).await {
        Ok(Ok(Absence::Hazard(why))) => Ok(why),
        Ok(Ok(Absence::Finished)) => not_lost("committed"),
        Ok(Ok(Absence::Presumed)) => not_lost("presumably committed"),
        Ok(Ok(Absence::Heuristic(_))) => not_lost("not as decided"),
        Ok(Ok(Absence::InDoubt(why))) => Err(format!(
            "{name}: {why}: that can still be found out, so it is not lost: unanimous recover"
        )),
        Ok(Err(error)) => Err(error.to_string()),
        Err(silence) => Err(format!("{name}: {silence}")),
    }
}

/// Gives the branch up. Every word that it may be done has been given.
///
/// # Errors
/// The log did not take all of it: says how far it has come.
pub(crate) async fn give_up(inner: &Inner, by_hand: &ByHand) -> Result<(), String> {
    let (gtrid, name) = (by_hand.gtrid, &by_hand.resource);
    let xid = Xid {
        gtrid,
        bqual: name.clone(),
    };
    let Some(_act) = inner.recovery.act() else {
        return Err(SHUTTING_DOWN.to_owned());
    };
    let Some(_claim) = inner.recovery.claim(&xid) else {
        return Err("recovery is proving it just now: look again".to_owned());
    };
    let left_over = still_unproven(inner, &xid).await?;
    let recorded = ask_log(inner, inner.log.record_by_hand(by_hand)).await;
    recorded.map_err(|e| format!("nothing was done, for it cannot be recorded: {e}"))?;
    let recovery = &inner.recovery;
    let hazard = recovery.record_heuristic(inner, gtrid, name, Heuristic::Hazard);
    if !hazard.await {
        return Err(
            "that it is a hazard could not be recorded: nothing was forgotten; run this again"
                .to_owned(),
        );
    }
    let done = ByHand {
        state: HandState::Done,
        ..by_hand.clone()
    };
    let marked = ask_log(inner, inner.log.record_by_hand(&done)).await;
    marked.map_err(|e| {
        format!("the hazard is recorded, and that it was dealt with is not: {e}; run this again")
    })?;
    for broken_off in left_over {
        mark(inner, &broken_off, HandState::Void).await;
    }
    recovery.note_resolved(gtrid, std::iter::once(name.clone()));
    if complete_pending(inner, gtrid).await
        && let Err(error) = ask_log(inner, inner.log.force()).await
    {
        warn!(target: "unanimous", %gtrid, %error,
            "that its decision is complete may be forgotten; then recovery finds out again");
    }
    Ok(())
}

/// Under the claim: since it was looked at, others may have proven it, given it up, or completed
/// the decision. Records of people who had begun the same and broken off.
async fn still_unproven(inner: &Inner, xid: &Xid) -> Result<Vec<ByHand>, String> {
    let (gtrid, name) = (xid.gtrid, &xid.bqual);
    let t = ask_log(inner, Recorded::read(inner)).await;
    pending(inner, &t.map_err(unread)?, gtrid)?;
    let hands = hands(inner, gtrid).await?;
    if inner.recovery.is_resolved(gtrid, name) || is_dealt_with(&hands, gtrid, name) {
        return Err(format!("the end of {xid} is known by now: look again"));
    }
    let is_left_over = |hand: &ByHand| {
        hand.act == HandAct::Forget
            && hand.state == HandState::Intended
            && (hand.gtrid, &hand.resource) == (gtrid, name)
    };
    Ok(hands.into_iter().filter(is_left_over).collect())
}
