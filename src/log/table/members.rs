//! Who else shares the log: signs of life, suspicion, and joining anew.
//!
//! A member is suspected when its count has not changed over [`ROUNDS`] rounds of this one's own.
//! Rounds, not time: whoever was paused himself has made none meanwhile. One of those that are seen
//! alive is picked to close the suspect's epoch, so that not all do the same; if that does not
//! happen, the others do it after as many rounds again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use unanimous_core::ports::{Beat, LogError, Member};
use unanimous_core::xid::{Epoch, ManagerId};
use xxhash_rust::xxh3::xxh3_64;

use super::shared::Shared;
use super::{log_error, random};

/// How many of the own rounds make a suspect.
pub(super) const ROUNDS: u32 = 10;

/// How many signs of life that are not answered make a suspect.
const BEATS_LOST: u32 = 3;

/// Every so many rounds the epochs are released whose owners were not heard of for [`OWNER_ASKS`].
const RELEASE_EVERY: u64 = 600;

/// An owner whose epoch was closed longer ago than that, and that still has to ask for a decision,
/// is told that nobody knows.
const OWNER_ASKS: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy)]
struct Seen {
    count: u64,
    /// Since it last changed.
    rounds: u32,
}

/// What the rounds have seen.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<BTreeMap<Epoch, Seen>>);

impl Watch {
    /// Takes the signs of life of one round. Answers whom to close.
    fn round(&self, own: Epoch, beats: &[Beat]) -> Vec<Epoch> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeMap::new();
        for beat in beats.iter().filter(|beat| !beat.is_closed) {
            let rounds = match seen.get(&beat.epoch) {
                Some(before) if before.count == beat.count => before.rounds.saturating_add(1),
                _ => 0,
            };
            let count = beat.count;
            now.insert(beat.epoch, Seen { count, rounds });
        }
        *seen = now;
        let is_alive = |(epoch, seen): &(&Epoch, &Seen)| **epoch == own || seen.rounds < ROUNDS;
        let alive: Vec<Epoch> = seen.iter().filter(is_alive).map(|(e, _)| *e).collect();
        let suspects = seen.iter().filter(|(epoch, seen)| {
            let is_silent = **epoch != own && seen.rounds >= ROUNDS;
            is_silent && (picked(**epoch, &alive) == Some(own) || seen.rounds >= 2 * ROUNDS)
        });
        suspects.map(|(epoch, _)| *epoch).collect()
    }

    fn rounds_silent(&self, epoch: Epoch) -> u32 {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&epoch).map_or(0, |seen| seen.rounds)
    }
}

/// Who closes a suspect's epoch: the same answer to all who see the same members alive.
pub(crate) fn picked(suspect: Epoch, alive: &[Epoch]) -> Option<Epoch> {
    let weight = |member: &&Epoch| {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&suspect.0.to_le_bytes());
        bytes[4..].copy_from_slice(&member.0.to_le_bytes());
        xxh3_64(&bytes)
    };
    alive.iter().max_by_key(weight).copied()
}

pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.options.suspect_after / ROUNDS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = 0_u64;
    let (mut closing, mut releasing) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.wants_rejoin.notified() => {
                // Decisions of an earlier epoch are refused, too: no reason to leave this one.
                if shared.known().is_leaving() {
                    join_anew(&shared).await;
                }
                continue;
            }
        }
        if shared.known().is_shut_down() {
            // Even if its epoch could not be closed: then the others do it.
            return;
        }
        while closing.try_join_next().is_some() {}
        while releasing.try_join_next().is_some() {}
        let suspects = round(&shared).await;
        if !suspects.is_empty() && closing.is_empty() {
            closing.spawn(close_all(Arc::clone(&shared), suspects));
        }
        rounds += 1;
        if rounds.is_multiple_of(RELEASE_EVERY) && releasing.is_empty() {
            let shared = Arc::clone(&shared);
            releasing.spawn(async move { release_old(&shared).await });
        }
    }
}

/// Beside the rounds: it waits for locks, a barrier's perhaps, and whoever waits here gives signs
/// of life all the same.
async fn close_all(shared: Arc<Shared>, suspects: Vec<Epoch>) {
    let mut is_news = false;
    for suspect in suspects {
        is_news |= close(&shared, suspect, SILENT).await.is_ok();
    }
    if is_news {
        shared.wake();
    }
}

