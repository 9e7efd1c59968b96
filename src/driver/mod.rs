//! Carries out what the coordinator commands, for one transaction, in one task that nobody drops.
//!
//! The driver decides nothing: it translates commands into calls of the ports, and answers into
//! events. A call that outlives its limit, or panics, is dropped together with its branch, which
//! closes the connection; what it did is *unheard*, never "failed" (I3).

mod calls;
mod replies;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug, error, warn};
use unanimous_core::ports::{DecisionRecord, Refusal};
use unanimous_core::protocol::{
    BranchIndex, BranchRole, BranchState, Command, Coordinator, Finish, Outcome, Phase,
};
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use self::calls::{Ahead, Call, Deciding, Event, Way};
use crate::active::ActiveToken;
use crate::error::{CommitError, RollbackCause};
use crate::gate::Passed;
use crate::manager::Inner;
use crate::observe::Point;
use crate::outcome::{Committed, TransactionOutcome};
use crate::transaction::{AnyBranch, Parts, Slot};

pub(crate) type Answer = Result<Committed, CommitError>;

pub(crate) struct Driver {
    manager: Arc<Inner>,
    gtrid: Gtrid,
    coordinator: Coordinator,
    slots: Vec<Slot>,
    calls: Vec<Call>,
    /// Branches whose end is known: their connections can be used again.
    ended: Vec<Box<dyn AnyBranch>>,
    /// The first reason to roll back; later ones follow from it.
    cause: Option<RollbackCause>,
    /// What was not heard, if the outcome should be undetermined.
    unheard: Option<String>,
    has_unrecorded_heuristic: bool,
    answer: Option<oneshot::Sender<Answer>>,
    deadline: Instant,
    /// The log has answered that nothing could be decided for now.
    is_held: bool,
    span: Span,
    /// From before a decision is attempted.
    passed: Option<Passed>,
    /// Last: it leaves A when everything else is done.
    token: Arc<ActiveToken>,
}

impl Driver {
    pub(crate) fn new(parts: Parts, answer: Option<oneshot::Sender<Answer>>) -> Self {
        let mut coordinator = Coordinator::new();
        for slot in &parts.slots {
            coordinator.enlist(slot.role);
        }
        Self {
            manager: parts.manager,
            gtrid: parts.gtrid,
            coordinator,
            slots: parts.slots,
            calls: Vec::new(),
            ended: Vec::new(),
            cause: parts.rollback_only,
            unheard: None,
            has_unrecorded_heuristic: false,
            answer,
            deadline: parts.deadline,
            is_held: false,
            passed: None,
            span: parts.span,
            token: parts.token,
        }
    }

    pub(crate) async fn commit(mut self) {
        let span = self.span.clone();
        async move {
            self.manager.probes.reached(|| Point::CommitBegun).await;
            self.close_swapped_branches();
            if self.cause.is_none() && Instant::now() >= self.deadline {
                self.cause = Some(RollbackCause::DeadlinePassed);
            }
            if self.cause.is_some() {
                self.coordinator.rollback();
            } else {
                let last = self.last_resource();
                self.coordinator.commit_with_last(last);
            }
            self.run().await;
        }
        .instrument(span)
        .await;
    }

    pub(crate) async fn rollback(mut self) {
        let span = self.span.clone();
        async move {
            self.manager.probes.reached(|| Point::RollbackBegun).await;
            self.close_swapped_branches();
            self.coordinator.rollback();
            self.run().await;
        }
        .instrument(span)
        .await;
    }

    /// A branch that is not the one this slot was given (`mem::swap` through the mutable borrows)
    /// belongs to another transaction, which finds the same at its own commit. Closing an active
    /// branch rolls it back.
    fn close_swapped_branches(&mut self) {
        for slot in &mut self.slots {
            let is_another = |xid: &Xid| (xid.gtrid, &xid.bqual) != (self.gtrid, &slot.name);
            let xid = slot.branch.as_ref().map(|branch| branch.xid());
            if xid.is_some_and(is_another) {
                slot.branch = None;
                self.cause = Some(RollbackCause::Swapped(slot.name.clone()));
            }
        }
    }

