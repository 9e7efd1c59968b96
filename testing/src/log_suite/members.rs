//! Several members that have one log open at the same time. A log for one process at a time has
//! none of these properties.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use unanimous_core::ports::{
    DecideError, DecisionLog, DecisionRecord, Lookup, OpeningState, Refusal,
};
use unanimous_core::xid::Opening;

use super::{Place, assert_refused, decide, lookup, nth, open, pending};

async fn close(log: &Arc<dyn DecisionLog>, opening: Opening) {
    let closed = log.close(opening.epoch).await;
    closed.expect("an epoch can be closed");
}

async fn is_listed(log: &Arc<dyn DecisionLog>, opening: Opening, closed: bool) -> bool {
    let listed = log.openings().await.expect("the log can be read");
    listed.contains(&OpeningState { opening, closed })
}

/// One manager, an opening each, and every one is listed to all.
pub async fn members_that_open_at_once_are_listed_to_each_other<P: Place>(place: &P) {
    if !place.is_shared() {
        return;
    }
    let first = open(place).await;
    let mut opening = JoinSet::new();
    for _ in 0..8 {
        let home = place.home();
        opening.spawn(home.open());
    }
    let opened = opening.join_all().await.into_iter();
    let mut logs: Vec<_> = opened.map(|log| log.expect("it can be opened")).collect();
    logs.push(first);
    let openings: BTreeSet<_> = logs.iter().map(|log| log.opening()).collect();
    let epochs: BTreeSet<_> = openings.iter().map(|opening| opening.epoch).collect();
    assert_eq!(epochs.len(), logs.len(), "{openings:?}");
    let managers: BTreeSet<_> = openings.iter().map(|opening| opening.manager).collect();
    assert_eq!(managers.len(), 1);
    for log in &logs {
        for opening in &openings {
            assert!(is_listed(log, *opening, false).await, "{opening:?}");
        }
    }
    for (sequence, log) in (1..).zip(&logs) {
        decide(log, &nth(log.opening(), sequence)).await;
    }
    for log in &logs {
        assert_eq!(pending(log).await.len(), logs.len());
    }
}

/// Several of one process's managers, or of many, are told apart by their gtrids alone.
pub async fn what_one_member_completes_is_completed_for_all<P: Place>(place: &P) {
    if !place.is_shared() {
        return;
    }
    let (first, second) = (open(place).await, open(place).await);
    let record = nth(first.opening(), 1);
    decide(&first, &record).await;
    let found = lookup(&second, record.gtrid).await;
    assert_eq!(found, Lookup::Pending(record.clone()));
    close(&second, first.opening()).await;
    second.complete(record.gtrid);
    assert_eq!(pending(&second).await, vec![]);
    assert_eq!(lookup(&second, record.gtrid).await, Lookup::Completed);
    second.shutdown().await.expect("it can be shut down");
    let third = open(place).await;
    assert_eq!(pending(&third).await, vec![]);
    decide(&first, &record).await;
}

/// The owner gave up on its decisions, and its epoch was closed on suspicion: what the survivor
/// finds then is what the owner is told whenever it asks, also of what is completed by then.
pub async fn what_a_survivor_finds_is_what_the_owner_is_told<P: Place>(place: &P) {
    if !place.is_shared() {
        return;
    }
    let (owner, survivor) = (open(place).await, open(place).await);
    let suspect = owner.opening();
    let all: Vec<_> = (0..32).map(|sequence| nth(suspect, sequence)).collect();
    for record in &all {
        // Polled once at most: sent, perhaps, and given up.
        let _ = tokio::time::timeout(Duration::ZERO, owner.decide(record)).await;
    }
    close(&survivor, suspect).await;
    let found = pending(&survivor).await;
    for record in found.iter().step_by(2) {
        survivor.complete(record.gtrid);
    }
    survivor.shutdown().await.expect("it can be shut down");
    // One that remembers nothing has to be told the same.
    let fresh = open(place).await;
    for record in &all {
        for asking in [&owner, &fresh] {
            match asking.decide(record).await {
                Ok(_) => assert!(found.contains(record), "{record:?}"),
                Err(DecideError::Refused(Refusal::EpochClosed)) => {
                    assert!(!found.contains(record), "{record:?}");
                }
                other => panic!("expected recorded or closed, got {other:?}"),
            }
        }
    }
}

