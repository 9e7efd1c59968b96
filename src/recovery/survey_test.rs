//! What a planned end says, and whose business it is.

use super::*;

#[test]
fn a_branch_is_in_doubt_if_somebody_has_to_end_it() {
    for (planned, is_in_doubt, text) in [
        (Planned::Commit, true, "commit"),
        (Planned::RollBack, true, "roll back"),
        (Planned::Prove, true, "prove that it was committed"),
        (Planned::Wait("torn".to_owned()), true, "wait: torn"),
        (
            Planned::Leave(LeaveReason::Active),
            false,
            "leave: its transaction is running",
        ),
        (
            Planned::Leave(LeaveReason::OtherMember),
            false,
            "leave: its owner's epoch is open",
        ),
        (
            Planned::Leave(LeaveReason::OtherManager),
            false,
            "leave: it belongs to another manager, with a log of its own",
        ),
        (
            Planned::Leave(LeaveReason::Gone),
            false,
            "leave: it ended meanwhile",
        ),
    ] {
        assert_eq!(planned.is_in_doubt(), is_in_doubt, "{planned:?}");
        assert_eq!(planned.to_string(), text);
    }
    assert!(Planned::Leave(LeaveReason::UnlistedOpening).is_in_doubt());
}

#[test]
fn i3_a_decision_is_known_only_of_epochs_that_the_log_was_asked_about() {
    for (view, known) in [
        (EpochView::OwnOpen, true),
        (EpochView::Closed, true),
        (EpochView::OtherOpen, false),
        (EpochView::Unlisted, false),
        (EpochView::OtherManager, false),
    ] {
        assert_eq!(is_known(view), known, "{view:?}");
    }
}
