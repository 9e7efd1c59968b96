//! Every interleaving of one transaction in a world of its own: the pure core itself, explored.
//!
//! The world around the core is a model (`model/world.rs`): servers, a decision log, requests that
//! get lost or arrive late, members that crash, restart and suspect each other, and recovery passes
//! whose observations P, A, T and Q are steps of their own among all others. The core is not a
//! model: the explored states hold a `Coordinator`, recovery does what `plan` says, and whose epoch
//! it is, is what `EpochView::of` says.
//!
//! # What holds
//!
//! In each world of `model/worlds.rs`, in every state that can be reached within its bounds:
//! * **I1** no branch is committed while another is rolled back, the last resource included;
//! * **I2** what was answered as committed is not rolled back, whoever crashes then;
//! * **I3** a prepared branch is committed only with a record that is durable, and rolled back only
//!   if there is none and none can come; and what was answered as rolled back is not committed;
//! * **I5** recovery sends nothing to a branch whose transaction its own process still runs, or
//!   another one whose epoch is open;
//! * **I6** from there, if nothing more goes wrong, every branch ends, every decision is completed,
//!   and whoever lived to hear it is answered. No member that crashed has to come back for that
//!   while another lives.
//!
//! Also, in each world, every way of `model/world/paths.rs` for which it has what it takes is
//! reached: a world that loses no reply would prove nothing about lost replies. And every wrong
//! variant of `model/wrong.rs` is caught in a world that holds without it.
//!
//! # What happens
//!
//! * Two or three writers, readers, votes to commit, read-only or to roll back, one phase.
//! * Requests and replies are delayed without limit, lost, and overtake each other on different
//!   connections: prepares and decisions that arrive when everybody has looked, finishes of a
//!   recoverer that died.
//! * One member with a file log, or two that share a log: each may crash, restart under a new
//!   opening, and close the first epoch while its owner lives; that one finds out when it decides.
//! * What the log has written may be unsynced and get lost, what it completes lazily may return.
//! * Servers crash and restart. Those that are like MariaDB hide a prepared branch while its
//!   connection lives ("unknown XID") and may prepare again what was rolled back.
//! * A last resource, whose commit arrives late, or when a refusal stands under its key, or not at
//!   all, and whose session ends with the server of the log.
//!
//! # What is not modelled
//!
//! * More than one transaction, more than two members, more crashes than the bounds say. Between
//!   transactions of different XIDs the core has no state.
//! * People who end branches by hand, servers that fail over or are restored, other managers'
//!   branches: proof by server identity and the heuristic ends are tested with the adapters.
//! * How an adapter sees a session gone; only a commit in one phase needs it here. That a decided
//!   branch was prepared, and answered so, is what makes its absence proof.
//! * Time: nothing here waits for any, so no timeout can be too short.
//! * The second look at the log that the runtime takes after Q: it can only find more decided.
//! * Damaged logs, and a log's database that fails over: what was synced is read again.
//! * A member that is silent for ever and not dead: to others it is suspected, but I6 counts on it.
//!
//! # Bounds
//!
//! Each world is large where it asks something, and small elsewhere. With
//! `UNANIMOUS_TEST_MODEL=full` all have larger bounds (minutes instead of seconds). The number of
//! states is asserted exactly: whoever changes the protocol or the model has to say so here.

mod bug;
mod world;
mod worlds;
mod wrong;

use stateright::{Checker, Model, Property};

use world::{Action, ServerBranch, Told, World, WorldState};

const I1: &str = "I1: the branches of a transaction end the same way";
const I2: &str = "I2: what was answered as committed is not rolled back";
const I3: &str = "I3: nothing is asked of a prepared branch but what the record says";
const I3_TOLD: &str = "I3: what was answered as rolled back is not committed";
const I5: &str = "I5: recovery does not touch a running transaction";
const I6: &str = "I6: without further faults everything is resolved";

impl Model for World {
    type State = WorldState;
    type Action = Action;

    fn init_states(&self) -> Vec<WorldState> {
        vec![WorldState::new(self)]
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
        let mut properties = vec![
            Property::always(I1, |_, state: &WorldState| {
                !(state.any(is_committed) && state.any(ServerBranch::is_rolled_back))
            }),
            Property::always(I2, |_, state: &WorldState| {
                state.told() != Some(Told::Committed) || !state.any(ServerBranch::is_rolled_back)
            }),
            Property::always(I3, |_, state: &WorldState| !state.contradicted_record()),
            Property::always(I3_TOLD, |_, state: &WorldState| {
                state.told() != Some(Told::RolledBack) || !state.any(is_committed)
            }),
            Property::always(I5, |_, state: &WorldState| !state.ended_running()),
            Property::always(I6, |world: &Self, state: &WorldState| state.settles(world)),
        ];
        let paths = self.paths().into_iter();
        properties.extend(paths.map(|path| Property::sometimes(path.name, path.is_taken)));
        properties
    }
}

fn is_committed(branch: ServerBranch) -> bool {
    branch == ServerBranch::Committed
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_writers() {
    assert_holds(worlds::two_writers(), 20_584, 27_338);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_writers_one_on_a_holding_server() {
    assert_holds(worlds::holding_server(), 26_607, 59_426);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_writers_and_a_reader() {
    assert_holds(worlds::two_writers_and_a_reader(), 20_231, 46_517);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_three_writers() {
    assert_holds(worlds::three_writers(), 59_588, 89_090);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_one_writer_in_one_phase() {
    assert_holds(worlds::one_writer(), 117, 315);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_one_writer_in_one_phase_on_a_holding_server() {
    assert_holds(worlds::one_writer_on_a_holding_server(), 108, 300);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_one_writer_in_one_phase_after_a_reader() {
    assert_holds(worlds::one_writer_and_a_reader(), 471, 1_345);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_members_and_a_log_that_crashes() {
    assert_holds(worlds::two_members(), 48_165, 790_688);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_members_that_crash() {
    assert_holds(worlds::two_members_that_crash(), 138_818, 243_048);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_members_and_a_holding_server() {
    assert_holds(worlds::two_members_and_a_holding_server(), 52_814, 894_130);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_members_and_three_writers() {
    assert_holds(worlds::two_members_and_three_writers(), 331_064, 1_110_364);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_members_and_a_last_resource() {
    assert_holds(worlds::last_resource(), 69_979, 1_070_759);
}

#[test]
fn i1_i2_i3_i5_i6_hold_for_two_members_and_a_last_resource_beside_one() {
    assert_holds(worlds::last_resource_beside_one(), 13_488, 35_336);
}

/// Explores all of a world. `states` and `states_full`: how many there are.
fn assert_holds(world: World, states: usize, states_full: usize) {
    let (world, states) = match std::env::var("UNANIMOUS_TEST_MODEL").as_deref() {
        Ok("full") => (worlds::larger(world), states_full),
        Err(std::env::VarError::NotPresent) => (world, states),
        other => panic!("UNANIMOUS_TEST_MODEL is {other:?}: say full, or leave it out"),
    };
    let checker = world.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let found = checker.unique_state_count();
    println!("{found} states, up to {} steps", checker.max_depth());
    assert_eq!(found, states, "the number of states has changed: why?");
}
