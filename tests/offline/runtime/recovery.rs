//! Recovery at start and while running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use unanimous::{Left, Point, Probe, TransactionOutcome, Xid};
use unanimous_testing::{Event, MemoryResource, MemoryServer, Step};

use super::{World, eventually};

/// Cuts the network to both servers when the decision is durable.
pub(super) struct CutAfterDecision(pub(super) Vec<MemoryServer>);

#[async_trait]
impl Probe for CutAfterDecision {
    async fn reached(&self, point: Point) {
        if point == Point::DecisionDurable {
            self.0.iter().for_each(|server| server.set_reachable(false));
        }
    }
}

/// A manager that decides to commit and dies before phase two; both servers crash, too.
pub(super) async fn die_after_the_decision(world: &World) -> unanimous::Gtrid {
    let servers = vec![world.orders.server().clone(), world.ledger.server().clone()];
    let builder = world
        .builder()
        .resource(&world.orders)
        .resource(&world.ledger);
    let tm = builder
        .probe(Arc::new(CutAfterDecision(servers.clone())))
        .start()
        .await
        .unwrap();
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    assert_eq!(tx.commit().await.unwrap().unfinished().len(), 2);
    drop(tm);
    world.log.crash();
    for server in servers {
        server.crash();
        server.set_reachable(true);
    }
    assert_eq!(world.rows(), (None, None));
    gtrid
}

#[tokio::test]
async fn i2_a_restart_commits_what_was_decided() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    let tm = world.start().await;
    world.settle().await;
    assert_eq!(world.rows(), World::both("1"));
    eventually("the decision is completed", || {
        world.log.is_completed(gtrid)
    })
    .await;
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::Committed
    );
}

#[tokio::test]
async fn i1_a_restart_rolls_back_what_was_not_decided_and_says_so() {
    let world = World::new();
    let first = world.start().await;
    let gtrid = first.begin().gtrid();
    drop(first);
    for resource in [&world.orders, &world.ledger] {
        let xid = Xid {
            gtrid,
            bqual: resource.server_name(),
        };
        resource.server().plant(&xid, &[("k", "1")]);
    }
    let tm = world.start().await;
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
    let rolled_back: usize = tm
        .start_report()
        .resources
        .iter()
        .map(|r| r.rolled_back)
        .sum();
    assert_eq!(rolled_back, 2);
    assert!(tm.start_report().is_clean());
}

#[tokio::test]
async fn i4_foreign_branches_and_other_managers_are_shown_and_never_touched() {
    let world = World::new();
    let other = World::new();
    let others_gtrid = other.start().await.begin().gtrid();
    let xid = Xid {
        gtrid: others_gtrid,
        bqual: world.orders.server_name(),
    };
    world.orders.server().plant(&xid, &[("k", "theirs")]);
    world.orders.server().plant_foreign("somebody's own");
    let tm = world.start().await;
    let report = tm.recover().await;
    assert_eq!(world.orders.server().prepared(), std::slice::from_ref(&xid));
    assert_eq!(world.orders.server().foreign(), ["somebody's own"]);
    let orders = report
        .resources
        .iter()
        .find(|r| r.resource.as_str() == "orders")
        .unwrap();
    assert_eq!(orders.foreign, ["somebody's own"]);
    assert!(matches!(&orders.left[..], [(left, Left::Plan(_))] if *left == xid));
}

#[tokio::test]
async fn i4_a_branch_whose_opening_the_log_does_not_list_is_reported_and_left() {
    let world = World::new();
    let first = world.start().await;
    let mut gtrid = first.begin().gtrid();
    gtrid.opening.nonce ^= 1;
    let xid = Xid {
        gtrid,
        bqual: world.orders.server_name(),
    };
    world.orders.server().plant(&xid, &[]);
    let report = first.recover().await;
    let text = report
        .resources
        .iter()
        .flat_map(|r| &r.left)
        .map(|(_, l)| l.to_string());
    assert!(text.collect::<String>().contains("restored or copied"));
    assert_eq!(world.orders.server().prepared(), [xid]);
}

