//! What the log in memory holds, and what each record changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unanimous_core::ports::{ByHand, DecideError, DecisionRecord, Lookup, OpeningState, Refusal};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use super::Planned;
use crate::journal::{Event, Journal, LogStep};

pub(super) struct LogState {
    pub(super) manager: ManagerId,
    pub(super) openings: Vec<OpeningState>,
    pub(super) decided: BTreeMap<Gtrid, (LogSeq, DecisionRecord)>,
    pub(super) completed: BTreeSet<Gtrid>,
    pub(super) completed_lazily: BTreeSet<Gtrid>,
    pub(super) heuristics: BTreeMap<Gtrid, Vec<(ResourceName, Heuristic)>>,
    pub(super) by_hand: Vec<ByHand>,
    pub(super) next_seq: u64,
    pub(super) planned: VecDeque<Planned>,
    /// Decisions that are held up, per epoch.
    pub(super) in_flight: BTreeMap<Epoch, usize>,
    /// The opening of whoever opened the log last.
    pub(super) latest: Option<Arc<Mutex<Opening>>>,
    /// How long whatever is asked takes on its way, and its answer.
    pub(super) latency: Duration,
    pub(super) journal: Journal,
}

impl LogState {
    pub(super) fn next_opening(&mut self) -> Opening {
        let last = self.openings.iter().map(|listed| listed.opening.epoch.0);
        let opening = Opening {
            manager: self.manager,
            epoch: Epoch(last.max().unwrap_or(0) + 1),
            nonce: random(),
        };
        self.openings.push(OpeningState {
            opening,
            closed: false,
        });
        self.journal
            .push(Event::Log(LogStep::Opened(opening.epoch)));
        opening
    }

    /// A forced write takes the lazy ones before it along.
    pub(super) fn force(&mut self) {
        self.completed.append(&mut self.completed_lazily);
    }

    pub(super) fn is_open(&self, opening: Opening) -> bool {
        let mut listed = self.openings.iter();
        listed.any(|listed| listed.opening == opening && !listed.closed)
    }

    pub(super) fn record(&mut self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let gtrid = decision.gtrid;
        if let Some((seq, _)) = self.decided.get(&gtrid) {
            return Ok(*seq);
        }
        if !self.is_open(gtrid.opening) {
            return Err(DecideError::Refused(Refusal::EpochClosed));
        }
        self.force();
        self.next_seq += 1;
        let seq = LogSeq(self.next_seq);
        self.decided.insert(gtrid, (seq, decision.clone()));
        self.journal.push(Event::Log(LogStep::Decided(gtrid)));
        Ok(seq)
    }

    /// Without heuristic ends.
    pub(super) fn lookup(&self, gtrid: Gtrid) -> Lookup {
        if self.completed.contains(&gtrid) {
            return Lookup::Completed;
        }
        if let Some((_, decision)) = self.decided.get(&gtrid) {
            return Lookup::Pending(decision.clone());
        }
        let mut openings = self.openings.iter();
        match openings.find(|listed| listed.opening == gtrid.opening) {
            None => Lookup::UnknownOpening,
            Some(OpeningState { closed: true, .. }) => Lookup::NoRecord,
            Some(OpeningState { closed: false, .. }) => Lookup::Open,
        }
    }

    pub(super) fn close(&mut self, epoch: Epoch) {
        self.force();
        for listed in &mut self.openings {
            if listed.opening.epoch == epoch && !listed.closed {
                listed.closed = true;
                self.journal.push(Event::Log(LogStep::Closed(epoch)));
            }
        }
    }
}

pub(super) fn random() -> u64 {
    // Each `RandomState` has keys of its own; nothing here has to resist guessing.
    RandomState::new().build_hasher().finish()
}
