//! State and exact commands, event by event.

use alloc::vec;
use alloc::vec::Vec;

use super::*;

const A: BranchIndex = BranchIndex(0);
const B: BranchIndex = BranchIndex(1);
const C: BranchIndex = BranchIndex(2);
const AT: LogSeq = LogSeq(7);

fn transaction(roles: &[BranchRole]) -> Coordinator {
    let mut tx = Coordinator::new();
    for role in roles {
        tx.enlist(*role);
    }
    tx
}

fn writers(count: usize) -> Coordinator {
    transaction(&vec![BranchRole::Writer; count])
}

fn drain(tx: &mut Coordinator) -> Vec<Command> {
    core::iter::from_fn(|| tx.poll_command()).collect()
}

fn deciding() -> Coordinator {
    let mut tx = writers(2);
    tx.commit();
    tx.handle_vote(A, Vote::Commit);
    tx.handle_vote(B, Vote::Commit);
    drain(&mut tx);
    tx
}

#[test]
fn i1_nothing_is_committed_before_every_vote_is_in_and_the_decision_is_durable() {
    let mut tx = writers(2);
    tx.commit();
    assert_eq!(
        drain(&mut tx),
        vec![Command::Prepare(A), Command::Prepare(B)]
    );
    tx.handle_vote(B, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![]);
    tx.handle_vote(A, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![Command::Decide(vec![A, B])]);
    assert_eq!(tx.phase(), Phase::Deciding);
    tx.handle_decision_durable(AT);
    assert_eq!(
        drain(&mut tx),
        vec![Command::Commit(A, AT), Command::Commit(B, AT)]
    );
    tx.handle_committed(A, Finish::Done);
    assert_eq!(tx.outcome(), None);
    tx.handle_committed(B, Finish::Done);
    assert_eq!(drain(&mut tx), vec![Command::Complete(AT)]);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::Committed { unfinished: vec![] })
    );
}

#[test]
fn a_rollback_vote_rolls_back_every_other_branch() {
    let mut tx = writers(3);
    tx.commit();
    drain(&mut tx);
    tx.handle_vote(A, Vote::Commit);
    tx.handle_vote(B, Vote::Rollback);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(A)]);
    tx.handle_rolled_back(A, Finish::Done);
    assert_eq!(tx.phase(), Phase::RollingBack, "the vote of C is still out");
    tx.handle_vote(C, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(C)]);
    tx.handle_rolled_back(C, Finish::Done);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::RolledBack { unfinished: vec![] })
    );
}

#[test]
fn i3_an_unheard_vote_is_handed_over_and_never_counts_as_rolled_back() {
    let mut tx = writers(2);
    tx.commit();
    drain(&mut tx);
    tx.handle_vote(A, Vote::Unheard);
    assert_eq!(drain(&mut tx), vec![Command::HandOver(A)]);
    tx.handle_vote(B, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(B)]);
    tx.handle_rolled_back(B, Finish::Unconfirmed);
    assert_eq!(drain(&mut tx), vec![Command::HandOver(B)]);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::RolledBack {
            unfinished: vec![A, B]
        })
    );
}

#[test]
fn a_single_writer_commits_in_one_phase_without_a_record() {
    let mut tx = writers(1);
    tx.commit();
    assert_eq!(drain(&mut tx), vec![Command::CommitOnePhase(A)]);
    tx.handle_one_phase(A, OnePhaseEnd::Committed);
    assert_eq!(drain(&mut tx), vec![]);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::Committed { unfinished: vec![] })
    );
}

#[test]
fn readers_end_before_the_single_writer_commits() {
    let mut tx = transaction(&[BranchRole::Reader, BranchRole::Writer]);
    tx.commit();
    assert_eq!(drain(&mut tx), vec![Command::EndReader(A)]);
    tx.handle_reader_ended(A, true);
    assert_eq!(drain(&mut tx), vec![Command::CommitOnePhase(B)]);
}

#[test]
fn a_reader_that_fails_rolls_back_the_writers() {
    let mut tx = transaction(&[BranchRole::Reader, BranchRole::Writer]);
    tx.commit();
    drain(&mut tx);
    tx.handle_reader_ended(A, false);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(B)]);

    let mut tx = transaction(&[BranchRole::Writer, BranchRole::Reader, BranchRole::Writer]);
    tx.commit();
    drain(&mut tx);
    tx.handle_vote(A, Vote::Commit);
    tx.handle_vote(C, Vote::Commit);
    tx.handle_reader_ended(B, false);
    assert_eq!(
        drain(&mut tx),
        vec![Command::Rollback(A), Command::Rollback(C)]
    );
}

#[test]
fn i3_a_lost_reply_in_one_phase_is_undetermined() {
    let mut tx = writers(1);
    tx.commit();
    drain(&mut tx);
    tx.handle_one_phase(A, OnePhaseEnd::Undetermined);
    assert_eq!(drain(&mut tx), vec![Command::HandOver(A)]);
    assert_eq!(tx.outcome(), Some(Outcome::Undetermined));
}

#[test]
fn a_refused_one_phase_is_rolled_back() {
    let mut tx = writers(1);
    tx.commit();
    drain(&mut tx);
    tx.handle_one_phase(A, OnePhaseEnd::RolledBack);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::RolledBack { unfinished: vec![] })
    );
}

