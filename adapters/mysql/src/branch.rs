//! A branch: one XA transaction on one connection, from `XA START` to its end.
//!
//! * Every request of the protocol moves [`Stage`] to [`Stage::Doubt`] before it is sent and out of
//!   it only by the server's own word, so a future that is dropped half-way leaves a branch that
//!   claims nothing (I3, I7).
//! * Phase two runs on the connection that prepared. It is not reset, and no statement of the
//!   application gets there, until the branch has ended (I8).
//! * "Rolled back for certain" is answered in two cases only: `XA PREPARE` was never sent, or the
//!   server has confirmed it on this very connection.
//!
//! What it does not do: repeat a request, or finish what another connection prepared; that is
//! `finish.rs`.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mysql_async::Error;
use unanimous_core::ports::{
    Branch, BranchEnv, BranchError, BranchErrorKind, OnePhaseReply, PrepareReply, ServerIdentity,
};
use unanimous_core::xid::Xid;

use crate::Mysql;
use crate::codes::{self, During};
use crate::fence::Holder;
use crate::latch::{Failure, Latch, Results};
use crate::pool::Lease;
use crate::session::{PairError, Session};

mod one_phase;
mod refused;

/// How long an abandoned connection is looked after, in the background.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(30);

/// How far the branch has come, as far as the server has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The application works in it; no `XA PREPARE` was sent.
    Active,
    /// `XA PREPARE` was answered with success.
    Prepared,
    /// Committed, by the server's positive word; the session holds nothing of it but leftovers.
    Committed,
    /// Rolled back, in the same way, or by its connection being seen gone.
    RolledBack,
    /// A request was sent whose answer is missing or proves nothing.
    Doubt,
}

/// A branch in a MySQL or MariaDB database, and the application's hand on its connection.
///
/// Work in it through the driver's own [`Queryable`](mysql_async::prelude::Queryable). Statements
/// that end or begin transactions fail inside it with 1399, and nothing happens.
///
/// # Failed statements
/// Both servers roll back only the statement that failed, even after a lock wait timeout (1205),
/// and would commit the rest. So a branch in which a statement failed votes to roll back, unless
/// [`statement_error_handled`](Self::statement_error_handled) was called. After a deadlock (1213)
/// the server has rolled back the whole branch: every further statement is refused with
/// [`RollbackOnly`](crate::RollbackOnly).
///
/// # Cancellation
/// Dropping the future of a statement makes the branch rollback-only for good. Dropping the branch
/// closes its connection, and the server rolls back what was not prepared.
pub struct MysqlBranch {
    pub(crate) lease: Lease,
    pub(crate) latch: Latch,
    stage: Stage,
    is_reader: bool,
    xid: Xid,
    literal: String,
    identity: ServerIdentity,
    scope: Arc<str>,
    holder: Holder,
    resource: Mysql,
}

impl fmt::Debug for MysqlBranch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlBranch")
            .field("xid", &self.xid)
            .field("stage", &self.stage)
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}

/// Where a branch was opened.
pub(crate) struct Place {
    pub(crate) identity: ServerIdentity,
    pub(crate) scope: Arc<str>,
    pub(crate) holder: Holder,
    pub(crate) hides_deadlocks: bool,
}

impl MysqlBranch {
    /// The transaction has been begun on the lent session.
    pub(crate) fn new(
        resource: &Mysql,
        env: BranchEnv,
        literal: String,
        lease: Lease,
        place: Place,
    ) -> Self {
        Self {
            lease,
            latch: if env.read_only {
                Latch::of_reader(place.hides_deadlocks)
            } else {
                Latch::of_writer(place.hides_deadlocks)
            },
            stage: Stage::Active,
            is_reader: env.read_only,
            literal,
            xid: env.xid,
            identity: place.identity,
            scope: place.scope,
            holder: place.holder,
            resource: resource.clone(),
        }
    }

    /// Says that the application has dealt with the statements that failed so far, so that the
    /// branch may be committed with what the other statements have done.
    ///
    /// Answers `false` if that is not possible: the server has rolled back the whole branch, or its
    /// connection cannot be used any more.
    #[must_use = "the branch is rollback-only all the same if this answers false"]
    pub fn statement_error_handled(&mut self) -> bool {
        if let Some(session) = self.lease.session() {
            self.latch.observe(session.conn());
        }
        self.latch.handled()
    }

    fn error(&self, kind: BranchErrorKind, message: impl Into<String>) -> BranchError {
        BranchError::new(kind, self.xid.bqual.clone(), message)
    }

    /// "cannot prepare X: the server's words", with the driver's error as source.
    fn failed(&self, kind: BranchErrorKind, doing: &str, error: Error) -> BranchError {
        self.error(kind, format!("cannot {doing} {}: {error}", self.xid))
            .with_source(error)
    }

    fn wrong_stage(&self, doing: &str) -> BranchError {
        let message = format!("cannot {doing} {}: it is {:?}", self.xid, self.stage);
        self.error(BranchErrorKind::WrongState, message)
    }

