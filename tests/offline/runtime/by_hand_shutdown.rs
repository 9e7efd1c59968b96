//! A person is ending branches by hand while the application is being shut down.

use std::time::Duration;

use unanimous::log::FileLog;
use unanimous::operator::{Access, ConfigFile, Resolve};
use unanimous::ports::HandState;
use unanimous::{TransactionManager, Xid};
use unanimous_testing::Flavour;

use super::by_hand::{Scene, settled};
use super::fragile::{Call, Fate, FragileResource};
use super::{World, eventually};

/// The tool waits at the other end of the socket for what was done. In real time, for the log is a
/// folder.
#[tokio::test]
async fn i1_a_shutdown_tells_the_tool_what_was_done() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let orders = FragileResource::new(&world.orders);
    let log = folder.path().join("log");
    let builder = TransactionManager::builder().log(FileLog::at(&log));
    let tm = builder.resource(&orders).start().await.unwrap();
    let mut gtrid = tm.begin().gtrid();
    gtrid.opening.nonce ^= 1;
    let bqual = "orders".parse().unwrap();
    { world.orders.server() }.plant(&Xid { gtrid, bqual }, &[("k", "1")]);
    let config = folder.path().join("unanimous.toml");
    let text = "[log]\nfolder = \"log\"\n\
                [resources.orders]\nurl = \"postgres://app@127.0.0.1:1/app\"\n";
    std::fs::write(&config, text).unwrap();
    let config = ConfigFile::read(&config).unwrap();
    let access = Access::open(&config).await.unwrap();
    assert!(access.is_through_application());
    let mut asked = Resolve::new(gtrid.to_string(), true, "me@here", "because");
    asked.its_log_is_lost = true;
    orders.fates.next(Call::FinishAnswered, Fate::Wait);
    let shutting_down = async {
        eventually("it is ended, and not told", || orders.fates.are_met()).await;
        let going_on = async {
            let socket = log.join("control.sock");
            eventually("nobody new is heard", || !socket.exists()).await;
            orders.fates.go();
        };
        tokio::join!(tm.shutdown(), going_on).0.unwrap();
    };
    let (resolved, ()) = tokio::join!(access.resolve(&asked), shutting_down);
    let resolved = resolved.unwrap();
    assert!(resolved.is_done(), "{resolved:?}");
    assert_eq!(world.orders.server().row("k").as_deref(), Some("1"));
}

/// The shutdown has waited for the first branch as long as it may.
#[tokio::test(start_paused = true)]
async fn i1_whoever_is_ending_branches_when_the_shutdown_is_over_ends_no_more() {
    let scene = Scene::new(Flavour::Postgres, false).await;
    let ledger = FragileResource::new(&scene.world.ledger);
    let builder = scene.world.builder().config(|config| {
        config.recovery_interval = Duration::from_secs(3600);
        config.recovery_interval_max = Duration::from_secs(3600);
        config.recovery_timeout = Duration::from_secs(60);
        config.drain_timeout = Duration::from_secs(1);
    });
    let builder = builder.resource(&ledger).resource(&scene.orders);
    let tm = builder.start().await.unwrap();
    // The first pass of each task: its branches are their owner's yet.
    tokio::time::sleep(Duration::from_secs(1)).await;
    { scene.owner.close(scene.gtrid.opening.epoch) }
        .await
        .unwrap();
    ledger.fates.next(Call::FinishAnswered, Fate::Wait);
    let mut asked = Resolve::new(scene.gtrid.to_string(), true, "me@here", "because");
    asked.against_the_decision = true;
    let shutting_down = async {
        eventually("the first is ended, and not told", || {
            ledger.fates.are_met()
        })
        .await;
        tm.shutdown().await.unwrap();
        ledger.fates.go();
    };
    let (resolved, ()) = tokio::join!(asked.within(&tm, true), shutting_down);
    let resolved = resolved.unwrap();
    assert!(scene.is_prepared(), "{resolved:?}");
    assert_eq!(scene.world.ledger.server().row("k").as_deref(), Some("1"));
    let states = settled(&*scene.owner).await;
    assert_eq!(states, [HandState::Done, HandState::Void], "{resolved:?}");
}
