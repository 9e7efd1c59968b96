//! A decision waits for a branch that is lost, and a person gives it up.

use std::time::Duration;

use unanimous::log::TableLog;
use unanimous::operator::{GiveUp, GivenUp};
use unanimous::ports::{
    BranchRecord, DecisionRecord, DecisionTable, Evidence, HandState, LogHome, ServerIdentity,
};
use unanimous::{Decision, Gtrid, Heuristic, TransactionManager, TransactionOutcome, Xid};
use unanimous_core::ports::BranchErrorKind;
use unanimous_testing::{Fault, MemoryTable, Step, drop_after_ticks};

use super::fragile::{Fates, FragileLog};
use super::recovery::die_after_the_decision;
use super::{World, eventually};

const TICK: Duration = Duration::from_millis(1);

async fn give_up(tm: &TransactionManager, gtrid: Gtrid, at: &str, act: bool) -> GivenUp {
    let wanted = GiveUp::new(gtrid.to_string(), at, "eve@shop", "its disk is gone");
    wanted.within(tm, act).await.unwrap()
}

async fn refusal(tm: &TransactionManager, gtrid: Gtrid, at: &str) -> String {
    let refused = give_up(tm, gtrid, at, true).await;
    assert!(!refused.acted, "{refused:?}");
    let [refusal] = &refused.refusals[..] else {
        panic!("{refused:?}");
    };
    refusal.clone()
}

/// The orders alone.
async fn start_without_ledger(world: &World) -> TransactionManager {
    let builder = world.builder().resource(&world.orders);
    builder.start().await.unwrap()
}

async fn is_a_hazard(tm: &TransactionManager, gtrid: Gtrid) {
    let hazard = vec![("ledger".parse().unwrap(), Heuristic::Hazard)];
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Heuristic(hazard));
}

/// Nothing is in doubt, and nothing waits.
async fn is_clean(tm: &TransactionManager) {
    let report = tm.recover().await;
    assert!(report.is_clean(), "{report}");
    let survey = tm.survey().await;
    assert!(survey.unknown_resources.is_empty(), "{survey:?}");
    let branches = survey.resources.iter().flat_map(|at| &at.branches);
    assert_eq!(branches.count(), 0, "{survey:?}");
}

#[tokio::test]
async fn i3_a_branch_that_a_failover_lost_is_given_up_and_told_as_a_hazard() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    world.ledger.server().fail_over("another ledger");
    let tm = world.start().await;
    let report = tm.recover().await;
    assert!(
        report
            .to_string()
            .contains("unanimous forget GTRID --lost ledger"),
        "{report}"
    );
    let planned = give_up(&tm, gtrid, "ledger", false).await;
    assert_eq!((planned.acted, &planned.refusals), (false, &vec![]));
    assert_eq!(tm.recover().await.to_string(), report.to_string());
    let done = give_up(&tm, gtrid, "ledger", true).await;
    assert!(done.acted, "{done:?}");
    assert_eq!(done.server.as_deref(), Some("ledger"));
    is_clean(&tm).await;
    assert!(world.log.is_completed(gtrid));
    is_a_hazard(&tm, gtrid).await;
    assert!(refusal(&tm, gtrid, "ledger").await.contains("is pending"));
    drop(tm);
    world.log.crash();
    let tm = world.start().await;
    is_clean(&tm).await;
    is_a_hazard(&tm, gtrid).await;
    assert_eq!(world.rows(), (Some("1".into()), None));
}

