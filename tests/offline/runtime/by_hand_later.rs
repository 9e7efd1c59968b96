//! What a person does with a branch, and what is told or recorded of it later than it is done.

use std::sync::Arc;
use std::time::Duration;

use unanimous::ports::{
    BranchRecord, ByHand, DecisionLog, DecisionRecord, Evidence, HandAct, HandState, LogHome,
    Remark, ResourceManager, ServerIdentity, UnixTime,
};
use unanimous::{Config, Decision, Opening, TransactionOutcome, Xid};
use unanimous_testing::{Flavour, MemoryServer};

use super::by_hand::{At, FLAVOURS, Scene, done, settled};
use super::fragile::{Call, Fate, Fates, FragileLog, FragileResource};
use super::{World, eventually};

/// No pass comes by itself but the first ones.
fn never_again(config: &mut Config) {
    config.recovery_interval = Duration::from_secs(3600);
    config.recovery_interval_max = Duration::from_secs(3600);
}

/// The log has not taken it at once, and the server has told it all the same.
#[tokio::test(start_paused = true)]
async fn i1_what_was_done_by_hand_and_is_not_recorded_yet_is_no_hazard() {
    for flavour in FLAVOURS {
        let scene = Scene::closed(flavour, false).await;
        scene.log.next(Call::RecordHeuristic, Fate::Fail);
        scene.resolve(scene.wanted).await;
        assert!(!scene.is_prepared());
        scene.tool.recover().await;
        let hands = settled(&*scene.owner).await;
        assert_eq!(hands, [HandState::Done], "{flavour:?}");
        let told = scene.recovered().await;
        assert_eq!(told, done(false), "{flavour:?}");
    }
}

