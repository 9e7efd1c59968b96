//! A last resource: state and exact commands, event by event.

use alloc::vec;
use alloc::vec::Vec;

use super::*;

const A: BranchIndex = BranchIndex(0);
const B: BranchIndex = BranchIndex(1);
const C: BranchIndex = BranchIndex(2);
const AT: LogSeq = LogSeq(7);
const ALL_COMMITTED: Outcome = Outcome::Committed { unfinished: vec![] };
const ALL_ROLLED_BACK: Outcome = Outcome::RolledBack { unfinished: vec![] };

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

/// Three writers, of which B is the last resource and has been asked to commit.
fn asked() -> Coordinator {
    let mut tx = writers(3);
    tx.commit_with_last(Some(B));
    tx.handle_vote(A, Vote::Commit);
    tx.handle_vote(C, Vote::Commit);
    drain(&mut tx);
    tx
}

#[test]
fn i1_the_last_resource_is_asked_when_all_others_are_prepared_and_they_commit_after_it() {
    let mut tx = writers(3);
    tx.commit_with_last(Some(B));
    let prepares = vec![Command::Prepare(A), Command::Prepare(C)];
    assert_eq!(drain(&mut tx), prepares);
    assert_eq!(tx.branch_state(B), BranchState::Enlisted);
    tx.handle_vote(C, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![], "the vote of A is still out");
    assert_eq!(tx.phase(), Phase::Preparing);
    tx.handle_vote(A, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![Command::CommitLast(B, vec![A, C])]);
    assert_eq!(tx.phase(), Phase::Deciding);
    assert_eq!(tx.branch_state(B), BranchState::Committing);
    assert_eq!(tx.outcome(), None);
    tx.handle_last_committed(AT);
    let commits = vec![Command::Commit(A, AT), Command::Commit(C, AT)];
    assert_eq!(drain(&mut tx), commits);
    assert_eq!(tx.branch_state(B), BranchState::Committed);
    tx.handle_committed(C, Finish::Done);
    assert_eq!((drain(&mut tx), tx.outcome()), (vec![], None));
    tx.handle_committed(A, Finish::Done);
    assert_eq!(drain(&mut tx), vec![Command::Complete(AT)]);
    assert_eq!(tx.outcome(), Some(ALL_COMMITTED));
}

#[test]
fn i1_a_last_resource_that_is_rolled_back_rolls_back_what_is_prepared() {
    let mut tx = asked();
    tx.handle_last_rolled_back();
    let rollbacks = vec![Command::Rollback(A), Command::Rollback(C)];
    assert_eq!(drain(&mut tx), rollbacks);
    assert_eq!(tx.branch_state(B), BranchState::RolledBack);
    assert_eq!(tx.phase(), Phase::RollingBack);
    tx.handle_rolled_back(A, Finish::Unconfirmed);
    assert_eq!(drain(&mut tx), vec![Command::HandOver(A)]);
    tx.handle_rolled_back(C, Finish::Done);
    assert_eq!(drain(&mut tx), vec![]);
    let unfinished = vec![A];
    assert_eq!(tx.outcome(), Some(Outcome::RolledBack { unfinished }));
}

#[test]
fn i3_a_vote_against_it_or_none_rolls_the_last_resource_back_unasked() {
    for (vote, others) in [
        (Vote::Rollback, vec![]),
        (Vote::Unheard, vec![Command::HandOver(C)]),
    ] {
        let mut tx = writers(3);
        tx.commit_with_last(Some(B));
        drain(&mut tx);
        tx.handle_vote(A, Vote::Commit);
        tx.handle_vote(C, vote);
        let rollbacks = [Command::Rollback(A), Command::Rollback(B)];
        let expected: Vec<Command> = others.into_iter().chain(rollbacks).collect();
        assert_eq!(drain(&mut tx), expected, "{vote:?}");
        tx.handle_rolled_back(B, Finish::Done);
        assert_eq!(tx.phase(), Phase::RollingBack);
        tx.handle_rolled_back(A, Finish::Done);
        assert_eq!(tx.phase(), Phase::RolledBack);
        assert_eq!(drain(&mut tx), vec![]);
    }
}

#[test]
fn a_vote_that_comes_while_the_last_resource_is_rolled_back_is_rolled_back_too() {
    let mut tx = writers(3);
    tx.commit_with_last(Some(A));
    drain(&mut tx);
    tx.handle_vote(B, Vote::Rollback);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(A)]);
    tx.handle_vote(C, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(C)]);
    tx.handle_rolled_back(C, Finish::Done);
    assert_eq!(tx.outcome(), None, "the last resource is still asked");
    tx.handle_rolled_back(A, Finish::Done);
    assert_eq!(tx.outcome(), Some(ALL_ROLLED_BACK));
}

#[test]
fn a_last_resource_waits_for_the_readers_too() {
    let roles = [BranchRole::Writer, BranchRole::Reader, BranchRole::Writer];
    let mut tx = transaction(&roles);
    tx.commit_with_last(Some(C));
    let asks = vec![Command::EndReader(B), Command::Prepare(A)];
    assert_eq!(drain(&mut tx), asks);
    tx.handle_vote(A, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![], "the reader is being ended");
    tx.handle_reader_ended(B, true);
    assert_eq!(drain(&mut tx), vec![Command::CommitLast(C, vec![A])]);
    tx.handle_last_rolled_back();
    assert_eq!(drain(&mut tx), vec![Command::Rollback(A)]);

    let mut tx = transaction(&roles);
    tx.commit_with_last(Some(C));
    drain(&mut tx);
    tx.handle_reader_ended(B, false);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(C)]);
    tx.handle_vote(A, Vote::Commit);
    assert_eq!(drain(&mut tx), vec![Command::Rollback(A)]);
}

