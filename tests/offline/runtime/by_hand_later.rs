//! What a person does with a branch, and what is told or recorded of it later than it is done.

use std::sync::Arc;
use std::time::Duration;

use unanimous::ports::{
    ByHand, DecisionLog, HandAct, HandState, LogHome, Remark, ResourceManager, UnixTime,
};
use unanimous::{Decision, TransactionOutcome, Xid};
use unanimous_testing::Flavour;

use super::by_hand::{At, FLAVOURS, Scene, done, settled};
use super::fragile::{Call, Fate, Fates, FragileLog, FragileResource};
use super::{World, eventually};

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

/// It has rolled back what the tool had meant to commit, and not said so yet. Its epoch may have
/// been closed on suspicion.
#[tokio::test(start_paused = true)]
async fn i1_what_another_member_has_ended_just_now_is_no_hazard() {
    for (fate, state) in [
        (Fate::Wait, HandState::Void),
        (Fate::Hang, HandState::Unproven),
    ] {
        let scene = Scene::closed(Flavour::Postgres, false).await;
        scene.dies_at(Call::ByHandAnswered, At::Log).await;
        let tool = scene.tool.begin().gtrid().opening.epoch;
        scene.owner.close(tool).await.unwrap();
        let other = Fates::default();
        other.next(Call::RecordByHand, fate);
        let home = FragileLog {
            inner: scene.world.log.clone(),
            fates: other.clone(),
        };
        let builder = scene.world.builder().log(home).config(|config| {
            config.recovery_interval = Duration::from_secs(3600);
            config.recovery_interval_max = Duration::from_secs(3600);
        });
        let builder = builder.resource(&scene.world.orders);
        let other_start = tokio::spawn(builder.start());
        eventually("it is ended, and not told", || other.are_met()).await;
        assert!(!scene.is_prepared());
        let tm = scene.world.start().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        other.go();
        let _other = other_start.await.unwrap().unwrap();
        assert_eq!(settled(&*scene.owner).await, [state]);
        let outcome = tm.outcome(scene.gtrid).await.unwrap();
        let is_heuristic = matches!(outcome, TransactionOutcome::Heuristic(_));
        assert_eq!(is_heuristic, state == HandState::Unproven, "{outcome:?}");
    }
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
async fn intended(world: &World, count: u64) -> (Arc<dyn DecisionLog>, Vec<Xid>) {
    let dead = Box::new(world.log.clone()).open().await.unwrap();
    let mut xids = Vec::new();
    for id in 1..=count {
        let (gtrid, resource) = (dead.opening().gtrid(id), world.ledger.name().clone());
        let by_hand = ByHand {
            id,
            gtrid,
            resource: resource.clone(),
            act: HandAct::End(Decision::Commit),
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

/// Of two resources on one server: the other one looks before that is told.
#[tokio::test(start_paused = true)]
async fn i1_what_a_pass_has_ended_just_now_is_no_hazard_to_its_twin() {
    let world = World::new();
    let (dead, xids) = intended(&world, 1).await;
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

/// It answers a pass, and then no more: the rest would be waited for as long, each.
#[tokio::test(start_paused = true)]
async fn i6_a_server_that_turns_mute_is_asked_for_one_record_and_no_more() {
    let world = World::new();
    let ledger = FragileResource::new(&world.ledger);
    let (dead, _) = intended(&world, 10).await;
    let builder = world.builder().config(|config| {
        config.recovery_interval = Duration::from_secs(3600);
        config.recovery_interval_max = Duration::from_secs(3600);
    });
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
