//! What the statements on the decision table answer. The rows of all statements of a string come as
//! one list; the first column of each says which statement's it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio_postgres::SimpleQueryRow;
use unanimous_core::ports::{
    Beat, Decided, DecisionRow, Ends, Found, HandRow, KeptRow, LogImage, NotedEnd, OpeningRow,
    RowAnswer, RowState, ServerIdentity, Snapshot, TableErrorKind, UnixTime,
};
use unanimous_core::xid::{Epoch, Gtrid};

use super::schema::{RIGHTS, SCHEMA};
use crate::session::{Replies, field as text};

/// What is wrong with an answer.
type Odd = &'static str;

/// All rows of one string of statements.
pub(super) struct Rows(Vec<SimpleQueryRow>);

impl Rows {
    pub(super) fn new(replies: Replies) -> Self {
        Self(replies.rows)
    }

    fn tagged(&self, tag: &'static str) -> impl Iterator<Item = &SimpleQueryRow> {
        let is_tagged = move |row: &&SimpleQueryRow| text(row, 0) == Some(tag);
        self.0.iter().filter(is_tagged)
    }

    /// The write that makes what was read durable was done.
    pub(super) fn forced(&self) -> Result<(), Odd> {
        let done = self.tagged("f").next().map(|_| ());
        done.ok_or("unanimous_log has no row")
    }

    /// The row that was to be changed was there.
    pub(super) fn changed(&self, otherwise: Odd) -> Result<(), Odd> {
        self.tagged("c").next().map(|_| ()).ok_or(otherwise)
    }

    /// Version and manager, as they stand there.
    pub(super) fn log(&self) -> Option<(u32, &str)> {
        let row = self.tagged("l").next()?;
        Some((text(row, 1)?.parse().ok()?, text(row, 2)?))
    }

    /// The mark of a move.
    pub(super) fn moved(&self) -> Option<&str> {
        text(self.tagged("l").next()?, 3)
    }

    /// All that a log holds.
    pub(super) fn image(&self) -> Result<LogImage, Odd> {
        let read = |row| kept(row).ok_or("a row of unanimous_decision cannot be read");
        Ok(LogImage {
            openings: self.openings()?,
            rows: self.tagged("d").map(read).collect::<Result<_, _>>()?,
            heuristics: self.noted()?,
            by_hand: self.by_hand()?,
        })
    }

    /// The answer to [`super::sql::ends`].
    pub(super) fn ends(&self, identity: ServerIdentity) -> Result<Ends, Odd> {
        Ok(Ends {
            identity,
            heuristics: self.noted()?,
            by_hand: self.by_hand()?,
        })
    }

    fn noted(&self) -> Result<Vec<NotedEnd>, Odd> {
        let read = |row| noted(row).ok_or("a row of unanimous_heuristic cannot be read");
        self.tagged("g").map(read).collect()
    }

    fn by_hand(&self) -> Result<Vec<HandRow>, Odd> {
        let read = |row| by_hand(row).ok_or("a row of unanimous_by_hand cannot be read");
        self.tagged("a").map(read).collect()
    }

    pub(super) fn decided_at(&self) -> Result<Vec<(Gtrid, UnixTime)>, Odd> {
        let read = |row| Some((text(row, 1)?.parse().ok()?, unix_time(row, 2)?));
        let read = |row| read(row).ok_or("a row of unanimous_decision cannot be read");
        self.tagged("w").map(read).collect()
    }

    pub(super) fn openings(&self) -> Result<Vec<OpeningRow>, Odd> {
        let read = |row| opening(row).ok_or("a row of unanimous_opening cannot be read");
        self.tagged("o").map(read).collect()
    }

    fn decisions(&self) -> Result<Vec<(Gtrid, RowState, String)>, Odd> {
        let read = |row| decision(row).ok_or("a row of unanimous_decision cannot be read");
        self.tagged("d").map(read).collect()
    }

    pub(super) fn state_of(&self, gtrid: Gtrid) -> Result<RowState, Odd> {
        let rows = self.decisions()?;
        let row = rows.into_iter().find(|row| row.0 == gtrid);
        row.map(|row| row.1).ok_or(VANISHED)
    }

    pub(super) fn has_slot(&self) -> bool {
        self.tagged("s").next().is_some()
    }

    /// Which of these the insert has put there.
    pub(super) fn put(&self, rows: &[DecisionRow]) -> Result<Vec<bool>, Odd> {
        let put = self.decisions()?.into_iter();
        let put: BTreeSet<_> = put.map(|(gtrid, _, _)| gtrid).collect();
        Ok(rows.iter().map(|row| put.contains(&row.gtrid)).collect())
    }

