//! The PostgreSQL branch: what the application works with, and its way through the protocol.
//!
//! ```text
//! Active ── prepare ──► Prepared ── commit, rollback ──► Committed, RolledBack
//!    └───── commit_one_phase, commit_last, end_read_only, rollback ──► Committed, RolledBack
//! any request under way, or one whose end is not known: Doubtful
//! ```
//! Promises:
//! * I3: a request makes the branch Doubtful before it is sent; only the server's own word takes it
//!   out of there. A future that is dropped leaves it Doubtful.
//! * I8: a branch that is dropped closes its connection. Only one that has ended is wiped and kept.
//! * Every request of the protocol is one round trip in the good case, guarded as
//!   [`sql`](crate::sql) tells.

use std::fmt;
use std::ops::Deref;

use async_trait::async_trait;
use tokio_postgres::{Client, SimpleQueryStream};
use unanimous_core::ports::{
    Branch, BranchEnv, BranchError, BranchErrorKind, OnePhaseReply, PrepareReply, Resource,
    ServerIdentity,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::Xid;

use crate::codes::Request;
use crate::failure::Failure;
use crate::finish::{As, OnePhaseTrace, end_answered, end_prepared};
use crate::gid::Gid;
use crate::pool::Lease;
use crate::session::{Replies, Session};
use crate::{Postgres, sql, trace, wipe};

/// A branch of a global transaction in PostgreSQL: use it like a
/// [`tokio_postgres::Client`], to which it derefs.
///
/// The transaction has begun already, and ends with the global transaction: `BEGIN`, `COMMIT` and
/// `ROLLBACK` are not for the application (savepoints are). If it sends one nevertheless, or leaves
/// a failed statement behind, the branch votes to roll back.
///
/// What the driver hands out without a lifetime (row streams, `COPY`, the cancel token) is
/// [replaced](crate::RowStream) by types that cannot outlive the branch, because one that is
/// alive would block the commit. Reaching around that through `Deref` leads to a time-out.
///
/// Dropping a branch closes its connection, which rolls back what is not prepared. A statement that
/// is still running is cancelled.
pub struct PgBranch {
    xid: Xid,
    gid: Gid,
    resource: Postgres,
    lease: Lease,
    reader: bool,
    stage: Stage,
    /// The wipe of the session, sent behind the end of the branch.
    wiping: Option<SimpleQueryStream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The application works in it.
    Active,
    /// Prepared; only its end is missing.
    Prepared,
    /// Its effects are committed and the session is idle.
    Committed,
    /// It left no effect and the session is idle.
    RolledBack,
    /// A request is under way, or its end is not known.
    Doubtful,
}

impl Deref for PgBranch {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.lease.client()
    }
}

impl fmt::Debug for PgBranch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgBranch")
            .field("xid", &self.xid)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Resource for Postgres {
    type Branch = PgBranch;

    async fn open(&self, env: BranchEnv) -> Result<PgBranch, BranchError> {
        let gid = Gid::of(&env.xid);
        let begin = sql::begin(self.settings(), &env, &gid);
        let lease = match self.pools().begin(&begin).await {
            Ok(lease) => lease,
            Err(failure) => {
                let name = &self.settings().name;
                return Err(failure.into_branch(Request::Open, name, "cannot open a branch"));
            }
        };
        Ok(PgBranch {
            xid: env.xid,
            gid,
            resource: self.clone(),
            lease,
            reader: env.read_only,
            stage: Stage::Active,
            wiping: None,
        })
    }
}

#[async_trait]
impl Branch for PgBranch {
    fn xid(&self) -> &Xid {
        &self.xid
    }

    fn identity(&self) -> &ServerIdentity {
        &self.lease.facts().identity
    }

    fn scope(&self) -> &str {
        self.identity().as_str()
    }

