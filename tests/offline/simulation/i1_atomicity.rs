//! I1: all branches of a transaction end the same way, and no money is made or lost. What a person
//! has ended otherwise is told, where the server lets it be seen.

use unanimous::TransactionOutcome;
use unanimous_testing::Flavour;

use super::account::Tx;
use super::journal::Invariant;
use super::world::World;

pub(super) fn judge(world: &World) {
    let txs = world.account.all();
    for tx in txs.values() {
        let has = |at: &&usize| world.servers[**at].has(&tx.mark());
        let (there, gone): (Vec<&usize>, Vec<&usize>) = tx.untouched().partition(has);
        if !there.is_empty() && !gone.is_empty() {
            let text = format!("{} is at {there:?} and not at {gone:?}", tx.mark());
            world.journal.violated(Invariant::I1Atomicity, text);
        }
        for at in tx.by_hand.iter().filter(|at| !has(at)) {
            let is_silent = !there.is_empty() && !is_told(tx, *at);
            // Only this flavour can prove it.
            if is_silent && world.servers[*at].flavour == Flavour::Postgres {
                let text = format!("{} was rolled back by hand at {at}, in silence", tx.mark());
                world.journal.violated(Invariant::I1Atomicity, text);
            }
        }
    }
    let sum: i64 = world.balances().values().sum();
    if sum != 0 && txs.values().all(|tx| tx.by_hand.is_empty()) {
        let text = format!("the balances are {:?}", world.balances());
        world.journal.violated(Invariant::I1Atomicity, text);
    }
}

/// Whether its outcome names this branch as a heuristic end.
fn is_told(tx: &Tx, at: usize) -> bool {
    match tx.outcomes.last() {
        Some(TransactionOutcome::Heuristic(ends)) => ends
            .iter()
            .any(|(name, _)| name.as_str() == format!("s{at}")),
        _ => false,
    }
}

#[test]
fn i1_every_transaction_of_every_world_is_there_or_not() {
    super::assert_held(Invariant::I1Atomicity);
}
