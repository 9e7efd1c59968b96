//! A resource that lies. Every lie below, and every two of them one after the other, is told once
//! or again and again for a while, to a manager that commits, rolls back, or is refused by the
//! other branch. Whatever is said: both rows or none, `Ok` only with both, nothing left prepared,
//! and no hang.
//!
//! # Lies that no manager could bear
//!
//! * *Prepared*, and it is not; *read-only*, and what it had written is gone; *committed in one
//!   phase*, and it is not; *committed*, and it was rolled back. The vote and the acknowledgement
//!   are all that a manager has. The first is found out if the server can tell what became of the
//!   branch, and reported as a heuristic:
//!   [`a_vote_without_a_prepare_is_reported_if_it_can_be`]. The others cannot be found out.
//! * *Rolled back alone* in answer to a commit, and it was not: reported as a heuristic, which it
//!   is not; the branch itself is committed:
//!   [`a_false_alarm_is_reported_and_the_branch_is_committed`].
//! * *Committed*, *read-only* or *gone as decided*, and it is prepared: borne as long as the log
//!   remembers the decision, which is some time after it was completed. For all other lies the log
//!   forgets at once what is completed.

use std::collections::HashSet;
use std::time::Duration;

use unanimous::{CommitError, Committed, Gtrid, TransactionManager, TransactionOutcome};
use unanimous_testing::{Event, Fault, Flavour, MemoryResource, MemoryServer, Step};

use super::World;
use super::liar::{Liar, Lie};

/// What can be lied about so that a manager can bear it.
const LIES: [(Step, &[Lie]); 6] = [
    (
        Step::Prepare,
        &[
            Lie::RolledBackAlone,
            Lie::ReadOnly,
            Lie::Nonsense,
            Lie::Slowly,
            Lie::Late,
        ],
    ),
    (Step::Commit, ENDS),
    (Step::Rollback, ENDS),
    (Step::Finish, ENDS),
    (
        Step::Recover,
        &[
            Lie::Twice,
            Lie::Omits,
            Lie::Invents,
            Lie::Closes,
            Lie::OtherServer,
            Lie::Slowly,
            Lie::Late,
        ],
    ),
    (
        Step::Absent,
        &[Lie::DoneWithout, Lie::Closes, Lie::Slowly, Lie::Late],
    ),
];

const ENDS: &[Lie] = &[
    Lie::Unknown,
    Lie::DoneAndUnknown,
    Lie::DoneWithout,
    Lie::Nonsense,
    Lie::Slowly,
    Lie::Late,
];

/// What the application does, and what the honest branch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    Commits,
    RollsBack,
    IsRefusedByTheOther,
}

/// A liar at the orders, an honest ledger, and a manager.
struct Court {
    world: World,
    liar: Liar,
    tm: TransactionManager,
}

impl Court {
    async fn new(flavour: Flavour) -> Self {
        let mut world = World::new();
        let server = MemoryServer::with("orders", flavour, world.journal.clone());
        world.orders = server.resource("orders");
        let liar = Liar::new(&world.orders);
        let builder = world.builder().resource(&liar).resource(&world.ledger);
        let tm = builder.start().await.unwrap();
        Self { world, liar, tm }
    }

