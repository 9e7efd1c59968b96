//! A resource in memory that does not say what is: see `liars`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use unanimous::ports::{
    Absence, Branch, BranchEnv, BranchError, BranchErrorKind, BranchRecord, Cause, Evidence,
    OnePhaseReply, Preflight, PrepareReply, Problem, RecoveryScan, Resource, ResourceError,
    ResourceManager, ScannedBranch, ServerIdentity, XidOwner,
};
use unanimous::{Decision, ResourceName, Xid};
use unanimous_testing::{MemoryBranch, MemoryResource, Step};

/// What is answered, instead of what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lie {
    /// "I do not know this XID", and it stays prepared.
    Unknown,
    /// "I do not know this XID", and it was done.
    DoneAndUnknown,
    /// "Done", and it was not.
    DoneWithout,
    /// "Rolled back", and it is prepared, or stays so.
    RolledBackAlone,
    /// "Read-only", and it is prepared.
    ReadOnly,
    /// "Prepared", and it is rolled back.
    PreparedWithout,
    /// Nobody knows what this means; and it was done.
    Nonsense,
    /// Within the limit, but slowly.
    Slowly,
    /// Not within any limit; and then it is done.
    Late,
    /// Each row twice.
    Twice,
    /// A row is missing.
    Omits,
    /// Branches that nobody has begun, by names of ours and near them.
    Invents,
    /// The connection closes in the middle of the answer.
    Closes,
    /// Another server's name.
    OtherServer,
}

/// Cloning gives the same plan.
#[derive(Clone, Default)]
pub(super) struct Plan(Arc<Mutex<VecDeque<(Step, Lie)>>>);

impl Plan {
    fn take(&self, step: Step) -> Option<Lie> {
        let mut plan = self.0.lock().unwrap();
        let at = plan.iter().position(|(planned, _)| *planned == step)?;
        plan.remove(at).map(|(_, lie)| lie)
    }

    pub(super) fn tell(&self, step: Step, lie: Lie, times: usize) {
        let lies = std::iter::repeat_n((step, lie), times);
        self.0.lock().unwrap().extend(lies);
    }

    pub(super) fn is_told(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }

    pub(super) fn stop(&self) {
        self.0.lock().unwrap().clear();
    }
}

#[derive(Clone)]
pub(super) struct Liar {
    inner: MemoryResource,
    pub(super) plan: Plan,
}

pub(super) struct LyingBranch {
    pub(super) inner: MemoryBranch,
    liar: Liar,
    /// It is not as was said: its connection is not used again.
    has_lied: bool,
}

impl Liar {
    pub(super) fn new(inner: &MemoryResource) -> Self {
        let (inner, plan) = (inner.clone(), Plan::default());
        Self { inner, plan }
    }

    fn error(&self, kind: BranchErrorKind) -> BranchError {
        BranchError::new(kind, self.name().clone(), "as the liar says")
    }

    /// The server does what it is asked next, long after everybody has given up.
    fn late(&self, step: Step) {
        let hang = self.inner.server().hang_next(step);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            hang.release();
        });
    }

    /// For requests that end a branch: what is said, if it is not what the server says, and whether
    /// the server is asked at all.
    async fn ends(&self, step: Step) -> (Option<Result<(), BranchErrorKind>>, bool) {
        match self.plan.take(step) {
            None => (None, true),
            Some(Lie::Unknown) => (Some(Err(BranchErrorKind::UnknownXid)), false),
            Some(Lie::DoneAndUnknown) => (Some(Err(BranchErrorKind::UnknownXid)), true),
            Some(Lie::DoneWithout) => (Some(Ok(())), false),
            Some(Lie::Nonsense) => (Some(Err(BranchErrorKind::Undetermined)), true),
            Some(Lie::RolledBackAlone) => {
                let alone = BranchErrorKind::RolledBack(Cause::Refused);
                (Some(Err(alone)), false)
            }
            Some(Lie::Slowly) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                (None, true)
            }
            Some(Lie::Late) => {
                self.late(step);
                (None, true)
            }
            Some(other) => panic!("{other:?} is no answer to {step:?}"),
        }
    }

    fn invented(&self, scan: &RecoveryScan) -> Vec<ScannedBranch> {
        let ours = scan.branches.iter().find_map(|branch| match &branch.owner {
            XidOwner::Unanimous(xid) => Some(xid.clone()),
            XidOwner::Foreign(_) => None,
        });
        let Some(xid) = ours else { return Vec::new() };
        let mut other = xid.clone();
        other.gtrid.sequence += 1_000_000;
        let mut unlisted = xid.clone();
        unlisted.gtrid.opening.nonce ^= 1;
        let near = XidOwner::Foreign(format!("unanimous:{xid} "));
        let owners = [
            XidOwner::Unanimous(other),
            XidOwner::Unanimous(unlisted),
            near,
        ];
        let listed = |owner| ScannedBranch { owner, age: None };
        owners.map(listed).into_iter().collect()
    }
}

