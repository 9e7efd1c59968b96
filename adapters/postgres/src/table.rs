//! The decision table in PostgreSQL: one transaction per method, one round trip in the good case.
//!
//! It works on sessions of its own, with recovery's account, so that neither branches that wait for
//! each other nor slow ends of branches keep a decision waiting for a connection. Invariants:
//! * I3: *not sent* and *refused* are said only if no attempt can have had an effect. An answer of
//!   severity ERROR is one, because the string of statements ends with its `COMMIT` and stops at
//!   the first error; a session that dies is not.
//! * Whoever drops a future of these closes its session: see [`Lease`](crate::pool::Lease).
//! * A commit that may not have reached its synchronous standby (the server warns, and answers
//!   success) counts as lost: asked again, it waits again.

mod deciding;
mod hold;
mod moving;
pub(crate) mod rights;
mod rows;
mod schema;
mod sql;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{
    Beat, Decided, DecisionRow, DecisionTable, Ends, EpochSlot, Found, HandRow, HeldDecisions,
    OpeningRow, Preflight, ResourceError, RowState, ServerIdentity, Snapshot, TableError,
    TableErrorKind, TableHome, TableState, UnixTime, arrives_from, went_to,
};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, ResourceName};

use crate::Postgres;
use crate::codes;
use crate::failure::Failure;
use crate::session::{Replies, Session};
use rows::{Rows, Shape};
use sql::{Durability, transaction};

pub(crate) use sql::{lock_timeout, session};

impl TableHome for Postgres {
    fn decision_table(&self) -> Arc<dyn DecisionTable> {
        self.settings().holds_log.store(true, Ordering::Relaxed);
        let where_it_is = self.settings().recovery_access().place();
        Arc::new(Table {
            resource: self.clone(),
            place: format!("PostgreSQL {where_it_is}, schema {}", schema::SCHEMA),
        })
    }
}

#[derive(Clone)]
struct Table {
    resource: Postgres,
    place: String,
}

#[async_trait]
impl DecisionTable for Table {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn ddl(&self, manager: ManagerId) -> String {
        schema::ddl(manager)
    }

    async fn init(&self, manager: ManagerId) -> Result<(), TableError> {
        let asked = "cannot make the decision table";
        let (_, shape) = self.shape(asked).await?;
        if !shape.is_missing() {
            // Forced: somebody else may have made them a moment ago.
            let named = transaction(Durability::Forced, [sql::LOG.into(), sql::FORCE.into()]);
            let (_, rows) = self.run(asked, named).await?;
            if rows.log().is_some() {
                return Ok(());
            }
        }
        let making = transaction(Durability::Forced, schema::making(manager));
        self.run(asked, making).await.map(|_| ())
    }

