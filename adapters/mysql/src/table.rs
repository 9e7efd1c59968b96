//! The decision table in a MySQL or MariaDB database: see
//! [`DecisionTable`](unanimous_core::ports::DecisionTable) for what every method promises.
//!
//! The tables are in the database of the resource's own address. They are asked over the sessions
//! of recovery, with recovery's account where it has one of its own; only the statement of a last
//! resource runs on the branch's session. The schema, the privileges, and what the server's
//! settings have to be, are on the page `docs/table-log-mysql.md`.
//!
//! * One method is one packet of statements and one round trip. Where a rare case needs a second,
//!   the first has answered everything but that it is forced.
//! * Decisions are made in READ COMMITTED, in which a statement sees what was committed when it
//!   began; openings and rows are read together, in one snapshot.
//! * An opening is read before, or together with, the rows of its epoch: of an epoch that is seen
//!   closed no row is missing.
//! * Locks are taken in one order: slots, opening, rows by key, member.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{
    Beat, Decided, DecisionRow, DecisionTable, Ends, EpochSlot, Found, HandRow, HeldDecisions,
    OpeningRow, Preflight, ResourceError, RowAnswer, RowState, ServerIdentity, Snapshot,
    TableError, TableErrorKind, TableHome, TableState, UnixTime,
};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, ResourceName};

use crate::{Mysql, preflight, settings};
use request::{Reads, Request};
use sql::{IF_WRITABLE, Tables};

mod find;
mod here;
mod hold;
mod moving;
mod request;
pub(crate) mod rights;
mod rows;
mod schema;
mod sql;

impl TableHome for Mysql {
    fn decision_table(&self) -> Arc<dyn DecisionTable> {
        Arc::new(MysqlTable {
            resource: self.clone(),
            tables: OnceLock::new(),
        })
    }
}

/// The tables of one decision log in the database of a resource.
pub(crate) struct MysqlTable {
    resource: Mysql,
    /// Set as soon as the database's name is known.
    tables: OnceLock<Tables>,
}

impl fmt::Debug for MysqlTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlTable")
            .field("place", &self.place_text())
            .finish_non_exhaustive()
    }
}

impl MysqlTable {
    fn place_text(&self) -> String {
        let config = self.resource.config();
        match config.branches.place() {
            Some(place) => format!("decision table in {place} (resource {})", config.name),
            None => format!("decision table of resource {}", config.name),
        }
    }

    /// The tables' names, if the database's is known.
    fn known(&self) -> Option<&Tables> {
        if self.tables.get().is_none() {
            let database = self.resource.config().branches.database()?;
            return Some(self.tables.get_or_init(|| Tables::of(&database)));
        }
        self.tables.get()
    }

    /// The tables' names. Where an application's function names the database, it is asked.
    async fn names(&self, doing: &str) -> Result<&Tables, TableError> {
        if self.known().is_none() {
            let lease = self.resource.inner.branches.lend().await;
            lease
                .map_err(|error| self.not_sent(doing, error))?
                .give_back();
        }
        let unknown = || self.error(TableErrorKind::NotSent, doing, "its database is not known");
        self.known().ok_or_else(unknown)
    }

    /// A forced write of one's own. Not of the log's row, on which a barrier may be, if possible.
    async fn force(&self, doing: &str) -> Result<(), TableError> {
        let tables = self.names(doing).await?;
        let newest = tables.force_by_newest();
        let answer = self.ask(doing, |_, _| Request::new(newest)).await?;
        if !answer.is_counted(1) {
            self.change(doing, vec![tables.force()]).await?;
        }
        Ok(())
    }

    /// A transaction whose results nobody needs.
    async fn change(&self, doing: &str, statements: Vec<String>) -> Result<(), TableError> {
        let asked = self.ask(doing, |_, _| Request::new(statements)).await;
        asked.map(drop)
    }

