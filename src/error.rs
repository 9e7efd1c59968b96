//! Errors say what the caller may do next.

use std::fmt;

use unanimous_core::ports::{
    BranchError, BranchErrorKind, Cause, LogError, Refusal, ResourceError,
};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName};

/// The manager could not be started. Nothing was changed anywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The decision log cannot be opened.
    #[error("the decision log cannot be opened: {0}")]
    Log(#[from] LogError),
    /// Servers are reachable but cannot do what will be asked of them: one error for each resource,
    /// with everything that is to be mended there.
    #[error("{}", one_by_one(.0))]
    Unfit(Vec<ResourceError>),
    /// Two resources have the same name.
    #[error("resource name {0} is used twice: give each resource a name of its own")]
    NameUsedTwice(ResourceName),
    /// No log was given.
    #[error("no decision log was given: call .log(FileLog::at(\"…\")) before start")]
    NoLog,
}

fn one_by_one(errors: &[ResourceError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join(". ")
}

/// A branch could not be enlisted. The transaction can only be rolled back now.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EnlistError {
    /// The resource is not one of this manager's, so recovery would never see its branches.
    #[error("resource {0} is not registered: add .resource(&…) where the manager is built")]
    NotRegistered(ResourceName),
    /// The same resource twice in one call: it has one branch, and two mutable borrows are asked
    /// for.
    #[error("resource {0} appears twice in one enlist: enlist it once and share the branch")]
    Twice(ResourceName),
    /// Read-only and writing branches of one resource cannot be mixed in one transaction.
    #[error(
        "resource {0} is already enlisted the other way: use either enlist or enlist_read_only"
    )]
    RoleMixed(ResourceName),
    /// Two resources on one server (MySQL, MariaDB) or in one database (PostgreSQL): their branches
    /// would block each other.
    #[error(
        "resources {resource} and {other} are on the same server: use one resource for both in \
         this transaction"
    )]
    SameServer {
        /// The one that was to be enlisted.
        resource: ResourceName,
        /// The one that is.
        other: ResourceName,
    },
    /// The branch could not be opened.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// An earlier error left this transaction with nothing but its rollback.
    #[error("the transaction is rollback-only after an earlier error: roll it back")]
    RollbackOnly,
    /// The transaction's deadline has passed.
    #[error(
        "the deadline of the transaction has passed: roll it back; `Config::deadline` or \
         `set_deadline` gives a longer one"
    )]
    DeadlinePassed,
    /// The manager is shutting down.
    #[error(
        "the transaction manager was shut down: roll the transaction back, and run it again after \
         the next start or on another instance"
    )]
    ShutDown,
}

/// Why a transaction was rolled back.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackCause {
    /// A branch voted to roll back, or its vote was not heard.
    #[error(transparent)]
    Branch(BranchError),
    /// The decision log refused the decision.
    #[error("the decision log refused: {0}")]
    Log(Refusal),
    /// The transaction's deadline passed before commit was asked for.
    #[error(
        "the deadline of the transaction had passed before commit was asked for; \
         `Config::deadline` or `set_deadline` gives a longer one"
    )]
    DeadlinePassed,
    /// The transaction's deadline passed while new decisions were held by a barrier
    /// (`unanimous barrier`), or while the decision log's rows were locked. Nothing was decided.
    #[error(
        "the deadline of the transaction passed while new decisions were held (by unanimous \
         barrier, or by a lock on the decision log): nothing was decided; run it again, and give \
         it more time by `Config::deadline` or `set_deadline`, or barriers less"
    )]
    Held,
    /// An enlist had failed, and the application committed all the same.
    #[error("an enlist had failed before: {0}")]
    Enlist(Box<EnlistError>),
    /// The application had marked the transaction.
    #[error("the application had marked the transaction rollback-only")]
    MarkedRollbackOnly,
    /// The branch in this slot belongs to another transaction: two were swapped.
    #[error(
        "the branch of resource {0} was swapped with one of another transaction: both are rolled \
         back; keep each branch with its own transaction"
    )]
    Swapped(ResourceName),
}

