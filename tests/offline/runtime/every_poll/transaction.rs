//! The futures of a transaction.

use std::sync::Mutex;

use unanimous::{BoxError, TransactionManager};
use unanimous_testing::{Fault, MemoryResource, Step};

use super::{at_every_poll, ended, polled, soon};
use crate::runtime::{World, write_both};

/// What the application does after a dropped `enlist`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Drop,
    EnlistAgain,
    Commit,
    RollBack,
}

const NEXT: [Next; 4] = [Next::Drop, Next::EnlistAgain, Next::Commit, Next::RollBack];

#[tokio::test(start_paused = true)]
async fn i7_enlist() {
    for next in NEXT {
        at_every_poll(8, async |world, polls| {
            let tm = world.start_slow().await;
            let mut tx = tm.begin();
            let gtrid = tx.gtrid();
            let enlisting = tx.enlist((&world.orders, &world.ledger));
            let enlisted = polled(polls, enlisting).await;
            let is_done = enlisted.is_some();
            if let Some(branches) = enlisted {
                write_both(branches.unwrap(), "1");
            }
            let mut expected = is_done;
            match next {
                Next::Drop => drop(tx),
                Next::EnlistAgain => {
                    world.write(&mut tx, "1").await;
                    expected = true;
                    tx.commit().await.unwrap();
                }
                Next::Commit => drop(tx.commit().await.unwrap()),
                Next::RollBack => tx.rollback().await,
            }
            let is_committed = world.is_committed_whole(&tm, gtrid).await;
            let commits = matches!(next, Next::EnlistAgain | Next::Commit);
            assert_eq!(is_committed, commits, "{next:?} after {polls} polls");
            if is_committed && expected {
                assert_eq!(world.rows(), World::both("1"), "{next:?}, {polls} polls");
            } else {
                assert_eq!(world.rows(), (None, None), "{next:?}, {polls} polls");
            }
            world.goes_on(tm).await;
            is_done
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn i7_enlist_read_only() {
    for next in NEXT {
        at_every_poll(8, async |world, polls| {
            let tm = world.start_slow().await;
            let mut tx = tm.begin();
            let gtrid = tx.gtrid();
            let both = (&world.orders, &world.ledger);
            let is_done = polled(polls, tx.enlist_read_only(both)).await.is_some();
            match next {
                Next::Drop => drop(tx),
                Next::EnlistAgain => {
                    let (orders, _) = tx.enlist_read_only(both).await.unwrap();
                    assert_eq!(orders.get("k").unwrap(), None);
                    tx.commit().await.unwrap();
                }
                Next::Commit => drop(tx.commit().await.unwrap()),
                Next::RollBack => tx.rollback().await,
            }
            let is_committed = world.is_committed_whole(&tm, gtrid).await;
            let commits = matches!(next, Next::EnlistAgain | Next::Commit);
            assert_eq!(is_committed, commits, "{next:?} after {polls} polls");
            world.goes_on(tm).await;
            is_done
        })
        .await;
    }
}

/// What a commit meets on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    TwoWriters,
    /// One of them reads only; the other commits in one phase.
    WriterAndReader,
    OnePhase,
    /// One branch votes to roll back.
    Refused,
    /// One branch's commit is not heard, so recovery commits it.
    HandedOver,
    /// The log asks for the same decision again.
    Uncertain,
}

impl Course {
    /// The least polls that it takes: one for every request, every reply and every point.
    const fn polls_min(self) -> usize {
        match self {
            Self::OnePhase => 6,
            Self::WriterAndReader | Self::Refused => 10,
            Self::TwoWriters | Self::HandedOver | Self::Uncertain => 15,
        }
    }

    fn plan(self, world: &World) {
        let ledger = world.ledger.server();
        match self {
            Self::TwoWriters | Self::WriterAndReader | Self::OnePhase => {}
            Self::Refused => ledger.fail_next(Step::Prepare, Fault::CONFLICT),
            Self::HandedOver => ledger.fail_next(Step::Commit, Fault::LoseRequest),
            Self::Uncertain => {
                let lost = unanimous_testing::DecideFault::LoseReply;
                world.log.fail_next_decide(lost);
            }
        }
    }

    async fn begin(self, world: &World, tm: &TransactionManager) -> unanimous::Transaction {
        let mut tx = tm.begin();
        match self {
            Self::OnePhase => tx.enlist(&world.orders).await.unwrap().put("k", "1"),
            Self::WriterAndReader => {
                let reader = tx.enlist_read_only(&world.ledger).await.unwrap();
                assert_eq!(reader.get("k").unwrap(), None);
                tx.enlist(&world.orders).await.unwrap().put("k", "1")
            }
            Self::TwoWriters | Self::Refused | Self::HandedOver | Self::Uncertain => {
                world.write(&mut tx, "1").await;
                Ok(())
            }
        }
        .unwrap();
        self.plan(world);
        tx
    }

    fn rows(self) -> (Option<String>, Option<String>) {
        match self {
            Self::OnePhase | Self::WriterAndReader => (Some("1".into()), None),
            Self::TwoWriters | Self::Refused | Self::HandedOver | Self::Uncertain => {
                World::both("1")
            }
        }
    }
}

const COURSES: [Course; 6] = [
    Course::TwoWriters,
    Course::WriterAndReader,
    Course::OnePhase,
    Course::Refused,
    Course::HandedOver,
    Course::Uncertain,
];

/// A commit that was never polled is a rollback; every other one goes on in the background.
#[tokio::test(start_paused = true)]
async fn i7_commit() {
    for course in COURSES {
        at_every_poll(course.polls_min(), async |world, polls| {
            let tm = world.start_slow().await;
            let tx = course.begin(&world, &tm).await;
            let gtrid = tx.gtrid();
            let answer = polled(polls, tx.commit()).await;
            let is_committed = world.is_committed_whole(&tm, gtrid).await;
            let goes_on = polls > 0 && course != Course::Refused;
            assert_eq!(is_committed, goes_on, "{course:?} after {polls} polls");
            if is_committed {
                assert_eq!(world.rows(), course.rows(), "{course:?}, {polls} polls");
            }
            if let Some(answer) = &answer {
                assert_eq!(answer.is_ok(), is_committed, "{course:?}: {answer:?}");
            }
            meet_planned_fault(&world, &tm).await;
            world.goes_on(tm).await;
            answer.is_some()
        })
        .await;
    }
}

/// A commit that was never polled has left its planned fault behind.
pub(super) async fn meet_planned_fault(world: &World, tm: &TransactionManager) {
    let tx = world.begin_with_both(tm, "planned").await;
    drop(tx.commit().await);
    world.settle().await;
}

#[tokio::test(start_paused = true)]
async fn i7_rollback() {
    for course in [
        Course::TwoWriters,
        Course::OnePhase,
        Course::WriterAndReader,
    ] {
        at_every_poll(4, async |world, polls| {
            let tm = world.start_slow().await;
            let tx = course.begin(&world, &tm).await;
            let gtrid = tx.gtrid();
            let is_done = polled(polls, tx.rollback()).await.is_some();
            assert!(!world.is_committed_whole(&tm, gtrid).await);
            world.goes_on(tm).await;
            is_done
        })
        .await;
    }
}

/// With a conflict in the first attempt: whichever attempt was dropped, at most one is committed.
#[tokio::test(start_paused = true)]
async fn i7_retry() {
    at_every_poll(40, async |world, polls| {
        let tm = world.start_slow().await;
        let prepare = Step::Prepare;
        world.ledger.server().fail_next(prepare, Fault::CONFLICT);
        let (attempts, world_ref) = (Mutex::new(Vec::new()), &world);
        let work = tm.retry(async |mut tx| {
            attempts.lock().unwrap().push(tx.gtrid());
            world_ref.write(&mut tx, "1").await;
            tx.commit().await?;
            Ok::<_, BoxError>(())
        });
        let answer = polled(polls, work).await;
        let attempts = attempts.into_inner().unwrap();
        let mut committed = 0;
        for gtrid in &attempts {
            let outcome = soon("the attempt", ended(&tm, *gtrid)).await;
            committed += usize::from(outcome == unanimous::TransactionOutcome::Committed);
        }
        world.settle().await;
        assert!(committed <= 1 && attempts.len() <= 2, "{polls} polls");
        if let Some(answer) = &answer {
            assert!(answer.is_ok() && committed == 1, "{answer:?}");
        }
        let rows = if committed == 1 {
            World::both("1")
        } else {
            (None, None)
        };
        assert_eq!(world.rows(), rows, "{polls} polls");
        meet_planned_fault(&world, &tm).await;
        drop(tm);
        world.opens_again().await;
        answer.is_some()
    })
    .await;
}

/// One resource alone takes fewer polls, and its type the same way.
#[tokio::test(start_paused = true)]
async fn i7_enlist_one_array_and_slice() {
    at_every_poll(6, async |world, polls| {
        let tm = world.start_slow().await;
        let mut tx = tm.begin();
        let one = polled(polls, tx.enlist(&world.orders)).await.is_some();
        drop(tx);
        let mut tx = tm.begin();
        let array = [&world.orders, &world.ledger];
        let of_array = polled(polls, tx.enlist(array)).await.is_some();
        drop(tx);
        let mut tx = tm.begin();
        let slice: &[&MemoryResource] = &array;
        let of_slice = polled(polls, tx.enlist(slice)).await.is_some();
        drop(tx);
        world.settle().await;
        world.goes_on(tm).await;
        one && of_array && of_slice
    })
    .await;
}
