//! I4: what others have prepared, and what only looks like ours, is untouched. Asking for it is
//! watched as it happens, by [`Account::recovery_ends`](super::account::Account::recovery_ends).

use super::journal::Invariant;
use super::world::World;

pub(super) fn judge(world: &World) {
    for (at, xid) in world.account.foreign() {
        if !world.servers[at].memory.prepared().contains(&xid) {
            let text = format!("{xid} was prepared at {at}, and is gone");
            world.journal.violated(Invariant::I4OnlyOurs, text);
        }
    }
    for server in &world.servers {
        let mut texts = server.foreign_texts.clone();
        texts.sort();
        if server.memory.foreign() != texts {
            let text = format!("{:?} is left of {texts:?}", server.memory.foreign());
            world.journal.violated(Invariant::I4OnlyOurs, text);
        }
    }
}

#[test]
fn i4_nothing_foreign_is_touched_in_any_world() {
    super::assert_held(Invariant::I4OnlyOurs);
}
