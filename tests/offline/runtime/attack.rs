//! Parts that panic, hang for ever or lie: nothing is lost, nobody waits for ever, and every
//! answer is true.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use unanimous::{
    BoxError, BranchErrorKind, Cause, CommitError, EnlistError, Heuristic, Left,
    TransactionManager, TransactionManagerBuilder, TransactionOutcome, Xid,
};
use unanimous_testing::{Event, Fault, Flavour, MemoryResource, MemoryServer, Step};

use super::fragile::{Call, Fate, Fates, FragileLog, FragileResource};
use super::{World, eventually, write_both};

/// A manager whose `orders` is fragile and whose `ledger` is not.
pub(super) struct Fragile {
    pub(super) world: World,
    pub(super) orders: FragileResource,
    pub(super) log: Fates,
}

impl Fragile {
    pub(super) fn new() -> Self {
        Self::of(World::new())
    }

    fn of(world: World) -> Self {
        let (orders, log) = (FragileResource::new(&world.orders), Fates::default());
        Self { world, orders, log }
    }

    pub(super) async fn start(&self) -> TransactionManager {
        self.builder().start().await.unwrap()
    }

    pub(super) fn builder(&self) -> TransactionManagerBuilder {
        let log = FragileLog {
            inner: self.world.log.clone(),
            fates: self.log.clone(),
        };
        let builder = self.world.builder().log(log);
        let builder = builder.resource(&self.orders).resource(&self.world.ledger);
        // Nothing here waits for these two.
        builder.config(|config| {
            config.prepare_timeout = Duration::from_secs(60);
            config.decide_timeout = Duration::from_secs(60);
        })
    }

    /// A transaction that has written the same value at both.
    pub(super) async fn written(
        &self,
        tm: &TransactionManager,
        value: &str,
    ) -> unanimous::Transaction {
        let mut tx = tm.begin();
        let (orders, ledger) = tx.enlist((&self.orders, &self.world.ledger)).await.unwrap();
        write_both((&mut orders.inner, ledger), value);
        tx
    }
}

pub(super) fn asked(step: Step) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Asked { step: asked, .. } if *asked == step)
}

/// Fails, instead of never ending.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    let answered = tokio::time::timeout(limit, future).await;
    answered.unwrap_or_else(|_| panic!("never ends: {what}"))
}

#[tokio::test]
async fn i6_a_scan_that_never_ends_or_panics_stops_neither_reports_nor_later_passes() {
    for fate in [Fate::Hang, Fate::Panic] {
        let fragile = Fragile::new();
        let tm = fragile.start().await;
        let xid = Xid {
            gtrid: tm.begin().gtrid(),
            bqual: "orders".parse().unwrap(),
        };
        fragile.orders.fates.next(Call::Recover, fate);
        eventually("the fate is met", || fragile.orders.fates.are_met()).await;
        fragile.world.orders.server().plant(&xid, &[("k", "1")]);
        soon("a pass after it", tm.recover()).await;
        fragile.world.settle().await;
        assert_eq!(fragile.world.rows(), (None, None));
    }
}

#[tokio::test]
async fn i6_ending_or_proving_a_branch_never_ends_and_the_next_pass_does_it() {
    for (call, fate) in [
        (Call::Finish, Fate::Hang),
        (Call::Finish, Fate::Panic),
        (Call::Absent, Fate::Hang),
        (Call::Absent, Fate::Panic),
    ] {
        let fragile = Fragile::new();
        let tm = fragile.start().await;
        fragile.orders.fates.next(call, fate);
        let fault = if call == Call::Finish {
            Fault::LoseRequest
        } else {
            Fault::LoseReply
        };
        fragile.world.orders.server().fail_next(Step::Commit, fault);
        let tx = fragile.written(&tm, "1").await;
        let committed = tx.commit().await.unwrap();
        soon("the branch's commit", committed.completed())
            .await
            .unwrap();
        assert!(fragile.orders.fates.are_met(), "{call:?} {fate:?}");
        assert_eq!(fragile.world.rows(), World::both("1"));
        fragile.world.settle().await;
    }
}

#[tokio::test]
async fn i6_releasing_a_connection_never_ends_and_the_other_branch_is_committed_all_the_same() {
    for fate in [Fate::Hang, Fate::Panic] {
        let fragile = Fragile::new();
        let tm = fragile.start().await;
        fragile.orders.fates.next(Call::Release, fate);
        let ledger = fragile.world.ledger.server();
        ledger.fail_next(Step::Commit, Fault::LoseRequest);
        let committed = fragile.written(&tm, "1").await.commit().await.unwrap();
        soon("the ledger's commit", committed.completed())
            .await
            .unwrap();
        soon("the shutdown", tm.shutdown()).await.unwrap();
        fragile.world.settle().await;
    }
}

