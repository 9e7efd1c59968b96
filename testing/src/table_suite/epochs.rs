//! Epochs: closed, released, listed.

use std::time::Duration;

use tokio::task::JoinSet;
use unanimous_core::ports::{
    EpochSlot, RowAnswer, RowState, SLOTS, ServerIdentity, TableErrorKind,
};
use unanimous_core::xid::Epoch;

use super::{
    COMPLETED, PENDING, Place, ROLLED_BACK, Suite, assert_kind, row, slot, until_answered,
};

const CLOSED: RowAnswer = RowAnswer::EpochClosed;

/// Nothing was there to be locked: nothing is decided.
pub async fn a_slot_that_is_not_there_is_unfit<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = [suite.row(1)];
    let nowhere = [
        slot(suite.own, SLOTS),
        EpochSlot {
            epoch: Epoch(suite.own.epoch.0 + 1),
            slot: 0,
        },
    ];
    for at in nowhere {
        let decided = suite.table.decide(at, None, &rows).await;
        assert_kind(decided, TableErrorKind::Unfit);
    }
    assert_eq!(suite.find(rows[0].gtrid).await.row, None);
    let unlisted = Epoch(suite.own.epoch.0 + 1);
    let closed = suite.table.close(unlisted).await;
    assert_kind(closed, TableErrorKind::Unfit);
}

/// In every slot; what stands is still answered.
pub async fn a_closed_epoch_takes_no_decision<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    suite.close(suite.own.epoch).await;
    let answers = [PENDING, COMPLETED, ROLLED_BACK, CLOSED];
    for number in 0..SLOTS {
        let at = slot(suite.own, number);
        let decided = place.table().decide(at, None, &rows).await;
        let decided = decided.expect("it answers");
        assert_eq!(decided.answers, answers, "slot {number}");
        assert!(!decided.is_released);
    }
    assert_eq!(suite.find(rows[3].gtrid).await.row, None);
    assert_eq!(suite.pending().await, rows[..1]);
    let completed = suite.table.complete(&[rows[0].gtrid]).await;
    completed.expect("what is decided can be completed");
    let answers = suite.decide(&rows).await;
    assert_eq!(answers, [COMPLETED, COMPLETED, ROLLED_BACK, CLOSED]);
}

/// As after a fail-over that may have lost that an epoch was closed: what stands is answered.
pub async fn another_server_than_its_home_decides_nothing<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    let here = suite.find(rows[3].gtrid).await.identity;
    let elsewhere = ServerIdentity::new("another server").expect("it is printable");
    let slots = [0, SLOTS].map(|number| slot(suite.own, number));
    let answers = [PENDING, COMPLETED, ROLLED_BACK, CLOSED];
    for at in slots {
        let decided = place.table().decide(at, Some(&elsewhere), &rows).await;
        let decided = decided.expect("it answers, be the slot there or not");
        assert_eq!(
            (decided.answers, decided.identity),
            (answers.to_vec(), here.clone())
        );
    }
    assert_eq!(suite.find(rows[3].gtrid).await.row, None);
    let decided = place.table().decide(slots[0], Some(&here), &rows).await;
    assert_eq!(decided.expect("it answers").answers[3], PENDING);
}

/// The others go on.
pub async fn closing_is_idempotent_and_touches_no_other<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let (before, after) = (suite.join().await, suite.join().await);
    let closed = suite.join().await;
    let later = suite.join().await;
    for _ in 0..2 {
        let answer = place.table().close(closed.epoch).await;
        answer.expect("an epoch can be closed");
        let line = suite.opening(closed.epoch).await;
        assert!(line.is_closed && !line.is_released, "{line:?}");
        let found = suite.find(closed.gtrid(1)).await.opening;
        assert_eq!(found, Some(line), "found as it is listed");
    }
    for opening in [suite.own, before, after, later] {
        assert!(!suite.opening(opening.epoch).await.is_closed);
        assert_eq!(suite.decide(&[row(opening, 1)]).await, [PENDING]);
    }
    assert_eq!(suite.decide(&[row(closed, 1)]).await, [CLOSED]);
}

/// What is answered stands, and nothing is recorded after the close.
pub async fn a_close_among_deciders_leaves_both_answers_final<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let mut deciders = JoinSet::new();
    for number in 0..64_u32 {
        let (table, row) = (place.table(), suite.row(u64::from(number)));
        let at = slot(suite.own, number % SLOTS);
        deciders.spawn(async move {
            for _ in 0..number % 8 {
                tokio::task::yield_now().await;
            }
            let rows = std::slice::from_ref(&row);
            let decided = until_answered(|| table.decide(at, None, rows)).await;
            (row, decided.expect("it answers").answers)
        });
    }
    tokio::task::yield_now().await;
    suite.close(suite.own.epoch).await;
    let at_close = suite.pending().await;
    let (mut recorded, mut refused) = (Vec::new(), Vec::new());
    for (row, answers) in deciders.join_all().await {
        match answers[..] {
            [PENDING] => recorded.push(row),
            [CLOSED] => refused.push(row),
            _ => panic!("{answers:?}"),
        }
    }
    recorded.sort_by_key(|row| row.gtrid);
    assert_eq!(at_close, recorded, "nothing is recorded after the close");
    for (rows, answer) in [(&recorded, PENDING), (&refused, CLOSED)] {
        for row in rows {
            let again = suite.decide(std::slice::from_ref(row)).await;
            assert_eq!(again, [answer]);
        }
    }
    assert_eq!(suite.pending().await, recorded);
}

