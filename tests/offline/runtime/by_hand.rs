//! A person ends a branch by hand and the tool dies at any step between its record and its end, or
//! hears nothing: what recovery says of it afterwards.

use std::sync::Arc;
use std::time::Duration;

use unanimous::operator::{Resolve, Resolved};
use unanimous::ports::{
    BranchErrorKind, BranchRecord, ByHand, DecisionLog, DecisionRecord, Evidence, HandState,
    LogHome, ResourceManager, ServerIdentity,
};
use unanimous::{Decision, Gtrid, Heuristic, TransactionManager, TransactionOutcome, Xid};
use unanimous_testing::{Fault, Flavour, Journal, MemoryLog, MemoryServer, Step, drop_after_ticks};

use super::fragile::{Call, Fate, Fates, FragileLog, FragileResource};
use super::{World, eventually};

/// A log that members share: the owner of both branches is dead, and the tool is another member.
pub(super) struct Scene {
    pub(super) world: World,
    pub(super) orders: FragileResource,
    pub(super) log: Fates,
    pub(super) owner: Arc<dyn DecisionLog>,
    pub(super) gtrid: Gtrid,
    pub(super) tool: TransactionManager,
    pub(super) wanted: Decision,
}

impl Scene {
    /// The branches are prepared. What is asked for is against the decision, or against what is
    /// presumed without one.
    pub(super) async fn new(flavour: Flavour, is_decided: bool) -> Self {
        let journal = Journal::new();
        let at = |name: &str| MemoryServer::with(name, flavour, journal.clone()).resource(name);
        let log = MemoryLog::shared();
        let world = World {
            orders: at("orders"),
            ledger: at("ledger"),
            log: log.clone(),
            journal: journal.clone(),
        };
        let owner = Box::new(log).open().await.unwrap();
        let (orders, log) = (FragileResource::new(&world.orders), Fates::default());
        let home = FragileLog {
            inner: world.log.clone(),
            fates: log.clone(),
        };
        let builder = world.builder().log(home).config(|config| {
            config.recovery_interval = Duration::from_secs(3600);
            config.recovery_interval_max = Duration::from_secs(3600);
        });
        let builder = builder.resource(&orders).resource(&world.ledger);
        let tool = builder.start().await.unwrap();
        // Its first passes find nothing; the next ones are far away.
        tokio::time::sleep(TICK).await;
        let gtrid = Gtrid {
            opening: owner.opening(),
            sequence: tool.begin().gtrid().sequence,
        };
        let scene = Self {
            world,
            orders,
            log,
            owner,
            gtrid,
            tool,
            wanted: if is_decided {
                Decision::Rollback
            } else {
                Decision::Commit
            },
        };
        scene.prepare(is_decided).await;
        scene
    }

    async fn prepare(&self, is_decided: bool) {
        let at = [&self.world.orders, &self.world.ledger];
        let branches = at.map(|resource| BranchRecord {
            resource: resource.name().clone(),
            identity: ServerIdentity::new(resource.name().as_str()).unwrap(),
            evidence: Evidence::new("").unwrap(),
        });
        if is_decided {
            let (gtrid, branches) = (self.gtrid, branches.to_vec());
            let decision = DecisionRecord { gtrid, branches };
            self.owner.decide(&decision).await.unwrap();
        }
        for resource in at {
            let xid = self.xid(resource.name().as_str());
            resource.server().plant(&xid, &[("k", "1")]);
        }
    }

    /// After its owner's epoch was closed: now it may be ended.
    pub(super) async fn closed(flavour: Flavour, is_decided: bool) -> Self {
        let scene = Self::new(flavour, is_decided).await;
        let epoch = scene.gtrid.opening.epoch;
        scene.owner.close(epoch).await.unwrap();
        scene
    }

    pub(super) fn xid(&self, resource: &str) -> Xid {
        Xid {
            gtrid: self.gtrid,
            bqual: resource.parse().unwrap(),
        }
    }

    pub(super) fn is_prepared(&self) -> bool {
        let prepared = self.world.orders.server().prepared();
        prepared.contains(&self.xid("orders"))
    }

    /// A person's command, with every word that may be asked for.
    pub(super) async fn resolve(&self, wanted: Decision) -> Resolved {
        let is_commit = wanted == Decision::Commit;
        let mut asked = Resolve::new(self.gtrid.to_string(), is_commit, "me@here", "because");
        asked.resource = Some("orders".to_owned());
        asked.against_the_decision = true;
        asked.its_log_is_lost = true;
        asked.within(&self.tool, true).await.unwrap()
    }