#[async_trait]
impl ResourceManager for Liar {
    fn name(&self) -> &ResourceName {
        self.inner.name()
    }

    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        self.inner.preflight().await
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        let lie = self.plan.take(Step::Recover);
        match lie {
            Some(Lie::Slowly) => tokio::time::sleep(Duration::from_millis(200)).await,
            Some(Lie::Late) => tokio::time::sleep(Duration::from_secs(10)).await,
            Some(_) | None => {}
        }
        let mut scan = self.inner.recover().await?;
        match lie {
            Some(Lie::Twice) => scan.branches.extend(scan.branches.clone()),
            Some(Lie::Omits) => drop(scan.branches.pop()),
            Some(Lie::Invents) => scan.branches.extend(self.invented(&scan)),
            Some(Lie::OtherServer) => {
                scan.identity = ServerIdentity::new("somebody else").unwrap();
            }
            Some(Lie::Closes) => {
                let (problem, name) = (Problem::Unavailable, self.name().clone());
                return Err(ResourceError::new(problem, name, "closed in the middle"));
            }
            Some(_) | None => {}
        }
        Ok(scan)
    }

    async fn finish(
        &self,
        xid: &Xid,
        decision: Decision,
        recorded: Option<&BranchRecord>,
    ) -> Result<(), BranchError> {
        let (said, is_asked) = self.ends(Step::Finish).await;
        let done = if is_asked {
            self.inner.finish(xid, decision, recorded).await
        } else {
            Ok(())
        };
        said.map_or(done, |said| said.map_err(|kind| self.error(kind)))
    }

    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError> {
        match self.plan.take(Step::Absent) {
            Some(Lie::DoneWithout) => return Ok(Absence::Finished),
            Some(Lie::Closes) => {
                let (problem, name) = (Problem::Unavailable, self.name().clone());
                return Err(ResourceError::new(problem, name, "closed in the middle"));
            }
            Some(Lie::Slowly) => tokio::time::sleep(Duration::from_millis(200)).await,
            Some(Lie::Late) => tokio::time::sleep(Duration::from_secs(10)).await,
            Some(_) | None => {}
        }
        self.inner.absent(xid, branch).await
    }
}

#[async_trait]
impl Resource for Liar {
    type Branch = LyingBranch;

    async fn open(&self, env: BranchEnv) -> Result<LyingBranch, BranchError> {
        Ok(LyingBranch {
            inner: self.inner.open(env).await?,
            liar: self.clone(),
            has_lied: false,
        })
    }
}

#[async_trait]
impl Branch for LyingBranch {
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
        let lie = self.liar.plan.take(Step::Prepare);
        self.has_lied |= lie.is_some();
        match lie {
            Some(Lie::PreparedWithout) => {
                self.inner.rollback().await.unwrap();
                return PrepareReply::Prepared(Evidence::default());
            }
            Some(Lie::Slowly) => tokio::time::sleep(Duration::from_millis(200)).await,
            Some(Lie::Late) => self.liar.late(Step::Prepare),
            Some(_) | None => {}
        }
        let prepared = self.inner.prepare().await;
        match lie {
            Some(Lie::RolledBackAlone) => {
                let kind = BranchErrorKind::RolledBack(Cause::Conflict);
                PrepareReply::RolledBack(self.liar.error(kind))
            }
            Some(Lie::ReadOnly) => PrepareReply::ReadOnly,
            Some(Lie::Nonsense) => {
                PrepareReply::Undetermined(self.liar.error(BranchErrorKind::Undetermined))
            }
            Some(_) | None => prepared,
        }
    }

    async fn commit(&mut self) -> Result<(), BranchError> {
        let (said, is_asked) = self.liar.ends(Step::Commit).await;
        self.has_lied |= said.is_some();
        let done = if is_asked {
            self.inner.commit().await
        } else {
            Ok(())
        };
        said.map_or(done, |said| said.map_err(|kind| self.liar.error(kind)))
    }

    async fn rollback(&mut self) -> Result<(), BranchError> {
        let (said, is_asked) = self.liar.ends(Step::Rollback).await;
        self.has_lied |= said.is_some();
        let done = if is_asked {
            self.inner.rollback().await
        } else {
            Ok(())
        };
        said.map_or(done, |said| said.map_err(|kind| self.liar.error(kind)))
    }

    async fn commit_one_phase(&mut self) -> OnePhaseReply {
        self.inner.commit_one_phase().await
    }

    async fn end_read_only(&mut self) -> Result<(), BranchError> {
        self.inner.end_read_only().await
    }

    async fn release(self: Box<Self>) {
        if !self.has_lied {
            Box::new(self.inner).release().await;
        }
    }
}
