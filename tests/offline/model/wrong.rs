//! That the properties see anything: each wrong variant is explored in a world that holds without
//! it, until the property that is named for it fails.

use stateright::{Checker, HasDiscoveries, Model};

use super::bug::Bug;
use super::world::World;
use super::{I1, I2, I3, I3_TOLD, I5, I6, worlds};

// The driver.

#[test]
fn answering_before_the_decision_is_durable_is_caught() {
    assert_caught(Bug::AnswersTooEarly, worlds::two_writers, I2);
}

#[test]
fn a_transaction_that_never_leaves_the_running_ones_is_caught() {
    assert_caught(Bug::StaysInA, worlds::two_writers, I6);
}

#[test]
fn deciding_before_every_vote_is_in_is_caught() {
    assert_caught(Bug::DecidesBeforeAllVotes, worlds::two_writers, I1);
}

#[test]
fn taking_a_vote_that_was_not_heard_for_a_vote_to_commit_is_caught() {
    assert_caught(Bug::TakesSilenceForConsent, worlds::two_writers, I1);
}

#[test]
fn forgiving_a_reader_that_did_not_end_well_is_caught() {
    assert_caught(Bug::ForgivesReader, worlds::two_writers_and_a_reader, I1);
    assert_caught(Bug::ForgivesReader, worlds::one_writer_and_a_reader, I1);
}

#[test]
fn taking_an_unconfirmed_commit_for_done_is_caught() {
    assert_caught(Bug::TakesSilenceForDone, worlds::two_writers, I1);
}

#[test]
fn one_phase_chosen_after_a_prepare_was_sent_is_caught() {
    assert_caught(Bug::OnePhaseAfterPrepare, worlds::two_writers, I1);
}

#[test]
fn rolling_back_after_an_uncertain_decision_is_caught() {
    assert_caught(Bug::RollsBackUncertain, worlds::two_writers, I1);
    assert_caught(Bug::RollsBackUncertain, worlds::two_members, I1);
    assert_caught(Bug::RollsBackUncertain, worlds::last_resource, I1);
}

#[test]
fn an_empty_lookup_taken_as_proof_is_caught() {
    assert_caught(Bug::BelievesLookup, worlds::two_writers, I1);
    assert_caught(Bug::BelievesLookup, worlds::two_members, I1);
    assert_caught(Bug::BelievesLookup, worlds::last_resource, I1);
}

#[test]
fn believing_the_refusal_of_a_repeated_decision_is_caught() {
    assert_caught(Bug::BelievesRefusalOfRepeat, worlds::two_writers, I1);
    assert_caught(Bug::BelievesRefusalOfRepeat, worlds::two_members, I1);
}

#[test]
fn ignoring_the_refusal_of_a_closed_epoch_is_caught() {
    assert_caught(Bug::IgnoresRefusal, worlds::two_members, I1);
}

#[test]
fn deciding_under_a_new_epoch_what_began_under_a_closed_one_is_caught() {
    assert_caught(Bug::DecidesUnderNewEpoch, worlds::two_members, I1);
}

#[test]
fn a_last_resource_written_with_an_upsert_is_caught() {
    assert_caught(Bug::UpsertsLastResource, worlds::last_resource, I1);
}

#[test]
fn a_last_resource_that_is_asked_before_every_vote_is_in_is_caught() {
    assert_caught(Bug::AsksLastWithOthers, worlds::last_resource, I1);
}

#[test]
fn a_decision_in_place_of_a_last_resource_that_was_not_heard_is_caught() {
    assert_caught(Bug::SettlesByDeciding, worlds::last_resource, I1);
}

#[test]
fn believing_a_transactions_number_across_a_restart_is_caught() {
    assert_caught(Bug::BelievesStatusAcrossRestart, worlds::one_writer, I2);
}

#[test]
fn believing_a_transactions_number_while_its_session_lives_is_caught() {
    assert_caught(Bug::BelievesStatusUnfenced, worlds::one_writer, I3_TOLD);
}

// Recovery.

#[test]
fn looking_at_the_record_before_the_running_ones_is_caught() {
    assert_caught(Bug::LooksAtTBeforeA, worlds::two_writers, I1);
    assert_caught(Bug::LooksAtTBeforeA, worlds::two_writers, I3);
}

/// It asks to roll back what was decided, committed and completed meanwhile: harmless where nobody
/// reuses an XID, and a guess all the same.
#[test]
fn leaving_out_the_second_scan_is_caught() {
    assert_caught(Bug::LeavesOutQ, worlds::two_writers, I3);
    assert_caught(Bug::LeavesOutQ, worlds::two_members, I3);
}

