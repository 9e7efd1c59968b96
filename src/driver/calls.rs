//! One future per command: the call of the port, its limit, its probe points and its debug event.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, debug, debug_span};
use unanimous_core::ports::{
    BranchError, DecideError, DecisionLog, DecisionRecord, LogError, OnePhaseReply, PrepareReply,
    Refusal,
};
use unanimous_core::protocol::{BranchIndex, LogSeq};
use unanimous_core::xid::ResourceName;

use crate::active::{ActiveToken, DecisionInFlight};
use crate::bounded::{Unanswered, bounded};
use crate::config::Config;
use crate::gate::{Gate, Passed};
use crate::observe::{Point, Probes};
use crate::transaction::AnyBranch;

pub(super) type Call = BoxFuture<'static, Event>;

/// A reply, or none.
pub(super) type Heard<T> = Result<T, Unanswered>;

/// What came of a call.
pub(super) enum Event {
    Voted(BranchIndex, Box<dyn AnyBranch>, Heard<PrepareReply>),
    ReaderEnded(
        BranchIndex,
        Box<dyn AnyBranch>,
        Heard<Result<(), BranchError>>,
    ),
    OnePhase(BranchIndex, Box<dyn AnyBranch>, Heard<OnePhaseReply>),
    Committed(
        BranchIndex,
        Box<dyn AnyBranch>,
        Heard<Result<(), BranchError>>,
    ),
    RolledBack(
        BranchIndex,
        Box<dyn AnyBranch>,
        Heard<Result<(), BranchError>>,
    ),
    /// The gate has opened, or the deadline has passed before.
    Released(Ahead, Option<Passed>),
    Decided(Way, Result<LogSeq, Refusal>),
    /// Nothing is recorded, and the log says to ask again.
    DecideHeld(Deciding),
    LastEnded(Box<dyn AnyBranch>, Deciding, Heard<OnePhaseReply>),
    /// It may have been recorded: the same decision has to be asked for again.
    DecideUncertain(Deciding, String),
    /// It may have been recorded, and nobody can tell any more.
    DecideMayBeLost(String),
    DecideOverdue,
}

/// What every call of a branch needs to know.
pub(super) struct CallEnv {
    pub(super) index: BranchIndex,
    pub(super) name: ResourceName,
    pub(super) config: Arc<Config>,
    pub(super) probes: Probes,
}

pub(super) fn prepare(env: CallEnv, mut branch: Box<dyn AnyBranch>) -> Call {
    async move {
        env.reached(Point::BeforePrepare).await;
        let limit = env.config.prepare_timeout;
        let reply = env.timed("prepare", limit, branch.prepare()).await;
        env.reached(Point::PrepareAnswered).await;
        Event::Voted(env.index, branch, reply)
    }
    .boxed()
}

pub(super) fn end_reader(env: CallEnv, mut branch: Box<dyn AnyBranch>) -> Call {
    async move {
        env.reached(Point::BeforeReaderEnd).await;
        let limit = env.config.prepare_timeout;
        let reply = env
            .timed("end read-only", limit, branch.end_read_only())
            .await;
        env.reached(Point::ReaderEnded).await;
        Event::ReaderEnded(env.index, branch, reply)
    }
    .boxed()
}

pub(super) fn commit_one_phase(env: CallEnv, mut branch: Box<dyn AnyBranch>) -> Call {
    async move {
        env.reached(Point::BeforeOnePhase).await;
        let limit = env.config.prepare_timeout;
        let reply = env
            .timed("commit in one phase", limit, branch.commit_one_phase())
            .await;
        env.reached(Point::OnePhaseAnswered).await;
        Event::OnePhase(env.index, branch, reply)
    }
    .boxed()
}

/// From here on the decision is in flight, until the branch or the log has told its end.
pub(super) fn commit_last(
    env: CallEnv,
    mut branch: Box<dyn AnyBranch>,
    mut deciding: Deciding,
) -> Call {
    async move {
        deciding.in_flight = Some(DecisionInFlight::new(&deciding.token));
        env.reached(Point::BeforeLast).await;
        let log = &deciding.log;
        let Some(statement) = log.last_statement(branch.scope(), &deciding.decision) else {
            // The log has changed its mind. Nothing was sent, and what is closed is rolled back.
            drop(branch);
            deciding.answered();
            return Event::Decided(Way::SettleLast, Err(Refusal::LastRolledBack));
        };
        let limit = env.config.prepare_timeout;
        let committing = branch.commit_last(&statement);
        let reply = env.timed("commit last", limit, committing).await;
        env.reached(Point::LastAnswered).await;
        Event::LastEnded(branch, deciding, reply)
    }
    .boxed()
}

pub(super) fn commit(env: CallEnv, mut branch: Box<dyn AnyBranch>) -> Call {
    async move {
        env.reached(Point::BeforeCommit).await;
        let limit = env.config.finish_timeout;
        let reply = env.timed("commit", limit, branch.commit()).await;
        env.reached(Point::CommitAnswered).await;
        Event::Committed(env.index, branch, reply)
    }
    .boxed()
}

