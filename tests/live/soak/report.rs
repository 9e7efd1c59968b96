//! The figures of a soak: printed, and written as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) transactions: u64,
    pub(super) committed: u64,
    pub(super) rolled_back: u64,
    pub(super) unknown: u64,
    /// Reads of a list that were compared with the list.
    pub(super) reads: u64,
    pub(super) rounds: u32,
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) violations: Vec<String>,
    pub(super) left_in_doubt: u64,
    /// Locks, connections and files that are left.
    pub(super) leaks: u64,
    /// How long the slowest round took to have nothing in doubt after the last repair.
    pub(super) slowest_recovery: Duration,
}

impl Report {
    pub(super) fn violation(&mut self, text: String) {
        // Enough to see what is wrong.
        if self.violations.len() < 50 {
            println!("VIOLATION {text}");
        }
        self.violations.push(text);
    }

    /// A soak in which nothing happened proves nothing.
    pub(super) fn is_good(&self) -> bool {
        let has_happened = self.committed > 0 && !self.faults.is_empty();
        has_happened && self.violations.is_empty() && self.left_in_doubt == 0 && self.leaks == 0
    }

    pub(super) fn print(&self, took: Duration) {
        println!(
            "soak: {:.1} min, round {}: {} transactions ({} committed, {} rolled back, {} not \
             told), {} reads, {} faults, {} violations, {} left in doubt, {} leaks; at most {:.1?} \
             until nothing was in doubt",
            took.as_secs_f64() / 60.0,
            self.rounds,
            self.transactions,
            self.committed,
            self.rolled_back,
            self.unknown,
            self.reads,
            self.faults.values().sum::<u64>(),
            self.violations.len(),
            self.left_in_doubt,
            self.leaks,
            self.slowest_recovery,
        );
    }

    pub(super) fn json(&self, took: Duration) -> String {
        let figures = serde_json::json!({
            "minutes": (took.as_secs_f64() / 6.0).round() / 10.0,
            "rounds": self.rounds,
            "transactions": self.transactions,
            "committed": self.committed,
            "rolled_back": self.rolled_back,
            "unknown": self.unknown,
            "reads": self.reads,
            "faults": self.faults,
            "violations": self.violations.len(),
            "left_in_doubt": self.left_in_doubt,
            "leaks": self.leaks,
            "slowest_recovery_seconds": self.slowest_recovery.as_secs_f64(),
        });
        format!("{figures:#}\n")
    }
}
