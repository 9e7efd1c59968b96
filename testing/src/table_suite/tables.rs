//! The tables themselves, who joins, who lives, and what ended against its decision.

use std::collections::BTreeSet;

use std::time::Duration;
use tokio::task::JoinSet;

use unanimous_core::ports::{Beat, HandRow, TableErrorKind, UnixTime};
use unanimous_core::xid::{Epoch, ResourceName};

use super::{Place, Suite, assert_kind, manager, random, until_answered};

/// And whoever joins too early is told so.
pub async fn tables_that_are_not_there_are_missing<P: Place>(place: &P) {
    let table = place.table();
    assert_kind(table.check().await, TableErrorKind::Missing);
    assert_kind(table.join(1, "early").await, TableErrorKind::Missing);
    assert!(!table.place().is_empty(), "a message can name the place");
}

/// Made twice, by two who do not know of each other: the first manager stays.
pub async fn tables_are_made_once<P: Place>(place: &P) {
    let (table, first) = (place.table(), manager());
    table.init(first).await.expect("tables can be made");
    let state = table.check().await.expect("they are there");
    assert_eq!(state.manager, first);
    assert!(!state.scope.is_empty(), "a branch can be compared with it");
    table.init(first).await.expect("and again");
    let other = place.table();
    other.init(manager()).await.expect("also by another");
    assert_eq!(other.check().await.expect("they are there"), state);
    let own = table.join(1, "one").await.expect("a member can join");
    table.init(manager()).await.expect("and later");
    let next = other.join(2, "two").await.expect("a member can join");
    assert!(next.opening.epoch > own.opening.epoch, "nothing was lost");
}

/// What the text says is what `init` does; run twice it changes nothing.
pub async fn tables_are_made_by_hand<P: Place>(place: &P) {
    let (table, first) = (place.table(), manager());
    let ddl = table.ddl(first);
    assert!(ddl.contains(&first.to_string()), "{ddl}");
    place.run_ddl(&ddl).await;
    let state = table.check().await.expect("they are there");
    assert_eq!(state.manager, first);
    let own = table.join(1, "one").await.expect("a member can join");
    place.run_ddl(&ddl).await;
    place.run_ddl(&table.ddl(manager())).await;
    table.init(manager()).await.expect("and by a program");
    assert_eq!(table.check().await.expect("they are there"), state);
    let next = table.join(2, "two").await.expect("a member can join");
    assert!(next.opening.epoch > own.opening.epoch, "nothing was lost");
}

/// Whether or not earlier ones are closed and released.
pub async fn epochs_rise<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let mut last = suite.own.epoch;
    for turn in 0..6 {
        let joined = suite.join().await;
        assert_eq!(joined.manager, suite.own.manager);
        assert!(joined.epoch > last, "{:?} after {last:?}", joined.epoch);
        last = joined.epoch;
        if turn % 2 == 0 {
            suite.close(last).await;
        }
        if turn % 4 == 0 {
            let released = suite.table.release(last).await;
            released.expect("a closed epoch can be released");
        }
    }
    assert_eq!(suite.read(Epoch(0)).await.openings.len(), 7);
}

/// Over handles of their own.
pub async fn members_that_join_at_once_have_epochs_of_their_own<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let mut joining = JoinSet::new();
    for _ in 0..16 {
        let table = place.table();
        joining.spawn(async move {
            let label = "one of many";
            until_answered(|| table.join(random(), label)).await
        });
    }
    let joined = joining.join_all().await.into_iter();
    let openings: BTreeSet<_> = joined
        .map(|row| row.expect("a member can join").opening)
        .collect();
    let epochs: BTreeSet<_> = openings.iter().map(|opening| opening.epoch).collect();
    assert_eq!(epochs.len(), 16, "{openings:?}");
    let listed = suite.read(Epoch(0)).await.openings;
    let listed: BTreeSet<_> = listed.into_iter().map(|row| row.opening).collect();
    assert!(listed.is_superset(&openings), "{listed:?}");
}

/// Every bit of the random number, and whatever a host is called.
pub async fn an_opening_comes_back_exactly<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let identity = suite.table.check().await.expect("it is there").identity;
    let labels = ["", "shop-7f9 4711", "o'neill \"pc\" \\ $1 ? %", "h\u{f6}st"];
    let randoms = [0, u64::MAX, 1 << 63, (1 << 63) - 1];
    for (label, random) in labels.into_iter().zip(randoms) {
        let joined = suite.table.join(random, label).await;
        let joined = joined.expect("a member can join");
        assert_eq!(
            (joined.label.as_str(), joined.opening.nonce),
            (label, random)
        );
        assert_eq!(joined.identity, identity);
        assert!(!joined.is_closed && !joined.is_released);
        assert_eq!(suite.opening(joined.opening.epoch).await, joined);
        let found = suite.find(joined.opening.gtrid(1)).await;
        assert_eq!((found.opening, found.row), (Some(joined), None));
        assert_eq!(found.identity, identity);
    }
    let mut stranger = suite.own;
    stranger.nonce ^= 1;
    let found = suite.find(stranger.gtrid(1)).await;
    assert_eq!(found.opening, None, "an epoch alone is no opening");
}

