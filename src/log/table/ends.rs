//! What the table says of one transaction, of branches that ended otherwise, and of people.

use unanimous_core::ports::{
    ByHand, DecisionLog, DecisionRecord, Found, Hands, HeuristicEnd, LogError, Lookup, NotedEnd,
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

/// Which time the table was asked for one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    First,
    Last,
}

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
        all: &mut Vec<Result<Lookup, LogError>>,
    ) {
        let asked = match self.find(gtrids).await {
            Ok(found) => {
                let mut found = found.into_iter();
                gtrids.iter().map(|_| Ok(found.next())).collect::<Vec<_>>()
            }
            Err(error) => gtrids.iter().map(|_| Err(error.clone())).collect(),
        };
        for (gtrid, asked) in gtrids.iter().zip(asked) {
            all.push(match self.judge(*gtrid, asked, Turn::First) {
                Ok(Some(lookup)) => Ok(lookup),
                Ok(None) => self.lookup(*gtrid).await,
                Err(error) => Err(error),
            });
        }
    }

    /// What the table's answer means, and what this process remembers, all of it at one time.
    /// `None`: a heuristic end was recorded, and the transaction completed, perhaps since the table
    /// was asked: it is to be asked again, if this was not the last time.
    pub(super) fn judge(
        &self,
        gtrid: Gtrid,
        asked: Result<Option<Found>, TableError>,
        turn: Turn,
    ) -> Result<Option<Lookup>, LogError> {
        let is_bare = matches!(&asked, Ok(Some(found)) if found.heuristics.is_empty());
        let (remembered, is_completed, own) = {
            let known = self.shared.known();
            if is_bare && turn == Turn::First && known.ended_by_hand(gtrid) {
                return Ok(None);
            }
            let (remembered, is_completed) = (known.lookup(gtrid), known.is_completed(gtrid));
            (remembered, is_completed, known.own())
        };
        if gtrid.opening.manager != own.manager {
            return Ok(Some(Lookup::UnknownOpening));
        }
        let told = match (asked, remembered) {
            (Ok(found), remembered) => {
                let found = found.ok_or_else(|| self.unreadable(gtrid))?;
                let found = self.found(gtrid, found)?;
                let beside = match (remembered, found.row) {
                    (Some(remembered), _) => remembered,
                    (None, Lookup::Pending(_)) if is_completed => Lookup::Completed,
                    (None, row) => row,
                };
                with_ends(found.ends, beside)
            }
            (Err(_), Some(remembered)) => remembered,
            (Err(error), None) => return Err(log_error(error)),
        };
        Ok(Some(told))
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
        let hands = self.noted_hands().await?;
        match hands.illegible.first() {
            Some((gtrid, _)) => Err(self.unreadable(*gtrid)),
            None => Ok(hands.legible),
        }
    }

    pub(super) async fn noted_hands(&self) -> Result<Hands, LogError> {
        let desk = &self.shared.desk;
        let ends = desk.ask(desk.table.ends(self.reader())).await;
        let mut hands = Hands::default();
        for row in ends.map_err(log_error)?.by_hand {
            match hand::read(&row) {
                Some(by_hand) => hands.legible.push(by_hand),
                None => hands.illegible.push((row.gtrid, row.resource)),
            }
        }
        Ok(hands)
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