    async fn run(mut self) {
        while !self.coordinator.is_ended() {
            while let Some(command) = self.coordinator.poll_command() {
                self.execute(command).await;
            }
            if self.coordinator.is_ended() {
                break;
            }
            match next_event(&mut self.calls).await {
                Some(event) => self.handle(event).await,
                // A command without a call would be our bug; never spin on it.
                None => break,
            }
        }
        while let Some(command) = self.coordinator.poll_command() {
            self.execute(command).await;
        }
        self.conclude().await;
    }

    /// A total match: what each command means in calls.
    async fn execute(&mut self, command: Command) {
        match command {
            Command::Prepare(index) => self.call_branch(index, calls::prepare),
            Command::EndReader(index) => self.call_branch(index, calls::end_reader),
            Command::CommitOnePhase(index) => self.call_branch(index, calls::commit_one_phase),
            Command::Commit(index, _) => self.call_branch(index, calls::commit),
            Command::Rollback(index) => self.call_rollback(index),
            Command::Decide(indices) => self.pass_gate(Ahead::Decide(indices)),
            Command::CommitLast(index, indices) => self.pass_gate(Ahead::Last(index, indices)),
            Command::HandOver(index) => self.hand_over(index).await,
            Command::Complete(_) => self.complete().await,
        }
    }

    fn call_branch(
        &mut self,
        index: BranchIndex,
        call: impl FnOnce(calls::CallEnv, Box<dyn AnyBranch>) -> Call,
    ) {
        let slot = &mut self.slots[index.0];
        let branch = slot
            .branch
            .take()
            .expect("a command goes to a branch that is there");
        let env = calls::CallEnv {
            index,
            name: slot.name.clone(),
            config: Arc::clone(&self.manager.config),
            probes: self.manager.probes.clone(),
        };
        self.calls.push(call(env, branch));
    }

    fn call_rollback(&mut self, index: BranchIndex) {
        if self.slots[index.0].branch.is_some() {
            self.call_branch(index, calls::rollback);
        } else {
            // Closed before anything was prepared: the server rolls it back by itself.
            self.coordinator.handle_rolled_back(index, Finish::Done);
        }
    }

    /// The first writer that lives in the log's own database.
    fn last_resource(&self) -> Option<BranchIndex> {
        let log = &self.manager.log;
        let takes = |slot: &Slot| {
            let scope = slot.branch.as_ref().map(|branch| branch.scope());
            slot.role == BranchRole::Writer
                && scope.is_some_and(|scope| log.takes_last(scope))
                && self.manager.recovery.may_be_last(&slot.name)
        };
        self.slots.iter().position(takes).map(BranchIndex)
    }

    fn decision_of(&mut self, indices: &[BranchIndex]) -> DecisionRecord {
        let record_of = |index: &BranchIndex| self.slots[index.0].record.take();
        let branches: Vec<_> = indices.iter().filter_map(record_of).collect();
        assert_eq!(
            branches.len(),
            indices.len(),
            "a prepared branch has its record"
        );
        DecisionRecord {
            gtrid: self.gtrid,
            branches,
        }
    }

    /// Held by a barrier, nothing is attempted, and the deadline goes on counting.
    fn pass_gate(&mut self, ahead: Ahead) {
        let gate = &self.manager.gate;
        match gate.try_pass() {
            Some(passed) => self.go_on(ahead, passed),
            None => {
                let waiting = calls::wait_at_gate(gate.clone(), self.deadline, ahead);
                self.calls.push(waiting);
            }
        }
    }

    fn go_on(&mut self, ahead: Ahead, passed: Passed) {
        self.passed = Some(passed);
        match ahead {
            Ahead::Decide(indices) => self.call_decide(&indices),
            Ahead::Last(index, indices) => self.call_last(index, &indices),
        }
    }

    fn give_up(&mut self, ahead: &Ahead) {
        self.cause.get_or_insert(RollbackCause::Held);
        match ahead {
            Ahead::Decide(_) => self.coordinator.handle_decision_refused(),
            Ahead::Last(index, _) => {
                // Closing an active branch rolls it back.
                self.slots[index.0].branch = None;
                self.coordinator.handle_last_rolled_back();
            }
        }
    }

    fn call_decide(&mut self, indices: &[BranchIndex]) {
        let decision = self.decision_of(indices);
        let deciding = self.deciding(decision, Way::Decide);
        self.calls.push(calls::decide(deciding));
        self.push_overdue();
    }

