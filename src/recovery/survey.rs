//! What a recovery pass would do, without doing it: the same four observations in the same order
//! as a pass (see `pass`), and the plan for each branch. Ends, proves and records nothing.
//!
//! It is a picture of a moment: by the time it is read, a branch may have ended.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use unanimous_core::ports::{LogError, ResourceError, ResourceManager, XidOwner};
use unanimous_core::protocol::{EpochView, LeaveReason, Resolution, plan};
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use super::Left;
use super::pass::{ILLEGIBLE, illegible, ours, scan};
use super::recorded::{LookedUp, Recorded, ask_log};
use crate::manager::Inner;

/// What is prepared at all resources, and what a recovery pass would do about it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Survey {
    /// By resource, in the order of their names.
    pub resources: Vec<ResourceSurvey>,
    /// Resources that pending decisions name but this manager does not have.
    pub unknown_resources: Vec<ResourceName>,
    /// The decision log could not be read, so `unknown_resources` may lack some.
    pub log_error: Option<LogError>,
}

/// What is prepared at one resource.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ResourceSurvey {
    /// Which resource.
    pub resource: ResourceName,
    /// Branches of some manager of ours.
    pub branches: Vec<SurveyedBranch>,
    /// Prepared transactions of others.
    pub foreign: Vec<ForeignBranch>,
    /// The resource could not be looked at.
    pub error: Option<ResourceError>,
    /// The decision log could not be read, so nothing is known of the decisions.
    pub log_error: Option<LogError>,
}

/// One branch that is prepared, or that a pending decision names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SurveyedBranch {
    /// Its names.
    pub xid: Xid,
    /// How long it has been prepared, where the server tells.
    pub age: Option<Duration>,
    /// The server lists it as prepared. If not, a decision names it and its end is not proven.
    pub is_prepared: bool,
    /// The log holds a decision to commit, or what proves that there was one. `None` if the log
    /// cannot tell.
    pub is_decided: Option<bool>,
    /// What a recovery pass would do.
    pub planned: Planned,
}

/// A prepared transaction of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForeignBranch {
    /// In the server's text.
    pub text: String,
    /// How long it has been prepared, where the server tells.
    pub age: Option<Duration>,
}

/// What a recovery pass would do with a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Planned {
    /// Commit it: that was decided.
    Commit,
    /// Roll it back: nothing was decided, and nothing can be any more.
    RollBack,
    /// Ask the server for proof that it was committed: it is not listed any more.
    Prove,
    /// Nothing, for this reason.
    Leave(LeaveReason),
    /// Nothing before all can be seen that it depends on. Says what cannot.
    Wait(String),
}

impl Planned {
    /// Somebody, be it recovery or a person, has to end it. A branch that is running, of another
    /// manager or gone is nobody's business here.
    pub const fn is_in_doubt(&self) -> bool {
        match self {
            Self::Commit | Self::RollBack | Self::Prove | Self::Wait(_) => true,
            Self::Leave(reason) => match reason {
                LeaveReason::UnlistedOpening
                | LeaveReason::DecisionMayBeLost
                | LeaveReason::EndedOtherwise => true,
                LeaveReason::Active
                | LeaveReason::OtherMember
                | LeaveReason::OtherManager
                | LeaveReason::Gone => false,
            },
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit => f.write_str("commit"),
            Self::RollBack => f.write_str("roll back"),
            Self::Prove => f.write_str("prove that it was committed"),
            Self::Leave(reason) => write!(f, "leave: {}", Left::Plan(*reason)),
            Self::Wait(why) => write!(f, "wait: {why}"),
        }
    }
}

impl From<Resolution> for Planned {
    fn from(resolution: Resolution) -> Self {
        match resolution {
            Resolution::Commit => Self::Commit,
            Resolution::RollBackOrphan => Self::RollBack,
            Resolution::LeaveAlone(reason) => Self::Leave(reason),
        }
    }
}

/// Looks at one resource.
pub(crate) async fn survey(inner: &Inner, resource: &dyn ResourceManager) -> ResourceSurvey {
    let mut survey = ResourceSurvey {
        resource: resource.name().clone(),
        branches: Vec::new(),
        foreign: Vec::new(),
        error: None,
        log_error: None,
    };
    if let Err(error) = look(inner, resource, &mut survey).await {
        match error {
            Unseen::Resource(error) => survey.error = Some(error),
            Unseen::Log(error) => survey.log_error = Some(error),
        }
    }
    survey
}

