//! Giving up a branch that is lost: what a person asks for, what stands against it, and what came
//! of it. What is recorded, and in which order: `recovery::lost`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{HandAct, HandState};
use unanimous_core::xid::{Gtrid, ResourceName};

use super::person::{Person, apart};
use crate::TransactionManager;
use crate::manager::Inner;
use crate::recovery::{LostBranch, give_up, look_for_lost};

/// A person says that a branch of a pending decision is lost: its database is gone for good, or
/// another server has taken its place, and nobody can prove how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GiveUp {
    /// The transaction.
    pub gtrid: String,
    /// The resource at which the branch was.
    pub resource: String,
    /// Who: account and host. One line.
    pub who: String,
    /// Why. One line.
    pub reason: String,
    /// Also if the resource is not registered here, and members of the log live that may have it:
    /// none of them has.
    #[serde(default)]
    pub nobody_has_it: bool,
}

impl GiveUp {
    /// Which branch is lost, who says so, and why.
    pub fn new(
        gtrid: impl Into<String>,
        resource: impl Into<String>,
        who: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            gtrid: gtrid.into(),
            resource: resource.into(),
            who: who.into(),
            reason: reason.into(),
            nobody_has_it: false,
        }
    }

    /// Inside an application: what it would do now, or, if `act`, does it.
    ///
    /// Cancel safety: whoever acts does so in a task of its own. Once this was polled, it goes on
    /// although its future is dropped.
    ///
    /// # Errors
    /// It was not understood: says what, and nothing was done. Or the log did not take all of it:
    /// says how far it has come.
    pub async fn within(&self, tm: &TransactionManager, act: bool) -> Result<GivenUp, String> {
        self.at(tm.inner(), act).await
    }

    /// See [`within`](Self::within).
    pub(super) async fn at(&self, inner: &Arc<Inner>, act: bool) -> Result<GivenUp, String> {
        if !act {
            return carry_out(inner, self, false).await;
        }
        let (at, wanted) = (Arc::clone(inner), self.clone());
        apart(inner, async move { carry_out(&at, &wanted, true).await }).await
    }
}

/// What giving a branch up would do, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GivenUp {
    /// The process id of the application that looked, or acted; `null` if the caller did.
    pub application: Option<u32>,
    /// The transaction.
    pub gtrid: String,
    /// The resource at which the branch was.
    pub resource: String,
    /// On which server it was prepared; `null` if it was refused.
    pub server: Option<String>,
    /// Why its end cannot be proven; `null` if it was refused.
    pub why: Option<String>,
    /// It was done: the branch is on record as a hazard that was dealt with, and its decision waits
    /// for it no more.
    pub acted: bool,
    /// What a person should know: the other branches, and what could not be seen.
    pub notes: Vec<String>,
    /// Why nothing is done. Empty if nothing stands against it.
    pub refusals: Vec<String>,
}

/// Looks, and acts if nothing stands against it and it is to.
async fn carry_out(inner: &Arc<Inner>, wanted: &GiveUp, act: bool) -> Result<GivenUp, String> {
    let GiveUp {
        gtrid, resource, ..
    } = wanted;
    let unknown = |_| format!("{gtrid} is no transaction of Unanimous's");
    let id: Gtrid = gtrid.parse().map_err(unknown)?;
    let name: ResourceName = resource
        .parse()
        .map_err(|error| format!("{resource:?} is no resource's name: {error}"))?;
    let person = Person::of(&wanted.who, &wanted.reason)?;
    let mut told = GivenUp {
        application: None,
        gtrid: gtrid.clone(),
        resource: resource.clone(),
        server: None,
        why: None,
        acted: false,
        notes: Vec::new(),
        refusals: Vec::new(),
    };
    match look_for_lost(inner, id, &name, wanted.nobody_has_it).await {
        Err(refusal) => told.refusals.push(refusal),
        Ok(lost) => {
            tell(&mut told, &lost);
            if act {
                let proof = Some((lost.record.identity, lost.record.evidence));
                let (act, state) = (HandAct::Forget, HandState::Intended);
                let by_hand = person.record(inner, (id, name), act, proof, state)?;
                give_up(inner, &by_hand).await?;
                told.acted = true;
                // The others' ends are found out, and the decision completed.
                inner.recovery.wake.all();
            }
        }
    }
    Ok(told)
}

fn tell(told: &mut GivenUp, lost: &LostBranch) {
    told.server = Some(lost.record.identity.as_str().to_owned());
    told.why = Some(lost.why.clone());
    for other in &lost.others {
        let name = &other.resource;
        let words = match (other.is_prepared, other.is_over) {
            (true, _) => "is prepared, and stays as it was decided: unanimous recover commits it",
            (false, true) => "has ended",
            (false, false) => "is not prepared: unanimous recover proves how it ended",
        };
        told.notes.push(format!("{name}: its branch {words}"));
    }
    told.notes.extend(lost.unseen.iter().cloned());
}
