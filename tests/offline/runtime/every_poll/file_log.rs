//! The file log: its opening, what is asked of it, and a manager's start and shutdown over it. Real
//! time, for its writer is a thread.

use std::path::Path;
use std::sync::Arc;

use unanimous::log::{FileLog, OpenFileLog};
use unanimous::ports::{
    BranchRecord, DecisionLog, DecisionRecord, Evidence, Lookup, ServerIdentity,
};
use unanimous::{Gtrid, Heuristic, TransactionManager, TransactionOutcome};
use unanimous_testing::drop_after;

use super::{by_hand, completed_after, soon};
use crate::runtime::World;

/// Runs `one` with 0, 1, 2, … polls, each with a folder of its own, until it says that the future
/// was completed. How many that are is up to the writer's thread, which may be faster than a poll.
async fn at_every_poll(polls_min: usize, one: impl AsyncFn(&Path, usize) -> bool) {
    for polls in 0..super::POLLS_MAX {
        let folder = tempfile::tempdir().unwrap();
        if one(&folder.path().join("log"), polls).await {
            completed_after(polls, polls_min);
            return;
        }
    }
    panic!("never completed");
}

/// Whoever was dropped with the log open lets go of it in the background.
async fn open_again(folder: &Path) -> Arc<OpenFileLog> {
    soon("the next opening", async {
        loop {
            if let Ok(log) = FileLog::at(folder).open().await {
                return log;
            }
            tokio::time::sleep(super::TICK).await;
        }
    })
    .await
}

fn decision(gtrid: Gtrid) -> DecisionRecord {
    let branch = BranchRecord {
        resource: "orders".parse().unwrap(),
        identity: ServerIdentity::new("orders").unwrap(),
        evidence: Evidence::default(),
    };
    let branches = vec![branch];
    DecisionRecord { gtrid, branches }
}

#[tokio::test]
async fn i7_opening_a_file_log() {
    at_every_poll(1, async |folder, polls| {
        let opened = drop_after(polls, FileLog::at(folder).open()).await;
        let is_done = opened.is_some();
        drop(opened);
        // The opening that was given up comes first.
        tokio::time::sleep(50 * super::TICK).await;
        let log = open_again(folder).await;
        log.decide(&decision(log.opening().gtrid(1))).await.unwrap();
        log.shutdown().await.unwrap();
        is_done
    })
    .await;
}

