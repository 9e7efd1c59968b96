//! What the answers of branches mean for the protocol, and what becomes of the branch: kept, ended,
//! or dropped, which closes its connection.

use tracing::{debug, error, warn};
use unanimous_core::ports::{
    BranchError, BranchErrorKind, BranchRecord, Cause, OnePhaseReply, PrepareReply,
};
use unanimous_core::protocol::{BranchIndex, Finish, Heuristic, OnePhaseEnd, Vote};
use unanimous_core::xid::ResourceName;

use super::Driver;
use super::calls::{self, Deciding, Heard};
use crate::bounded::Unanswered;
use crate::error::RollbackCause;
use crate::transaction::AnyBranch;

impl Driver {
    pub(super) fn handle_vote(
        &mut self,
        index: BranchIndex,
        branch: Box<dyn AnyBranch>,
        reply: Heard<PrepareReply>,
    ) {
        let slot = &mut self.slots[index.0];
        let vote = match reply {
            Ok(PrepareReply::Prepared(evidence)) => {
                let resource = slot.name.clone();
                let identity = branch.identity().clone();
                let record = BranchRecord {
                    resource,
                    identity,
                    evidence,
                };
                slot.record = Some(record);
                slot.branch = Some(branch);
                Vote::Commit
            }
            Ok(PrepareReply::ReadOnly) => {
                self.ended.push(branch);
                Vote::ReadOnly
            }
            Ok(PrepareReply::RolledBack(error)) => {
                self.ended.push(branch);
                self.cause.get_or_insert(RollbackCause::Branch(error));
                Vote::Rollback
            }
            Ok(PrepareReply::Undetermined(error)) => {
                warn!(target: "unanimous", %error, "no vote was heard; recovery will see to it");
                self.cause.get_or_insert(RollbackCause::Branch(error));
                Vote::Unheard
            }
            Err(silence) => {
                let error = unheard(&slot.name, "prepare", silence);
                warn!(target: "unanimous", %error, "no vote was heard; recovery will see to it");
                self.cause.get_or_insert(RollbackCause::Branch(error));
                Vote::Unheard
            }
        };
        self.coordinator.handle_vote(index, vote);
    }

    pub(super) fn handle_reader(
        &mut self,
        index: BranchIndex,
        branch: Box<dyn AnyBranch>,
        reply: Heard<Result<(), BranchError>>,
    ) {
        let name = &self.slots[index.0].name;
        let cause = match reply {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(RollbackCause::Branch(error)),
            Err(silence) => Some(RollbackCause::Branch(unheard(name, "end", silence))),
        };
        let ended = cause.is_none();
        match cause {
            None => self.ended.push(branch),
            Some(cause) => {
                self.cause.get_or_insert(cause);
            }
        }
        self.coordinator.handle_reader_ended(index, ended);
    }

    pub(super) fn handle_one_phase(
        &mut self,
        index: BranchIndex,
        branch: Box<dyn AnyBranch>,
        reply: Heard<OnePhaseReply>,
    ) {
        let name = &self.slots[index.0].name;
        let end = match reply {
            Ok(OnePhaseReply::Committed) => {
                self.ended.push(branch);
                OnePhaseEnd::Committed
            }
            Ok(OnePhaseReply::RolledBack(error)) => {
                self.ended.push(branch);
                self.cause.get_or_insert(RollbackCause::Branch(error));
                OnePhaseEnd::RolledBack
            }
            Ok(OnePhaseReply::Undetermined(error)) => {
                self.unheard = Some(error.to_string());
                OnePhaseEnd::Undetermined
            }
            Err(silence) => {
                self.unheard = Some(unheard(name, "commit", silence).to_string());
                OnePhaseEnd::Undetermined
            }
        };
        self.coordinator.handle_one_phase(index, end);
    }