#[tokio::test]
async fn i3_a_branch_that_panics_is_a_branch_without_an_answer() {
    let fragile = Fragile::new();
    let tm = fragile.start().await;
    fragile.orders.fates.next(Call::Prepare, Fate::Panic);
    let error = fragile.written(&tm, "1").await.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    assert!(error.to_string().contains("orders"), "{error}");
    assert!(error.to_string().contains("panicked"), "{error}");
    fragile.world.settle().await;
    assert_eq!(fragile.world.rows(), (None, None));

    fragile.orders.fates.next(Call::Commit, Fate::Panic);
    let committed = fragile.written(&tm, "2").await.commit().await.unwrap();
    assert_eq!(committed.unfinished().len(), 1);
    soon("its commit", committed.completed()).await.unwrap();
    fragile.world.settle().await;
    assert_eq!(fragile.world.rows(), World::both("2"));

    fragile.orders.fates.next(Call::OnePhase, Fate::Panic);
    let mut tx = tm.begin();
    tx.enlist(&fragile.orders).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::Undetermined { .. }), "{error}");
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[tokio::test]
async fn i6_a_decision_whose_log_panics_is_repeated() {
    let fragile = Fragile::new();
    let tm = fragile.start().await;
    fragile.log.next(Call::Decide, Fate::Panic);
    let tx = fragile.written(&tm, "1").await;
    soon("the commit", tx.commit()).await.unwrap();
    fragile.world.settle().await;
    assert_eq!(fragile.world.rows(), World::both("1"));
}

#[tokio::test]
async fn a_resource_that_panics_while_it_opens_is_named() {
    let fragile = Fragile::new();
    let tm = fragile.start().await;
    fragile.orders.fates.next(Call::Open, Fate::Panic);
    let mut tx = tm.begin();
    let error = tx.enlist(&fragile.orders).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("orders"), "{error}");
    drop(tx);
    fragile.world.settle().await;
}

#[tokio::test]
async fn a_heuristic_that_recovery_finds_changes_the_outcome_in_the_same_process() {
    let world = World::new();
    let tm = world.start().await;
    let ledger = world.ledger.server();
    // The reply gets lost, and a person rolls the branch back before recovery comes.
    ledger.fail_next(Step::Commit, Fault::LoseRequest);
    let refused = Fault::Refuse(BranchErrorKind::RolledBack(Cause::Refused));
    ledger.fail_next(Step::Finish, refused);
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let committed = tx.commit().await.unwrap();
    let error = soon("the end", committed.completed()).await.unwrap_err();
    assert!(matches!(error, CommitError::Heuristic { .. }), "{error}");
    let outcome = tm.outcome(gtrid).await.unwrap();
    let branch = ("ledger".parse().unwrap(), Heuristic::Rollback);
    assert_eq!(outcome, TransactionOutcome::Heuristic(vec![branch]));
}

