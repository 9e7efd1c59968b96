//! What is recorded comes back, once and exactly.

use unanimous_core::ports::{DecisionRecord, Lookup};
use unanimous_core::protocol::Heuristic;

use super::{Place, branch, decide, lookup, nth, open, pending, reopen};

/// Contract 1: what `decide` has answered `Ok` to is there after a crash (I2).
pub async fn a_decision_survives_without_shutdown<P: Place>(place: &P) {
    let log = open(place).await;
    let first = nth(log.opening(), 1);
    decide(&log, &first).await;
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, vec![first.clone()]);
    let second = nth(log.opening(), 1);
    decide(&log, &second).await;
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, vec![first.clone(), second]);
    assert_eq!(
        lookup(&log, first.gtrid).await,
        Lookup::Pending(first),
        "an old decision is found by its gtrid"
    );
}

/// Every field of a record, at its limits, before and after reopening.
pub async fn a_decision_comes_back_exactly<P: Place>(place: &P) {
    let log = open(place).await;
    let longest = "n".repeat(64);
    let printable: String = (' '..='~').collect();
    let wide = "~".repeat(128);
    let branches = vec![
        branch("a", "", ""),
        branch(&longest, &printable, &wide),
        branch("B-2_c", &wide, &printable),
    ];
    let records = vec![
        DecisionRecord {
            gtrid: log.opening().gtrid(0),
            branches: branches.clone(),
        },
        DecisionRecord {
            gtrid: log.opening().gtrid(1),
            branches: vec![branches[2].clone()],
        },
        DecisionRecord {
            gtrid: log.opening().gtrid(u64::MAX),
            branches: (0..50)
                .map(|n| branch(&format!("{}{n}", "r".repeat(60)), &wide, &wide))
                .collect(),
        },
    ];
    for record in &records {
        decide(&log, record).await;
    }
    assert_eq!(pending(&log).await, records);
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, records);
    for record in records {
        let found = lookup(&log, record.gtrid).await;
        assert_eq!(found, Lookup::Pending(record));
    }
}

/// Contract 2: `decide` is idempotent.
pub async fn deciding_again_is_recorded_once<P: Place>(place: &P) {
    let log = open(place).await;
    let record = nth(log.opening(), 1);
    for _ in 0..3 {
        decide(&log, &record).await;
    }
    assert_eq!(pending(&log).await, vec![record.clone()]);
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, vec![record.clone()]);
    decide(&log, &record).await;
    assert_eq!(pending(&log).await, vec![record]);
}

/// A completed decision is not pending, and its outcome can still be asked for.
pub async fn completing_ends_a_decision<P: Place>(place: &P) {
    let log = open(place).await;
    let (done, left) = (nth(log.opening(), 1), nth(log.opening(), 2));
    decide(&log, &done).await;
    decide(&log, &left).await;
    log.complete(done.gtrid);
    log.complete(done.gtrid);
    assert_eq!(pending(&log).await, vec![left.clone()]);
    assert_eq!(lookup(&log, done.gtrid).await, Lookup::Completed);
    assert_eq!(lookup(&log, left.gtrid).await, Lookup::Pending(left));
}

/// A completion without a decision is no record.
pub async fn completing_what_was_never_decided_does_nothing<P: Place>(place: &P) {
    let log = open(place).await;
    let record = nth(log.opening(), 1);
    log.complete(record.gtrid);
    assert_eq!(lookup(&log, record.gtrid).await, Lookup::Open);
    decide(&log, &record).await;
    assert_eq!(pending(&log).await, vec![record]);
}

/// Contract 5: lazy, but a shutdown makes it durable. (After a crash the decision may be pending
/// again: that costs a look.)
pub async fn a_completion_survives_a_shutdown<P: Place>(place: &P) {
    let log = open(place).await;
    let record = nth(log.opening(), 1);
    decide(&log, &record).await;
    log.complete(record.gtrid);
    log.shutdown().await.expect("the log can be shut down");
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, vec![]);
    let found = lookup(&log, record.gtrid).await;
    assert!(
        matches!(found, Lookup::Completed | Lookup::NoRecord),
        "{found:?}"
    );
}

/// What a person did against the decision is never forgotten, and survives reopening.
pub async fn a_heuristic_is_kept<P: Place>(place: &P) {
    let log = open(place).await;
    let kinds = [
        Heuristic::Commit,
        Heuristic::Rollback,
        Heuristic::Mixed,
        Heuristic::Hazard,
    ];
    let mut expected = Vec::new();
    for (sequence, kind) in (1..).zip(kinds) {
        let record = nth(log.opening(), sequence);
        decide(&log, &record).await;
        let resource = record.branches[0].resource.clone();
        for _ in 0..2 {
            let kept = log.record_heuristic(record.gtrid, &resource, kind).await;
            kept.expect("a heuristic can be recorded");
        }
        expected.push((record.gtrid, Lookup::Heuristic(vec![(resource, kind)])));
    }
    log.complete(expected[0].0);
    for (gtrid, heuristic) in &expected {
        assert_eq!(lookup(&log, *gtrid).await, *heuristic);
    }
    let log = reopen(place, log).await;
    for (gtrid, heuristic) in &expected {
        assert_eq!(lookup(&log, *gtrid).await, *heuristic);
    }
}

/// A thousand decisions over several openings, most of them completed.
pub async fn many_decisions_are_kept_apart<P: Place>(place: &P) {
    let mut log = open(place).await;
    let mut left = Vec::new();
    for _ in 0..5 {
        let opening = log.opening();
        let records: Vec<_> = (0..200).map(|sequence| nth(opening, sequence)).collect();
        for some in records.chunks(50) {
            let mut running = tokio::task::JoinSet::new();
            for record in some {
                let (log, record) = (log.clone(), record.clone());
                running.spawn(async move { decide(&log, &record).await });
            }
            running.join_all().await;
        }
        for (position, record) in records.into_iter().enumerate() {
            if position % 20 == 0 {
                left.push(record);
            } else {
                log.complete(record.gtrid);
            }
        }
        log.shutdown().await.expect("the log can be shut down");
        log = reopen(place, log).await;
        assert_eq!(pending(&log).await, left);
    }
}