    pub(super) fn decided(
        &self,
        identity: ServerIdentity,
        rows: &[DecisionRow],
    ) -> Result<Decided, Odd> {
        let slot = self.tagged("s").next();
        let is_released = self.tagged("r").next().is_some();
        let is_open = match slot {
            Some(row) => !is_true(row, 1).ok_or("a row of unanimous_epoch cannot be read")?,
            None if is_released => false,
            None => return Err("unanimous_epoch has no row for this epoch and slot"),
        };
        let decided = self.standing(identity, rows)?;
        if is_open && decided.answers.contains(&RowAnswer::EpochClosed) {
            return Err(VANISHED);
        }
        Ok(Decided {
            is_released,
            ..decided
        })
    }

    /// The answer of a server that may not decide, without its slot.
    pub(super) fn standing(
        &self,
        identity: ServerIdentity,
        rows: &[DecisionRow],
    ) -> Result<Decided, Odd> {
        let standing = self.decisions()?.into_iter();
        let standing: BTreeMap<_, _> = standing.map(|(gtrid, state, _)| (gtrid, state)).collect();
        let answer = |row: &DecisionRow| match standing.get(&row.gtrid) {
            Some(state) => RowAnswer::Stands(*state),
            None => RowAnswer::EpochClosed,
        };
        Ok(Decided {
            identity,
            answers: rows.iter().map(answer).collect(),
            is_released: false,
        })
    }

    pub(super) fn beats(&self) -> Result<Vec<Beat>, Odd> {
        let read = |row| beat(row).ok_or("a row of unanimous_member cannot be read");
        self.tagged("b").map(read).collect()
    }

    pub(super) fn epochs(&self) -> Result<Vec<Epoch>, Odd> {
        let read = |row| epoch(row, 1).ok_or("a row of unanimous_opening cannot be read");
        self.tagged("e").map(read).collect()
    }

    pub(super) fn snapshot(&self, identity: ServerIdentity) -> Result<Snapshot, Odd> {
        let pending = self.decisions()?.into_iter();
        let pending = pending.map(|(gtrid, _, branches)| DecisionRow { gtrid, branches });
        Ok(Snapshot {
            identity,
            openings: self.openings()?,
            pending: pending.collect(),
        })
    }

    /// One for each of these, in their order.
    pub(super) fn found(
        &self,
        identity: &ServerIdentity,
        gtrids: &[Gtrid],
    ) -> Result<Vec<Found>, Odd> {
        let openings = self.openings()?;
        let rows = self.decisions()?.into_iter();
        let rows: HashMap<Gtrid, _> = rows.map(|row| (row.0, (row.1, row.2))).collect();
        let mut ends: HashMap<Gtrid, Vec<_>> = HashMap::new();
        for end in self.noted()? {
            ends.entry(end.gtrid)
                .or_default()
                .push((end.resource, end.end));
        }
        let found = |gtrid: &Gtrid| Found {
            identity: identity.clone(),
            // The manager, or the opening of this number, may be another one.
            opening: { openings.iter() }
                .find(|row| row.opening == gtrid.opening)
                .cloned(),
            row: rows.get(gtrid).cloned(),
            heuristics: ends.get(gtrid).cloned().unwrap_or_default(),
        };
        Ok(gtrids.iter().map(found).collect())
    }
}

const VANISHED: Odd = "a row of unanimous_decision vanished while it was used";

