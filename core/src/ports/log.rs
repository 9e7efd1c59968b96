//! The port of the decision log: which transactions are to be committed.
//!
//! Contract, checked by the conformance suite:
//! 1. Presumed abort: only commit decisions are recorded. [`DecisionLog::decide`] has answered `Ok`
//!    only when the record survives the crash of everything (I2).
//! 2. `decide` succeeds only while the transaction's epoch is open, checked in one atomic step with
//!    the write. It is idempotent: repeated, it answers `Ok` if the record is there.
//! 3. After [`DecisionLog::close`] the records of that epoch are final: neither answer of `decide`
//!    changes any more, and "no record" means rolled back. That includes completed decisions: their
//!    owner may have lost the answer, and would take a refusal of its repeated `decide` for a
//!    rollback of what others have committed meanwhile.
//! 4. What `lookup` and `pending` answer has been made durable by the reader before it is
//!    answered: a record that was read but not yet synced by its dead writer could vanish again.
//! 5. [`DecisionLog::complete`] is lazy; losing it costs a look, never a transaction.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use async_trait::async_trait;

use super::error::Words;
use super::{BranchRecord, ByHand, Hands, HeuristicEnd, SourceError, UnixTime};
use crate::protocol::{Heuristic, LogSeq};
use crate::xid::{Epoch, Gtrid, Opening, ResourceName};

/// A commit decision: the transaction, and the branches that have to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRecord {
    /// The transaction.
    pub gtrid: Gtrid,
    /// Its prepared branches.
    pub branches: Vec<BranchRecord>,
}

/// What the log knows of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lookup {
    /// Decided to commit; not all branches are known to be committed.
    Pending(DecisionRecord),
    /// Decided to commit, and every branch is; kept for a while.
    Completed,
    /// A branch of it ended otherwise than was decided, or than is presumed without a decision.
    Heuristic {
        /// Which branches, and how.
        ends: Vec<(ResourceName, Heuristic)>,
        /// What is known of the transaction besides: whether it is decided is told here alone.
        beside: Box<Self>,
    },
    /// No record, and none can appear: its epoch is closed and listed. Either it was rolled back,
    /// or it was committed and completed so long ago that its record has been dropped.
    NoRecord,
    /// No record now; the epoch is open, so one may still appear.
    Open,
    /// The log does not list the opening: another log's, or this log was restored or copied.
    UnknownOpening,
    /// No record, and that proves nothing: decisions of its epoch may have been lost. The log's
    /// database is another server now than the one on which the opening was made, or the log was
    /// imported from what was left of another.
    MayBeLost,
}

impl Lookup {
    /// Whether it was decided to commit.
    pub fn is_decided(&self) -> bool {
        match self {
            Self::Pending(_) | Self::Completed => true,
            Self::Heuristic { beside, .. } => beside.is_decided(),
            Self::NoRecord | Self::Open | Self::UnknownOpening | Self::MayBeLost => false,
        }
    }

    /// The heuristic ends, and what is known besides.
    pub fn apart(self) -> (Vec<(ResourceName, Heuristic)>, Self) {
        if let Self::Heuristic { ends, beside } = self {
            (ends, *beside)
        } else {
            (Vec::new(), self)
        }
    }
}

/// One line of the log's list of openings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpeningState {
    /// The opening.
    pub opening: Opening,
    /// Closed: what is recorded for it is final.
    pub closed: bool,
}

/// What the log held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSnapshot {
    /// As [`DecisionLog::openings`].
    pub openings: Vec<OpeningState>,
    /// As [`DecisionLog::pending`], not read before the openings: of an opening that is listed as
    /// closed no decision is missing.
    pub pending: Vec<DecisionRecord>,
}

/// One that shares the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its opening.
    pub opening: Opening,
    /// Who it is, for people: host and process.
    pub label: String,
    /// It is the one that was asked.
    pub is_self: bool,
    /// Since when it has given no sign of life, as far as the one that was asked can tell. A hint,
    /// never a proof.
    pub silent_for: Duration,
    /// Nothing more is decided under its opening.
    pub is_closed: bool,
}

/// Why `decide` refused. Nothing was recorded and nothing will be: the transaction rolls back.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Refusal {
    /// The epoch was closed: by another member, or after a failed write by the log itself. New
    /// transactions begin under a new opening.
    EpochClosed,
    /// The log could not even begin to write, for example because the disk is full.
    NotAttempted(LogError),
    /// The last resource has not committed, and cannot any more.
    LastRolledBack,
    /// A lock of the log was not free in time: a barrier holds new decisions. Nothing was recorded;
    /// the same decision may be asked for again.
    Busy(LogError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EpochClosed => f.write_str("the epoch of this transaction was closed"),
            Self::NotAttempted(error) => write!(f, "nothing could be written: {error}"),
            Self::Busy(error) => write!(f, "decisions are held: {error}"),
            Self::LastRolledBack => f.write_str("the last resource was rolled back"),
        }
    }
}

