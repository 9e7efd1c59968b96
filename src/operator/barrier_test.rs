//! A barrier over the control socket: it stands as long as its owner does, and no longer than its
//! limit; and what it cannot wait for is named.

use std::path::Path;
use std::time::Duration;

use unanimous_testing::{Flavour, Journal, MemoryResource, MemoryServer, Step};

use super::BarrierOptions;
use super::client::Client;
use crate::log::FileLog;
use crate::{Transaction, TransactionManager};

/// Two resources in memory, and a log in a folder.
struct World {
    home: tempfile::TempDir,
    orders: MemoryResource,
    ledger: MemoryResource,
}

impl World {
    fn new() -> Self {
        let resource = |name: &str| {
            let journal = Journal::new();
            MemoryServer::with(name, Flavour::Postgres, journal).resource(name)
        };
        Self {
            home: tempfile::tempdir().unwrap(),
            orders: resource("orders"),
            ledger: resource("ledger"),
        }
    }

    fn log(&self) -> std::path::PathBuf {
        self.home.path().join("log")
    }

    async fn start(&self) -> TransactionManager {
        let builder = TransactionManager::builder()
            .log(FileLog::at(self.log()))
            .resource(&self.orders)
            .resource(&self.ledger);
        let builder = builder.config(|config| {
            config.finish_timeout = Duration::from_millis(200);
            config.recovery_interval = Duration::from_millis(50);
            config.recovery_interval_max = Duration::from_millis(100);
        });
        builder.start().await.unwrap()
    }

    async fn begin(&self, tm: &TransactionManager, key: &str) -> Transaction {
        let mut tx = tm.begin();
        let (orders, ledger) = tx.enlist((&self.orders, &self.ledger)).await.unwrap();
        orders.put(key, "1").unwrap();
        ledger.put(key, "1").unwrap();
        tx
    }

    fn has_rows(&self, key: &str) -> [bool; 2] {
        [&self.orders, &self.ledger].map(|at| at.server().row(key).is_some())
    }
}

async fn client(log: &Path) -> Client {
    Client::find(log).await.unwrap().expect("it listens")
}

fn wanted(change: impl FnOnce(&mut BarrierOptions)) -> BarrierOptions {
    let mut wanted = BarrierOptions::default();
    change(&mut wanted);
    wanted
}

/// Long enough for a commit to be seen that does not wait.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_holds_decisions_until_it_is_ended() {
    let world = World::new();
    let tm = world.start().await;
    world.begin(&tm, "before").await.commit().await.unwrap();
    let client = client(&world.log()).await;
    let (lease, stood) = client.hold(&wanted(|_| {})).await.unwrap();
    assert_eq!(stood.application, Some(std::process::id()));
    assert_eq!((stood.waited_for, stood.unfinished.len()), (0, 0));
    let contents = FileLog::at(world.log()).inspect().unwrap();
    assert_eq!(contents.pending, [], "what was completed is on the disk");
    let committing = tokio::spawn(world.begin(&tm, "held").await.commit());
    a_while().await;
    assert!(!committing.is_finished());
    assert_eq!(world.has_rows("held"), [false, false]);
    let ended = lease.end().await.unwrap();
    assert!(ended.held_ms >= 200, "{ended:?}");
    committing.await.unwrap().unwrap();
    assert_eq!(world.has_rows("held"), [true, true]);
    tm.shutdown().await.unwrap();
}

/// By its death, by its limit, or because the application ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_ends_with_its_owner_its_limit_or_its_application() {
    let world = World::new();
    let tm = world.start().await;
    let client = client(&world.log()).await;
    let (lease, _) = client.hold(&wanted(|_| {})).await.unwrap();
    let committing = tokio::spawn(world.begin(&tm, "a").await.commit());
    a_while().await;
    assert!(!committing.is_finished());
    drop(lease);
    committing.await.unwrap().unwrap();

    let short = wanted(|wanted| wanted.limit = Duration::from_millis(300));
    let (mut lease, _) = client.hold(&short).await.unwrap();
    world.begin(&tm, "b").await.commit().await.unwrap();
    let fallen = lease.fallen().await.to_string();
    assert!(fallen.contains("limit has passed"), "{fallen}");
    let (lease, _) = client.hold(&short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let error = lease.end().await.unwrap_err().to_string();
    assert!(error.contains("limit has passed"), "{error}");

    let (mut lease, _) = client.hold(&wanted(|_| {})).await.unwrap();
    tm.shutdown().await.unwrap();
    lease.fallen().await;
    assert!(lease.end().await.is_err());
}

/// What passed before it is ended; what it cannot end keeps it from standing, and then nothing is
/// held.
#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_does_not_stand_before_what_was_decided_is_committed() {
    let world = World::new();
    let tm = world.start().await;
    let client = client(&world.log()).await;
    let tx = world.begin(&tm, "k").await;
    let gtrid = tx.gtrid();
    let hang = world.ledger.server().hang_next(Step::Commit);
    let committing = tokio::spawn(tx.commit());
    hang.reached().await;
    world.ledger.server().set_reachable(false);
    committing.await.unwrap().unwrap();
    let hasty = wanted(|wanted| wanted.within = Duration::from_millis(400));
    let error = client.hold(&hasty).await.unwrap_err().to_string();
    assert!(error.contains(&gtrid.to_string()), "{error}");
    assert!(error.contains("ledger"), "{error}");
    let allowed = wanted(|wanted| {
        wanted.within = Duration::from_millis(400);
        wanted.allow_unfinished = true;
    });
    let (lease, stood) = client.hold(&allowed).await.unwrap();
    assert_eq!(stood.unfinished.len(), 1);
    assert_eq!(stood.unfinished[0].gtrid, gtrid.to_string());
    drop(lease);
    world.ledger.server().set_reachable(true);
    let (lease, stood) = client.hold(&wanted(|_| {})).await.unwrap();
    assert_eq!(stood.unfinished, []);
    assert_eq!(world.has_rows("k"), [true, true]);
    lease.end().await.unwrap();
    tm.shutdown().await.unwrap();
}
