//! A branch at a [`MemoryServer`](crate::MemoryServer).

use async_trait::async_trait;
use unanimous_core::ports::{
    Branch, BranchError, BranchErrorKind, Cause, OnePhaseReply, PrepareReply, ServerIdentity,
};
use unanimous_core::xid::{ResourceName, Xid};

use crate::journal::{Event, Step};
use crate::memory_server::{Delivery, MemoryServer, Request};
use crate::server_state::{Refused, ServerState, SessionId};

/// A branch in memory: rows of text under keys of text.
///
/// Rows that it wrote are its own until it commits, and locked: a second branch that writes one of
/// them is rolled back with [`Cause::Timeout`]. After a failed statement only a rollback is left.
/// Dropping it closes its session, as dropping a connection does.
pub struct MemoryBranch {
    server: MemoryServer,
    resource: ResourceName,
    xid: Xid,
    identity: ServerIdentity,
    session: SessionId,
    /// The connection broke, or a request was dropped half-way: nothing more is sent.
    is_broken: bool,
    is_released: bool,
}

/// What the application does in it.
impl MemoryBranch {
    pub(crate) const fn new(
        server: MemoryServer,
        resource: ResourceName,
        xid: Xid,
        identity: ServerIdentity,
        session: SessionId,
    ) -> Self {
        Self {
            server,
            resource,
            xid,
            identity,
            session,
            is_broken: false,
            is_released: false,
        }
    }

    /// Writes a row.
    ///
    /// # Errors
    /// `RolledBack` when the branch is read-only, has failed before, or another branch has written
    /// the row; `WrongState` after its end; `Unavailable` when the connection is lost.
    pub fn put(&mut self, key: &str, value: &str) -> Result<(), BranchError> {
        self.statement(|state, session| state.write(session, key, Some(value)))
    }

    /// Deletes a row.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete(&mut self, key: &str) -> Result<(), BranchError> {
        self.statement(|state, session| state.write(session, key, None))
    }

    /// Reads a row: what this branch wrote, else what is committed.
    ///
    /// # Errors
    /// `WrongState` after its end, `Unavailable` when the connection is lost.
    pub fn get(&mut self, key: &str) -> Result<Option<String>, BranchError> {
        self.statement(|state, session| state.read(session, key))
    }

    /// Lets a statement fail, as a violated constraint would: only a rollback is left.
    ///
    /// # Errors
    /// `WrongState` after its end, `Unavailable` when the connection is lost.
    pub fn fail_statement(&mut self, cause: Cause) -> Result<(), BranchError> {
        self.statement(|state, session| {
            state.work(session)?.failed.get_or_insert(cause);
            Ok(())
        })
    }

    /// Changes a setting of the session, which must not outlive the branch.
    ///
    /// # Errors
    /// `Unavailable` when the connection is lost.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), BranchError> {
        self.statement(|state, session| {
            let session = state.sessions.get_mut(&session);
            let settings = session.map(|session| &mut session.settings);
            settings.map(|settings| settings.insert(name.into(), value.into()));
            Ok(())
        })
    }

    /// A setting of the session.
    ///
    /// # Errors
    /// `Unavailable` when the connection is lost.
    pub fn setting(&mut self, name: &str) -> Result<Option<String>, BranchError> {
        self.statement(|state, session| {
            let session = state.sessions.get(&session);
            Ok(session.and_then(|session| session.settings.get(name).cloned()))
        })
    }

    fn statement<R>(
        &mut self,
        run: impl FnOnce(&mut ServerState, SessionId) -> Result<R, Refused>,
    ) -> Result<R, BranchError> {
        let mut state = self.server.lock();
        let is_alive = state.is_reachable && state.sessions.contains_key(&self.session);
        if self.is_broken || !is_alive {
            drop(state);
            self.is_broken = true;
            return Err(self.error(BranchErrorKind::Unavailable, "the connection is lost"));
        }
        let result = run(&mut state, self.session);
        drop(state);
        result.map_err(|(kind, message)| self.error(kind, message))
    }
}

impl MemoryBranch {
    fn error(&self, kind: BranchErrorKind, message: &str) -> BranchError {
        BranchError::new(kind, self.resource.clone(), message)
    }

