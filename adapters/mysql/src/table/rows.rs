//! Rows of the tables as the port's types. What does not fit was written by somebody else.

use std::time::Duration;

use mysql_async::Row;
use unanimous_core::ports::{
    Beat, DecisionRow, HandRow, KeptRow, NotedEnd, OpeningRow, RowState, ServerIdentity, UnixTime,
};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use crate::session::{number, text};

/// A truth value, as both servers print it.
pub(super) fn is_true(row: &Row, column: usize) -> Option<bool> {
    number::<i64>(row, column).map(|value| value != 0)
}

pub(super) fn epoch(row: &Row, column: usize) -> Option<Epoch> {
    number(row, column).map(Epoch)
}

/// Version and manager; the latter if it can be read.
pub(super) fn log(row: &Row) -> Option<(u32, Option<ManagerId>)> {
    Some((number(row, 0)?, number(row, 1)))
}

pub(super) fn opening(row: &Row) -> Option<OpeningRow> {
    Some(OpeningRow {
        opening: Opening {
            manager: number(row, 0)?,
            epoch: epoch(row, 1)?,
            nonce: number(row, 2)?,
        },
        identity: ServerIdentity::new(text(row, 3)?)?,
        label: text(row, 4)?,
        is_closed: is_true(row, 5)?,
        is_released: is_true(row, 6)?,
    })
}

pub(super) fn state(row: &Row, column: usize) -> Option<RowState> {
    match text(row, column)?.as_str() {
        "C" => Some(RowState::Pending),
        "D" => Some(RowState::Completed),
        "R" => Some(RowState::RolledBack),
        _ => None,
    }
}

pub(super) fn answered(row: &Row) -> Option<(Gtrid, RowState)> {
    Some((number(row, 0)?, state(row, 1)?))
}

pub(super) fn pending(row: &Row) -> Option<DecisionRow> {
    Some(DecisionRow {
        gtrid: number(row, 0)?,
        branches: text(row, 1)?,
    })
}

pub(super) fn found(row: &Row) -> Option<(Gtrid, (RowState, String))> {
    Some((number(row, 0)?, (state(row, 1)?, text(row, 2)?)))
}

pub(super) fn heuristic(row: &Row) -> Option<(ResourceName, char)> {
    Some((number(row, 0)?, text(row, 1)?.chars().next()?))
}

/// A decision: key, branches, state, when.
pub(super) fn kept(row: &Row) -> Option<KeptRow> {
    Some(KeptRow {
        row: pending(row)?,
        state: state(row, 2)?,
        decided_at: number(row, 3).map(UnixTime),
    })
}

/// A heuristic end, and behind it the transaction, and when.
pub(super) fn noted(row: &Row) -> Option<NotedEnd> {
    let (resource, end) = heuristic(row)?;
    Some(NotedEnd {
        gtrid: number(row, 2)?,
        resource,
        end,
        noted_at: number(row, 3).map(UnixTime),
    })
}

pub(super) fn by_hand(row: &Row) -> Option<HandRow> {
    Some(HandRow {
        id: number(row, 0)?,
        gtrid: number(row, 1)?,
        resource: number(row, 2)?,
        state: text(row, 3)?.chars().next()?,
        words: text(row, 4)?,
    })
}

pub(super) fn decided_at(row: &Row) -> Option<(Gtrid, UnixTime)> {
    Some((number(row, 0)?, number(row, 1).map(UnixTime)?))
}

pub(super) fn beat(row: &Row) -> Option<Beat> {
    Some(Beat {
        epoch: epoch(row, 0)?,
        count: number(row, 1)?,
        is_closed: is_true(row, 2)?,
        age: Duration::from_micros(number(row, 3)?),
    })
}