/// As one of its own, but the close comes from another member.
pub async fn a_close_by_another_member_leaves_both_answers_final<P: Place>(place: &P) {
    if !place.is_shared() {
        return;
    }
    let (owner, survivor) = (open(place).await, open(place).await);
    let suspect = owner.opening();
    let mut deciders = JoinSet::new();
    for sequence in 0..64 {
        let owner = owner.clone();
        deciders.spawn(async move {
            for _ in 0..sequence % 8 {
                tokio::task::yield_now().await;
            }
            let record = nth(suspect, sequence);
            let answer = owner.decide(&record).await;
            (record, answer)
        });
    }
    tokio::task::yield_now().await;
    close(&survivor, suspect).await;
    let found = pending(&survivor).await;
    let mut recorded: Vec<DecisionRecord> = Vec::new();
    for (record, answer) in deciders.join_all().await {
        match answer {
            Ok(_) => recorded.push(record),
            Err(DecideError::Refused(Refusal::EpochClosed)) => {
                assert_refused(&owner, &record).await;
                let found = lookup(&survivor, record.gtrid).await;
                assert_eq!(found, Lookup::NoRecord);
            }
            other => panic!("expected recorded or closed, got {other:?}"),
        }
    }
    recorded.sort_by_key(|record| record.gtrid);
    assert_eq!(found, recorded, "nothing is recorded after the close");
    assert_eq!(pending(&survivor).await, recorded);
}

/// Its decisions stay, the others go on.
pub async fn a_member_that_shuts_down_takes_nobody_along<P: Place>(place: &P) {
    if !place.is_shared() {
        return;
    }
    let (first, second) = (open(place).await, open(place).await);
    let (of_first, of_second) = (nth(first.opening(), 1), nth(second.opening(), 1));
    decide(&first, &of_first).await;
    first.shutdown().await.expect("it can be shut down");
    assert!(is_listed(&second, of_first.gtrid.opening, true).await);
    assert!(is_listed(&second, second.opening(), false).await);
    decide(&second, &of_second).await;
    assert_eq!(pending(&second).await, vec![of_first, of_second]);
    let absent = nth(first.opening(), 2).gtrid;
    assert_eq!(lookup(&second, absent).await, Lookup::NoRecord);
}

/// What was under way is refused for good; new transactions begin under the new epoch.
pub async fn a_member_whose_epoch_was_closed_goes_on_under_a_new_one<P: Place>(place: &P) {
    if !place.keeps_members() {
        return;
    }
    let (suspect, other) = (open(place).await, open(place).await);
    let mut last = suspect.opening();
    for _ in 0..3 {
        let (old, late) = (nth(last, 1), nth(last, 2));
        decide(&suspect, &old).await;
        close(&other, last).await;
        assert_refused(&suspect, &late).await;
        // Half a minute is far beyond what it takes: it only ends a hang.
        for _ in 0..600 {
            if suspect.opening() != last {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let next = suspect.opening();
        assert!(next.epoch > last.epoch, "{next:?} after {last:?}");
        assert_eq!(next.manager, last.manager);
        assert_ne!(next.nonce, last.nonce);
        decide(&suspect, &nth(next, 1)).await;
        decide(&suspect, &old).await;
        assert_refused(&suspect, &late).await;
        assert!(is_listed(&other, last, true).await);
        assert!(is_listed(&other, next, false).await);
        assert_eq!(lookup(&other, late.gtrid).await, Lookup::NoRecord);
        last = next;
    }
    assert_eq!(pending(&other).await.len(), 4);
    decide(&other, &nth(other.opening(), 1)).await;
}

/// Each knows itself, and which of the others are closed.
pub async fn members_are_listed_with_what_became_of_them<P: Place>(place: &P) {
    if !place.keeps_members() {
        return;
    }
    let (first, second) = (open(place).await, open(place).await);
    let (one, two) = (first.opening(), second.opening());
    for (log, own) in [(&first, one), (&second, two)] {
        let listed = log.members().await.expect("the log can be read");
        for opening in [one, two] {
            let mut of_opening = listed.iter().filter(|m| m.opening == opening);
            let member = of_opening.next().expect("every member is listed");
            assert_eq!(of_opening.next(), None, "once");
            assert_eq!(member.is_self, opening == own);
            assert!(!member.is_closed && !member.label.is_empty(), "{member:?}");
        }
    }
    first.shutdown().await.expect("it can be shut down");
    let listed = second.members().await.expect("the log can be read");
    let is_open = |opening| listed.iter().any(|m| m.opening == opening && !m.is_closed);
    assert!(is_open(two) && !is_open(one), "{listed:?}");
}