#[tokio::test]
async fn i5_a_running_transaction_is_left_alone_by_every_pass() {
    let world = World::new();
    let tm = world.start().await;
    let hang = world.ledger.server().hang_next(Step::Prepare);
    let tx = world.begin_with_both(&tm, "1").await;
    let commit = tokio::spawn(tx.commit());
    let orders = world.orders.server();
    eventually("the first branch is prepared", || {
        orders.prepared().len() == 1
    })
    .await;
    tm.recover().await;
    assert_eq!(orders.prepared().len(), 1);
    hang.release();
    commit.await.unwrap().unwrap();
    assert_eq!(world.rows(), World::both("1"));
    world.settle().await;
}

#[tokio::test]
async fn i6_an_unreachable_database_delays_neither_the_start_nor_the_others() {
    let world = World::new();
    die_after_the_decision(&world).await;
    world.orders.server().set_reachable(false);
    let hang = world.orders.server().hang_next(Step::Preflight);
    let tm = world
        .start_with(|config| config.start_timeout = Duration::from_millis(100))
        .await;
    eventually("the other is committed", || {
        world.ledger.server().row("k").is_some()
    })
    .await;
    assert!(!tm.start_report().is_clean());
    hang.release();
    world.orders.server().set_reachable(true);
    world.settle().await;
    assert_eq!(world.rows(), World::both("1"));
}

#[tokio::test]
async fn i3_a_branch_that_is_gone_is_finished_only_with_proof() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    let xid = Xid {
        gtrid,
        bqual: world.orders.server_name(),
    };
    assert!(
        world
            .orders
            .server()
            .end_by_hand(&xid, unanimous::Decision::Rollback)
    );
    let tm = world.start().await;
    eventually("the other is committed", || {
        world.ledger.server().row("k").is_some()
    })
    .await;
    let mut outcome = tm.outcome(gtrid).await.unwrap();
    while outcome == TransactionOutcome::Committed {
        tokio::time::sleep(Duration::from_millis(5)).await;
        outcome = tm.outcome(gtrid).await.unwrap();
    }
    let TransactionOutcome::Heuristic(branches) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        branches,
        [(world.orders.server_name(), unanimous::Heuristic::Rollback)]
    );
}

#[tokio::test]
async fn i3_a_branch_that_is_gone_from_another_server_is_a_hazard_and_is_kept() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    world
        .orders
        .server()
        .fail_over("a standby that had not heard of it");
    let tm = world.start().await;
    eventually("the other is committed", || {
        world.ledger.server().row("k").is_some()
    })
    .await;
    let report = tm.recover().await;
    let left: Vec<_> = report.resources.iter().flat_map(|r| &r.left).collect();
    assert!(
        matches!(left[..], [(xid, Left::Person(_))] if xid.gtrid == gtrid),
        "{left:?}"
    );
    assert!(!world.log.is_completed(gtrid), "the decision is kept");
}

#[tokio::test]
async fn decisions_that_name_an_unknown_resource_are_reported_and_kept() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    let tm = world
        .builder()
        .resource(&world.orders)
        .start()
        .await
        .unwrap();
    eventually("the known one is committed", || {
        world.orders.server().row("k").is_some()
    })
    .await;
    let report = tm.recover().await;
    assert_eq!(report.unknown_resources, [world.ledger.server_name()]);
    assert!(!world.log.is_completed(gtrid));
    drop(tm);
    world.start().await;
    world.settle().await;
    assert_eq!(world.rows(), World::both("1"));
}

#[tokio::test]
async fn a_thousand_branches_in_doubt_are_ended_in_one_pass() {
    let world = World::new();
    let first = world.start().await;
    for _ in 0..1000 {
        let xid = Xid {
            gtrid: first.begin().gtrid(),
            bqual: world.orders.server_name(),
        };
        world.orders.server().plant(&xid, &[]);
    }
    drop(first);
    let tm = world.start().await;
    assert!(world.orders.server().prepared().is_empty());
    assert_eq!(
        tm.start_report()
            .resources
            .iter()
            .map(|r| r.rolled_back)
            .sum::<usize>(),
        1000
    );
}

