//! What can go wrong at a resource, in the terms that the protocol decides by.
//!
//! Adapters translate a server's codes into these kinds in one table each (`codes.rs`); whatever
//! the table does not list is [`BranchErrorKind::Undetermined`]: it may have happened.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use super::SourceError;
use crate::xid::ResourceName;

/// What a failed request to a branch means for the protocol. X/Open's names in parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BranchErrorKind {
    /// The branch is rolled back and gone (`XA_RB*`).
    RolledBack(Cause),
    /// The server does not know the XID (`XAER_NOTA`). Proves nothing by itself (I3).
    UnknownXid,
    /// The XID exists already (`XAER_DUPID`): a bug of ours or a foreign twin.
    DuplicateXid,
    /// The branch is in a state in which this cannot be done (`XAER_PROTO`, `XAER_RMFAIL` 1399).
    WrongState,
    /// The server cannot be reached, or refuses for now; nothing was done (`XAER_RMFAIL`).
    Unavailable,
    /// The server reached and understood the request but cannot do it until a person mends
    /// something, such as a privilege (`XAER_RMERR`). Nothing was done.
    Failed,
    /// No answer, or one that proves nothing: it may have happened.
    Undetermined,
}

/// Why a branch was rolled back, as far as it matters to the caller: may a new transaction succeed?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Serialization failure, deadlock or the like: a new transaction may well succeed.
    Conflict,
    /// A lock or time limit was run into: perhaps a deadlock across databases.
    Timeout,
    /// A constraint, trigger or statement of the application failed.
    Refused,
    /// The application said so, or left a failed statement behind.
    RollbackOnly,
    /// The server has no room: slots for prepared transactions, memory, disk.
    Exhausted,
    /// The server cannot be reached.
    Unreachable,
    /// Its account may not write to the tables of the decision log, where it was to be the last
    /// resource. It prepares in the transactions that follow.
    NoRightsAsLast,
}

/// One failed request to a branch: what it means, at which resource, and the server's own words.
#[derive(Debug, Clone)]
pub struct BranchError {
    kind: BranchErrorKind,
    resource: ResourceName,
    words: Words,
}

impl BranchError {
    /// An error at `resource`. `message` says what was asked and what to do, and holds no secret.
    pub fn new(kind: BranchErrorKind, resource: ResourceName, message: impl Into<String>) -> Self {
        Self {
            kind,
            resource,
            words: Words::new(message),
        }
    }

    /// Keeps the driver's own error as the source.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<SourceError>) -> Self {
        self.words.keep(source);
        self
    }

    /// What it means for the protocol.
    pub const fn kind(&self) -> BranchErrorKind {
        self.kind
    }

    /// Where it happened.
    pub const fn resource(&self) -> &ResourceName {
        &self.resource
    }
}

impl fmt::Display for BranchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resource {}: {}", self.resource, self.words.message)
    }
}

impl core::error::Error for BranchError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.words.source()
    }
}

/// A resource as a whole cannot be used: to connect, scan or check it failed.
#[derive(Debug, Clone)]
pub struct ResourceError {
    problem: Problem,
    resource: ResourceName,
    words: Words,
}

/// Whether a resource that cannot be used may mend itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// Not reachable now; trying again may succeed.
    Unavailable,
    /// A setting, version or privilege is wrong; a person has to mend it, and the message says how.
    Unfit,
}

impl ResourceError {
    /// An error of `resource` as a whole. `message` says what to do, and holds no secret.
    pub fn new(problem: Problem, resource: ResourceName, message: impl Into<String>) -> Self {
        Self {
            problem,
            resource,
            words: Words::new(message),
        }
    }

    /// Keeps the driver's own error as the source.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<SourceError>) -> Self {
        self.words.keep(source);
        self
    }

    /// May it mend itself?
    pub const fn problem(&self) -> Problem {
        self.problem
    }

    /// Which resource it is.
    pub const fn resource(&self) -> &ResourceName {
        &self.resource
    }
}

impl fmt::Display for ResourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resource {}: {}", self.resource, self.words.message)
    }
}

impl core::error::Error for ResourceError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.words.source()
    }
}

/// What every error of the ports says, and the driver's own error behind it.
#[derive(Debug, Clone)]
pub(super) struct Words {
    pub(super) message: String,
    source: Option<Arc<SourceError>>,
}

impl Words {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }

    pub(super) fn keep(&mut self, source: impl Into<SourceError>) {
        self.source = Some(Arc::new(source.into()));
    }

    pub(super) fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        let source: &SourceError = self.source.as_deref()?;
        Some(&**source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use core::error::Error;

    fn told(error: &dyn Error) -> (String, Option<String>) {
        (error.to_string(), error.source().map(ToString::to_string))
    }

    #[test]
    fn an_error_names_its_resource_and_keeps_the_drivers_own_words() {
        let orders: ResourceName = "orders".parse().unwrap();
        let kind = BranchErrorKind::RolledBack(Cause::Conflict);
        let branch = BranchError::new(kind, orders.clone(), "cannot prepare");
        assert_eq!((branch.kind(), branch.resource()), (kind, &orders));
        let text = "resource orders: cannot prepare".to_string();
        assert_eq!(told(&branch), (text.clone(), None));
        let branch = branch.with_source("the server said no");
        assert_eq!(told(&branch), (text, Some("the server said no".into())));

        let resource = ResourceError::new(Problem::Unfit, orders.clone(), "no slots");
        assert_eq!(resource.problem(), Problem::Unfit);
        assert_eq!(resource.resource(), &orders);
        let text = "resource orders: no slots".to_string();
        assert_eq!(told(&resource), (text.clone(), None));
        let resource = resource.with_source("the server said no");
        assert_eq!(told(&resource), (text, Some("the server said no".into())));
    }
}