    fn call_last(&mut self, index: BranchIndex, indices: &[BranchIndex]) {
        let decision = self.decision_of(indices);
        let deciding = self.deciding(decision, Way::SettleLast);
        self.call_branch(index, |env, branch| {
            calls::commit_last(env, branch, deciding)
        });
    }

    fn deciding(&self, decision: DecisionRecord, way: Way) -> Deciding {
        Deciding {
            log: Arc::clone(&self.manager.log),
            probes: self.manager.probes.clone(),
            decision,
            way,
            deadline: self.deadline,
            token: Arc::clone(&self.token),
            in_flight: None,
            pause: std::time::Duration::ZERO,
        }
    }

    fn push_overdue(&mut self) {
        let limit = self.manager.config.decide_timeout;
        self.calls.push(calls::overdue(limit));
    }

    /// A heuristic that the log did not take yet keeps its decision pending: recovery finds both.
    async fn complete(&mut self) {
        self.manager.probes.reached(|| Point::BeforeComplete).await;
        if !self.has_unrecorded_heuristic {
            self.manager.log.complete(self.gtrid);
        }
        self.manager.probes.reached(|| Point::Completed).await;
    }

    async fn hand_over(&mut self, index: BranchIndex) {
        let slot = &mut self.slots[index.0];
        slot.branch = None;
        self.token.hand_over(slot.name.clone());
        let name = &self.slots[index.0].name;
        self.manager.probes.at(name, Point::HandedOver).await;
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Voted(index, branch, reply) => self.handle_vote(index, branch, reply),
            Event::ReaderEnded(index, branch, reply) => self.handle_reader(index, branch, reply),
            Event::OnePhase(index, branch, reply) => self.handle_one_phase(index, branch, reply),
            Event::Committed(index, branch, reply) => {
                let finish = self.finish_of(index, branch, reply);
                self.record_heuristic(index, finish).await;
                self.coordinator.handle_committed(index, finish);
            }
            Event::RolledBack(index, branch, reply) => {
                let finish = self.rollback_of(index, branch, reply);
                self.coordinator.handle_rolled_back(index, finish);
            }
            Event::Released(ahead, Some(passed)) => self.go_on(ahead, passed),
            Event::Released(ahead, None) => self.give_up(&ahead),
            Event::Decided(Way::Decide, Ok(seq)) => self.coordinator.handle_decision_durable(seq),
            Event::Decided(Way::SettleLast, Ok(seq)) => self.coordinator.handle_last_committed(seq),
            Event::Decided(way, Err(refusal)) => {
                self.cause.get_or_insert(cause_of(refusal));
                match way {
                    Way::Decide => self.coordinator.handle_decision_refused(),
                    Way::SettleLast => self.coordinator.handle_last_rolled_back(),
                }
            }
            Event::LastEnded(branch, deciding, reply) => self.handle_last(branch, deciding, reply),
            Event::DecideHeld(deciding) => {
                self.is_held = true;
                self.calls.push(calls::decide(deciding));
            }
            Event::DecideUncertain(deciding, error) => {
                self.unheard = Some(error);
                self.calls.push(calls::decide(deciding));
            }
            Event::DecideMayBeLost(reason) => {
                let gtrid = self.gtrid;
                error!(target: "unanimous", %gtrid, %reason,
                    "undetermined for good; its branches are left to recovery and to a person");
                self.unheard = Some(reason);
                self.coordinator.handle_decision_lost();
            }
            // The log does answer, if only that it has to wait.
            Event::DecideOverdue if std::mem::take(&mut self.is_held) => self.push_overdue(),
            Event::DecideOverdue => {
                self.manager.probes.reached(|| Point::DecisionOverdue).await;
                self.answer_overdue();
            }
        }
    }

    /// `commit` may answer, but the transaction stays in A and the same `decide` is repeated.
    fn answer_overdue(&mut self) {
        if self.coordinator.phase() != Phase::Deciding {
            return;
        }
        let reason = self
            .unheard
            .clone()
            .unwrap_or_else(|| "the log does not answer".to_owned());
        warn!(target: "unanimous", gtrid = %self.gtrid, %reason, 
            "undetermined; the decision is repeated");
        let gtrid = self.gtrid;
        self.send(Err(CommitError::Undetermined { gtrid, reason }));
    }

    fn send(&mut self, answer: Answer) {
        if let Some(sender) = self.answer.take() {
            // Nobody may be waiting any more: that changes nothing.
            let _ = sender.send(answer);
        }
    }

    async fn conclude(mut self) {
        let outcome = self.coordinator.outcome();
        let (answer, end) = self.answer_of(outcome);
        if let Some(end) = end {
            self.manager.recent_ends.insert(self.gtrid, end);
        }
        self.note_committed_branches();
        let probes = self.manager.probes.clone();
        probes.reached(|| Point::BeforeAnswer).await;
        self.send(answer);
        probes.reached(|| Point::Answered).await;
        let ended = std::mem::take(&mut self.ended);
        let limit = self.manager.config.finish_timeout;
        // Leaves A first: whatever a connection does from here on is no concern of the branches
        // that were handed over.
        drop(self);
        probes.reached(|| Point::LeftActive).await;
        let releases = ended
            .into_iter()
            .map(|branch| calls::release(&probes, limit, branch));
        for released in join_all(releases).await {
            if let Err(silence) = released {
                debug!(target: "unanimous", %silence, "a connection was closed, not released");
            }
        }
    }

    /// If recovery has to go on with this decision, what this driver has seen of it need not be
    /// proven once more.
    fn note_committed_branches(&self) {
        let state_of = |slot: usize| self.coordinator.branch_state(BranchIndex(slot));
        let slots = || 0..self.slots.len();
        let is_decided = matches!(
            self.coordinator.outcome(),
            Some(Outcome::Committed { .. } | Outcome::Heuristic(_))
        );
        let is_left = slots().any(|slot| state_of(slot) == BranchState::HandedOver)
            || self.has_unrecorded_heuristic;
        if is_decided && is_left {
            let committed = slots().filter(|slot| state_of(*slot) == BranchState::Committed);
            let names = committed.map(|slot| self.slots[slot].name.clone());
            self.manager.recovery.note_resolved(self.gtrid, names);
        }
    }

    fn answer_of(&mut self, outcome: Option<Outcome>) -> (Answer, Option<TransactionOutcome>) {
        let gtrid = self.gtrid;
        let names = |indices: &[BranchIndex]| -> Vec<ResourceName> {
            indices
                .iter()
                .map(|index| self.slots[index.0].name.clone())
                .collect()
        };
        match outcome {
            Some(Outcome::Committed { unfinished }) => {
                let committed = Committed::new(gtrid, names(&unfinished), &self.manager);
                (Ok(committed), Some(TransactionOutcome::Committed))
            }
            Some(Outcome::RolledBack { .. }) => {
                let cause = self
                    .cause
                    .take()
                    .unwrap_or(RollbackCause::MarkedRollbackOnly);
                debug!(target: "unanimous", %cause, "rolled back");
                let error = CommitError::RolledBack { gtrid, cause };
                (Err(error), Some(TransactionOutcome::RolledBack))
            }
            Some(Outcome::Heuristic(branches)) => {
                let name = |index: BranchIndex| self.slots[index.0].name.clone();
                let branches: Vec<_> = branches.into_iter().map(|(i, h)| (name(i), h)).collect();
                let end = TransactionOutcome::Heuristic(branches.clone());
                (Err(CommitError::Heuristic { gtrid, branches }), Some(end))
            }
            Some(Outcome::Undetermined) | None => {
                let reason = self
                    .unheard
                    .take()
                    .unwrap_or_else(|| "no answer".to_owned());
                warn!(target: "unanimous", %gtrid, %reason, "the outcome is undetermined");
                (Err(CommitError::Undetermined { gtrid, reason }), None)
            }
        }
    }
}

/// What the first of them comes to; nothing if none is under way. A transaction has a handful: all
/// are polled, without a list of those that were woken.
async fn next_event(calls: &mut Vec<Call>) -> Option<Event> {
    poll_fn(|context| {
        for (index, call) in calls.iter_mut().enumerate() {
            if let Poll::Ready(event) = call.as_mut().poll(context) {
                drop(calls.remove(index));
                return Poll::Ready(Some(event));
            }
        }
        if calls.is_empty() {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    })
    .await
}

fn cause_of(refusal: Refusal) -> RollbackCause {
    if matches!(refusal, Refusal::Busy(_)) {
        RollbackCause::Held
    } else {
        RollbackCause::Log(refusal)
    }
}