/// The others have been asked to prepare, so one phase was not chosen: there is a record, which
/// answers a lost reply, and is completed at once.
#[test]
fn a_last_resource_beside_branches_without_effect_decides_for_itself_alone() {
    let mut tx = writers(2);
    tx.commit_with_last(Some(A));
    drain(&mut tx);
    tx.handle_vote(B, Vote::ReadOnly);
    assert_eq!(drain(&mut tx), vec![Command::CommitLast(A, vec![])]);
    tx.handle_last_committed(AT);
    assert_eq!(drain(&mut tx), vec![Command::Complete(AT)]);
    assert_eq!(tx.outcome(), Some(ALL_COMMITTED));

    let mut tx = writers(2);
    tx.commit_with_last(Some(A));
    tx.handle_vote(B, Vote::ReadOnly);
    tx.handle_last_rolled_back();
    assert_eq!(tx.outcome(), Some(ALL_ROLLED_BACK));
}

#[test]
fn a_single_writer_commits_in_one_phase_even_where_it_could_be_a_last_resource() {
    let mut tx = transaction(&[BranchRole::Reader, BranchRole::Writer]);
    tx.commit_with_last(Some(B));
    assert_eq!(drain(&mut tx), vec![Command::EndReader(A)]);
    tx.handle_reader_ended(A, true);
    assert_eq!(drain(&mut tx), vec![Command::CommitOnePhase(B)]);
    assert_eq!(tx.phase(), Phase::OnePhase);
    tx.handle_one_phase(B, OnePhaseEnd::Committed);
    assert_eq!(drain(&mut tx), vec![], "there is no record");
    assert_eq!(tx.outcome(), Some(ALL_COMMITTED));
}

#[test]
fn i6_a_branch_that_is_not_confirmed_after_the_last_resource_keeps_the_decision() {
    let mut tx = asked();
    tx.handle_last_committed(AT);
    drain(&mut tx);
    tx.handle_committed(A, Finish::Unconfirmed);
    tx.handle_committed(C, Finish::Done);
    assert_eq!(drain(&mut tx), vec![Command::HandOver(A)]);
    let unfinished = vec![A];
    assert_eq!(tx.outcome(), Some(Outcome::Committed { unfinished }));
}

#[test]
fn a_heuristic_end_beside_a_committed_last_resource_is_reported() {
    let mut tx = asked();
    tx.handle_last_committed(AT);
    drain(&mut tx);
    tx.handle_committed(A, Finish::Heuristic(Heuristic::Rollback));
    tx.handle_committed(C, Finish::Done);
    let heuristics = vec![(A, Heuristic::Rollback)];
    assert_eq!(tx.outcome(), Some(Outcome::Heuristic(heuristics)));
}

#[test]
fn a_rollback_before_the_commit_knows_no_last_resource() {
    let mut tx = writers(2);
    tx.rollback();
    let rollbacks = vec![Command::Rollback(A), Command::Rollback(B)];
    assert_eq!(drain(&mut tx), rollbacks);
}

#[test]
#[should_panic(expected = "a reader records nothing")]
fn a_reader_as_last_resource_is_our_bug() {
    transaction(&[BranchRole::Writer, BranchRole::Reader]).commit_with_last(Some(B));
}

#[test]
#[should_panic(expected = "a vote answers a prepare")]
fn a_vote_of_the_last_resource_is_our_bug() {
    let mut tx = writers(2);
    tx.commit_with_last(Some(B));
    tx.handle_vote(B, Vote::Commit);
}

#[test]
#[should_panic(expected = "the last resource decides")]
fn a_commit_of_the_last_resource_before_every_vote_is_in_is_our_bug() {
    let mut tx = writers(3);
    tx.commit_with_last(Some(B));
    tx.handle_vote(A, Vote::Commit);
    tx.handle_last_committed(AT);
}

#[test]
#[should_panic(expected = "the last resource decides")]
fn a_second_end_of_the_last_resource_is_our_bug() {
    let mut tx = asked();
    tx.handle_last_committed(AT);
    tx.handle_last_rolled_back();
}

#[test]
#[should_panic(expected = "a last resource was chosen")]
fn the_end_of_a_last_resource_that_nobody_chose_is_our_bug() {
    let mut tx = writers(2);
    tx.commit();
    tx.handle_vote(A, Vote::Commit);
    tx.handle_vote(B, Vote::Commit);
    tx.handle_last_committed(AT);
}

/// Else the others would be committed while nobody knows what became of the last resource.
#[test]
#[should_panic(expected = "the last resource records the decision")]
fn a_decision_recorded_beside_the_last_resource_is_our_bug() {
    asked().handle_decision_durable(AT);
}

#[test]
#[should_panic(expected = "the last resource records the decision")]
fn a_decision_refused_beside_the_last_resource_is_our_bug() {
    asked().handle_decision_refused();
}

#[test]
#[should_panic(expected = "an answer needs a question")]
fn a_last_resource_is_not_committed_in_the_second_phase_again() {
    let mut tx = asked();
    tx.handle_last_committed(AT);
    tx.handle_committed(B, Finish::Done);
}
