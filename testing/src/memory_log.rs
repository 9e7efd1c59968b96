//! A decision log in memory that fails on demand.
//!
//! Follows the contract of the port but for durability: the records live as long as a handle does.
//! A decision is kept from the moment it is recorded; `complete`, which is lazy, is kept only once
//! a forced write, a look or a shutdown has followed it, so [`MemoryLog::crash`] can lose it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};
use unanimous_core::ports::{
    ByHand, DecideError, DecisionLog, DecisionRecord, HeuristicEnd, LogError, LogHome, Lookup,
    OpeningState, Refusal, UnixTime,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use crate::gate::{Gate, Hang};
use crate::journal::{Event, Journal, LogStep};

mod state;

use state::{LogState, random};

/// Its clock stands still.
const ITS_TIME: UnixTime = UnixTime(1_790_000_000);

/// What goes wrong with one `decide`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecideFault {
    /// Answered "uncertain"; not recorded.
    LoseWrite,
    /// Answered "uncertain"; recorded.
    LoseReply,
    /// Refused for want of room; not recorded. (A closed epoch refuses without this.)
    Refuse,
}

enum Planned {
    Fault(DecideFault),
    Hang(Gate),
    Late(Gate),
}

struct Shared {
    state: Mutex<LogState>,
    /// Counts the crashes: whatever was held up before the last one never happens.
    crashes: watch::Sender<u64>,
    /// Moves whenever a decision that was held up has ended.
    landings: watch::Sender<u64>,
    is_exclusive: bool,
}

/// A decision log in memory. Cloning gives the same log: hand one clone to each manager that a test
/// starts.
#[derive(Clone)]
pub struct MemoryLog(Arc<Shared>);

/// Making one.
impl MemoryLog {
    /// A log for one process at a time, like a file: opening it crashes whoever had it open, and
    /// closes all earlier epochs.
    pub fn new() -> Self {
        Self::with(true, Journal::new())
    }

    /// A log for many members, like a table: epochs stay open until somebody closes them.
    pub fn shared() -> Self {
        Self::with(false, Journal::new())
    }

    /// A log for one process that writes into a given journal.
    pub fn with_journal(journal: Journal) -> Self {
        Self::with(true, journal)
    }

    fn with(is_exclusive: bool, journal: Journal) -> Self {
        let mut manager = [0; 10];
        manager[..8].copy_from_slice(&random().to_be_bytes());
        let state = LogState {
            manager: ManagerId::from_bytes(manager),
            openings: Vec::new(),
            decided: BTreeMap::new(),
            completed: BTreeSet::new(),
            completed_lazily: BTreeSet::new(),
            heuristics: BTreeMap::new(),
            by_hand: Vec::new(),
            next_seq: 0,
            planned: VecDeque::new(),
            in_flight: BTreeMap::new(),
            latest: None,
            latency: Duration::ZERO,
            journal,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            crashes: watch::Sender::new(0),
            landings: watch::Sender::new(0),
            is_exclusive,
        }))
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

/// Looking into it, and making it fail.
impl MemoryLog {
    /// Whose log it is.
    pub fn manager(&self) -> ManagerId {
        self.lock().manager
    }

    /// The decision for this transaction is recorded (completed or not).
    pub fn is_decided(&self, gtrid: Gtrid) -> bool {
        self.lock().decided.contains_key(&gtrid)
    }

    /// The transaction is noted as completed, be it lazily.
    pub fn is_completed(&self, gtrid: Gtrid) -> bool {
        let state = self.lock();
        state.completed.contains(&gtrid) || state.completed_lazily.contains(&gtrid)
    }

    /// How many decisions were ever recorded.
    pub fn decision_count(&self) -> usize {
        self.lock().decided.len()
    }

    /// What happened here.
    pub fn journal(&self) -> Journal {
        self.lock().journal.clone()
    }

    /// Lets the next `decide` fail. Faults are used up in order.
    pub fn fail_next_decide(&self, fault: DecideFault) {
        self.lock().planned.push_back(Planned::Fault(fault));
    }

    /// Lets the next `decide` hang. At its release it is recorded, or refused if its epoch was
    /// closed by then (which only a crash can do: `close` waits for it).
    pub fn hang_next_decide(&self) -> Hang {
        let gate = Gate::closed();
        self.lock().planned.push_back(Planned::Hang(gate.clone()));
        Hang(gate)
    }

