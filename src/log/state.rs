//! What a log says, in memory: openings, pending decisions, completed and heuristic ones.
//!
//! Promises: it holds only what is durable, with one exception that can harm nobody: a completion
//! counts at once and is made durable lazily (losing it costs a look, never a transaction). Its
//! size is bounded by the pending decisions, the retained completed ones, and the openings and
//! heuristic ends, of which there are few.

use std::collections::{BTreeMap, VecDeque};

use unanimous_core::ports::{
    ByHand, DecisionRecord, HandRow, HeuristicEnd, LogError, Lookup, OpeningState, UnixTime,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use super::hand;
use super::record::{Id, Record, decided_at, decode_decision, encode};
use super::segment::Batch;

/// What a record changes.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Opened {
        epoch: Epoch,
        nonce: u64,
    },
    Closed {
        epoch: Epoch,
    },
    /// `bytes` is the encoded record.
    Decided {
        id: Id,
        bytes: Box<[u8]>,
    },
    Completed {
        id: Id,
    },
    Heuristic {
        id: Id,
        resource: ResourceName,
        heuristic: Heuristic,
        when: UnixTime,
    },
    Doubtful {
        epoch: Epoch,
    },
    ByHand(Box<HandRow>),
}

/// What is durable of one transaction's decision.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recorded<'a> {
    Pending(LogSeq, &'a [u8]),
    Completed(LogSeq),
    Not,
}

#[derive(Debug, Clone, Copy)]
struct Listed {
    nonce: u64,
    closed: bool,
    doubtful: bool,
}

#[derive(Debug, Clone)]
struct Pending {
    at: LogSeq,
    bytes: Box<[u8]>,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct State {
    manager: ManagerId,
    openings: BTreeMap<Epoch, Listed>,
    /// The listed opening that is not closed, if there is one: a log has one at a time.
    open: Option<Opening>,
    pending: BTreeMap<Id, Pending>,
    completed: BTreeMap<Id, LogSeq>,
    /// The keys of `completed`, oldest first.
    completed_order: VecDeque<Id>,
    retain_completed: usize,
    heuristics: BTreeMap<Id, Vec<End>>,
    /// In the order in which they came.
    by_hand: Vec<HandRow>,
}

/// A branch that ended against the decision.
#[derive(Debug, Clone)]
struct End {
    resource: ResourceName,
    heuristic: Heuristic,
    when: UnixTime,
}

impl State {
    pub(super) fn new(manager: ManagerId, retain_completed: usize) -> Self {
        Self {
            manager,
            openings: BTreeMap::new(),
            open: None,
            pending: BTreeMap::new(),
            completed: BTreeMap::new(),
            completed_order: VecDeque::new(),
            retain_completed,
            heuristics: BTreeMap::new(),
            by_hand: Vec::new(),
        }
    }

    /// Takes in a record that is durable at `at`. Idempotent: a record that comes again, as a
    /// completion that a snapshot holds already may, changes nothing.
    pub(super) fn apply(&mut self, change: Change, at: LogSeq) {
        match change {
            Change::Opened { epoch, nonce } => {
                let listed = Listed {
                    nonce,
                    closed: false,
                    doubtful: false,
                };
                self.openings.insert(epoch, listed);
                self.open = Some(self.opening(epoch, listed));
            }
            Change::Closed { epoch } => {
                if let Some(listed) = self.openings.get_mut(&epoch) {
                    listed.closed = true;
                }
                if self.open.is_some_and(|open| open.epoch == epoch) {
                    self.open = None;
                }
            }
            Change::Decided { id, bytes } => {
                self.pending.insert(id, Pending { at, bytes });
            }
            Change::Completed { id } => self.apply_completed(id, at),
            Change::Heuristic {
                id,
                resource,
                heuristic,
                when,
            } => {
                let end = End {
                    resource,
                    heuristic,
                    when,
                };
                self.apply_heuristic(id, end);
            }
            Change::Doubtful { epoch } => {
                if let Some(listed) = self.openings.get_mut(&epoch) {
                    listed.doubtful = true;
                }
            }
            Change::ByHand(row) => self.apply_by_hand(*row),
        }
    }

    /// What is known for certain stays.
    fn apply_heuristic(&mut self, id: Id, end: End) {
        let ends = self.heuristics.entry(id).or_default();
        match ends.iter_mut().find(|has| has.resource == end.resource) {
            None => ends.push(end),
            Some(has) if has.heuristic == Heuristic::Hazard && end.heuristic != has.heuristic => {
                *has = end;
            }
            Some(_) => {}
        }
    }

    fn apply_by_hand(&mut self, row: HandRow) {
        match self.by_hand.iter_mut().find(|has| has.id == row.id) {
            Some(has) => hand::advance(has, row.state),
            None => self.by_hand.push(row),
        }
    }

