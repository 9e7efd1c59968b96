//! A decision log that is moved into these tables, or out of them.
//!
//! `unanimous_log.moved` says so: `to` a place or `from` one. Its row is locked by whoever joins
//! and by whoever seals, so either the one sees the mark or the other the open epoch.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous_core::ports::{
    HandRow, KeptRow, LogImage, NotedEnd, OpeningRow, RowState, ServerIdentity, Standing,
    TableError, TableHome, TableMove, TableMoves, UnixTime,
};
use unanimous_core::xid::ManagerId;

use super::Table;
use super::rows::Rows;
use super::schema;
use super::sql::{self, Durability, quoted, transaction};
use crate::Postgres;

impl TableMoves for Postgres {
    fn table_move(&self) -> Arc<dyn TableMove> {
        let place = self.decision_table().place();
        let resource = self.clone();
        Arc::new(Table { resource, place })
    }
}

#[async_trait]
impl TableMove for Table {
    async fn standing(&self) -> Result<Standing, TableError> {
        let asked = "cannot see whether the log was moved";
        let (_, shape) = self.shape(asked).await?;
        if shape.is_missing() {
            return Ok(Standing::Empty);
        }
        let statements = vec![sql::LOG.to_owned(), ANY_OPENING.to_owned()];
        let (_, rows) = self.run(asked, statements).await?;
        let manager = self.manager(asked, &rows)?;
        Ok(match moved(&rows) {
            Some(Mark::To(place)) => Standing::Sealed(manager, place),
            Some(Mark::From(place)) => Standing::Arriving(manager, place),
            None if rows.changed("").is_ok() => Standing::Here(manager),
            None => Standing::Empty,
        })
    }

    async fn seal(&self, to: &str) -> Result<(), TableError> {
        let mark = quoted(&format!("to {to}"));
        let seal = format!(
            "UPDATE unanimous.unanimous_log SET moved = {mark} \
             WHERE (moved IS NULL OR moved = {mark}) AND NOT EXISTS \
             (SELECT FROM unanimous.unanimous_opening WHERE closed_at IS NULL) RETURNING 'c'"
        );
        let otherwise = "an epoch is open: stop whoever has joined meanwhile";
        self.step(
            "cannot seal the log",
            vec![LOCK.to_owned(), seal],
            otherwise,
        )
        .await
    }

    async fn image(&self) -> Result<(LogImage, ServerIdentity), TableError> {
        let asked = "cannot read the log";
        let statements = vec![
            sql::OPENINGS.to_owned(),
            format!(
                "SELECT 'd', gtrid, state, branches, {} FROM unanimous.unanimous_decision",
                sql::unix_time("decided_at")
            ),
        ];
        // All of it at one time, beside whoever decides.
        let statements = sql::snapshot([statements, sql::ends()].concat());
        let (identity, rows) = self.run(asked, statements).await?;
        Ok((self.understood(asked, rows.image())?, identity))
    }

    async fn begin_arrival(&self, manager: ManagerId, from: &str) -> Result<(), TableError> {
        let mark = quoted(&format!("from {from}"));
        let begin = format!(
            "UPDATE unanimous.unanimous_log SET moved = {mark}, manager = '{manager}' \
             WHERE moved = {mark} AND manager = '{manager}' OR moved IS NULL AND last_epoch = 0 \
             RETURNING 'c'"
        );
        let (_, shape) = self.shape(ARRIVING).await?;
        let mut statements = if shape.is_missing() {
            schema::making(manager)
        } else {
            Vec::new()
        };
        statements.extend([LOCK.to_owned(), begin]);
        self.step(
            ARRIVING,
            statements,
            "they hold a log, or another arrives in them",
        )
        .await
    }

    async fn arrive(&self, from: &str, part: &LogImage) -> Result<(), TableError> {
        let is_arriving = arriving(from);
        let asked = ARRIVING;
        let statements = |identity: &ServerIdentity| {
            let mut statements = vec![format!(
                "UPDATE unanimous.unanimous_log SET moved = moved WHERE {is_arriving} \
                 RETURNING 'c'"
            )];
            statements.extend(openings(&part.openings, identity, &is_arriving));
            statements.extend(decisions(&part.rows, &is_arriving));
            statements.extend(heuristics(&part.heuristics, &is_arriving));
            statements.extend(by_hand(&part.by_hand, &is_arriving));
            transaction(Durability::Forced, statements).into()
        };
        let (_, rows) = self.run_with(asked, true, statements).await?;
        self.understood(asked, rows.changed(NOT_ARRIVING))
    }

