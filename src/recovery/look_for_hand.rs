//! A person looks what it would mean to end the branches of a transaction by hand: step 1 of
//! `by_hand`.

use std::collections::HashSet;

use unanimous_core::ports::{BranchRecord, LogError};
use unanimous_core::protocol::{ByHandCase, Decision, LeaveReason, Resolution, plan};
use unanimous_core::xid::{Gtrid, Xid};

use super::pass::{Recorded, ask_log, ours, scan};
use super::recorded::LookedUp;
use crate::manager::{AnyResource, Inner};

/// A prepared branch, and what it would mean to end it by hand.
#[derive(Debug, Clone)]
pub(crate) struct ForHand {
    pub(crate) xid: Xid,
    pub(crate) case: ByHandCase,
    /// `None` if the log cannot tell.
    pub(crate) is_decided: Option<bool>,
    /// It is on record to have ended otherwise, and recovery leaves it to a person.
    pub(crate) is_back: bool,
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
    let looked_up = LookedUp::read(inner, &t, &p).await;
    for xid in p {
        let found = looked_up.judge(&t, &xid);
        let (view, is_decided) = found.map_err(log_unseen)?;
        let decided = || is_decided == Some(true);
        let planned = plan(view, || is_active, decided, || q.contains(&xid));
        looked.prepared.push(ForHand {
            case: ByHandCase::of(planned, is_decided, wanted),
            is_decided,
            is_back: planned == Resolution::LeaveAlone(LeaveReason::EndedOtherwise),
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