    fn apply_completed(&mut self, id: Id, at: LogSeq) {
        let at = self.pending.remove(&id).map_or(at, |pending| pending.at);
        if self.completed.contains_key(&id) {
            return;
        }
        self.completed.insert(id, at);
        self.completed_order.push_back(id);
        while self.completed_order.len() > self.retain_completed {
            if let Some(oldest) = self.completed_order.pop_front() {
                self.completed.remove(&oldest);
            }
        }
    }

    /// Completes a pending decision; `false` if it is not pending.
    pub(super) fn complete(&mut self, gtrid: Gtrid) -> bool {
        let id = Id::of(gtrid);
        let Some(at) = self.pending.get(&id).map(|pending| pending.at) else {
            return false;
        };
        if !self.is_listed(gtrid.opening) {
            return false;
        }
        self.apply_completed(id, at);
        true
    }

    pub(super) fn manager(&self) -> ManagerId {
        self.manager
    }

    /// The opening to list next, which closes all others when it is applied to a new segment.
    ///
    /// # Errors
    /// The log has been opened as often as an epoch can count.
    pub(super) fn next_opening(&self, nonce: u64) -> Result<Opening, LogError> {
        let last = self
            .openings
            .last_key_value()
            .map_or(0, |(epoch, _)| epoch.0);
        let epoch = last
            .checked_add(1)
            .ok_or_else(|| LogError::new("no epoch is left: begin a new log in another folder"))?;
        Ok(Opening {
            manager: self.manager,
            epoch: Epoch(epoch),
            nonce,
        })
    }

    /// Lists `opening` and closes every other: the log's lock proves that their owners are gone.
    pub(super) fn open(&mut self, opening: Opening) {
        self.close_all();
        let change = Change::Opened {
            epoch: opening.epoch,
            nonce: opening.nonce,
        };
        self.apply(change, LogSeq(0));
    }

    /// Takes in what another state of this log holds besides, which was durable once. If it lists
    /// other openings by the same numbers, this one is another's, and the other takes its place.
    /// Whether anything was missing here.
    pub(super) fn take_over(&mut self, held: Self) -> bool {
        let is_other = |(epoch, listed): (&Epoch, &Listed)| {
            let has = self.openings.get(epoch);
            has.is_some_and(|has| has.nonce != listed.nonce)
        };
        if held.openings.iter().any(is_other) {
            *self = held;
            return true;
        }
        let mut was_missing = false;
        for (epoch, listed) in held.openings {
            was_missing |= !self.openings.contains_key(&epoch);
            let has = self.openings.entry(epoch).or_insert(listed);
            has.closed |= listed.closed;
            has.doubtful |= listed.doubtful;
        }
        for (id, pending) in held.pending {
            if !self.completed.contains_key(&id) {
                was_missing |= !self.pending.contains_key(&id);
                self.pending.entry(id).or_insert(pending);
            }
        }
        for id in held.completed_order {
            let is_known = self.pending.contains_key(&id) || self.completed.contains_key(&id);
            was_missing |= !is_known;
            let at = held.completed.get(&id).copied().unwrap_or(LogSeq(0));
            self.apply_completed(id, at);
        }
        for (id, ends) in held.heuristics {
            for end in ends {
                self.apply_heuristic(id, end);
            }
        }
        for row in held.by_hand {
            self.apply_by_hand(row);
        }
        was_missing
    }

    /// Nobody has the log open.
    pub(super) fn close_all(&mut self) {
        for listed in self.openings.values_mut() {
            listed.closed = true;
        }
        self.open = None;
    }

    pub(super) fn is_listed(&self, opening: Opening) -> bool {
        if self.is_open(opening) {
            return true;
        }
        let listed = self.openings.get(&opening.epoch);
        opening.manager == self.manager
            && listed.is_some_and(|listed| listed.nonce == opening.nonce)
    }

    /// `None` if no such epoch is listed.
    pub(super) fn is_closed(&self, epoch: Epoch) -> Option<bool> {
        self.openings.get(&epoch).map(|listed| listed.closed)
    }

    /// Decisions of this epoch may be missing.
    pub(super) fn is_doubtful(&self, epoch: Epoch) -> bool {
        let listed = self.openings.get(&epoch);
        listed.is_some_and(|listed| listed.doubtful)
    }

    pub(super) fn is_open(&self, opening: Opening) -> bool {
        self.open == Some(opening)
    }

    pub(super) fn recorded(&self, gtrid: Gtrid) -> Recorded<'_> {
        let id = Id::of(gtrid);
        if !self.is_listed(gtrid.opening) {
            return Recorded::Not;
        }
        match (self.pending.get(&id), self.completed.get(&id)) {
            (Some(pending), _) => Recorded::Pending(pending.at, &pending.bytes),
            (None, Some(at)) => Recorded::Completed(*at),
            (None, None) => Recorded::Not,
        }
    }