    async fn end_arrival(&self, from: &str) -> Result<(), TableError> {
        let is_arriving = arriving(from);
        let end = format!(
            "UPDATE unanimous.unanimous_log SET moved = NULL, last_epoch = greatest(last_epoch, \
             (SELECT max(epoch) FROM unanimous.unanimous_opening)) WHERE {is_arriving} \
             RETURNING 'c'"
        );
        self.step(ARRIVING, vec![LOCK.to_owned(), end], NOT_ARRIVING)
            .await
    }
}

impl Table {
    /// A forced transaction that has to find the log as it expects it.
    async fn step(
        &self,
        asked: &'static str,
        statements: Vec<String>,
        otherwise: &'static str,
    ) -> Result<(), TableError> {
        let statements = transaction(Durability::Forced, statements);
        let (_, rows) = self.run(asked, statements).await?;
        self.understood(asked, rows.changed(otherwise))
    }
}

/// A mark in `unanimous_log`.
pub(super) enum Mark {
    To(String),
    From(String),
}

/// The mark, in the answer to [`sql::LOG`].
pub(super) fn moved(rows: &Rows) -> Option<Mark> {
    let (direction, place) = rows.moved()?.split_once(' ')?;
    let place = place.to_owned();
    Some(match direction {
        "from" => Mark::From(place),
        _ => Mark::To(place),
    })
}

const ARRIVING: &str = "cannot take a log over";
const NOT_ARRIVING: &str = "no log arrives here from that place";
const ANY_OPENING: &str = "SELECT 'c' FROM unanimous.unanimous_opening LIMIT 1";

/// What follows sees whatever those have done who held the lock before.
const LOCK: &str = "SELECT '' FROM unanimous.unanimous_log FOR UPDATE";

fn arriving(from: &str) -> String {
    format!("moved = {}", quoted(&format!("from {from}")))
}

fn inserted(table: &str, columns: &str, rows: &[String], is_arriving: &str) -> Option<String> {
    (!rows.is_empty()).then(|| {
        format!(
            "INSERT INTO unanimous.{table} ({columns}) SELECT * FROM (VALUES {}) v \
             WHERE EXISTS (SELECT FROM unanimous.unanimous_log WHERE {is_arriving}) \
             ON CONFLICT DO NOTHING",
            rows.join(", ")
        )
    })
}

fn openings(all: &[OpeningRow], here: &ServerIdentity, is_arriving: &str) -> Option<String> {
    let row = |row: &OpeningRow| {
        let identity = if row.is_doubtful() {
            &row.identity
        } else {
            here
        };
        format!(
            "({}, '{}', {}, {}, pg_catalog.clock_timestamp())",
            row.opening.epoch,
            sql::nonce(row.opening),
            quoted(identity.as_str()),
            quoted(&row.label)
        )
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let columns = "epoch, nonce, identity, label, closed_at";
    inserted("unanimous_opening", columns, &rows, is_arriving)
}

fn decisions(all: &[KeptRow], is_arriving: &str) -> Option<String> {
    let row = |kept: &KeptRow| {
        let state = match kept.state {
            RowState::Pending => 'C',
            RowState::Completed => 'D',
            RowState::RolledBack => 'R',
        };
        let (gtrid, epoch) = (kept.row.gtrid, kept.row.gtrid.opening.epoch);
        let (branches, when) = (quoted(&kept.row.branches), timestamp(kept.decided_at));
        format!("('{gtrid}', {epoch}, '{state}', {branches}, {when})")
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let columns = "gtrid, epoch, state, branches, decided_at";
    inserted("unanimous_decision", columns, &rows, is_arriving)
}

fn heuristics(all: &[NotedEnd], is_arriving: &str) -> Option<String> {
    let row = |noted: &NotedEnd| {
        let (gtrid, resource) = (noted.gtrid, &noted.resource);
        let (end, when) = (quoted(&noted.end.to_string()), timestamp(noted.noted_at));
        format!("('{gtrid}', '{resource}', {end}, {when})")
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let columns = "gtrid, resource, ended, noted_at";
    inserted("unanimous_heuristic", columns, &rows, is_arriving)
}

fn by_hand(all: &[HandRow], is_arriving: &str) -> Option<String> {
    let rows: Vec<_> = all.iter().map(sql::by_hand_values).collect();
    let columns = "id, gtrid, resource, state, words";
    inserted("unanimous_by_hand", columns, &rows, is_arriving)
}

fn timestamp(when: Option<UnixTime>) -> String {
    when.map_or_else(
        || "NULL::timestamptz".to_owned(),
        |when| format!("pg_catalog.to_timestamp({})", when.0),
    )
}
