//! What the operator is told: plain data, the same on the wire, in JSON and behind the tables.
//! Fields are only ever added.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimous_core::protocol::LeaveReason;
use unanimous_core::xid::{Gtrid, Opening};

use super::foreign::decode;
use super::holding::{Held, ListedHorizon};
use crate::log::NO_MANAGER;
use crate::recovery::{
    ForeignBranch, Left, Planned, RecoveryReport, ResourceReport, ResourceSurvey, Survey,
    SurveyedBranch,
};

/// What is prepared at all resources, and what recovery would do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Listing {
    /// The process id of the application that holds the log; `null` if there is none.
    pub application: Option<u32>,
    /// The manager's id; empty if the log cannot tell.
    pub manager: String,
    /// The epoch under which the log is open now; 0 if nobody has it open.
    pub epoch: u32,
    /// How many transactions are running in the application.
    pub active: usize,
    /// By resource.
    pub resources: Vec<ListedResource>,
    /// Resources that pending decisions name but that are not registered.
    pub unknown_resources: Vec<String>,
    /// Why the decision log could not be read.
    pub log_error: Option<String>,
    /// The log is in a table, which others may use at the same time. What they are doing is not
    /// seen: `active` is 0, and `epoch` is 0.
    #[serde(default)]
    pub shared: bool,
    /// Who shares the log: every opening that is open, and every other one of which a branch is
    /// listed. Empty for a log that nobody can share.
    #[serde(default)]
    pub members: Vec<ListedMember>,
}

/// One that shares the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedMember {
    /// The epoch of its opening.
    pub epoch: u32,
    /// Who it is: host and process, or what it calls itself.
    pub label: String,
    /// How it seems to be.
    pub state: MemberState,
    /// How many seconds ago it gave its last sign of life, by the clock of the log's server, if it
    /// is silent.
    pub silent_seconds: Option<u64>,
    /// How many branches of it are listed.
    pub branches: usize,
    /// Its opening: an epoch alone may be another one's, too.
    #[serde(skip)]
    pub(super) opening: Option<Opening>,
}

/// How a member seems to be. A hint, never a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemberState {
    /// It has given a sign of life within three tenths of `suspect_after`, as the config file of
    /// whoever looks has it: that is to be the same everywhere.
    Alive,
    /// It has not: dead, paused, or cut off.
    Silent,
    /// Nothing more is decided under its opening. Its branches can be ended by the others.
    Closed,
}

/// What is prepared at one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedResource {
    /// Which.
    pub resource: String,
    /// Why it could not be looked at.
    pub error: Option<String>,
    /// What is prepared there, and what decisions say of it.
    pub branches: Vec<ListedBranch>,
    /// Prepared transactions of which the server does not tell whose they are: it is one of the
    /// branches without `held`.
    #[serde(default)]
    pub untold: Vec<Held>,
    /// What of the server as a whole is held back.
    #[serde(default)]
    pub horizon: Option<ListedHorizon>,
    /// What of locks and waiting sessions could not be seen, and what would show it.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One prepared branch, or one that a decision names and that is not proven to have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedBranch {
    /// Its XID, or the server's text if it is foreign.
    pub xid: String,
    /// The transaction; `null` if it is foreign.
    pub gtrid: Option<String>,
    /// Whose it is, and how it stands.
    pub state: State,
    /// Somebody, be it recovery or a person, has to end it.
    pub in_doubt: bool,
    /// For how many seconds it has been prepared, where the server tells.
    pub age_seconds: Option<u64>,
    /// The epoch in which its transaction was begun; `null` if it is foreign.
    pub epoch: Option<u32>,
    /// `true`: it was decided to commit it. `false`: it was not. `null`: this log cannot tell.
    pub decided: Option<bool>,
    /// When it was decided to commit it, in seconds since 1970, if that is known.
    #[serde(default)]
    pub decided_at: Option<u64>,
    /// What recovery would do.
    pub plan: String,
    /// Which member's it is, by its label, if the log is shared and lists its opening.
    #[serde(default)]
    pub member: Option<String>,
    /// What it holds and whom it blocks; `null` if that cannot be seen.
    #[serde(default)]
    pub held: Option<Held>,
    /// What its name says, if it is foreign and of a known format.
    #[serde(default)]
    pub decoded: Option<String>,
}