    /// The same, and the tool dies in this call.
    pub(super) async fn dies_at(&self, call: Call, at: At) {
        let fates = match at {
            At::Log => &self.log,
            At::Orders => &self.orders.fates,
        };
        fates.next(call, Fate::Hang);
        tokio::select! {
            biased;
            () = eventually("the tool is there", || fates.are_met()) => {}
            resolved = self.resolve(self.wanted) => panic!("it lives: {resolved:?}"),
        }
        self.log.die();
        self.orders.fates.die();
    }

    /// The tool is gone. Another member, which lives, looks after everything by itself.
    pub(super) async fn recovered(self) -> Told {
        let epoch = self.tool.begin().gtrid().opening.epoch;
        drop(self.tool);
        let tm = self.world.start().await;
        self.owner.close(epoch).await.unwrap();
        self.world.settle().await;
        let is_decided = self.wanted == Decision::Rollback;
        let log = &self.world.log;
        eventually("its decision is complete", || {
            log.is_completed(self.gtrid) == is_decided
        })
        .await;
        let hands = settled(&*self.owner).await;
        let outcome = tm.outcome(self.gtrid).await.unwrap();
        let ends = if let TransactionOutcome::Heuristic(ends) = outcome {
            ends
        } else {
            let expected = match self.wanted {
                Decision::Rollback => TransactionOutcome::Committed,
                // Without a record: long completed, or rolled back.
                Decision::Commit => TransactionOutcome::Unknown,
            };
            assert_eq!(outcome, expected);
            Vec::new()
        };
        let ledger = is_decided.then(|| "1".to_owned());
        assert_eq!(
            self.world.ledger.server().row("k"),
            ledger,
            "goes on as decided"
        );
        Told {
            is_committed: self.world.orders.server().row("k").is_some(),
            end: ends.first().map(|(name, end)| {
                assert_eq!((name.as_str(), ends.len()), ("orders", 1));
                *end
            }),
            hands,
        }
    }
}

/// The states of all records, once none is open but what nobody can prove.
pub(super) async fn settled(log: &dyn DecisionLog) -> Vec<HandState> {
    let mut states = Vec::new();
    for _ in 0..2000 {
        let hands = log.by_hand().await.unwrap();
        states = hands.iter().map(|hand: &ByHand| hand.state).collect();
        if !states.contains(&HandState::Intended) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    states
}

/// Of whom a call is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    Log,
    Orders,
}

/// How the branch ended, and what is on record of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    is_committed: bool,
    end: Option<Heuristic>,
    hands: Vec<HandState>,
}

const TICK: Duration = Duration::from_millis(1);

pub(super) const FLAVOURS: [Flavour; 3] = [Flavour::Postgres, Flavour::Mysql, Flavour::Mariadb];

/// Every flavour, against a decision and against none.
fn scenes() -> impl Iterator<Item = (Flavour, bool)> {
    FLAVOURS
        .into_iter()
        .flat_map(|flavour| [(flavour, true), (flavour, false)])
}

/// As a server of this flavour can tell afterwards, of a branch that ended unheard.
fn unheard(flavour: Flavour, is_decided: bool) -> Told {
    let is_proven = is_decided && flavour == Flavour::Postgres;
    let (end, state) = if is_proven {
        (Heuristic::Rollback, HandState::Done)
    } else {
        (Heuristic::Hazard, HandState::Unproven)
    };
    Told {
        is_committed: !is_decided,
        end: Some(end),
        hands: vec![state],
    }
}

pub(super) fn done(is_decided: bool) -> Told {
    let end = if is_decided {
        Heuristic::Rollback
    } else {
        Heuristic::Commit
    };
    Told {
        is_committed: !is_decided,
        end: Some(end),
        hands: vec![HandState::Done],
    }
}

/// It ended as was decided, or presumed.
fn not_done(is_decided: bool, hands: &[HandState]) -> Told {
    Told {
        is_committed: is_decided,
        end: None,
        hands: hands.to_vec(),
    }
}