/// Answers whom to close.
async fn round(shared: &Shared) -> Vec<Epoch> {
    let own = shared.known().own().epoch;
    // One that is lost leaves time for another before the others take this member for dead.
    let limit = shared.options.suspect_after / BEATS_LOST;
    let beat = shared.desk.table.beat(own);
    let beats = match shared.desk.ask_within(limit, beat).await {
        Ok(beats) => beats,
        Err(error) => {
            tracing::debug!(target: "unanimous", %error, "no sign of life could be given");
            return Vec::new();
        }
    };
    if !beats
        .iter()
        .any(|beat| beat.epoch == own && !beat.is_closed)
    {
        join_anew(shared).await;
        return Vec::new();
    }
    let closed = beats.iter().filter(|beat| beat.is_closed);
    let news: Vec<_> = {
        let mut known = shared.known();
        closed.filter(|beat| known.see_closed(beat.epoch)).collect()
    };
    if !news.is_empty() {
        shared.wake();
    }
    shared.watch.round(own, &beats)
}

/// Why an epoch is closed, for people.
const SILENT: &str = "closed the epoch of a member that gave no sign of life";
pub(super) const ASKED: &str = "closed an epoch, as somebody has asked for";

pub(super) async fn close(
    shared: &Shared,
    epoch: Epoch,
    why: &'static str,
) -> Result<(), LogError> {
    let closed = shared.desk.ask(shared.desk.table.close(epoch)).await;
    if let Err(error) = closed {
        tracing::warn!(target: "unanimous", %epoch, %error, "an epoch could not be closed yet");
        return Err(log_error(error));
    }
    let is_news = shared.known().see_closed(epoch);
    tracing::warn!(target: "unanimous", %epoch, is_news, "{why}; its branches are ended now");
    Ok(())
}

/// The own epoch was closed by somebody else, or the log's database is another server than the one
/// on which it was opened: what is under way is refused, and new transactions get a new epoch.
async fn join_anew(shared: &Shared) {
    let _joining = shared.joining.lock().await;
    if shared.known().is_shut_down() {
        return;
    }
    let before = shared.known().own();
    match try_join_anew(shared).await {
        Ok(()) => {
            let now = shared.known().own();
            tracing::warn!(target: "unanimous", before = %before.epoch, now = %now.epoch,
                "this member's epoch was closed; it goes on under a new one");
            shared.wake();
        }
        Err(error) => {
            tracing::warn!(target: "unanimous", %error, "cannot join the decision log anew yet");
        }
    }
}

async fn try_join_anew(shared: &Shared) -> Result<(), LogError> {
    let before = shared.known().own();
    let table = &shared.desk.table;
    // A member has one open epoch. One that a fail-over has lost is none, or another member's.
    let found = shared.desk.ask(table.find(before.gtrid(0), None)).await;
    if found.map_err(log_error)?.opening.is_some() {
        let closed = shared.desk.ask(table.close(before.epoch)).await;
        closed.map_err(log_error)?;
    }
    shared.known().see_closed(before.epoch);
    // Before it leaves an opening there.
    let state = shared.desk.ask(table.check()).await.map_err(log_error)?;
    refuse_other(shared, before.manager, state.manager)?;
    let random = u64::from_le_bytes(random()?);
    let joined = shared.desk.ask(table.join(random, &shared.label)).await;
    let joined = joined.map_err(log_error)?;
    refuse_other(shared, before.manager, joined.opening.manager)?;
    *shared.state() = state;
    shared.known().join(joined);
    Ok(())
}

/// At the end: nothing is asked any more under what was this member's own before, either. Lost, it
/// is released by another, later.
pub(super) async fn release_left(shared: &Shared) {
    let left = shared.known().left().to_vec();
    let table = &shared.desk.table;
    for opening in left {
        // After a fail-over its number may be another member's.
        let Ok(found) = shared.desk.ask(table.find(opening.gtrid(0), None)).await else {
            return;
        };
        if found
            .opening
            .is_some_and(|row| row.is_closed && !row.is_released)
        {
            let _ = shared.desk.ask(table.release(opening.epoch)).await;
        }
    }
}