    async fn prepare(&mut self) -> PrepareReply {
        if self.reader {
            return match self.end_read_only().await {
                Ok(()) => PrepareReply::ReadOnly,
                Err(error) => PrepareReply::RolledBack(error),
            };
        }
        match self.leave(Stage::Active, "prepare") {
            Ok(()) => {}
            Err(error) => return PrepareReply::Undetermined(error),
        }
        if let Some(error) = self.lost_before("cannot prepare").await {
            return PrepareReply::RolledBack(error);
        }
        self.lease.watch_warnings();
        let pid = self.lease.facts().backend.pid;
        let text = sql::prepare(&self.gid, pid, self.lease.durability());
        let answer = self.lease.run(&text).await;
        match answer.and_then(|replies| replies.all_of(sql::PREPARE_STATEMENTS)) {
            Ok(replies) => self.prepared(&replies),
            Err(failure) => self.not_prepared(failure).await,
        }
    }

    async fn commit(&mut self) -> Result<(), BranchError> {
        self.leave(Stage::Prepared, "commit")?;
        self.lease.set_idle(false);
        let text = sql::commit_prepared(&self.gid);
        let (answer, wiping) = self.run_and_wipe(&text).await;
        let ended = end_answered(&self.lease, &self.gid, Decision::Commit, answer).await;
        let asked = "cannot commit the prepared branch";
        let whose = self.ended(ended, Stage::Committed, asked).await?;
        self.wiping = match whose {
            As::OwnRole => wiping,
            // A role was taken since.
            As::Owner => None,
        };
        Ok(())
    }

    async fn rollback(&mut self) -> Result<(), BranchError> {
        match self.stage {
            Stage::RolledBack => Ok(()),
            Stage::Prepared => {
                self.stage = Stage::Doubtful;
                self.lease.set_idle(false);
                let ended = end_prepared(&self.lease, &self.gid, Decision::Rollback).await;
                let asked = "cannot roll back the prepared branch";
                self.ended(ended, Stage::RolledBack, asked).await?;
                Ok(())
            }
            Stage::Active => {
                self.stage = Stage::Doubtful;
                self.settle()
                    .await
                    .map_err(|failure| self.error(failure, Request::RollBack, "cannot roll back"))
            }
            Stage::Committed | Stage::Doubtful => self.leave(Stage::Active, "roll back"),
        }
    }

    async fn commit_one_phase(&mut self) -> OnePhaseReply {
        match self.leave(Stage::Active, "commit in one phase") {
            Ok(()) => {}
            Err(error) => return OnePhaseReply::Undetermined(error),
        }
        if let Some(error) = self.lost_before("cannot commit in one phase").await {
            return OnePhaseReply::RolledBack(error);
        }
        self.lease.watch_warnings();
        let (guard, end, wiping) = self.guard_and_commit().await;
        match (guard, end) {
            (_, _) if self.lease.is_unreplicated() => {
                // The commit log of this server would prove nothing about its standby.
                self.not_committed(Failure::unreplicated(), None).await
            }
            (Ok(_), Ok(_)) => {
                self.stage = Stage::Committed;
                self.wiping = wiping;
                OnePhaseReply::Committed
            }
            (Err(failure), _) => self.not_committed(failure, None).await,
            (Ok(guard), Err(failure)) => {
                let facts = self.lease.facts();
                let trace = OnePhaseTrace::new(facts, guard.field(0));
                self.not_committed(failure, trace).await
            }
        }
    }

    async fn commit_last(&mut self, statement: &str) -> OnePhaseReply {
        match self.leave(Stage::Active, "commit as last resource") {
            Ok(()) => {}
            Err(error) => return OnePhaseReply::Undetermined(error),
        }
        let asked = "cannot commit as last resource";
        if let Some(error) = self.lost_before(asked).await {
            return OnePhaseReply::RolledBack(error);
        }
        self.lease.watch_warnings();
        let text = sql::commit_last(&self.gid, self.lease.facts().backend.pid, statement);
        let failure = match self.run_last(&text).await {
            Ok(()) => {
                self.stage = Stage::Committed;
                return OnePhaseReply::Committed;
            }
            Err(failure) => failure,
        };
        self.settle_after(&failure).await;
        let error = self.error(failure, Request::Last, asked);
        if error.kind() == BranchErrorKind::Undetermined {
            // Not even the commit log is asked: the row tells, and keeps a late commit out.
            self.stage = Stage::Doubtful;
            OnePhaseReply::Undetermined(error)
        } else {
            OnePhaseReply::RolledBack(error)
        }
    }