#[test]
fn ignoring_the_running_ones_is_caught() {
    assert_caught(Bug::LeavesOutA, worlds::two_writers, I5);
    assert_caught(Bug::LeavesOutA, worlds::two_writers, I1);
}

#[test]
fn ending_another_members_branch_without_closing_its_epoch_is_caught() {
    assert_caught(Bug::EndsOthersOpen, worlds::two_members, I5);
    assert_caught(Bug::EndsOthersOpen, worlds::two_members, I1);
}

#[test]
fn looking_at_the_record_before_its_epoch_is_closed_is_caught() {
    assert_caught(Bug::LooksAtTBeforeClosed, worlds::two_members, I1);
}

#[test]
fn leaving_the_epoch_of_a_dead_member_open_is_caught() {
    assert_caught(Bug::NeverCloses, worlds::two_members, I6);
}

#[test]
fn not_looking_for_late_prepares_is_caught() {
    assert_caught(Bug::StopsLooking, worlds::two_writers, I6);
}

#[test]
fn acting_on_a_record_that_was_read_but_not_synced_is_caught() {
    assert_caught(Bug::ActsOnUnsynced, worlds::two_writers, I1);
    assert_caught(Bug::ActsOnUnsynced, worlds::two_members, I1);
}

#[test]
fn completing_before_every_branch_is_gone_is_caught() {
    assert_caught(Bug::CompletesTooEarly, worlds::two_writers, I1);
}

#[test]
fn deleting_anothers_decision_while_its_epoch_is_open_is_caught() {
    assert_caught(Bug::DeletesOthersOpen, worlds::two_members, I1);
}

#[test]
fn an_unknown_xid_taken_as_done_is_caught() {
    assert_caught(Bug::TakesUnknownForDone, worlds::holding_server, I1);
}

#[test]
fn the_empty_list_of_a_standby_taken_as_proof_is_caught() {
    assert_caught(Bug::BelievesEmptyList, worlds::holding_server, I1);
}

// The log.

#[test]
fn an_epoch_used_twice_is_caught() {
    assert_caught(Bug::ReusesEpoch, worlds::two_members, I1);
}

#[test]
fn checking_the_epoch_before_the_write_and_not_with_it_is_caught() {
    assert_caught(Bug::ChecksEpochFirst, worlds::two_members, I1);
}

#[test]
fn closing_an_epoch_lazily_is_caught() {
    assert_caught(Bug::ClosesLazily, worlds::two_members, I1);
}

#[test]
fn a_last_resource_that_commits_under_a_closed_epoch_is_caught() {
    assert_caught(Bug::LastIgnoresEpoch, worlds::last_resource, I1);
    assert_caught(Bug::ChecksEpochFirst, worlds::last_resource, I1);
}

#[test]
fn a_refusal_that_does_not_wait_for_a_running_commit_is_caught() {
    assert_caught(Bug::RefusesBesideRunning, worlds::last_resource, I1);
    assert_caught(
        Bug::RefusesBesideRunning,
        worlds::last_resource_beside_one,
        I1,
    );
}

#[test]
fn a_refusal_that_does_not_stand_until_its_epoch_is_closed_is_caught() {
    assert_caught(Bug::DropsRefusalTooEarly, worlds::last_resource, I1);
}

/// A prepare that arrives later, or a rollback that a crash has undone, could not be told from
/// another log's.
#[test]
fn forgetting_an_opening_whose_branches_may_still_appear_is_caught() {
    assert_caught(Bug::ForgetsOpening, worlds::two_writers, I6);
    assert_caught(
        Bug::ForgetsOpening,
        worlds::two_members_and_a_holding_server,
        I6,
    );
}

/// The members that closed the epoch commit, complete and forget; then its owner, which lives and
/// has not heard the answer, asks again, is refused, and tells its application "rolled back".
#[test]
fn forgetting_a_decision_that_its_owner_may_ask_for_again_is_caught() {
    assert_caught(Bug::ForgetsTooEarly, worlds::two_members, I3_TOLD);
    assert_caught(Bug::ForgetsTooEarly, worlds::last_resource, I3_TOLD);
}

/// Explores a wrong variant until this property fails, and prints the way there.
fn assert_caught(bug: Bug, world: fn() -> World, property: &'static str) {
    let checker = World { bug, ..world() }
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{bug:?} went unnoticed by {property:?}"));
    let world = checker.model();
    let is_kept = world.property(property).condition;
    let states = path.into_vec().into_iter();
    let way = states.take_while(|(state, _)| is_kept(world, state));
    println!("{bug:?}:");
    for action in way.filter_map(|(_, action)| action) {
        println!("  {action:?}");
    }
}
