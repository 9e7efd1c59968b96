//! A branch that commits as last resource: its rows and the decision's, together or not at all.

use unanimous_core::ports::{BranchErrorKind, Cause, OnePhaseReply};
use unanimous_core::protocol::Decision;

use super::{Refused, ServerState, SessionId};

impl ServerState {
    /// The first half of a last resource's commit: the row is there, for nobody else yet.
    pub(crate) fn run_last(&mut self, id: SessionId, statement: &str) -> Result<(), Refused> {
        let table = self.table.clone();
        let work = self.work(id)?;
        if work.failed.is_none() && !work.read_only {
            let inserted = table.ok_or("there is no decision table in this database");
            match inserted.and_then(|table| table.insert_last(statement)) {
                Ok(row) => {
                    work.last = Some(row);
                    return Ok(());
                }
                Err(why) => {
                    self.roll_back_active(id);
                    return Err((BranchErrorKind::RolledBack(Cause::Refused), why));
                }
            }
        }
        let cause = work.failed.unwrap_or(Cause::Refused);
        self.roll_back_active(id);
        let why = "a failed statement, or a read-only branch, is rolled back";
        Err((BranchErrorKind::RolledBack(cause), why))
    }

    /// The second half: the branch's rows and the decision's, together.
    pub(crate) fn commit_last(&mut self, id: SessionId) -> Result<OnePhaseReply, Refused> {
        self.work(id)?;
        if let Some(mut work) = self.take_work(id) {
            let before = self.apply(work.writes);
            if let Some(row) = work.last.take() {
                row.commit(before);
            }
            self.note_end(work.xid, Decision::Commit);
        }
        Ok(OnePhaseReply::Committed)
    }
}
