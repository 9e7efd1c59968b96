//! The rows of a decision table in memory: its rules, without any waiting.
//!
//! * Every method is one transaction. A forced one takes all earlier ones along, as a database's
//!   own log does; a crash undoes whatever was not forced, newest first.
//! * The row of a last resource belongs to the branch's transaction until that ends: it locks its
//!   key and, shared, its epoch. What needs one of these answers `None`: try again later.

mod decisions;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use unanimous_core::ports::{
    Beat, DecisionRow, ELSEWHERE, EpochSlot, HandRow, OpeningRow, RowState, ServerIdentity,
    TableError, TableErrorKind, TableState,
};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use crate::journal::{Event, Journal, LogStep};
use crate::server_state::Writes;

/// How many forced transactions are remembered, for a fail-over that loses some.
const HISTORY_MAX: usize = 4096;

/// `None`: a lock is held.
pub(crate) type Attempt<R> = Option<Result<R, TableError>>;

#[derive(Debug, Clone)]
struct Line {
    row: OpeningRow,
    closed_at: Option<Instant>,
}

/// How often a member has given a sign of life, and when it did last.
type Pulse = (u64, Instant);

/// Branches that ended against the decision.
type Noted = BTreeMap<Gtrid, Vec<(ResourceName, char)>>;

/// What a row was before; nothing if it was not there.
#[derive(Debug)]
enum Before {
    Manager(Option<ManagerId>),
    Opening(Epoch, Option<Line>),
    Slots(Epoch, Option<bool>),
    Member(Epoch, Option<Pulse>),
    Decision(Gtrid, Option<(RowState, String)>),
    /// All of them.
    Heuristics(Noted),
    ByHand(Vec<HandRow>),
    /// Rows of the application, at the server that hosts the table.
    Other(Writes),
}

/// The row of a last resource whose branch has not ended.
#[derive(Debug)]
struct OpenRow {
    at: EpochSlot,
    row: DecisionRow,
}

pub(crate) struct TableRows {
    pub(crate) identity: ServerIdentity,
    pub(crate) is_writable: bool,
    /// Off: what is forced is visible, and a crash loses it all the same.
    pub(crate) is_forcing: bool,
    manager: Option<ManagerId>,
    openings: BTreeMap<Epoch, Line>,
    /// Whether they are closed.
    slots: BTreeMap<Epoch, bool>,
    members: BTreeMap<Epoch, Pulse>,
    decisions: BTreeMap<Gtrid, (RowState, String)>,
    heuristics: Noted,
    by_hand: Vec<HandRow>,
    open_rows: BTreeMap<u64, OpenRow>,
    /// Of the transaction that holds decisions.
    held_by: Option<u64>,
    next_open_row: u64,
    /// What the transaction that runs has changed.
    changes: Vec<Before>,
    forced: VecDeque<Vec<Before>>,
    unforced: Vec<Vec<Before>>,
    journal: Journal,
}

fn unfit(why: &str) -> TableError {
    TableError::new(TableErrorKind::Unfit, why)
}

/// What an independent client sees, and what goes wrong.
impl TableRows {
    pub(crate) fn new(identity: ServerIdentity, journal: Journal) -> Self {
        Self {
            identity,
            is_writable: true,
            is_forcing: true,
            manager: None,
            openings: BTreeMap::new(),
            slots: BTreeMap::new(),
            members: BTreeMap::new(),
            decisions: BTreeMap::new(),
            heuristics: BTreeMap::new(),
            by_hand: Vec::new(),
            open_rows: BTreeMap::new(),
            held_by: None,
            next_open_row: 0,
            changes: Vec::new(),
            forced: VecDeque::new(),
            unforced: Vec::new(),
            journal,
        }
    }

    pub(crate) fn row(&self, gtrid: Gtrid) -> Option<RowState> {
        self.decisions.get(&gtrid).map(|(state, _)| *state)
    }

    pub(crate) fn row_count(&self) -> usize {
        self.decisions.len()
    }

    pub(crate) fn openings(&self) -> Vec<OpeningRow> {
        self.openings
            .values()
            .map(|line| line.row.clone())
            .collect()
    }

    /// Loses what was not forced. Answers what the application's rows were before.
    pub(crate) fn crash(&mut self) -> Vec<Writes> {
        self.open_rows.clear();
        self.held_by = None;
        let lost = std::mem::take(&mut self.unforced);
        lost.into_iter().rev().flat_map(|t| self.undo(t)).collect()
    }