/// Whose a prepared branch is, and how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Its transaction is running: healthy traffic.
    Active,
    /// Ours, decided to be committed, and not yet committed.
    Decided,
    /// Ours, not decided, and nobody can decide it any more.
    Orphaned,
    /// Ours, of another member whose epoch is open.
    OtherMember,
    /// Ours, of a member whose epoch is open and that gives no sign of life, or was closed while it
    /// was looked at.
    SilentMember,
    /// Ours by its manager, of an opening that the log does not list: restored or copied?
    Unlisted,
    /// Ours, on record to have ended otherwise, and prepared again: was its database restored, or
    /// has it lost a rollback?
    CameBack,
    /// It names another manager.
    OtherManager,
    /// Somebody else's prepared transaction.
    Foreign,
    /// It ended while it was looked at.
    Ended,
    /// Nothing can be said while the log cannot be read, or the resource not be looked at again.
    Unknown,
}

/// What a recovery pass did and left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recovered {
    /// The process id of the application that made the pass; `null` if the caller did.
    pub application: Option<u32>,
    /// By resource.
    pub resources: Vec<RecoveredResource>,
    /// Resources that pending decisions name but that are not registered.
    pub unknown_resources: Vec<String>,
    /// Resources whose pass had not ended when the report was made.
    pub unfinished: Vec<String>,
    /// Why the decision log could not be read.
    pub log_error: Option<String>,
    /// Nothing is in doubt, and everything could be seen.
    pub clean: bool,
    /// Epochs that were closed before the pass: of members that were silent, or that were named.
    #[serde(default)]
    pub closed_epochs: Vec<u32>,
    /// Epochs of silent members that nobody has closed yet: their branches were left.
    #[serde(default)]
    pub silent_epochs: Vec<u32>,
}

/// What a pass did and left at one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecoveredResource {
    /// Which.
    pub resource: String,
    /// Branches that were committed, or proved to be.
    pub committed: usize,
    /// Orphans that were rolled back.
    pub rolled_back: usize,
    /// Branches of ours that were left.
    pub left: Vec<LeftBranch>,
    /// Prepared transactions of others, in the server's text. Never touched.
    pub foreign: Vec<String>,
    /// Why it could not be looked at.
    pub error: Option<String>,
}

/// A branch that a pass left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeftBranch {
    /// Its XID.
    pub xid: String,
    /// Why it was left.
    pub why: String,
    /// No later pass will end it before a person has done something.
    pub needs_a_person: bool,
}

impl Listing {
    pub(super) fn new(survey: &Survey, opening: Opening, active: usize) -> Self {
        Self {
            application: None,
            manager: match opening.manager {
                NO_MANAGER => String::new(),
                manager => manager.to_string(),
            },
            epoch: opening.epoch.0,
            active,
            resources: survey.resources.iter().map(Into::into).collect(),
            unknown_resources: survey.unknown_resources.iter().map(text).collect(),
            log_error: survey.log_error.as_ref().map(text),
            shared: false,
            members: Vec::new(),
        }
    }

    /// The same, with who shares the log.
    pub(super) fn shared_by(mut self, members: Vec<ListedMember>) -> Self {
        let mut members = members;
        self.shared = true;
        for branch in self.resources.iter_mut().flat_map(|at| &mut at.branches) {
            let gtrid = branch.gtrid.as_ref().and_then(|text| text.parse().ok());
            let opening = gtrid.map(|gtrid: Gtrid| gtrid.opening);
            let is_its = |member: &&mut ListedMember| member.opening == opening;
            let Some(member) = members.iter_mut().find(is_its) else {
                continue;
            };
            member.branches += 1;
            branch.member = Some(member.label.clone());
            if branch.state != State::OtherMember {
                continue;
            }
            branch.plan = match member.state {
                MemberState::Alive => continue,
                MemberState::Silent => format!("leave: until epoch {} is closed", member.epoch),
                // Since it was looked at.
                MemberState::Closed => format!(
                    "leave: epoch {} was closed just now, and the next pass ends it",
                    member.epoch
                ),
            };
            branch.state = State::SilentMember;
            branch.in_doubt = true;
        }
        self.members = members
            .into_iter()
            .filter(|member| member.state != MemberState::Closed || member.branches > 0)
            .collect();
        self
    }