    /// A snapshot, and then a forced write if there is a member to make it.
    async fn snapshot(
        &self,
        doing: &str,
        tables: &Tables,
        statements: Vec<String>,
        forced_by: Option<Epoch>,
    ) -> Result<request::Answer, TableError> {
        let count = statements.len();
        let request = Request {
            reads: Reads::Snapshot,
            statements,
            // What is read on a server that has turned read-only is nothing to act upon.
            after: forced_by.map_or_else(Vec::new, |member| {
                let writable = std::iter::once(IF_WRITABLE.to_owned());
                writable.chain(tables.force_by(member)).collect()
            }),
        };
        let answer = self.ask(doing, |_, _| request).await?;
        // A member whose epoch was closed and released has no row any more.
        if forced_by.is_some() && !answer.is_counted(count + 2) {
            self.force(doing).await?;
        }
        Ok(answer)
    }

    /// An opening by the row that lists it.
    fn openings(
        &self,
        doing: &str,
        answer: &request::Answer,
        statement: usize,
    ) -> Result<Vec<OpeningRow>, TableError> {
        self.parsed(
            doing,
            "unanimous_opening",
            answer.rows(statement),
            rows::opening,
        )
    }
}

#[async_trait]
impl DecisionTable for MysqlTable {
    fn place(&self) -> String {
        self.place_text()
    }

    fn ddl(&self, manager: ManagerId) -> String {
        let unqualified = Tables::of_current_database();
        let statements = schema::ddl(self.known().unwrap_or(&unqualified), manager);
        statements.join(";\n\n") + ";\n"
    }

    async fn init(&self, manager: ManagerId) -> Result<(), TableError> {
        let doing = "make the tables";
        let tables = self.names(doing).await?;
        match self.check().await {
            Ok(_) => self.force(doing).await,
            Err(error) if error.kind() == TableErrorKind::Missing => {
                let lease = self.resource.inner.table.lend_checked().await;
                let lease = lease.map_err(|error| self.not_sent(doing, error))?;
                let statements = schema::ddl(tables, manager);
                self.run_each(doing, lease, &statements).await
            }
            Err(error) => Err(error),
        }
    }

    async fn check(&self) -> Result<TableState, TableError> {
        let doing = "use the tables";
        let tables = self.names(doing).await?;
        let lease = self.resource.inner.table.lend_checked().await;
        let mut lease = lease.map_err(|error| self.not_sent(doing, error))?;
        if let Some(session) = lease.session() {
            // As a resource's preflight does, which nobody may have run here. Why it could not be
            // made is said by what comes next.
            preflight::make_identity(session).await;
        }
        let mut scope = String::new();
        let asked = self.ask_on(doing, lease, |server, _| {
            scope.push_str(&server.scope);
            let mut statements = vec![
                settings::writable(server.flavour).to_owned(),
                tables.engines(),
            ];
            statements.extend(tables.check());
            Request::of(Reads::CurrentAnywhere, statements)
        });
        let answer = asked.await?;
        if let Some(why) = settings::why_not_writable(answer.rows(0)) {
            return Err(self.error(TableErrorKind::Refused, doing, &why));
        }
        if let Some(row) = answer.rows(1).first() {
            let table = crate::session::text(row, 0).unwrap_or_default();
            let why = format!("{table} is not an InnoDB table: ALTER TABLE {table} ENGINE=InnoDB");
            return Err(self.unfit(doing, &why));
        }
        let Some(row) = answer.rows(2).first() else {
            let why = "there is no row in unanimous_log: they were not made to the end; make them \
                       again";
            return Err(self.error(TableErrorKind::Missing, doing, why));
        };
        match rows::log(row) {
            Some((schema::VERSION, Some(manager))) => {
                self.refuse_moved(doing, &answer)?;
                Ok(TableState {
                    manager,
                    identity: answer.identity,
                    scope,
                })
            }
            Some((schema::VERSION, None)) | None => Err(self.foreign(doing, "unanimous_log")),
            Some((version, _)) => {
                let why = format!(
                    "they are of version {version}, and this program knows version {}: use the \
                     program that made them",
                    schema::VERSION
                );
                Err(self.unfit(doing, &why))
            }
        }
    }

