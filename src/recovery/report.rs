//! What a recovery pass found, did and left, and why.

use std::collections::BTreeMap;
use std::fmt;

use unanimous_core::ports::{LogError, Problem, ResourceError};
use unanimous_core::protocol::LeaveReason;
use unanimous_core::xid::{ResourceName, Xid};

/// One pass over all resources. Its `Display` is one line for a log file: short however much is in
/// doubt, without secrets.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// By resource, in the order of their names.
    pub resources: Vec<ResourceReport>,
    /// Resources that pending decisions name but this manager does not have: register them, or
    /// their branches stay prepared. Their decisions are kept.
    pub unknown_resources: Vec<ResourceName>,
    /// Resources whose pass had not ended when the report was made; it goes on in the background.
    pub unfinished: Vec<ResourceName>,
    /// The decision log could not be read, so `unknown_resources` may lack some.
    pub log_error: Option<LogError>,
}

impl RecoveryReport {
    /// Nothing is in doubt as far as could be seen, and everything could be seen.
    pub fn is_clean(&self) -> bool {
        self.unknown_resources.is_empty()
            && self.unfinished.is_empty()
            && self.log_error.is_none()
            && self.resources.iter().all(ResourceReport::is_clean)
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |count: fn(&ResourceReport) -> usize| self.resources.iter().map(count).sum();
        let (committed, rolled_back): (usize, usize) =
            (sum(|r| r.committed), sum(|r| r.rolled_back));
        match (committed, rolled_back) {
            (0, 0) if self.is_clean() => f.write_str("recovery: nothing in doubt")?,
            (0, 0) => f.write_str("recovery: nothing ended")?,
            _ => write!(
                f,
                "recovery: {committed} committed, {rolled_back} rolled back"
            )?,
        }
        for resource in &self.resources {
            resource.write_rest(f)?;
        }
        if !self.unfinished.is_empty() {
            write!(f, "; still under way: {}", names(&self.unfinished))?;
        }
        if !self.unknown_resources.is_empty() {
            let unknown = names(&self.unknown_resources);
            write!(
                f,
                "; not registered, but named by decisions, which are kept: {unknown}: register them"
            )?;
        }
        // A resource that could not read the log has said it.
        if let Some(error) = &self.log_error
            && !self.resources.iter().any(|r| r.log_error.is_some())
        {
            write!(f, "; the log cannot be read: {error}")?;
        }
        Ok(())
    }
}

pub(super) const PANICKED: &str = "the pass panicked, which is a bug; the next one tries again";

/// How many reasons are told for each resource: some name the branch, which makes as many.
const REASONS_MAX: usize = 5;

fn names(names: &[ResourceName]) -> String {
    let names: Vec<&str> = names.iter().map(ResourceName::as_str).collect();
    names.join(", ")
}

/// One pass at one resource.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ResourceReport {
    /// Which resource.
    pub resource: ResourceName,
    /// Branches that this pass committed, or proved to be committed.
    pub committed: usize,
    /// Orphans that this pass rolled back.
    pub rolled_back: usize,
    /// Branches of ours that are prepared and were left, and why.
    pub left: Vec<(Xid, Left)>,
    /// Prepared transactions of others, in the server's text. Never touched.
    pub foreign: Vec<String>,
    /// The resource could not be looked at.
    pub error: Option<ResourceError>,
    /// The decision log could not be read, so nothing was ended here.
    pub log_error: Option<LogError>,
}

impl ResourceReport {
    pub(super) fn new(resource: ResourceName) -> Self {
        let (left, foreign) = (Vec::new(), Vec::new());
        Self {
            resource,
            committed: 0,
            rolled_back: 0,
            left,
            foreign,
            error: None,
            log_error: None,
        }
    }

    pub(super) fn panicked(resource: ResourceName) -> Self {
        let error = ResourceError::new(Problem::Unavailable, resource.clone(), PANICKED);
        Self {
            error: Some(error),
            ..Self::new(resource)
        }
    }

