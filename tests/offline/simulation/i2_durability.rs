//! I2: what `commit` has answered `Ok` for is there, after everything has lost its power, too.

use unanimous::TransactionOutcome;

use super::account::Answer;
use super::journal::Invariant;
use super::world::{RETAINED_ALL, World};

pub(super) fn judge(world: &World) {
    for tx in world.account.all().values() {
        let is_there = || tx.untouched().all(|at| world.servers[*at].has(&tx.mark()));
        if tx.answer == Some(Answer::Committed) && !is_there() {
            let text = format!("{} was answered, and is lost", tx.mark());
            world.journal.violated(Invariant::I2Durability, text);
        }
        if tx.is_decided && !is_there() {
            let text = format!("{} was decided, and is not committed", tx.mark());
            world.journal.violated(Invariant::I2Durability, text);
        }
        // The last word on it was asked for a moment ago.
        let is_known = tx.outcomes.last() == Some(&TransactionOutcome::Committed);
        let is_kept = world.retained == RETAINED_ALL && !tx.is_one_phase();
        if tx.answer == Some(Answer::Committed) && is_kept && !is_known && tx.by_hand.is_empty() {
            let text = format!(
                "{} was answered, and is {:?}",
                tx.mark(),
                tx.outcomes.last()
            );
            world.journal.violated(Invariant::I2Durability, text);
        }
    }
}

#[test]
fn i2_what_is_answered_in_any_world_survives_the_end_of_it() {
    super::assert_held(Invariant::I2Durability);
}
