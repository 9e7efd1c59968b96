//! One request to the tables: a packet of statements on a session of theirs, and what its error
//! means.
//!
//! The server stops at the first error, so what failed before `COMMIT` was reached has not happened
//! and will not. Whatever else is not a plain answer may have happened. A session is used again
//! only if nothing is half answered and no transaction is open in it.

use mysql_async::{Error, Row};
use unanimous_core::ports::{
    EpochSlot, Problem, ResourceError, ServerIdentity, TableError, TableErrorKind,
};

use super::MysqlTable;
use super::sql::IF_WRITABLE;
use crate::codes::{self, TablePhase};
use crate::pool::Lease;
use crate::session::Server;

/// Whatever the session's `completion_type` is.
const COMMIT: &str = "COMMIT AND NO CHAIN NO RELEASE";
const ROLLBACK: &str = "ROLLBACK AND NO CHAIN NO RELEASE";

/// What a request begins with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reads {
    /// Every statement reads what is committed when it begins, and may write: but not on a server
    /// that is read-only.
    Current,
    /// The same without that condition, to find out what is so.
    CurrentAnywhere,
    /// All statements read the same: what was committed when the request began.
    Snapshot,
}

impl Reads {
    /// The tables' sessions are in READ COMMITTED.
    fn begin(self) -> &'static [&'static str] {
        match self {
            Self::Current | Self::CurrentAnywhere => &["START TRANSACTION"],
            Self::Snapshot => &[
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
            ],
        }
    }

    /// The account may be one that writes all the same (CONNECTION_ADMIN, which recovery has, lets
    /// it on MySQL), and sessions outlive the end of a primary: what it then wrote would be on no
    /// other server. Asked last, behind all waits but those of the commit itself (under `FLUSH
    /// TABLES WITH READ LOCK`, for example), which only `super_read_only` stops.
    fn condition(self) -> Option<&'static str> {
        match self {
            Self::Current => Some(IF_WRITABLE),
            Self::CurrentAnywhere | Self::Snapshot => None,
        }
    }
}

/// What the server answered.
pub(super) struct Answer {
    pub(super) identity: ServerIdentity,
    /// The rows of each statement, then those of each statement after the commit.
    pub(super) results: Vec<Vec<Row>>,
}

impl Answer {
    /// The rows of a statement.
    pub(super) fn rows(&self, statement: usize) -> &[Row] {
        self.results.get(statement).map_or(&[], Vec::as_slice)
    }

    /// The only value of a statement, if it is a number above zero.
    pub(super) fn is_counted(&self, statement: usize) -> bool {
        let row = self.rows(statement).first();
        row.and_then(|row| super::rows::is_true(row, 0)) == Some(true)
    }
}

/// A request.
pub(super) struct Request {
    pub(super) reads: Reads,
    pub(super) statements: Vec<String>,
    /// Run after the commit, each a transaction of its own: the forced write that follows a read.
    pub(super) after: Vec<String>,
}

impl Request {
    pub(super) fn new(statements: Vec<String>) -> Self {
        Self::of(Reads::Current, statements)
    }

    pub(super) const fn of(reads: Reads, statements: Vec<String>) -> Self {
        Self {
            reads,
            statements,
            after: Vec::new(),
        }
    }
}

impl MysqlTable {
    /// Carries out one transaction, in one round trip. `doing` completes "cannot …".
    pub(super) async fn ask(
        &self,
        doing: &str,
        request: impl FnOnce(&Server, &ServerIdentity) -> Request + Send,
    ) -> Result<Answer, TableError> {
        let lease = self.resource.inner.table.lend().await;
        let lease = lease.map_err(|error| self.not_sent(doing, error))?;
        self.ask_on(doing, lease, request).await
    }

    pub(super) async fn ask_on(
        &self,
        doing: &str,
        mut lease: Lease,
        request: impl FnOnce(&Server, &ServerIdentity) -> Request + Send,
    ) -> Result<Answer, TableError> {
        let Some(session) = lease.session() else {
            return Err(self.error(TableErrorKind::NotSent, doing, "the connection is closed"));
        };
        let identity = self.resource.identity_of(session).await;
        let identity = identity.map_err(|error| self.unidentified(doing, error))?;
        let request = request(session.server(), &identity);
        let begin = request.reads.begin();
        let condition = request.reads.condition();
        let answered = begin.len() + request.statements.len();
        let commit = answered + usize::from(condition.is_some());
        let packet: Vec<&str> = begin
            .iter()
            .copied()
            .chain(request.statements.iter().map(String::as_str))
            .chain(condition)
            .chain([COMMIT])
            .chain(request.after.iter().map(String::as_str))
            .collect();
        match session.rows_of_all(&packet).await {
            Ok(mut results) => {
                lease.give_back();
                results.drain(answered..=commit);
                results.drain(..begin.len());
                Ok(Answer { identity, results })
            }
            Err((failed, error)) => {
                let phase = if failed == commit {
                    TablePhase::Commit
                } else {
                    TablePhase::Work
                };
                Err(self.failed(doing, lease, phase, error).await)
            }
        }
    }