    async fn preflight(&self) -> Result<Option<Preflight>, ResourceError> {
        preflight::check(&self.resource).await.map(Some)
    }

    async fn join(&self, random: u64, label: &str) -> Result<OpeningRow, TableError> {
        let doing = "join the log";
        let tables = self.names(doing).await?;
        let asked = self.ask(doing, |_, identity| {
            Request::new(tables.join(random, identity, label))
        });
        let answer = asked.await?;
        let openings = self.openings(doing, &answer, answer.results.len() - 1)?;
        let opening = openings.into_iter().next();
        opening.ok_or_else(|| self.foreign(doing, "unanimous_log"))
    }

    async fn decide(
        &self,
        at: EpochSlot,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
    ) -> Result<Decided, TableError> {
        let doing = "record decisions";
        let tables = self.names(doing).await?;
        // A session is on one server, and its identity stays as it is.
        let is_home = |identity: &ServerIdentity| home.is_none_or(|home| home == identity);
        let asked = self.ask(doing, |server, identity| {
            Request::new(if is_home(identity) {
                tables.decide(server.flavour, at, rows)
            } else {
                tables.decided(at, rows)
            })
        });
        let answer = asked.await?;
        let closed = answer.rows(0).first().and_then(|row| rows::is_true(row, 0));
        let is_open = is_home(&answer.identity) && closed == Some(false);
        let is_released = if is_home(&answer.identity) && closed.is_none() {
            self.is_released(doing, at, &answer.identity).await?
        } else {
            false
        };
        let lost = |why: &str| self.error(TableErrorKind::Lost, doing, why);
        let standing = answer.rows(2);
        let standing = self.parsed(doing, "unanimous_decision", standing, rows::answered);
        // What cannot be read is there all the same.
        let standing = standing.map_err(|error| lost(&error.to_string()).with_source(error))?;
        let standing: HashMap<Gtrid, RowState> = standing.into_iter().collect();
        let answers: Vec<_> = rows
            .iter()
            .map(|row| match standing.get(&row.gtrid) {
                Some(state) => RowAnswer::Stands(*state),
                None => RowAnswer::EpochClosed,
            })
            .collect();
        if is_open && answers.contains(&RowAnswer::EpochClosed) {
            return Err(lost("a row that was written was not found again"));
        }
        if !is_open || rows.is_empty() {
            // Nothing was written. A refusal here would deny what an earlier attempt has written.
            let forced = self.force(doing).await;
            forced.map_err(|error| lost(&error.to_string()).with_source(error))?;
        }
        Ok(Decided {
            identity: answer.identity,
            answers,
            is_released,
        })
    }

    fn last_statement(&self, at: EpochSlot, row: &DecisionRow) -> String {
        match self.known() {
            Some(tables) => tables.last_statement(at, row),
            // Nothing was ever asked of the tables; the branch is told so, and rolls back.
            None => "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the database of the decision \
                     table is not known yet'"
                .to_owned(),
        }
    }

    async fn put_rollback(&self, gtrid: Gtrid) -> Result<RowState, TableError> {
        let doing = "settle a last resource";
        let tables = self.names(doing).await?;
        let asked = self.ask(doing, |_, _| Request::new(tables.put_rollback(gtrid)));
        let answer = asked.await?;
        let state = answer.rows(1).first().and_then(|row| rows::state(row, 0));
        state.ok_or_else(|| self.foreign(doing, "unanimous_decision"))
    }

    async fn complete(&self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        let doing = "complete decisions";
        if gtrids.is_empty() {
            return Ok(());
        }
        let tables = self.names(doing).await?;
        self.change(doing, tables.complete(gtrids)).await
    }

    async fn forget(&self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        let doing = "forget completed decisions";
        if gtrids.is_empty() {
            return Ok(());
        }
        let tables = self.names(doing).await?;
        self.change(doing, tables.forget(gtrids)).await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        end: char,
    ) -> Result<(), TableError> {
        let doing = "note a heuristic end";
        let tables = self.names(doing).await?;
        let noting = tables.heuristic_from(gtrid, resource, end);
        self.record(doing, tables, noting).await
    }