#[test]
fn once_a_prepare_was_sent_a_single_remaining_branch_needs_a_decision() {
    let mut tx = writers(2);
    tx.commit();
    drain(&mut tx);
    tx.handle_vote(A, Vote::ReadOnly);
    tx.handle_vote(B, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![Command::Decide(vec![B])]);
}

#[test]
fn nothing_is_recorded_when_nobody_wrote() {
    let mut tx = writers(2);
    tx.commit();
    drain(&mut tx);
    tx.handle_vote(A, Vote::ReadOnly);
    tx.handle_vote(B, Vote::ReadOnly);
    assert_eq!(drain(&mut tx), vec![]);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::Committed { unfinished: vec![] })
    );

    let mut empty = writers(0);
    empty.commit();
    assert_eq!(
        empty.outcome(),
        Some(Outcome::Committed { unfinished: vec![] })
    );
}

#[test]
fn a_refused_decision_rolls_back() {
    let mut tx = deciding();
    tx.handle_decision_refused();
    assert_eq!(
        drain(&mut tx),
        vec![Command::Rollback(A), Command::Rollback(B)]
    );
}

#[test]
fn i6_an_unreachable_branch_does_not_hold_up_the_outcome_and_is_not_completed() {
    let mut tx = deciding();
    tx.handle_decision_durable(AT);
    drain(&mut tx);
    tx.handle_committed(A, Finish::Unconfirmed);
    tx.handle_committed(B, Finish::Done);
    assert_eq!(drain(&mut tx), vec![Command::HandOver(A)]);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::Committed {
            unfinished: vec![A]
        })
    );
}

#[test]
fn a_heuristic_rollback_is_reported() {
    let mut tx = deciding();
    tx.handle_decision_durable(AT);
    drain(&mut tx);
    tx.handle_committed(A, Finish::Done);
    tx.handle_committed(B, Finish::Heuristic(Heuristic::Rollback));
    assert_eq!(
        tx.outcome(),
        Some(Outcome::Heuristic(vec![(B, Heuristic::Rollback)]))
    );
}

/// Committed by a person, say, while everybody else is rolled back.
#[test]
fn a_heuristic_commit_of_what_is_rolled_back_is_reported() {
    let mut tx = writers(2);
    tx.commit();
    drain(&mut tx);
    tx.handle_vote(A, Vote::Commit);
    tx.handle_vote(B, Vote::Rollback);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(A)]);
    tx.handle_rolled_back(A, Finish::Heuristic(Heuristic::Commit));
    assert_eq!(drain(&mut tx), vec![]);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::Heuristic(vec![(A, Heuristic::Commit)]))
    );
}

#[test]
fn a_branch_is_named_by_the_order_of_its_enlisting() {
    let mut tx = Coordinator::new();
    for index in [A, B, C] {
        assert_eq!(tx.enlist(BranchRole::Writer), index);
        assert_eq!(tx.branch_state(index), BranchState::Enlisted);
    }
}

#[test]
fn a_transaction_has_ended_when_it_has_an_outcome() {
    let mut committed = deciding();
    assert!(!committed.is_ended());
    committed.handle_decision_durable(AT);
    committed.handle_committed(A, Finish::Done);
    assert!(!committed.is_ended(), "B is being committed");
    committed.handle_committed(B, Finish::Done);

    let mut undetermined = writers(1);
    undetermined.commit();
    assert!(!undetermined.is_ended());
    undetermined.handle_one_phase(A, OnePhaseEnd::Undetermined);

    let mut rolled_back = writers(1);
    rolled_back.rollback();
    assert!(!rolled_back.is_ended());
    rolled_back.handle_rolled_back(A, Finish::Done);

    for tx in [committed, undetermined, rolled_back] {
        assert!(tx.is_ended() && tx.outcome().is_some(), "{:?}", tx.phase());
    }
}

#[test]
fn a_rollback_by_the_application_rolls_back_every_branch() {
    let mut tx = transaction(&[BranchRole::Writer, BranchRole::Reader]);
    tx.rollback();
    assert_eq!(
        drain(&mut tx),
        vec![Command::Rollback(A), Command::Rollback(B)]
    );
    tx.handle_rolled_back(A, Finish::Done);
    tx.handle_rolled_back(B, Finish::Done);
    assert_eq!(
        tx.outcome(),
        Some(Outcome::RolledBack { unfinished: vec![] })
    );
}

#[test]
#[should_panic(expected = "a decision is logged once, after every vote")]
fn a_decision_nobody_asked_for_is_our_bug() {
    let mut tx = writers(2);
    tx.commit();
    tx.handle_vote(A, Vote::Commit);
    tx.handle_decision_durable(AT);
}

#[test]
#[should_panic(expected = "a vote answers a prepare")]
fn a_second_vote_is_our_bug() {
    let mut tx = writers(2);
    tx.commit();
    tx.handle_vote(A, Vote::Commit);
    tx.handle_vote(A, Vote::Commit);
}

#[test]
#[should_panic(expected = "branches are enlisted before commit or rollback")]
fn nothing_is_enlisted_after_commit() {
    let mut tx = writers(2);
    tx.commit();
    tx.enlist(BranchRole::Writer);
}
