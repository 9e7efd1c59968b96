//! The suite of decision logs over a table in memory.

use std::time::Duration;

use unanimous_core::ports::LogHome;
use unanimous_testing::MemoryTable;
use unanimous_testing::log_suite::{self, Place};

use super::TableLog;

struct Table(MemoryTable);

impl Place for Table {
    fn home(&self) -> Box<dyn LogHome> {
        // Nobody is suspected while the suite runs.
        let patience = Duration::from_secs(3600);
        let log = TableLog::on(&self.0.another_link()).suspect_after(patience);
        Box::new(log)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn the_table_log_passes_the_suite() {
    log_suite::run(async || Table(MemoryTable::new("log 1"))).await;
}
