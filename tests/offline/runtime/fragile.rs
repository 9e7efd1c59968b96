//! Parts that fail in ways the parts in memory do not: calls that panic or never end, a log that
//! cannot take a heuristic, or does not know an opening that it has just listed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use unanimous::ports::{
    Absence, Branch, BranchEnv, BranchError, BranchRecord, ByHand, DecideError, DecisionLog,
    DecisionRecord, HeuristicEnd, LogError, LogHome, Lookup, OnePhaseReply, OpeningState,
    Preflight, PrepareReply, Problem, RecoveryScan, Resource, ResourceError, ResourceManager, Room,
    ServerIdentity,
};
use unanimous::{Decision, Gtrid, Heuristic, Opening, ResourceName, Xid};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::Epoch;
use unanimous_testing::{MemoryBranch, MemoryLog, MemoryResource};

use super::pools::Pool;

/// A method of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    Prepare,
    Commit,
    Rollback,
    OnePhase,
    CommitLast,
    Release,
    Preflight,
    Recover,
    /// Met when the scan is done and its answer is on its way.
    RecoverAnswered,
    Finish,
    /// Met when the branch has ended and the answer is on its way.
    FinishAnswered,
    Absent,
    Decide,
    RecordHeuristic,
    /// Met when it is recorded and the answer is on its way.
    HeuristicAnswered,
    Heuristics,
    RecordByHand,
    /// Met when it is recorded and the answer is on its way.
    ByHandAnswered,
    Lookup,
    /// Met when the look is done and its answer is on its way.
    LookupAnswered,
    Pending,
    /// Met when they are read and the answer is on its way.
    OpeningsAnswered,
}

/// What happens to a call instead of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Panic,
    Hang,
    /// Goes on when the test says so.
    Wait,
    /// Answered with an error; a check with "unfit", a lookup with "the opening is not listed".
    Fail,
    /// Of a proof: it is still in doubt.
    InDoubt,
}

/// Which of the next calls meet which fate, in their order. Cloning gives the same plan.
#[derive(Clone)]
pub(crate) struct Fates {
    plan: Arc<Mutex<Vec<(Call, Fate)>>>,
    go: Arc<Semaphore>,
    is_dead: Arc<AtomicBool>,
    unreadable: Arc<Mutex<Option<Gtrid>>>,
}

impl Default for Fates {
    fn default() -> Self {
        Self {
            plan: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
            is_dead: Arc::default(),
            unreadable: Arc::default(),
        }
    }
}

impl Fates {
    pub(crate) fn next(&self, call: Call, fate: Fate) {
        self.plan().push((call, fate));
    }

    /// From now on the log cannot tell what became of this transaction.
    pub(crate) fn make_unreadable(&self, gtrid: Gtrid) {
        *self.unreadable.lock().unwrap() = Some(gtrid);
    }

    /// Lets one call go on that waits, or that will.
    pub(crate) fn go(&self) {
        self.go.add_permits(1);
    }

    /// The process that calls has died: from now on nothing that it calls happens, whatever its
    /// tasks still do here.
    pub(crate) fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
    }

    async fn live(&self) {
        if self.is_dead.load(Ordering::SeqCst) {
            std::future::pending().await
        }
    }

    /// Every planned fate was met.
    pub(crate) fn are_met(&self) -> bool {
        self.plan().is_empty()
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Vec<(Call, Fate)>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are still planned for this method.
    pub(crate) fn left(&self, call: Call) -> usize {
        let plan = self.plan();
        plan.iter().filter(|(planned, _)| *planned == call).count()
    }

    /// The fate, if it is one that the caller has to see to.
    async fn meet(&self, call: Call) -> Option<Fate> {
        self.live().await;
        let fate = {
            let mut plan = self.plan();
            let at = plan.iter().position(|(planned, _)| *planned == call);
            at.map(|at| plan.remove(at).1)
        };
        match fate {
            None => None,
            Some(fate @ (Fate::Fail | Fate::InDoubt)) => Some(fate),
            Some(Fate::Wait) => {
                self.go.acquire().await.unwrap().forget();
                None
            }
            Some(Fate::Panic) => panic!("{call:?} panics because the test says so"),
            Some(Fate::Hang) => std::future::pending().await,
        }
    }
}

/// A resource in memory whose calls can panic and hang.
#[derive(Clone)]
pub(crate) struct FragileResource {
    pub(crate) inner: MemoryResource,
    pub(crate) fates: Fates,
    pub(crate) pool: Option<Pool>,
}

impl FragileResource {
    pub(crate) fn new(inner: &MemoryResource) -> Self {
        let (inner, fates) = (inner.clone(), Fates::default());
        let pool = None;
        Self { inner, fates, pool }
    }
}

pub(crate) struct FragileBranch {
    pub(crate) inner: MemoryBranch,
    fates: Fates,
    session: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl ResourceManager for FragileResource {
    fn name(&self) -> &ResourceName {
        self.inner.name()
    }

    fn room(&self) -> Option<Room> {
        self.pool.as_ref().map(|pool| pool.room)
    }

    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        if self.fates.meet(Call::Preflight).await.is_some() {
            let (problem, name) = (Problem::Unfit, self.name().clone());
            return Err(ResourceError::new(problem, name, "set it otherwise"));
        }
        self.inner.preflight().await
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        self.fates.meet(Call::Recover).await;
        let scan = self.inner.recover().await;
        self.fates.meet(Call::RecoverAnswered).await;
        scan
    }

