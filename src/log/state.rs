//! What a log says, in memory: openings, pending decisions, completed and heuristic ones.
//!
//! Promises: it holds only what is durable, with one exception that can harm nobody: a completion
//! counts at once and is made durable lazily (losing it costs a look, never a transaction). Its
//! size is bounded by the pending decisions, the retained completed ones, and the openings and
//! heuristic ends, of which there are few.

use std::collections::{BTreeMap, VecDeque};

use unanimous_core::ports::{DecisionRecord, LogError, Lookup, OpeningState};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use super::record::{Id, Record, decode_decision, encode};
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
    },
    Doubtful {
        epoch: Epoch,
    },
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

#[derive(Debug)]
struct Pending {
    at: LogSeq,
    bytes: Box<[u8]>,
}

/// See the module.
#[derive(Debug)]
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
    heuristics: BTreeMap<Id, Vec<(ResourceName, Heuristic)>>,
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
            } => {
                let ends = self.heuristics.entry(id).or_default();
                if !ends.contains(&(resource.clone(), heuristic)) {
                    ends.push((resource, heuristic));
                }
            }
            Change::Doubtful { epoch } => {
                if let Some(listed) = self.openings.get_mut(&epoch) {
                    listed.doubtful = true;
                }
            }
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
        for listed in self.openings.values_mut() {
            listed.closed = true;
        }
        let change = Change::Opened {
            epoch: opening.epoch,
            nonce: opening.nonce,
        };
        self.apply(change, LogSeq(0));
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

    /// What the port's `lookup` answers. A heuristic end is told before anything else; whether the
    /// transaction still has to be committed elsewhere is what [`State::pending`] says.
    pub(super) fn lookup(&self, gtrid: Gtrid) -> Lookup {
        if !self.is_listed(gtrid.opening) {
            return Lookup::UnknownOpening;
        }
        if let Some(ends) = self.heuristics.get(&Id::of(gtrid)) {
            return Lookup::Heuristic(ends.clone());
        }
        match self.recorded(gtrid) {
            Recorded::Pending(_, bytes) => Lookup::Pending(decision(gtrid, bytes)),
            Recorded::Completed(_) => Lookup::Completed,
            Recorded::Not if self.is_open(gtrid.opening) => Lookup::Open,
            Recorded::Not if self.is_doubtful(gtrid.opening.epoch) => Lookup::MayBeLost,
            Recorded::Not => Lookup::NoRecord,
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

    pub(super) fn heuristics(&self) -> Vec<(Gtrid, ResourceName, Heuristic)> {
        let of_one = |(id, ends): (&Id, &Vec<(ResourceName, Heuristic)>)| {
            let gtrid = self.gtrid(*id)?;
            let ends = ends.clone().into_iter();
            Some(ends.map(move |(resource, heuristic)| (gtrid, resource, heuristic)))
        };
        self.heuristics
            .iter()
            .filter_map(of_one)
            .flatten()
            .collect()
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
            for (resource, heuristic) in ends {
                let record = Record::Heuristic {
                    id: *id,
                    resource: resource.as_str(),
                    heuristic: *heuristic,
                };
                batch.push(|out| encode(&record, out));
            }
        }
        batch
    }
}

/// # Panics
/// When the bytes are not the decision's: they were checked when they were taken in.
fn decision(gtrid: Gtrid, bytes: &[u8]) -> DecisionRecord {
    decode_decision(gtrid, bytes).expect("a decision is kept as it was encoded")
}
