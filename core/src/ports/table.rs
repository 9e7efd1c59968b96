//! The port of a decision table: tables in a database that hold the decisions of a manager whose
//! members share them. `unanimous` builds a decision log on it; an adapter only carries out what
//! each method says, in as few round trips as it can, and judges nothing.
//!
//! Contract, checked by the conformance suite:
//! 1. One method is one transaction, or one that can be repeated: repeated, it answers the same.
//! 2. *Forced* means: answered only when it survives a crash of the database's server, and, where a
//!    synchronous standby is set up, of the server and its disk. Not forced: may be lost.
//! 3. [`TableErrorKind::NotSent`], [`Refused`](TableErrorKind::Refused) and
//!    [`Busy`](TableErrorKind::Busy) are answered only if nothing has happened and nothing will;
//!    whatever else went wrong is [`Lost`](TableErrorKind::Lost).
//! 4. Each call runs on a session of its own or of a pool; dropping its future closes that session.
//! 5. What waits for a lock waits a bounded time, and is then [`Busy`](TableErrorKind::Busy).
//!
//! The tables (a documented page of each adapter, with a version in it):
//!
//! * `unanimous_log`, one row: version of the schema, manager.
//! * `unanimous_opening`, an opening each: epoch (unique, rising), random bits, the identity of the
//!   server then, label, closed, released.
//! * `unanimous_epoch`, [`SLOTS`] rows per epoch: locked shared by whoever decides, exclusively by
//!   whoever closes.
//! * `unanimous_decision`, a decision each: gtrid (key), epoch, state, branches, when it was made.
//! * `unanimous_heuristic`, branches that ended against their decision.
//! * `unanimous_by_hand`, what people did.
//! * `unanimous_member`, heartbeats, of no meaning for safety.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use async_trait::async_trait;

use super::error::Words;
use super::{Preflight, ResourceError, ServerIdentity, SourceError, UnixTime};
use crate::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

/// How many rows an epoch has for its lock, so that many transactions that decide at once do not
/// queue for one row.
pub const SLOTS: u32 = 8;

/// A resource in whose database a decision table can live.
pub trait TableHome {
    /// The table, which uses this resource's address, credentials and limits.
    fn decision_table(&self) -> Arc<dyn DecisionTable>;
}

/// The row that a decision checks and locks: see [`SLOTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EpochSlot {
    /// Of the transaction that decides.
    pub epoch: Epoch,
    /// Below [`SLOTS`].
    pub slot: u32,
}

/// A decision as a row. `branches` is printable ASCII but for tabs and line feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRow {
    /// The transaction: the key.
    pub gtrid: Gtrid,
    /// Opaque: what the log has to keep of the branches.
    pub branches: String,
}

/// What a row of the decision table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowState {
    /// `C`: to be committed.
    Pending,
    /// `D`: committed, every branch.
    Completed,
    /// `R`: never to be committed; put there by the owner after a last resource's lost reply.
    RolledBack,
}

/// A line of the list of openings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpeningRow {
    /// The opening.
    pub opening: Opening,
    /// The server on which it was made.
    pub identity: ServerIdentity,
    /// Who it is, for people: host and process.
    pub label: String,
    /// Nothing more is decided under it.
    pub is_closed: bool,
    /// Its completed rows may be deleted, or have been: its owner asks no more.
    pub is_released: bool,
}

/// What [`OpeningRow::identity`] says of an opening whose decisions are not all there.
pub const DOUBTFUL: &str = "doubtful";

/// How [`OpeningRow::identity`] begins once the epoch was closed by another server.
pub const ELSEWHERE: &str = "elsewhere: ";

impl OpeningRow {
    /// Decisions made under it may be missing, for good: it came here from what was left of a log.
    /// Whatever is declared of fail-overs, that there is no row proves nothing.
    pub fn is_doubtful(&self) -> bool {
        self.identity.as_str() == DOUBTFUL
    }
}

/// What the table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState {
    /// Whose decisions it holds.
    pub manager: ManagerId,
    /// The server that was asked.
    pub identity: ServerIdentity,
    /// What a branch in this very database answers to [`Branch::scope`](super::Branch::scope).
    pub scope: String,
}

