//! What `commit` answers, and what the databases hold then.

use unanimous::{
    BranchErrorKind, Cause, CommitError, EnlistError, RollbackCause, TransactionOutcome,
};
use unanimous_testing::{DecideFault, Event, Fault, LogStep, MemoryResource, Step};

use super::fragile::FragileResource;
use super::{World, eventually, write_both};

#[tokio::test]
async fn i1_a_commit_changes_both_databases_and_the_decision_comes_between_the_phases() {
    let world = World::new();
    let tm = world.start().await;
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let committed = tx.commit().await.unwrap();
    assert!(committed.unfinished().is_empty());
    assert_eq!(world.rows(), World::both("1"));
    let decided = world
        .journal
        .position(|e| *e == Event::Log(LogStep::Decided(gtrid)))
        .unwrap();
    let prepared = |name: &str| {
        world
            .journal
            .position(|e| matches!(e, Event::Prepared(xid) if xid.bqual.as_str() == name))
    };
    let ended = world
        .journal
        .position(|e| matches!(e, Event::Ended(..)))
        .unwrap();
    assert!(prepared("orders").unwrap() < decided && prepared("ledger").unwrap() < decided);
    assert!(decided < ended);
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::Committed
    );
    world.settle().await;
    eventually("the decision is completed", || {
        world.log.is_completed(gtrid)
    })
    .await;
    assert_eq!(
        world.orders.server().idle_sessions(),
        1,
        "the session is used again"
    );
}

#[tokio::test]
async fn i1_a_rollback_vote_changes_nothing_anywhere() {
    let world = World::new();
    let tm = world.start().await;
    world
        .ledger
        .server()
        .fail_next(Step::Prepare, Fault::CONFLICT);
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let error = tx.commit().await.unwrap_err();
    let CommitError::RolledBack { cause, .. } = &error else {
        panic!("{error}")
    };
    assert!(cause.is_conflict(), "{cause}");
    assert!(
        error.to_string().contains("ledger"),
        "names the branch: {error}"
    );
    assert_eq!(world.rows(), (None, None));
    assert_eq!(world.log.decision_count(), 0, "rollbacks are presumed");
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::RolledBack
    );
    world.settle().await;
}

#[tokio::test]
async fn i3_a_lost_prepare_rolls_back_and_recovery_ends_what_had_prepared() {
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        let world = World::new();
        let tm = world.start().await;
        world.orders.server().fail_next(Step::Prepare, fault);
        let mut tx = tm.begin();
        write_both(
            tx.enlist((&world.orders, &world.ledger)).await.unwrap(),
            "1",
        );
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
        world.settle().await;
        assert_eq!(world.rows(), (None, None));
    }
}

#[tokio::test]
async fn i5_a_prepare_that_takes_effect_long_after_the_rollback_is_rolled_back() {
    let world = World::new();
    let tm = world.start().await;
    let late = world.orders.server().hang_next(Step::Prepare);
    let tx = world.begin_with_both(&tm, "1").await;
    let error = tx.commit().await.unwrap_err();
    assert!(
        error.to_string().contains("did not prepare within"),
        "{error}"
    );
    // Several passes find nothing; then the prepare arrives after all.
    tm.recover().await;
    assert!(world.orders.server().prepared().is_empty());
    late.release();
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn i2_a_branch_that_cannot_be_reached_after_the_decision_is_committed_later() {
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        let world = World::new();
        let tm = world.start().await;
        world.ledger.server().fail_next(Step::Commit, fault);
        let mut tx = tm.begin();
        write_both(
            tx.enlist((&world.orders, &world.ledger)).await.unwrap(),
            "1",
        );
        let committed = tx.commit().await.unwrap();
        assert_eq!(committed.unfinished(), ["ledger".parse().unwrap()]);
        committed.completed().await.unwrap();
        assert_eq!(world.rows(), World::both("1"));
        assert!(world.log.is_completed(committed.gtrid()));
        world.settle().await;
    }
}

#[tokio::test]
async fn i3_an_uncertain_decision_is_repeated_never_rolled_back() {
    for fault in [DecideFault::LoseWrite, DecideFault::LoseReply] {
        let world = World::new();
        let tm = world.start().await;
        world.log.fail_next_decide(fault);
        let mut tx = tm.begin();
        write_both(
            tx.enlist((&world.orders, &world.ledger)).await.unwrap(),
            "1",
        );
        tx.commit().await.unwrap();
        assert_eq!(world.rows(), World::both("1"), "{fault:?}");
        world.settle().await;
    }
}

