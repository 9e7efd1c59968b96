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
    assert!(Planned::Leave(LeaveReason::EndedOtherwise).is_in_doubt());
}