    async fn record_by_hand(&self, row: &HandRow) -> Result<(), TableError> {
        let doing = "record what a person does";
        let tables = self.names(doing).await?;
        self.record(doing, tables, tables.by_hand_from(row)).await
    }

    async fn ends(&self, forced_by: Option<Epoch>) -> Result<Ends, TableError> {
        let doing = "list what people did";
        let tables = self.names(doing).await?;
        let answer = self
            .snapshot(doing, tables, tables.ends(), forced_by)
            .await?;
        let (noted, by_hand) = (answer.rows(0), answer.rows(1));
        Ok(Ends {
            heuristics: self.parsed(doing, "unanimous_heuristic", noted, rows::noted)?,
            by_hand: self.parsed(doing, "unanimous_by_hand", by_hand, rows::by_hand)?,
            identity: answer.identity,
        })
    }

    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, TableError> {
        let doing = "see when decisions were made";
        if gtrids.is_empty() {
            return Ok(Vec::new());
        }
        let tables = self.names(doing).await?;
        let request = Request::of(Reads::CurrentAnywhere, tables.decided_at(gtrids));
        let answer = self.ask(doing, |_, _| request).await?;
        self.parsed(
            doing,
            "unanimous_decision",
            answer.rows(0),
            rows::decided_at,
        )
    }

    async fn close(&self, epoch: Epoch) -> Result<(), TableError> {
        let doing = "close an epoch";
        let tables = self.names(doing).await?;
        let asked = self.ask(doing, |_, now| Request::new(tables.close(epoch, now)));
        let answer = asked.await?;
        if answer.is_counted(2) {
            return Ok(());
        }
        let why = format!("epoch {epoch} is not listed: the tables are another log's");
        Err(self.unfit(doing, &why))
    }

    async fn release(&self, epoch: Epoch) -> Result<(), TableError> {
        let doing = "release an epoch";
        let tables = self.names(doing).await?;
        let request = Request::new(tables.release(epoch));
        let answer = self.ask(doing, |_, _| request).await?;
        if answer.is_counted(2) {
            return Ok(());
        }
        let why = format!("epoch {epoch} is not closed: only a closed one can be released");
        Err(self.unfit(doing, &why))
    }

    async fn beat(&self, own: Epoch) -> Result<Vec<Beat>, TableError> {
        let doing = "give a sign of life";
        let tables = self.names(doing).await?;
        let request = Request::new(tables.beat(own));
        let answer = self.ask(doing, |_, _| request).await?;
        self.parsed(doing, "unanimous_member", answer.rows(1), rows::beat)
    }

    async fn read(
        &self,
        openings_from: Epoch,
        forced_by: Option<Epoch>,
    ) -> Result<Snapshot, TableError> {
        let doing = "read the decisions";
        let tables = self.names(doing).await?;
        let statements = tables.read(openings_from);
        let answer = self.snapshot(doing, tables, statements, forced_by).await?;
        let pending = answer.rows(1);
        Ok(Snapshot {
            openings: self.openings(doing, &answer, 0)?,
            pending: self.parsed(doing, "unanimous_decision", pending, rows::pending)?,
            identity: answer.identity,
        })
    }

    async fn find_all(
        &self,
        gtrids: &[Gtrid],
        forced_by: Option<Epoch>,
    ) -> Result<Vec<Found>, TableError> {
        find::find_all(self, gtrids, forced_by).await
    }

    async fn hold(&self) -> Result<Box<dyn HeldDecisions>, TableError> {
        self.hold_decisions().await
    }

    async fn closed_for(&self, age: Duration) -> Result<Vec<Epoch>, TableError> {
        let doing = "list closed epochs";
        let tables = self.names(doing).await?;
        let request = Request::of(Reads::CurrentAnywhere, tables.closed_for(age));
        let answer = self.ask(doing, |_, _| request).await?;
        let rows = answer.rows(0);
        self.parsed(doing, "unanimous_opening", rows, |row| rows::epoch(row, 0))
    }
}