fn refuse_other(shared: &Shared, own: ManagerId, there: ManagerId) -> Result<(), LogError> {
    if own == there {
        return Ok(());
    }
    let place = shared.desk.table.place();
    let text = format!("{place} holds another manager's log now: restart this process");
    Err(LogError::new(text))
}

async fn release_old(shared: &Shared) {
    let table = &shared.desk.table;
    let Ok(epochs) = shared.desk.ask(table.closed_for(OWNER_ASKS)).await else {
        return;
    };
    let Ok(snapshot) = shared.desk.ask(table.read(Epoch(0), None)).await else {
        return;
    };
    let is_pending = |epoch: &Epoch| {
        let mut pending = snapshot.pending.iter();
        pending.any(|row| row.gtrid.opening.epoch == *epoch)
    };
    for epoch in epochs.into_iter().filter(|epoch| !is_pending(epoch)) {
        if let Err(error) = shared.desk.ask(table.release(epoch)).await {
            // Where one is not answered, the next would wait as long.
            tracing::debug!(target: "unanimous", %epoch, %error, "released later");
            return;
        }
    }
}

/// As far as this member knows.
pub(super) fn list(shared: &Shared, own_is_member: bool) -> Vec<Member> {
    let known = shared.known();
    let own = known.own();
    let interval = shared.options.suspect_after / ROUNDS;
    let member = |row: &unanimous_core::ports::OpeningRow| Member {
        opening: row.opening,
        label: row.label.clone(),
        is_self: own_is_member && row.opening == own,
        silent_for: interval * shared.watch.rounds_silent(row.opening.epoch),
        is_closed: row.is_closed,
    };
    known.rows().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(epoch: u32, count: u64) -> Beat {
        Beat {
            epoch: Epoch(epoch),
            count,
            age: Duration::ZERO,
            is_closed: false,
        }
    }

    #[test]
    fn i5_one_that_gives_signs_of_life_is_never_suspected() {
        let watch = Watch::default();
        for count in 0..100 {
            let beats = [beat(1, 7), beat(2, count)];
            assert_eq!(watch.round(Epoch(1), &beats), []);
        }
    }

    #[test]
    fn i6_one_of_the_living_closes_a_silent_one_and_the_others_do_if_it_does_not() {
        let watches: Vec<_> = (1..=3).map(|own| (Epoch(own), Watch::default())).collect();
        let mut first = Vec::new();
        for count in 0..u64::from(2 * ROUNDS) {
            let beats = [beat(1, count), beat(2, count), beat(3, count), beat(9, 5)];
            for (own, watch) in &watches {
                if watch.round(*own, &beats) == [Epoch(9)] {
                    first.push((count, *own));
                }
            }
        }
        let pick = picked(Epoch(9), &[Epoch(1), Epoch(2), Epoch(3)]).unwrap();
        assert_eq!(first.first(), Some(&(u64::from(ROUNDS), pick)));
        assert!(first.iter().all(|(_, own)| *own == pick), "{first:?}");
        for (own, watch) in &watches {
            let beats = [beat(1, 99), beat(2, 99), beat(3, 99), beat(9, 5)];
            assert_eq!(watch.round(*own, &beats), [Epoch(9)], "{own}");
        }
    }

    #[test]
    fn i5_whoever_was_paused_has_seen_nobody_silent() {
        let watch = Watch::default();
        watch.round(Epoch(1), &[beat(1, 1), beat(2, 1)]);
        // A day later; the other one has lived all the time.
        assert_eq!(watch.round(Epoch(1), &[beat(1, 2), beat(2, 80_000)]), []);
        // Or has stood still, too.
        assert_eq!(watch.round(Epoch(1), &[beat(1, 3), beat(2, 80_000)]), []);
    }

    #[test]
    fn every_member_is_picked_for_some() {
        let alive = [Epoch(1), Epoch(2), Epoch(3)];
        let picks: std::collections::BTreeSet<_> = (10..60)
            .filter_map(|suspect| picked(Epoch(suspect), &alive))
            .collect();
        assert_eq!(picks.len(), 3);
        assert_eq!(picked(Epoch(1), &[]), None);
    }
}
