//! The port of a resource manager: a database that takes part in global transactions.
//!
//! Contract, checked by the conformance suite:
//! 1. After [`Branch::prepare`] answered [`PrepareReply::Prepared`], the branch survives the crash
//!    of its server and of this process, and only `commit` or `rollback` ends it.
//! 2. Success is answered only on the server's positive word for *this* branch. A lost reply, an
//!    unlisted code or a time-out is never success and never "rolled back" (I3).
//! 3. Dropping a future of this port never leaves a connection that another branch could be given
//!    (I8). Dropping a [`Branch`] closes its connection for good; only [`Branch::release`] lets it
//!    be used again.
//! 4. No text that leaves an implementation holds a password (I8).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use async_trait::async_trait;

use super::{
    BranchError, BranchErrorKind, Cause, Finding, InspectOptions, Inspection, Preflight,
    ResourceError,
};
use crate::protocol::{Decision, Heuristic};
use crate::xid::{Gtrid, ResourceName, Xid};

/// Which server it is, as far as an absent branch is concerned: *absent* proves something only on
/// the very server that held the branch. Printable ASCII, at most 128 bytes, compared as a whole.
///
/// PostgreSQL: system identifier, timeline and database. MySQL: `server_uuid`. MariaDB: an identity
/// row and `server_id`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerIdentity(Arc<str>);

impl ServerIdentity {
    /// The longest text, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Takes the text if it is printable ASCII of at most 128 bytes.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        printable(text.into(), Self::BYTES_MAX).map(|text| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerIdentity({})", self.0)
    }
}

impl fmt::Display for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an adapter will need to tell what became of a prepared branch that is no longer listed:
/// for PostgreSQL its transaction's number and its backend, for MySQL its connection's number.
///
/// Read by that adapter alone; stored with the decision. Printable ASCII, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Evidence(String);

impl Evidence {
    /// The longest text, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Takes the text if it is printable ASCII of at most 128 bytes.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        printable(text.into(), Self::BYTES_MAX).map(Self)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn printable(text: String, bytes_max: usize) -> Option<String> {
    let fits = text.len() <= bytes_max && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    fits.then_some(text)
}

/// One branch as a decision names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchRecord {
    /// The resource at which it was prepared; also its bqual.
    pub resource: ResourceName,
    /// The server that holds it.
    pub identity: ServerIdentity,
    /// What its adapter keeps for the day the branch is no longer listed.
    pub evidence: Evidence,
}

impl BranchRecord {
    /// The XID of this branch in transaction `gtrid`.
    pub fn xid(&self, gtrid: Gtrid) -> Xid {
        Xid {
            gtrid,
            bqual: self.resource.clone(),
        }
    }
}

/// The answer to prepare.
#[derive(Debug)]
pub enum PrepareReply {
    /// Vote *commit*: prepared and durable.
    Prepared(Evidence),
    /// Vote *read-only*: ended, nothing to do in phase two.
    ReadOnly,
    /// Vote *rollback*: the branch is rolled back for certain.
    RolledBack(BranchError),
    /// No vote was heard: the branch may be prepared, now or later.
    Undetermined(BranchError),
}

/// The answer to a commit in one phase.
#[derive(Debug)]
pub enum OnePhaseReply {
    /// Committed and durable.
    Committed,
    /// Rolled back for certain.
    RolledBack(BranchError),
    /// It may have been committed; nobody can tell here and now.
    Undetermined(BranchError),
}

/// The state of a branch that its server no longer lists as prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// It ended as the decision says: proven.
    Finished,
    /// It is gone for good, and nothing proves how it ended: as it was to be committed, only a
    /// person can have rolled it back. It counts as finished unless a person is on record (MySQL,
    /// MariaDB).
    Presumed,
    /// Proven to have ended against the decision.
    Heuristic(Heuristic),
    /// It may still appear, be held or be in the making: ask again later. Says why.
    InDoubt(String),
    /// The proof cannot be had any more, for example on another server's data. Says why.
    Hazard(String),
}

