//! Decisions: put there, completed, deleted, read; and the row that a last resource brings.

use unanimous_core::ports::{
    Decided, DecisionRow, Ends, EpochSlot, Found, HandRow, NotedEnd, RowAnswer, RowState, SLOTS,
    ServerIdentity, Snapshot, TableError, UnixTime,
};
use unanimous_core::xid::{Epoch, Gtrid, ResourceName};

use super::{Attempt, Before, OpenRow, TableRows, unfit};
use crate::journal::LogStep;
use crate::server_state::Writes;

/// Its clock stands still.
const ITS_TIME: UnixTime = UnixTime(1_790_000_000);

impl TableRows {
    /// Whether this epoch decides, and whether it is released.
    fn slot(&self, at: EpochSlot) -> Result<(bool, bool), TableError> {
        self.writable()?;
        let line = self.openings.get(&at.epoch);
        let is_released = line.is_some_and(|line| line.row.is_released);
        match self.slots.get(&at.epoch) {
            Some(is_closed) if at.slot < SLOTS => Ok((!is_closed, is_released)),
            // Its slots are gone, and nothing is decided under it any more.
            None if is_released => Ok((false, true)),
            Some(_) | None => Err(unfit("there is no such slot")),
        }
    }

    fn is_locked(&self, gtrid: Gtrid) -> bool {
        self.open_rows.values().any(|open| open.row.gtrid == gtrid)
    }

    pub(crate) fn decide(
        &mut self,
        at: EpochSlot,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
    ) -> Attempt<Decided> {
        let is_elsewhere = home.is_some_and(|home| *home != self.identity);
        let (is_open, is_released) = match (self.slot(at), self.writable()) {
            (_, Ok(_)) if is_elsewhere => (false, false),
            (Ok(slot), _) => slot,
            (Err(error), _) => return Some(Err(error)),
        };
        let is_locked = rows.iter().any(|row| self.is_locked(row.gtrid));
        if is_open && (self.held_by.is_some() || is_locked) {
            return None;
        }
        let mut answers = Vec::new();
        for row in rows {
            answers.push(match self.row(row.gtrid) {
                Some(state) => RowAnswer::Stands(state),
                None if !is_open => RowAnswer::EpochClosed,
                None => {
                    self.insert_pending(row);
                    RowAnswer::Stands(RowState::Pending)
                }
            });
        }
        self.commit_forced();
        Some(Ok(Decided {
            identity: self.identity.clone(),
            answers,
            is_released,
        }))
    }

