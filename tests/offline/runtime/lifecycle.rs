//! Start, shutdown, deadlines and retries.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use unanimous::ports::ResourceManager;
use unanimous::{
    BoxError, BranchErrorKind, CommitError, EnlistError, Heuristic, StartError, TransactionManager,
    TransactionOutcome, Xid,
};
use unanimous_testing::{Fault, Flavour, MemoryServer, Step};

use super::fragile::{Call, Fate, Fates, FragileLog};
use super::recovery::die_after_the_decision;
use super::{World, eventually, write_both};

#[tokio::test]
async fn shutdown_waits_for_running_transactions_and_refuses_new_ones() {
    let world = World::new();
    let tm = world.start().await;
    let tx = world.begin_with_both(&tm, "1").await;
    let shutdown = tokio::spawn({
        let tm = tm.clone();
        async move { tm.shutdown().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!shutdown.is_finished());
    assert!(matches!(
        tm.begin().enlist(&world.orders).await,
        Err(EnlistError::ShutDown)
    ));
    tx.commit().await.unwrap();
    shutdown.await.unwrap().unwrap();
    assert_eq!(world.rows(), World::both("1"));
    world.settle().await;
}

/// MySQL tells it once: after that the branch is absent, as one is that was committed.
#[tokio::test]
async fn i1_a_heuristic_end_that_no_pass_has_the_time_to_record_is_recorded() {
    // The log hangs in a pass; also in the last one, at both resources; and the last handle is
    // dropped.
    for (hangs, shuts_down) in [(1, true), (3, true), (1, false)] {
        let mut world = World::new();
        let server = MemoryServer::with("orders", Flavour::Mysql, world.journal.clone());
        world.orders = server.resource("orders");
        let gtrid = die_after_the_decision(&world).await;
        let (inner, fates) = (world.log.clone(), Fates::default());
        for _ in 0..hangs {
            fates.next(Call::RecordHeuristic, Fate::Hang);
        }
        let log = FragileLog {
            inner,
            fates: fates.clone(),
        };
        server.set_reachable(false);
        let builder = world.builder().log(log).config(|config| {
            config.finish_timeout = Duration::from_secs(60);
            // The ledger's next pass would meet what is for the last one.
            config.recovery_interval = Duration::from_secs(3600);
            config.recovery_interval_max = Duration::from_secs(3600);
        });
        let builder = builder.resource(&world.orders).resource(&world.ledger);
        let tm = builder.start().await.unwrap();
        server.fail_next(Step::Finish, Fault::CONFLICT);
        server.set_reachable(true);
        let is_asked = || fates.left(Call::RecordHeuristic) == hangs - 1;
        eventually("a pass records the end", is_asked).await;
        // Met by whoever has recorded it.
        fates.next(Call::HeuristicAnswered, Fate::Fail);
        if shuts_down {
            tm.shutdown().await.unwrap();
        }
        drop(tm);
        eventually("it is recorded", || fates.are_met()).await;
        assert_eq!(world.rows(), (None, Some("1".to_owned())));
        let outcome = world.start().await.outcome(gtrid).await.unwrap();
        let TransactionOutcome::Heuristic(ends) = outcome else {
            panic!("{outcome:?}: silent");
        };
        assert_eq!(ends, [("orders".parse().unwrap(), Heuristic::Rollback)]);
    }
}

/// Whoever waited for it had a limit of its own, and then went away.
#[tokio::test(start_paused = true)]
async fn i6_a_shutdown_that_is_dropped_ends_what_is_left_also_with_the_last_handle() {
    let world = World::new();
    let first = world.start().await;
    let gtrid = first.begin().gtrid();
    first.shutdown().await.unwrap();
    drop(first);
    let tm = world
        .start_with(|config| {
            config.recovery_interval = Duration::from_secs(3600);
            config.recovery_interval_max = Duration::from_secs(3600);
        })
        .await;
    // Its first passes find nothing; the next ones are far away.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (server, bqual) = (world.orders.server(), world.orders.name().clone());
    server.plant(&Xid { gtrid, bqual }, &[("k", "1")]);
    world.log.slow_down(Duration::from_millis(20));
    let given_up = tokio::time::timeout(Duration::from_millis(5), tm.shutdown()).await;
    assert!(given_up.is_err());
    assert_eq!(server.prepared().len(), 1);
    drop(tm);
    eventually("it is ended", || server.prepared().is_empty()).await;
}

#[tokio::test]
async fn i5_a_transaction_that_outlives_the_shutdown_can_only_roll_back() {
    let world = World::new();
    let tm = world
        .start_with(|config| config.drain_timeout = Duration::from_millis(50))
        .await;
    let tx = world.begin_with_both(&tm, "1").await;
    tm.shutdown().await.unwrap();
    assert!(matches!(
        tx.commit().await,
        Err(CommitError::RolledBack { .. })
    ));
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn a_transaction_past_its_deadline_is_rolled_back_with_the_reason() {
    let world = World::new();
    let tm = world
        .start_with(|config| config.deadline = Duration::from_millis(50))
        .await;
    let tx = world.begin_with_both(&tm, "1").await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    let error = tx.commit().await.unwrap_err();
    assert!(error.to_string().contains("deadline"), "{error}");
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn a_transaction_can_have_a_deadline_of_its_own() {
    let world = World::new();
    let tm = world.start().await;
    for (deadline, commits) in [(Duration::ZERO, false), (Duration::MAX, true)] {
        let mut tx = tm.begin();
        let branches = tx.enlist((&world.orders, &world.ledger)).await.unwrap();
        write_both(branches, "1");
        tx.set_deadline(deadline);
        assert_eq!(tx.commit().await.is_ok(), commits);
    }
    world.settle().await;
}

#[tokio::test]
async fn two_resources_of_one_name_and_a_missing_log_are_refused_at_start() {
    let world = World::new();
    let twice = TransactionManager::builder()
        .log(world.log.clone())
        .resource(&world.orders)
        .resource(&world.orders);
    assert!(matches!(
        twice.start().await,
        Err(StartError::NameUsedTwice(_))
    ));
    let without = TransactionManager::builder().resource(&world.orders);
    assert!(matches!(without.start().await, Err(StartError::NoLog)));
}

#[tokio::test]
async fn a_conflict_is_retried_and_anything_else_is_not() {
    let world = World::new();
    let tm = world.start().await;
    let attempts = AtomicU32::new(0);
    let transfer = |value: &'static str| {
        let (orders, ledger) = (world.orders.clone(), world.ledger.clone());
        let attempts = &attempts;
        move |mut tx: unanimous::Transaction| {
            let (orders, ledger) = (orders.clone(), ledger.clone());
            attempts.fetch_add(1, Ordering::SeqCst);
            async move {
                write_both(tx.enlist((&orders, &ledger)).await?, value);
                tx.commit().await?;
                Ok::<_, BoxError>(value)
            }
        }
    };
    for _ in 0..2 {
        world
            .ledger
            .server()
            .fail_next(Step::Prepare, Fault::CONFLICT);
    }
    assert_eq!(tm.retry(transfer("1")).await.unwrap(), "1");
    assert_eq!(attempts.swap(0, Ordering::SeqCst), 3);

    for _ in 0..100 {
        world
            .ledger
            .server()
            .fail_next(Step::Prepare, Fault::CONFLICT);
    }
    assert!(tm.retry(transfer("2")).await.is_err());
    assert_eq!(
        attempts.swap(0, Ordering::SeqCst),
        tm.config().retry_attempts_max
    );
    assert_eq!(world.rows(), World::both("1"));

    let other = Fault::Refuse(BranchErrorKind::RolledBack(unanimous::Cause::Refused));
    let world = World::new();
    let tm = world.start().await;
    world.ledger.server().fail_next(Step::Prepare, other);
    let (orders, ledger) = (&world.orders, &world.ledger);
    let attempts = &attempts;
    let failed = tm.retry(|mut tx| async move {
        attempts.fetch_add(1, Ordering::SeqCst);
        write_both(tx.enlist((orders, ledger)).await?, "3");
        tx.commit().await?;
        Ok::<_, BoxError>(())
    });
    assert!(failed.await.is_err());
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn everything_is_send() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let world = World::new();
    let tm = world.start().await;
    let mut tx = assert_send(tm.begin());
    let branches = assert_send(tx.enlist((&world.orders, &world.ledger)))
        .await
        .unwrap();
    write_both(branches, "1");
    assert_send(tx.commit()).await.unwrap();
}