/// Why a decision is not known to be recorded.
#[derive(Debug, Clone)]
pub enum DecideError {
    /// Not recorded, for certain and for good.
    Refused(Refusal),
    /// It may have been recorded. Only repeating the same `decide` resolves it; a lookup that finds
    /// nothing proves nothing.
    Uncertain(LogError),
    /// It may have been recorded, and asking again resolves nothing, now or later: its record, if
    /// there was one, may have been deleted, or lost in a fail-over. Nothing more will be recorded
    /// for it, and its opening is not this log's own any more. Its branches are left to recovery,
    /// which ends them only if the log's answer for the closed epoch is final, and else to a
    /// person.
    MayBeLost(LogError),
}

impl fmt::Display for DecideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "the decision was refused: {refusal}"),
            Self::Uncertain(error) => write!(f, "the decision may have been recorded: {error}"),
            Self::MayBeLost(error) => {
                write!(
                    f,
                    "whether it was decided cannot be found out any more: {error}"
                )
            }
        }
    }
}

impl core::error::Error for DecideError {}

/// A log that cannot be opened, read or written. The message names the place and the mend.
#[derive(Debug, Clone)]
pub struct LogError {
    words: Words,
}

impl LogError {
    /// An error with a message that names the place and what to do.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            words: Words::new(message),
        }
    }

    /// Keeps the underlying error as the source.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<SourceError>) -> Self {
        self.words.keep(source);
        self
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.message)
    }
}

impl core::error::Error for LogError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.words.source()
    }
}

/// Where a log lives: opens it. One value opens one log once.
#[async_trait]
pub trait LogHome: Send + 'static {
    /// Opens the log under a new epoch and makes that durable.
    ///
    /// # Errors
    /// The log is in use, damaged, of another version, not writable: says which, and the mend.
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError>;
}

