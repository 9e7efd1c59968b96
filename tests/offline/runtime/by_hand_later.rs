//! What a person does with a branch, and what is told or recorded of it later than it is done.

use std::time::Duration;

use unanimous::TransactionOutcome;
use unanimous::ports::HandState;
use unanimous_testing::Flavour;

use super::by_hand::{At, FLAVOURS, Scene, done, settled};
use super::eventually;
use super::fragile::{Call, Fate, Fates, FragileLog};

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

/// It has rolled back what the tool had meant to commit, and not said so yet.
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