    /// Answers the next `decide` at once with "uncertain"; it is recorded at the release.
    pub fn delay_next_decide(&self) -> Hang {
        let gate = Gate::closed();
        self.lock().planned.push_back(Planned::Late(gate.clone()));
        Hang(gate)
    }

    /// Lets whatever is asked take so long on its way, and its answer as long. A decision is
    /// recorded even if the caller gives up meanwhile.
    pub fn slow_down(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// The process that has it open dies: what was held up never happens, lazy records that
    /// nothing forced are lost.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.completed_lazily.clear();
        state.in_flight.clear();
        drop(state);
        self.0.crashes.send_modify(|count| *count += 1);
        self.0.landings.send_modify(|count| *count += 1);
    }

    /// Lets the log of whoever opened it last reopen itself under a new epoch, as a file log does
    /// after a failed write. The old epoch is closed; new transactions begin under the new one.
    pub fn reopen_itself(&self) {
        let mut state = self.lock();
        if let Some(latest) = state.latest.clone() {
            let mut opening = lock_opening(&latest);
            state.close(opening.epoch);
            *opening = state.next_opening();
        }
    }

    /// Drops everything that is recorded of completed transactions, as a log that keeps its size
    /// bounded does in the end.
    pub fn forget_completed(&self) {
        let mut state = self.lock();
        state.force();
        for gtrid in std::mem::take(&mut state.completed) {
            state.decided.remove(&gtrid);
        }
    }

    /// A question or its answer is on its way.
    async fn travel(&self) {
        let latency = self.lock().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_now(&self) -> MemoryLogMember {
        if self.0.is_exclusive {
            self.crash();
        }
        let mut state = self.lock();
        if self.0.is_exclusive {
            for listed in &mut state.openings {
                listed.closed = true;
            }
        }
        let opening = Arc::new(Mutex::new(state.next_opening()));
        state.latest = Some(Arc::clone(&opening));
        drop(state);
        let log = self.clone();
        MemoryLogMember { log, opening }
    }
}

#[async_trait]
impl LogHome for MemoryLog {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        self.travel().await;
        let opened = Arc::new(self.open_now());
        self.travel().await;
        Ok(opened)
    }
}

struct MemoryLogMember {
    log: MemoryLog,
    opening: Arc<Mutex<Opening>>,
}

impl MemoryLogMember {
    fn hold_up(
        &self,
        gate: &Gate,
        decision: &DecisionRecord,
    ) -> oneshot::Receiver<Result<LogSeq, DecideError>> {
        let (sender, receiver) = oneshot::channel();
        let epoch = decision.gtrid.opening.epoch;
        *self.log.lock().in_flight.entry(epoch).or_default() += 1;
        let log = self.log.clone();
        let decision = decision.clone();
        let sent_after = *log.0.crashes.borrow();
        gate.submit(Box::new(move || {
            let mut state = log.lock();
            if *log.0.crashes.borrow() != sent_after {
                return;
            }
            let reply = state.record(&decision);
            if let Some(count) = state.in_flight.get_mut(&epoch) {
                *count -= 1;
            }
            drop(state);
            log.0.landings.send_modify(|count| *count += 1);
            // Nobody may be waiting any more; the record stays.
            let _ = sender.send(reply);
        }));
        receiver
    }
}

fn lock_opening(opening: &Mutex<Opening>) -> MutexGuard<'_, Opening> {
    opening.lock().unwrap_or_else(PoisonError::into_inner)
}

fn uncertain() -> DecideError {
    DecideError::Uncertain(LogError::new("the write was not confirmed; decide again"))
}

#[async_trait]
impl DecisionLog for MemoryLogMember {
    fn opening(&self) -> Opening {
        *lock_opening(&self.opening)
    }