/// The answer to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowAnswer {
    /// The row is there, now or since an earlier attempt, in this state.
    Stands(RowState),
    /// There is no row, because the epoch is closed, or because this is not the server that may
    /// decide under it.
    EpochClosed,
}

/// What was answered to decisions, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The server that was asked.
    pub identity: ServerIdentity,
    /// One for each row, in their order.
    pub answers: Vec<RowAnswer>,
    /// The epoch's rows may have been deleted: a missing row tells only a first attempt anything.
    pub is_released: bool,
}

/// What the table says of one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The server that was asked.
    pub identity: ServerIdentity,
    /// Its opening, if that is listed.
    pub opening: Option<OpeningRow>,
    /// Its row.
    pub row: Option<(RowState, String)>,
    /// Branches that ended against the decision, each with one letter: see
    /// [`DecisionTable::record_heuristic`].
    pub heuristics: Vec<(ResourceName, char)>,
}

/// A branch that ended against the decision, as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedEnd {
    /// The transaction.
    pub gtrid: Gtrid,
    /// The branch.
    pub resource: ResourceName,
    /// See [`DecisionTable::record_heuristic`].
    pub end: char,
    /// By the server's clock; nothing if it came from a log that did not know.
    pub noted_at: Option<UnixTime>,
}

/// What a person did, as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandRow {
    /// The key.
    pub id: u64,
    /// The transaction; its opening need not be listed.
    pub gtrid: Gtrid,
    /// The branch.
    pub resource: ResourceName,
    /// How far it has come: `I` intended, `U` unproven, `D` done, `V` void.
    pub state: char,
    /// Opaque: the rest, as lines of text (in any script, with line feeds). At most 8 KiB.
    pub words: String,
}

/// What ended against a decision, and what people did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The server that was asked.
    pub identity: ServerIdentity,
    /// All of `unanimous_heuristic`.
    pub heuristics: Vec<NotedEnd>,
    /// All of `unanimous_by_hand`, in the order in which they were put there.
    pub by_hand: Vec<HandRow>,
}

/// All that is not completed, and every opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The server that was asked.
    pub identity: ServerIdentity,
    /// Openings with an epoch of at least the one asked from, and older ones that are not closed.
    pub openings: Vec<OpeningRow>,
    /// Rows that are pending.
    pub pending: Vec<DecisionRow>,
}

/// A member's sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Of the member.
    pub epoch: Epoch,
    /// Rises as long as it lives.
    pub count: u64,
    /// How long ago it last rose, by the clock of the server, which may have been set, and is
    /// another one's after a fail-over: a hint for people.
    pub age: Duration,
    /// Its epoch is closed.
    pub is_closed: bool,
}

/// What an error of the table means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableErrorKind {
    /// Nothing was sent: no connection could be had.
    NotSent,
    /// The server refused and rolled back: a full disk, a read-only server, a missing right. Says
    /// what to mend.
    Refused,
    /// A lock was not free in time, or two were in each other's way: the server has rolled it back,
    /// and the same may be asked again.
    Busy,
    /// It may have happened.
    Lost,
    /// The tables are not there.
    Missing,
    /// They are there, and are of another version, or another server's, or not as they should be.
    Unfit,
}

/// Why the table did not answer. The message names the place and the mend.
#[derive(Debug, Clone)]
pub struct TableError {
    kind: TableErrorKind,
    words: Words,
}

impl TableError {
    /// An error with a message that names the place and what to do.
    pub fn new(kind: TableErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            words: Words::new(message),
        }
    }

    /// Keeps the underlying error as the source.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<SourceError>) -> Self {
        self.words.keep(source);
        self
    }

    /// What it means.
    pub const fn kind(&self) -> TableErrorKind {
        self.kind
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.message)
    }
}

impl core::error::Error for TableError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.words.source()
    }
}

/// How long whoever holds decisions may say nothing ([`HeldDecisions::check`]) before the server
/// takes it for gone, where nothing else tells so.
pub const HELD_SILENCE_MAX: core::time::Duration = core::time::Duration::from_secs(20);