    /// Sends one request of the protocol.
    async fn ask<R: Send + 'static>(
        &mut self,
        step: Step,
        effect: impl FnOnce(&mut ServerState, SessionId) -> Result<R, Refused> + Send + 'static,
    ) -> Result<R, BranchError> {
        let session = self.session;
        let is_alive = self.server.lock().sessions.contains_key(&session);
        if self.is_broken || !is_alive {
            self.is_broken = true;
            return Err(self.error(BranchErrorKind::Undetermined, "the connection is lost"));
        }
        let request = Request {
            resource: self.resource.clone(),
            step,
            xid: Some(self.xid.clone()),
            session: Some(session),
        };
        // Stays so if this future is dropped while the request is under way.
        self.is_broken = true;
        let delivery = self
            .server
            .perform(request, move |state| effect(state, session));
        match delivery.await {
            Delivery::Reply(reply) => {
                self.is_broken = false;
                reply.map_err(|(kind, message)| self.error(kind, message))
            }
            Delivery::Refused(kind) => {
                self.is_broken = false;
                Err(self.error(kind, "the server refused"))
            }
            Delivery::Lost | Delivery::Unreachable => {
                self.server.lock().abandon(session);
                Err(self.error(BranchErrorKind::Undetermined, "the connection broke"))
            }
        }
    }
}

fn one_phase(ended: Result<OnePhaseReply, BranchError>) -> OnePhaseReply {
    match ended {
        Ok(reply) => reply,
        Err(error) if matches!(error.kind(), BranchErrorKind::RolledBack(_)) => {
            OnePhaseReply::RolledBack(error)
        }
        Err(error) => OnePhaseReply::Undetermined(error),
    }
}

#[async_trait]
impl Branch for MemoryBranch {
    fn xid(&self) -> &Xid {
        &self.xid
    }

    fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    fn scope(&self) -> &str {
        self.identity.as_str()
    }

    async fn prepare(&mut self) -> PrepareReply {
        match self.ask(Step::Prepare, ServerState::prepare).await {
            Ok(reply) => reply,
            Err(error) if matches!(error.kind(), BranchErrorKind::RolledBack(_)) => {
                PrepareReply::RolledBack(error)
            }
            Err(error) => PrepareReply::Undetermined(error),
        }
    }

    async fn commit(&mut self) -> Result<(), BranchError> {
        let xid = self.xid.clone();
        let commit = move |state: &mut ServerState, id| state.commit(id, &xid);
        self.ask(Step::Commit, commit).await
    }

    async fn rollback(&mut self) -> Result<(), BranchError> {
        let xid = self.xid.clone();
        let rollback = move |state: &mut ServerState, id| state.rollback(id, &xid);
        self.ask(Step::Rollback, rollback).await
    }

    async fn commit_one_phase(&mut self) -> OnePhaseReply {
        let ended = self.ask(Step::OnePhase, ServerState::commit_one_phase);
        one_phase(ended.await)
    }

    async fn commit_last(&mut self, statement: &str) -> OnePhaseReply {
        let statement = statement.to_string();
        let ended = if self.server.is_planned(Step::LastCommit) {
            let run = move |state: &mut ServerState, id| state.run_last(id, &statement);
            match self.ask(Step::CommitLast, run).await {
                Ok(()) => self.ask(Step::LastCommit, ServerState::commit_last).await,
                Err(error) => Err(error),
            }
        } else {
            let whole = move |state: &mut ServerState, id| {
                state.run_last(id, &statement)?;
                state.commit_last(id)
            };
            self.ask(Step::CommitLast, whole).await
        };
        one_phase(ended)
    }

    async fn end_read_only(&mut self) -> Result<(), BranchError> {
        self.ask(Step::EndReadOnly, ServerState::end_read_only)
            .await
    }

    async fn release(mut self: Box<Self>) {
        let mut state = self.server.lock();
        if !self.is_broken && !state.sessions.contains_key(&self.session) {
            // The server has closed it since: nothing is left to use again.
            return;
        }
        if !self.is_broken && state.release(self.session) {
            state.journal.push(Event::Released(self.xid.clone()));
            drop(state);
            self.is_released = true;
        } else {
            let misuse = format!("{} was released, but its end is not known", self.xid);
            state.misuses.push(misuse);
        }
    }
}

impl Drop for MemoryBranch {
    fn drop(&mut self) {
        if !self.is_released {
            let mut state = self.server.lock();
            state.journal.push(Event::Closed(self.xid.clone()));
            state.abandon(self.session);
        }
    }
}
