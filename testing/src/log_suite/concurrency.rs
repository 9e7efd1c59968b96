//! Many deciders at a time, closes among them, futures given up.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;
use unanimous_core::ports::{DecideError, DecisionRecord, Lookup, Refusal};

use super::{Place, assert_refused, decide, lookup, nth, open, pending, reopen};

const DECIDERS: u64 = 64;

/// All are recorded, at positions of their own, and are there after a crash.
pub async fn sixty_four_deciders_are_all_recorded<P: Place>(place: &P) {
    let log = open(place).await;
    let opening = log.opening();
    let mut running = JoinSet::new();
    for sequence in 0..DECIDERS {
        let log = log.clone();
        running.spawn(async move { log.decide(&nth(opening, sequence)).await });
    }
    let decided = running.join_all().await.into_iter();
    let positions: BTreeSet<_> = decided
        .map(|answer| answer.expect("a decision of an open epoch is recorded"))
        .collect();
    assert_eq!(positions.len() as u64, DECIDERS, "positions are distinct");
    let all: Vec<_> = (0..DECIDERS)
        .map(|sequence| nth(opening, sequence))
        .collect();
    assert_eq!(pending(&log).await, all);
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, all);
}

/// Contract 3: whoever was answered `Ok` is recorded, whoever was refused is not, and both stay so.
pub async fn a_close_among_deciders_leaves_both_answers_final<P: Place>(place: &P) {
    let log = open(place).await;
    let opening = log.opening();
    let mut deciders = JoinSet::new();
    for sequence in 0..DECIDERS {
        let log = log.clone();
        deciders.spawn(async move {
            let record = nth(opening, sequence);
            for _ in 0..sequence % 8 {
                tokio::task::yield_now().await;
            }
            let answer = log.decide(&record).await;
            (record, answer)
        });
    }
    tokio::task::yield_now().await;
    log.close(opening.epoch).await.expect("it can be closed");
    let at_close = pending(&log).await;
    let mut recorded: Vec<DecisionRecord> = Vec::new();
    let mut refused: Vec<DecisionRecord> = Vec::new();
    for (record, answer) in deciders.join_all().await {
        match answer {
            Ok(_) => recorded.push(record),
            Err(DecideError::Refused(Refusal::EpochClosed)) => refused.push(record),
            other => panic!("expected recorded or closed, got {other:?}"),
        }
    }
    recorded.sort_by_key(|record| record.gtrid);
    assert_eq!(at_close, recorded, "nothing is recorded after the close");
    for record in &refused {
        assert_refused(&log, record).await;
        assert_eq!(lookup(&log, record.gtrid).await, Lookup::NoRecord);
    }
    let log = reopen(place, log).await;
    for record in &recorded {
        decide(&log, record).await;
    }
    for record in &refused {
        assert_refused(&log, record).await;
    }
    assert_eq!(pending(&log).await, recorded);
}

/// Dropping the future leaves it uncertain; repeating the same `decide` tells (I7).
pub async fn a_decide_that_is_given_up_is_resolved_by_repeating_it<P: Place>(place: &P) {
    let log = open(place).await;
    let opening = log.opening();
    let all: Vec<_> = (0..16).map(|sequence| nth(opening, sequence)).collect();
    for record in &all {
        // Polled once at most: sent, perhaps, and given up.
        let _ = tokio::time::timeout(Duration::ZERO, log.decide(record)).await;
    }
    for record in &all {
        decide(&log, record).await;
    }
    assert_eq!(pending(&log).await, all);
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, all);
}