impl RollbackCause {
    /// A conflict, or a server without room to prepare: the slots of others come free. Or the epoch
    /// was closed: the log goes on under a new one. Or a last resource lacks the rights to be one,
    /// and prepares from then on.
    pub(crate) fn may_pass(&self) -> bool {
        let may_pass = |error: &BranchError| {
            [Cause::Exhausted, Cause::NoRightsAsLast]
                .iter()
                .any(|cause| error.kind() == BranchErrorKind::RolledBack(*cause))
        };
        match self {
            Self::Branch(error) => self.is_conflict() || may_pass(error),
            Self::Log(refusal) => {
                matches!(refusal, Refusal::EpochClosed | Refusal::LastRolledBack)
            }
            Self::DeadlinePassed
            | Self::Held
            | Self::Enlist(_)
            | Self::MarkedRollbackOnly
            | Self::Swapped(_) => false,
        }
    }

    /// May a new transaction succeed where this one did not? True for serialization failures and
    /// deadlocks.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Branch(error) => error.kind() == BranchErrorKind::RolledBack(Cause::Conflict),
            Self::Log(_)
            | Self::DeadlinePassed
            | Self::Held
            | Self::Enlist(_)
            | Self::MarkedRollbackOnly
            | Self::Swapped(_) => false,
        }
    }
}

/// How a commit did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Nothing was changed anywhere, but for what the application itself committed in a branch
    /// behind the transaction's back: the cause says so then. A new transaction may try again.
    #[error("transaction {gtrid} was rolled back: {cause}")]
    RolledBack {
        /// The transaction.
        gtrid: Gtrid,
        /// Why.
        #[source]
        cause: RollbackCause,
    },
    /// The outcome is not known here and now. Do not retry: ask `outcome(gtrid)` later. What is in
    /// doubt is resolved in the background; or left to a person, if the reason says that it cannot
    /// be found out any more.
    #[error(
        "the outcome of transaction {gtrid} is not known yet: {reason}; ask `outcome` for it \
         later, and do not run it again before"
    )]
    Undetermined {
        /// The transaction to ask for later.
        gtrid: Gtrid,
        /// What was not heard.
        reason: String,
    },
    /// At least one branch ended against the decision. A person has to look; it is in the log.
    #[error(
        "transaction {gtrid} was committed, but {}: a person has to bring the data in line",
        list(branches)
    )]
    Heuristic {
        /// The transaction.
        gtrid: Gtrid,
        /// The branches that ended otherwise.
        branches: Vec<(ResourceName, Heuristic)>,
    },
}

impl CommitError {
    /// The transaction it is about.
    pub const fn gtrid(&self) -> Gtrid {
        match self {
            Self::RolledBack { gtrid, .. }
            | Self::Undetermined { gtrid, .. }
            | Self::Heuristic { gtrid, .. } => *gtrid,
        }
    }
}

fn list(branches: &[(ResourceName, Heuristic)]) -> impl fmt::Display {
    let end = |heuristic: &Heuristic| match heuristic {
        Heuristic::Commit => "was committed alone",
        Heuristic::Rollback => "was rolled back alone",
        Heuristic::Mixed => "was partly committed alone",
        Heuristic::Hazard => "may have ended otherwise",
    };
    let parts = branches
        .iter()
        .map(|(name, heuristic)| format!("{name} {}", end(heuristic)));
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_by_itself_is_told_from_what_needs_a_mend() {
        let branch = |kind| {
            let name = "orders".parse().unwrap();
            RollbackCause::Branch(BranchError::new(kind, name, "in a test"))
        };
        let full_disk = LogError::new("the disk is full: make room");
        for (cause, may_pass) in [
            (branch(BranchErrorKind::RolledBack(Cause::Conflict)), true),
            (branch(BranchErrorKind::RolledBack(Cause::Exhausted)), true),
            (
                branch(BranchErrorKind::RolledBack(Cause::NoRightsAsLast)),
                true,
            ),
            (branch(BranchErrorKind::RolledBack(Cause::Refused)), false),
            (branch(BranchErrorKind::Undetermined), false),
            (RollbackCause::Log(Refusal::EpochClosed), true),
            (RollbackCause::Log(Refusal::LastRolledBack), true),
            (RollbackCause::Log(Refusal::NotAttempted(full_disk)), false),
            (RollbackCause::DeadlinePassed, false),
            (RollbackCause::Held, false),
        ] {
            assert_eq!(cause.may_pass(), may_pass, "{cause}");
        }
    }
}