    async fn finish(
        &self,
        xid: &Xid,
        decision: Decision,
        recorded: Option<&BranchRecord>,
    ) -> Result<(), BranchError> {
        self.fates.meet(Call::Finish).await;
        let finished = self.inner.finish(xid, decision, recorded).await;
        self.fates.meet(Call::FinishAnswered).await;
        finished
    }

    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError> {
        match self.fates.meet(Call::Absent).await {
            Some(Fate::Fail) => {
                let (problem, name) = (Problem::Unavailable, self.name().clone());
                Err(ResourceError::new(problem, name, "not now"))
            }
            Some(Fate::InDoubt) => Ok(Absence::InDoubt("who knows".into())),
            Some(Fate::Panic | Fate::Hang | Fate::Wait) | None => {
                self.inner.absent(xid, branch).await
            }
        }
    }
}

#[async_trait]
impl Resource for FragileResource {
    type Branch = FragileBranch;

    async fn open(&self, env: BranchEnv) -> Result<FragileBranch, BranchError> {
        self.fates.meet(Call::Open).await;
        let session = match &self.pool {
            Some(pool) => Some(pool.lend(&env.xid).await?),
            None => None,
        };
        let (inner, fates) = (self.inner.open(env).await?, self.fates.clone());
        Ok(FragileBranch {
            inner,
            fates,
            session,
        })
    }
}

#[async_trait]
impl Branch for FragileBranch {
    fn xid(&self) -> &Xid {
        self.inner.xid()
    }

    fn identity(&self) -> &ServerIdentity {
        self.inner.identity()
    }

    fn scope(&self) -> &str {
        self.inner.scope()
    }

    async fn prepare(&mut self) -> PrepareReply {
        self.fates.meet(Call::Prepare).await;
        self.inner.prepare().await
    }

    async fn commit(&mut self) -> Result<(), BranchError> {
        self.fates.meet(Call::Commit).await;
        self.inner.commit().await
    }

    async fn rollback(&mut self) -> Result<(), BranchError> {
        self.fates.meet(Call::Rollback).await;
        self.inner.rollback().await
    }

    async fn commit_last(&mut self, statement: &str) -> OnePhaseReply {
        self.fates.meet(Call::CommitLast).await;
        self.inner.commit_last(statement).await
    }

    async fn commit_one_phase(&mut self) -> OnePhaseReply {
        self.fates.meet(Call::OnePhase).await;
        self.inner.commit_one_phase().await
    }

    async fn end_read_only(&mut self) -> Result<(), BranchError> {
        self.inner.end_read_only().await
    }

    async fn release(self: Box<Self>) {
        self.fates.meet(Call::Release).await;
        Box::new(self.inner).release().await;
        let session = self.session;
        // Wiped, for a while, before it is lent again.
        tokio::spawn(async move {
            yield_now().await;
            drop(session);
        });
    }
}

/// A log in memory whose calls can fail, panic and hang.
pub(crate) struct FragileLog {
    pub(crate) inner: MemoryLog,
    pub(crate) fates: Fates,
}

struct FragileMember {
    inner: Arc<dyn DecisionLog>,
    fates: Fates,
    is_shut: AtomicBool,
}

#[async_trait]
impl LogHome for FragileLog {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        let inner = Box::new(self.inner).open().await?;
        Ok(Arc::new(FragileMember {
            inner,
            fates: self.fates,
            is_shut: AtomicBool::new(false),
        }))
    }
}

fn unwell<T>() -> Result<T, LogError> {
    Err(LogError::new("the log is unwell because the test says so"))
}

#[async_trait]
impl DecisionLog for FragileMember {
    fn opening(&self) -> Opening {
        self.inner.opening()
    }

    async fn decide(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        self.fates.meet(Call::Decide).await;
        self.inner.decide(decision).await
    }

    fn complete(&self, gtrid: Gtrid) {
        if !self.fates.is_dead.load(Ordering::SeqCst) {
            self.inner.complete(gtrid);
        }
    }

    async fn force(&self) -> Result<(), LogError> {
        self.fates.live().await;
        self.inner.force().await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> Result<(), LogError> {
        let fate = self.fates.meet(Call::RecordHeuristic).await;
        if fate.is_some() || self.is_shut.load(Ordering::SeqCst) {
            return unwell();
        }
        let recorded = self.inner.record_heuristic(gtrid, resource, heuristic);
        let recorded = recorded.await;
        self.fates.meet(Call::HeuristicAnswered).await;
        recorded
    }

    async fn heuristics(&self) -> Result<Vec<HeuristicEnd>, LogError> {
        self.fates.meet(Call::Heuristics).await;
        self.inner.heuristics().await
    }

    async fn record_by_hand(&self, by_hand: &ByHand) -> Result<(), LogError> {
        let fate = self.fates.meet(Call::RecordByHand).await;
        if fate.is_some() || self.is_shut.load(Ordering::SeqCst) {
            return unwell();
        }
        let recorded = self.inner.record_by_hand(by_hand).await;
        self.fates.meet(Call::ByHandAnswered).await;
        recorded
    }

    async fn by_hand(&self) -> Result<Vec<ByHand>, LogError> {
        self.fates.live().await;
        self.inner.by_hand().await
    }

    async fn close(&self, epoch: Epoch) -> Result<(), LogError> {
        self.inner.close(epoch).await
    }

    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError> {
        if self.fates.meet(Call::Lookup).await.is_some() {
            return Ok(Lookup::UnknownOpening);
        }
        if *self.fates.unreadable.lock().unwrap() == Some(gtrid) {
            return unwell();
        }
        let found = self.inner.lookup(gtrid).await;
        self.fates.meet(Call::LookupAnswered).await;
        found
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        if self.fates.meet(Call::Pending).await.is_some() {
            return unwell();
        }
        self.inner.pending().await
    }

    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        let openings = self.inner.openings().await;
        self.fates.meet(Call::OpeningsAnswered).await;
        openings
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        self.is_shut.store(true, Ordering::SeqCst);
        self.inner.shutdown().await
    }
}