pub(super) fn rollback(env: CallEnv, mut branch: Box<dyn AnyBranch>) -> Call {
    async move {
        env.reached(Point::BeforeRollback).await;
        let limit = env.config.finish_timeout;
        let reply = env.timed("rollback", limit, branch.rollback()).await;
        env.reached(Point::RollbackAnswered).await;
        Event::RolledBack(env.index, branch, reply)
    }
    .boxed()
}

/// Lets go of a branch that has ended.
pub(super) async fn release(
    probes: &Probes,
    limit: Duration,
    branch: Box<dyn AnyBranch>,
) -> Heard<()> {
    let name = probes.0.as_ref().map(|_| branch.xid().bqual.clone());
    if let Some(name) = &name {
        probes.at(name, Point::BeforeRelease).await;
    }
    let released = bounded(limit, branch.release()).await;
    if let Some(name) = &name {
        probes.at(name, Point::Released).await;
    }
    released
}

/// The command to decide, before it is carried out.
pub(super) enum Ahead {
    Decide(Vec<BranchIndex>),
    Last(BranchIndex, Vec<BranchIndex>),
}

pub(super) fn wait_at_gate(gate: Gate, deadline: Instant, ahead: Ahead) -> Call {
    let passing = gate.pass_until(deadline);
    passing.map(|passed| Event::Released(ahead, passed)).boxed()
}

/// How a decision gets into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By the log itself.
    Decide,
    /// By the last resource, whose reply was lost: the log finds out, or keeps it out.
    SettleLast,
}

/// A decision on its way to the log.
pub(super) struct Deciding {
    pub(super) log: Arc<dyn DecisionLog>,
    pub(super) probes: Probes,
    pub(super) decision: DecisionRecord,
    pub(super) way: Way,
    /// Until then it is asked for again if the log could not even begin for a lock.
    pub(super) deadline: Instant,
    pub(super) token: Arc<ActiveToken>,
    /// An earlier attempt that may still be recorded.
    pub(super) in_flight: Option<DecisionInFlight>,
    /// How long to wait before the next attempt.
    pub(super) pause: Duration,
}

impl Deciding {
    /// Its end is known: nothing is in flight any more.
    pub(super) fn answered(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.answered();
        }
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) fn decide(mut deciding: Deciding) -> Call {
    async move {
        if deciding.pause.is_zero() {
            deciding.probes.reached(|| Point::BeforeDecide).await;
        } else {
            sleep(deciding.pause).await;
            deciding.probes.reached(|| Point::BeforeDecideAgain).await;
        }
        let started = Instant::now();
        let token = &deciding.token;
        let in_flight = deciding
            .in_flight
            .take()
            .unwrap_or_else(|| DecisionInFlight::new(token));
        let log = &deciding.log;
        let asked = match deciding.way {
            Way::Decide => log.decide(&deciding.decision),
            Way::SettleLast => log.settle_last(&deciding.decision),
        };
        let decided = AssertUnwindSafe(asked).catch_unwind();
        // Not bounded: dropping it would help nobody, for nothing but its answer ends it.
        let decided = decided.await.unwrap_or_else(|_panic| {
            Err(DecideError::Uncertain(LogError::new(
                "the log panicked, which is a bug of it",
            )))
        });
        let (elapsed, ok) = (started.elapsed(), decided.is_ok());
        debug!(target: "unanimous", phase = "decide", ?elapsed, ok);
        let until = deciding.deadline;
        match decided {
            Ok(seq) => {
                in_flight.answered();
                deciding.probes.reached(|| Point::DecisionDurable).await;
                Event::Decided(deciding.way, Ok(seq))
            }
            Err(DecideError::Refused(Refusal::Busy(error))) if Instant::now() < until => {
                in_flight.answered();
                debug!(target: "unanimous", %error, "decisions are held");
                deciding.probes.reached(|| Point::DecisionRefused).await;
                deciding.pause = PAUSE_MIN;
                Event::DecideHeld(deciding)
            }
            Err(DecideError::Refused(refusal)) => {
                in_flight.answered();
                deciding.probes.reached(|| Point::DecisionRefused).await;
                Event::Decided(deciding.way, Err(refusal))
            }
            Err(DecideError::Uncertain(error)) => {
                deciding.in_flight = Some(in_flight);
                deciding.probes.reached(|| Point::DecisionUncertain).await;
                deciding.pause = (deciding.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                Event::DecideUncertain(deciding, error.to_string())
            }
            Err(error @ DecideError::MayBeLost(_)) => {
                in_flight.answered();
                deciding.probes.reached(|| Point::DecisionUncertain).await;
                Event::DecideMayBeLost(error.to_string())
            }
        }
    }
    .boxed()
}

pub(super) fn overdue(limit: Duration) -> Call {
    sleep(limit).map(|()| Event::DecideOverdue).boxed()
}

impl CallEnv {
    async fn reached(&self, point: fn(ResourceName) -> Point) {
        self.probes.at(&self.name, point).await;
    }

    async fn timed<T>(
        &self,
        phase: &'static str,
        limit: Duration,
        call: impl Future<Output = T>,
    ) -> Heard<T> {
        let started = Instant::now();
        let span = debug_span!(target: "unanimous", "branch", resource = %self.name, phase);
        let reply = bounded(limit, call).instrument(span.clone()).await;
        let elapsed = started.elapsed();
        debug!(target: "unanimous", parent: &span, ?elapsed, answered = reply.is_ok());
        reply
    }
}
