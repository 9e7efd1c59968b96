//! What a runtime that is wrong in one place would do: each test was seen to fail with the mistake
//! that it names put in.

use std::time::Duration;

use futures_util::future::join_all;
use unanimous::{
    BoxError, BranchError, BranchErrorKind, Cause, Decision, EnlistError, StartError,
    TransactionManager, Xid,
};
use unanimous_testing::{Event, Fault, LogStep, MemoryLog, Step};

use super::attack::{Fragile, asked, soon};
use super::fragile::{Call, Fate};
use super::{World, eventually, write_both};

/// After the first pass none comes by itself, and a slow machine is no reason to give up.
fn without_passes(config: &mut unanimous::Config) {
    config.recovery_interval = Duration::from_secs(3600);
    config.recovery_interval_max = Duration::from_secs(3600);
    config.prepare_timeout = Duration::from_secs(60);
}

async fn written(world: &World, tm: &TransactionManager, value: &str) -> unanimous::Transaction {
    let mut tx = tm.begin();
    let branches = tx.enlist((&world.orders, &world.ledger)).await.unwrap();
    write_both(branches, value);
    tx
}

#[tokio::test]
async fn i5_leaving_out_q_would_end_what_was_completed_and_forgotten_meanwhile() {
    let fragile = Fragile::new();
    let tm = fragile.start().await;
    let world = &fragile.world;
    let prepares = world.ledger.server().hang_next(Step::Prepare);
    let commit = tokio::spawn(fragile.written(&tm, "1").await.commit());
    let orders = world.orders.server();
    eventually("orders is prepared", || orders.prepared().len() == 1).await;
    // P has seen it ...
    fragile.orders.fates.next(Call::RecoverAnswered, Fate::Wait);
    eventually("P is taken", || fragile.orders.fates.are_met()).await;
    // ... and then it ends, altogether.
    prepares.release();
    let gtrid = commit.await.unwrap().unwrap().gtrid();
    eventually("it is completed", || world.log.is_completed(gtrid)).await;
    world.log.forget_completed();
    fragile.orders.fates.go();
    soon("a pass after it", tm.recover()).await;
    assert_eq!(world.journal.count(asked(Step::Finish)), 0);
    assert_eq!(world.rows(), World::both("1"));
}

#[tokio::test]
async fn i1_looking_at_a_after_t_would_roll_back_what_is_decided_in_between() {
    let fragile = Fragile::new();
    let tm = fragile.start().await;
    let world = &fragile.world;
    let prepares = world.ledger.server().hang_next(Step::Prepare);
    let commit = tokio::spawn(fragile.written(&tm, "1").await.commit());
    let orders = world.orders.server();
    eventually("orders is prepared", || orders.prepared().len() == 1).await;
    // The pass has heard that there is no record yet ...
    fragile.log.next(Call::LookupAnswered, Fate::Wait);
    eventually("T is taken", || fragile.log.are_met()).await;
    // ... and then it is decided, and the branch handed over.
    orders.fail_next(Step::Commit, Fault::LoseRequest);
    prepares.release();
    let committed = commit.await.unwrap().unwrap();
    assert_eq!(committed.unfinished().len(), 1);
    fragile.log.go();
    soon("its commit", committed.completed()).await.unwrap();
    assert_eq!(world.rows(), World::both("1"));
    world.settle().await;
}

#[tokio::test]
async fn i3_a_proof_that_proves_nothing_is_asked_for_again() {
    for fate in [Fate::InDoubt, Fate::Fail] {
        let fragile = Fragile::new();
        let tm = fragile.start().await;
        fragile
            .world
            .orders
            .server()
            .fail_next(Step::Commit, Fault::LoseReply);
        for _ in 0..2 {
            fragile.orders.fates.next(Call::Absent, fate);
        }
        let committed = fragile.written(&tm, "1").await.commit().await.unwrap();
        soon("the proof", committed.completed()).await.unwrap();
        assert!(fragile.orders.fates.are_met(), "{fate:?} was believed");
    }
}

#[tokio::test]
async fn i3_whatever_a_commit_is_refused_with_it_is_not_done_before_it_is() {
    for step in [Step::Commit, Step::Finish] {
        for kind in [
            BranchErrorKind::UnknownXid,
            BranchErrorKind::DuplicateXid,
            BranchErrorKind::WrongState,
            BranchErrorKind::Unavailable,
            BranchErrorKind::Failed,
            BranchErrorKind::Undetermined,
        ] {
            let world = World::new();
            let tm = world.start().await;
            let ledger = world.ledger.server();
            if step == Step::Finish {
                ledger.fail_next(Step::Commit, Fault::LoseRequest);
            }
            ledger.fail_next(step, Fault::Refuse(kind));
            let committed = written(&world, &tm, "1").await.commit().await.unwrap();
            assert_eq!(committed.unfinished().len(), 1, "{step:?} {kind:?}");
            soon("the branch's commit", committed.completed())
                .await
                .unwrap();
            let at = |wanted: &dyn Fn(&Event) -> bool| world.journal.position(wanted).unwrap();
            let completed = Event::Log(LogStep::Completed(committed.gtrid()));
            let is_ledger = |xid: &Xid| xid.bqual.as_str() == "ledger";
            let ended = |event: &Event| match event {
                Event::Ended(xid, end) => is_ledger(xid) && *end == Decision::Commit,
                Event::Asked { .. }
                | Event::Prepared(_)
                | Event::Released(_)
                | Event::Closed(_)
                | Event::Crashed
                | Event::Log(_) => false,
            };
            assert!(
                at(&ended) < at(&|event| *event == completed),
                "{step:?} {kind:?}"
            );
            world.settle().await;
        }
    }
}

