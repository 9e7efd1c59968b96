//! Drivers, recoverers and logs that are wrong on purpose, each in one way.

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    None,

    // The driver.
    /// Answers "committed" when it begins to decide.
    AnswersTooEarly,
    /// Does not let a transaction leave A when it has ended with a branch handed over.
    StaysInA,
    /// Takes the first vote to commit for everybody's.
    DecidesBeforeAllVotes,
    /// Takes a vote that was not heard for a vote to commit.
    TakesSilenceForConsent,
    /// Takes the failed end of a reader for its end.
    ForgivesReader,
    /// Takes a commit that was not confirmed for done.
    TakesSilenceForDone,
    /// Commits the last branch in one phase, without a record, after it asked others to prepare.
    OnePhaseAfterPrepare,
    /// Takes an uncertain write of the decision for a refusal.
    RollsBackUncertain,
    /// Takes "no record" after an uncertain write for a refusal.
    BelievesLookup,
    /// Takes for final that a repeated decision could not be sent, though the first one was.
    BelievesRefusalOfRepeat,
    /// Goes on although the epoch was closed.
    IgnoresRefusal,
    /// Its epoch closed, decides the same transaction under its next one.
    DecidesUnderNewEpoch,
    /// Lets the commit of a last resource overwrite a standing refusal.
    UpsertsLastResource,
    /// Asks the last resource to commit when it asks the others to prepare.
    AsksLastWithOthers,
    /// After the lost reply of a last resource, has the log decide in its place.
    SettlesByDeciding,
    /// After a lost reply in one phase, believes what the server says of a number that it may have
    /// given away since its restart.
    BelievesStatusAcrossRestart,
    /// After a lost reply in one phase, takes "not committed" for the end, though the session that
    /// may still commit has not been seen gone.
    BelievesStatusUnfenced,

    // Recovery.
    /// Reads the record (T) before it asks what is running (A).
    LooksAtTBeforeA,
    /// Ends what was prepared once (P) without looking again (Q).
    LeavesOutQ,
    /// Never asks what is running.
    LeavesOutA,
    /// Ends the branches of another member whose epoch is open.
    EndsOthersOpen,
    /// Reads the record (T), and only then sees to it that the epoch is closed.
    LooksAtTBeforeClosed,
    /// Nobody closes the epoch of a dead member.
    NeverCloses,
    /// No pass looks for a prepare that arrives after its transaction was rolled back.
    StopsLooking,
    /// Acts on a record that was read, without making it durable.
    ActsOnUnsynced,
    /// Completes a decision when one of its resources is still to be looked at.
    CompletesTooEarly,
    /// Completes a decision of another member whose epoch is open.
    DeletesOthersOpen,
    /// Takes "unknown XID" for proof that the branch is done.
    TakesUnknownForDone,
    /// Takes the empty list of a standby for proof that the branch is gone.
    BelievesEmptyList,

    // The log.
    /// Gives a member that opens the log again the epoch that it had before.
    ReusesEpoch,
    /// Looks whether the epoch is open before it writes, not in the same step.
    ChecksEpochFirst,
    /// Closes an epoch without making that durable.
    ClosesLazily,
    /// Does not list a closed opening any more once it has no decision pending.
    ForgetsOpening,
    /// Lets a last resource commit without looking whether its epoch is open.
    LastIgnoresEpoch,
    /// Refuses beside the commit of a last resource that is running, without waiting for its end.
    RefusesBesideRunning,
    /// Deletes a standing refusal while its epoch is open.
    DropsRefusalTooEarly,
    /// Forgets a completed decision of a closed epoch while its owner may still ask for it.
    ForgetsTooEarly,
}
