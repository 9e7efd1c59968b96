//! The table log: its opening, and what is asked of it.

use std::sync::Arc;

use unanimous::log::TableLog;
use unanimous::ports::{
    BranchRecord, DecisionLog, DecisionRecord, Evidence, LogHome, Lookup, RowState, ServerIdentity,
};
use unanimous::{Gtrid, Heuristic};
use unanimous_testing::MemoryTable;

use super::{TICK, by_hand, completed_after, polled};

/// Runs `one` with 0, 1, 2, … polls, each with a table of its own, until it says that the future
/// was completed.
async fn at_every_poll(polls_min: usize, one: impl AsyncFn(&MemoryTable, usize) -> bool) {
    for polls in 0..super::POLLS_MAX {
        let table = MemoryTable::new("log");
        table.set_delay(TICK);
        if one(&table, polls).await {
            completed_after(polls, polls_min);
            return;
        }
    }
    panic!("never completed");
}

fn home(table: &MemoryTable) -> Box<TableLog> {
    Box::new(TableLog::on(table).label("a member"))
}

async fn open(table: &MemoryTable) -> Arc<dyn DecisionLog> {
    home(table).open().await.unwrap()
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

#[tokio::test(start_paused = true)]
async fn i7_opening_a_table_log() {
    at_every_poll(4, async |table, polls| {
        let opened = polled(polls, home(table).open()).await;
        let is_done = opened.is_some();
        drop(opened);
        let log = open(table).await;
        log.decide(&decision(log.opening().gtrid(1))).await.unwrap();
        log.shutdown().await.unwrap();
        is_done
    })
    .await;
}

/// Polled once, it is on its way; asked again, it answers. Never polled, it is nowhere.
#[tokio::test(start_paused = true)]
async fn i7_deciding_in_a_table_log() {
    at_every_poll(2, async |table, polls| {
        let log = open(table).await;
        let record = decision(log.opening().gtrid(1));
        let decided = polled(polls, log.decide(&record)).await;
        let is_done = decided.is_some();
        assert!(decided.is_none_or(|decided| decided.is_ok()));
        if polls % 2 == 1 {
            log.decide(&record).await.unwrap();
        }
        let other = open(table).await;
        other.close(record.gtrid.opening.epoch).await.unwrap();
        let found = other.lookup(record.gtrid).await.unwrap();
        let expected = if polls == 0 {
            Lookup::NoRecord
        } else {
            Lookup::Pending(record)
        };
        assert_eq!(found, expected, "{polls} polls");
        is_done
    })
    .await;
}

/// Nothing was committed: asked again, it is refused for good.
#[tokio::test(start_paused = true)]
async fn i7_settling_a_last_resource_in_a_table_log() {
    at_every_poll(2, async |table, polls| {
        let log = open(table).await;
        let record = decision(log.opening().gtrid(1));
        let settled = polled(polls, log.settle_last(&record)).await;
        let is_done = settled.is_some();
        assert!(settled.is_none_or(|settled| settled.is_err()));
        log.settle_last(&record).await.unwrap_err();
        let found = open(table).await.lookup(record.gtrid).await.unwrap();
        assert_eq!(found, Lookup::NoRecord, "{polls} polls");
        is_done
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i7_a_heuristic_in_a_table_log() {
    at_every_poll(2, async |table, polls| {
        let log = open(table).await;
        let gtrid = log.opening().gtrid(1);
        log.decide(&decision(gtrid)).await.unwrap();
        let orders = "orders".parse().unwrap();
        let recording = log.record_heuristic(gtrid, &orders, Heuristic::Rollback);
        let is_done = polled(polls, recording).await.is_some();
        let recording = log.record_heuristic(gtrid, &orders, Heuristic::Rollback);
        recording.await.unwrap();
        let found = log.lookup(gtrid).await.unwrap();
        let expected = Lookup::Heuristic {
            ends: vec![(orders, Heuristic::Rollback)],
            beside: Box::new(Lookup::Pending(decision(gtrid))),
        };
        assert_eq!(found, expected, "{polls} polls");
        is_done
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i7_a_record_by_hand_in_a_table_log() {
    at_every_poll(2, async |table, polls| {
        let log = open(table).await;
        let record = by_hand(log.opening());
        let is_done = polled(polls, log.record_by_hand(&record)).await.is_some();
        log.record_by_hand(&record).await.unwrap();
        assert_eq!(log.by_hand().await.unwrap(), [record], "{polls} polls");
        is_done
    })
    .await;
}

/// Whoever gives up takes nothing back: it is marked sooner or later, and forced again it is there.
#[tokio::test(start_paused = true)]
async fn i7_forcing_a_table_log() {
    at_every_poll(2, async |table, polls| {
        let log = open(table).await;
        let record = decision(log.opening().gtrid(1));
        log.decide(&record).await.unwrap();
        log.complete(record.gtrid);
        let forced = polled(polls, log.force()).await;
        let is_done = forced.is_some();
        assert!(forced.is_none_or(|forced| forced.is_ok()));
        log.force().await.unwrap();
        table.crash();
        assert_eq!(table.row(record.gtrid), Some(RowState::Completed));
        is_done
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i7_closing_an_epoch_of_a_table_log() {
    at_every_poll(2, async |table, polls| {
        let log = open(table).await;
        let opening = log.opening();
        let other = open(table).await;
        let is_done = polled(polls, other.close(opening.epoch)).await.is_some();
        other.close(opening.epoch).await.unwrap();
        let decided = log.decide(&decision(opening.gtrid(1))).await;
        assert!(decided.is_err(), "{polls} polls: {decided:?}");
        is_done
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i7_questions_to_a_table_log() {
    at_every_poll(2, async |table, polls| {
        let log = open(table).await;
        let gtrid = log.opening().gtrid(1);
        log.decide(&decision(gtrid)).await.unwrap();
        let answered = [
            polled(polls, log.lookup(gtrid)).await.is_some(),
            polled(polls, log.lookup_all(&[gtrid])).await.is_some(),
            polled(polls, log.pending()).await.is_some(),
            polled(polls, log.openings()).await.is_some(),
            polled(polls, log.members()).await.is_some(),
            polled(polls, log.snapshot()).await.is_some(),
            polled(polls, log.heuristics()).await.is_some(),
            polled(polls, log.by_hand()).await.is_some(),
            polled(polls, log.hands()).await.is_some(),
            polled(polls, log.decided_at(&[gtrid])).await.is_some(),
        ];
        assert_eq!(log.pending().await.unwrap().len(), 1);
        log.shutdown().await.unwrap();
        answered == [true; 10]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i7_shutting_a_table_log_down() {
    at_every_poll(2, async |table, polls| {
        let log = open(table).await;
        let gtrid = log.opening().gtrid(1);
        log.decide(&decision(gtrid)).await.unwrap();
        let is_done = polled(polls, log.shutdown()).await.is_some();
        if polls % 2 == 1 {
            log.shutdown().await.unwrap();
        }
        let other = open(table).await;
        other.close(gtrid.opening.epoch).await.unwrap();
        let found = other.lookup(gtrid).await.unwrap();
        assert_eq!(found, Lookup::Pending(decision(gtrid)), "{polls} polls");
        is_done
    })
    .await;
}
