//! I5: recovery never ends what an application still holds or waits for. Watched as it happens, by
//! [`Account::recovery_ends`](super::account::Account::recovery_ends); in worlds of two processes,
//! one never ends the other's (I4 watches that).

use super::journal::Invariant;

#[test]
fn i5_recovery_ends_nothing_that_is_active_in_any_world() {
    super::assert_held(Invariant::I5NoFratricide);
}
