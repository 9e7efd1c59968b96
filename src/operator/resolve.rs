//! Ending branches by hand: what a person asks for, what it would mean, and what came of it.
//!
//! Invariants:
//! * I4, I5: nothing is touched that somebody may still decide, or that is not of this transaction.
//!   Whatever contradicts the decision, or the log that would know it, takes a word of its own.
//! * All or nothing: if one of the branches is refused, none is touched.
//! * Nobody is asked for a proof here, and nothing is ended under a barrier.
//! * Who, when and why are durable before anything is done: see `recovery::by_hand`.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{ByHand, HandAct, HandState, LogError};
use unanimous_core::protocol::{ByHandCase, Decision, LeaveReason};
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use super::person::Person;
use crate::TransactionManager;
use crate::bounded::bounded;
use crate::manager::{AnyResource, Inner};
use crate::recovery::{
    Absent, EndedByHand, ForHand, HandEnd, Left, end_by_hand, look_for_hand, stand_against,
};

/// What a person wants to be done with the prepared branches of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Resolve {
    /// The transaction, as `list` shows it.
    pub gtrid: String,
    /// Commit the branches; else roll them back.
    pub commit: bool,
    /// Only the branch at this resource.
    pub resource: Option<String>,
    /// The second word: also if it contradicts the decision, or the rollback that is presumed
    /// without one, which is a heuristic end then; or what another person has done or meant.
    pub against_the_decision: bool,
    /// Also if nobody here knows what was decided, because the log that would know is lost.
    pub its_log_is_lost: bool,
    /// Who: account and host. One line.
    pub who: String,
    /// Why. One line.
    pub reason: String,
}

impl Resolve {
    /// To commit or to roll back all prepared branches of a transaction, without a second word.
    pub fn new(
        gtrid: impl Into<String>,
        commit: bool,
        who: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            gtrid: gtrid.into(),
            commit,
            resource: None,
            against_the_decision: false,
            its_log_is_lost: false,
            who: who.into(),
            reason: reason.into(),
        }
    }

    /// Inside an application: what it would do now, or, if `act`, does it.
    ///
    /// # Errors
    /// It was not understood, or nothing could be looked at: says what and why. Nothing was done.
    pub async fn within(&self, tm: &TransactionManager, act: bool) -> Result<Resolved, String> {
        carry_out(tm.inner(), self, act).await
    }

    const fn decision(&self) -> Decision {
        if self.commit {
            Decision::Commit
        } else {
            Decision::Rollback
        }
    }
}

/// What ending branches by hand would do, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Resolved {
    /// The process id of the application that looked, or acted; `null` if the caller did.
    pub application: Option<u32>,
    /// The transaction.
    pub gtrid: String,
    /// To be committed; else to be rolled back.
    pub commit: bool,
    /// It was done, as far as each branch says. Else nothing was.
    pub acted: bool,
    /// `true`: it was decided to commit it. `false`: it was not. `null`: this log cannot tell.
    pub decided: Option<bool>,
    /// When, in seconds since 1970, if that is known.
    pub decided_at: Option<u64>,
    /// The branches that are touched.
    pub branches: Vec<ResolvedBranch>,
    /// What a person should know before: other branches, and what others did.
    pub notes: Vec<String>,
    /// Why nothing is done. Empty if nothing stands against it.
    pub refusals: Vec<String>,
}

/// One branch that is touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolvedBranch {
    /// Where.
    pub resource: String,
    /// Its XID.
    pub xid: String,
    /// It ends otherwise than was decided, or is presumed.
    pub heuristic: bool,
    /// What it means, or what came of it.
    pub words: String,
    /// It ended as was told, and the database does not list it any more. `null` before; and
    /// afterwards, if the server has confirmed it and could not be looked at then.
    pub ended: Option<bool>,
}

impl Resolved {
    /// Everything that was to be ended has ended as was told.
    pub fn is_done(&self) -> bool {
        self.acted
            && self
                .branches
                .iter()
                .all(|branch| branch.ended == Some(true))
    }
}

