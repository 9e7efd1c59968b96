//! How much a log holds.

use std::fmt;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{LogImage, RowState};

/// How much a log holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogCounts {
    /// How many openings it lists.
    pub openings: usize,
    /// Decisions that are not completed.
    pub pending: usize,
    /// Completed decisions that are still kept.
    pub completed: usize,
    /// Branches that ended against the decision.
    pub heuristics: usize,
    /// Records of what people did.
    #[serde(default)]
    pub by_hand: usize,
}

impl LogCounts {
    pub(super) fn of(image: &LogImage) -> Self {
        let count = |state| image.rows.iter().filter(|kept| kept.state == state).count();
        Self {
            openings: image.openings.len(),
            pending: count(RowState::Pending),
            completed: count(RowState::Completed),
            heuristics: image.heuristics.len(),
            by_hand: image.by_hand.len(),
        }
    }
}

/// The epochs of which decisions may be missing.
pub(super) fn doubtful_epochs(image: &LogImage) -> Vec<u32> {
    let doubtful = image.openings.iter().filter(|row| row.is_doubtful());
    doubtful.map(|row| row.opening.epoch.0).collect()
}

impl fmt::Display for LogCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} openings, {} pending decisions, {} completed ones, {} heuristic ends, {} records \
             by hand",
            self.openings, self.pending, self.completed, self.heuristics, self.by_hand
        )
    }
}
