//! The suites over the parts in memory: that the parts keep the contract, and that the suites run.

mod in_memory;

use unanimous_core::ports::LogHome;
use unanimous_testing::log_suite::{self, Place};
use unanimous_testing::resource_suite;
use unanimous_testing::{Flavour, MemoryLog};

use in_memory::InMemory;

#[tokio::test]
async fn the_resource_in_memory_passes_the_suite_in_every_flavour() {
    for flavour in [Flavour::Postgres, Flavour::Mysql, Flavour::Mariadb] {
        let harness = InMemory::new(flavour);
        let server = harness.server.clone();
        resource_suite::run(harness).await;
        assert_eq!(server.open_sessions(), 0, "no session leaks");
        assert_eq!(server.misuses(), Vec::<String>::new());
    }
}

struct InMemoryLog(MemoryLog, bool);

impl Place for InMemoryLog {
    fn home(&self) -> Box<dyn LogHome> {
        Box::new(self.0.clone())
    }

    fn is_shared(&self) -> bool {
        self.1
    }

    fn keeps_members(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn the_log_in_memory_for_one_process_passes_the_suite() {
    log_suite::run(async || InMemoryLog(MemoryLog::new(), false)).await;
}

#[tokio::test]
async fn the_log_in_memory_for_many_members_passes_the_suite() {
    log_suite::run(async || InMemoryLog(MemoryLog::shared(), true)).await;
}
