//! People who end branches by hand beside others: beside living owners, who are not disturbed, and
//! beside each other, who never split what was whole.

use unanimous::operator::{GiveUp, Resolve, Resolved};
use unanimous::ports::{ByHand, HandState};
use unanimous::{Decision, Gtrid, TransactionManager};
use unanimous_testing::{Event, Flavour, Step};

use super::by_hand::Scene;
use super::fragile::{Call, Fate, Fates, FragileLog};
use super::{World, eventually};

const A_SHARED_LOG: (Flavour, bool) = (Flavour::Mysql, true);

/// Both branches of a transaction of which no log knows what was decided.
struct Lost {
    scene: Scene,
    gtrid: Gtrid,
}

impl Lost {
    async fn new() -> Self {
        let (flavour, is_decided) = A_SHARED_LOG;
        let scene = Scene::new(flavour, is_decided).await;
        let mut gtrid = scene.gtrid;
        gtrid.opening.nonce ^= 1;
        for at in [&scene.world.orders, &scene.world.ledger] {
            let xid = unanimous::Xid {
                gtrid,
                ..scene.xid(unanimous::ports::ResourceManager::name(at).as_str())
            };
            at.server().plant(&xid, &[("lost", "1")]);
        }
        Self { scene, gtrid }
    }

    /// A person at this tool who says that the log is lost.
    fn asks(&self, wanted: Decision) -> Resolve {
        let is_commit = wanted == Decision::Commit;
        let mut asked = Resolve::new(self.gtrid.to_string(), is_commit, "me@here", "because");
        asked.its_log_is_lost = true;
        asked
    }

    async fn resolve(&self, at: &TransactionManager, wanted: Decision) -> Resolved {
        self.asks(wanted).within(at, true).await.unwrap()
    }

    async fn another_tool(&self) -> (TransactionManager, Fates) {
        another_tool(&self.scene).await
    }

    /// What each database has: `None` as long as its branch is prepared.
    fn ends(&self) -> [Option<bool>; 2] {
        let world = &self.scene.world;
        [&world.orders, &world.ledger].map(|at| {
            let server = at.server();
            let mut prepared = server.prepared().into_iter();
            let is_prepared = prepared.any(|xid| xid.gtrid == self.gtrid);
            (!is_prepared).then(|| server.row("lost").is_some())
        })
    }

    async fn hands(&self) -> Vec<ByHand> {
        self.scene.owner.by_hand().await.unwrap()
    }
}

/// Another tool, which is another process, on the same log and the same servers.
async fn another_tool(scene: &Scene) -> (TransactionManager, Fates) {
    let (world, fates) = (&scene.world, Fates::default());
    let home = FragileLog {
        inner: world.log.clone(),
        fates: fates.clone(),
    };
    let builder = world.builder().log(home).resource(&world.orders);
    let tool = builder.resource(&world.ledger).start().await.unwrap();
    (tool, fates)
}

fn refusal(resolved: &Resolved) -> &str {
    assert!(!resolved.acted, "{resolved:?}");
    let [refusal] = &resolved.refusals[..] else {
        panic!("{resolved:?}");
    };
    refusal
}

/// Its connections may serve others by now, and a proof ends them.
#[tokio::test(start_paused = true)]
async fn i5_whoever_only_looks_asks_no_server_for_a_proof() {
    for is_closed in [false, true] {
        let (flavour, is_decided) = A_SHARED_LOG;
        let scene = Scene::new(flavour, is_decided).await;
        if is_closed {
            let epoch = scene.gtrid.opening.epoch;
            scene.owner.close(epoch).await.unwrap();
        }
        let ledger = scene.world.ledger.server();
        assert!(ledger.end_by_hand(&scene.xid("ledger"), Decision::Commit));
        let asked = Resolve::new(scene.gtrid.to_string(), true, "me@here", "because");
        let planned = asked.within(&scene.tool, false).await.unwrap();
        let proofs = |event: &Event| {
            matches!(
                event,
                Event::Asked {
                    step: Step::Absent,
                    ..
                }
            )
        };
        assert_eq!(scene.world.journal.count(proofs), 0, "{planned:?}");
        let words = if is_closed {
            "unanimous recover proves"
        } else {
            "its owner"
        };
        let mut notes = planned.notes.iter();
        assert!(notes.any(|note| note.contains(words)), "{planned:?}");
    }
}

