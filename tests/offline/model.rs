//! Every interleaving of one transaction with two branches: the pure core itself, explored.
//!
//! The world around the core is a model (`model/world.rs`): two servers, a decision log, requests
//! that get lost or arrive late, a process that crashes at any point, and recovery passes whose
//! observations P, A, T and Q are steps of their own among all others. The core is not a model:
//! the explored states hold a `Coordinator`, and what recovery does is what `plan` says.
//!
//! Bounds: one transaction, two branches that may write, two crashes, one log for one process, one
//! pass at a time for each resource (but what a dead recoverer sent may still arrive).
//!
//! The number of states is asserted exactly: whoever changes the protocol or the model has to say
//! so here. That the properties see anything is proven by drivers that are wrong on purpose: each
//! `Bug` is found, by the property that is named for it.

mod world;

use stateright::{Checker, HasDiscoveries, Model, Property};

use world::{Action, Bug, ServerBranch, Told, World, WorldState};

const I1: &str = "I1: the branches of a transaction end the same way";
const I2: &str = "I2: what was answered as committed is not rolled back";
const I3: &str = "I3: recovery asks for nothing that the record does not say";
const I5: &str = "I5: recovery does not touch a running transaction";
const I6: &str = "I6: without further faults everything is resolved";
const COMMITS: &str = "a transaction can be committed";
const ROLLS_BACK: &str = "a transaction can be rolled back";
const RECOVERS_COMMIT: &str = "recovery can commit a branch";
const RECOVERS_ROLLBACK: &str = "recovery can roll a branch back";

impl Model for World {
    type State = WorldState;
    type Action = Action;

    fn init_states(&self) -> Vec<WorldState> {
        vec![WorldState::new()]
    }

    fn actions(&self, state: &WorldState, actions: &mut Vec<Action>) {
        state.actions(self, actions);
    }

    fn next_state(&self, state: &WorldState, action: Action) -> Option<WorldState> {
        let mut next = state.clone();
        next.take(self, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(I1, |_, state: &WorldState| {
                let ends = |end| state.servers.contains(&end);
                !(ends(ServerBranch::Committed) && ends(ServerBranch::RolledBack))
            }),
            Property::always(I2, |_, state: &WorldState| {
                let is_rolled_back = state.servers.contains(&ServerBranch::RolledBack);
                state.told != Some(Told::Committed) || !is_rolled_back
            }),
            Property::always(I3, |_, state: &WorldState| !state.contradicted_record),
            Property::always(I5, |_, state: &WorldState| !state.ended_running),
            Property::always(I6, |world: &Self, state: &WorldState| {
                state.settled(world).is_resolved()
            }),
            Property::sometimes(COMMITS, |_, state: &WorldState| {
                state.servers == [ServerBranch::Committed; 2] && state.told == Some(Told::Committed)
            }),
            Property::sometimes(ROLLS_BACK, |_, state: &WorldState| {
                let is_rolled_back = state.servers == [ServerBranch::RolledBack; 2];
                is_rolled_back && state.told == Some(Told::RolledBack)
            }),
            Property::sometimes(RECOVERS_COMMIT, |_, state: &WorldState| {
                state.is_recovered_to(ServerBranch::Committed)
            }),
            Property::sometimes(RECOVERS_ROLLBACK, |_, state: &WorldState| {
                state.is_recovered_to(ServerBranch::RolledBack)
            }),
        ]
    }
}

fn world(bug: Bug) -> World {
    World { bug, crashes: 2 }
}

#[test]
fn i1_i2_i3_i5_i6_hold_in_every_interleaving() {
    let checker = world(Bug::None).checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert_eq!(checker.unique_state_count(), 47_286);
}

#[test]
fn answering_before_the_decision_is_durable_is_caught() {
    assert_caught(Bug::AnswersTooEarly, I2);
}

#[test]
fn a_transaction_that_never_leaves_the_running_ones_is_caught() {
    assert_caught(Bug::StaysInA, I6);
}

#[test]
fn deciding_before_every_vote_is_in_is_caught() {
    assert_caught(Bug::DecidesBeforeAllVotes, I1);
}

#[test]
fn looking_at_the_record_before_the_running_ones_is_caught() {
    assert_caught(Bug::LooksAtTBeforeA, I3);
}

#[test]
fn leaving_out_the_second_scan_is_caught() {
    assert_caught(Bug::LeavesOutQ, I3);
}

#[test]
fn ignoring_the_running_ones_is_caught() {
    assert_caught(Bug::LeavesOutA, I5);
}

#[test]
fn rolling_back_after_an_uncertain_decision_is_caught() {
    assert_caught(Bug::RollsBackUncertain, I1);
}

#[test]
fn believing_a_lookup_after_an_uncertain_decision_is_caught() {
    assert_caught(Bug::BelievesLookup, I1);
}

#[test]
fn acting_on_a_record_that_was_read_but_not_synced_is_caught() {
    assert_caught(Bug::ActsOnUnsynced, I1);
}

#[test]
fn completing_before_every_branch_is_gone_is_caught() {
    assert_caught(Bug::CompletesTooEarly, I1);
}

/// Explores a wrong driver until this property fails.
fn assert_caught(bug: Bug, property: &'static str) {
    let checker = world(bug)
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{bug:?} went unnoticed by {property:?}"));
    println!("{bug:?}: {:?}", path.into_actions());
}
