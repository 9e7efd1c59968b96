//! What a person asks for who ends branches by hand, and what is answered: plain data. What is
//! done: `resolve`.

use serde::{Deserialize, Serialize};
use unanimous_core::protocol::Decision;

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
    /// What the person was shown, and agreed to: whatever is otherwise by now is refused. Without
    /// it the words above hold for whatever is found.
    #[serde(default)]
    pub shown: Option<ResolveShown>,
}

/// What a person was shown before the words were given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResolveShown {
    /// As [`Resolved::decided`].
    pub decided: Option<bool>,
    /// As [`Resolved::branches`].
    pub branches: Vec<ResolvedBranch>,
    /// As [`Resolved::hands`].
    pub hands: Vec<String>,
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
            shown: None,
        }
    }

    /// The same, agreed to by a person who was shown this plan of it.
    #[must_use]
    pub fn as_shown(mut self, plan: &Resolved) -> Self {
        self.shown = Some(ResolveShown {
            decided: plan.decided,
            branches: plan.branches.clone(),
            hands: plan.hands.clone(),
        });
        self
    }

    pub(super) const fn decision(&self) -> Decision {
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
    /// The keys of records of people who have done the opposite with a branch of the transaction,
    /// or may have, or may be about to.
    #[serde(default)]
    pub hands: Vec<String>,
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
    /// afterwards, if nobody knows: the server has confirmed it and could not be looked at then, or
    /// has not answered.
    pub ended: Option<bool>,
    /// The log has not taken what came of it, and may not know of it. The words say what.
    #[serde(default)]
    pub unrecorded: bool,
}

impl Resolved {
    /// Everything that was to be ended has ended as was told, and that is on record.
    pub fn is_done(&self) -> bool {
        let is_done = |branch: &ResolvedBranch| branch.ended == Some(true) && !branch.unrecorded;
        self.acted && self.branches.iter().all(is_done)
    }
}