/// Through the same application: the one comes while the other's record is under way.
#[tokio::test(start_paused = true)]
async fn i1_two_people_at_one_application_end_no_transaction_in_two_ways() {
    let lost = Lost::new().await;
    let tool = &lost.scene.tool;
    lost.scene.log.next(Call::RecordByHand, Fate::Wait);
    let second = async {
        eventually("the first is there", || lost.scene.log.are_met()).await;
        let second = lost.resolve(tool, Decision::Rollback).await;
        lost.scene.log.go();
        second
    };
    let (first, second) = tokio::join!(lost.resolve(tool, Decision::Commit), second);
    assert!(first.is_done(), "{first:?} {second:?}");
    assert!(refusal(&second).contains("look again"), "{second:?}");
    assert_eq!(lost.ends(), [Some(true); 2], "{first:?} {second:?}");
}

/// Each at a tool of their own, on a log that both share.
#[tokio::test(start_paused = true)]
async fn i1_two_people_at_two_tools_end_no_transaction_in_two_ways() {
    let lost = Lost::new().await;
    let (tool, (other, _)) = (&lost.scene.tool, lost.another_tool().await);
    lost.scene.orders.fates.next(Call::Finish, Fate::Wait);
    let second = async {
        let fates = &lost.scene.orders.fates;
        eventually("the first is there", || fates.are_met()).await;
        let second = lost.resolve(&other, Decision::Rollback).await;
        fates.go();
        second
    };
    let (first, second) = tokio::join!(lost.resolve(tool, Decision::Commit), second);
    assert!(first.is_done(), "{first:?} {second:?}");
    let refused = &second.refusals[..];
    assert!(!second.acted && !refused.is_empty(), "{second:?}");
    assert!(refused[0].contains("to commit"), "{second:?}");
    assert_eq!(lost.ends(), [Some(true); 2], "{first:?} {second:?}");
}

/// Both have looked before either has recorded anything: at most one of them acts. The second one
/// stands before its first record, or after its last.
#[tokio::test(start_paused = true)]
async fn i1_of_two_people_who_have_both_looked_at_most_one_acts() {
    for stands_before in [true, false] {
        let lost = Lost::new().await;
        let (tool, log) = (&lost.scene.tool, &lost.scene.log);
        let (other, other_log) = lost.another_tool().await;
        let logs = [log, &other_log];
        for log in logs {
            log.next(Call::RecordByHand, Fate::Wait);
        }
        let going = async {
            let are_met = || logs.iter().all(|log| log.are_met());
            eventually("both have looked", are_met).await;
            if !stands_before {
                for log in logs {
                    log.next(Call::ByHandAnswered, Fate::InDoubt);
                    log.next(Call::ByHandAnswered, Fate::Wait);
                    log.go();
                }
                eventually("both have recorded", are_met).await;
            }
            logs.into_iter().for_each(Fates::go);
        };
        let (first, second, ()) = tokio::join!(
            lost.resolve(tool, Decision::Commit),
            lost.resolve(&other, Decision::Rollback),
            going
        );
        let ends = lost.ends();
        assert_eq!(ends[0], ends[1], "{first:?} {second:?}");
        assert!(!(first.acted && second.acted), "{first:?} {second:?}");
        let open = lost.hands().await.into_iter();
        let open = open.filter(|hand| hand.state.is_open());
        assert_eq!(open.count(), 0, "whoever gave way has not meant it");
    }
}

#[tokio::test(start_paused = true)]
async fn i1_a_hand_against_anothers_hand_takes_a_word_of_its_own() {
    let lost = Lost::new().await;
    let tool = &lost.scene.tool;
    let mut monday = lost.asks(Decision::Commit);
    monday.resource = Some("orders".to_owned());
    let monday = monday.within(tool, true).await.unwrap();
    assert!(monday.is_done(), "{monday:?}");
    let mut tuesday = lost.asks(Decision::Rollback);
    let refused = tuesday.within(tool, true).await.unwrap();
    let words = refusal(&refused);
    for named in ["orders", "me@here", "to commit", "--against-the-decision"] {
        assert!(words.contains(named), "{named}: {refused:?}");
    }
    assert_eq!(lost.ends(), [Some(true), None]);
    // Whoever means the same is not hindered, and told what was done.
    let same = lost.asks(Decision::Commit);
    let same = same.within(tool, false).await.unwrap();
    assert_eq!(same.refusals, Vec::<String>::new());
    let mut notes = same.notes.iter();
    assert!(notes.any(|note| note.contains("to commit")), "{same:?}");
    // Told so, it is done.
    tuesday.against_the_decision = true;
    let done = tuesday.within(tool, true).await.unwrap();
    assert!(done.is_done(), "{done:?}");
    assert_eq!(lost.ends(), [Some(true), Some(false)]);
}