#[tokio::test]
async fn i2_a_decision_with_a_lost_branch_is_not_complete_before_the_others_have_ended() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    world.orders.server().set_reachable(false);
    let tm = start_without_ledger(&world).await;
    let done = give_up(&tm, gtrid, "ledger", true).await;
    assert!(done.acted, "{done:?}");
    let seen = &done.notes;
    assert!(
        seen.iter().any(|note| note.contains("cannot be looked at")),
        "{done:?}"
    );
    let report = tm.recover().await;
    assert!(!world.log.is_completed(gtrid), "{report}");
    assert!(report.unknown_resources.is_empty(), "{report}");
    assert!(
        refusal(&tm, gtrid, "ledger")
            .await
            .contains("given up before")
    );
    // Whoever opens the log next knows of it, too.
    drop(tm);
    world.log.crash();
    let tm = start_without_ledger(&world).await;
    assert!(tm.recover().await.unknown_resources.is_empty());
    assert!(!world.log.is_completed(gtrid));
    is_a_hazard(&tm, gtrid).await;
    world.orders.server().set_reachable(true);
    eventually("the rest is committed", || world.log.is_completed(gtrid)).await;
    is_clean(&tm).await;
    is_a_hazard(&tm, gtrid).await;
    assert_eq!(world.orders.server().row("k").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_decision_all_of_whose_branches_are_lost_comes_to_its_end() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    for at in [&world.orders, &world.ledger] {
        at.server().fail_over("another one");
    }
    let tm = world.start().await;
    for at in ["ledger", "orders"] {
        assert!(!world.log.is_completed(gtrid));
        assert!(give_up(&tm, gtrid, at, true).await.acted);
    }
    is_clean(&tm).await;
    assert!(world.log.is_completed(gtrid));
}

#[tokio::test]
async fn i3_what_is_not_lost_is_not_given_up() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    let ledger = world.ledger.server();
    // Out of reach is not gone.
    ledger.set_reachable(false);
    let tm = world.start().await;
    let away = refusal(&tm, gtrid, "ledger").await;
    assert!(away.contains("what may come back is not lost"), "{away}");
    assert!(
        refusal(&tm, gtrid, "elsewhere")
            .await
            .contains("names no branch")
    );
    let running = tm.begin();
    let nothing = refusal(&tm, running.gtrid(), "ledger").await;
    assert!(nothing.contains("no decision"), "{nothing}");
    drop(running);
    // It was committed, which its server can prove, if recovery has not done so before.
    let xid = Xid {
        gtrid,
        bqual: "ledger".parse().unwrap(),
    };
    assert!(ledger.end_by_hand(&xid, Decision::Commit));
    ledger.set_reachable(true);
    refusal(&tm, gtrid, "ledger").await;
    eventually("the rest is committed", || world.log.is_completed(gtrid)).await;
    world.settle().await;
    assert_eq!(world.rows(), World::both("1"));
    is_clean(&tm).await;
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Committed);
}

/// It is not registered under its name, but its server is under another one.
#[tokio::test]
async fn i3_what_is_prepared_anywhere_is_not_given_up() {
    let world = World::new();
    let gtrid = die_after_the_decision(&world).await;
    let ledger = world.ledger.server();
    // At the start, and in the first pass after it.
    for _ in 0..2 {
        ledger.fail_next(Step::Finish, Fault::Refuse(BranchErrorKind::Failed));
    }
    let renamed = ledger.resource("books");
    let builder = world.builder().resource(&world.orders).resource(&renamed);
    let tm = builder
        .config(|config| {
            config.recovery_interval = Duration::from_secs(3600);
            config.recovery_interval_max = Duration::from_secs(3600);
        })
        .start()
        .await
        .unwrap();
    let refused = refusal(&tm, gtrid, "ledger").await;
    assert!(refused.contains("is prepared there"), "{refused}");
    assert!(!world.log.is_completed(gtrid));
}

