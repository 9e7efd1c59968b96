//! Where all chance of a world comes from: one seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A generator of luck. Cloning gives the same one; [`fork`](Self::fork) gives one of its own.
#[derive(Debug, Clone)]
pub(super) struct Luck(Arc<Mutex<u64>>);

impl Luck {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub(super) fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn fork(&self) -> Self {
        Self::new(self.next())
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// So many times in a thousand.
    pub(super) fn chance(&self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Whole milliseconds, because the clock of the world has no others.
    pub(super) fn millis(&self, min: u64, max: u64) -> Duration {
        Duration::from_millis(min + self.below(max - min + 1))
    }

    /// So many different numbers below `bound`, in any order.
    pub(super) fn some_of(&self, bound: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..bound).collect();
        for at in 0..count.min(bound) {
            let other = at + self.below((bound - at) as u64) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}