    /// Loses also the last so many transactions that were forced.
    pub(crate) fn lose_forced(&mut self, count: usize) -> Vec<Writes> {
        let mut others = self.crash();
        for _ in 0..count {
            let last = self.forced.pop_back().unwrap_or_default();
            others.extend(self.undo(last));
        }
        others
    }

    fn undo(&mut self, transaction: Vec<Before>) -> Vec<Writes> {
        let mut others = Vec::new();
        for before in transaction.into_iter().rev() {
            match before {
                Before::Manager(old) => self.manager = old,
                Before::Opening(epoch, old) => put(&mut self.openings, epoch, old),
                Before::Slots(epoch, old) => put(&mut self.slots, epoch, old),
                Before::Member(epoch, old) => put(&mut self.members, epoch, old),
                Before::Decision(gtrid, old) => put(&mut self.decisions, gtrid, old),
                Before::Heuristics(old) => self.heuristics = old,
                Before::ByHand(old) => self.by_hand = old,
                Before::Other(writes) => others.push(writes),
            }
        }
        others
    }
}

fn put<K: Ord, V>(rows: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => rows.insert(key, value),
        None => rows.remove(&key),
    };
}

/// Every change of a row, each with what it takes to undo it.
impl TableRows {
    fn set_opening(&mut self, epoch: Epoch, line: Line) {
        let old = self.openings.insert(epoch, line);
        self.changes.push(Before::Opening(epoch, old));
    }

    fn set_slots(&mut self, epoch: Epoch, is_closed: Option<bool>) {
        let old = self.slots.get(&epoch).copied();
        self.changes.push(Before::Slots(epoch, old));
        put(&mut self.slots, epoch, is_closed);
    }

    fn set_member(&mut self, epoch: Epoch, count: Option<u64>) {
        let old = self.members.get(&epoch).copied();
        self.changes.push(Before::Member(epoch, old));
        let now = Instant::now();
        put(&mut self.members, epoch, count.map(|count| (count, now)));
    }

    fn set_decision(&mut self, gtrid: Gtrid, row: Option<(RowState, String)>) {
        let old = self.decisions.get(&gtrid).cloned();
        self.changes.push(Before::Decision(gtrid, old));
        put(&mut self.decisions, gtrid, row);
    }

    fn insert_pending(&mut self, row: &DecisionRow) {
        self.set_decision(row.gtrid, Some((RowState::Pending, row.branches.clone())));
        self.note(LogStep::Decided(row.gtrid));
    }

    fn commit_forced(&mut self) {
        if !self.is_forcing {
            return self.commit_lazily();
        }
        self.force();
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.forced.push_back(changes);
        }
        if self.forced.len() > HISTORY_MAX {
            self.forced.pop_front();
        }
    }

    fn commit_lazily(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.unforced.push(changes);
        }
    }

    fn force(&mut self) {
        self.forced.extend(self.unforced.drain(..));
    }

    fn note(&self, step: LogStep) {
        self.journal.push(Event::Log(step));
    }
}

/// The table itself.
impl TableRows {
    /// Whose table it is, if it can be written to.
    fn writable(&self) -> Result<ManagerId, TableError> {
        if !self.is_writable {
            let why = "the server is a standby: ask the primary";
            return Err(TableError::new(TableErrorKind::Refused, why));
        }
        let missing = || TableError::new(TableErrorKind::Missing, "no tables here: make them");
        self.manager.ok_or_else(missing)
    }