/// On a log that members share, one of them may have what this tool's config file lacks.
#[tokio::test(start_paused = true)]
async fn i3_what_a_living_member_may_have_is_not_given_up_without_a_word() {
    let world = World::new();
    let table = MemoryTable::with("log", world.journal.clone());
    let home = || TableLog::on(&table).suspect_after(Duration::from_secs(36_000));
    let owner = Box::new(home()).open().await.unwrap();
    let gtrid = owner.opening().gtrid(1);
    let branches = vec![BranchRecord {
        resource: "ledger".parse().unwrap(),
        identity: ServerIdentity::new("ledger").unwrap(),
        evidence: Evidence::default(),
    }];
    let decision = DecisionRecord { gtrid, branches };
    owner.decide(&decision).await.unwrap();
    table.close(gtrid.opening.epoch).await.unwrap();
    let living = Box::new(home().label("shop 7")).open().await.unwrap();
    let builder = world.builder().log(home()).resource(&world.orders);
    let tm = builder.start().await.unwrap();
    let refused = refusal(&tm, gtrid, "ledger").await;
    for named in ["shop 7", "--nobody-has-it"] {
        assert!(refused.contains(named), "{refused}");
    }
    let mut wanted = GiveUp::new(gtrid.to_string(), "ledger", "eve@shop", "its disk is gone");
    wanted.nobody_has_it = true;
    let done = wanted.within(&tm, true).await.unwrap();
    assert!(done.acted, "{done:?}");
    is_a_hazard(&tm, gtrid).await;
    drop(living);
}

/// Whoever gives it up dies at every step: then it is as it was, and can be given up again, or it
/// is on record as the hazard that it is.
#[tokio::test(start_paused = true)]
async fn i3_whoever_dies_while_giving_up_leaves_it_pending_or_told_as_a_hazard() {
    let mut steps = 0;
    loop {
        steps += 1;
        let world = World::new();
        let gtrid = die_after_the_decision(&world).await;
        let (inner, fates) = (world.log.clone(), Fates::default());
        let home = FragileLog {
            inner,
            fates: fates.clone(),
        };
        let builder = world.builder().log(home).resource(&world.orders);
        let tm = builder.start().await.unwrap();
        world.log.slow_down(TICK);
        let wanted = GiveUp::new(gtrid.to_string(), "ledger", "eve@shop", "its disk is gone");
        let ended = drop_after_ticks(steps, TICK, wanted.within(&tm, true)).await;
        fates.die();
        drop(tm);
        // What was under way arrives.
        tokio::time::sleep(TICK).await;
        world.log.crash();
        let tm = start_without_ledger(&world).await;
        if world.log.is_completed(gtrid) {
            is_a_hazard(&tm, gtrid).await;
        } else {
            assert!(ended.is_none(), "{ended:?}");
            assert_eq!(tm.recover().await.unknown_resources.len(), 1, "{steps}");
            assert!(give_up(&tm, gtrid, "ledger", true).await.acted);
        }
        is_clean(&tm).await;
        is_a_hazard(&tm, gtrid).await;
        drop(tm);
        let log = Box::new(world.log.clone()).open().await.unwrap();
        let hands = log.by_hand().await.unwrap();
        let done = hands.iter().filter(|hand| hand.state == HandState::Done);
        assert_eq!(done.count(), 1, "{hands:?}");
        let is_open = hands.iter().any(|hand| hand.state.is_open());
        assert!(!is_open, "what was broken off is over: {hands:?}");
        if ended.is_some() {
            break;
        }
    }
    assert!(steps > 5, "{steps}");
}

/// I7: whoever asked goes away at every step, and what was begun comes to its end.
#[tokio::test(start_paused = true)]
async fn i7_a_branch_is_given_up_although_nobody_waits_for_it() {
    for polls in 1..1000 {
        let world = World::new();
        let gtrid = die_after_the_decision(&world).await;
        let tm = start_without_ledger(&world).await;
        world.log.slow_down(TICK);
        let wanted = GiveUp::new(gtrid.to_string(), "ledger", "eve@shop", "its disk is gone");
        let ended = drop_after_ticks(polls, TICK, wanted.within(&tm, true)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        is_a_hazard(&tm, gtrid).await;
        assert!(world.log.is_completed(gtrid), "after {polls} polls");
        if ended.is_some() {
            assert!(polls > 5, "after {polls} polls already");
            return;
        }
    }
    panic!("it ends");
}
