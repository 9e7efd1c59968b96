//! What prepared branches do to others: the locks that they hold, the sessions that wait for them,
//! and what of the server they hold back. For a person to read; nothing is decided by it.
//!
//! Contract:
//! 1. It changes nothing, and asks a bounded number of questions however many branches there are.
//! 2. What a server or a privilege does not tell is `None`, with a note that says what would (a
//!    `GRANT`, a setting): never an error, and never a guess about whose a lock is.
//! 3. A statement of another session may hold data: it is told only if it was asked for, and cut.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::XidOwner;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InspectOptions {
    /// How many locks are named for each branch. All are counted.
    pub locks_max: usize,
    /// How many blocked sessions are named for each branch. All are counted.
    pub sessions_max: usize,
    /// How many characters are told of a blocked session's statement; 0: none.
    pub statement_chars_max: usize,
}

impl InspectOptions {
    /// Only the counts.
    pub const COUNTS: Self = Self {
        locks_max: 0,
        sessions_max: 0,
        statement_chars_max: 0,
    };

    /// What a person reads about one transaction.
    pub const DETAILS: Self = Self {
        locks_max: 20,
        sessions_max: 20,
        statement_chars_max: 120,
    };
}

/// What the prepared transactions of one server or database do to others: a picture of a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// By branch, ours and foreign ones, as far as the server tells whose it is. In no order.
    pub branches: Vec<InspectedBranch>,
    /// Prepared transactions of which the server does not tell the XID.
    pub untold: Vec<Holding>,
    /// What of the server as a whole is held back.
    pub horizon: Option<Horizon>,
    /// What could not be seen, and what would show it.
    pub notes: Vec<String>,
}

/// One prepared branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedBranch {
    /// Whose it is, as a scan says it.
    pub owner: XidOwner,
    /// What it holds.
    pub holding: Holding,
    /// What it holds back by its age.
    pub horizon: Option<Horizon>,
}

/// What a prepared transaction holds, and whom it blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holding {
    /// How long ago its transaction was begun, if the server tells that.
    pub begun: Option<Duration>,
    /// Its locks.
    pub locks: Option<Locks>,
    /// Who waits for it.
    pub blocked: Option<Blocked>,
}

/// Locks that a prepared transaction holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locks {
    /// How many in all.
    pub count: u64,
    /// Some of them by name.
    pub named: Vec<HeldLock>,
}

/// Locks of one kind on one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    /// Which object, in the server's words.
    pub object: String,
    /// In which mode, in the server's words.
    pub mode: String,
    /// How many.
    pub count: u64,
}

/// Sessions that wait for a prepared transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blocked {
    /// How many in all.
    pub count: u64,
    /// Some of them, those that have waited longest first.
    pub sessions: Vec<BlockedSession>,
}

/// One session that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedSession {
    /// PostgreSQL: its process id. MySQL and MariaDB: its connection id.
    pub session: u64,
    /// As whom it has logged in.
    pub user: Option<String>,
    /// For how long it has waited.
    pub waiting: Option<Duration>,
    /// It waits behind another session that waits for the branch.
    pub is_behind: bool,
    /// The beginning of what it wants to do, if that was asked for and may be seen.
    pub statement: Option<String>,
}

/// Something that grows while a transaction is not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// What is counted.
    pub subject: String,
    /// How much it is.
    pub count: u64,
    /// From where on it hurts, where the server has such a limit.
    pub limit: Option<u64>,
    /// No other transaction holds it back more.
    pub is_oldest: bool,
}