/// It has ended what the tool had meant to end otherwise, and not said so yet. Its epoch may have
/// been closed on suspicion.
#[tokio::test(start_paused = true)]
async fn i1_what_another_member_has_ended_just_now_is_no_hazard() {
    for (flavour, is_decided) in [(Flavour::Postgres, false), (Flavour::Mysql, true)] {
        for (is_alive, is_suspect) in [(true, false), (true, true), (false, false), (false, true)] {
            let scene = Scene::closed(flavour, is_decided).await;
            scene.dies_at(Call::ByHandAnswered, At::Log).await;
            let tool = scene.tool.begin().gtrid().opening.epoch;
            scene.owner.close(tool).await.unwrap();
            let other = Fates::default();
            other.next(Call::RecordByHand, Fate::Wait);
            let home = FragileLog {
                inner: scene.world.log.clone(),
                fates: other.clone(),
            };
            let builder = scene.world.builder().log(home).config(never_again);
            let builder = builder.resource(&scene.world.orders);
            let other_start = tokio::spawn(builder.start());
            eventually("it is ended, and not told", || other.are_met()).await;
            assert!(!scene.is_prepared());
            let tm = scene.world.start().await;
            if is_suspect {
                let openings = scene.owner.openings().await.unwrap().into_iter();
                let mut openings = openings.map(|listed| listed.opening);
                let beside = |opening: &Opening| *opening != tm.begin().gtrid().opening;
                let last = openings.rfind(beside).unwrap();
                scene.owner.close(last.epoch).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            if is_alive {
                other.go();
            } else {
                other.die();
            }
            let state = if is_alive {
                HandState::Void
            } else {
                HandState::Unproven
            };
            assert_eq!(settled(&*scene.owner).await, [state]);
            let outcome = tm.outcome(scene.gtrid).await.unwrap();
            let is_heuristic = matches!(outcome, TransactionOutcome::Heuristic(_));
            assert_eq!(is_heuristic, !is_alive, "{flavour:?} {outcome:?}");
            let _other = other_start.await.unwrap().unwrap();
        }
    }
}

/// Whoever meant to roll it back lives, and will never say what became of it: for ever its decision
/// would wait.
#[tokio::test(start_paused = true)]
async fn i6_nobody_waits_for_ever_for_whoever_meant_to_end_a_branch() {
    let scene = Scene::closed(Flavour::Mysql, true).await;
    scene.dies_at(Call::FinishAnswered, At::Orders).await;
    assert!(!scene.is_prepared());
    let tm = scene.world.start().await;
    // Longer than one answer of a server and one of the log.
    for _ in 0..4 {
        tm.recover().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert!(scene.world.log.is_completed(scene.gtrid));
    let outcome = tm.outcome(scene.gtrid).await.unwrap();
    assert!(
        matches!(outcome, TransactionOutcome::Heuristic(_)),
        "{outcome:?}"
    );
}

/// The log would be closed before the certain end is recorded.
#[tokio::test(start_paused = true)]
async fn i1_a_shutdown_waits_for_what_a_person_is_doing() {
    for flavour in FLAVOURS {
        let scene = Scene::closed(flavour, false).await;
        let fates = &scene.orders.fates;
        fates.next(Call::FinishAnswered, Fate::Wait);
        let shutting_down = async {
            eventually("it is ended, and not told", || fates.are_met()).await;
            let going_on = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                fates.go();
            };
            tokio::join!(scene.tool.shutdown(), going_on).0.unwrap();
        };
        let (resolved, ()) = tokio::join!(scene.resolve(scene.wanted), shutting_down);
        assert!(resolved.acted, "{resolved:?}");
        let told = scene.recovered().await;
        assert_eq!(told, done(false), "{flavour:?}");
    }
}

/// What somebody who died was about to do with branches of another life.
async fn intended(
    world: &World,
    count: u64,
    decision: Decision,
) -> (Arc<dyn DecisionLog>, Vec<Xid>) {
    let dead = Box::new(world.log.clone()).open().await.unwrap();
    let mut xids = Vec::new();
    for id in 1..=count {
        let (gtrid, resource) = (dead.opening().gtrid(id), world.ledger.name().clone());
        let by_hand = ByHand {
            id,
            gtrid,
            resource: resource.clone(),
            act: HandAct::End(decision),
            by: dead.opening(),
            who: Remark::new("me@here").unwrap(),
            when: UnixTime(1),
            reason: Remark::new("because").unwrap(),
            proof: None,
            state: HandState::Intended,
        };
        dead.record_by_hand(&by_hand).await.unwrap();
        xids.push(Xid {
            gtrid,
            bqual: resource,
        });
    }
    (dead, xids)
}

fn branch(name: &str) -> BranchRecord {
    BranchRecord {
        resource: name.parse().unwrap(),
        identity: ServerIdentity::new(name).unwrap(),
        evidence: Evidence::default(),
    }
}

/// Of two resources on one server: the other one looks before that is told.
#[tokio::test(start_paused = true)]
async fn i1_what_a_pass_has_ended_just_now_is_no_hazard_to_its_twin() {
    let world = World::new();
    let (dead, xids) = intended(&world, 1, Decision::Commit).await;
    let server = world.ledger.server();
    server.plant(&xids[0], &[("k", "1")]);
    let (ledger, log) = (FragileResource::new(&world.ledger), Fates::default());
    ledger.fates.next(Call::Recover, Fate::Wait);
    log.next(Call::RecordByHand, Fate::Wait);
    let home = FragileLog {
        inner: world.log.clone(),
        fates: log.clone(),
    };
    let builder = world.builder().log(home).config(|config| {
        config.recovery_timeout = Duration::from_secs(60);
    });
    let books = server.resource("books");
    let builder = builder.resource(&books).resource(&ledger);
    let starting = tokio::spawn(builder.start());
    eventually("it is ended, and not told", || log.are_met()).await;
    assert!(server.prepared().is_empty());
    ledger.fates.go();
    tokio::time::sleep(Duration::from_secs(1)).await;
    log.go();
    let tm = starting.await.unwrap().unwrap();
    assert_eq!(settled(&*dead).await, [HandState::Void]);
    tm.recover().await;
    assert_eq!(dead.heuristics().await.unwrap(), []);
}

/// The same, of a decision. The other one has read the records before the branch's end is told, and
/// proves it afterwards. What is left of the decision says whether it is complete by then.
#[tokio::test(start_paused = true)]
async fn i1_what_a_pass_has_ended_as_decided_is_no_hazard_to_its_twin() {
    for is_more_left in [false, true] {
        let world = World::new();
        let server = MemoryServer::with("ledger", Flavour::Mysql, world.journal.clone());
        let [ledger, books] = ["ledger", "books"].map(|name| server.resource(name));
        let (dead, xids) = intended(&world, 1, Decision::Rollback).await;
        let names = if is_more_left {
            &["ledger", "elsewhere"][..]
        } else {
            &["ledger"]
        };
        let decision = DecisionRecord {
            gtrid: xids[0].gtrid,
            branches: names.iter().map(|name| branch(name)).collect(),
        };
        dead.decide(&decision).await.unwrap();
        server.plant(&xids[0], &[("k", "1")]);
        let [ledger, books] = [&ledger, &books].map(FragileResource::new);
        let log = Fates::default();
        let home = FragileLog {
            inner: world.log.clone(),
            fates: log.clone(),
        };
        books.fates.next(Call::Recover, Fate::Wait);
        ledger.fates.next(Call::Recover, Fate::InDoubt);
        ledger.fates.next(Call::Recover, Fate::Wait);
        let builder = world.builder().log(home).config(|config| {
            config.recovery_timeout = Duration::from_secs(60);
        });
        let builder = builder.resource(&books).resource(&ledger);
        let starting = tokio::spawn(builder.start());
        eventually("it has read the log", || ledger.fates.are_met()).await;
        log.next(Call::RecordByHand, Fate::Wait);
        books.fates.go();
        eventually("it is ended, and not told", || log.are_met()).await;
        assert_eq!(server.row("k").as_deref(), Some("1"));
        log.next(Call::Heuristics, Fate::Wait);
        ledger.fates.go();
        eventually("it has read the records", || log.are_met()).await;
        log.go();
        assert_eq!(settled(&*dead).await, [HandState::Void]);
        log.go();
        let tm = starting.await.unwrap().unwrap();
        tm.recover().await;
        assert_eq!(dead.heuristics().await.unwrap(), []);
        assert_eq!(world.log.is_completed(xids[0].gtrid), !is_more_left);
    }
}

/// It has ended the branch itself, whatever it cannot record of that.
#[tokio::test(start_paused = true)]
async fn i1_what_a_pass_has_ended_and_not_recorded_is_no_hazard_to_it() {
    let world = World::new();
    let (dead, xids) = intended(&world, 1, Decision::Commit).await;
    world.ledger.server().plant(&xids[0], &[("k", "1")]);
    let log = Fates::default();
    log.next(Call::RecordByHand, Fate::Fail);
    let home = FragileLog {
        inner: world.log.clone(),
        fates: log.clone(),
    };
    let builder = world.builder().log(home).resource(&world.ledger);
    let tm = builder.start().await.unwrap();
    tm.recover().await;
    assert!(log.are_met() && world.ledger.server().prepared().is_empty());
    assert_eq!(settled(&*dead).await, [HandState::Void]);
    assert_eq!(dead.heuristics().await.unwrap(), []);
}

/// A shutdown ends it while it waits for the log.
#[tokio::test(start_paused = true)]
async fn i1_what_a_pass_has_ended_when_it_is_stopped_is_no_hazard_to_the_last_one() {
    let world = World::new();
    let (dead, xids) = intended(&world, 1, Decision::Commit).await;
    let (server, log) = (world.ledger.server(), Fates::default());
    server.plant(&xids[0], &[("k", "1")]);
    server.set_reachable(false);
    let home = FragileLog {
        inner: world.log.clone(),
        fates: log.clone(),
    };
    let builder = world.builder().log(home).config(|config| {
        config.recovery_timeout = Duration::from_secs(60);
    });
    let tm = builder.resource(&world.ledger).start().await.unwrap();
    log.next(Call::RecordByHand, Fate::Hang);
    server.set_reachable(true);
    eventually("it is ended, and not told", || log.are_met()).await;
    assert!(server.prepared().is_empty());
    tm.shutdown().await.unwrap();
    assert_eq!(settled(&*dead).await, [HandState::Void]);
    assert_eq!(dead.heuristics().await.unwrap(), []);
}

/// It answers a pass, and then no more: the rest would be waited for as long, each.
#[tokio::test(start_paused = true)]
async fn i6_a_server_that_turns_mute_is_asked_for_one_record_and_no_more() {
    let world = World::new();
    let ledger = FragileResource::new(&world.ledger);
    let (dead, _) = intended(&world, 10, Decision::Commit).await;
    let builder = world.builder().config(never_again);
    let fates = &ledger.fates;
    // The pass at the start, what it settles, and what is settled after all passes; then the first
    // pass of its task, and what that settles.
    let answered = Fate::InDoubt;
    for fate in [answered, Fate::Hang, Fate::Hang, answered, Fate::Hang] {
        fates.next(Call::Recover, fate);
    }
    for _ in 0..3 {
        fates.next(Call::Recover, Fate::Hang);
    }
    let builder = builder.config(|config| config.start_timeout = Duration::from_secs(5));
    let tm = builder.resource(&ledger).start().await.unwrap();
    eventually("its task looks", || fates.left(Call::Recover) <= 3).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fates.left(Call::Recover), 3);
    assert_eq!(settled(&*dead).await, [HandState::Intended; 10]);
    drop(tm);
}

/// It can be read, and takes nothing.
#[tokio::test(start_paused = true)]
async fn i6_a_log_that_turns_mute_is_offered_one_record_and_no_more() {
    for call in [Call::RecordHeuristic, Call::RecordByHand] {
        let (world, log) = (World::new(), Fates::default());
        let (dead, _) = intended(&world, 10, Decision::Commit).await;
        let home = FragileLog {
            inner: world.log.clone(),
            fates: log.clone(),
        };
        // The pass at the start, what is settled after all passes, and the first pass of the task.
        for _ in 0..10 {
            log.next(call, Fate::Hang);
        }
        let builder = world.builder().log(home).config(never_again);
        let builder = builder.config(|config| config.start_timeout = Duration::from_secs(5));
        let tm = builder.resource(&world.ledger).start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(log.left(call), 7, "{call:?}");
        assert_eq!(settled(&*dead).await, [HandState::Intended; 10]);
        drop(tm);
    }
}