#[tokio::test(start_paused = true)]
async fn i1_a_tool_that_dies_before_it_acts_has_changed_nothing() {
    for (flavour, is_decided) in scenes() {
        let scene = Scene::closed(flavour, is_decided).await;
        scene.dies_at(Call::RecordByHand, At::Log).await;
        assert!(scene.is_prepared(), "nothing is done before it is recorded");
        let told = scene.recovered().await;
        assert_eq!(told, not_done(is_decided, &[]), "{flavour:?}");

        for (call, at) in [(Call::ByHandAnswered, At::Log), (Call::Finish, At::Orders)] {
            let scene = Scene::closed(flavour, is_decided).await;
            scene.dies_at(call, at).await;
            assert!(scene.is_prepared());
            let told = scene.recovered().await;
            let expected = not_done(is_decided, &[HandState::Void]);
            assert_eq!(told, expected, "{flavour:?} {call:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i3_a_tool_that_dies_after_it_acted_leaves_a_hazard_if_nobody_can_prove_it() {
    for (flavour, is_decided) in scenes() {
        for (call, at) in [
            (Call::FinishAnswered, At::Orders),
            (Call::RecordHeuristic, At::Log),
        ] {
            let scene = Scene::closed(flavour, is_decided).await;
            scene.dies_at(call, at).await;
            assert!(!scene.is_prepared());
            let told = scene.recovered().await;
            assert_eq!(told, unheard(flavour, is_decided), "{flavour:?} {call:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i1_a_tool_that_dies_after_the_heuristic_end_is_recorded_has_done_it() {
    for (flavour, is_decided) in scenes() {
        let scene = Scene::closed(flavour, is_decided).await;
        scene.dies_at(Call::HeuristicAnswered, At::Log).await;
        let told = scene.recovered().await;
        assert_eq!(told, done(is_decided), "{flavour:?}");

        let scene = Scene::closed(flavour, is_decided).await;
        let resolved = scene.resolve(scene.wanted).await;
        assert!(resolved.is_done(), "{resolved:?}");
        let told = scene.recovered().await;
        assert_eq!(told, done(is_decided), "{flavour:?}, alive");
    }
}

#[tokio::test(start_paused = true)]
async fn i3_a_lost_answer_is_told_as_what_it_was() {
    for (flavour, is_decided) in scenes() {
        let scene = Scene::closed(flavour, is_decided).await;
        let orders = scene.world.orders.server();
        orders.fail_next(Step::Finish, Fault::LoseReply);
        let resolved = scene.resolve(scene.wanted).await;
        assert_eq!(resolved.branches[0].ended, Some(false), "{resolved:?}");
        let told = scene.recovered().await;
        assert_eq!(told, unheard(flavour, is_decided), "{flavour:?}");

        let scene = Scene::closed(flavour, is_decided).await;
        let orders = scene.world.orders.server();
        orders.fail_next(Step::Finish, Fault::LoseRequest);
        let resolved = scene.resolve(scene.wanted).await;
        let branch = &resolved.branches[0];
        assert_eq!(branch.ended, None, "it may come yet: {resolved:?}");
        assert!(branch.words.contains("may end it yet"), "{resolved:?}");
        assert!(scene.is_prepared());
        let told = scene.recovered().await;
        let expected = not_done(is_decided, &[HandState::Void]);
        assert_eq!(told, expected, "{flavour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn i1_what_was_not_done_is_void_and_nothing_is_done_without_a_record() {
    for (flavour, is_decided) in scenes() {
        let scene = Scene::closed(flavour, is_decided).await;
        let orders = scene.world.orders.server();
        orders.fail_next(Step::Finish, Fault::Refuse(BranchErrorKind::Failed));
        let resolved = scene.resolve(scene.wanted).await;
        assert_eq!(resolved.branches[0].ended, Some(false), "{resolved:?}");
        let hands = scene.owner.by_hand().await.unwrap();
        assert_eq!(hands[0].state, HandState::Void);
        let told = scene.recovered().await;
        let expected = not_done(is_decided, &[HandState::Void]);
        assert_eq!(told, expected, "{flavour:?}");

        let scene = Scene::closed(flavour, is_decided).await;
        scene.log.next(Call::RecordByHand, Fate::Fail);
        let resolved = scene.resolve(scene.wanted).await;
        assert!(!resolved.acted, "{resolved:?}");
        assert!(scene.is_prepared());
        let told = scene.recovered().await;
        assert_eq!(told, not_done(is_decided, &[]), "{flavour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn i1_what_the_log_has_not_taken_is_not_told_as_done() {
    for (flavour, is_decided) in scenes() {
        for call in [Call::RecordHeuristic, Call::RecordByHand] {
            let scene = Scene::closed(flavour, is_decided).await;
            scene.orders.fates.next(Call::FinishAnswered, Fate::Wait);
            let failing = async {
                eventually("it was told", || scene.orders.fates.are_met()).await;
                scene.log.next(call, Fate::Fail);
                scene.orders.fates.go();
            };
            let (resolved, ()) = tokio::join!(scene.resolve(scene.wanted), failing);
            assert!(resolved.acted && !resolved.is_done(), "{resolved:?}");
            let branch = &resolved.branches[0];
            assert_eq!((branch.ended, branch.unrecorded), (Some(true), true));
            assert!(branch.words.contains("NOT on record"), "{branch:?}");
        }
    }
}

/// I7: whoever asked goes away at every step, and what was begun comes to its end.
#[tokio::test(start_paused = true)]
async fn i7_what_a_person_does_goes_on_when_nobody_waits_for_it() {
    for polls in 0..1000 {
        let scene = Scene::closed(Flavour::Mysql, true).await;
        scene.world.orders.server().slow_down(TICK);
        scene.world.log.slow_down(TICK);
        let resolving = scene.resolve(scene.wanted);
        let resolved = drop_after_ticks(polls, TICK, resolving).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        if polls == 0 {
            assert!(scene.is_prepared());
            continue;
        }
        assert_eq!(scene.recovered().await, done(true), "after {polls} polls");
        if let Some(resolved) = resolved {
            assert!(resolved.is_done(), "{resolved:?}");
            assert!(polls > 10, "after {polls} polls already");
            return;
        }
    }
    panic!("it ends");
}

/// As was decided, and the server rolls back all the same: also where nobody could prove it later.
#[tokio::test(start_paused = true)]
async fn i1_a_commit_by_hand_that_the_server_rolls_back_is_a_heuristic() {
    for flavour in FLAVOURS {
        let scene = Scene::closed(flavour, true).await;
        scene
            .world
            .orders
            .server()
            .fail_next(Step::Finish, Fault::CONFLICT);
        let resolved = scene.resolve(Decision::Commit).await;
        assert_eq!(resolved.branches[0].ended, Some(false), "{resolved:?}");
        let told = scene.recovered().await;
        let expected = Told {
            hands: vec![HandState::Void],
            ..done(true)
        };
        assert_eq!(told, expected, "{flavour:?}");
    }
}

/// Whoever comes second is told so, and what the first did stays what it was.
#[tokio::test(start_paused = true)]
async fn i1_what_ended_between_the_look_and_the_act_is_nobodys_doing() {
    for (flavour, is_decided) in scenes() {
        let scene = Scene::closed(flavour, is_decided).await;
        // The first look is two scans.
        scene
            .orders
            .fates
            .next(Call::RecoverAnswered, Fate::InDoubt);
        scene.orders.fates.next(Call::RecoverAnswered, Fate::Wait);
        let ending = async {
            eventually("it was looked at", || scene.orders.fates.are_met()).await;
            let decided = if is_decided {
                Decision::Commit
            } else {
                Decision::Rollback
            };
            let orders = scene.world.orders.server();
            assert!(orders.end_by_hand(&scene.xid("orders"), decided));
            scene.orders.fates.go();
        };
        let (resolved, ()) = tokio::join!(scene.resolve(scene.wanted), ending);
        assert!(!resolved.acted, "{resolved:?}");
        let refusal = &resolved.refusals[0];
        assert!(refusal.contains("not prepared any more"), "{resolved:?}");
        let told = scene.recovered().await;
        assert_eq!(told, not_done(is_decided, &[]), "{flavour:?}");
    }
}

/// A completed decision whose branch has come back.
#[tokio::test(start_paused = true)]
async fn i3_what_came_back_after_its_decision_was_completed_is_a_hazard_too() {
    let scene = Scene::closed(Flavour::Mariadb, true).await;
    let ledger = scene.world.ledger.server();
    assert!(ledger.end_by_hand(&scene.xid("ledger"), Decision::Commit));
    scene.owner.complete(scene.gtrid);
    scene.dies_at(Call::FinishAnswered, At::Orders).await;
    let told = scene.recovered().await;
    assert_eq!(told, unheard(Flavour::Mariadb, true));
}

/// MariaDB forgets rollbacks in a crash. What was told of it stays told: see the guarantees.
#[tokio::test(start_paused = true)]
async fn a_rollback_by_hand_that_the_server_has_lost_goes_on_as_decided() {
    let scene = Scene::closed(Flavour::Mariadb, true).await;
    assert!(scene.resolve(scene.wanted).await.is_done());
    scene.world.orders.server().crash_losing_rollbacks();
    assert!(scene.is_prepared(), "it is back");
    let told = scene.recovered().await;
    let expected = Told {
        is_committed: true,
        ..done(true)
    };
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn i5_what_its_owner_may_still_decide_is_refused_with_every_word() {
    for (flavour, is_decided) in scenes() {
        let scene = Scene::new(flavour, is_decided).await;
        for wanted in [Decision::Commit, Decision::Rollback] {
            let resolved = scene.resolve(wanted).await;
            assert!(!resolved.acted, "{resolved:?}");
            assert!(resolved.refusals[0].contains("--close"), "{resolved:?}");
            assert_eq!(resolved.decided, is_decided.then_some(true));
        }
        // What its owner has decided is known, although its epoch is open.
        let survey = scene.tool.survey().await;
        let branches = survey.resources.iter().flat_map(|at| &at.branches);
        let known: Vec<_> = branches.map(|branch| branch.is_decided).collect();
        assert_eq!(known, [is_decided.then_some(true); 2]);
        assert!(scene.is_prepared());
        assert_eq!(scene.owner.by_hand().await.unwrap(), []);
        scene.owner.close(scene.gtrid.opening.epoch).await.unwrap();
        let told = scene.recovered().await;
        assert_eq!(told, not_done(is_decided, &[]), "{flavour:?}");
    }
}