#[tokio::test]
async fn i3_a_log_that_does_not_answer_leaves_it_undetermined_until_it_does() {
    let world = World::new();
    let tm = world.start().await;
    let hang = world.log.hang_next_decide();
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::Undetermined { .. }), "{error}");
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::InDoubt
    );
    tm.recover().await;
    assert_eq!(
        world.orders.server().prepared().len(),
        1,
        "I5: it may still be decided"
    );
    hang.release();
    world.settle().await;
    assert_eq!(world.rows(), World::both("1"));
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::Committed
    );
}

#[tokio::test]
async fn a_refused_decision_rolls_back() {
    let world = World::new();
    let tm = world.start().await;
    world.log.fail_next_decide(DecideFault::Refuse);
    let tx = world.begin_with_both(&tm, "1").await;
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(
        error,
        CommitError::RolledBack {
            cause: RollbackCause::Log(_),
            ..
        }
    ));
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn a_log_that_reopened_itself_refuses_what_began_before_and_takes_what_begins_after() {
    let world = World::new();
    let tm = world.start().await;
    let mut old = tm.begin();
    write_both(
        old.enlist((&world.orders, &world.ledger)).await.unwrap(),
        "old",
    );
    world.log.reopen_itself();
    assert!(matches!(
        old.commit().await,
        Err(CommitError::RolledBack { .. })
    ));
    world.settle().await;
    let mut new = tm.begin();
    write_both(
        new.enlist((&world.orders, &world.ledger)).await.unwrap(),
        "new",
    );
    new.commit().await.unwrap();
    assert_eq!(world.rows(), World::both("new"));
}

#[tokio::test]
async fn a_single_writer_commits_in_one_phase_without_a_record() {
    let world = World::new();
    let tm = world.start().await;
    let mut tx = tm.begin();
    tx.enlist(&world.orders)
        .await
        .unwrap()
        .put("k", "1")
        .unwrap();
    tx.enlist_read_only(&world.ledger)
        .await
        .unwrap()
        .get("k")
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.orders.server().row("k").as_deref(), Some("1"));
    assert_eq!(world.log.decision_count(), 0);
    assert_eq!(world.journal.count(|e| matches!(e, Event::Prepared(_))), 0);
    world.settle().await;
}

#[tokio::test]
async fn i3_a_lost_reply_in_one_phase_is_undetermined() {
    let world = World::new();
    let tm = world.start().await;
    world
        .orders
        .server()
        .fail_next(Step::OnePhase, Fault::LoseReply);
    let mut tx = tm.begin();
    let gtrid = tx.gtrid();
    tx.enlist(&world.orders)
        .await
        .unwrap()
        .put("k", "1")
        .unwrap();
    assert!(matches!(
        tx.commit().await,
        Err(CommitError::Undetermined { .. })
    ));
    assert_eq!(
        tm.outcome(gtrid).await.unwrap(),
        TransactionOutcome::Unknown
    );
    world.settle().await;
}

#[tokio::test]
async fn a_reader_that_cannot_be_ended_rolls_the_writers_back() {
    let world = World::new();
    let tm = world.start().await;
    world
        .ledger
        .server()
        .fail_next(Step::EndReadOnly, Fault::LoseReply);
    let mut tx = tm.begin();
    tx.enlist(&world.orders)
        .await
        .unwrap()
        .put("k", "1")
        .unwrap();
    tx.enlist_read_only(&world.ledger).await.unwrap();
    assert!(matches!(
        tx.commit().await,
        Err(CommitError::RolledBack { .. })
    ));
    assert_eq!(world.rows(), (None, None));
    world.settle().await;
}

#[tokio::test]
async fn a_heuristic_rollback_is_recorded_and_answered() {
    let world = World::new();
    let tm = world.start().await;
    let refuse = Fault::Refuse(BranchErrorKind::RolledBack(Cause::Refused));
    world.ledger.server().fail_next(Step::Commit, refuse);
    let tx = world.begin_with_both(&tm, "1").await;
    let gtrid = tx.gtrid();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(&error, CommitError::Heuristic { branches, .. } if branches.len() == 1));
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert!(
        matches!(outcome, TransactionOutcome::Heuristic(_)),
        "{outcome:?}"
    );
    let restarted = world.start().await;
    let outcome = restarted.outcome(gtrid).await.unwrap();
    assert!(
        matches!(outcome, TransactionOutcome::Heuristic(_)),
        "durable: {outcome:?}"
    );
}