    fn closed(&self, doing: &str) -> BranchError {
        let message = format!("cannot {doing} {}: its connection is closed", self.xid);
        self.error(BranchErrorKind::Undetermined, message)
    }

    /// The session, if no request is half answered.
    fn usable(&mut self) -> Option<&mut Session> {
        if self.latch.is_in_flight() {
            return None;
        }
        self.lease.session().filter(|session| session.is_usable())
    }

    /// Looks for everything that forbids to commit; reads what the application left unread.
    async fn settle_work(&mut self) -> Result<(), Failure> {
        if let Some(session) = self.lease.session() {
            self.latch.observe(session.conn());
            let ask = match self.latch.last() {
                Results::Read => false,
                Results::HandedOut => session.has_unread_results(),
                // A writer that has ended its transaction is told so by `XA END`.
                Results::Untold => self.is_reader,
            };
            if self.latch.failure().is_none() {
                if ask {
                    self.latch.begin(Results::Read);
                    let result = session.ping().await;
                    self.latch.settle(&result);
                } else if self.latch.last() == Results::HandedOut {
                    self.latch.results_are_read();
                }
                self.latch.observe(session.conn());
            }
        }
        match self.latch.failure() {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Rolls back what was never asked to prepare, and says why. Nothing can commit it any more,
    /// whether the rollback is confirmed or not.
    async fn give_up(&mut self, failure: &Failure) -> BranchError {
        let message = format!("{} is rolled back: {}", self.xid, failure.reason);
        let error = self.error(BranchErrorKind::RolledBack(failure.cause), message);
        if let Err(unconfirmed) = self.rollback_active().await {
            tracing::debug!(%unconfirmed, "the server rolls back when it sees the connection gone");
        }
        error
    }

    async fn rollback_active(&mut self) -> Result<(), BranchError> {
        let (end, rollback) = (self.sql("XA END"), self.sql("XA ROLLBACK"));
        let is_reader = self.is_reader;
        let unread = self.latch.last() == Results::HandedOut;
        let confirmed = match self.usable() {
            None => false,
            Some(session) if is_reader => session.run("ROLLBACK").await.is_ok(),
            Some(session) => rollback_session(session, unread, &end, &rollback).await,
        };
        if confirmed {
            self.stage = Stage::RolledBack;
            return Ok(());
        }
        self.rollback_by_closing().await
    }

    /// The connection cannot be used: a closed connection rolls back what is not prepared, as soon
    /// as the server notices. It does not notice while a statement runs or waits for a lock, so the
    /// connection is killed and seen gone.
    async fn rollback_by_closing(&mut self) -> Result<(), BranchError> {
        self.lease.close();
        self.resource
            .fence(&self.holder, &self.identity)
            .await
            .map_err(|reason| {
                let message = format!("rollback of {} is not confirmed: {reason}", self.xid);
                self.error(BranchErrorKind::Undetermined, message)
            })?;
        self.stage = Stage::RolledBack;
        Ok(())
    }

    fn sql(&self, verb: &str) -> String {
        format!("{verb} {}", self.literal)
    }
}

/// `XA END` and `XA ROLLBACK`, in one round trip when all is well. After a refused `XA END` (both
/// servers refuse it in a branch that they have rolled back already) the rollback is sent alone.
async fn rollback_session(session: &mut Session, unread: bool, end: &str, rollback: &str) -> bool {
    if unread {
        // Reads what is left, and its error, which nobody waits for.
        drop(session.ping().await);
    }
    match session.run_pair(end, rollback).await {
        Ok(()) => true,
        Err(PairError::First(Error::Server(_)) | PairError::Second(Error::Server(_))) => {
            match session.run(rollback).await {
                Ok(()) => true,
                // Unknown: it was never prepared, and this session does not hold it, so it is gone.
                Err(error) => codes::is_rolled_back(&error) || codes::is_unknown_xid(&error),
            }
        }
        Err(PairError::First(_) | PairError::Second(_)) => false,
    }
}

#[async_trait]
impl Branch for MysqlBranch {
    fn xid(&self) -> &Xid {
        &self.xid
    }

    fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    fn scope(&self) -> &str {
        &self.scope
    }

    async fn prepare(&mut self) -> PrepareReply {
        if self.is_reader {
            return match self.end_read_only().await {
                Ok(()) => PrepareReply::ReadOnly,
                Err(error) => PrepareReply::RolledBack(error),
            };
        }
        if self.stage != Stage::Active {
            return PrepareReply::Undetermined(self.wrong_stage("prepare"));
        }
        if let Err(failure) = self.settle_work().await {
            return PrepareReply::RolledBack(self.give_up(&failure).await);
        }
        let (end, prepare) = (self.sql("XA END"), self.sql("XA PREPARE"));
        self.stage = Stage::Doubt;
        let Some(session) = self.lease.session() else {
            return PrepareReply::Undetermined(self.closed("prepare"));
        };
        match session.run_pair(&end, &prepare).await {
            Ok(()) => {
                self.stage = Stage::Prepared;
                if session.keeps_prepared() {
                    return self.refuse_attached().await;
                }
                PrepareReply::Prepared(self.holder.evidence())
            }
            Err(PairError::First(error @ Error::Server(_))) => {
                PrepareReply::RolledBack(self.end_refused(error).await)
            }
            Err(PairError::Second(error @ Error::Server(_))) => {
                match self
                    .last_step_refused("prepare", Some(During::Prepare), error)
                    .await
                {
                    Ok(error) => PrepareReply::RolledBack(error),
                    Err(error) => PrepareReply::Undetermined(error),
                }
            }
            Err(PairError::First(error) | PairError::Second(error)) => PrepareReply::Undetermined(
                self.failed(BranchErrorKind::Undetermined, "prepare", error),
            ),
        }
    }

    async fn commit(&mut self) -> Result<(), BranchError> {
        if self.stage != Stage::Prepared {
            return Err(self.wrong_stage("commit"));
        }
        let commit = self.sql("XA COMMIT");
        let Some(session) = self.lease.session() else {
            return Err(self.closed("commit"));
        };
        self.stage = Stage::Doubt;
        match session.run(&commit).await {
            Ok(()) => {
                self.stage = Stage::Committed;
                Ok(())
            }
            Err(error) => {
                let kind = codes::meaning(&error, During::Commit);
                if matches!(kind, BranchErrorKind::Unavailable | BranchErrorKind::Failed) {
                    self.stage = Stage::Prepared;
                }
                let failed = &self.resource.inner.failed_commits;
                let by = (&self.identity, self.holder.started());
                failed.hear(&self.xid, by, &error, During::Commit);
                Err(self.failed(kind, "commit", error))
            }
        }
    }

    async fn rollback(&mut self) -> Result<(), BranchError> {
        match self.stage {
            Stage::Active => return self.rollback_active().await,
            Stage::RolledBack => return Ok(()),
            Stage::Committed => return Err(self.wrong_stage("roll back")),
            Stage::Prepared | Stage::Doubt => {}
        }
        let rollback = self.sql("XA ROLLBACK");
        let before = mem::replace(&mut self.stage, Stage::Doubt);
        let Some(session) = self.usable() else {
            return Err(self.closed("roll back"));
        };
        match session.run(&rollback).await {
            Ok(()) => {
                self.stage = Stage::RolledBack;
                Ok(())
            }
            Err(error) if codes::is_rolled_back(&error) => {
                self.stage = Stage::RolledBack;
                Ok(())
            }
            Err(error) => {
                let kind = codes::meaning(&error, During::Rollback);
                if matches!(kind, BranchErrorKind::Unavailable | BranchErrorKind::Failed) {
                    self.stage = before;
                }
                Err(self.failed(kind, "roll back", error))
            }
        }
    }

    async fn commit_one_phase(&mut self) -> OnePhaseReply {
        self.end_in_one_phase("commit in one phase", None).await
    }

    async fn commit_last(&mut self, statement: &str) -> OnePhaseReply {
        self.end_in_one_phase("commit as last resource", Some(statement))
            .await
    }

    async fn end_read_only(&mut self) -> Result<(), BranchError> {
        if self.stage != Stage::Active || !self.is_reader {
            return Err(self.wrong_stage("end read-only"));
        }
        if let Err(failure) = self.settle_work().await {
            return Err(self.give_up(&failure).await);
        }
        let Some(session) = self.lease.session() else {
            return Err(self.closed("end read-only"));
        };
        match session.run("COMMIT").await {
            Ok(()) => {
                self.stage = Stage::Committed;
                Ok(())
            }
            Err(error) => {
                let cause = codes::statement(&error).cause;
                Err(self.failed(BranchErrorKind::RolledBack(cause), "end read-only", error))
            }
        }
    }

    /// The wipe runs in the background; the session is lent again when it has succeeded.
    async fn release(mut self: Box<Self>) {
        if matches!(self.stage, Stage::Committed | Stage::RolledBack) {
            let lease = mem::replace(&mut self.lease, Lease::closed());
            tokio::spawn(lease.wipe());
        }
    }
}

impl Drop for MysqlBranch {
    fn drop(&mut self) {
        self.lease.close();
        // A statement that runs, or waits for a lock, keeps its own locks until the server notices.
        let lingers = self.stage == Stage::Active && self.latch.is_in_flight();
        if let (true, Ok(runtime)) = (lingers, tokio::runtime::Handle::try_current()) {
            let (resource, holder) = (self.resource.clone(), self.holder.clone());
            let identity = self.identity.clone();
            runtime.spawn(async move {
                let fenced = resource.fence(&holder, &identity);
                // Bounded: it holds a session of recovery, and the server may have fallen silent.
                let reason = match tokio::time::timeout(ABANDONED_TIMEOUT, fenced).await {
                    Ok(Ok(())) => return,
                    Ok(Err(reason)) => reason,
                    Err(_) => "no answer in time".to_owned(),
                };
                tracing::debug!(%reason, "an abandoned connection ends by its time limits");
            });
        }
    }
}