/// A request that was understood.
struct Asked<'r> {
    wanted: &'r Resolve,
    gtrid: Gtrid,
    only: Option<ResourceName>,
    person: Person,
}

impl<'r> Asked<'r> {
    fn of(wanted: &'r Resolve, inner: &Inner) -> Result<Self, String> {
        let gtrid = wanted.gtrid.parse().map_err(|_| {
            format!(
                "{} is no transaction of Unanimous's: it is never touched here. Whoever prepared \
                 it has to end it, by its own manager or by the database's own client",
                wanted.gtrid
            )
        })?;
        let only = match &wanted.resource {
            None => None,
            Some(name) => {
                let names: Vec<_> = inner.resources.keys().map(ResourceName::as_str).collect();
                let found = inner.resources.keys().find(|has| has.as_str() == name);
                let unknown = || {
                    format!(
                        "there is no resource {name}: there are {}",
                        names.join(", ")
                    )
                };
                Some(found.ok_or_else(unknown)?.clone())
            }
        };
        Ok(Self {
            wanted,
            gtrid,
            only,
            person: Person::of(&wanted.who, &wanted.reason)?,
        })
    }

    fn is_meant(&self, name: &ResourceName) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }
}

/// Looks, and acts if nothing stands against it and it is to.
pub(super) async fn carry_out(
    inner: &Arc<Inner>,
    wanted: &Resolve,
    act: bool,
) -> Result<Resolved, String> {
    let asked = Asked::of(wanted, inner)?;
    let mut resolved = Resolved {
        application: None,
        gtrid: wanted.gtrid.clone(),
        commit: wanted.commit,
        acted: false,
        decided: None,
        decided_at: None,
        branches: Vec::new(),
        notes: Vec::new(),
        refusals: Vec::new(),
    };
    // Held until the end: a backup under a barrier has all of what is done here, or nothing.
    let passed = inner.gate.try_pass().filter(|_| act);
    let found = look(inner, &asked, &mut resolved).await;
    let excused = tell_log(inner, &asked, &mut resolved).await?;
    if found.is_empty() && resolved.refusals.is_empty() {
        resolved.refusals.push(format!(
            "no branch of {} is prepared here: check the name; unanimous list shows what is",
            wanted.gtrid
        ));
    }
    if act && passed.is_none() {
        let barrier = "a barrier stands, and nothing is ended by hand under it: wait for its end";
        resolved.refusals.push(barrier.to_owned());
    }
    if act && resolved.refusals.is_empty() {
        let (asked, told) = (&asked, &mut resolved);
        end(inner, asked, &found, &excused, told).await?;
    }
    Ok(resolved)
}

/// Nothing stands against it.
async fn end(
    inner: &Inner,
    asked: &Asked<'_>,
    found: &[Found],
    excused: &[u64],
    told: &mut Resolved,
) -> Result<(), String> {
    let ends = found.iter().map(|(resource, branch)| {
        let by_hand = record(inner, asked, branch)?;
        Ok::<_, String>(HandEnd {
            resource: &**resource,
            branch,
            by_hand,
        })
    });
    let ends = ends.collect::<Result<Vec<_>, _>>()?;
    match end_by_hand(inner, &ends, excused).await {
        Err(refusal) => told.refusals.push(refusal),
        Ok(ended) => {
            told.acted = true;
            for ((told, end), ended) in told.branches.iter_mut().zip(&ends).zip(ended) {
                tell_end(told, end.branch, ended);
            }
        }
    }
    Ok(())
}

type Found = (Arc<dyn AnyResource>, ForHand);

