//! A decision log that is moved into these tables, or out of them.
//!
//! `unanimous_log.moved` says so: `to` a place or `from` one. Its row is locked by whoever joins
//! and by whoever seals, so either the one sees the mark or the other the open epoch.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use unanimous_core::ports::{
    HandRow, KeptRow, LogImage, NotedEnd, OpeningRow, RowState, ServerIdentity, Standing,
    TableError, TableErrorKind, TableMove, TableMoves, UnixTime, arrives_from, went_to,
};
use unanimous_core::xid::ManagerId;

use super::request::{Answer, Reads, Request};
use super::schema::{self, VERSION};
use super::sql::{Tables, quoted, unix_time};
use super::{MysqlTable, rows};
use crate::{Mysql, session};

impl TableMoves for Mysql {
    fn table_move(&self) -> Arc<dyn TableMove> {
        Arc::new(MysqlTable {
            resource: self.clone(),
            tables: OnceLock::new(),
        })
    }
}

#[async_trait]
impl TableMove for MysqlTable {
    async fn standing(&self) -> Result<Standing, TableError> {
        let doing = "see whether the log was moved";
        let tables = self.names(doing).await?;
        let statements = vec![
            tables.mark(),
            format!("SELECT epoch FROM {} LIMIT 1", tables.opening),
        ];
        let answer = match self.ask(doing, |_, _| Request::new(statements)).await {
            Err(error) if error.kind() == TableErrorKind::Missing => return Ok(Standing::Empty),
            answer => answer?,
        };
        let Some(row) = answer.rows(0).first() else {
            return Ok(Standing::Empty);
        };
        let Some((VERSION, Some(manager))) = rows::log(row) else {
            return Err(self.foreign(doing, "unanimous_log"));
        };
        Ok(match Mark::of(&answer, 0) {
            Some(Mark::To(place)) => Standing::Sealed(manager, place),
            Some(Mark::From(place)) => Standing::Arriving(manager, place),
            None if answer.rows(1).is_empty() => Standing::Empty,
            None => Standing::Here(manager),
        })
    }

    async fn seal(&self, to: &str) -> Result<(), TableError> {
        let doing = "seal the log";
        let tables = self.names(doing).await?;
        let mark = format!("to {to}");
        let text = quoted(&mark);
        let statements = vec![
            tables.force(),
            format!(
                "UPDATE {} SET moved = {text} WHERE one = 1 AND (moved IS NULL OR moved = {text}) \
                 AND NOT EXISTS (SELECT 1 FROM {} WHERE closed IS NULL)",
                tables.log, tables.opening
            ),
            tables.mark(),
        ];
        let answer = self.ask(doing, |_, _| Request::new(statements)).await?;
        let otherwise = "an epoch is open: stop whoever has joined meanwhile";
        self.marked(doing, &answer, 2, &mark, otherwise)
    }

    async fn image(&self) -> Result<(LogImage, ServerIdentity), TableError> {
        let doing = "read the log";
        let tables = self.names(doing).await?;
        let request = Request {
            reads: Reads::Snapshot,
            statements: [
                vec![
                    tables.columns_of_opening(),
                    format!(
                        "SELECT gtrid, branches, state, {} FROM {}",
                        unix_time("decided"),
                        tables.decision
                    ),
                ],
                tables.ends(),
            ]
            .concat(),
            after: Vec::new(),
        };
        let answer = self.ask(doing, |_, _| request).await?;
        let of_decisions = answer.rows(1);
        let of_heuristics = answer.rows(2);
        let image = LogImage {
            openings: self.openings(doing, &answer, 0)?,
            rows: self.parsed(doing, "unanimous_decision", of_decisions, rows::kept)?,
            heuristics: self.parsed(doing, "unanimous_heuristic", of_heuristics, rows::noted)?,
            by_hand: self.parsed(doing, "unanimous_by_hand", answer.rows(3), rows::by_hand)?,
        };
        Ok((image, answer.identity))
    }