#[tokio::test]
async fn i6_a_rollback_that_was_not_confirmed_wakes_recovery_at_once() {
    for is_hung in [false, true] {
        let world = World::new();
        let tm = world.start_with(without_passes).await;
        let (orders, ledger) = (world.orders.server(), world.ledger.server());
        let _hang = is_hung.then(|| orders.hang_next(Step::Rollback));
        if !is_hung {
            orders.fail_next(Step::Rollback, Fault::LoseRequest);
        }
        let vote = ledger.hang_next(Step::Prepare);
        let tx = written(&world, &tm, "1").await;
        let commit = tokio::spawn(tx.commit());
        eventually("orders is prepared", || orders.prepared().len() == 1).await;
        // Its vote is not heard, so everything is rolled back.
        ledger.crash();
        vote.release();
        assert!(commit.await.unwrap().is_err());
        eventually("orders is rolled back", || orders.prepared().is_empty()).await;
        assert_eq!(world.rows(), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_vote_that_was_not_heard_wakes_recovery_at_once_and_not_too_early() {
    let world = World::new();
    let tm = world.start_with(without_passes).await;
    let orders = world.orders.server();
    orders.fail_next(Step::Prepare, Fault::LoseReply);
    assert!(written(&world, &tm, "1").await.commit().await.is_err());
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn i5_a_transaction_is_active_as_long_as_a_branch_of_it_is_being_opened() {
    let world = World::new();
    let tm = world.start().await;
    let hang = world.ledger.server().hang_next(Step::Open);
    let mut tx = tm.begin();
    let enlisting = tx.enlist(&world.ledger);
    let given_up = tokio::time::timeout(Duration::from_millis(20), enlisting).await;
    assert!(given_up.is_err());
    tx.rollback().await;
    let shutdown = tokio::spawn(async move { tm.shutdown().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!shutdown.is_finished());
    hang.release();
    soon("the shutdown", shutdown).await.unwrap().unwrap();
    world.settle().await;
}

#[tokio::test]
async fn a_server_that_is_unfit_is_refused_at_start_with_the_mend() {
    let fragile = Fragile::new();
    fragile.orders.fates.next(Call::Preflight, Fate::Fail);
    let error = fragile.builder().start().await.unwrap_err();
    assert!(matches!(error, StartError::Unfit(_)), "{error}");
    assert!(error.to_string().contains("set it otherwise"), "{error}");
    assert_eq!(fragile.world.journal.count(asked(Step::Recover)), 0);
}

/// It could lose what it has acknowledged, whether that is seen at the start or after it.
#[tokio::test]
async fn i2_a_server_that_was_away_at_the_start_and_is_unfit_is_not_used_until_it_is_mended() {
    let fragile = Fragile::new();
    let world = &fragile.world;
    world.orders.server().set_reachable(false);
    let tm = fragile.start().await;
    // Unfit at the first look at it, and mended when the test says so.
    fragile.orders.fates.next(Call::Preflight, Fate::Fail);
    fragile.orders.fates.next(Call::Preflight, Fate::Wait);
    world.orders.server().set_reachable(true);
    let fates = &fragile.orders.fates;
    eventually("it was looked at twice", || fates.are_met()).await;
    let mut tx = tm.begin();
    let refused = tx.enlist(&fragile.orders).await.map(drop).unwrap_err();
    assert!(
        refused.to_string().contains("set it otherwise"),
        "{refused}"
    );
    drop(tx);
    // The others are used.
    let mut tx = tm.begin();
    tx.enlist(&world.ledger)
        .await
        .unwrap()
        .put("k", "1")
        .unwrap();
    tx.commit().await.unwrap();
    fates.go();
    for _ in 0..2000 {
        let mut tx = tm.begin();
        if tx.enlist(&fragile.orders).await.is_ok() {
            tx.rollback().await;
            return world.settle().await;
        }
        drop(tx);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it is not used although it was mended");
}

/// Between its coming back and the next pass, too: whoever wants it checks it.
#[tokio::test]
async fn i2_a_server_that_was_not_checked_at_the_start_is_checked_before_it_is_used() {
    const CHECKS: usize = 60;
    let fragile = Fragile::new();
    let fates = &fragile.orders.fates;
    for _ in 0..CHECKS {
        fates.next(Call::Preflight, Fate::Wait);
    }
    let builder = fragile.builder().config(without_passes);
    let tm = builder.start().await.unwrap();
    let enlist = async || {
        let mut tx = tm.begin();
        tx.enlist(&fragile.orders).await.map(drop)
    };
    // A crowd of them waits for one check.
    for refused in join_all((0..20).map(|_| enlist())).await {
        let refused = refused.unwrap_err();
        let EnlistError::Branch(error) = &refused else {
            panic!("{refused}")
        };
        assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{refused}");
    }
    assert!(fates.left(Call::Preflight) > CHECKS - 5);
    assert_eq!(fragile.world.journal.count(asked(Step::Open)), 0);
    // What cannot write can lose nothing.
    let mut reader = tm.begin();
    reader.enlist_read_only(&fragile.orders).await.unwrap();
    reader.rollback().await;
    // It is used as soon as it has answered.
    for _ in 0..CHECKS {
        fates.go();
    }
    soon("a check", enlist()).await.unwrap();
    fragile.world.settle().await;
}

#[tokio::test]
async fn i6_the_start_does_not_wait_for_a_scan_that_takes_its_time() {
    let fragile = Fragile::new();
    fragile.orders.fates.next(Call::Recover, Fate::Wait);
    let patient = fragile.builder().config(|config| {
        config.recovery_timeout = Duration::from_secs(3600);
    });
    let tm = soon("the start", patient.start()).await.unwrap();
    let unfinished = &tm.start_report().unfinished;
    assert_eq!(*unfinished, ["orders".parse().unwrap()]);
    assert!(!tm.start_report().is_clean());
    fragile.orders.fates.go();
    assert!(soon("a pass", tm.recover()).await.is_clean());
}

#[tokio::test]
async fn i8_no_pass_outlives_the_manager() {
    let world = World::new();
    drop(world.start().await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.journal.take();
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(world.journal.events(), []);
}

#[tokio::test]
async fn what_is_committed_is_not_tried_again_though_the_closure_fails_with_a_conflict() {
    let world = World::new();
    let tm = world.start().await;
    let (orders, ledger) = (&world.orders, &world.ledger);
    let done = tm.retry(|mut tx| async move {
        write_both(tx.enlist((orders, ledger)).await?, "1");
        tx.commit().await?;
        let conflict = BranchErrorKind::RolledBack(Cause::Conflict);
        let name = "elsewhere".parse().unwrap();
        Err::<(), BoxError>(BranchError::new(conflict, name, "of another transaction").into())
    });
    assert!(done.await.is_err());
    assert_eq!(world.log.decision_count(), 1);
}

#[test]
fn i5_a_decision_whose_driver_died_with_its_runtime_is_not_taken_for_a_rollback() {
    let world = World::new();
    let first = tokio::runtime::Runtime::new().unwrap();
    let hang = world.log.hang_next_decide();
    let tm = first.block_on(async {
        let tm = world.start().await;
        assert!(written(&world, &tm, "1").await.commit().await.is_err());
        tm
    });
    drop(first);
    let second = tokio::runtime::Runtime::new().unwrap();
    second.block_on(async {
        tm.recover().await;
        assert_eq!(
            world.orders.server().prepared().len(),
            1,
            "it may be recorded"
        );
        hang.release();
        drop(tm);
        let _tm = world.start().await;
        world.settle().await;
    });
    assert_eq!(world.rows(), World::both("1"));
}

#[tokio::test]
async fn i5_what_another_member_has_decided_is_left_to_it() {
    let mut world = World::new();
    world.log = MemoryLog::shared();
    let patient = |config: &mut unanimous::Config| config.finish_timeout = config.deadline;
    let (owner, other) = (world.start_with(patient).await, world.start().await);
    let commits = world.ledger.server().hang_next(Step::Commit);
    let commit = tokio::spawn(written(&world, &owner, "1").await.commit());
    commits.reached().await;
    eventually("orders is committed", || {
        world.orders.server().row("k").is_some()
    })
    .await;
    for _ in 0..3 {
        other.recover().await;
    }
    assert_eq!(world.journal.count(asked(Step::Absent)), 0);
    assert_eq!(world.journal.count(asked(Step::Finish)), 0);
    commits.release();
    commit.await.unwrap().unwrap();
    assert_eq!(world.rows(), World::both("1"));
}

#[tokio::test]
async fn i1_a_branch_that_comes_back_after_its_decision_was_completed_is_committed() {
    for is_heuristic in [false, true] {
        let world = World::new();
        let tm = world.start().await;
        if is_heuristic {
            let refused = Fault::Refuse(BranchErrorKind::RolledBack(Cause::Refused));
            world.ledger.server().fail_next(Step::Commit, refused);
        }
        let tx = written(&world, &tm, "1").await;
        let gtrid = tx.gtrid();
        assert_eq!(tx.commit().await.is_err(), is_heuristic);
        eventually("it is completed", || world.log.is_completed(gtrid)).await;
        let bqual = "orders".parse().unwrap();
        let xid = Xid { gtrid, bqual };
        // The server has forgotten a commit that it had answered.
        world.orders.server().plant(&xid, &[("k", "again")]);
        world.settle().await;
        assert_eq!(world.orders.server().row("k").as_deref(), Some("again"));
    }
}