/// A word is given for what was shown: whatever others do before it is given takes another look.
#[tokio::test(start_paused = true)]
async fn i1_a_word_excuses_nobody_who_was_not_shown() {
    for (alices, bobs) in [
        (Some("ledger"), Decision::Rollback),
        (None, Decision::Rollback),
        (None, Decision::Commit),
    ] {
        let lost = Lost::new().await;
        let (tool, (other, _)) = (&lost.scene.tool, lost.another_tool().await);
        let mut alice = lost.asks(Decision::Commit);
        alice.against_the_decision = true;
        alice.resource = alices.map(str::to_owned);
        let plan = alice.within(tool, false).await.unwrap();
        assert_eq!(plan.refusals, Vec::<String>::new());
        let mut bob = lost.asks(bobs);
        bob.resource = Some("orders".to_owned());
        let bob = bob.within(&other, true).await.unwrap();
        assert!(bob.is_done(), "{bob:?}");
        let refused = alice.clone().as_shown(&plan).within(tool, true).await;
        let refused = refused.unwrap();
        assert!(refusal(&refused).contains("look again"), "{refused:?}");
        assert_eq!(lost.ends()[1], None, "the ledger is left");
        let plan = alice.within(tool, false).await.unwrap();
        let done = alice.as_shown(&plan).within(tool, true).await.unwrap();
        assert!(done.is_done(), "told so, it is done: {done:?}");
        assert_eq!(lost.ends(), [Some(bobs == Decision::Commit), Some(true)]);
    }
}

/// A tool that is held up before it acts seems to be gone. Whoever goes on against its record takes
/// that back first.
#[tokio::test(start_paused = true)]
async fn i1_a_tool_that_was_held_up_does_not_act_when_somebody_else_has() {
    let lost = Lost::new().await;
    let (tool, (other, _)) = (&lost.scene.tool, lost.another_tool().await);
    let log = &lost.scene.log;
    // Two looks come before.
    for fate in [Fate::InDoubt, Fate::InDoubt, Fate::Wait] {
        log.next(Call::OpeningsAnswered, fate);
    }
    let second = async {
        eventually("it has looked", || log.are_met()).await;
        let epoch = tool.begin().gtrid().opening.epoch;
        lost.scene.owner.close(epoch).await.unwrap();
        let mut bob = lost.asks(Decision::Rollback);
        bob.resource = Some("orders".to_owned());
        bob.against_the_decision = true;
        let bob = bob.within(&other, true).await.unwrap();
        log.go();
        bob
    };
    let first = async {
        let alice = lost.asks(Decision::Commit);
        alice.within(tool, true).await.unwrap()
    };
    let (first, second) = tokio::join!(first, second);
    assert!(second.is_done(), "{second:?}");
    assert!(!first.is_done(), "{first:?}");
    let ends: Vec<_> = first.branches.iter().map(|b| b.ended).collect();
    assert_eq!(ends, [Some(false); 2], "{first:?}");
    assert_eq!(lost.ends(), [Some(false), None], "{first:?}");
    let states: Vec<_> = lost.hands().await.iter().map(|hand| hand.state).collect();
    let expected = [HandState::Void, HandState::Void, HandState::Done];
    assert_eq!(states, expected);
}

/// Its branch at the one ended otherwise: the rest is not touched.
#[tokio::test(start_paused = true)]
async fn i1_after_one_that_did_not_end_as_told_the_others_are_left() {
    let lost = Lost::new().await;
    let ledger = lost.scene.world.ledger.server();
    ledger.fail_next(Step::Finish, unanimous_testing::Fault::CONFLICT);
    let resolved = lost.resolve(&lost.scene.tool, Decision::Commit).await;
    let ends: Vec<_> = resolved.branches.iter().map(|b| b.ended).collect();
    assert_eq!(ends, [Some(false); 2], "{resolved:?}");
    assert_eq!(lost.ends(), [None, Some(false)]);
    let states: Vec<_> = lost.hands().await.iter().map(|hand| hand.state).collect();
    assert_eq!(states, [HandState::Void; 2]);
}

#[tokio::test(start_paused = true)]
async fn i3_what_was_not_seen_to_be_gone_is_not_told_as_seen() {
    let scene = Scene::closed(Flavour::Mysql, true).await;
    let fates = &scene.orders.fates;
    fates.next(Call::FinishAnswered, Fate::Wait);
    let mut asked = Resolve::new(scene.gtrid.to_string(), true, "me@here", "because");
    asked.resource = Some("orders".to_owned());
    let cut = async {
        eventually("it was told", || fates.are_met()).await;
        scene.world.orders.server().set_reachable(false);
        fates.go();
    };
    let (resolved, ()) = tokio::join!(asked.within(&scene.tool, true), cut);
    let resolved = resolved.unwrap();
    assert!(resolved.acted && !resolved.is_done(), "{resolved:?}");
    let [branch] = &resolved.branches[..] else {
        panic!("{resolved:?}");
    };
    assert_eq!(branch.ended, None, "{branch:?}");
    assert!(
        branch.words.contains("could not be looked at"),
        "{branch:?}"
    );
    scene.world.orders.server().set_reachable(true);
    let hands = scene.owner.by_hand().await.unwrap();
    assert_eq!(hands[0].state, HandState::Done, "the server has said so");
}

