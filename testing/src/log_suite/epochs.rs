//! Openings and epochs: who may still decide, and what "no record" means.

use unanimous_core::ports::{Lookup, OpeningState};
use unanimous_core::xid::{Epoch, ManagerId, Opening};

use super::{Place, assert_refused, decide, lookup, nth, open, pending, reopen};

/// The manager id stays, the epoch rises, the nonce is new, and every opening is listed for ever:
/// a branch of an opening that was forgotten could not be ended any more.
pub async fn each_opening_has_an_epoch_and_a_nonce_of_its_own<P: Place>(place: &P) {
    let mut log = open(place).await;
    let mut seen = vec![log.opening()];
    for _ in 0..9 {
        log = reopen(place, log).await;
        let opening = log.opening();
        let last = seen[seen.len() - 1];
        assert_eq!(opening.manager, last.manager, "born with the log");
        assert!(opening.epoch > last.epoch, "epochs rise");
        assert!(seen.iter().all(|other| other.nonce != opening.nonce));
        seen.push(opening);
    }
    let listed = log.openings().await.expect("the log can be read");
    let own = OpeningState {
        opening: log.opening(),
        closed: false,
    };
    assert!(listed.contains(&own), "its own opening is listed and open");
    for opening in seen {
        let count = listed.iter().filter(|state| state.opening == opening);
        assert_eq!(count.count(), 1, "{opening:?} is listed once");
    }
}

/// "No record" is said only when none can appear any more (I3).
pub async fn what_is_not_decided_is_open_until_its_epoch_is_closed<P: Place>(place: &P) {
    let log = open(place).await;
    let gtrid = log.opening().gtrid(1);
    assert_eq!(lookup(&log, gtrid).await, Lookup::Open);
    log.close(gtrid.opening.epoch)
        .await
        .expect("it can be closed");
    assert_eq!(lookup(&log, gtrid).await, Lookup::NoRecord);
}

/// Contracts 2 and 3: after `close` neither answer of `decide` changes any more.
pub async fn a_closed_epoch_refuses_new_decisions_and_confirms_old_ones<P: Place>(place: &P) {
    let log = open(place).await;
    let (old, new) = (nth(log.opening(), 1), nth(log.opening(), 2));
    decide(&log, &old).await;
    log.close(old.gtrid.opening.epoch)
        .await
        .expect("it can be closed");
    for _ in 0..2 {
        decide(&log, &old).await;
        assert_refused(&log, &new).await;
    }
    let log = reopen(place, log).await;
    decide(&log, &old).await;
    assert_refused(&log, &new).await;
    assert_eq!(pending(&log).await, vec![old]);
    assert_eq!(lookup(&log, new.gtrid).await, Lookup::NoRecord);
}

/// Contract 3: whoever lost the answer to `decide` repeats it, perhaps after others have closed the
/// epoch and completed the decision; a refusal would tell it "rolled back" of what was committed.
pub async fn a_completed_decision_of_a_closed_epoch_is_not_refused<P: Place>(place: &P) {
    let log = open(place).await;
    let decided = nth(log.opening(), 1);
    decide(&log, &decided).await;
    log.close(decided.gtrid.opening.epoch)
        .await
        .expect("it can be closed");
    log.complete(decided.gtrid);
    decide(&log, &decided).await;
    assert_eq!(pending(&log).await, vec![]);
}

/// Contract: `close` is idempotent, and the list says that the epoch is closed.
pub async fn closing_twice_is_closing_once<P: Place>(place: &P) {
    let log = open(place).await;
    let opening = log.opening();
    for _ in 0..2 {
        log.close(opening.epoch).await.expect("it can be closed");
        let listed = log.openings().await.expect("the log can be read");
        let closed = OpeningState {
            opening,
            closed: true,
        };
        assert!(listed.contains(&closed), "{listed:?}");
    }
}

/// A log for one process: its lock proves that the owners of earlier epochs are gone. A shared one:
/// an epoch stays open until somebody closes it.
pub async fn reopening_closes_the_epochs_of_the_dead<P: Place>(place: &P) {
    let log = open(place).await;
    let old = log.opening();
    let decided = nth(old, 1);
    decide(&log, &decided).await;
    let log = reopen(place, log).await;
    if place.is_shared() {
        assert_eq!(lookup(&log, old.gtrid(2)).await, Lookup::Open);
        log.close(old.epoch).await.expect("it can be closed");
    }
    assert_eq!(lookup(&log, old.gtrid(2)).await, Lookup::NoRecord);
    assert_refused(&log, &nth(old, 2)).await;
    decide(&log, &decided).await;
    assert_eq!(pending(&log).await, vec![decided]);
    let listed = log.openings().await.expect("the log can be read");
    let is_closed = |state: &OpeningState| state.opening == old && state.closed;
    assert!(listed.iter().any(is_closed), "{listed:?}");
}

/// A restored or copied log, and other people's: an epoch alone proves nothing (I4).
pub async fn an_opening_that_is_not_listed_is_unknown_and_cannot_decide<P: Place>(place: &P) {
    let log = open(place).await;
    let own = log.opening();
    let strangers = [
        Opening {
            nonce: own.nonce ^ 1,
            ..own
        },
        Opening {
            epoch: Epoch(own.epoch.0 + 1),
            ..own
        },
        Opening {
            manager: ManagerId::from_bytes([7; 10]),
            ..own
        },
    ];
    for stranger in strangers {
        let found = lookup(&log, stranger.gtrid(1)).await;
        assert_eq!(found, Lookup::UnknownOpening, "{stranger:?}");
        assert_refused(&log, &nth(stranger, 1)).await;
    }
    assert_eq!(pending(&log).await, vec![]);
}

/// After `shutdown` nothing is decided any more, and nothing is lost.
pub async fn a_shutdown_closes_the_epoch_and_keeps_the_decisions<P: Place>(place: &P) {
    let log = open(place).await;
    let (old, new) = (nth(log.opening(), 1), nth(log.opening(), 2));
    decide(&log, &old).await;
    log.shutdown().await.expect("the log can be shut down");
    assert_refused(&log, &new).await;
    let log = reopen(place, log).await;
    assert_eq!(pending(&log).await, vec![old]);
    assert_eq!(lookup(&log, new.gtrid).await, Lookup::NoRecord);
}

/// A log for many: a member's work is another's to see, and to close on suspicion. The suspect's
/// next decision is refused; the closer's are not. (A log for one process has no second member.)
pub async fn members_of_a_shared_log_see_and_close_each_other<P: Place>(place: &P) {
    if !place.is_shared() {
        return;
    }
    let (first, second) = (open(place).await, open(place).await);
    assert_ne!(first.opening(), second.opening());
    let (of_first, of_second) = (nth(first.opening(), 1), nth(second.opening(), 1));
    decide(&first, &of_first).await;
    decide(&second, &of_second).await;
    let both = vec![of_first.clone(), of_second.clone()];
    assert_eq!(pending(&first).await, both);
    assert_eq!(pending(&second).await, both);

    let suspect = first.opening();
    second.close(suspect.epoch).await.expect("it can be closed");
    assert_refused(&first, &nth(suspect, 2)).await;
    decide(&first, &of_first).await;
    assert_eq!(lookup(&second, suspect.gtrid(2)).await, Lookup::NoRecord);
    decide(&second, &nth(second.opening(), 2)).await;
}
