//! What happened in a world, in one order, as text: the same seed gives the same text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Which promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Invariant {
    I1Atomicity,
    I2Durability,
    I3NeverGuess,
    I4OnlyOurs,
    I5NoFratricide,
    I6Liveness,
    I7Cancellation,
    I8NoLeaks,
}

impl Invariant {
    pub(super) const ALL: [Self; 8] = [
        Self::I1Atomicity,
        Self::I2Durability,
        Self::I3NeverGuess,
        Self::I4OnlyOurs,
        Self::I5NoFratricide,
        Self::I6Liveness,
        Self::I7Cancellation,
        Self::I8NoLeaks,
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) invariant: Invariant,
    pub(super) text: String,
}

#[derive(Debug)]
pub(super) struct Journal {
    began: Instant,
    text: Mutex<String>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    violations: Mutex<Vec<Violation>>,
}

impl Journal {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            text: Mutex::default(),
            faults: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let at = self.began.elapsed().as_millis();
        // Writing to a string does not fail.
        let _ = writeln!(lock(&self.text), "{at:>6} {what}");
    }

    /// Counts and notes something that goes wrong on purpose.
    pub(super) fn fault(&self, kind: &'static str, what: fmt::Arguments<'_>) {
        *lock(&self.faults).entry(kind).or_default() += 1;
        self.note(format_args!("! {kind}: {what}"));
    }

    pub(super) fn violated(&self, invariant: Invariant, text: String) {
        self.note(format_args!("VIOLATION {invariant:?} {text}"));
        lock(&self.violations).push(Violation { invariant, text });
    }

    pub(super) fn text(&self) -> String {
        lock(&self.text).clone()
    }

    pub(super) fn faults(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.faults).clone()
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        lock(&self.violations).clone()
    }
}

/// What is kept is consistent after every statement: a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