    pub(crate) fn init(&mut self, manager: ManagerId) -> Result<(), TableError> {
        match self.writable() {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == TableErrorKind::Missing => {
                self.changes.push(Before::Manager(None));
                self.manager = Some(manager);
                self.commit_forced();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn check(&self) -> Result<TableState, TableError> {
        let manager = self.writable()?;
        Ok(TableState {
            manager,
            identity: self.identity.clone(),
            scope: self.identity.as_str().into(),
        })
    }

    pub(crate) fn join(&mut self, random: u64, label: &str) -> Attempt<OpeningRow> {
        match self.writable() {
            Ok(_) if self.held_by.is_some() => None,
            Ok(manager) => Some(Ok(self.join_of(manager, random, label))),
            Err(error) => Some(Err(error)),
        }
    }

    fn join_of(&mut self, manager: ManagerId, random: u64, label: &str) -> OpeningRow {
        let last = self.openings.keys().next_back();
        let epoch = Epoch(last.map_or(1, |last| last.0 + 1));
        let row = OpeningRow {
            opening: Opening {
                manager,
                epoch,
                nonce: random,
            },
            identity: self.identity.clone(),
            label: label.into(),
            is_closed: false,
            is_released: false,
        };
        let line = Line {
            row: row.clone(),
            closed_at: None,
        };
        self.set_opening(epoch, line);
        self.set_slots(epoch, Some(false));
        self.set_member(epoch, Some(0));
        self.commit_forced();
        self.note(LogStep::Opened(epoch));
        row
    }

    pub(crate) fn close(&mut self, epoch: Epoch) -> Attempt<()> {
        if let Err(error) = self.writable() {
            return Some(Err(error));
        }
        let Some(line) = self.openings.get(&epoch).cloned() else {
            return Some(Err(unfit("this epoch is not listed")));
        };
        let is_held = self.held_by.is_some() && !line.row.is_closed;
        if is_held || self.open_rows.values().any(|open| open.at.epoch == epoch) {
            return None;
        }
        if !line.row.is_closed {
            self.set_slots(epoch, Some(true));
            let mut closed = line;
            closed.row.is_closed = true;
            let opened_at = &closed.row.identity;
            if *opened_at != self.identity && !closed.row.is_doubtful() {
                let elsewhere = ServerIdentity::new(format!("{ELSEWHERE}{opened_at}"));
                closed.row.identity = elsewhere.unwrap_or_else(|| opened_at.clone());
            }
            closed.closed_at = Some(Instant::now());
            self.set_opening(epoch, closed);
            self.note(LogStep::Closed(epoch));
        }
        self.commit_forced();
        Some(Ok(()))
    }

    /// Answers by what it is known again.
    pub(crate) fn hold(&mut self) -> Attempt<u64> {
        if let Err(error) = self.writable() {
            return Some(Err(error));
        }
        if self.held_by.is_some() || !self.open_rows.is_empty() {
            return None;
        }
        self.next_open_row += 1;
        self.held_by = Some(self.next_open_row);
        Some(Ok(self.next_open_row))
    }

    pub(crate) fn is_held_by(&self, number: u64) -> bool {
        self.held_by == Some(number)
    }

    pub(crate) fn set_free(&mut self, number: u64) {
        if self.is_held_by(number) {
            self.held_by = None;
        }
    }

    pub(crate) fn release(&mut self, epoch: Epoch) -> Result<(), TableError> {
        self.writable()?;
        let line = self.openings.get(&epoch).cloned();
        let Some(mut line) = line.filter(|line| line.row.is_closed) else {
            return Err(unfit("only a closed epoch can be released"));
        };
        let is_over = |row: &(RowState, String)| row.0 != RowState::Pending;
        let ended = self.decisions.iter().filter(|(_, row)| is_over(row));
        let of_epoch = ended.filter(|(gtrid, _)| gtrid.opening.epoch == epoch);
        for gtrid in of_epoch.map(|(gtrid, _)| *gtrid).collect::<Vec<_>>() {
            self.set_decision(gtrid, None);
        }
        self.set_slots(epoch, None);
        self.set_member(epoch, None);
        line.row.is_released = true;
        self.set_opening(epoch, line);
        self.commit_lazily();
        Ok(())
    }

    pub(crate) fn beat(&mut self, own: Epoch) -> Result<Vec<Beat>, TableError> {
        self.writable()?;
        if let Some((count, _)) = self.members.get(&own).copied() {
            self.set_member(own, Some(count + 1));
        }
        self.commit_lazily();
        let members = self.members.iter();
        Ok(members
            .map(|(epoch, (count, at))| Beat {
                epoch: *epoch,
                count: *count,
                age: at.elapsed(),
                is_closed: self.is_closed(*epoch),
            })
            .collect())
    }

    fn is_closed(&self, epoch: Epoch) -> bool {
        let line = self.openings.get(&epoch);
        line.is_some_and(|line| line.row.is_closed)
    }

    pub(crate) fn closed_for(&self, age: Duration) -> Result<Vec<Epoch>, TableError> {
        self.writable()?;
        let is_old = |line: &&Line| {
            let since = line.closed_at.map(|at| at.elapsed());
            !line.row.is_released && since.is_some_and(|since| since >= age)
        };
        let lines = self.openings.values().filter(is_old);
        Ok(lines.map(|line| line.row.opening.epoch).collect())
    }
}
