//! I1: all branches of a transaction end the same way, and no money is made or lost.

use super::journal::Invariant;
use super::world::World;

pub(super) fn judge(world: &World) {
    for tx in world.account.all().values() {
        let has = |at: &&usize| world.servers[**at].has(&tx.mark());
        let (there, gone): (Vec<&usize>, Vec<&usize>) = tx.at.iter().partition(has);
        if !there.is_empty() && !gone.is_empty() {
            let text = format!("{} is at {there:?} and not at {gone:?}", tx.mark());
            world.journal.violated(Invariant::I1Atomicity, text);
        }
    }
    let sum: i64 = world.balances().values().sum();
    if sum != 0 {
        let text = format!("the balances are {:?}", world.balances());
        world.journal.violated(Invariant::I1Atomicity, text);
    }
}

#[test]
fn i1_every_transaction_of_every_world_is_there_or_not() {
    super::assert_held(Invariant::I1Atomicity);
}
