//! The gate in front of the decisions of a manager.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use unanimous_testing::{Flavour, Journal, MemoryLog, MemoryResource, MemoryServer, MemoryTable};

use super::Gate;
use crate::log::TableLog;
use crate::{CommitError, RollbackCause, Transaction, TransactionManager};

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(20)
}

#[tokio::test]
async fn what_has_passed_is_waited_for_and_nothing_new_passes_meanwhile() {
    let gate = Gate::default();
    let before = gate.try_pass().expect("it is open");
    assert_eq!(gate.passed(), 1);
    let mut shutting = Box::pin(gate.shut());
    assert!(shutting.as_mut().now_or_never().is_none());
    assert!(gate.try_pass().is_none(), "it is being shut");
    assert!(gate.clone().pass_until(soon()).await.is_none());
    drop(before);
    let shut = shutting.now_or_never().expect("nobody is left");
    assert!(gate.try_pass().is_none(), "it is shut");
    let waiting = tokio::spawn(gate.clone().pass_until(soon() + Duration::from_secs(60)));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(shut);
    assert!(waiting.await.unwrap().is_some());
    assert!(gate.try_pass().is_some());
}

#[tokio::test]
async fn whoever_gives_up_shutting_it_leaves_it_open() {
    let gate = Gate::default();
    let before = gate.try_pass();
    let mut shutting = Box::pin(gate.shut());
    assert!(shutting.as_mut().now_or_never().is_none());
    drop(shutting);
    assert!(gate.try_pass().is_some());
    drop(before);
    assert_eq!(gate.passed(), 0);
}

#[tokio::test]
async fn two_that_shut_it_do_so_one_after_the_other() {
    let gate = Gate::default();
    let first = gate.shut().await;
    let mut second = Box::pin(gate.shut());
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    assert!(second.now_or_never().is_some());
}

/// Two resources, and a log of either kind.
struct World {
    orders: MemoryResource,
    ledger: MemoryResource,
}

impl World {
    fn new(journal: &Journal) -> Self {
        let resource = |name: &str| {
            MemoryServer::with(name, Flavour::Postgres, journal.clone()).resource(name)
        };
        Self {
            orders: resource("orders"),
            ledger: resource("ledger"),
        }
    }

    /// With the last resource, or without one.
    async fn start(&self, journal: &Journal, has_last: bool) -> TransactionManager {
        let builder = TransactionManager::builder();
        let builder = if has_last {
            let table = MemoryTable::with("orders", journal.clone());
            self.orders.server().hosts(&table);
            builder.log(TableLog::on(&table))
        } else {
            builder.log(MemoryLog::with_journal(journal.clone()))
        };
        let builder = builder.resource(&self.orders).resource(&self.ledger);
        builder
            .config(|config| config.decide_timeout = Duration::from_millis(50))
            .start()
            .await
            .expect("it starts")
    }

    async fn begin(&self, tm: &TransactionManager) -> Transaction {
        let mut tx = tm.begin();
        let both = tx.enlist((&self.orders, &self.ledger)).await;
        let (orders, ledger) = both.expect("both are there");
        orders.put("k", "1").expect("nobody holds it");
        ledger.put("k", "1").expect("nobody holds it");
        tx
    }

    fn rows(&self) -> [Option<String>; 2] {
        [&self.orders, &self.ledger].map(|at| at.server().row("k"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_at_the_gate_and_goes_on_when_it_opens() {
    for has_last in [false, true] {
        let journal = Journal::new();
        let world = World::new(&journal);
        let tm = world.start(&journal, has_last).await;
        let shut = tm.gate().shut().await;
        let committing = tokio::spawn(world.begin(&tm).await.commit());
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!committing.is_finished(), "it is not undetermined either");
        assert_eq!(world.rows(), [None, None]);
        drop(shut);
        let committed = committing.await.unwrap().unwrap();
        assert_eq!(committed.unfinished(), []);
        assert_eq!(world.rows(), ["1", "1"].map(|row| Some(row.to_owned())));
        // What it had passed is given back.
        tm.gate().shut().await.expect("nobody is left");
    }
}

#[tokio::test(start_paused = true)]
async fn i3_a_commit_whose_deadline_passes_at_the_gate_is_rolled_back_for_certain() {
    for has_last in [false, true] {
        let journal = Journal::new();
        let world = World::new(&journal);
        let tm = world.start(&journal, has_last).await;
        let shut = tm.gate().shut().await;
        let mut tx = world.begin(&tm).await;
        tx.set_deadline(Duration::from_secs(3));
        let error = tx.commit().await.unwrap_err();
        let is_held = |error: &CommitError| {
            matches!(error, CommitError::RolledBack { cause, .. }
                if matches!(cause, RollbackCause::Held))
        };
        assert!(is_held(&error), "{error}");
        drop(shut);
        tm.shutdown().await.unwrap();
        for server in [world.orders.server(), world.ledger.server()] {
            assert_eq!(server.prepared(), []);
            assert_eq!(server.misuses(), Vec::<String>::new());
        }
        assert_eq!(world.rows(), [None, None]);
    }
}

/// A single branch is in no set of several databases.
#[tokio::test(start_paused = true)]
async fn a_commit_in_one_phase_does_not_wait() {
    let journal = Journal::new();
    let world = World::new(&journal);
    let tm = Arc::new(world.start(&journal, false).await);
    let _shut = tm.gate().shut().await;
    let mut tx = tm.begin();
    tx.enlist(&world.orders)
        .await
        .unwrap()
        .put("k", "1")
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.rows(), [Some("1".to_owned()), None]);
}