/// Only one's own count rises, and who was never there does not appear.
pub async fn beats_rise_and_list_the_members<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let (own, other) = (suite.own.epoch, suite.join().await.epoch);
    let beat = async |epoch| {
        let beats = place.table().beat(epoch).await;
        let mut beats = beats.expect("a member can beat");
        beats.sort_by_key(|beat| beat.epoch);
        beats
    };
    let count = |beats: &[Beat], epoch| {
        let beat = beats.iter().find(|beat| beat.epoch == epoch);
        beat.expect("every member is listed").count
    };
    let mut last = beat(own).await;
    for _ in 0..3 {
        let next = beat(own).await;
        assert!(count(&next, own) > count(&last, own), "{next:?}");
        assert_eq!(count(&next, other), count(&last, other));
        last = next;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let next = beat(other).await;
    assert!(count(&next, other) > count(&last, other), "{next:?}");
    let age = |epoch| next.iter().find(|beat| beat.epoch == epoch).map(|b| b.age);
    assert!(age(own) > age(other), "by the server's clock: {next:?}");
    let epochs: Vec<_> = next.iter().map(|beat| beat.epoch).collect();
    assert_eq!(epochs, [own, other]);
    assert!(next.iter().all(|beat| !beat.is_closed));
    suite.close(other).await;
    let beats = beat(other).await;
    let closed: Vec<_> = beats.iter().map(|beat| beat.is_closed).collect();
    assert_eq!(closed, [false, true], "{beats:?}");
    let released = suite.table.release(other).await;
    released.expect("a closed epoch can be released");
    for epoch in [own, other, Epoch(other.0 + 1)] {
        let epochs: Vec<_> = beat(epoch).await.iter().map(|b| b.epoch).collect();
        assert_eq!(epochs, [own], "a released one is no member");
    }
}

/// The first stays, unless it is `h`; with or without a decision; names are told apart by every
/// letter.
pub async fn a_heuristic_is_noted_once<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let [decided, bare, clean] = [1, 2, 3].map(|sequence| suite.own.gtrid(sequence));
    suite.decide(&[suite.row(1), suite.row(3)]).await;
    let name = |text: &str| text.parse::<ResourceName>().expect("a name");
    let noted = [
        (decided, "orders", 'c'),
        (decided, "Orders", 'r'),
        (decided, "orders_2", 'm'),
        (bare, "orders", 'h'),
    ];
    for (gtrid, resource, end) in noted {
        for end in [end, end, 'x'] {
            let resource = name(resource);
            let noted = suite.table.record_heuristic(gtrid, &resource, end);
            noted.await.expect("it can be noted");
        }
    }
    let stays = |end| if end == 'h' { 'x' } else { end };
    for gtrid in [decided, bare, clean] {
        let mut found = suite.find(gtrid).await.heuristics;
        found.sort();
        let of_gtrid = noted.iter().filter(|(other, ..)| *other == gtrid);
        let mut expected: Vec<_> = of_gtrid.map(|(_, r, end)| (name(r), stays(*end))).collect();
        expected.sort();
        assert_eq!(found, expected);
    }
    let ends = suite.table.ends(Some(suite.own.epoch)).await;
    let ends = ends.expect("it can be read");
    assert_eq!(ends.heuristics.len(), noted.len(), "{ends:?}");
    for (gtrid, resource, end) in noted {
        let mut listed = ends.heuristics.iter();
        let listed = listed.find(|row| (row.gtrid, &row.resource) == (gtrid, &name(resource)));
        let listed = listed.expect("every one is listed");
        assert_eq!(listed.end, stays(end));
        assert!(listed.noted_at.is_some_and(is_of_our_days), "{listed:?}");
    }
}

fn is_of_our_days(when: UnixTime) -> bool {
    (UnixTime(1_700_000_000)..UnixTime(4_000_000_000)).contains(&when)
}

/// In the order in which they came, letter by letter; only an open one changes its state.
pub async fn records_by_hand_are_kept<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let mut stranger = suite.own;
    stranger.nonce ^= 1;
    let row = |id, gtrid, state| HandRow {
        id,
        gtrid,
        resource: "orders".parse::<ResourceName>().expect("a name"),
        state,
        words: "who o'neill \"pc\" \\ $1 ? %\nreason 顧客 🦀\n".to_owned(),
    };
    let rows = [
        row(u64::MAX, suite.own.gtrid(1), 'I'),
        row(3, stranger.gtrid(1), 'I'),
        row(0, suite.own.gtrid(2), 'U'),
        row(2, suite.own.gtrid(2), 'D'),
    ];
    let listed = async || {
        let ends = place.table().ends(None).await;
        ends.expect("it can be read").by_hand
    };
    for row in &rows {
        for _ in 0..2 {
            let recorded = suite.table.record_by_hand(row).await;
            recorded.expect("it can be recorded");
        }
    }
    assert_eq!(listed().await, rows);
    for (at, (state, stays)) in [('D', 'D'), ('I', 'I'), ('V', 'V'), ('V', 'D')]
        .into_iter()
        .enumerate()
    {
        let words = "another".to_owned();
        let again = HandRow {
            state,
            words,
            ..rows[at].clone()
        };
        let recorded = suite.table.record_by_hand(&again).await;
        recorded.expect("it can be recorded");
        assert_eq!(listed().await[at].state, stays);
        assert_eq!(listed().await[at].words, rows[at].words);
    }
}

/// By the server's clock; a refusal is no decision.
pub async fn a_decision_says_when_it_was_made<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    suite.decide(&[suite.row(1)]).await;
    let refused = suite.table.put_rollback(suite.own.gtrid(2)).await;
    refused.expect("a refusal can be put there");
    let gtrids = [1, 2, 3].map(|sequence| suite.own.gtrid(sequence));
    let dates = suite.table.decided_at(&gtrids).await;
    let dates = dates.expect("it can be read");
    let [(gtrid, when)] = dates[..] else {
        panic!("one of them is decided: {dates:?}");
    };
    assert_eq!(gtrid, gtrids[0]);
    assert!(is_of_our_days(when), "{when:?}");
    let none = suite.table.decided_at(&[]).await;
    assert_eq!(none.expect("it can be read"), []);
}
