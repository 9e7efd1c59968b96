//! Which in-doubt branches a recovery pass may end, and how.
//!
//! Four observations, in this order: **P** = prepared at the resource; **A** = active in this
//! process; **T** = decisions in the log; **Q** = prepared at the resource, again.
//!
//! A transaction is in A before its first XID is sent and leaves A when nothing of it can issue a
//! command any more. So a branch in P whose transaction is not in A, observed *after* P, can no
//! longer be decided by a running commit of this process: what T, observed after A, says of it is
//! final. But a commit that ended between P and T may already have been completed and dropped from
//! T; then its branch is gone from the resource, too, and is not in Q. Hence only a branch in P
//! *and* Q is ended (I5).

use crate::xid::{Opening, Xid};

/// What is known of the opening that a branch names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EpochView {
    /// This process's own, open.
    OwnOpen,
    /// Another member's, open: only that member ends its branches, or whoever closes the epoch.
    OtherOpen,
    /// Closed: what is recorded is final.
    Closed,
    /// Of this manager, but the log does not list it: the log was restored or copied.
    Unlisted,
    /// Closed, and the log's database is not the server any more on which it was opened, or the log
    /// was imported from an incomplete export: that there is no record proves nothing.
    MayBeLost,
    /// Of another manager.
    OtherManager,
    /// Closed or this process's own: this very branch is on record to have ended otherwise, what
    /// was decided is not on record, and it is prepared again.
    EndedOtherwise,
}

/// What to do with one prepared branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Decided: commit it.
    Commit,
    /// No decision, and none can come: roll it back.
    RollBackOrphan,
    /// Not now, or not ours to end.
    LeaveAlone(LeaveReason),
}

/// Why a prepared branch is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaveReason {
    /// Its transaction is running here.
    Active,
    /// Its owner's epoch is open.
    OtherMember,
    /// Its opening is not in the log: the log was restored or copied. A person has to look.
    UnlistedOpening,
    /// There is no decision, but the log's database has failed over since, or the log was imported
    /// from an incomplete export, and one may be lost. A person has to look.
    DecisionMayBeLost,
    /// It names another manager.
    OtherManager,
    /// It was gone when looked at again.
    Gone,
    /// It is on record to have ended otherwise, and it is back, as of a server that was restored or
    /// has lost a rollback; the decision itself is kept no more. A person has to look.
    EndedOtherwise,
}

/// The plan for one branch that was in P. The closures are asked in the order A, T, Q, each at most
/// once; whoever takes whole sets has to take them in that order, too.
pub fn plan(
    view: EpochView,
    is_active: impl FnOnce() -> bool,
    is_decided: impl FnOnce() -> bool,
    is_still_prepared: impl FnOnce() -> bool,
) -> Resolution {
    match view {
        EpochView::OtherManager => Resolution::LeaveAlone(LeaveReason::OtherManager),
        EpochView::Unlisted => Resolution::LeaveAlone(LeaveReason::UnlistedOpening),
        EpochView::MayBeLost => Resolution::LeaveAlone(LeaveReason::DecisionMayBeLost),
        EpochView::OtherOpen => Resolution::LeaveAlone(LeaveReason::OtherMember),
        // A closed epoch of our own may still have transactions here that are about to learn it.
        EpochView::OwnOpen | EpochView::Closed | EpochView::EndedOtherwise => {
            if is_active() {
                return Resolution::LeaveAlone(LeaveReason::Active);
            }
            let decided = is_decided();
            if !is_still_prepared() {
                return Resolution::LeaveAlone(LeaveReason::Gone);
            }
            if view == EpochView::EndedOtherwise {
                Resolution::LeaveAlone(LeaveReason::EndedOtherwise)
            } else if decided {
                Resolution::Commit
            } else {
                Resolution::RollBackOrphan
            }
        }
    }
}

