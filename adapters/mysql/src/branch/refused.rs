//! A prepare, or a commit in one phase, that does not come to its end: is the branch rolled back
//! for certain?

use mysql_async::Error;
use unanimous_core::ports::{Branch as _, BranchError, BranchErrorKind, Cause, PrepareReply};

use super::{MysqlBranch, Stage};
use crate::codes::{self, During};
use crate::latch::Failure;
use crate::settings;

impl MysqlBranch {
    /// `XA END` was refused, so that what came after it was not carried out.
    pub(super) async fn end_refused(&mut self, error: Error) -> BranchError {
        self.stage = Stage::Active;
        let failure = Failure {
            cause: codes::statement(&error).cause,
            is_final: true,
            reason: format!("the server refused to end its work: {error}"),
        };
        self.give_up(&failure).await.with_source(error)
    }

    /// After a request that a server's error has refused: is the branch rolled back for certain?
    ///
    /// Asked on the connection that works in it, where nothing else is under way: *done* proves it.
    /// *Unknown* proves it if the error itself said so (`ended`): there is nothing left to prepare
    /// or to hold.
    async fn confirm_rollback(&mut self, ended: bool) -> bool {
        let rollback = self.sql("XA ROLLBACK");
        let Some(session) = self.usable() else {
            return false;
        };
        let confirmed = match session.run(&rollback).await {
            Ok(()) => true,
            Err(error) => codes::is_rolled_back(&error) || (ended && codes::is_unknown_xid(&error)),
        };
        if confirmed {
            self.stage = Stage::RolledBack;
        }
        confirmed
    }

    /// `XA END` was accepted, and what came after it was refused. `None`: whatever the error says,
    /// only the rollback's own answer is believed.
    pub(super) async fn last_step_refused(
        &mut self,
        doing: &str,
        during: Option<During>,
        error: Error,
    ) -> Result<BranchError, BranchError> {
        let meaning = during.map(|during| codes::meaning(&error, during));
        let (ended, cause) = if let Some(BranchErrorKind::RolledBack(cause)) = meaning {
            (true, cause)
        } else {
            (false, codes::statement(&error).cause)
        };
        if self.confirm_rollback(ended).await {
            return Ok(self.failed(BranchErrorKind::RolledBack(cause), doing, error));
        }
        Err(self.failed(BranchErrorKind::Undetermined, doing, error))
    }

    /// Nobody else could end it safely, so it must not be decided.
    pub(super) async fn refuse_attached(&mut self) -> PrepareReply {
        if let Err(error) = self.rollback().await {
            return PrepareReply::Undetermined(error);
        }
        let why = settings::STAYS_ATTACHED;
        PrepareReply::RolledBack(self.error(
            BranchErrorKind::RolledBack(Cause::Refused),
            format!("{} is rolled back: {why}: switch it on", self.xid),
        ))
    }
}