    async fn end_read_only(&mut self) -> Result<(), BranchError> {
        self.leave(Stage::Active, "end the reader")?;
        let text = sql::end_reader(&self.gid, self.lease.facts().backend.pid);
        let (answer, wiping) = self.run_and_wipe(&text).await;
        match answer.and_then(|replies| replies.all_of(sql::END_READER_STATEMENTS)) {
            Ok(_) => {
                self.stage = Stage::Committed;
                self.wiping = wiping;
                Ok(())
            }
            Err(failure) => {
                // Before more is asked: see `send_wipe`.
                drop(wiping);
                self.settle_after(&failure).await;
                Err(self.error(failure, Request::EndReader, "cannot end the reader"))
            }
        }
    }

    /// Returns at once; the wipe goes on in the background.
    async fn release(self: Box<Self>) {
        let ended = matches!(self.stage, Stage::Committed | Stage::RolledBack);
        if !ended || self.lease.is_spoiled() {
            return;
        }
        let Self {
            lease,
            resource,
            wiping,
            ..
        } = *self;
        tokio::spawn(wipe::and_keep(lease, resource, wiping));
    }
}

impl PgBranch {
    pub(crate) fn session(&self) -> &Session {
        &self.lease
    }

    /// Takes the branch out of `from` for a request, or says that it is not there.
    fn leave(&mut self, from: Stage, asked: &str) -> Result<(), BranchError> {
        if self.stage == from {
            self.stage = Stage::Doubtful;
            return Ok(());
        }
        let stage = self.stage;
        Err(BranchError::new(
            BranchErrorKind::WrongState,
            self.resource.settings().name.clone(),
            format!("cannot {asked}: the branch is {stage:?}"),
        ))
    }

    fn error(&self, failure: Failure, request: Request, asked: &str) -> BranchError {
        failure.into_branch(request, &self.resource.settings().name, asked)
    }

    /// The connection is closed already, so that nothing can be sent: the server has rolled the
    /// branch back, or will when it notices.
    async fn lost_before(&self, asked: &str) -> Option<BranchError> {
        let failure = self.lease.loss().await?;
        Some(self.error(failure, Request::Unsent, asked))
    }

    /// A decision that may not have reached its synchronous standby is not recorded yet: the log
    /// asks for its row, and waits for the standby again.
    async fn run_last(&mut self, text: &str) -> Result<(), Failure> {
        let (answer, wiping) = self.run_and_wipe(text).await;
        let replies = answer?;
        if self.lease.is_unreplicated() {
            return Err(Failure::unreplicated());
        }
        replies.all_of(sql::COMMIT_LAST_STATEMENTS)?;
        self.wiping = wiping;
        Ok(())
    }

    /// What its synchronous standby may lack is no vote to commit: after a fail-over to that one
    /// the branch would not be there.
    fn prepared(&mut self, replies: &Replies) -> PrepareReply {
        if self.lease.is_unreplicated() {
            let failure = Failure::unreplicated();
            let error = self.error(failure, Request::Prepare, "cannot prepare");
            return PrepareReply::Undetermined(error);
        }
        let xid8 = replies.field(0).and_then(|text| text.parse().ok());
        match xid8.and_then(|xid8| trace::evidence(xid8, self.lease.facts())) {
            Some(evidence) => {
                self.stage = Stage::Prepared;
                // Nothing of the application's can be under way any more.
                self.lease.set_idle(true);
                PrepareReply::Prepared(evidence)
            }
            None => {
                let odd = Failure::lost("the answer holds no transaction number", None);
                PrepareReply::Undetermined(self.error(odd, Request::Prepare, "cannot prepare"))
            }
        }
    }

    async fn not_prepared(&mut self, failure: Failure) -> PrepareReply {
        self.settle_after(&failure).await;
        let error = self.error(failure, Request::Prepare, "cannot prepare");
        if error.kind() == BranchErrorKind::Undetermined {
            self.stage = Stage::Doubtful;
            PrepareReply::Undetermined(error)
        } else {
            PrepareReply::RolledBack(error)
        }
    }