    /// The statement of a last resource: its row is there for nobody else yet, and locked.
    pub(crate) fn insert_last(
        &mut self,
        at: EpochSlot,
        row: DecisionRow,
    ) -> Result<u64, &'static str> {
        match self.slot(at) {
            Ok((true, _)) if self.held_by.is_some() => return Err("decisions are held"),
            Ok((true, _)) => {}
            Ok((false, _)) => return Err("the epoch is closed"),
            Err(_) => return Err("there is no such slot, or no table to write to"),
        }
        if self.row(row.gtrid).is_some() {
            return Err("a row with this key stands");
        }
        if self.is_locked(row.gtrid) {
            return Err("another transaction holds the key's lock");
        }
        self.next_open_row += 1;
        let open = OpenRow { at, row };
        self.open_rows.insert(self.next_open_row, open);
        Ok(self.next_open_row)
    }

    /// The branch of a last resource was rolled back.
    pub(crate) fn drop_last(&mut self, open_row: u64) {
        self.open_rows.remove(&open_row);
    }

    /// A branch in this database commits, with its row if it was a last resource.
    pub(crate) fn commit_branch(&mut self, open_row: Option<u64>, before: Writes) {
        if !before.is_empty() {
            self.changes.push(Before::Other(before));
        }
        let open = open_row.and_then(|number| self.open_rows.remove(&number));
        if let Some(open) = open {
            self.insert_pending(&open.row);
        }
        self.commit_forced();
    }

    pub(crate) fn put_rollback(&mut self, gtrid: Gtrid) -> Attempt<RowState> {
        if let Err(error) = self.writable() {
            return Some(Err(error));
        }
        if self.is_locked(gtrid) {
            return None;
        }
        let state = self.row(gtrid).unwrap_or_else(|| {
            self.set_decision(gtrid, Some((RowState::RolledBack, String::new())));
            RowState::RolledBack
        });
        self.commit_forced();
        Some(Ok(state))
    }

    pub(crate) fn complete(&mut self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        self.writable()?;
        for gtrid in gtrids {
            let row = self.decisions.get(gtrid).cloned();
            if let Some((RowState::Pending, branches)) = row {
                self.set_decision(*gtrid, Some((RowState::Completed, branches)));
                self.note(LogStep::Completed(*gtrid));
            }
        }
        self.commit_lazily();
        Ok(())
    }

    pub(crate) fn forget(&mut self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        self.writable()?;
        for gtrid in gtrids {
            if self.row(*gtrid) == Some(RowState::Completed) {
                self.set_decision(*gtrid, None);
            }
        }
        self.commit_lazily();
        Ok(())
    }

    pub(crate) fn record_heuristic(
        &mut self,
        gtrid: Gtrid,
        resource: &ResourceName,
        end: char,
    ) -> Result<(), TableError> {
        self.writable()?;
        let old = self.heuristics.clone();
        let noted = self.heuristics.entry(gtrid).or_default();
        match noted.iter_mut().find(|(other, _)| other == resource) {
            None => noted.push((resource.clone(), end)),
            Some((_, has)) if *has == 'h' => *has = end,
            Some(_) => {}
        }
        if *noted != old.get(&gtrid).cloned().unwrap_or_default() {
            self.changes.push(Before::Heuristics(old));
        }
        self.commit_forced();
        Ok(())
    }

    pub(crate) fn record_by_hand(&mut self, row: &HandRow) -> Result<(), TableError> {
        self.writable()?;
        let old = self.by_hand.clone();
        match self.by_hand.iter_mut().find(|has| has.id == row.id) {
            None => self.by_hand.push(row.clone()),
            Some(has) if matches!(has.state, 'I' | 'U') => has.state = row.state,
            Some(_) => {}
        }
        if self.by_hand != old {
            self.changes.push(Before::ByHand(old));
        }
        self.commit_forced();
        Ok(())
    }

    pub(crate) fn ends(&mut self, forced_by: Option<Epoch>) -> Result<Ends, TableError> {
        self.writable()?;
        self.force_by(forced_by);
        let noted = self.heuristics.iter().flat_map(|(gtrid, ends)| {
            ends.iter().map(|(resource, end)| NotedEnd {
                gtrid: *gtrid,
                resource: resource.clone(),
                end: *end,
                noted_at: Some(ITS_TIME),
            })
        });
        Ok(Ends {
            identity: self.identity.clone(),
            heuristics: noted.collect(),
            by_hand: self.by_hand.clone(),
        })
    }

    pub(crate) fn decided_at(
        &self,
        gtrids: &[Gtrid],
    ) -> Result<Vec<(Gtrid, UnixTime)>, TableError> {
        self.writable()?;
        let is_decided = |gtrid: &&Gtrid| {
            let row = self.decisions.get(gtrid);
            row.is_some_and(|(state, _)| *state != RowState::RolledBack)
        };
        let decided = gtrids.iter().filter(is_decided);
        Ok(decided.map(|gtrid| (*gtrid, ITS_TIME)).collect())
    }

    /// Forces what was read by a write of one's own, be the member's row there or not.
    fn force_by(&mut self, member: Option<Epoch>) {
        if member.is_some() {
            self.force();
        }
    }

    pub(crate) fn read(
        &mut self,
        from: Epoch,
        forced_by: Option<Epoch>,
    ) -> Result<Snapshot, TableError> {
        self.writable()?;
        self.force_by(forced_by);
        let lines = self.openings.iter();
        let listed = lines.filter(|(epoch, line)| **epoch >= from || !line.row.is_closed);
        let openings = listed.map(|(_, line)| line.row.clone()).collect();
        let rows = self.decisions.iter();
        let pending = rows.filter(|(_, (state, _))| *state == RowState::Pending);
        Ok(Snapshot {
            identity: self.identity.clone(),
            openings,
            pending: pending
                .map(|(gtrid, (_, branches))| DecisionRow {
                    gtrid: *gtrid,
                    branches: branches.clone(),
                })
                .collect(),
        })
    }

    pub(crate) fn find(
        &mut self,
        gtrid: Gtrid,
        forced_by: Option<Epoch>,
    ) -> Result<Found, TableError> {
        self.writable()?;
        self.force_by(forced_by);
        let line = self.openings.get(&gtrid.opening.epoch);
        let line = line.filter(|line| line.row.opening == gtrid.opening);
        Ok(Found {
            identity: self.identity.clone(),
            opening: line.map(|line| line.row.clone()),
            row: self.decisions.get(&gtrid).cloned(),
            heuristics: self.heuristics.get(&gtrid).cloned().unwrap_or_default(),
        })
    }
}