    async fn begin_arrival(&self, manager: ManagerId, from: &str) -> Result<(), TableError> {
        let doing = "take a log over";
        let tables = self.names(doing).await?;
        let mark = format!("from {from}");
        let text = quoted(&mark);
        let (begin, read) = (tables.begin_arrival(manager, &text), tables.mark());
        let statements = vec![tables.force(), begin, read];
        let mut asked = self
            .ask(doing, |_, _| Request::new(statements.clone()))
            .await;
        if is_unmade(&asked) {
            let lease = self.resource.inner.table.lend_checked().await;
            let lease = lease.map_err(|error| self.not_sent(doing, error))?;
            let mut making = schema::ddl(tables, manager);
            // The row is arriving from the first moment.
            making.pop();
            making.push(format!(
                "INSERT INTO {} (one, version, manager, moved) VALUES (1, {VERSION}, '{manager}', \
                 {text}) ON DUPLICATE KEY UPDATE writes = writes + 1",
                tables.log
            ));
            self.run_each(doing, lease, &making).await?;
            asked = self.ask(doing, |_, _| Request::new(statements)).await;
        }
        let answer = asked?;
        let otherwise = "they hold a log, or another arrives in them";
        let has = answer.rows(2).first().and_then(rows::log);
        let mark = match has {
            Some((VERSION, Some(has))) if has == manager => mark,
            _ => return Err(self.unfit(doing, otherwise)),
        };
        self.marked(doing, &answer, 2, &mark, otherwise)
    }

    async fn arrive(&self, from: &str, part: &LogImage) -> Result<(), TableError> {
        let doing = "take a log over";
        let tables = self.names(doing).await?;
        let mark = format!("from {from}");
        let read = tables.mark();
        let asked = self.ask(doing, |_, here| {
            let mut statements = vec![tables.force(), read];
            statements.extend(tables.arriving_rows(part, here, &quoted(&mark)));
            Request::new(statements)
        });
        let answer = asked.await?;
        self.marked(doing, &answer, 1, &mark, NOT_ARRIVING)
    }

    async fn end_arrival(&self, from: &str) -> Result<(), TableError> {
        let doing = "take a log over";
        let tables = self.names(doing).await?;
        let mark = format!("from {from}");
        let statements = vec![
            tables.force(),
            tables.mark(),
            format!(
                "UPDATE {} SET moved = NULL WHERE one = 1 AND moved = {}",
                tables.log,
                quoted(&mark)
            ),
        ];
        let answer = self.ask(doing, |_, _| Request::new(statements)).await?;
        self.marked(doing, &answer, 1, &mark, NOT_ARRIVING)
    }
}

const NOT_ARRIVING: &str = "no log arrives here from that place";

/// The tables, or the row of `unanimous_log`, are not there.
fn is_unmade(asked: &Result<Answer, TableError>) -> bool {
    match asked {
        Ok(answer) => answer.rows(2).is_empty(),
        Err(error) => error.kind() == TableErrorKind::Missing,
    }
}

/// A mark in `unanimous_log`.
pub(super) enum Mark {
    To(String),
    From(String),
}

impl Mark {
    /// The mark, in the answer to [`Tables::mark`].
    pub(super) fn of(answer: &Answer, statement: usize) -> Option<Self> {
        let text = session::text(answer.rows(statement).first()?, 2)?;
        let (direction, place) = text.split_once(' ')?;
        let place = place.to_owned();
        Some(match direction {
            "from" => Self::From(place),
            _ => Self::To(place),
        })
    }
}

impl MysqlTable {
    /// A log that was moved away, or is not here yet, is not used; nor is one that nobody can tell
    /// it of. After [`Tables::check`], or where [`Tables::mark`] is third.
    pub(super) fn refuse_moved(&self, doing: &str, answer: &Answer) -> Result<(), TableError> {
        if answer.rows(2).is_empty() {
            let why = "unanimous_log has no row, which says whose log this is and whether it was \
                       moved: restore it from a backup, or let somebody look who knows what has \
                       changed the tables";
            return Err(self.unfit(doing, why));
        }
        let why = match Mark::of(answer, 2) {
            None => return Ok(()),
            Some(Mark::To(place)) => went_to(&place),
            Some(Mark::From(place)) => arrives_from(&place),
        };
        Err(self.unfit(doing, &why))
    }