    /// Whether an epoch is released, whose slots are not there any more. Seen after them.
    pub(super) async fn is_released(
        &self,
        doing: &str,
        at: EpochSlot,
        home: &ServerIdentity,
    ) -> Result<bool, TableError> {
        let tables = self.names(doing).await?;
        let request = Request::of(Reads::CurrentAnywhere, vec![tables.released(at.epoch)]);
        let asked = self.ask(doing, |_, _| request);
        let answer = asked.await?;
        if answer.identity != *home {
            let why = "another server has answered meanwhile";
            return Err(self.error(TableErrorKind::Lost, doing, why));
        }
        if answer.is_counted(0) {
            return Ok(true);
        }
        let EpochSlot { epoch, slot } = at;
        let why = format!(
            "there is no slot {slot} of epoch {epoch}: the tables are another log's, or were \
             restored from a backup"
        );
        Err(self.unfit(doing, &why))
    }

    /// Ends what the request left open, and says what its error means.
    async fn failed(
        &self,
        doing: &str,
        mut lease: Lease,
        phase: TablePhase,
        error: Error,
    ) -> TableError {
        let (kind, mend) = codes::table(&error, phase);
        if !matches!(error, Error::Server(_)) {
            if !lease.is_fresh() {
                self.resource.inner.table.purge();
            }
        } else if let Some(session) = lease.session()
            && session.run(ROLLBACK).await.is_ok()
        {
            lease.give_back();
        }
        // Else it is closed, and the server rolls back what was not committed.
        self.error(kind, doing, &format!("{error}{mend}"))
            .with_source(error)
    }

    /// Runs statements that commit by themselves, one round trip each: DDL.
    pub(super) async fn run_each(
        &self,
        doing: &str,
        mut lease: Lease,
        statements: &[String],
    ) -> Result<(), TableError> {
        for sql in statements {
            let Some(session) = lease.session() else {
                return Err(self.error(TableErrorKind::Lost, doing, "the connection is closed"));
            };
            if let Err(error) = session.run(sql).await {
                let failed = self.failed(doing, lease, TablePhase::Ddl, error);
                return Err(failed.await);
            }
        }
        lease.give_back();
        Ok(())
    }

    /// No session could be had, or what it is on cannot be used: nothing was sent.
    pub(super) fn not_sent(&self, doing: &str, error: ResourceError) -> TableError {
        let kind = if error.problem() == Problem::Unfit {
            TableErrorKind::Refused
        } else {
            TableErrorKind::NotSent
        };
        self.error(kind, doing, &error.to_string())
            .with_source(error)
    }

    /// Not sent, because MariaDB's identity row is missing: it is made together with the tables.
    fn unidentified(&self, doing: &str, error: ResourceError) -> TableError {
        let kind = if error.problem() == Problem::Unfit {
            TableErrorKind::Missing
        } else {
            TableErrorKind::NotSent
        };
        self.error(kind, doing, &error.to_string())
            .with_source(error)
    }

    pub(super) fn error(&self, kind: TableErrorKind, doing: &str, why: &str) -> TableError {
        TableError::new(
            kind,
            format!("{}: cannot {doing}: {why}", self.place_text()),
        )
    }

    pub(super) fn unfit(&self, doing: &str, why: &str) -> TableError {
        self.error(TableErrorKind::Unfit, doing, why)
    }

    /// A row that is not one of ours.
    pub(super) fn foreign(&self, doing: &str, table: &str) -> TableError {
        let why = format!(
            "a row of {table} is not one that Unanimous has written: restore the tables, or let \
             somebody look who knows what has changed them"
        );
        self.unfit(doing, &why)
    }

    /// Reads every row, or says of which table one cannot be read.
    pub(super) fn parsed<T>(
        &self,
        doing: &str,
        table: &str,
        rows: &[Row],
        parse: impl Fn(&Row) -> Option<T>,
    ) -> Result<Vec<T>, TableError> {
        rows.iter()
            .map(|row| parse(row).ok_or_else(|| self.foreign(doing, table)))
            .collect()
    }
}
