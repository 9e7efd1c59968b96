//! I8: no connection whose branch may be open is used again, and none is left behind.

use super::journal::Invariant;
use super::world::World;

pub(super) fn judge(world: &World) {
    for (at, server) in world.servers.iter().enumerate() {
        for misuse in server.memory.misuses() {
            let text = format!("at {at}: {misuse}");
            world.journal.violated(Invariant::I8NoLeaks, text);
        }
        let open = server.memory.open_sessions();
        if open > 0 {
            let text = format!("{open} sessions are left at {at}");
            world.journal.violated(Invariant::I8NoLeaks, text);
        }
    }
}

#[test]
fn i8_no_connection_leaks_in_any_world() {
    super::assert_held(Invariant::I8NoLeaks);
}