/// Polled once, it is on its way; asked again, it answers. Never polled, it is nowhere.
#[tokio::test]
async fn i7_deciding_in_a_file_log() {
    at_every_poll(1, async |folder, polls| {
        let log = open_again(folder).await;
        let record = decision(log.opening().gtrid(1));
        let decided = drop_after(polls, log.decide(&record)).await;
        let is_done = decided.is_some();
        assert!(decided.is_none_or(|decided| decided.is_ok()));
        if polls % 2 == 1 {
            log.decide(&record).await.unwrap();
        }
        log.shutdown().await.unwrap();
        drop(log);
        let log = open_again(folder).await;
        let found = log.lookup(record.gtrid).await.unwrap();
        let expected = if polls == 0 {
            Lookup::NoRecord
        } else {
            Lookup::Pending(record)
        };
        assert_eq!(found, expected, "{polls} polls");
        log.shutdown().await.unwrap();
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_a_heuristic_in_a_file_log() {
    at_every_poll(1, async |folder, polls| {
        let log = open_again(folder).await;
        let gtrid = log.opening().gtrid(1);
        log.decide(&decision(gtrid)).await.unwrap();
        let orders = "orders".parse().unwrap();
        let recording = log.record_heuristic(gtrid, &orders, Heuristic::Rollback);
        let recorded = drop_after(polls, recording).await;
        let is_done = recorded.is_some();
        log.shutdown().await.unwrap();
        drop(log);
        let log = open_again(folder).await;
        let found = log.lookup(gtrid).await.unwrap();
        let is_heuristic = matches!(found, Lookup::Heuristic { .. });
        assert_eq!(is_heuristic, polls > 0, "{polls} polls: {found:?}");
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_a_record_by_hand_in_a_file_log() {
    at_every_poll(1, async |folder, polls| {
        let log = open_again(folder).await;
        let record = by_hand(log.opening());
        let is_done = drop_after(polls, log.record_by_hand(&record))
            .await
            .is_some();
        log.shutdown().await.unwrap();
        drop(log);
        let found = open_again(folder).await.by_hand().await.unwrap();
        assert_eq!(found.len(), usize::from(polls > 0), "{polls} polls");
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_forcing_a_file_log() {
    at_every_poll(1, async |folder, polls| {
        let log = open_again(folder).await;
        let gtrid = log.opening().gtrid(1);
        log.decide(&decision(gtrid)).await.unwrap();
        log.complete(gtrid);
        let forced = drop_after(polls, log.force()).await;
        let is_done = forced.is_some();
        log.force().await.unwrap();
        let contents = FileLog::at(folder).inspect().unwrap();
        assert_eq!(contents.pending, [], "it is on the disk");
        log.shutdown().await.unwrap();
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_closing_an_epoch_of_a_file_log() {
    at_every_poll(1, async |folder, polls| {
        let log = open_again(folder).await;
        let opening = log.opening();
        let closed = drop_after(polls, log.close(opening.epoch)).await;
        let is_done = closed.is_some();
        let decided = log.decide(&decision(opening.gtrid(1))).await;
        assert_eq!(decided.is_err(), polls > 0, "{polls} polls: {decided:?}");
        log.close(opening.epoch).await.unwrap();
        log.shutdown().await.unwrap();
        is_done
    })
    .await;
}

/// They are answered from memory, at the first poll.
#[tokio::test]
async fn i7_questions_to_a_file_log() {
    at_every_poll(1, async |folder, polls| {
        let log = open_again(folder).await;
        let gtrid = log.opening().gtrid(1);
        log.decide(&decision(gtrid)).await.unwrap();
        let answered = [
            drop_after(polls, log.lookup(gtrid)).await.is_some(),
            drop_after(polls, log.pending()).await.is_some(),
            drop_after(polls, log.openings()).await.is_some(),
            drop_after(polls, log.heuristics()).await.is_some(),
            drop_after(polls, log.by_hand()).await.is_some(),
            drop_after(polls, log.decided_at(&[gtrid])).await.is_some(),
        ];
        assert_eq!(log.pending().await.unwrap().len(), 1);
        log.shutdown().await.unwrap();
        answered == [true; 6]
    })
    .await;
}

#[tokio::test]
async fn i7_shutting_a_file_log_down() {
    at_every_poll(1, async |folder, polls| {
        let log = open_again(folder).await;
        let shutdown = drop_after(polls, log.shutdown()).await;
        let is_done = shutdown.is_some();
        if polls % 2 == 1 {
            log.shutdown().await.unwrap();
        }
        drop(log);
        // Nobody holds it now: no second attempt is needed.
        let log = FileLog::at(folder).open().await.unwrap();
        log.shutdown().await.unwrap();
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_start_and_shutdown_over_a_file_log() {
    for is_start in [true, false] {
        at_every_poll(2, async |folder, polls| {
            let world = World::new();
            let builder = || {
                let builder = TransactionManager::builder().log(FileLog::at(folder));
                builder.resource(&world.orders).resource(&world.ledger)
            };
            let is_done = if is_start {
                drop_after(polls, builder().start()).await.is_some()
            } else {
                let tm = builder().start().await.unwrap();
                drop_after(polls, tm.shutdown()).await.is_some()
            };
            let tm = soon("the next start", async {
                loop {
                    if let Ok(tm) = builder().start().await {
                        return tm;
                    }
                    tokio::time::sleep(super::TICK).await;
                }
            })
            .await;
            let committed = world.begin_with_both(&tm, "1").await.commit().await;
            let gtrid = committed.unwrap().gtrid();
            tm.shutdown().await.unwrap();
            drop(tm);
            world.settle().await;
            assert_eq!(world.rows(), World::both("1"));
            let tm = builder().start().await.unwrap();
            let outcome = tm.outcome(gtrid).await.unwrap();
            assert_eq!(outcome, TransactionOutcome::Committed);
            tm.shutdown().await.unwrap();
            is_done
        })
        .await;
    }
}
