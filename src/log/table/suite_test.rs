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
        let log = TableLog::on(&self.0).suspect_after(patience);
        Box::new(log)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// With time enough for others on the way of every question and every answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_log_passes_the_suite_over_a_slow_network() {
    log_suite::run(async || {
        let table = MemoryTable::new("log 1");
        table.set_delay(Duration::from_millis(1));
        Table(table)
    })
    .await;
}

#[tokio::test]
async fn the_table_log_passes_the_suite() {
    log_suite::run(async || Table(MemoryTable::new("log 1"))).await;
}