    /// What the port's `lookup` answers. A heuristic end is told before anything else.
    pub(super) fn lookup(&self, gtrid: Gtrid) -> Lookup {
        if !self.is_listed(gtrid.opening) {
            return Lookup::UnknownOpening;
        }
        let beside = match self.recorded(gtrid) {
            Recorded::Pending(_, bytes) => Lookup::Pending(decision(gtrid, bytes)),
            Recorded::Completed(_) => Lookup::Completed,
            Recorded::Not if self.is_open(gtrid.opening) => Lookup::Open,
            Recorded::Not if self.is_doubtful(gtrid.opening.epoch) => Lookup::MayBeLost,
            Recorded::Not => Lookup::NoRecord,
        };
        match self.heuristics.get(&Id::of(gtrid)) {
            None => beside,
            Some(ends) => Lookup::Heuristic {
                ends: ends
                    .iter()
                    .map(|end| (end.resource.clone(), end.heuristic))
                    .collect(),
                beside: Box::new(beside),
            },
        }
    }

    pub(super) fn pending(&self) -> Vec<DecisionRecord> {
        let gtrids = self
            .pending
            .iter()
            .filter_map(|(id, pending)| Some((self.gtrid(*id)?, &pending.bytes)));
        gtrids
            .map(|(gtrid, bytes)| decision(gtrid, bytes))
            .collect()
    }

    /// The oldest first.
    #[cfg(feature = "operator")]
    pub(super) fn completed(&self) -> Vec<Gtrid> {
        let order = self.completed_order.iter();
        order.filter_map(|id| self.gtrid(*id)).collect()
    }

    pub(super) fn heuristics(&self) -> Vec<HeuristicEnd> {
        let of_one = |(id, ends): (&Id, &Vec<End>)| {
            let gtrid = self.gtrid(*id)?;
            let ends = ends.clone().into_iter();
            Some(ends.map(move |end| HeuristicEnd {
                gtrid,
                resource: end.resource,
                end: end.heuristic,
                when: known(end.when),
            }))
        };
        self.heuristics
            .iter()
            .filter_map(of_one)
            .flatten()
            .collect()
    }

    /// As they came. They were checked when they were taken in.
    pub(super) fn by_hand(&self) -> Vec<ByHand> {
        self.by_hand.iter().filter_map(hand::read).collect()
    }

    #[cfg(feature = "operator")]
    pub(super) fn by_hand_rows(&self) -> Vec<HandRow> {
        self.by_hand.clone()
    }

    /// When a pending decision was made, if that is known.
    pub(super) fn decided_at(&self, gtrid: Gtrid) -> Option<UnixTime> {
        match self.recorded(gtrid) {
            Recorded::Pending(_, bytes) => decided_at(bytes).and_then(known),
            Recorded::Completed(_) | Recorded::Not => None,
        }
    }

    pub(super) fn openings(&self) -> Vec<OpeningState> {
        let states = self.openings.iter().map(|(epoch, listed)| OpeningState {
            opening: self.opening(*epoch, *listed),
            closed: listed.closed,
        });
        states.collect()
    }

    fn opening(&self, epoch: Epoch, listed: Listed) -> Opening {
        Opening {
            manager: self.manager,
            epoch,
            nonce: listed.nonce,
        }
    }

    fn gtrid(&self, id: Id) -> Option<Gtrid> {
        let listed = self.openings.get(&id.epoch)?;
        Some(self.opening(id.epoch, *listed).gtrid(id.sequence))
    }

    /// Everything, as the batch that a new segment begins with.
    pub(super) fn snapshot(&self) -> Batch {
        let mut batch = Batch::new();
        for (epoch, listed) in &self.openings {
            let (epoch, nonce) = (*epoch, listed.nonce);
            batch.push(|out| encode(&Record::Opened { epoch, nonce }, out));
            if listed.closed {
                batch.push(|out| encode(&Record::Closed { epoch }, out));
            }
            if listed.doubtful {
                batch.push(|out| encode(&Record::Doubtful { epoch }, out));
            }
        }
        for pending in self.pending.values() {
            batch.push(|out| out.extend_from_slice(&pending.bytes));
        }
        for id in &self.completed_order {
            batch.push(|out| encode(&Record::Completed { id: *id }, out));
        }
        for (id, ends) in &self.heuristics {
            for end in ends {
                let record = Record::Heuristic {
                    id: *id,
                    resource: end.resource.as_str(),
                    heuristic: end.heuristic,
                    when: end.when,
                };
                batch.push(|out| encode(&record, out));
            }
        }
        for row in &self.by_hand {
            let record = Record::ByHand(Box::new(row.clone()));
            batch.push(|out| encode(&record, out));
        }
        batch
    }
}

/// Zero is written where nothing is known.
fn known(when: UnixTime) -> Option<UnixTime> {
    (when.0 != 0).then_some(when)
}

/// # Panics
/// When the bytes are not the decision's: they were checked when they were taken in.
fn decision(gtrid: Gtrid, bytes: &[u8]) -> DecisionRecord {
    decode_decision(gtrid, bytes).expect("a decision is kept as it was encoded")
}
