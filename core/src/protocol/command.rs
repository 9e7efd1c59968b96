//! What the coordinator of a transaction commands, where it is, and how it ends.

use alloc::vec::Vec;

use super::branch::Heuristic;

/// The how-manieth branch of its transaction, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchIndex(pub usize);

/// The position of a record in the decision log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogSeq(pub u64);

/// What the runtime has to do. Commands of different branches may be carried out at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Prepare the branch. Needs no record.
    Prepare(BranchIndex),
    /// End a reader: before the decision, and its failure is a rollback vote.
    EndReader(BranchIndex),
    /// Commit without preparing: the only branch that may write.
    CommitOnePhase(BranchIndex),
    /// Force the decision to commit these prepared branches into the log.
    Decide(Vec<BranchIndex>),
    /// Commit the last resource, together with the decision to commit these prepared branches.
    CommitLast(BranchIndex, Vec<BranchIndex>),
    /// Commit the prepared branch. Holds the position that had to be durable first.
    Commit(BranchIndex, LogSeq),
    /// Roll the branch back, active or prepared. Needs no record: abort is presumed.
    Rollback(BranchIndex),
    /// Leave the branch to recovery: its connection is not to be used again.
    HandOver(BranchIndex),
    /// Note, lazily, that every branch of the decision is committed.
    Complete(LogSeq),
}

/// Where the transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Branches are enlisted and used.
    Active,
    /// Readers end before the only writer commits in one phase.
    EndingReaders,
    /// Votes are being collected.
    Preparing,
    /// Every vote is in; the decision is being recorded. No way back but a refusal by the log.
    Deciding,
    /// The only writer commits in one phase.
    OnePhase,
    /// The decision is durable; branches are being committed.
    Committing(LogSeq),
    /// Every branch is committed or handed over.
    Committed,
    /// Branches are being rolled back.
    RollingBack,
    /// Every branch is rolled back or handed over.
    RolledBack,
    /// The only writer may have been committed, or nobody can tell what was decided.
    Undetermined,
}

/// How a commit in one phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnePhaseEnd {
    /// Committed.
    Committed,
    /// Rolled back, for certain.
    RolledBack,
    /// Nobody can tell.
    Undetermined,
}

/// What became of the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Committed; `unfinished` branches will be committed by recovery.
    Committed {
        /// Branches still on their way.
        unfinished: Vec<BranchIndex>,
    },
    /// Rolled back; `unfinished` branches will be rolled back by recovery.
    RolledBack {
        /// Branches whose rollback is not confirmed.
        unfinished: Vec<BranchIndex>,
    },
    /// The only writer may have been committed, or nobody can tell what was decided.
    Undetermined,
    /// Committed, but for these branches, which ended otherwise.
    Heuristic(Vec<(BranchIndex, Heuristic)>),
}