    /// Something is in doubt, as far as could be seen.
    pub fn is_in_doubt(&self) -> bool {
        let mut branches = self.resources.iter().flat_map(|at| &at.branches);
        !self.unknown_resources.is_empty() || branches.any(|branch| branch.in_doubt)
    }

    /// A resource or the log could not be looked at.
    pub fn has_failed(&self) -> bool {
        self.log_error.is_some() || self.resources.iter().any(|at| at.error.is_some())
    }
}

impl Recovered {
    pub(super) fn new(report: &RecoveryReport) -> Self {
        Self {
            application: None,
            resources: report.resources.iter().map(Into::into).collect(),
            unknown_resources: report.unknown_resources.iter().map(text).collect(),
            unfinished: report.unfinished.iter().map(text).collect(),
            log_error: report.log_error.as_ref().map(text),
            clean: report.is_clean(),
            closed_epochs: Vec::new(),
            silent_epochs: Vec::new(),
        }
    }

    /// A resource or the log could not be looked at.
    pub fn has_failed(&self) -> bool {
        self.log_error.is_some() || self.resources.iter().any(|at| at.error.is_some())
    }
}

fn text(value: &impl ToString) -> String {
    value.to_string()
}

impl From<&ResourceSurvey> for ListedResource {
    fn from(survey: &ResourceSurvey) -> Self {
        let ours = survey.branches.iter().map(ListedBranch::from);
        let foreign = survey.foreign.iter().map(ListedBranch::from);
        Self {
            resource: survey.resource.to_string(),
            error: survey.error.as_ref().map(text),
            branches: ours.chain(foreign).collect(),
            untold: Vec::new(),
            horizon: None,
            notes: Vec::new(),
        }
    }
}

impl From<&SurveyedBranch> for ListedBranch {
    fn from(branch: &SurveyedBranch) -> Self {
        Self {
            xid: branch.xid.to_string(),
            gtrid: Some(branch.xid.gtrid.to_string()),
            state: state(&branch.planned),
            in_doubt: branch.planned.is_in_doubt(),
            age_seconds: branch.age.map(|age| age.as_secs()),
            epoch: Some(branch.xid.gtrid.opening.epoch.0),
            decided: branch.is_decided,
            decided_at: None,
            plan: branch.planned.to_string(),
            member: None,
            held: None,
            decoded: None,
        }
    }
}

const fn state(planned: &Planned) -> State {
    match planned {
        Planned::Commit | Planned::Prove => State::Decided,
        Planned::RollBack => State::Orphaned,
        Planned::Wait(_) => State::Unknown,
        Planned::Leave(reason) => match reason {
            LeaveReason::Active => State::Active,
            LeaveReason::OtherMember => State::OtherMember,
            LeaveReason::UnlistedOpening | LeaveReason::DecisionMayBeLost => State::Unlisted,
            LeaveReason::EndedOtherwise => State::CameBack,
            LeaveReason::OtherManager => State::OtherManager,
            LeaveReason::Gone => State::Ended,
        },
    }
}

impl From<&ForeignBranch> for ListedBranch {
    fn from(branch: &ForeignBranch) -> Self {
        Self {
            xid: branch.text.clone(),
            gtrid: None,
            state: State::Foreign,
            in_doubt: false,
            age_seconds: branch.age.as_ref().map(Duration::as_secs),
            epoch: None,
            decided: None,
            decided_at: None,
            plan: "leave: somebody else's".into(),
            member: None,
            held: None,
            decoded: decode(&branch.text).map(|decoded| decoded.describe()),
        }
    }
}

impl From<&ResourceReport> for RecoveredResource {
    fn from(report: &ResourceReport) -> Self {
        let resource_error = report.error.as_ref().map(text);
        // Running transactions and other managers' branches are nobody's business here.
        let left = report.left.iter().filter(|(_, left)| match left {
            Left::Plan(_) => left.needs_a_person(),
            Left::Retry(_) | Left::Refused(_) | Left::Person(_) => true,
        });
        let left = left.map(|(xid, left)| LeftBranch {
            xid: xid.to_string(),
            why: left.to_string(),
            needs_a_person: left.needs_a_person(),
        });
        Self {
            resource: report.resource.to_string(),
            committed: report.committed,
            rolled_back: report.rolled_back,
            left: left.collect(),
            foreign: report.foreign.clone(),
            error: resource_error.or_else(|| report.log_error.as_ref().map(text)),
        }
    }
}
