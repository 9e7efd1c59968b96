//! The runtime against parts in memory: what it does when anything fails, hangs or is dropped.

mod attack;
mod attack_shared;
mod bad_input;
mod barrier;
mod by_hand;
mod by_hand_later;
mod by_hand_shutdown;
mod by_hands;
mod cancel;
mod commit;
mod every_poll;
mod fragile;
mod full_disk;
mod last_resource;
mod liar;
mod liars;
mod lifecycle;
mod lost_branch;
mod lost_decision;
mod lost_log;
mod passes;
mod pools;
mod recovery;
mod survey;
mod wrong_drivers;

use std::time::Duration;

use unanimous::{Config, Transaction, TransactionManager, TransactionManagerBuilder};
use unanimous_testing::{Journal, MemoryBranch, MemoryLog, MemoryResource, MemoryServer};

/// Two resources on servers of their own, and a log, all writing into one journal.
struct World {
    journal: Journal,
    log: MemoryLog,
    orders: MemoryResource,
    ledger: MemoryResource,
}

impl World {
    fn new() -> Self {
        let journal = Journal::new();
        let server = |name: &str| {
            let flavour = unanimous_testing::Flavour::Postgres;
            MemoryServer::with(name, flavour, journal.clone()).resource(name)
        };
        let log = MemoryLog::with_journal(journal.clone());
        Self {
            orders: server("orders"),
            ledger: server("ledger"),
            log,
            journal: journal.clone(),
        }
    }

    async fn start(&self) -> TransactionManager {
        self.start_with(|_| {}).await
    }

    async fn start_with(&self, change: impl FnOnce(&mut Config)) -> TransactionManager {
        let builder = self
            .builder()
            .resource(&self.orders)
            .resource(&self.ledger)
            .config(change);
        builder.start().await.unwrap()
    }

    /// On this log, with limits that do not make tests wait, and without resources.
    fn builder(&self) -> TransactionManagerBuilder {
        TransactionManager::builder()
            .log(self.log.clone())
            .config(|config| {
                config.start_timeout = Duration::from_millis(500);
                config.prepare_timeout = Duration::from_millis(300);
                config.decide_timeout = Duration::from_millis(300);
                config.finish_timeout = Duration::from_millis(300);
                config.recovery_timeout = Duration::from_millis(300);
                config.drain_timeout = Duration::from_secs(5);
                config.recovery_interval = Duration::from_millis(50);
                config.recovery_interval_max = Duration::from_millis(100);
            })
    }

    /// A transaction that has written the same value into both branches.
    async fn begin_with_both(&self, tm: &TransactionManager, value: &str) -> Transaction {
        let mut tx = tm.begin();
        let branches = tx.enlist((&self.orders, &self.ledger)).await.unwrap();
        write_both(branches, value);
        tx
    }

    /// Both rows as an independent client sees them.
    fn rows(&self) -> (Option<String>, Option<String>) {
        (self.orders.server().row("k"), self.ledger.server().row("k"))
    }

    fn both(value: &str) -> (Option<String>, Option<String>) {
        (Some(value.to_owned()), Some(value.to_owned()))
    }

    /// Waits until nothing is prepared and no session is in use, then checks that nobody broke the
    /// contract of a port.
    async fn settle(&self) {
        for server in [self.orders.server(), self.ledger.server()] {
            eventually("nothing is prepared", || server.prepared().is_empty()).await;
            eventually("no session leaks", || server.open_sessions() == 0).await;
            assert_eq!(server.misuses(), Vec::<String>::new());
        }
    }
}

/// Writes the same value into both branches.
fn write_both((orders, ledger): (&mut MemoryBranch, &mut MemoryBranch), value: &str) {
    orders.put("k", value).unwrap();
    ledger.put("k", value).unwrap();
}

/// Polls for a condition that must come true without anybody's help.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never true: {what}");
}