/// What is over is deleted with its slots; decisions that are pending, the opening's line and all
/// other epochs stay.
pub async fn releasing_keeps_what_is_pending<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let mut other = suite.join().await;
    while other.epoch.0 / 10 != suite.own.epoch.0 {
        // An epoch whose digits begin with the other's.
        other = suite.join().await;
    }
    let kept = [row(other, 1), row(other, 2), row(other, 3)];
    suite.decide(&kept[..2]).await;
    let completed = suite.table.complete(&[kept[0].gtrid]).await;
    completed.expect("a row can be completed");
    let put = suite.table.put_rollback(kept[2].gtrid).await;
    put.expect("a refusal can be put");
    let rows = suite.rows_in_every_state().await;
    suite.close(suite.own.epoch).await;
    for _ in 0..2 {
        let released = place.table().release(suite.own.epoch).await;
        released.expect("a closed epoch can be released");
        let line = suite.opening(suite.own.epoch).await;
        assert!(line.is_closed && line.is_released, "{line:?}");
        assert_eq!(line.opening, suite.own);
        let states = [Some(RowState::Pending), None, None, None];
        for (row, state) in rows.iter().zip(states) {
            assert_eq!(suite.state(row.gtrid).await, state);
        }
    }
    let decided = suite.decided(&rows).await;
    assert!(decided.is_released, "a missing row tells nothing any more");
    assert_eq!(decided.answers, [PENDING, CLOSED, CLOSED, CLOSED]);
    assert_eq!(suite.find(rows[3].gtrid).await.row, None);
    suite.close(suite.own.epoch).await;
    let answers = suite.decide(&kept).await;
    assert_eq!(answers, [COMPLETED, PENDING, ROLLED_BACK]);
    assert_eq!(suite.pending().await, [rows[0].clone(), kept[1].clone()]);
}

/// Whatever is answered: its owner goes on.
pub async fn an_open_epoch_is_not_released<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    let answer = place.table().release(suite.own.epoch).await;
    if let Err(error) = answer {
        assert_ne!(error.kind(), TableErrorKind::Lost, "{error}");
    }
    let line = suite.opening(suite.own.epoch).await;
    assert!(!line.is_closed && !line.is_released, "{line:?}");
    let answers = suite.decide(&rows).await;
    assert_eq!(answers, [PENDING, COMPLETED, ROLLED_BACK, PENDING]);
    let beats = suite.table.beat(suite.own.epoch).await;
    assert_eq!(beats.expect("a member can beat").len(), 1);
}

/// However old: their members may still decide. Pending rows are read from every epoch.
pub async fn older_open_openings_are_always_read<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let openings = [suite.join().await, suite.join().await, suite.join().await];
    let rows: Vec<_> = openings.map(|opening| row(opening, 1)).to_vec();
    for row in &rows {
        suite.decide(std::slice::from_ref(row)).await;
    }
    suite.close(openings[0].epoch).await;
    suite.close(openings[2].epoch).await;
    for forced_by in [None, Some(suite.own.epoch)] {
        let listed = async |from| {
            let read = place.table().read(from, forced_by).await;
            let snapshot = read.expect("it can be read");
            let lines = snapshot.openings.iter();
            let mut epochs: Vec<_> = lines.map(|line| line.opening.epoch).collect();
            epochs.sort();
            assert_eq!(snapshot.pending.len(), rows.len());
            epochs
        };
        let [first, second, third] = openings.map(|opening| opening.epoch);
        let own = suite.own.epoch;
        assert_eq!(listed(Epoch(0)).await, [own, first, second, third]);
        assert_eq!(listed(first).await, [own, first, second, third]);
        assert_eq!(listed(second).await, [own, second, third]);
        assert_eq!(listed(third).await, [own, second, third]);
        assert_eq!(listed(Epoch(third.0 + 1)).await, [own, second]);
    }
    assert_eq!(suite.pending().await, rows);
}

/// By their age, as the server's clock tells it.
pub async fn closed_epochs_are_listed_until_they_are_released<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let (first, second) = (suite.join().await.epoch, suite.join().await.epoch);
    let closed_for = async |age| {
        let listed = place.table().closed_for(age).await;
        let mut listed = listed.expect("they can be listed");
        listed.sort();
        listed
    };
    let hour = Duration::from_secs(3600);
    assert_eq!(closed_for(Duration::ZERO).await, []);
    suite.close(first).await;
    suite.close(second).await;
    assert_eq!(closed_for(hour).await, []);
    // A server's clock may count whole seconds.
    for _ in 0..600 {
        if closed_for(Duration::ZERO).await.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(closed_for(Duration::ZERO).await, [first, second]);
    let released = suite.table.release(first).await;
    released.expect("a closed epoch can be released");
    assert_eq!(closed_for(Duration::ZERO).await, [second]);
    assert_eq!(closed_for(hour).await, []);
}
