//! What it would mean if a person ended a prepared branch by hand.

use super::{Decision, Heuristic, LeaveReason, Resolution};

/// What ending a branch by hand would mean, in the light of what a recovery pass would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByHandCase {
    /// Recovery would end it the same way: nothing is special about it.
    AsRecovery,
    /// It ends otherwise than was decided, or than is presumed without a decision.
    Against(Heuristic),
    /// Nobody here knows what was decided: its opening is not listed, its decision may be lost, or
    /// it is another manager's, whose log alone can tell.
    LogLost,
    /// It is on record to have ended otherwise, or perhaps, and is back; what was decided is kept
    /// no more.
    DecisionDropped,
    /// Never now: somebody may still decide it, or it has ended (I5).
    Refused(LeaveReason),
}

impl ByHandCase {
    /// `planned` is what a pass would do, by the same observations in the same order. Of a branch
    /// that is back after it ended otherwise, `is_decided` is what can be told of it all the same.
    pub const fn of(planned: Resolution, is_decided: Option<bool>, wanted: Decision) -> Self {
        match (planned, wanted) {
            (Resolution::Commit, Decision::Commit)
            | (Resolution::RollBackOrphan, Decision::Rollback) => Self::AsRecovery,
            (Resolution::Commit, Decision::Rollback) => Self::Against(Heuristic::Rollback),
            (Resolution::RollBackOrphan, Decision::Commit) => Self::Against(Heuristic::Commit),
            (Resolution::LeaveAlone(reason), Decision::Commit | Decision::Rollback) => match reason
            {
                LeaveReason::Active | LeaveReason::OtherMember | LeaveReason::Gone => {
                    Self::Refused(reason)
                }
                LeaveReason::UnlistedOpening
                | LeaveReason::DecisionMayBeLost
                | LeaveReason::OtherManager => Self::LogLost,
                LeaveReason::EndedOtherwise => match is_decided {
                    Some(true) => Self::of(Resolution::Commit, is_decided, wanted),
                    Some(false) => Self::of(Resolution::RollBackOrphan, is_decided, wanted),
                    None => Self::DecisionDropped,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i1_what_is_against_the_decision_is_seen() {
        use Decision::{Commit, Rollback};
        for (planned, wanted, case) in [
            (Resolution::Commit, Commit, ByHandCase::AsRecovery),
            (
                Resolution::Commit,
                Rollback,
                ByHandCase::Against(Heuristic::Rollback),
            ),
            (Resolution::RollBackOrphan, Rollback, ByHandCase::AsRecovery),
            (
                Resolution::RollBackOrphan,
                Commit,
                ByHandCase::Against(Heuristic::Commit),
            ),
        ] {
            assert_eq!(ByHandCase::of(planned, None, wanted), case);
        }
    }

    #[test]
    fn i1_of_what_is_back_it_is_told_what_was_decided_if_anybody_knows() {
        use Decision::{Commit, Rollback};
        let back = Resolution::LeaveAlone(LeaveReason::EndedOtherwise);
        for (is_decided, wanted, case) in [
            (Some(true), Commit, ByHandCase::AsRecovery),
            (
                Some(true),
                Rollback,
                ByHandCase::Against(Heuristic::Rollback),
            ),
            (Some(false), Rollback, ByHandCase::AsRecovery),
            (Some(false), Commit, ByHandCase::Against(Heuristic::Commit)),
            (None, Commit, ByHandCase::DecisionDropped),
            (None, Rollback, ByHandCase::DecisionDropped),
        ] {
            assert_eq!(ByHandCase::of(back, is_decided, wanted), case);
        }
    }

    #[test]
    fn i5_what_somebody_may_still_decide_is_refused_whatever_is_wanted() {
        for wanted in [Decision::Commit, Decision::Rollback] {
            for (reason, is_refused) in [
                (LeaveReason::Active, true),
                (LeaveReason::OtherMember, true),
                (LeaveReason::Gone, true),
                (LeaveReason::UnlistedOpening, false),
                (LeaveReason::DecisionMayBeLost, false),
                (LeaveReason::OtherManager, false),
            ] {
                let case = ByHandCase::of(Resolution::LeaveAlone(reason), None, wanted);
                let expected = if is_refused {
                    ByHandCase::Refused(reason)
                } else {
                    ByHandCase::LogLost
                };
                assert_eq!(case, expected);
            }
        }
    }
}
