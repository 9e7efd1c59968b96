//! I7: a future may be dropped at any point: before the decision that means rollback, after it the
//! commit goes on.

use super::journal::Invariant;
use super::world::World;

pub(super) fn judge(world: &World) {
    for tx in world.account.all().values() {
        let is_anywhere = (0..world.servers.len()).any(|at| world.servers[at].has(&tx.mark()));
        if let Some(why) = tx.doomed
            && is_anywhere
        {
            let text = format!("{} is there, although {why}", tx.mark());
            world.journal.violated(Invariant::I7Cancellation, text);
        }
    }
}

#[test]
fn i7_what_was_dropped_in_any_world_is_rolled_back_or_goes_on() {
    super::assert_held(Invariant::I7Cancellation);
}
