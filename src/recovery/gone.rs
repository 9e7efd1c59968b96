//! Branches that people had meant to end, and that are gone: what is known here of how they ended,
//! and how long another member has to record what it knows.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use unanimous_core::ports::{ByHand, HandState, OpeningState};
use unanimous_core::xid::{Opening, ResourceName, Xid};

use super::lock;
use crate::manager::Inner;

#[derive(Default)]
pub(super) struct Gone {
    /// Since when it is seen that nobody says how it ended.
    since: Mutex<HashMap<Xid, Instant>>,
    /// Ended here by the decision: so nobody else has, whatever the log has taken of that.
    by_decision: Mutex<HashSet<Xid>>,
    members: Mutex<Members>,
}

/// Who else shares the log.
#[derive(Default)]
struct Members {
    open: HashSet<Opening>,
    /// When it was seen that they had been closed.
    closed: HashMap<Opening, Instant>,
}

/// One answer of the server, and one of the log: how long another member's pass takes to record
/// what it has ended. Its limits may be others than ours.
fn grace(inner: &Inner) -> Duration {
    inner.config.recovery_timeout * 2
}

impl Gone {
    /// Whether another member's pass may have ended it by the decision, and be about to record
    /// that. The members are those that are open; one whose epoch was closed just now may only be
    /// slow, unless it is the one that had meant to end the branch. What was closed longer ago is
    /// waited for no more: nobody might ever come back.
    pub(super) fn may_be_told_yet(&self, inner: &Inner, others: &[Opening], by: &ByHand) -> bool {
        let (gtrid, bqual) = (by.gtrid, by.resource.clone());
        let is_shared = !others.is_empty() || self.has_just_closed(inner, by.by);
        is_shared && !self.is_for_long(inner, &Xid { gtrid, bqual })
    }

    /// The first look is now, if there was none.
    fn is_for_long(&self, inner: &Inner, xid: &Xid) -> bool {
        let mut since = lock(&self.since);
        let since = *since.entry(xid.clone()).or_insert_with(Instant::now);
        since.elapsed() > grace(inner)
    }

    /// A member other than this one.
    fn has_just_closed(&self, inner: &Inner, author: Opening) -> bool {
        let members = lock(&self.members);
        let mut closed = members.closed.iter();
        closed.any(|(opening, at)| *opening != author && at.elapsed() <= grace(inner))
    }

    /// Takes note of who has been closed since the last look. Answers the others that are open.
    pub(super) fn note_members(
        &self,
        inner: &Inner,
        own: Opening,
        listed: impl IntoIterator<Item = OpeningState>,
    ) -> Vec<Opening> {
        let others = listed.into_iter();
        let others = others.filter(|listed| listed.opening != own && !listed.closed);
        let others: HashSet<_> = others.map(|listed| listed.opening).collect();
        let mut members = lock(&self.members);
        let Members { open, closed } = &mut *members;
        open.remove(&own);
        closed.retain(|_, at| at.elapsed() <= grace(inner));
        let now = Instant::now();
        closed.extend(open.difference(&others).map(|opening| (*opening, now)));
        open.clone_from(&others);
        others.into_iter().collect()
    }

    /// It is listed again, or yet.
    pub(super) fn is_back(&self, xid: &Xid) {
        lock(&self.since).remove(xid);
    }

    /// It was listed, and is ended otherwise now.
    pub(super) fn forget(&self, xid: &Xid) {
        self.is_back(xid);
        lock(&self.by_decision).remove(xid);
    }

    /// A pass has ended it by the decision.
    pub(super) fn note_by_decision(&self, xid: &Xid) {
        lock(&self.by_decision).insert(xid.clone());
    }

    pub(super) fn was_by_decision(&self, xid: &Xid) -> bool {
        lock(&self.by_decision).contains(xid)
    }

    /// Which are noted to have ended by the decision here.
    pub(super) fn noted(&self) -> HashSet<Xid> {
        lock(&self.by_decision).clone()
    }

    /// Of this resource, only what the log's open records are about; they were read after that was
    /// noted. One that is unproven is told already: what a pass has ended says nothing of whoever
    /// ends the branch when it has come back.
    pub(super) fn keep(&self, resource: &ResourceName, hands: &[ByHand], noted: &HashSet<Xid>) {
        let of = |is_meant: fn(HandState) -> bool| -> HashSet<_> {
            let meant = hands.iter().filter(|hand| is_meant(hand.state));
            meant.map(|hand| (hand.gtrid, &hand.resource)).collect()
        };
        let open = of(HandState::is_open);
        let intended = of(|state| state == HandState::Intended);
        let is_elsewhere = |xid: &Xid| xid.bqual != *resource;
        lock(&self.since)
            .retain(|xid, _| is_elsewhere(xid) || open.contains(&(xid.gtrid, &xid.bqual)));
        lock(&self.by_decision).retain(|xid| {
            let is_intended = intended.contains(&(xid.gtrid, &xid.bqual));
            is_elsewhere(xid) || is_intended || !noted.contains(xid)
        });
    }
}