#[tokio::test]
async fn enlisting_again_gives_the_same_branch() {
    let world = World::new();
    let tm = world.start().await;
    let mut tx = tm.begin();
    tx.enlist(&world.orders)
        .await
        .unwrap()
        .put("k", "1")
        .unwrap();
    let (orders, _) = tx.enlist((&world.orders, &world.ledger)).await.unwrap();
    assert_eq!(orders.get("k").unwrap().as_deref(), Some("1"));
    let opened = |e: &Event| {
        matches!(
            e,
            Event::Asked {
                step: Step::Open,
                ..
            }
        )
    };
    assert_eq!(world.journal.count(opened), 2);
}

#[tokio::test]
async fn what_cannot_be_enlisted_is_refused_by_name_and_leaves_only_a_rollback() {
    let world = World::new();
    let tm = world.start().await;

    let stranger = MemoryResource::new("stranger");
    let mut tx = tm.begin();
    let error = tx.enlist(&stranger).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, EnlistError::NotRegistered(_)) && error.to_string().contains("stranger")
    );
    assert!(matches!(
        tx.enlist(&world.orders).await,
        Err(EnlistError::RollbackOnly)
    ));
    assert!(matches!(
        tx.commit().await,
        Err(CommitError::RolledBack { .. })
    ));

    // One of its type is enlisted already under that name.
    let mut tx = world.begin_with_both(&tm, "1").await;
    let other_type = FragileResource::new(&world.orders);
    let error = tx.enlist(&other_type).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, EnlistError::NotRegistered(_)), "{error}");
    assert!(matches!(
        tx.commit().await,
        Err(CommitError::RolledBack { .. })
    ));

    let mut tx = tm.begin();
    let twice = tx.enlist((&world.orders, &world.orders)).await.map(|_| ());
    assert!(matches!(twice, Err(EnlistError::Twice(_))));
    drop(tx);

    let mut tx = tm.begin();
    tx.enlist(&world.orders).await.unwrap();
    let mixed = tx.enlist_read_only(&world.orders).await.map(|_| ());
    assert!(matches!(mixed, Err(EnlistError::RoleMixed(_))));
    drop(tx);

    world.orders.server().set_reachable(false);
    let mut tx = tm.begin();
    let unreachable = tx.enlist((&world.ledger, &world.orders)).await.map(|_| ());
    assert!(matches!(unreachable, Err(EnlistError::Branch(_))));
    drop(tx);
    world.orders.server().set_reachable(true);
    world.settle().await;
}

#[tokio::test]
async fn two_resources_on_one_server_are_refused_with_both_names() {
    let world = World::new();
    let audit = world.orders.server().resource("audit");
    let tm = world
        .builder()
        .resource(&world.orders)
        .resource(&audit)
        .start()
        .await
        .unwrap();
    let mut tx = tm.begin();
    let error = tx
        .enlist((&world.orders, &audit))
        .await
        .map(|_| ())
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("orders") && text.contains("audit"), "{text}");
    drop(tx);
    world.settle().await;
}

#[tokio::test]
async fn slices_and_arrays_are_enlisted_in_their_order() {
    let world = World::new();
    let tm = world.start().await;
    let mut tx = tm.begin();
    tx.enlist(&world.ledger).await.unwrap();
    let resources = [&world.orders, &world.ledger];
    for (index, branch) in tx
        .enlist(&resources[..])
        .await
        .unwrap()
        .into_iter()
        .enumerate()
    {
        branch.put("k", &index.to_string()).unwrap();
    }
    let [orders, ledger] = tx.enlist(resources).await.unwrap();
    assert_eq!(orders.get("k").unwrap().as_deref(), Some("0"));
    assert_eq!(ledger.get("k").unwrap().as_deref(), Some("1"));
    tx.commit().await.unwrap();
    assert_eq!(world.rows(), (Some("0".into()), Some("1".into())));
}

#[tokio::test]
async fn branches_that_were_swapped_between_transactions_are_both_rolled_back() {
    let world = World::new();
    let tm = world.start().await;
    let (mut one, mut two) = (tm.begin(), tm.begin());
    {
        let (a, b) = one.enlist((&world.orders, &world.ledger)).await.unwrap();
        a.put("a", "1").unwrap();
        b.put("a", "1").unwrap();
        let (c, d) = two.enlist((&world.orders, &world.ledger)).await.unwrap();
        c.put("b", "2").unwrap();
        d.put("b", "2").unwrap();
        std::mem::swap(a, c);
    }
    for tx in [one, two] {
        let error = tx.commit().await.unwrap_err();
        assert!(
            matches!(
                &error,
                CommitError::RolledBack {
                    cause: RollbackCause::Swapped(_),
                    ..
                }
            ),
            "{error}"
        );
    }
    for server in [world.orders.server(), world.ledger.server()] {
        assert_eq!((server.row("a"), server.row("b")), (None, None));
    }
    world.settle().await;
}