    fn marked(
        &self,
        doing: &str,
        answer: &Answer,
        statement: usize,
        mark: &str,
        otherwise: &str,
    ) -> Result<(), TableError> {
        let row = answer.rows(statement).first();
        let has = row.and_then(|row| session::text(row, 2));
        if has.as_deref() == Some(mark) {
            Ok(())
        } else {
            Err(self.unfit(doing, otherwise))
        }
    }
}

fn datetime(when: Option<UnixTime>) -> String {
    when.map_or_else(
        || "NULL".to_owned(),
        |when| format!("DATE_ADD('1970-01-01', INTERVAL {} SECOND)", when.0),
    )
}

impl Tables {
    /// Version, manager and mark.
    pub(super) fn mark(&self) -> String {
        format!("SELECT version, manager, moved FROM {}", self.log)
    }

    fn begin_arrival(&self, manager: ManagerId, mark: &str) -> String {
        format!(
            "UPDATE {} SET moved = {mark}, manager = '{manager}' WHERE one = 1 AND \
             (moved = {mark} AND manager = '{manager}' OR moved IS NULL AND NOT EXISTS \
             (SELECT 1 FROM {}))",
            self.log, self.opening
        )
    }

    fn arriving_rows(&self, part: &LogImage, here: &ServerIdentity, mark: &str) -> Vec<String> {
        let opening = |row: &OpeningRow| {
            let opening = row.opening;
            let identity = if row.is_doubtful() {
                &row.identity
            } else {
                here
            };
            format!(
                "SELECT {}, {}, {}, {}, UTC_TIMESTAMP(6)",
                opening.epoch,
                opening.nonce,
                quoted(identity.as_str()),
                quoted(&row.label)
            )
        };
        let decision = |kept: &KeptRow| {
            let state = match kept.state {
                RowState::Pending => 'C',
                RowState::Completed => 'D',
                RowState::RolledBack => 'R',
            };
            let (gtrid, epoch) = (kept.row.gtrid, kept.row.gtrid.opening.epoch);
            let (branches, when) = (quoted(&kept.row.branches), datetime(kept.decided_at));
            format!("SELECT '{gtrid}', {epoch}, '{state}', {branches}, {when}")
        };
        let heuristic = |noted: &NotedEnd| {
            let (gtrid, resource) = (noted.gtrid, &noted.resource);
            let (end, when) = (quoted(&noted.end.to_string()), datetime(noted.noted_at));
            format!("SELECT '{gtrid}', '{resource}', {end}, {when}")
        };
        let by_hand = |row: &HandRow| {
            let (state, words) = (quoted(&row.state.to_string()), quoted(&row.words));
            let (id, gtrid, resource) = (row.id, row.gtrid, &row.resource);
            format!("SELECT {id}, '{gtrid}', '{resource}', {state}, {words}")
        };
        let openings = part.openings.iter().map(opening).collect();
        let decisions = part.rows.iter().map(decision).collect();
        let heuristics = part.heuristics.iter().map(heuristic).collect();
        let hands = part.by_hand.iter().map(by_hand).collect();
        [
            self.inserted(
                &self.opening,
                "epoch, random, identity, label, closed",
                openings,
                mark,
            ),
            self.inserted(
                &self.decision,
                "gtrid, epoch, state, branches, decided",
                decisions,
                mark,
            ),
            self.inserted(
                &self.heuristic,
                "gtrid, resource, ended, noted",
                heuristics,
                mark,
            ),
            self.inserted(
                &self.by_hand,
                "id, gtrid, resource, state, words",
                hands,
                mark,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn inserted(
        &self,
        table: &str,
        columns: &str,
        rows: Vec<String>,
        mark: &str,
    ) -> Option<String> {
        // A derived table names its columns by its first row.
        let names = columns.split(", ");
        let first: Vec<_> = names.map(|name| format!("NULL AS {name}")).collect();
        (!rows.is_empty()).then(|| {
            format!(
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM (SELECT {} FROM DUAL WHERE \
                 FALSE UNION ALL {}) v WHERE EXISTS (SELECT 1 FROM {} WHERE moved = {mark}) \
                 ON DUPLICATE KEY UPDATE writes = {table}.writes + 1",
                first.join(", "),
                rows.join(" UNION ALL "),
                self.log
            )
        })
    }
}
