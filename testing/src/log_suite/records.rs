//! What is recorded comes back, once and exactly.

use std::sync::Arc;

use unanimous_core::ports::{
    ByHand, DecisionLog, DecisionRecord, HandAct, HandState, Lookup, Remark, UnixTime,
};
use unanimous_core::protocol::{Decision, Heuristic};
use unanimous_core::xid::{Gtrid, Opening, ResourceName};

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

/// What is lazy is durable once that was asked for: whoever reads the log afterwards, be it a copy
/// of it, finds it complete.
pub async fn a_completion_that_was_forced_survives_without_shutdown<P: Place>(place: &P) {
    let log = open(place).await;
    let (done, left) = (nth(log.opening(), 1), nth(log.opening(), 2));
    decide(&log, &done).await;
    decide(&log, &left).await;
    log.complete(done.gtrid);
    log.force().await.expect("what is lazy can be made durable");
    log.force().await.expect("nothing is left to do");
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, vec![left]);
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
        let ends = vec![(resource, kind)];
        let beside = Box::new(Lookup::Pending(record.clone()));
        expected.push((record.gtrid, Lookup::Heuristic { ends, beside }));
    }
    for (gtrid, heuristic) in &expected {
        assert_eq!(lookup(&log, *gtrid).await, *heuristic);
    }
    let log = reopen(place, log).await;
    for (gtrid, heuristic) in &expected {
        assert_eq!(lookup(&log, *gtrid).await, *heuristic);
    }
    let listed = log.heuristics().await.expect("the log can be read");
    assert_eq!(listed.len(), expected.len(), "{listed:?}");
    assert!(listed.iter().all(|end| end.when.is_some()), "{listed:?}");
    log.complete(expected[0].0);
    let Lookup::Heuristic { beside, .. } = lookup(&log, expected[0].0).await else {
        panic!("it is told for good");
    };
    assert_eq!(*beside, Lookup::Completed);
}

/// That a branch may have ended otherwise is not the last word; whatever else is, stays. And it
/// says nothing of what was decided: an undecided transaction with a heuristic end is undecided.
pub async fn a_hazard_is_replaced_by_what_is_known<P: Place>(place: &P) {
    let log = open(place).await;
    let gtrid = log.opening().gtrid(1);
    let resource: ResourceName = "orders".parse().expect("a name");
    for (kind, told) in [
        (Heuristic::Hazard, Heuristic::Hazard),
        (Heuristic::Commit, Heuristic::Commit),
        (Heuristic::Hazard, Heuristic::Commit),
        (Heuristic::Rollback, Heuristic::Commit),
    ] {
        let kept = log.record_heuristic(gtrid, &resource, kind).await;
        kept.expect("a heuristic can be recorded");
        let ends = vec![(resource.clone(), told)];
        let beside = Box::new(Lookup::Open);
        assert_eq!(
            lookup(&log, gtrid).await,
            Lookup::Heuristic { ends, beside }
        );
    }
    let epoch = log.opening().epoch;
    log.close(epoch).await.expect("an epoch can be closed");
    let log = reopen(place, log).await;
    let ends = vec![(resource, Heuristic::Commit)];
    let beside = Box::new(Lookup::NoRecord);
    assert_eq!(
        lookup(&log, gtrid).await,
        Lookup::Heuristic { ends, beside }
    );
}

/// What people did comes back exactly and in order, also of openings that are not listed; only an
/// open record changes its state; and none of it decides anything.
pub async fn records_by_hand_are_kept<P: Place>(place: &P) {
    let log = open(place).await;
    let own = log.opening();
    let decided = nth(own, 1);
    decide(&log, &decided).await;
    let mut stranger = own;
    stranger.nonce ^= 1;
    let intended = [
        hand(7, own, own.gtrid(1), HandAct::End(Decision::Rollback)),
        hand(u64::MAX, own, own.gtrid(2), HandAct::End(Decision::Commit)),
        hand(0, own, stranger.gtrid(3), HandAct::End(Decision::Commit)),
        hand(9, own, own.gtrid(1), HandAct::Forget),
    ];
    let record = async |log: &Arc<dyn DecisionLog>, by_hand: &ByHand| {
        let recorded = log.record_by_hand(by_hand).await;
        recorded.expect("what a person does can be recorded");
    };
    for by_hand in &intended {
        record(&log, by_hand).await;
        record(&log, by_hand).await;
    }
    assert_eq!(log.by_hand().await.expect("it can be read"), intended);
    assert_eq!(lookup(&log, own.gtrid(2)).await, Lookup::Open);
    let log = reopen(place, log).await;
    let mut all = log.by_hand().await.expect("it can be read");
    assert_eq!(all, intended);
    all[0].state = HandState::Done;
    all[1].state = HandState::Unproven;
    all[2].state = HandState::Void;
    for by_hand in &all {
        record(&log, by_hand).await;
    }
    let mut late = all.clone();
    late[0].state = HandState::Void;
    late[1].state = HandState::Done;
    late[2].state = HandState::Intended;
    for by_hand in &late {
        record(&log, by_hand).await;
    }
    all[1].state = HandState::Done;
    assert_eq!(log.by_hand().await.expect("it can be read"), all);
    let log = reopen(place, log).await;
    assert_eq!(log.by_hand().await.expect("it can be read"), all);
    assert_eq!(
        lookup(&log, decided.gtrid).await,
        Lookup::Pending(decided.clone())
    );
}

fn hand(id: u64, by: Opening, gtrid: Gtrid, act: HandAct) -> ByHand {
    let proof = (id == 7).then(|| {
        let record = branch("orders", "pg 7/1/app", "xid8=4711");
        (record.identity, record.evidence)
    });
    ByHand {
        id,
        gtrid,
        resource: "orders".parse().expect("a name"),
        act,
        by,
        who: Remark::new("alice@db7").expect("a line"),
        when: UnixTime(1_790_000_000),
        reason: Remark::new("ticket 4711: it's \"closed\" \\ 顧客 ÄÖ").expect("a line"),
        proof,
        state: HandState::Intended,
    }
}

/// When a decision was made is told by the clock of whoever keeps it, and of no other transaction.
pub async fn a_decision_says_when_it_was_made<P: Place>(place: &P) {
    let log = open(place).await;
    let (first, second) = (nth(log.opening(), 1), nth(log.opening(), 2));
    decide(&log, &first).await;
    let gtrids = [first.gtrid, second.gtrid];
    let dates = log.decided_at(&gtrids).await.expect("it can be read");
    let [(gtrid, when)] = dates[..] else {
        panic!("one of them is decided: {dates:?}");
    };
    assert_eq!(gtrid, first.gtrid);
    assert!(when > UnixTime(1_700_000_000), "a clock of our days");
    // Asked for again it is the same decision, whenever that is.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    decide(&log, &first).await;
    let log = reopen(place, log).await;
    decide(&log, &first).await;
    let again = log.decided_at(&gtrids).await.expect("it can be read");
    assert_eq!(again, [(first.gtrid, when)]);
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