/// What is touched, and what stands against it, is told.
async fn look(inner: &Arc<Inner>, asked: &Asked<'_>, told: &mut Resolved) -> Vec<Found> {
    let decision = asked.wanted.decision();
    let looks = inner.resources.values().map(|resource| async move {
        let looked = look_for_hand(inner, &**resource, asked.gtrid, decision).await;
        (resource, looked)
    });
    let mut looks = futures_util::future::join_all(looks).await;
    // Two resources on one server both list what is of neither: it is one branch, and of what is
    // meant.
    looks.sort_by_key(|(resource, _)| !asked.is_meant(resource.name()));
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (resource, looked) in looks {
        let name = resource.name();
        let looked = match looked {
            Ok(looked) => looked,
            Err(error) if asked.is_meant(name) => {
                told.refusals.push(format!(
                    "{name} cannot be looked at: {error}; to leave it out, name the one that is \
                     meant by --resource"
                ));
                continue;
            }
            Err(error) => {
                told.notes
                    .push(format!("{name} cannot be looked at: {error}"));
                continue;
            }
        };
        for branch in looked.prepared {
            if !seen.insert(branch.xid.clone()) {
                continue;
            }
            told.decided = told.decided.or(branch.is_decided);
            if !asked.is_meant(name) {
                told.notes
                    .push(format!("{name}: {} is prepared, and is left", branch.xid));
                continue;
            }
            tell_case(asked.wanted, name, &branch, told);
            found.push((Arc::clone(resource), branch));
        }
        for (xid, known) in looked.absent {
            let note = match known {
                Absent::Ended => "it has ended",
                Absent::Owners => "its owner ends it, or has",
                Absent::Unproven => "unanimous recover proves how it ended",
            };
            told.notes
                .push(format!("{name}: {xid} is not prepared any more: {note}"));
        }
    }
    found
}

/// What it would mean to end this branch.
fn tell_case(wanted: &Resolve, name: &ResourceName, branch: &ForHand, told: &mut Resolved) {
    let xid = &branch.xid;
    let verb = if wanted.commit { "commit" } else { "roll back" };
    let is_decided = branch.is_decided == Some(true);
    let (is_heuristic, words) = match branch.case {
        ByHandCase::AsRecovery if is_decided => (false, format!("{verb}: that was decided")),
        ByHandCase::AsRecovery => (false, format!("{verb}: nothing was decided")),
        ByHandCase::Against(_) => {
            let against = if is_decided {
                "AGAINST THE DECISION, which is to commit"
            } else {
                "AGAINST what is presumed: nothing was decided, so it is to be rolled back"
            };
            if !wanted.against_the_decision {
                told.refusals.push(format!(
                    "{name}: {xid}: to {verb} it is {against}; recovery ends it by itself. If that \
                     is meant all the same, add --against-the-decision: the transaction then ends \
                     in part, and is reported as heuristic"
                ));
            }
            (true, format!("{verb} {against}"))
        }
        ByHandCase::LogLost => {
            if !wanted.its_log_is_lost {
                told.refusals.push(format!(
                    "{name}: {xid}: nobody here knows what was decided: its opening is not in this \
                     log, its decision may be lost, or it is another manager's. Use the log that \
                     it belongs to. If that is lost for good, and nobody uses it any more, add \
                     --its-log-is-lost"
                ));
            }
            (
                false,
                format!("{verb}: what was decided is not known, its log is lost"),
            )
        }
        ByHandCase::Refused(reason) => {
            told.refusals.push(refusal(name, xid, reason));
            (false, format!("leave: {}", Left::Plan(reason)))
        }
    };
    told.branches.push(ResolvedBranch {
        resource: name.to_string(),
        xid: xid.to_string(),
        heuristic: is_heuristic,
        words,
        ended: None,
    });
}

fn refusal(name: &ResourceName, xid: &Xid, reason: LeaveReason) -> String {
    let epoch = xid.gtrid.opening.epoch;
    match reason {
        LeaveReason::Active => format!(
            "{name}: {xid}: its transaction is running, and its application may still decide it: \
             wait for its deadline, or stop the application"
        ),
        LeaveReason::OtherMember => format!(
            "{name}: {xid}: its owner's epoch {epoch} is open, and its owner may still decide it: \
             stop that member, or: unanimous recover --close {epoch}"
        ),
        LeaveReason::Gone
        | LeaveReason::UnlistedOpening
        | LeaveReason::DecisionMayBeLost
        | LeaveReason::OtherManager => {
            format!("{name}: {xid}: {}: look again", Left::Plan(reason))
        }
    }
}

