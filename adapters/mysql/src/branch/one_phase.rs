//! A commit without prepare: of the only branch that writes, or of a last resource, which records
//! the decision inside its own transaction.
//!
//! Both are one packet that the server leaves at the first error. What comes before `XA COMMIT` is
//! refused for certain. From there on an error can come after the commit, too, and an unknown XID
//! says nothing: only the codes that mean a rollback, and an `XA ROLLBACK` that succeeds, are
//! believed.

use mysql_async::Error;
use unanimous_core::ports::{BranchError, BranchErrorKind, OnePhaseReply};

use super::{MysqlBranch, Stage};
use crate::codes::{self, During};
use crate::latch::Failure;

impl MysqlBranch {
    /// `doing` completes "cannot …". The statement, if there is one, runs last in the transaction.
    pub(super) async fn end_in_one_phase(
        &mut self,
        doing: &str,
        statement: Option<&str>,
    ) -> OnePhaseReply {
        if self.stage != Stage::Active || self.is_reader {
            return OnePhaseReply::Undetermined(self.wrong_stage(doing));
        }
        if let Err(failure) = self.settle_work().await {
            return OnePhaseReply::RolledBack(self.give_up(&failure).await);
        }
        let (end, commit) = (self.sql("XA END"), self.sql("XA COMMIT") + " ONE PHASE");
        let packet: Vec<&str> = statement.into_iter().chain([&*end, &*commit]).collect();
        self.stage = Stage::Doubt;
        let Some(session) = self.lease.session() else {
            return OnePhaseReply::Undetermined(self.closed(doing));
        };
        match session.rows_of_all(&packet).await {
            Ok(_) => {
                self.stage = Stage::Committed;
                OnePhaseReply::Committed
            }
            Err((failed, error @ Error::Server(_))) => {
                // A last resource is settled in the log, which knows for certain.
                let during = statement.is_none().then_some(During::OnePhase);
                self.refused_in_one_phase(doing, packet.len() - failed, during, error)
                    .await
            }
            Err((_, error)) => OnePhaseReply::Undetermined(self.failed(
                BranchErrorKind::Undetermined,
                doing,
                error,
            )),
        }
    }

    /// The server has refused a statement, and carried out nothing after it. `left`: how many
    /// statements remained, that one included.
    async fn refused_in_one_phase(
        &mut self,
        doing: &str,
        left: usize,
        during: Option<During>,
        error: Error,
    ) -> OnePhaseReply {
        match left {
            1 => match self.last_step_refused(doing, during, error).await {
                Ok(error) => OnePhaseReply::RolledBack(error),
                Err(error) => OnePhaseReply::Undetermined(error),
            },
            2 => OnePhaseReply::RolledBack(self.end_refused(error).await),
            _ => OnePhaseReply::RolledBack(self.last_refused(error).await),
        }
    }

    /// The decision's row was refused: the epoch is closed, a row with the key stands, or a lock
    /// was not free in time.
    async fn last_refused(&mut self, error: Error) -> BranchError {
        self.stage = Stage::Active;
        let (cause, mend) = codes::last(&error);
        let failure = Failure {
            cause,
            is_final: true,
            reason: format!("the log refused the decision: {error}{mend}"),
        };
        self.give_up(&failure).await.with_source(error)
    }
}
