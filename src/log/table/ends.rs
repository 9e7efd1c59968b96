//! What the table says of one transaction, of branches that ended otherwise, and of people.

use unanimous_core::ports::{
    ByHand, DecisionRecord, Found, HandRow, HeuristicEnd, LogError, Lookup, NotedEnd, RowState,
    UnixTime,
};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName};

use super::codec::{self, end_of};
use super::log_error;
use super::open::OpenTableLog;
use crate::log::hand;

/// How many rows are asked for at once.
const BATCH_MAX: usize = 500;

/// See [`OpenTableLog::found`].
pub(super) struct Answer {
    pub(super) ends: Vec<(ResourceName, Heuristic)>,
    pub(super) row: Lookup,
}

/// Heuristic ends are told before anything else.
pub(super) fn with_ends(ends: Vec<(ResourceName, Heuristic)>, beside: Lookup) -> Lookup {
    if ends.is_empty() {
        return beside;
    }
    let beside = Box::new(beside);
    Lookup::Heuristic { ends, beside }
}

/// As far as they can be read.
#[cfg(feature = "operator")]
pub(crate) fn read_ends(ends: &unanimous_core::ports::Ends) -> (Vec<HeuristicEnd>, Vec<ByHand>) {
    let noted = |noted: &NotedEnd| {
        Some(HeuristicEnd {
            gtrid: noted.gtrid,
            resource: noted.resource.clone(),
            end: end_of(noted.end)?,
            when: noted.noted_at,
        })
    };
    (
        ends.heuristics.iter().filter_map(noted).collect(),
        ends.by_hand.iter().filter_map(hand::read).collect(),
    )
}

impl OpenTableLog {
    /// What the rows mean.
    pub(super) fn found(&self, gtrid: Gtrid, found: Found) -> Result<Answer, LogError> {
        let ends = found.heuristics.iter();
        let ends = ends.map(|(name, letter)| Some((name.clone(), end_of(*letter)?)));
        let ends: Option<Vec<_>> = ends.collect();
        let ends = ends.ok_or_else(|| self.unreadable(gtrid))?;
        let row = self.row_of(gtrid, found)?;
        Ok(Answer { ends, row })
    }

    fn row_of(&self, gtrid: Gtrid, found: Found) -> Result<Lookup, LogError> {
        match (found.row, found.opening) {
            (Some((RowState::Pending, text)), _) => {
                let branches = codec::decode(&text).ok_or_else(|| self.unreadable(gtrid))?;
                Ok(Lookup::Pending(DecisionRecord { gtrid, branches }))
            }
            (Some((RowState::Completed, _)), _) => Ok(Lookup::Completed),
            (row, Some(opening)) if opening.opening == gtrid.opening => {
                let is_whole = self.shared.is_whole(&opening, &found.identity);
                // That it was rolled back may have been put there after a decision was lost.
                Ok(match (row.is_some() || opening.is_closed, is_whole) {
                    (false, _) => Lookup::Open,
                    (true, true) => Lookup::NoRecord,
                    (true, false) => Lookup::MayBeLost,
                })
            }
            (None | Some((RowState::RolledBack, _)), _) => Ok(Lookup::UnknownOpening),
        }
    }

    pub(super) async fn noted_ends(&self) -> Result<Vec<HeuristicEnd>, LogError> {
        let desk = &self.shared.desk;
        let ends = desk.ask(desk.table.ends(self.reader())).await;
        let ends = ends.map_err(log_error)?.heuristics.into_iter();
        let read = |noted: NotedEnd| {
            Ok(HeuristicEnd {
                gtrid: noted.gtrid,
                resource: noted.resource,
                end: end_of(noted.end).ok_or_else(|| self.unreadable(noted.gtrid))?,
                when: noted.noted_at,
            })
        };
        ends.map(read).collect()
    }

    pub(super) fn refuse_observer(&self) -> Result<(), LogError> {
        if self.is_member {
            return Ok(());
        }
        let place = self.shared.desk.table.place();
        Err(LogError::new(format!(
            "the decision log in {place} is only looked at: it records nothing"
        )))
    }

    pub(super) async fn note_by_hand(&self, by_hand: &ByHand) -> Result<(), LogError> {
        self.refuse_observer()?;
        let row = hand::row_of(by_hand);
        let desk = &self.shared.desk;
        let recorded = desk.ask(desk.table.record_by_hand(&row)).await;
        recorded.map_err(log_error)
    }

    pub(super) async fn noted_by_hand(&self) -> Result<Vec<ByHand>, LogError> {
        let desk = &self.shared.desk;
        let ends = desk.ask(desk.table.ends(self.reader())).await;
        let rows = ends.map_err(log_error)?.by_hand.into_iter();
        let read = |row: HandRow| hand::read(&row).ok_or_else(|| self.unreadable(row.gtrid));
        rows.map(read).collect()
    }

    pub(super) async fn times_of(
        &self,
        gtrids: &[Gtrid],
    ) -> Result<Vec<(Gtrid, UnixTime)>, LogError> {
        let desk = &self.shared.desk;
        let mut times = Vec::new();
        for some in gtrids.chunks(BATCH_MAX) {
            let asked = desk.ask(desk.table.decided_at(some)).await;
            times.append(&mut asked.map_err(log_error)?);
        }
        Ok(times)
    }
}