/// Nothing new is decided in the table as long as this holds: see [`DecisionTable::hold`]. Dropped,
/// it sets decisions free, and nobody knows whether it has held until then.
#[async_trait]
pub trait HeldDecisions: Send {
    /// Whether it still holds. To be asked more often than every [`HELD_SILENCE_MAX`].
    ///
    /// # Errors
    /// It does not, or nobody knows. It holds no more for certain when this is dropped.
    async fn check(&mut self) -> Result<(), TableError>;

    /// Sets decisions free.
    ///
    /// # Errors
    /// It may not have held until now. They are free all the same.
    async fn end(self: Box<Self>) -> Result<(), TableError>;
}

/// The tables of one decision log in one database. See the module for what every method promises.
#[async_trait]
pub trait DecisionTable: Send + Sync + 'static {
    /// Where it is, for messages: server, database, schema. No password.
    fn place(&self) -> String;

    /// What makes the tables, as a person would run it, for the manager `manager`. Running it
    /// twice changes nothing.
    fn ddl(&self, manager: ManagerId) -> String;

    /// Makes the tables that are not there; forced. If a manager is named there already, it stays.
    ///
    /// # Errors
    /// `Refused` if this account may not: says which rights are lacking.
    async fn init(&self, manager: ManagerId) -> Result<(), TableError>;

    /// Checks version, identity and that the server may be written to.
    ///
    /// # Errors
    /// `Missing`, `Unfit`; `Refused` on a standby or read-only server.
    async fn check(&self) -> Result<TableState, TableError>;

    /// What the settings of its server, and the way to it, mean for what is forced there: as
    /// [`ResourceManager::preflight`](super::ResourceManager::preflight) finds it. `None` where
    /// there is no such thing.
    ///
    /// # Errors
    /// As there.
    async fn preflight(&self) -> Result<Option<Preflight>, ResourceError> {
        Ok(None)
    }

    /// Registers an opening with a new epoch, higher than every earlier one, with its slots and its
    /// member's row. Forced. (Repeated, it registers another; the lost one has no member and is
    /// closed by the others.)
    ///
    /// # Errors
    /// See the module.
    async fn join(&self, random: u64, label: &str) -> Result<OpeningRow, TableError>;

    /// Puts pending rows there, all of one epoch, in one step with the check that the epoch is
    /// open: it locks the slot shared, reads it as it is now (not from a snapshot), and inserts
    /// only if it is open. A row that is there already stays as it is. Forced, also if nothing was
    /// inserted. No slot: `Unfit`, unless the epoch was released: then it answers, and says so.
    ///
    /// With `home`, rows are inserted on that server alone, in the same step: another one, which
    /// may have lost that the epoch was closed, answers as for a closed epoch, be it listed or not.
    /// A session is on one server as long as it lives, so its identity may be read when it is
    /// opened, if that server could be written to then.
    ///
    /// # Errors
    /// See the module.
    async fn decide(
        &self,
        at: EpochSlot,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
    ) -> Result<Decided, TableError>;

    /// The statement by which a branch in this very database, as last resource, puts its pending
    /// row there inside its own transaction, with the same check; it fails if the epoch is closed,
    /// if the slot is not there, and if any row has the key. Every name in it is qualified.
    fn last_statement(&self, at: EpochSlot, row: &DecisionRow) -> String;

    /// Puts a row in state `R` there, without looking at the epoch, unless one with that key
    /// stands; answers what stands. Waits for a transaction that is inserting the key. Forced.
    ///
    /// # Errors
    /// `Busy` if it would have waited too long; ask again.
    async fn put_rollback(&self, gtrid: Gtrid) -> Result<RowState, TableError>;

    /// Turns pending rows into completed ones. Not forced.
    ///
    /// # Errors
    /// See the module.
    async fn complete(&self, gtrids: &[Gtrid]) -> Result<(), TableError>;

    /// Deletes completed rows (and no others). Not forced.
    ///
    /// # Errors
    /// See the module.
    async fn forget(&self, gtrids: &[Gtrid]) -> Result<(), TableError>;

    /// Notes that a branch ended against the decision; `end` is one ASCII letter. If one is noted
    /// for the branch, it stays, unless that is `h` (it may have). Forced.
    ///
    /// # Errors
    /// `Unfit` if the log was moved away. See the module.
    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        end: char,
    ) -> Result<(), TableError>;

    /// Puts what a person does there. If a row with its key is there in state `I` or `U`, it takes
    /// the new state, and keeps the rest; in any other state it stays as it is. Forced.
    ///
    /// # Errors
    /// `Unfit` if the log was moved away. See the module.
    async fn record_by_hand(&self, row: &HandRow) -> Result<(), TableError>;

    /// What ended against a decision, and what people did; forced as [`read`](Self::read) is.
    ///
    /// # Errors
    /// See the module.
    async fn ends(&self, forced_by: Option<Epoch>) -> Result<Ends, TableError>;

    /// When each of these decisions was made, by the server's clock, as far as it is there.
    ///
    /// # Errors
    /// See the module.
    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, TableError>;

    /// Closes an epoch: locks its slots exclusively, which waits for decisions in flight, and marks
    /// slots and opening. Forced. Closed already: nothing to do, and forced all the same.
    ///
    /// A server that can have its identity again, with the data of its successor, must not be taken
    /// for the one on which the epoch was opened: closed by another server, its opening's identity
    /// is [`ELSEWHERE`] and what it was (cut to the longest), which is no server's.
    ///
    /// # Errors
    /// `Unfit` if it is not listed. See the module.
    async fn close(&self, epoch: Epoch) -> Result<(), TableError>;

    /// Notes that the owner of a closed epoch asks no more: its rows in state `D` and `R`, its
    /// slots and its member's row are deleted. Only of a closed one. Not forced.
    ///
    /// # Errors
    /// See the module.
    async fn release(&self, epoch: Epoch) -> Result<(), TableError>;

    /// Raises the count of one's own member's row (not forced), and reads those of all members.
    ///
    /// # Errors
    /// See the module.
    async fn beat(&self, own: Epoch) -> Result<Vec<Beat>, TableError>;

    /// Reads pending rows and openings; then, in the same round trip, completes a forced write of
    /// its own (on the member's row of `forced_by`, or on another if that was released), so that
    /// what was read is as durable as what was written. With `None` it writes nothing: then nobody
    /// may act on what was read.
    ///
    /// # Errors
    /// See the module.
    async fn read(
        &self,
        openings_from: Epoch,
        forced_by: Option<Epoch>,
    ) -> Result<Snapshot, TableError>;

    /// What is known of each of these transactions, in their order; forced as
    /// [`read`](Self::read) is, once for all. Some hundred at most are asked for at once.
    ///
    /// # Errors
    /// See the module.
    async fn find_all(
        &self,
        gtrids: &[Gtrid],
        forced_by: Option<Epoch>,
    ) -> Result<Vec<Found>, TableError>;

    /// The same of one.
    ///
    /// # Errors
    /// See the module.
    async fn find(&self, gtrid: Gtrid, forced_by: Option<Epoch>) -> Result<Found, TableError> {
        let mut found = self.find_all(&[gtrid], forced_by).await?;
        found.pop().ok_or_else(|| {
            let message = format!("{}: nothing was answered of {gtrid}", self.place());
            TableError::new(TableErrorKind::Lost, message)
        })
    }

    /// Holds new decisions, of every member, in a transaction that is left open on a session of its
    /// own: locks the slots of all open epochs exclusively, which waits for decisions in flight,
    /// last resources included; and before that whatever keeps epochs from being registered. What
    /// decides, joins or closes an open epoch waits meanwhile, each its own time. Reading, beating,
    /// completing, forgetting, and refusing a last resource go on.
    ///
    /// # Errors
    /// `Busy`: a decision in flight did not end in time, or somebody else holds decisions; ask
    /// again. See the module.
    async fn hold(&self) -> Result<Box<dyn HeldDecisions>, TableError>;

    /// Closed epochs that are not released, and were closed longer ago than that by the server's
    /// clock, which decides here only how long an owner that nobody has heard of can ask.
    ///
    /// # Errors
    /// See the module.
    async fn closed_for(&self, age: Duration) -> Result<Vec<Epoch>, TableError>;
}