    async fn decide(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let planned = {
            let mut state = self.log.lock();
            let asked = LogStep::Asked(decision.gtrid);
            state.journal.push(Event::Log(asked));
            match state.planned.pop_front() {
                None if state.latency.is_zero() => return state.record(decision),
                None => Planned::Hang(Gate::open_after(state.latency)),
                Some(Planned::Fault(DecideFault::LoseWrite)) => return Err(uncertain()),
                Some(Planned::Fault(DecideFault::LoseReply)) => {
                    state.record(decision)?;
                    return Err(uncertain());
                }
                Some(Planned::Fault(DecideFault::Refuse)) => {
                    let full = LogError::new("no room for a record; make room");
                    return Err(DecideError::Refused(Refusal::NotAttempted(full)));
                }
                Some(planned @ (Planned::Hang(_) | Planned::Late(_))) => planned,
            }
        };
        let (gate, waits) = match &planned {
            Planned::Hang(gate) => (gate, true),
            Planned::Late(gate) => (gate, false),
            Planned::Fault(_) => return Err(uncertain()),
        };
        let reply = self.hold_up(gate, decision);
        if !waits {
            return Err(uncertain());
        }
        let mut crashes = self.log.0.crashes.subscribe();
        let decided = tokio::select! {
            biased;
            reply = reply => reply.unwrap_or_else(|_| Err(uncertain())),
            _ = crashes.changed() => Err(uncertain()),
        };
        self.log.travel().await;
        decided
    }

    fn complete(&self, gtrid: Gtrid) {
        let mut state = self.log.lock();
        if state.decided.contains_key(&gtrid) && !state.completed.contains(&gtrid) {
            state.completed_lazily.insert(gtrid);
            state.journal.push(Event::Log(LogStep::Completed(gtrid)));
        }
    }

    async fn force(&self) -> Result<(), LogError> {
        self.log.travel().await;
        self.log.lock().force();
        Ok(())
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> Result<(), LogError> {
        self.log.travel().await;
        let mut state = self.log.lock();
        state.force();
        let found = state.heuristics.entry(gtrid).or_default();
        match found.iter_mut().find(|(name, _)| name == resource) {
            None => found.push((resource.clone(), heuristic)),
            Some((_, end)) if *end == Heuristic::Hazard => *end = heuristic,
            Some(_) => {}
        }
        Ok(())
    }

    async fn heuristics(&self) -> Result<Vec<HeuristicEnd>, LogError> {
        self.log.travel().await;
        let state = self.log.lock();
        let ends = state.heuristics.iter().flat_map(|(gtrid, ends)| {
            ends.iter().map(|(resource, end)| HeuristicEnd {
                gtrid: *gtrid,
                resource: resource.clone(),
                end: *end,
                when: Some(ITS_TIME),
            })
        });
        Ok(ends.collect())
    }

    async fn record_by_hand(&self, by_hand: &ByHand) -> Result<(), LogError> {
        self.log.travel().await;
        let mut state = self.log.lock();
        state.force();
        match state.by_hand.iter_mut().find(|has| has.id == by_hand.id) {
            None => state.by_hand.push(by_hand.clone()),
            Some(has) if has.state.is_open() => has.state = by_hand.state,
            Some(_) => {}
        }
        Ok(())
    }

    async fn by_hand(&self) -> Result<Vec<ByHand>, LogError> {
        self.log.travel().await;
        Ok(self.log.lock().by_hand.clone())
    }

    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, LogError> {
        let state = self.log.lock();
        let decided = gtrids
            .iter()
            .filter(|gtrid| state.decided.contains_key(gtrid));
        Ok(decided.map(|gtrid| (*gtrid, ITS_TIME)).collect())
    }

    async fn close(&self, epoch: Epoch) -> Result<(), LogError> {
        self.log.travel().await;
        let mut landings = self.log.0.landings.subscribe();
        loop {
            landings.mark_unchanged();
            {
                let mut state = self.log.lock();
                if state.in_flight.get(&epoch).is_none_or(|count| *count == 0) {
                    state.close(epoch);
                    return Ok(());
                }
            }
            // Fails only when the sender is gone, and the log holds it.
            let _ = landings.changed().await;
        }
    }

    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError> {
        self.log.travel().await;
        let mut state = self.log.lock();
        state.force();
        let beside = state.lookup(gtrid);
        Ok(match state.heuristics.get(&gtrid) {
            None => beside,
            Some(ends) => Lookup::Heuristic {
                ends: ends.clone(),
                beside: Box::new(beside),
            },
        })
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        self.log.travel().await;
        let mut state = self.log.lock();
        state.force();
        let decided = state.decided.iter();
        let pending = decided.filter(|(gtrid, _)| !state.completed.contains(gtrid));
        Ok(pending.map(|(_, (_, record))| record.clone()).collect())
    }

    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        self.log.travel().await;
        Ok(self.log.lock().openings.clone())
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        self.close(self.opening().epoch).await
    }
}