/// A part of a transaction in one database, on a connection of its own.
///
/// The runtime calls at most one of these methods at a time, each from a task that is not dropped
/// half-way except when a deadline has passed; then the branch itself is dropped, too.
#[async_trait]
pub trait Branch: Send + 'static {
    /// The XID that was given when it was opened.
    fn xid(&self) -> &Xid;

    /// The server at the other end.
    fn identity(&self) -> &ServerIdentity;

    /// What two branches of one transaction may not share: database and cluster for PostgreSQL, the
    /// server for MySQL and MariaDB (two branches of one gtrid block each other there).
    fn scope(&self) -> &str;

    /// Ends the application's work and prepares, in one round trip where the server allows it.
    async fn prepare(&mut self) -> PrepareReply;

    /// Commits the prepared branch.
    ///
    /// # Errors
    /// By kind: `RolledBack` is a heuristic; whatever else, the branch is handed to recovery.
    async fn commit(&mut self) -> Result<(), BranchError>;

    /// Rolls the branch back, active or prepared.
    ///
    /// # Errors
    /// The rollback was not confirmed; recovery will see to it.
    async fn rollback(&mut self) -> Result<(), BranchError>;

    /// Commits without preparing: the only branch that may write.
    async fn commit_one_phase(&mut self) -> OnePhaseReply;

    /// Commits without preparing, as last resource: `statement` (see
    /// [`DecisionTable::last_statement`](super::DecisionTable::last_statement)) records the
    /// decision to commit all the others inside this branch's own transaction. One batch, which
    /// stops at the first error and then rolls back.
    ///
    /// Asked only of branches whose [`scope`](Self::scope) is that of a log that has such a
    /// statement. After [`OnePhaseReply::Undetermined`] the branch is dropped, and the log asked.
    /// A branch that does not implement it answers that, and has sent nothing.
    async fn commit_last(&mut self, _statement: &str) -> OnePhaseReply {
        OnePhaseReply::Undetermined(BranchError::new(
            BranchErrorKind::Undetermined,
            self.xid().bqual.clone(),
            "it cannot be a last resource",
        ))
    }

    /// Ends a branch that was opened read-only.
    ///
    /// # Errors
    /// Any error is a vote to roll back.
    async fn end_read_only(&mut self) -> Result<(), BranchError>;

    /// Wipes the session and lets its connection be used again. Called only when the end of the
    /// branch is known by a positive answer; in every other case the branch is dropped.
    async fn release(self: Box<Self>);
}

/// What a branch is opened with.
#[derive(Debug, Clone)]
pub struct BranchEnv {
    /// Its names.
    pub xid: Xid,
    /// Opened by `enlist_read_only`: without XID, and enforced by the server.
    pub read_only: bool,
    /// How long a statement may wait for a lock.
    pub lock_timeout: Duration,
    /// How long the session may be idle inside the transaction before the server ends it.
    pub idle_timeout: Duration,
}

/// Whose prepared transaction a scan found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum XidOwner {
    /// It parses exactly as one of ours (of some manager's).
    Unanimous(Xid),
    /// Somebody else's, in the form in which the server prints it. Shown, never touched (I4).
    Foreign(String),
}

/// One prepared transaction that a recovery scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedBranch {
    /// Whose it is.
    pub owner: XidOwner,
    /// How long it has been prepared, where the server tells.
    pub age: Option<Duration>,
}

/// What a resource holds prepared: all of it, on a writable server, or an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryScan {
    /// The server that was asked.
    pub identity: ServerIdentity,
    /// What it holds, in this resource's database where the server separates databases; in the
    /// order in which the server ends them soonest.
    pub branches: Vec<ScannedBranch>,
}

/// How many branches a resource can have open at the same time: see [`ResourceManager::room`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The size of its pool.
    pub branches_max: usize,
    /// How long a branch waits for its place.
    pub wait: Duration,
    /// What mends it, for whoever has waited in vain.
    pub mend: &'static str,
}