impl EpochView {
    /// What `xid`'s opening is, given this process's own and the log's list of openings:
    /// `is_closed` answers `None` for one that is not listed.
    pub fn of(xid: &Xid, own: Opening, is_closed: impl FnOnce(&Opening) -> Option<bool>) -> Self {
        let opening = xid.gtrid.opening;
        if opening.manager != own.manager {
            return Self::OtherManager;
        }
        match is_closed(&opening) {
            None => Self::Unlisted,
            Some(true) => Self::Closed,
            Some(false) if opening == own => Self::OwnOpen,
            Some(false) => Self::OtherOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xid::{Epoch, ManagerId};

    const OWN: Opening = opening(1, 2, 3);

    const fn opening(manager: u8, epoch: u32, nonce: u64) -> Opening {
        Opening {
            manager: ManagerId::from_bytes([manager; 10]),
            epoch: Epoch(epoch),
            nonce,
        }
    }

    fn view(of: Opening, listed: &[(Opening, bool)]) -> EpochView {
        let xid = Xid {
            gtrid: of.gtrid(9),
            bqual: "orders".parse().unwrap(),
        };
        EpochView::of(&xid, OWN, |opening| {
            let mut found = listed.iter().filter(|(candidate, _)| candidate == opening);
            found.next().map(|(_, closed)| *closed)
        })
    }

    #[test]
    fn i4_another_managers_branch_and_an_unlisted_opening_are_left_alone() {
        assert_eq!(
            view(opening(9, 2, 3), &[(OWN, false)]),
            EpochView::OtherManager
        );
        assert_eq!(view(opening(1, 2, 4), &[(OWN, false)]), EpochView::Unlisted);
        for (view, reason) in [
            (EpochView::OtherManager, LeaveReason::OtherManager),
            (EpochView::Unlisted, LeaveReason::UnlistedOpening),
            (EpochView::OtherOpen, LeaveReason::OtherMember),
            (EpochView::MayBeLost, LeaveReason::DecisionMayBeLost),
        ] {
            let nobody_asks = || panic!("nothing else matters");
            let resolution = plan(view, nobody_asks, nobody_asks, nobody_asks);
            assert_eq!(resolution, Resolution::LeaveAlone(reason));
        }
    }

    #[test]
    fn i5_what_is_active_or_gone_is_left_alone_in_an_open_and_in_a_closed_epoch() {
        assert_eq!(view(OWN, &[(OWN, false)]), EpochView::OwnOpen);
        assert_eq!(view(OWN, &[(OWN, true)]), EpochView::Closed);
        for view in [
            EpochView::OwnOpen,
            EpochView::Closed,
            EpochView::EndedOtherwise,
        ] {
            let active = plan(view, || true, || panic!("A is asked first"), || true);
            assert_eq!(active, Resolution::LeaveAlone(LeaveReason::Active));
            for decided in [false, true] {
                let gone = plan(view, || false, || decided, || false);
                assert_eq!(gone, Resolution::LeaveAlone(LeaveReason::Gone));
            }
        }
    }

    #[test]
    fn i1_decided_is_committed_and_undecided_is_rolled_back() {
        for view in [EpochView::OwnOpen, EpochView::Closed] {
            assert_eq!(plan(view, || false, || true, || true), Resolution::Commit);
            assert_eq!(
                plan(view, || false, || false, || true),
                Resolution::RollBackOrphan
            );
        }
    }

    #[test]
    fn i3_what_is_back_after_it_ended_otherwise_is_left_alone_whatever_was_decided() {
        for decided in [false, true] {
            assert_eq!(
                plan(EpochView::EndedOtherwise, || false, || decided, || true),
                Resolution::LeaveAlone(LeaveReason::EndedOtherwise)
            );
        }
    }

    #[test]
    fn another_members_open_epoch_is_seen_as_such() {
        let other = opening(1, 7, 8);
        assert_eq!(
            view(other, &[(OWN, false), (other, false)]),
            EpochView::OtherOpen
        );
    }
}
