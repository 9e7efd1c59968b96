//! What the table says of one transaction, of branches that ended otherwise, and of people.

use unanimous_core::ports::{
    ByHand, DecisionLog, DecisionRecord, Found, HandRow, HeuristicEnd, LogError, Lookup, NotedEnd,
    RowState, TableError, UnixTime,
};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName};

use super::codec::{self, end_of};
use super::log_error;
use super::open::OpenTableLog;
use crate::log::hand;

/// How many rows are asked for at once.
pub(super) const BATCH_MAX: usize = 500;

/// See [`OpenTableLog::found`].
struct Answer {
    ends: Vec<(ResourceName, Heuristic)>,
    row: Lookup,
}

/// Heuristic ends are told before anything else.
fn with_ends(ends: Vec<(ResourceName, Heuristic)>, beside: Lookup) -> Lookup {
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
    /// Asks the table of some, in one question; of another manager's it knows nothing.
    pub(super) async fn find(&self, gtrids: &[Gtrid]) -> Result<Vec<Found>, TableError> {
        let own = self.shared.known().own().manager;
        if gtrids.iter().all(|gtrid| gtrid.opening.manager != own) {
            return Ok(Vec::new());
        }
        let desk = &self.shared.desk;
        desk.ask(desk.table.find_all(gtrids, self.reader())).await
    }

    /// Appends what is known of each of these, in their order.
    pub(super) async fn look_up_some(
        &self,
        gtrids: &[Gtrid],
        all: &mut Vec<Lookup>,
    ) -> Result<(), LogError> {
        let asked = match self.find(gtrids).await {
            Ok(found) => {
                let mut found = found.into_iter();
                gtrids.iter().map(|_| Ok(found.next())).collect::<Vec<_>>()
            }
            Err(error) => gtrids.iter().map(|_| Err(error.clone())).collect(),
        };
        for (gtrid, asked) in gtrids.iter().zip(asked) {
            let is_bare = matches!(&asked, Ok(Some(found)) if found.heuristics.is_empty());
            all.push(if is_bare && self.shared.known().ended_by_hand(*gtrid) {
                // Perhaps recorded and completed since it was asked.
                self.lookup(*gtrid).await?
            } else {
                self.judge(*gtrid, asked)?
            });
        }
        Ok(())
    }

    /// What the table's answer means, and what this process remembers.
    pub(super) fn judge(
        &self,
        gtrid: Gtrid,
        asked: Result<Option<Found>, TableError>,
    ) -> Result<Lookup, LogError> {
        let (remembered, is_completed, own) = {
            let known = self.shared.known();
            let (remembered, is_completed) = (known.lookup(gtrid), known.is_completed(gtrid));
            (remembered, is_completed, known.own())
        };
        if gtrid.opening.manager != own.manager {
            return Ok(Lookup::UnknownOpening);
        }
        match (asked, remembered) {
            (Ok(found), remembered) => {
                let found = found.ok_or_else(|| self.unreadable(gtrid))?;
                let found = self.found(gtrid, found)?;
                let beside = match (remembered, found.row) {
                    (Some(remembered), _) => remembered,
                    (None, Lookup::Pending(_)) if is_completed => Lookup::Completed,
                    (None, row) => row,
                };
                Ok(with_ends(found.ends, beside))
            }
            (Err(_), Some(remembered)) => Ok(remembered),
            (Err(error), None) => Err(log_error(error)),
        }
    }

    /// What the rows mean.
    fn found(&self, gtrid: Gtrid, found: Found) -> Result<Answer, LogError> {
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
