//! Ending branches by hand: what a person asks for, what it would mean, and what came of it.
//!
//! Invariants:
//! * I4, I5: nothing is touched that somebody may still decide, or that is not of this transaction.
//!   Whatever contradicts the decision, or the log that would know it, takes a word of its own.
//! * All or nothing: if one of the branches is refused, none is touched.
//! * Nobody is asked for a proof here, and nothing is ended under a barrier of the application that
//!   holds the log. A barrier on a shared log sees at its end that somebody did.
//! * What has changed since a person was shown it is refused: the words were given for that.
//! * Who, when and why are durable before anything is done: see `recovery::by_hand`.

use std::collections::HashSet;
use std::sync::Arc;

use unanimous_core::ports::{ByHand, HandAct, HandState, LogError};
use unanimous_core::protocol::{ByHandCase, Decision, LeaveReason};
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use super::person::{Person, apart};
use super::resolved::{Resolve, Resolved, ResolvedBranch};
use crate::TransactionManager;
use crate::manager::{AnyResource, Inner};
use crate::recovery::{
    Absent, EndedByHand, ForHand, HandEnd, HandEnded, Left, ask, decided_by, end_by_hand, hands_of,
    look_for_hand, stand_against,
};

impl Resolve {
    /// Inside an application: what it would do now, or, if `act`, does it.
    ///
    /// Cancel safety: whoever acts does so in a task of its own. Once this was polled, it goes on
    /// although its future is dropped.
    ///
    /// # Errors
    /// It was not understood, or nothing could be looked at: says what and why. Nothing was done.
    pub async fn within(&self, tm: &TransactionManager, act: bool) -> Result<Resolved, String> {
        self.at(tm.inner(), act).await
    }

    /// See [`within`](Self::within).
    pub(super) async fn at(&self, inner: &Arc<Inner>, act: bool) -> Result<Resolved, String> {
        if !act {
            return carry_out(inner, self, false).await;
        }
        let (at, wanted) = (Arc::clone(inner), self.clone());
        apart(inner, async move { carry_out(&at, &wanted, true).await }).await
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
async fn carry_out(inner: &Arc<Inner>, wanted: &Resolve, act: bool) -> Result<Resolved, String> {
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
        hands: Vec::new(),
        refusals: Vec::new(),
    };
    // Held until the end: a backup under a barrier has all of what is done here, or nothing.
    let passed = inner.gate.try_pass().filter(|_| act);
    let found = look(inner, &asked, &mut resolved).await;
    let excused = tell_log(inner, &asked, &mut resolved).await?;
    if let (Some(changed), true) = (changed(wanted, &resolved), act) {
        resolved.refusals.push(changed);
    }
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

/// What is otherwise than whoever agreed to it was shown.
fn changed(wanted: &Resolve, now: &Resolved) -> Option<String> {
    let shown = wanted.shown.as_ref()?;
    let is_as_shown = (shown.decided, &shown.branches) == (now.decided, &now.branches);
    let is_new = |hand: &String| !shown.hands.contains(hand);
    let what = if now.hands.iter().any(is_new) {
        "somebody means, or has done, the opposite since this was shown"
    } else if !is_as_shown {
        "it is not any more as it was shown"
    } else {
        return None;
    };
    Some(format!("{what}: look again"))
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
    match end_by_hand(inner, asked.wanted.decision(), &ends, excused).await {
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
            let recovery = if branch.is_back {
                "it is on record to have ended otherwise, and recovery leaves it to a person"
            } else {
                "recovery ends it by itself"
            };
            if !wanted.against_the_decision {
                told.refusals.push(format!(
                    "{name}: {xid}: to {verb} it is {against}; {recovery}. If that is meant all \
                     the same, add --against-the-decision: the transaction then ends in part, and \
                     is reported as heuristic"
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
        ByHandCase::DecisionDropped => {
            if !wanted.against_the_decision {
                told.refusals.push(format!(
                    "{name}: {xid}: it is on record to have ended otherwise, or perhaps, and it is \
                     back; what was decided is kept no more. See how its other branches ended. If \
                     to {verb} it is right, add --against-the-decision"
                ));
            }
            (false, format!("{verb}: what was decided is kept no more"))
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
        unrecorded: false,
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
        | LeaveReason::EndedOtherwise
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
    let asking = async {
        let found = inner.log.lookup(asked.gtrid).await?;
        let hands = hands_of(inner, asked.gtrid).await?;
        let when = inner.log.decided_at(&[asked.gtrid]).await?;
        Ok::<_, LogError>((found, hands, when))
    };
    let read = ask(inner, asking).await;
    let (found, hands, when) = read.map_err(|error| format!("the log cannot be read: {error}"))?;
    told.decided_at = when.first().map(|(_, when)| when.0);
    let (ends, beside) = found.apart();
    if beside.is_decided() || decided_by(&ends) == Some(true) {
        told.decided = Some(true);
    }
    for (name, end) in ends {
        told.notes
            .push(format!("{name}: recorded as a heuristic end: {end:?}"));
    }
    for hand in &hands {
        told.notes.push(was_here(hand));
    }
    let opposite = stand_against(&hands, asked.gtrid, asked.wanted.decision());
    let opposite: Vec<_> = opposite.collect();
    told.hands = opposite.iter().map(|hand| key(hand)).collect();
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

/// As text: not everybody who reads JSON keeps such large numbers.
fn key(hand: &ByHand) -> String {
    format!("{:016x}", hand.id)
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

fn tell_end(told: &mut ResolvedBranch, branch: &ForHand, end: HandEnded) {
    let (is_done, words) = match end.ended {
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
        EndedByHand::Late(why) => (
            None,
            format!(
                "it was still prepared when it was looked at, and this may end it yet: {why}; look \
                 again"
            ),
        ),
        EndedByHand::NotByThis(why) => (Some(false), format!("this has not ended it: {why}")),
        EndedByHand::Unknown(why) => (
            None,
            format!("nobody knows yet whether it has ended: {why}; look again"),
        ),
        EndedByHand::TakenBack(why) => (Some(false), format!("it was left as it was: {why}")),
        EndedByHand::Left => (
            Some(false),
            "it was left as it was: another one did not end as told".to_owned(),
        ),
    };
    told.ended = is_done;
    told.words = match end.unrecorded {
        None => words,
        Some(what) => format!("{words}; {what} is NOT on record yet"),
    };
    told.unrecorded = end.unrecorded.is_some();
}