#[tokio::test(start_paused = true)]
async fn i3_a_lost_answer_without_a_look_is_told_as_not_known() {
    let scene = Scene::closed(Flavour::Mysql, true).await;
    let fates = &scene.orders.fates;
    fates.next(Call::FinishAnswered, Fate::Hang);
    let asked = Resolve::new(scene.gtrid.to_string(), true, "me@here", "because");
    let cut = async {
        eventually("it was told", || fates.are_met()).await;
        scene.world.orders.server().set_reachable(false);
    };
    let (resolved, ()) = tokio::join!(asked.within(&scene.tool, true), cut);
    let resolved = resolved.unwrap();
    let mut branches = resolved.branches.iter();
    let orders = branches.find(|branch| branch.resource == "orders").unwrap();
    assert_eq!(orders.ended, None, "{resolved:?}");
    assert!(orders.words.contains("nobody knows yet"), "{resolved:?}");
    assert!(!resolved.is_done(), "{resolved:?}");
}

/// It was still looking when all was over.
#[tokio::test(start_paused = true)]
async fn i1_nobody_acts_by_hand_after_the_shutdown() {
    let lost = Lost::new().await;
    let (tool, fates) = (&lost.scene.tool, &lost.scene.orders.fates);
    fates.next(Call::RecoverAnswered, Fate::Wait);
    let shutting_down = async {
        eventually("it is looking", || fates.are_met()).await;
        tool.shutdown().await.unwrap();
        fates.go();
    };
    let (resolved, ()) = tokio::join!(lost.resolve(tool, Decision::Commit), shutting_down);
    let refusal = refusal(&resolved);
    assert!(refusal.contains("is being shut down"), "{resolved:?}");
    assert_eq!(lost.ends(), [None; 2]);
    assert_eq!(lost.hands().await, []);
}

/// They had both looked.
#[tokio::test(start_paused = true)]
async fn i3_what_another_has_given_up_meanwhile_is_not_given_up_again() {
    let scene = Scene::closed(Flavour::Postgres, true).await;
    scene.world.orders.server().fail_over("another server");
    let ledger = scene.world.ledger.server();
    assert!(ledger.end_by_hand(&scene.xid("ledger"), Decision::Commit));
    let (other, _) = another_tool(&scene).await;
    let lost = GiveUp::new(scene.gtrid.to_string(), "orders", "me@here", "it is gone");
    scene.orders.fates.next(Call::Absent, Fate::Wait);
    let second = async {
        let fates = &scene.orders.fates;
        eventually("the first is there", || fates.are_met()).await;
        let second = lost.within(&other, true).await;
        fates.go();
        second
    };
    let (first, second) = tokio::join!(lost.within(&scene.tool, true), second);
    assert!(second.unwrap().acted);
    assert!(scene.world.log.is_completed(scene.gtrid));
    let refused = first.unwrap_err();
    assert!(refused.contains("no decision of"), "{refused}");
    let hands = scene.owner.by_hand().await.unwrap();
    assert_eq!(hands.len(), 1, "{hands:?}");
}

/// Two resources on one server both list a branch whose resource is registered no more.
#[tokio::test(start_paused = true)]
async fn a_branch_that_two_resources_list_is_ended_once() {
    for only in [None, Some("books")] {
        let world = World::new();
        let ledger = world.ledger.server();
        let books = ledger.resource("books");
        let builder = world.builder().resource(&world.ledger).resource(&books);
        let tm = builder.start().await.unwrap();
        let mut gtrid = tm.begin().gtrid();
        gtrid.opening.nonce ^= 1;
        let bqual = "elsewhere".parse().unwrap();
        let xid = unanimous::Xid { gtrid, bqual };
        ledger.plant(&xid, &[("k", "1")]);
        let mut asked = Resolve::new(gtrid.to_string(), true, "me@here", "because");
        asked.its_log_is_lost = true;
        asked.resource = only.map(str::to_owned);
        let resolved = asked.within(&tm, true).await.unwrap();
        assert_eq!(resolved.branches.len(), 1, "{resolved:?}");
        assert!(resolved.is_done(), "{resolved:?}");
        assert_eq!(ledger.row("k").as_deref(), Some("1"));
    }
}