    /// Nothing is prepared or waits at either server any more, whatever was said.
    async fn settle(&self) {
        for _ in 0..2000 {
            let servers = [&self.world.orders, &self.world.ledger].map(MemoryResource::server);
            let is_quiet = |server: &&MemoryServer| {
                server.prepared().is_empty() && server.open_sessions() == 0
            };
            if servers.iter().all(is_quiet) && self.tm.recover().await.is_clean() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("something is left: {}", self.tm.recover().await);
    }

    async fn judge(
        &self,
        gtrid: Gtrid,
        ended: Option<Result<Committed, CommitError>>,
        story: Story,
        forgets: bool,
        case: &str,
    ) {
        let rows = self.world.rows();
        assert_eq!(rows.0, rows.1, "split: {case}");
        let is_committed = rows.0.is_some();
        match ended {
            Some(Ok(_)) => assert!(is_committed, "acknowledged: {case}"),
            None | Some(Err(CommitError::RolledBack { .. })) => assert!(!is_committed, "{case}"),
            Some(Err(CommitError::Undetermined { .. })) => {}
            Some(Err(error)) => panic!("{error}: {case}"),
        }
        if story != Story::Commits {
            assert!(!is_committed, "{case}");
        }
        let expected = if is_committed {
            TransactionOutcome::Committed
        } else {
            TransactionOutcome::RolledBack
        };
        let outcome = self.tm.outcome(gtrid).await.unwrap();
        let is_forgotten = forgets && outcome == TransactionOutcome::Unknown;
        assert!(is_forgotten || outcome == expected, "{outcome:?}: {case}");
    }
}

/// It is found out only when the branch is listed, and the decision has to be known then.
fn needs_a_memory(lie: &(Step, Lie)) -> bool {
    match lie.1 {
        Lie::DoneWithout => lie.0 != Step::Rollback,
        Lie::ReadOnly => true,
        Lie::Unknown
        | Lie::DoneAndUnknown
        | Lie::RolledBackAlone
        | Lie::PreparedWithout
        | Lie::Nonsense
        | Lie::Slowly
        | Lie::Late
        | Lie::Twice
        | Lie::Omits
        | Lie::Invents
        | Lie::Closes
        | Lie::OtherServer => false,
    }
}

/// Whether all of the lies were asked for.
async fn hear(lies: &[(Step, Lie)], times: usize, story: Story, flavour: Flavour) -> bool {
    let case = format!("{lies:?} × {times}, {story:?}, {flavour:?}");
    let court = Court::new(flavour).await;
    let Court { world, liar, tm } = &court;
    for (step, lie) in lies {
        liar.plan.tell(*step, *lie, times);
    }
    let mut tx = tm.begin();
    let gtrid = tx.gtrid();
    let (orders, ledger) = tx.enlist((liar, &world.ledger)).await.unwrap();
    orders.inner.put("k", "v").unwrap();
    ledger.put("k", "v").unwrap();
    if story == Story::IsRefusedByTheOther {
        let server = world.ledger.server();
        server.fail_next(Step::Prepare, Fault::CONFLICT);
    }
    let ended = match story {
        Story::RollsBack => {
            tx.rollback().await;
            None
        }
        Story::Commits | Story::IsRefusedByTheOther => Some(tx.commit().await),
    };
    let forgets = !lies.iter().any(needs_a_memory);
    // Lies about what is not asked any more would wait for ever.
    for _ in 0..200 {
        if liar.plan.is_told() {
            break;
        }
        if forgets {
            world.log.forget_completed();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let is_told = liar.plan.is_told();
    liar.plan.stop();
    if forgets {
        world.log.forget_completed();
    }
    court.settle().await;
    court.judge(gtrid, ended, story, forgets, &case).await;
    tm.shutdown().await.unwrap();
    is_told
}

fn all_lies() -> Vec<(Step, Lie)> {
    let of = |(step, lies): (Step, &'static [Lie])| lies.iter().map(move |lie| (step, *lie));
    LIES.into_iter().flat_map(of).collect()
}

const STORIES: [Story; 3] = [Story::Commits, Story::RollsBack, Story::IsRefusedByTheOther];
const FLAVOURS: [Flavour; 3] = [Flavour::Postgres, Flavour::Mysql, Flavour::Mariadb];

#[tokio::test(start_paused = true)]
async fn i3_no_lie_splits_a_transaction() {
    for lie in all_lies() {
        for story in STORIES {
            for flavour in FLAVOURS {
                for times in [1, 3] {
                    hear(&[lie], times, story, flavour).await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i3_no_two_lies_split_a_transaction() {
    let lies = all_lies();
    let pairs = lies
        .iter()
        .flat_map(|one| lies.iter().map(move |two| [*one, *two]));
    let (mut cases, mut told) = (0, HashSet::new());
    for (number, pair) in pairs.enumerate() {
        let other = STORIES[1 + number % 2];
        for story in [Story::Commits, other] {
            cases += 1;
            if hear(&pair, 1 + number % 2, story, FLAVOURS[cases % 3]).await {
                told.extend(pair);
            }
        }
    }
    println!("{cases} cases of two lies");
    assert_eq!(told, lies.into_iter().collect(), "each lie was told");
}

/// Who has committed on the word of the liar.
async fn commit_on_his_word(step: Step, lie: Lie, flavour: Flavour) -> (Court, Gtrid) {
    let court = Court::new(flavour).await;
    court.liar.plan.tell(step, lie, 1);
    let mut tx = court.tm.begin();
    let gtrid = tx.gtrid();
    let (orders, ledger) = tx.enlist((&court.liar, &court.world.ledger)).await.unwrap();
    orders.inner.put("k", "v").unwrap();
    ledger.put("k", "v").unwrap();
    // What it answers is told by the outcome, too.
    let _ = tx.commit().await;
    court.settle().await;
    (court, gtrid)
}

#[tokio::test(start_paused = true)]
async fn a_vote_without_a_prepare_is_reported_if_it_can_be() {
    for flavour in FLAVOURS {
        let (court, gtrid) = commit_on_his_word(Step::Prepare, Lie::PreparedWithout, flavour).await;
        assert_eq!(court.world.rows(), (None, Some("v".to_owned())));
        let outcome = court.tm.outcome(gtrid).await.unwrap();
        let is_reported = matches!(outcome, TransactionOutcome::Heuristic(_));
        assert_eq!(is_reported, flavour == Flavour::Postgres, "{outcome:?}");
        court.tm.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_false_alarm_is_reported_and_the_branch_is_committed() {
    for flavour in FLAVOURS {
        let (court, gtrid) = commit_on_his_word(Step::Commit, Lie::RolledBackAlone, flavour).await;
        assert_eq!(court.world.rows(), World::both("v"));
        let outcome = court.tm.outcome(gtrid).await.unwrap();
        assert!(
            matches!(outcome, TransactionOutcome::Heuristic(_)),
            "{outcome:?}"
        );
        court.tm.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_is_listed_twice_is_ended_once() {
    let court = Court::new(Flavour::Postgres).await;
    court.liar.plan.tell(Step::Recover, Lie::Twice, 1000);
    let gtrid = court.tm.begin().gtrid();
    let bqual = "orders".parse().unwrap();
    let orphan = unanimous::Xid { gtrid, bqual };
    court.world.orders.server().plant(&orphan, &[("k", "v")]);
    court.settle().await;
    let is_finish = |event: &Event| {
        let asked = |xid: &Option<unanimous::Xid>| xid.as_ref() == Some(&orphan);
        matches!(event, Event::Asked { step: Step::Finish, xid, .. } if asked(xid))
    };
    assert_eq!(court.world.journal.count(is_finish), 1);
    assert_eq!(court.world.rows(), (None, None));
    court.tm.shutdown().await.unwrap();
}
