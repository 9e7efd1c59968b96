//! A branch on a shelf: what the application works with, and what the protocol asks of it.

use std::{fs, io};

use async_trait::async_trait;
use unanimous::ports::{Branch, BranchEnv, Evidence, OnePhaseReply, PrepareReply, ServerIdentity};
use unanimous::{BranchError, BranchErrorKind, Cause, Decision, Xid};

use crate::shelf::{Shelf, Writes};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Active,
    Prepared,
    Ended,
}

/// A branch on a shelf: what the application works with.
pub(crate) struct ShelfBranch {
    shelf: Shelf,
    xid: Xid,
    read_only: bool,
    stage: Stage,
    writes: Writes,
    /// A statement failed: nothing but a rollback is left.
    failed: Option<Cause>,
    /// Where relative names begin, as a working directory does.
    prefix: String,
}

impl ShelfBranch {
    pub(crate) fn new(shelf: Shelf, env: BranchEnv) -> Self {
        Self {
            shelf,
            xid: env.xid,
            read_only: env.read_only,
            stage: Stage::Active,
            writes: Writes::new(),
            failed: None,
            prefix: String::new(),
        }
    }

    /// Begins every name with this, until the branch ends.
    pub(crate) fn enter(&mut self, prefix: &str) {
        prefix.clone_into(&mut self.prefix);
    }

    /// Writes a document: one line of text under a name of `a-z 0-9 -`.
    pub(crate) fn put(&mut self, name: &str, text: &str) -> Result<(), BranchError> {
        let name = format!("{}{name}", self.prefix);
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let mut state = self.shelf.state();
        let holder = state.locks.get(&name);
        let (cause, message) = if self.stage != Stage::Active || self.read_only {
            (Cause::Refused, "this branch does not write")
        } else if !name.bytes().all(is_name) || name.is_empty() || text.contains(['\n', '\r']) {
            (
                Cause::Refused,
                "use a name of a-z 0-9 - and one line of text",
            )
        } else if holder.is_some_and(|holder| *holder != self.xid) {
            (Cause::Timeout, "another branch has written this document")
        } else {
            state.locks.insert(name.clone(), self.xid.clone());
            self.writes.insert(name, text.to_owned());
            return Ok(());
        };
        drop(state);
        self.failed.get_or_insert(cause);
        Err(self
            .shelf
            .error(BranchErrorKind::RolledBack(cause), message))
    }

    /// Where relative names begin now.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Reads a document: what this branch wrote, else what is committed.
    pub(crate) fn get(&self, name: &str) -> io::Result<Option<String>> {
        let name = format!("{}{name}", self.prefix);
        if let Some(text) = self.writes.get(&name) {
            return Ok(Some(text.clone()));
        }
        let state = self.shelf.state();
        state.check()?;
        match fs::read_to_string(state.path("documents", &name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Saves what was written into `part`, or says why it is certain, or not, that it was not.
    fn save(&mut self, part: &str, next: Stage) -> Result<(), BranchError> {
        if self.stage != Stage::Active || self.read_only {
            let message = "the branch is not active, or does not write";
            return Err(self.shelf.error(BranchErrorKind::WrongState, message));
        }
        let failed = self.failed;
        let saved = match failed {
            Some(_) => Ok(()),
            None => self.shelf.state().save(part, &self.xid, &self.writes),
        };
        let is_saved = self
            .shelf
            .state()
            .path(part, &self.xid.to_string())
            .exists();
        self.stage = if is_saved { next } else { Stage::Ended };
        match (failed, saved) {
            (None, Ok(())) => Ok(()),
            (None, Err(error)) if is_saved => {
                self.shelf.state().is_closed = true;
                let kind = BranchErrorKind::Undetermined;
                Err(self.shelf.error(kind, "the disk failed").with_source(error))
            }
            (cause, _) => {
                self.shelf.state().unlock(&self.xid);
                let kind = BranchErrorKind::RolledBack(cause.unwrap_or(Cause::Exhausted));
                Err(self
                    .shelf
                    .error(kind, "the branch cannot be saved and is rolled back"))
            }
        }
    }
}

#[async_trait]
impl Branch for ShelfBranch {
    fn xid(&self) -> &Xid {
        &self.xid
    }

    fn identity(&self) -> &ServerIdentity {
        &self.shelf.identity
    }

    fn scope(&self) -> &str {
        self.shelf.identity.as_str()
    }

    async fn prepare(&mut self) -> PrepareReply {
        match self.save("prepared", Stage::Prepared) {
            Ok(()) => {
                self.shelf.state().active.retain(|xid| *xid != self.xid);
                PrepareReply::Prepared(Evidence::default())
            }
            Err(error) if matches!(error.kind(), BranchErrorKind::RolledBack(_)) => {
                PrepareReply::RolledBack(error)
            }
            Err(error) => PrepareReply::Undetermined(error),
        }
    }

    async fn commit(&mut self) -> Result<(), BranchError> {
        if self.stage != Stage::Prepared {
            let message = "the branch is not prepared";
            return Err(self.shelf.error(BranchErrorKind::WrongState, message));
        }
        self.shelf.end_prepared(&self.xid, Decision::Commit)?;
        self.stage = Stage::Ended;
        Ok(())
    }

    async fn rollback(&mut self) -> Result<(), BranchError> {
        match self.stage {
            Stage::Active => self.shelf.state().unlock(&self.xid),
            Stage::Prepared => self.shelf.end_prepared(&self.xid, Decision::Rollback)?,
            Stage::Ended => {
                let message = "the branch has ended";
                return Err(self.shelf.error(BranchErrorKind::WrongState, message));
            }
        }
        self.stage = Stage::Ended;
        Ok(())
    }

    async fn commit_one_phase(&mut self) -> OnePhaseReply {
        match self.save("committed", Stage::Ended) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), BranchErrorKind::RolledBack(_)) => {
                return OnePhaseReply::RolledBack(error);
            }
            Err(error) => return OnePhaseReply::Undetermined(error),
        }
        let mut state = self.shelf.state();
        let committed = state.path("committed", &self.xid.to_string());
        // It is committed already; what cannot be written now will be when the shelf is opened.
        if state.write_documents(&committed).is_err() {
            state.is_closed = true;
        }
        state.unlock(&self.xid);
        OnePhaseReply::Committed
    }

    async fn end_read_only(&mut self) -> Result<(), BranchError> {
        self.stage = Stage::Ended;
        match self.failed {
            None => Ok(()),
            Some(cause) => Err(self.shelf.error(
                BranchErrorKind::RolledBack(cause),
                "a statement of this branch has failed",
            )),
        }
    }

    /// There is no connection to keep, so nothing can be carried over.
    async fn release(self: Box<Self>) {}
}

impl Drop for ShelfBranch {
    fn drop(&mut self) {
        if self.stage == Stage::Active {
            self.shelf.state().unlock(&self.xid);
        }
    }
}