enum Unseen {
    Resource(ResourceError),
    Log(LogError),
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(error) => write!(f, "it could not be looked at again: {error}"),
            Self::Log(_) => f.write_str("the log cannot be read"),
        }
    }
}

async fn look(
    inner: &Inner,
    resource: &dyn ResourceManager,
    survey: &mut ResourceSurvey,
) -> Result<(), Unseen> {
    let scanned = scan(inner, resource).await.map_err(Unseen::Resource)?;
    let mut p = Vec::new();
    for branch in scanned.branches {
        let age = branch.age;
        match branch.owner {
            XidOwner::Unanimous(xid) => p.push((xid, age)),
            XidOwner::Foreign(text) => survey.foreign.push(ForeignBranch { text, age }),
        }
    }
    match plan_all(inner, resource, &p).await {
        Ok(branches) => {
            survey.branches = branches;
            Ok(())
        }
        // What is prepared is seen, and nothing is said of what becomes of it.
        Err(unseen) => {
            let waiting = p.into_iter().map(|(xid, age)| SurveyedBranch {
                xid,
                age,
                is_prepared: true,
                is_decided: None,
                planned: Planned::Wait(unseen.to_string()),
            });
            survey.branches = waiting.collect();
            Err(unseen)
        }
    }
}

/// A, T and Q, and what follows for each of P, and for what decisions name here.
async fn plan_all(
    inner: &Inner,
    resource: &dyn ResourceManager,
    p: &[(Xid, Option<Duration>)],
) -> Result<Vec<SurveyedBranch>, Unseen> {
    let a: HashSet<Gtrid> = p
        .iter()
        .map(|(xid, _)| xid.gtrid)
        .filter(|gtrid| inner.active.contains(*gtrid))
        .collect();
    let t = ask_log(inner, Recorded::read(inner))
        .await
        .map_err(Unseen::Log)?;
    let named = t.named(inner, resource).await.map_err(Unseen::Log)?;
    if p.is_empty() && named.is_empty() {
        return Ok(Vec::new());
    }
    let again = scan(inner, resource).await.map_err(Unseen::Resource)?;
    let q: HashSet<Xid> = ours(again, &mut Vec::new()).into_iter().collect();
    let xids: Vec<Xid> = p.iter().map(|(xid, _)| xid.clone()).collect();
    let looked_up = LookedUp::read(inner, &t, &xids).await;
    let hands = ask_log(inner, inner.log.hands())
        .await
        .map_err(Unseen::Log)?;
    let illegible = illegible(hands.illegible);
    let branches = p.iter().map(|(xid, age)| {
        let found = looked_up.judge(&t, xid);
        planned(xid.clone(), *age, &a, found, &q)
    });
    let absent = named.into_iter().filter(|(xid, _)| !q.contains(xid));
    let absent = absent.map(|(xid, _)| SurveyedBranch {
        xid,
        age: None,
        is_prepared: false,
        is_decided: Some(true),
        planned: Planned::Prove,
    });
    let mut branches: Vec<_> = branches.chain(absent).collect();
    for branch in branches.iter_mut().filter(|b| illegible.contains(&b.xid)) {
        branch.planned = Planned::Wait(ILLEGIBLE.to_owned());
    }
    Ok(branches)
}

fn planned(
    xid: Xid,
    age: Option<Duration>,
    a: &HashSet<Gtrid>,
    found: Result<(EpochView, Option<bool>), LogError>,
    q: &HashSet<Xid>,
) -> SurveyedBranch {
    let (is_decided, planned) = match found {
        Ok((view, decided)) => {
            let resolution = plan(
                view,
                || a.contains(&xid.gtrid),
                || decided == Some(true),
                || q.contains(&xid),
            );
            (decided, resolution.into())
        }
        Err(error) => {
            let why = format!("the log cannot be read: {error}");
            (None, Planned::Wait(why))
        }
    };
    SurveyedBranch {
        is_prepared: true,
        xid,
        age,
        is_decided,
        planned,
    }
}

#[cfg(test)]
#[path = "survey_test.rs"]
mod survey_test;