#[tokio::test]
async fn i1_a_heuristic_that_the_log_could_not_take_is_recorded_later_even_without_proof() {
    for (step, fates) in [
        // Seen by the driver.
        (Step::Commit, vec![Fate::Fail]),
        (Step::Commit, vec![Fate::Hang]),
        // Seen by recovery.
        (Step::Finish, vec![Fate::Fail, Fate::Fail]),
    ] {
        let mut world = World::new();
        let journal = world.journal.clone();
        let server = MemoryServer::with("ledger", Flavour::Mysql, journal);
        world.ledger = server.resource("ledger");
        let fragile = Fragile::of(world);
        let tm = fragile.start().await;
        for fate in fates {
            fragile.log.next(Call::RecordHeuristic, fate);
        }
        if step == Step::Finish {
            server.fail_next(Step::Commit, Fault::LoseRequest);
        }
        let refused = Fault::Refuse(BranchErrorKind::RolledBack(Cause::Refused));
        server.fail_next(step, refused);
        let tx = fragile.written(&tm, "1").await;
        let gtrid = tx.gtrid();
        // What it answers depends on who saw it; what is recorded does not.
        drop(soon("the commit", tx.commit()).await);
        let log = &fragile.world.log;
        eventually("it is completed", || log.is_completed(gtrid)).await;
        drop(tm);
        let tm = fragile.world.start().await;
        let outcome = tm.outcome(gtrid).await.unwrap();
        assert!(
            matches!(outcome, TransactionOutcome::Heuristic(_)),
            "{step:?}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn shutdown_ends_although_a_decision_never_does() {
    let world = World::new();
    let tm = world
        .start_with(|config| config.drain_timeout = Duration::from_millis(50))
        .await;
    let hang = world.log.hang_next_decide();
    let tx = world.begin_with_both(&tm, "1").await;
    assert!(tx.commit().await.is_err());
    let error = soon("the shutdown", tm.shutdown()).await.unwrap_err();
    assert!(error.to_string().contains("did not"), "{error}");
    hang.release();
    world.settle().await;
    assert_eq!(world.rows(), World::both("1"));
}

#[tokio::test]
async fn waiting_for_a_branch_ends_with_the_manager() {
    for by_drop in [false, true] {
        let world = World::new();
        let tm = world.start().await;
        let ledger = world.ledger.server();
        ledger.fail_next(Step::Commit, Fault::LoseRequest);
        for _ in 0..1000 {
            let kind = BranchErrorKind::Unavailable;
            ledger.fail_next(Step::Finish, Fault::Refuse(kind));
        }
        let mut tx = tm.begin();
        write_both(
            tx.enlist((&world.orders, &world.ledger)).await.unwrap(),
            "1",
        );
        let committed = tx.commit().await.unwrap();
        let waiting = tokio::spawn(async move { committed.completed().await });
        if !by_drop {
            tm.shutdown().await.unwrap();
        }
        drop(tm);
        let error = soon("the wait", waiting).await.unwrap().unwrap_err();
        assert!(matches!(error, CommitError::Undetermined { .. }), "{error}");
        assert!(error.to_string().contains("shut down"), "{error}");
    }
}

#[tokio::test]
async fn limits_of_nothing_and_of_for_ever_are_limits() {
    let world = World::new();
    let tm = world
        .start_with(|config| {
            config.deadline = Duration::MAX;
            config.open_timeout = Duration::MAX;
            config.prepare_timeout = Duration::MAX;
            config.decide_timeout = Duration::MAX;
            config.finish_timeout = Duration::MAX;
            config.start_timeout = Duration::MAX;
            config.drain_timeout = Duration::MAX;
            config.recovery_interval = Duration::MAX;
            config.recovery_interval_max = Duration::MAX;
        })
        .await;
    let mut tx = tm.begin();
    world
        .ledger
        .server()
        .fail_next(Step::Commit, Fault::LoseRequest);
    write_both(
        tx.enlist((&world.orders, &world.ledger)).await.unwrap(),
        "1",
    );
    let committed = tx.commit().await.unwrap();
    soon("a pass", committed.completed()).await.unwrap();
    tm.shutdown().await.unwrap();
    drop(tm);

    let tm = world
        .start_with(|config| {
            config.recovery_interval = Duration::ZERO;
            config.recovery_interval_max = Duration::ZERO;
        })
        .await;
    let began = std::time::Instant::now();
    world.journal.take();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let scans = world.journal.count(asked(Step::Recover));
    // Two resources, one scan a pass, and at least 7.5 ms between two passes.
    let scans_max = 2 * (1 + began.elapsed().as_millis() / 7);
    assert!(scans as u128 <= scans_max, "{scans} scans");
    tm.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_branch_is_never_ended_by_two_tasks_though_two_resources_see_it() {
    let world = World::new();
    let audit = world.orders.server().resource("audit");
    let builder = world.builder().resource(&world.orders).resource(&audit);
    let patient = builder.config(|config| config.recovery_timeout = Duration::from_secs(60));
    let tm = patient.start().await.unwrap();
    let hang = world.orders.server().hang_next(Step::Finish);
    let xid = Xid {
        gtrid: tm.begin().gtrid(),
        bqual: "orders".parse().unwrap(),
    };
    world.orders.server().plant(&xid, &[("k", "1")]);
    hang.reached().await;
    let finishes = || world.journal.count(asked(Step::Finish));
    assert_eq!(finishes(), 1);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(finishes(), 1, "the first one has not ended yet");
    hang.release();
    world.settle().await;
    assert_eq!(world.orders.server().row("k"), None);
}

#[tokio::test]
async fn i6_the_branch_is_opened_where_recovery_looks_though_a_twin_by_name_is_enlisted() {
    let world = World::new();
    let tm = world.start().await;
    let twin = MemoryResource::new("orders");
    let mut tx = tm.begin();
    write_both(tx.enlist((&twin, &world.ledger)).await.unwrap(), "1");
    tx.commit().await.unwrap();
    assert_eq!(twin.server().row("k"), None);
    assert_eq!(world.rows(), World::both("1"));

    // A twin of another type is a stranger.
    let other_type = FragileResource::new(&world.orders);
    let mut tx = tm.begin();
    let refused = tx.enlist(&other_type).await.map(drop);
    let Err(EnlistError::NotRegistered(name)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(name.as_str(), "orders");
    drop(tx);
    world.settle().await;
}

#[tokio::test]
async fn i3_an_opening_that_the_log_no_longer_knows_proves_no_rollback() {
    let fragile = Fragile::new();
    let first = fragile.start().await;
    let xid = Xid {
        gtrid: first.begin().gtrid(),
        bqual: "orders".parse().unwrap(),
    };
    drop(first);
    for _ in 0..1000 {
        fragile.log.next(Call::Lookup, Fate::Fail);
    }
    fragile.world.orders.server().plant(&xid, &[("k", "1")]);
    let tm = fragile.start().await;
    let report = tm.recover().await;
    assert_eq!(fragile.world.orders.server().prepared(), [xid]);
    let left = report.resources.iter().flat_map(|r| &r.left);
    assert_eq!(left.count(), 1);
    assert!(!report.is_clean(), "a person has to look");
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_not_called_clean() {
    let fragile = Fragile::new();
    for _ in 0..1000 {
        fragile.log.next(Call::Pending, Fate::Fail);
    }
    let tm = fragile.start().await;
    let report = tm.recover().await;
    assert!(!report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn a_branch_that_only_a_person_can_let_end_is_reported_as_such() {
    let world = World::new();
    let tm = world.start().await;
    for _ in 0..1000 {
        let refused = Fault::Refuse(BranchErrorKind::Failed);
        world.orders.server().fail_next(Step::Finish, refused);
    }
    let xid = Xid {
        gtrid: tm.begin().gtrid(),
        bqual: "orders".parse().unwrap(),
    };
    world.orders.server().plant(&xid, &[("k", "1")]);
    let report = tm.recover().await;
    let mut left = report.resources.iter().flat_map(|r| &r.left);
    assert!(
        matches!(left.next(), Some((_, Left::Refused(_)))),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_conflict_while_a_branch_is_opened_is_retried() {
    let world = World::new();
    let tm = world.start().await;
    world.orders.server().fail_next(Step::Open, Fault::CONFLICT);
    let (orders, ledger, attempts) = (&world.orders, &world.ledger, &AtomicU32::new(0));
    let done = tm.retry(|mut tx| async move {
        attempts.fetch_add(1, Ordering::SeqCst);
        write_both(tx.enlist((orders, ledger)).await?, "1");
        tx.commit().await?;
        Ok::<_, BoxError>(())
    });
    done.await.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(world.rows(), World::both("1"));
}

#[tokio::test]
async fn i7_enlisting_again_after_a_dropped_enlist_waits_for_the_same_branch() {
    let world = World::new();
    let tm = world.start().await;
    let hang = world.ledger.server().hang_next(Step::Open);
    let mut tx = tm.begin();
    for _ in 0..2 {
        let enlisting = tx.enlist((&world.orders, &world.ledger));
        let given_up = tokio::time::timeout(Duration::from_millis(20), enlisting).await;
        assert!(given_up.is_err());
    }
    hang.release();
    write_both(
        tx.enlist((&world.orders, &world.ledger)).await.unwrap(),
        "1",
    );
    let opened = world.journal.count(asked(Step::Open));
    assert_eq!(opened, 2, "one actor per branch");
    tx.commit().await.unwrap();
    assert_eq!(world.rows(), World::both("1"));
    world.settle().await;
}

#[test]
fn a_transaction_that_outlives_its_runtime_answers_and_changes_nothing() {
    let world = World::new();
    let start = tokio::runtime::Runtime::new().unwrap();
    let (dropped, committed) = start.block_on(async {
        let tm = world.start().await;
        let mut one = tm.begin();
        one.enlist(&world.orders)
            .await
            .unwrap()
            .put("k", "1")
            .unwrap();
        let mut two = tm.begin();
        two.enlist(&world.ledger)
            .await
            .unwrap()
            .put("k", "1")
            .unwrap();
        (one, two)
    });
    drop(start);
    drop(dropped);
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = other.block_on(committed.commit()).unwrap_err();
    assert!(matches!(error, CommitError::Undetermined { .. }), "{error}");
    other.block_on(world.settle());
    assert_eq!(world.rows(), (None, None));
}