    /// What is left, and why: one part for each reason, with an example.
    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its texts begin with the resource's name.
        if let Some(error) = &self.error {
            write!(f, "; {error}")?;
        }
        let name = &self.resource;
        if let Some(error) = &self.log_error {
            write!(f, "; resource {name}: the log cannot be read: {error}")?;
        }
        let mut reasons: BTreeMap<String, Vec<&Xid>> = BTreeMap::new();
        if self.log_error.is_none() {
            for (xid, left) in &self.left {
                reasons.entry(left.to_string()).or_default().push(xid);
            }
        }
        let more = reasons.len().saturating_sub(REASONS_MAX);
        for (reason, xids) in reasons.into_iter().take(REASONS_MAX) {
            let (count, example) = (xids.len(), xids[0]);
            write!(f, "; resource {name}: {count} left ({example}): {reason}")?;
        }
        if more > 0 {
            write!(f, "; resource {name}: {more} more reasons to leave others")?;
        }
        if !self.foreign.is_empty() {
            let count = self.foreign.len();
            write!(
                f,
                "; resource {name}: {count} prepared by others, not touched"
            )?;
        }
        Ok(())
    }

    fn is_clean(&self) -> bool {
        let in_doubt = |(_, left): &(Xid, Left)| match left {
            Left::Plan(_) => left.needs_a_person(),
            Left::Retry(_) | Left::Refused(_) | Left::Person(_) => true,
        };
        self.error.is_none() && self.log_error.is_none() && !self.left.iter().any(in_doubt)
    }

    /// Something is left that a later pass may be able to end.
    pub(super) fn may_resolve_itself(&self) -> bool {
        self.error.is_some()
            || self.log_error.is_some()
            || self
                .left
                .iter()
                .any(|(_, left)| matches!(left, Left::Retry(_)))
    }
}

/// Why a branch was left.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Left {
    /// It is not this manager's to end, or not now.
    Plan(LeaveReason),
    /// It could not be ended or proven now; a later pass tries again. Says why.
    Retry(String),
    /// The server will not end it before a person mends something, such as a privilege; later
    /// passes try again. Says what.
    Refused(String),
    /// It ended against the decision, or the proof cannot be had: recorded, a person has to look.
    Person(String),
}

impl Left {
    pub(crate) const fn needs_a_person(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Person(_) => true,
            Self::Plan(reason) => matches!(
                reason,
                LeaveReason::UnlistedOpening
                    | LeaveReason::DecisionMayBeLost
                    | LeaveReason::EndedOtherwise
            ),
            Self::Retry(_) => false,
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(LeaveReason::Active) => f.write_str("its transaction is running"),
            Self::Plan(LeaveReason::OtherMember) => f.write_str("its owner's epoch is open"),
            Self::Plan(LeaveReason::OtherManager) => {
                f.write_str("it belongs to another manager, with a log of its own")
            }
            Self::Plan(LeaveReason::Gone) => f.write_str("it ended meanwhile"),
            Self::Plan(LeaveReason::UnlistedOpening) => f.write_str(
                "its opening is not in the log: was the log restored or copied? Nobody here knows \
                 what was decided, so a person has to find out and end it",
            ),
            Self::Plan(LeaveReason::DecisionMayBeLost) => f.write_str(
                "there is no decision, but one may have been lost: the log's database has failed \
                 over since, or the log was imported from an incomplete export; find out and \
                 end it (or declare the fail-over lossless)",
            ),
            Self::Plan(LeaveReason::EndedOtherwise) => f.write_str(
                "it is on record to have ended otherwise, and it is back: was its database \
                 restored, or has it lost a rollback? A person has to see how the other branches \
                 ended, and end it",
            ),
            Self::Retry(why) | Self::Refused(why) | Self::Person(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod report_test;