fn is_true(row: &SimpleQueryRow, column: usize) -> Option<bool> {
    match text(row, column)? {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}

fn epoch(row: &SimpleQueryRow, column: usize) -> Option<Epoch> {
    text(row, column)?.parse().ok().map(Epoch)
}

fn opening(row: &SimpleQueryRow) -> Option<OpeningRow> {
    let first: Gtrid = text(row, 1)?.parse().ok()?;
    Some(OpeningRow {
        opening: first.opening,
        identity: ServerIdentity::new(text(row, 2)?)?,
        label: text(row, 3)?.to_owned(),
        is_closed: is_true(row, 4)?,
        is_released: is_true(row, 5)?,
    })
}

fn decision(row: &SimpleQueryRow) -> Option<(Gtrid, RowState, String)> {
    let state = match text(row, 2)? {
        "C" => RowState::Pending,
        "D" => RowState::Completed,
        "R" => RowState::RolledBack,
        _ => return None,
    };
    Some((text(row, 1)?.parse().ok()?, state, text(row, 3)?.to_owned()))
}

fn kept(row: &SimpleQueryRow) -> Option<KeptRow> {
    let (gtrid, state, branches) = decision(row)?;
    Some(KeptRow {
        row: DecisionRow { gtrid, branches },
        state,
        decided_at: unix_time(row, 4),
    })
}

/// Nothing also where it is NULL, or before 1970.
fn unix_time(row: &SimpleQueryRow, column: usize) -> Option<UnixTime> {
    text(row, column)?.parse().ok().map(UnixTime)
}

fn noted(row: &SimpleQueryRow) -> Option<NotedEnd> {
    let (resource, end) = heuristic(row)?;
    Some(NotedEnd {
        gtrid: text(row, 3)?.parse().ok()?,
        resource,
        end,
        noted_at: unix_time(row, 4),
    })
}

fn by_hand(row: &SimpleQueryRow) -> Option<HandRow> {
    Some(HandRow {
        id: text(row, 1)?.parse().ok()?,
        gtrid: text(row, 2)?.parse().ok()?,
        resource: text(row, 3)?.parse().ok()?,
        state: text(row, 4)?.chars().next()?,
        words: text(row, 5)?.to_owned(),
    })
}

fn beat(row: &SimpleQueryRow) -> Option<Beat> {
    Some(Beat {
        epoch: epoch(row, 1)?,
        count: text(row, 2)?.parse().ok()?,
        is_closed: is_true(row, 3)?,
        age: Duration::from_millis(text(row, 4)?.parse().ok()?),
    })
}

fn heuristic(row: &SimpleQueryRow) -> Option<(unanimous_core::xid::ResourceName, char)> {
    let mut end = text(row, 2)?.chars();
    match (end.next(), end.next()) {
        (Some(end), None) => Some((text(row, 1)?.parse().ok()?, end)),
        _ => None,
    }
}

/// What the catalog says of the tables.
pub(super) struct Shape(Vec<TableShape>);

struct TableShape {
    name: String,
    exists: bool,
    is_kept: bool,
    has_key: bool,
    /// The rights that the account lacks.
    lacks: String,
    may_use_schema: bool,
    account: String,
}

impl Shape {
    pub(super) fn read(rows: &Rows) -> Self {
        let shape = |row| TableShape {
            name: text(row, 1).unwrap_or_default().to_owned(),
            exists: is_true(row, 2) == Some(true),
            is_kept: is_true(row, 3) == Some(true),
            has_key: is_true(row, 4) == Some(true),
            lacks: text(row, 5).unwrap_or_default().to_owned(),
            may_use_schema: is_true(row, 6) == Some(true),
            account: text(row, 7).unwrap_or_default().to_owned(),
        };
        Self(rows.tagged("t").map(shape).collect())
    }

    /// At least one table is not there.
    pub(super) fn is_missing(&self) -> bool {
        self.0.len() < RIGHTS.len() || self.0.iter().any(|table| !table.exists)
    }

    /// What keeps the tables from being used, and what mends it.
    pub(super) fn fault(&self) -> Option<(TableErrorKind, String)> {
        if self.is_missing() {
            let missing = self.named(|table| !table.exists);
            let words = format!("{missing} not there; let the log make its tables, or run its DDL");
            return Some((TableErrorKind::Missing, words));
        }
        let unkept = self.named(|table| !table.is_kept);
        if !unkept.is_empty() {
            let words = format!(
                "{unkept} not an ordinary, logged table: a crash would lose decisions; make the \
                 tables by the log's DDL, or ALTER TABLE … SET LOGGED"
            );
            return Some((TableErrorKind::Unfit, words));
        }
        let keyless = self.named(|table| !table.has_key);
        if !keyless.is_empty() {
            let words = format!("{keyless} without its primary key: make it by the log's DDL");
            return Some((TableErrorKind::Unfit, words));
        }
        let grants = self.grants();
        (!grants.is_empty()).then(|| {
            let account = self.0.first().map_or("", |table| table.account.as_str());
            let words = format!("role {account} lacks rights; {grants}");
            (TableErrorKind::Refused, words)
        })
    }

    fn named(&self, is_meant: impl Fn(&TableShape) -> bool) -> String {
        let names = self.0.iter().filter(|table| is_meant(table));
        let names: Vec<_> = names.map(|table| table.name.as_str()).collect();
        match names.as_slice() {
            [] => String::new(),
            [one] => format!("{one} is"),
            several => format!("{} are", several.join(", ")),
        }
    }

    fn grants(&self) -> String {
        let mut grants = Vec::new();
        let no_usage = self.0.iter().find(|table| !table.may_use_schema);
        grants.extend(no_usage.map(|table| {
            let account = &table.account;
            format!("GRANT USAGE ON SCHEMA {SCHEMA} TO {account};")
        }));
        let lacking = self.0.iter().filter(|table| !table.lacks.is_empty());
        grants.extend(lacking.map(|table| {
            let TableShape {
                name,
                lacks,
                account,
                ..
            } = table;
            format!("GRANT {lacks} ON {SCHEMA}.{name} TO {account};")
        }));
        grants.join(" ")
    }
}