    pub(super) fn handle_last(
        &mut self,
        branch: Box<dyn AnyBranch>,
        mut deciding: Deciding,
        reply: Heard<OnePhaseReply>,
    ) {
        let unheard = match reply {
            Ok(OnePhaseReply::Committed) => {
                self.ended.push(branch);
                let seq = deciding.log.note_last(&deciding.decision);
                deciding.answered();
                return self.coordinator.handle_last_committed(seq);
            }
            Ok(OnePhaseReply::RolledBack(error)) => {
                if error.kind() == BranchErrorKind::RolledBack(Cause::NoRightsAsLast) {
                    let name = &branch.xid().bqual;
                    self.manager.recovery.deny_last(name, &error);
                }
                self.ended.push(branch);
                self.cause.get_or_insert(RollbackCause::Branch(error));
                deciding.answered();
                return self.coordinator.handle_last_rolled_back();
            }
            Ok(OnePhaseReply::Undetermined(error)) => error,
            Err(silence) => unheard(&branch.xid().bqual, "commit", silence),
        };
        warn!(target: "unanimous", error = %unheard,
            "the last resource was not heard; its log is asked");
        self.unheard = Some(unheard.to_string());
        // Closed before the log is asked: nothing more is sent to it.
        drop(branch);
        self.calls.push(calls::decide(deciding));
        self.push_overdue();
    }

    pub(super) fn finish_of(
        &mut self,
        index: BranchIndex,
        branch: Box<dyn AnyBranch>,
        reply: Heard<Result<(), BranchError>>,
    ) -> Finish {
        let resource = &self.slots[index.0].name;
        match reply {
            Ok(Ok(())) => {
                self.ended.push(branch);
                Finish::Done
            }
            Ok(Err(error)) if matches!(error.kind(), BranchErrorKind::RolledBack(_)) => {
                error!(target: "unanimous", %error, "heuristic rollback of a decided branch");
                Finish::Heuristic(Heuristic::Rollback)
            }
            Ok(Err(error)) => {
                warn!(target: "unanimous", %error, "not confirmed; recovery goes on with it");
                Finish::Unconfirmed
            }
            Err(silence) => {
                warn!(target: "unanimous", %resource, %silence, "recovery goes on with it");
                Finish::Unconfirmed
            }
        }
    }

    pub(super) fn rollback_of(
        &mut self,
        index: BranchIndex,
        branch: Box<dyn AnyBranch>,
        reply: Heard<Result<(), BranchError>>,
    ) -> Finish {
        let resource = &self.slots[index.0].name;
        match reply {
            Ok(Ok(())) => {
                self.ended.push(branch);
                Finish::Done
            }
            Ok(Err(error)) if matches!(error.kind(), BranchErrorKind::RolledBack(_)) => {
                Finish::Done
            }
            Ok(Err(error)) => {
                debug!(target: "unanimous", %error, "rollback not confirmed");
                Finish::Unconfirmed
            }
            Err(silence) => {
                debug!(target: "unanimous", %resource, %silence, "rollback not confirmed");
                Finish::Unconfirmed
            }
        }
    }

    pub(super) async fn record_heuristic(&mut self, index: BranchIndex, finish: Finish) {
        if let Finish::Heuristic(heuristic) = finish {
            let name = &self.slots[index.0].name;
            let (manager, gtrid) = (&self.manager, self.gtrid);
            let recording = manager
                .recovery
                .record_heuristic(manager, gtrid, name, heuristic);
            if !recording.await {
                self.has_unrecorded_heuristic = true;
                let name = self.slots[index.0].name.clone();
                self.token.hand_over(name);
            }
        }
    }
}

fn unheard(name: &ResourceName, verb: &str, silence: Unanswered) -> BranchError {
    let message = match silence {
        Unanswered::Late(limit) => format!("did not {verb} within {limit:?}"),
        Unanswered::Panicked => format!("did not {verb}: {silence}"),
    };
    BranchError::new(BranchErrorKind::Undetermined, name.clone(), message)
}