/// An open decision log.
///
/// Cancel safety: dropping the future of `decide` or `close` leaves it as uncertain as a lost
/// reply.
#[async_trait]
pub trait DecisionLog: Send + Sync + 'static {
    /// The opening under which new transactions begin. Changes when the log had to reopen itself.
    fn opening(&self) -> Opening;

    /// Records, durably, that the transaction is to be committed.
    ///
    /// # Errors
    /// See [`DecideError`]: refused means rolled back, uncertain means *repeat*, and what may be
    /// lost is *left alone*.
    async fn decide(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError>;

    /// The statement by which a branch with this scope records the decision inside its own
    /// transaction, as last resource. `None`: the log does not live in that database, or is not to
    /// be written to in this way.
    fn last_statement(&self, _scope: &str, _decision: &DecisionRecord) -> Option<String> {
        None
    }

    /// Whether [`last_statement`](Self::last_statement) has one for this scope.
    fn takes_last(&self, _scope: &str) -> bool {
        false
    }

    /// A last resource has answered that it committed the statement of this decision.
    fn note_last(&self, _decision: &DecisionRecord) -> LogSeq {
        LogSeq(0)
    }

    /// After a last resource's lost reply: waits for its commit, if that still runs, and keeps a
    /// later one from happening. Its answers mean what those of [`decide`](Self::decide) mean.
    ///
    /// # Errors
    /// See [`DecideError`]: refused means rolled back, the last resource included; uncertain means
    /// *repeat*; one that may be lost is *left alone*.
    async fn settle_last(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let text = format!("this log cannot find out about {}", decision.gtrid);
        Err(DecideError::Uncertain(LogError::new(text)))
    }

    /// Calls `wake` whenever the epoch of another member was closed: its branches can be ended.
    fn on_close(&self, _wake: Arc<dyn Fn() + Send + Sync>) {}

    /// The members that share this log, this one included, as far as they are known. Empty if
    /// nobody can share it.
    ///
    /// # Errors
    /// The log could not be read.
    async fn members(&self) -> Result<Vec<Member>, LogError> {
        Ok(Vec::new())
    }

    /// Notes that every branch is committed. From then on [`pending`](Self::pending) of this same
    /// log does not list the decision. Lazy: returns at once, is not forced.
    fn complete(&self, gtrid: Gtrid);

    /// Makes what is lazy durable: a copy of the log that is taken afterwards lists as pending no
    /// decision that was completed before.
    ///
    /// # Errors
    /// It may not be durable yet; call again.
    async fn force(&self) -> Result<(), LogError>;

    /// Records, durably, that a branch ended otherwise than was decided, or is presumed. That it
    /// may have ([`Heuristic::Hazard`]) is replaced by whatever is known later; nothing else is.
    ///
    /// # Errors
    /// It may not have been recorded; call again.
    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> Result<(), LogError>;

    /// Every branch that was recorded to have ended otherwise, also those that a person has
    /// forgotten: see [`by_hand`](Self::by_hand).
    ///
    /// # Errors
    /// The log could not be read.
    async fn heuristics(&self) -> Result<Vec<HeuristicEnd>, LogError> {
        Ok(Vec::new())
    }

    /// Records, durably, what a person is about to do, before it is done; or the new state of such
    /// a record, of which all else stays as it is. A record in a state that is not
    /// [open](super::HandState::is_open) stays as it is.
    ///
    /// Changes neither a decision nor a branch. The transaction may be of an opening that this log
    /// does not list.
    ///
    /// # Errors
    /// It may not have been recorded; call again. Until it has answered `Ok`, nothing may be done.
    async fn record_by_hand(&self, by_hand: &ByHand) -> Result<(), LogError> {
        let text = format!("this log keeps no records by hand, of {}", by_hand.gtrid);
        Err(LogError::new(text))
    }

    /// Every record of what a person did, oldest first. As durable as what
    /// [`lookup`](Self::lookup) answers.
    ///
    /// # Errors
    /// The log could not be read.
    async fn by_hand(&self) -> Result<Vec<ByHand>, LogError> {
        Ok(Vec::new())
    }

    /// The same, as far as it can be read: one record that cannot be keeps its own branch from
    /// being ended, and no other.
    ///
    /// # Errors
    /// The log could not be read.
    async fn hands(&self) -> Result<Hands, LogError> {
        let legible = self.by_hand().await?;
        let illegible = Vec::new();
        Ok(Hands { legible, illegible })
    }

    /// When each of these transactions was decided, by the clock of the machine that keeps the
    /// log. For people to read. Nothing for one that is not decided, or of which only the decision
    /// is kept any more.
    ///
    /// # Errors
    /// The log could not be read.
    async fn decided_at(&self, _gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, LogError> {
        Ok(Vec::new())
    }

    /// Closes an epoch: waits for decisions in flight and refuses later ones. Idempotent.
    ///
    /// # Errors
    /// It may not be closed; call again.
    async fn close(&self, epoch: Epoch) -> Result<(), LogError>;

    /// What is known of one transaction.
    ///
    /// # Errors
    /// The log could not be read.
    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError>;

    /// The same of many, in their order: what a recovery pass asks of all that it found prepared.
    /// What cannot be told of one keeps no other from being told. If it takes too long, the caller
    /// drops it, and asks for fewer the next time.
    ///
    /// # Errors
    /// The log could not be read: nothing is told of any of them.
    async fn lookup_all(
        &self,
        gtrids: &[Gtrid],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        let mut all = Vec::with_capacity(gtrids.len());
        for gtrid in gtrids {
            all.push(self.lookup(*gtrid).await);
        }
        Ok(all)
    }

    /// Every decision that is not completed, of every epoch.
    ///
    /// # Errors
    /// The log could not be read.
    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError>;

    /// Every opening that this log remembers, this one included.
    ///
    /// # Errors
    /// The log could not be read.
    async fn openings(&self) -> Result<Vec<OpeningState>, LogError>;

    /// Openings and pending decisions, read once.
    ///
    /// # Errors
    /// The log could not be read.
    async fn snapshot(&self) -> Result<LogSnapshot, LogError> {
        let openings = self.openings().await?;
        let pending = self.pending().await?;
        Ok(LogSnapshot { openings, pending })
    }

    /// Makes lazy records durable, closes this opening's epoch and lets go of the log.
    ///
    /// # Errors
    /// Nothing is lost: the next opening finds every decision.
    async fn shutdown(&self) -> Result<(), LogError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use core::error::Error;

    #[test]
    fn i3_what_was_refused_and_what_may_be_recorded_are_told_apart() {
        let error = LogError::new("the disk is full: make room");
        let not_attempted = Refusal::NotAttempted(error.clone());
        for (error, text) in [
            (
                DecideError::Refused(Refusal::EpochClosed),
                "the decision was refused: the epoch of this transaction was closed",
            ),
            (
                DecideError::Refused(not_attempted),
                "the decision was refused: nothing could be written: the disk is full: make room",
            ),
            (
                DecideError::Uncertain(error.clone()),
                "the decision may have been recorded: the disk is full: make room",
            ),
            (
                DecideError::MayBeLost(error),
                "whether it was decided cannot be found out any more: the disk is full: make room",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn an_error_of_the_log_keeps_what_the_system_said() {
        let error = LogError::new("cannot write: make room");
        assert!(error.source().is_none());
        let error = error.with_source("no space left on device");
        assert_eq!(error.to_string(), "cannot write: make room");
        let source = error.source().map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("no space left on device"));
    }
}