/// Lets a transaction end between two looks of a pass: the pass has read the log while its decision
/// was pending, and asks whether it is active when it has ended.
#[derive(Default)]
struct EndsAfterTheLogWasRead {
    decided: Notify,
    read: Notify,
    ended: Notify,
    is_over: AtomicBool,
}

#[async_trait]
impl Probe for EndsAfterTheLogWasRead {
    #[expect(clippy::wildcard_enum_match_arm, reason = "three points of many")]
    async fn reached(&self, point: Point) {
        match point {
            Point::DecisionDurable => {
                self.decided.notify_one();
                self.read.notified().await;
            }
            Point::LeftActive => self.ended.notify_one(),
            Point::ActiveSeen(name)
                if name.as_str() == "orders" && !self.is_over.load(Ordering::SeqCst) =>
            {
                self.decided.notified().await;
            }
            Point::LogRead(name)
                if name.as_str() == "orders" && !self.is_over.swap(true, Ordering::SeqCst) =>
            {
                self.read.notify_one();
                self.ended.notified().await;
            }
            _ => {}
        }
    }
}

/// A proof ends the session that may still hold the branch, and that one serves others by now.
#[tokio::test]
async fn i5_a_transaction_that_ends_during_a_pass_is_not_asked_for() {
    let world = World::new();
    let resources = world
        .builder()
        .config(|config| config.recovery_interval = Duration::from_secs(60))
        .resource(&world.orders)
        .resource(&world.ledger);
    let probe = Arc::new(EndsAfterTheLogWasRead::default());
    probe.is_over.store(true, Ordering::SeqCst);
    let tm = resources
        .probe(Arc::clone(&probe) as Arc<dyn Probe>)
        .start()
        .await
        .unwrap();
    let tx = world.begin_with_both(&tm, "1").await;
    // The passes that begin by themselves after the start are over by then.
    tokio::time::sleep(Duration::from_millis(50)).await;
    probe.is_over.store(false, Ordering::SeqCst);
    let (report, committed) = tokio::join!(tm.recover(), tx.commit());
    assert!(committed.unwrap().unfinished().is_empty());
    assert!(report.is_clean(), "{report}");
    assert!(probe.is_over.load(Ordering::SeqCst));
    let asked = world.journal.count(|event| {
        let step = Step::Absent;
        matches!(event, Event::Asked { step: asked, .. } if *asked == step)
    });
    assert_eq!(asked, 0, "a connection that serves others would be ended");
    world.settle().await;
}

/// The resource's name, which is also the bqual of its branches.
trait ServerName {
    fn server_name(&self) -> unanimous::ResourceName;
}

impl ServerName for MemoryResource {
    fn server_name(&self) -> unanimous::ResourceName {
        unanimous::ports::ResourceManager::name(self).clone()
    }
}

#[tokio::test]
async fn a_resource_that_was_not_there_at_the_start_is_checked_when_it_is() {
    let world = World::new();
    world.orders.server().set_reachable(false);
    let _tm = world.start().await;
    let orders = world.orders.server_name();
    let is_check = |resource: &unanimous::ResourceName, step: &Step| {
        *step == Step::Preflight && *resource == orders
    };
    let checks =
        |e: &Event| matches!(e, Event::Asked { resource: r, step: s, .. } if is_check(r, s));
    let journal = &world.journal;
    eventually("it is checked again", || journal.count(checks) > 2).await;
    world.orders.server().set_reachable(true);
    let scans = |event: &Event| {
        matches!(
            event,
            Event::Asked {
                step: Step::Recover,
                ..
            }
        )
    };
    // Long enough for the check that succeeds, however loaded the machine is.
    let before = journal.count(scans);
    eventually("passes go on", || journal.count(scans) > before + 10).await;
    let checked = journal.count(checks);
    let scanned = journal.count(scans);
    eventually("passes go on", || journal.count(scans) > scanned + 4).await;
    assert_eq!(journal.count(checks), checked, "fit once is enough");
}