    async fn check(&self) -> Result<TableState, TableError> {
        let asked = "cannot use the decision table";
        let statements = vec![schema::shape(), sql::LOG.into()];
        let (identity, rows) = match self.run(asked, statements).await {
            Ok(answer) => answer,
            // The catalog tells more than the error: which table, which right.
            Err(error) if is_of_the_tables(error.kind()) => {
                let (_, shape) = self.shape(asked).await?;
                self.judge(asked, &shape)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        self.judge(asked, &Shape::read(&rows))?;
        let manager = self.manager(asked, &rows)?;
        self.refuse_moved(asked, &rows)?;
        let scope = identity.as_str().to_owned();
        Ok(TableState {
            manager,
            identity,
            scope,
        })
    }

    async fn preflight(&self) -> Result<Option<Preflight>, ResourceError> {
        self.resource.check().await.map(Some)
    }

    async fn join(&self, random: u64, label: &str) -> Result<OpeningRow, TableError> {
        let asked = "cannot join the members of the decision log";
        let statements = |identity: &ServerIdentity| {
            transaction(Durability::Forced, sql::join(random, label, identity)).into()
        };
        let (_, rows) = self.run_with(asked, false, statements).await?;
        let mut openings = self.understood(asked, rows.openings())?;
        let joined = openings.pop();
        let joined = joined.ok_or("unanimous_log names no manager, or the log was moved away");
        self.understood(asked, joined)
    }

    async fn decide(
        &self,
        at: EpochSlot,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
    ) -> Result<Decided, TableError> {
        self.decide_rows(at, home, rows).await
    }

    fn last_statement(&self, at: EpochSlot, row: &DecisionRow) -> String {
        sql::last_statement(at, row)
    }

    async fn put_rollback(&self, gtrid: Gtrid) -> Result<RowState, TableError> {
        let asked = "cannot keep a last resource from committing";
        let statements = transaction(Durability::Forced, sql::put_rollback(gtrid));
        let (_, rows) = self.run(asked, statements).await?;
        let state = rows.forced().and_then(|()| rows.state_of(gtrid));
        self.understood(asked, state)
    }

    async fn complete(&self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        let asked = "cannot mark decisions as completed";
        self.change(asked, gtrids, sql::complete).await
    }

    async fn forget(&self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        let asked = "cannot delete completed decisions";
        self.change(asked, gtrids, sql::forget).await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        end: char,
    ) -> Result<(), TableError> {
        let asked = "cannot record a branch that ended against its decision";
        let noted = sql::record_heuristic(gtrid, resource, end);
        self.record(asked, noted).await
    }

    async fn record_by_hand(&self, row: &HandRow) -> Result<(), TableError> {
        let asked = "cannot record what a person does";
        let recorded = sql::record_by_hand(row);
        self.record(asked, recorded).await
    }

    async fn ends(&self, forced_by: Option<Epoch>) -> Result<Ends, TableError> {
        let asked = "cannot list what people did";
        let statements = sql::ends();
        let (identity, rows) = self.ask(asked, statements, forced_by.is_some()).await?;
        self.understood(asked, rows.ends(identity))
    }

    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, TableError> {
        if gtrids.is_empty() {
            return Ok(Vec::new());
        }
        let asked = "cannot see when decisions were made";
        let statements = vec![sql::decided_at(gtrids)];
        let (_, rows) = self.run(asked, statements).await?;
        self.understood(asked, rows.decided_at())
    }

    async fn close(&self, epoch: Epoch) -> Result<(), TableError> {
        let asked = "cannot close an epoch";
        let statements = transaction(Durability::Forced, sql::close(epoch));
        let (_, rows) = self.run(asked, statements).await?;
        self.understood(asked, rows.changed("the epoch is not listed"))
    }

    async fn release(&self, epoch: Epoch) -> Result<(), TableError> {
        let asked = "cannot release an epoch";
        let statements = transaction(Durability::Lazy, sql::release(epoch));
        let (_, rows) = self.run(asked, statements).await?;
        self.understood(asked, rows.changed("only a closed epoch can be released"))
    }

    async fn beat(&self, own: Epoch) -> Result<Vec<Beat>, TableError> {
        let asked = "cannot give a sign of life";
        let statements = transaction(Durability::Lazy, sql::beat(own));
        let (_, rows) = self.run(asked, statements).await?;
        self.understood(asked, rows.beats())
    }

    async fn read(
        &self,
        openings_from: Epoch,
        forced_by: Option<Epoch>,
    ) -> Result<Snapshot, TableError> {
        let asked = "cannot read the decisions";
        let statements = sql::read(openings_from);
        let (identity, rows) = self.ask(asked, statements, forced_by.is_some()).await?;
        let snapshot = rows.snapshot(identity);
        self.understood(asked, snapshot)
    }

    async fn find_all(
        &self,
        gtrids: &[Gtrid],
        forced_by: Option<Epoch>,
    ) -> Result<Vec<Found>, TableError> {
        if gtrids.is_empty() {
            return Ok(Vec::new());
        }
        let asked = "cannot look for decisions";
        let statements = sql::find(gtrids);
        let (identity, rows) = self.ask(asked, statements, forced_by.is_some()).await?;
        let found = rows.found(&identity, gtrids);
        self.understood(asked, found)
    }

    async fn hold(&self) -> Result<Box<dyn HeldDecisions>, TableError> {
        hold::hold(self).await
    }

    async fn closed_for(&self, age: Duration) -> Result<Vec<Epoch>, TableError> {
        let asked = "cannot list the closed epochs";
        let statements = vec![sql::closed_for(age)];
        let (_, rows) = self.run(asked, statements).await?;
        self.understood(asked, rows.epochs())
    }
}

impl Table {
    /// Reads, and then makes what was read as durable as what is forced, if that is asked for.
    async fn ask(
        &self,
        asked: &'static str,
        mut statements: Vec<String>,
        is_forced: bool,
    ) -> Result<(ServerIdentity, Rows), TableError> {
        if is_forced {
            statements.push(sql::FORCE.into());
            statements = transaction(Durability::Forced, statements);
        }
        let (identity, rows) = self.run(asked, statements).await?;
        if is_forced {
            self.understood(asked, rows.forced())?;
        }
        Ok((identity, rows))
    }

    /// Changes rows that are named; nothing is sent if there is none.
    async fn change(
        &self,
        asked: &'static str,
        gtrids: &[Gtrid],
        change: fn(&[Gtrid]) -> String,
    ) -> Result<(), TableError> {
        if gtrids.is_empty() {
            return Ok(());
        }
        let statements = transaction(Durability::Lazy, [change(gtrids)]);
        self.run(asked, statements).await.map(|_| ())
    }

    /// For good: not in a log that was moved away, of which nobody reads it.
    async fn record(&self, asked: &'static str, recorded: String) -> Result<(), TableError> {
        let statements = [sql::FORCE.into(), recorded, sql::LOG.into()];
        let statements = transaction(Durability::Forced, statements);
        let (_, rows) = self.run(asked, statements).await?;
        self.refuse_moved(asked, &rows)?;
        self.understood(asked, rows.forced())
    }

    async fn shape(&self, asked: &'static str) -> Result<(ServerIdentity, Shape), TableError> {
        let (identity, rows) = self.run(asked, vec![schema::shape()]).await?;
        Ok((identity, Shape::read(&rows)))
    }

    fn judge(&self, asked: &str, shape: &Shape) -> Result<(), TableError> {
        match shape.fault() {
            None => Ok(()),
            Some((kind, words)) => Err(self.error(kind, asked, &words)),
        }
    }

    /// A log that was moved away, or is not here yet, is not used.
    fn refuse_moved(&self, asked: &str, rows: &Rows) -> Result<(), TableError> {
        let words = match moving::moved(rows) {
            None => return Ok(()),
            Some(moving::Mark::To(place)) => went_to(&place),
            Some(moving::Mark::From(place)) => arrives_from(&place),
        };
        Err(self.error(TableErrorKind::Unfit, asked, &words))
    }

    fn manager(&self, asked: &str, rows: &Rows) -> Result<ManagerId, TableError> {
        let named = rows.log().ok_or("unanimous_log names no manager");
        let (version, manager) = self.understood(asked, named)?;
        if version != schema::VERSION {
            let words = format!(
                "its tables are of version {version}, and this program knows version {}: use one \
                 that knows them",
                schema::VERSION
            );
            return Err(self.error(TableErrorKind::Unfit, asked, &words));
        }
        let manager = manager.parse();
        self.understood(asked, manager.map_err(|_| "unanimous_log.manager is no id"))
    }

    /// What, asked twice, answers the same.
    async fn run(
        &self,
        asked: &'static str,
        statements: Vec<String>,
    ) -> Result<(ServerIdentity, Rows), TableError> {
        self.run_with(asked, true, |_| Cow::Borrowed(statements.as_slice()))
            .await
    }

    /// Sends one string. If it answers the same when it is asked twice, it may be sent again on
    /// another session where a pooled one has died.
    async fn run_with<'a>(
        &self,
        asked: &'static str,
        may_repeat: bool,
        statements: impl Fn(&ServerIdentity) -> Cow<'a, [String]>,
    ) -> Result<(ServerIdentity, Rows), TableError> {
        let mut may_have_happened = false;
        loop {
            let lease = match self.resource.pools().table_session().await {
                Ok(lease) => lease,
                Err(failure) => {
                    let (kind, mend) = codes::table_unsent(failure.answer());
                    let kind = lost_if(may_have_happened, kind);
                    return Err(self.failed(kind, asked, failure, mend));
                }
            };
            if lease.was_pooled() && lease.loss().await.is_some() {
                continue;
            }
            let statements = statements(&lease.facts().identity);
            let failure = match send(&lease, &statements).await {
                Ok(replies) => {
                    let identity = lease.facts().identity.clone();
                    lease.keep();
                    return Ok((identity, Rows::new(replies)));
                }
                Err(failure) => failure,
            };
            if failure.is_refusal() {
                // Leaves the failed block, so that its locks go now.
                if lease.run("ROLLBACK").await.is_ok() {
                    lease.keep();
                }
            } else if may_repeat && lease.was_pooled() {
                may_have_happened = true;
                continue;
            }
            let (kind, mend) = codes::table_meaning(failure.answer());
            let kind = lost_if(may_have_happened, kind);
            return Err(self.failed(kind, asked, failure, mend));
        }
    }

    fn failed(
        &self,
        kind: TableErrorKind,
        asked: &str,
        failure: Failure,
        mend: &str,
    ) -> TableError {
        failure.into_table(kind, &format!("{}: {asked}", self.place), mend)
    }

    fn error(&self, kind: TableErrorKind, asked: &str, words: &str) -> TableError {
        TableError::new(kind, format!("{}: {asked}: {words}", self.place))
    }

    /// What cannot be understood is not as it should be.
    fn understood<T>(&self, asked: &str, answer: Result<T, &'static str>) -> Result<T, TableError> {
        answer.map_err(|words| self.error(TableErrorKind::Unfit, asked, words))
    }
}

/// What begins a transaction is carried out on the session that was set to [`session`] only.
async fn send(session: &Session, statements: &[String]) -> Result<Replies, Failure> {
    let own = crate::sql::own_session(session.facts().backend.pid);
    let limits = sql::limits();
    let mut statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    let begins = statements
        .first()
        .is_some_and(|first| first.starts_with("BEGIN"));
    let behind = usize::from(begins);
    if statements.first() == Some(&sql::BEGIN) {
        statements.insert(behind, &own);
    }
    statements.splice(behind..behind, limits.iter().map(String::as_str));
    session.watch_warnings();
    let replies = session.run(&statements.join("; ")).await?;
    if session.is_unreplicated() {
        return Err(Failure::unreplicated());
    }
    replies.all_of(statements.len())
}

/// What may have happened is not *not sent*, nor *refused*.
const fn lost_if(may_have_happened: bool, kind: TableErrorKind) -> TableErrorKind {
    if may_have_happened {
        TableErrorKind::Lost
    } else {
        kind
    }
}

fn is_of_the_tables(kind: TableErrorKind) -> bool {
    match kind {
        TableErrorKind::Missing | TableErrorKind::Unfit | TableErrorKind::Refused => true,
        TableErrorKind::NotSent | TableErrorKind::Busy | TableErrorKind::Lost => false,
    }
}
