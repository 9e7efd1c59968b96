//! What one branch can be, and what it can answer.

/// What the application said that a branch would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BranchRole {
    /// It may write: it is prepared, or committed in one phase if it is the only one.
    Writer,
    /// It only reads, enforced by the server: it is ended before the decision and has no vote left.
    Reader,
}

/// The answer of a branch to prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vote {
    /// Prepared and durable.
    Commit,
    /// Ended; takes no part in phase two.
    ReadOnly,
    /// Rolled back, for certain.
    Rollback,
    /// No vote was heard: it may be prepared now, or later.
    Unheard,
}

/// What is to be done with every branch of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decision {
    /// Commit; rests on a durable record.
    Commit,
    /// Roll back; presumed.
    Rollback,
}

/// A branch that a person or a database ended alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Heuristic {
    /// Committed although the transaction was rolled back.
    Commit,
    /// Rolled back although the transaction was committed.
    Rollback,
    /// Partly committed.
    Mixed,
    /// It may have ended either way, and the proof cannot be had any more.
    Hazard,
}

/// How a request to commit or roll back a branch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The server confirmed it.
    Done,
    /// Not confirmed: recovery goes on with it.
    Unconfirmed,
    /// The server says that the branch ended otherwise.
    Heuristic(Heuristic),
}

/// Where a branch is. `…ing` states have a command under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BranchState {
    /// Open; the application works in it.
    Enlisted,
    /// Asked to prepare, or to end if it is a reader.
    Preparing,
    /// Voted to commit.
    Prepared,
    /// Ended before the decision, without effect.
    ReadOnly,
    /// Asked to commit, in the second phase or in one.
    Committing,
    /// Committed.
    Committed,
    /// Asked to roll back.
    RollingBack,
    /// Rolled back.
    RolledBack,
    /// Its end is not confirmed; recovery has it from here on.
    HandedOver,
    /// Ended against the decision.
    Heuristic(Heuristic),
}

impl BranchState {
    /// A command for this branch is under way; no other may be given.
    pub const fn is_busy(self) -> bool {
        matches!(self, Self::Preparing | Self::Committing | Self::RollingBack)
    }
}