/// What the log says of the transaction besides. Whose records of the opposite are excused by the
/// second word.
async fn tell_log(
    inner: &Inner,
    asked: &Asked<'_>,
    told: &mut Resolved,
) -> Result<Vec<u64>, String> {
    let limit = inner.config.recovery_timeout;
    let asking = async {
        let found = inner.log.lookup(asked.gtrid).await?;
        let hands = inner.log.by_hand().await?;
        let when = inner.log.decided_at(&[asked.gtrid]).await?;
        Ok::<_, LogError>((found, hands, when))
    };
    let read = bounded(limit, asking).await;
    let read = read.map_err(|silence| format!("the log cannot be read: {silence}"))?;
    let (found, hands, when) = read.map_err(|error| format!("the log cannot be read: {error}"))?;
    told.decided_at = when.first().map(|(_, when)| when.0);
    let (ends, beside) = found.apart();
    if beside.is_decided() {
        told.decided = Some(true);
    }
    for (name, end) in ends {
        told.notes
            .push(format!("{name}: recorded as a heuristic end: {end:?}"));
    }
    for hand in hands.iter().filter(|hand| hand.gtrid == asked.gtrid) {
        told.notes.push(was_here(hand));
    }
    let opposite = stand_against(&hands, asked.gtrid, asked.wanted.decision());
    let opposite: Vec<_> = opposite.collect();
    if asked.wanted.against_the_decision {
        return Ok(opposite.iter().map(|hand| hand.id).collect());
    }
    let verb = if asked.wanted.commit {
        "commit"
    } else {
        "roll back"
    };
    for hand in opposite {
        told.refusals.push(format!(
            "{}. To {verb} now is the opposite: the transaction then ends in part. If that is \
             meant all the same, add --against-the-decision",
            was_here(hand)
        ));
    }
    Ok(Vec::new())
}

/// Who was here before, and for what.
fn was_here(hand: &ByHand) -> String {
    let act = match hand.act {
        HandAct::End(Decision::Commit) => "to commit it",
        HandAct::End(Decision::Rollback) => "to roll it back",
        HandAct::Forget => "to forget it",
    };
    let state = match hand.state {
        HandState::Intended => "under way, or broken off",
        HandState::Unproven => "nobody knows whether it was done",
        HandState::Done => "done",
        HandState::Void => "not done",
    };
    let (name, who, reason) = (&hand.resource, &hand.who, &hand.reason);
    format!("{name}: {who} was here before, {act} ({state}): {reason}")
}

fn record(inner: &Inner, asked: &Asked<'_>, branch: &ForHand) -> Result<ByHand, String> {
    let act = HandAct::End(asked.wanted.decision());
    let proof = branch.record.as_ref();
    let proof = proof.map(|record| (record.identity.clone(), record.evidence.clone()));
    let at = (branch.xid.gtrid, branch.xid.bqual.clone());
    let person = &asked.person;
    person.record(inner, at, act, proof, HandState::Intended)
}

fn tell_end(told: &mut ResolvedBranch, branch: &ForHand, ended: EndedByHand) {
    let (is_done, words) = match ended {
        EndedByHand::AsTold => (
            Some(true),
            "done: the server has confirmed it, and does not list it any more".to_owned(),
        ),
        EndedByHand::Unseen(why) => (
            None,
            format!("the server has confirmed it, and could not be looked at afterwards: {why}"),
        ),
        EndedByHand::Otherwise(why) => {
            (Some(false), format!("it has ended, and not by this: {why}"))
        }
        EndedByHand::Unproven(why) if branch.record.is_some() => (
            Some(false),
            format!("it is gone; how it ended, unanimous recover asks the database: {why}"),
        ),
        EndedByHand::Unproven(why) => (
            Some(false),
            format!("it is gone, and nobody can prove how it ended: {why}"),
        ),
        EndedByHand::Still(why) => (Some(false), format!("it is still prepared: {why}")),
        EndedByHand::Left => (
            Some(false),
            "it was left as it was: another one did not end as told".to_owned(),
        ),
    };
    told.ended = is_done;
    told.words = words;
}
