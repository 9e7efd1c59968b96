//! A value that tasks wait for. Whoever waits is woken in the order in which they came: tokio's
//! `watch` wakes in an order of its own, which no seed decides.

use std::sync::Mutex;

use tokio::sync::Notify;

use super::journal::lock;

pub(super) struct Signal<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Copy> Signal<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Notify::new(),
        }
    }

    pub(super) fn get(&self) -> T {
        *lock(&self.value)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut lock(&self.value));
        self.changed.notify_waiters();
    }

    /// The first value that is accepted, from now on.
    pub(super) async fn wait_for(&self, accepts: impl Fn(T) -> bool) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking: a change in between is not missed.
            changed.as_mut().enable();
            let value = self.get();
            if accepts(value) {
                return value;
            }
            changed.await;
        }
    }
}