    /// Both strings are on their way before the first answer is read: one round trip. If the guard
    /// fails, the `SAVEPOINT` of the second string does, too: the block has failed, or is none.
    async fn guard_and_commit(
        &self,
    ) -> (
        Result<Replies, Failure>,
        Result<Replies, Failure>,
        Option<SimpleQueryStream>,
    ) {
        let text = sql::one_phase_guard(&self.gid, self.lease.facts().backend.pid);
        let guard = self.lease.send(&text).await;
        let end = self.lease.send(sql::ONE_PHASE_END).await;
        let wiping = self.send_wipe().await;
        let guard = match guard {
            Ok(stream) => self.lease.read(stream).await,
            Err(failure) => Err(failure),
        };
        let end = match end {
            Ok(stream) => self.lease.read(stream).await,
            Err(failure) => Err(failure),
        };
        let end = end.and_then(|replies| replies.all_of(sql::ONE_PHASE_END_STATEMENTS));
        let wiping = wiping.filter(|_| guard.is_ok() && end.is_ok());
        (guard, end, wiping)
    }

    /// Sends the wipe behind a request that ends the branch, before that is answered: no round trip
    /// of its own, nor a second awakening of the server's process. It counts only if the end was
    /// answered as it should be; else its stream is dropped before anything more is asked, which
    /// would wait behind it for ever if nobody read it.
    async fn send_wipe(&self) -> Option<SimpleQueryStream> {
        let text = &self.resource.settings().wipe;
        self.lease.send(text).await.ok()
    }

    /// Sends a request that ends the branch, with the wipe behind it, and reads its answer alone.
    /// The wipe is there only if that is no error.
    async fn run_and_wipe(
        &self,
        text: &str,
    ) -> (Result<Replies, Failure>, Option<SimpleQueryStream>) {
        let sent = self.lease.send(text).await;
        let wiping = self.send_wipe().await;
        let answer = match sent {
            Ok(stream) => self.lease.read(stream).await,
            Err(failure) => Err(failure),
        };
        let wiping = wiping.filter(|_| answer.is_ok());
        (answer, wiping)
    }

    async fn not_committed(
        &mut self,
        failure: Failure,
        trace: Option<OnePhaseTrace>,
    ) -> OnePhaseReply {
        let asked = "cannot commit in one phase";
        self.settle_after(&failure).await;
        let error = self.error(failure, Request::OnePhase, asked);
        if error.kind() != BranchErrorKind::Undetermined {
            return OnePhaseReply::RolledBack(error);
        }
        self.stage = Stage::Doubtful;
        let Some(trace) = trace else {
            return OnePhaseReply::Undetermined(error);
        };
        self.lease.close();
        self.resource.resolve_one_phase(&trace, error).await
    }

    /// A prepared branch is at its `end`, or says why not.
    async fn ended(
        &mut self,
        ended: Result<As, Failure>,
        end: Stage,
        asked: &str,
    ) -> Result<As, BranchError> {
        match ended {
            Ok(whose) => {
                self.stage = end;
                Ok(whose)
            }
            Err(failure) => {
                let error = self.error(failure, Request::Finish, asked);
                if still_prepared(error.kind()) {
                    self.stage = Stage::Prepared;
                    // The wipe behind it has undone what prepare had set.
                    if self.lease.run(&sql::durable()).await.is_err() {
                        self.lease.close();
                    }
                }
                Err(error)
            }
        }
    }

    /// After a refusal: leaves the failed block, so that its locks go now and the session is idle.
    async fn settle_after(&mut self, failure: &Failure) {
        if failure.is_refusal() {
            // If it fails, the connection is closed with the branch, which does the same.
            let _ = self.settle().await;
        }
    }

    async fn settle(&mut self) -> Result<(), Failure> {
        // The wipe is not sent behind it: a pooler that nobody has noticed gives the session away
        // at the answer to this, and what answers the wipe to whoever has it then (observed with
        // PgBouncer 1.18). Behind a commit it is: the guard has noticed such a pooler, if that has
        // changed the session meanwhile.
        self.lease.run("ROLLBACK").await?;
        self.stage = Stage::RolledBack;
        Ok(())
    }
}

/// The server said that it has done nothing, so the same may be asked again.
fn still_prepared(kind: BranchErrorKind) -> bool {
    matches!(kind, BranchErrorKind::Unavailable | BranchErrorKind::Failed)
}