/// A database that takes part, as the recoverer sees it: by XID, without live connections.
#[async_trait]
pub trait ResourceManager: Send + Sync + 'static {
    /// The application's name for it.
    fn name(&self) -> &ResourceName;

    /// The room in its pool, if [`Resource::open`] waits when that is used up; asked once. The
    /// manager then lets no more branches be opened than have room, and takes the places of all
    /// resources that are enlisted together in the order of their names, before it opens any of
    /// them: transactions that each hold what the others wait for would stall. Two managers that
    /// share a pool know nothing of each other.
    fn room(&self) -> Option<Room> {
        None
    }

    /// What an error of this resource's driver means, if it is one: so that a conflict that the
    /// application met in a statement of its own can be told from a failure. Never guesses.
    fn cause_of(&self, _error: &(dyn core::error::Error + 'static)) -> Option<Cause> {
        None
    }

    /// Checks at start that the server can do what will be asked of it, and finds all that a
    /// setting, version or privilege can make go wrong: see [`Preflight`].
    ///
    /// # Errors
    /// Nothing could be checked: `Unfit` if the server refused (a password, a database that is not
    /// there), with what mends it; `Unavailable` if it cannot be reached.
    async fn preflight(&self) -> Result<Preflight, ResourceError>;

    /// Looks deeper than [`preflight`](Self::preflight), for a person who asks whether all is well:
    /// known bugs of the server's version, room that is left, replicas, tables that take no part,
    /// what is prepared and has grown old. Not asked at a start, because it takes longer. Only
    /// reads; finds no error that a preflight would not find, so it never makes a resource unfit.
    ///
    /// A resource that does not implement it has nothing to add. Dropping the future does no harm.
    ///
    /// # Errors
    /// As for [`preflight`](Self::preflight).
    async fn checkup(&self) -> Result<Vec<Finding>, ResourceError> {
        Ok(Vec::new())
    }

    /// Lists what is prepared.
    ///
    /// # Errors
    /// Also when the server is a standby or read-only: those list nothing, and nothing would be
    /// taken for proof.
    async fn recover(&self) -> Result<RecoveryScan, ResourceError>;

    /// Ends a branch that a scan listed, from a connection other than the one that prepared it.
    /// `recorded` is what the decision says of the branch; nothing if it is to be rolled back, or
    /// the decision's branches are known no more.
    ///
    /// # Errors
    /// By kind: `Undetermined` if any request for it may have ended it, now or later. With any
    /// other, this call has not: `UnknownXid` proves nothing of how, or whether, it ended;
    /// `RolledBack` under [`Decision::Commit`] is a heuristic; else it was left as it was.
    async fn finish(
        &self,
        xid: &Xid,
        decision: Decision,
        recorded: Option<&BranchRecord>,
    ) -> Result<(), BranchError>;

    /// What became of a prepared branch that a successful scan did not list. Where a list would not
    /// show what a session still holds, ends or awaits that session before it answers; a session
    /// that may serve another transaction by now is left alone otherwise.
    ///
    /// # Errors
    /// The server could not be asked; the branch stays in doubt.
    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError>;

    /// What prepared transactions hold here and whom they block: see [`Inspection`]. Dropping its
    /// future is harmless. An adapter that does not implement it tells nothing.
    ///
    /// # Errors
    /// The server could not be asked at all. That a part may not be seen is a note.
    async fn inspect(&self, _options: InspectOptions) -> Result<Inspection, ResourceError> {
        Ok(Inspection::default())
    }
}

/// A resource in which applications can work: it opens branches of its own type. Cloning is cheap
/// and gives the same resource (the same pool, the same settings).
#[async_trait]
pub trait Resource: ResourceManager + Clone {
    /// What the application works with.
    type Branch: Branch;

    /// Opens a branch on a connection of its own and begins its transaction there.
    ///
    /// # Errors
    /// No branch exists then: before prepare, a lost connection is a rolled back branch.
    async fn open(&self, env: BranchEnv) -> Result<Self::Branch, BranchError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn only_short_printable_ascii_is_kept_of_a_server() {
        let longest = "~".repeat(128);
        for text in ["", " ", "pg 7412345678901234567/1/shop", &longest] {
            let identity = ServerIdentity::new(text);
            assert_eq!(identity.as_ref().map(ServerIdentity::as_str), Some(text));
            let evidence = Evidence::new(text);
            assert_eq!(evidence.as_ref().map(Evidence::as_str), Some(text));
        }
        for text in ["\n", "\u{7f}", "\u{1f}", "ä", &"a".repeat(129)] {
            assert_eq!(ServerIdentity::new(text), None, "{text:?}");
            assert_eq!(Evidence::new(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_person_reads_which_server_it_is() {
        let identity = ServerIdentity::new("7412345678901234567/1/shop").unwrap();
        assert_eq!(format!("{identity}"), "7412345678901234567/1/shop");
        let debug = "ServerIdentity(7412345678901234567/1/shop)";
        assert_eq!(format!("{identity:?}"), debug);
    }
}
