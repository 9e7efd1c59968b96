//! A resource in memory that votes and obeys at once, or after a while, and remembers nothing but
//! what it was given to be in doubt: what remains is the coordinator.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{
    Absence, Branch, BranchEnv, BranchError, BranchRecord, Evidence, OnePhaseReply, Preflight,
    PrepareReply, RecoveryScan, Resource, ResourceError, ResourceManager, ScannedBranch,
    ServerIdentity, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

#[derive(Clone)]
pub(crate) struct Trivial {
    name: ResourceName,
    identity: ServerIdentity,
    delay: Duration,
    in_doubt: Arc<Mutex<BTreeSet<Xid>>>,
}

impl Trivial {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.parse().expect("a name for a resource"),
            identity: ServerIdentity::new(name).expect("a short name"),
            delay: Duration::ZERO,
            in_doubt: Arc::default(),
        }
    }

    /// Each request takes so long.
    pub(crate) fn slow(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// A prepared branch of this transaction.
    pub(crate) fn leave_in_doubt(&self, gtrid: Gtrid) -> BranchRecord {
        let record = BranchRecord {
            resource: self.name.clone(),
            identity: self.identity.clone(),
            evidence: Evidence::default(),
        };
        self.lock().insert(record.xid(gtrid));
        record
    }

    pub(crate) fn in_doubt(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<Xid>> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

#[async_trait]
impl ResourceManager for Trivial {
    fn name(&self) -> &ResourceName {
        &self.name
    }

    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        Ok(Preflight::new(
            "memory",
            Some(self.identity.clone()),
            Vec::new(),
        ))
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        let in_doubt = self.lock();
        let branches = in_doubt.iter().map(|xid| ScannedBranch {
            owner: XidOwner::Unanimous(xid.clone()),
            age: None,
        });
        let branches = branches.collect();
        Ok(RecoveryScan {
            identity: self.identity.clone(),
            branches,
        })
    }

    async fn finish(
        &self,
        xid: &Xid,
        _: Decision,
        _: Option<&BranchRecord>,
    ) -> Result<(), BranchError> {
        wait(self.delay).await;
        self.lock().remove(xid);
        Ok(())
    }

    async fn absent(&self, _: &Xid, _: &BranchRecord) -> Result<Absence, ResourceError> {
        Ok(Absence::Finished)
    }
}

#[async_trait]
impl Resource for Trivial {
    type Branch = TrivialBranch;

    async fn open(&self, env: BranchEnv) -> Result<TrivialBranch, BranchError> {
        Ok(TrivialBranch {
            xid: env.xid,
            identity: self.identity.clone(),
            delay: self.delay,
        })
    }
}

pub(crate) struct TrivialBranch {
    xid: Xid,
    identity: ServerIdentity,
    delay: Duration,
}

#[async_trait]
impl Branch for TrivialBranch {
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
        wait(self.delay).await;
        PrepareReply::Prepared(Evidence::default())
    }

    async fn commit(&mut self) -> Result<(), BranchError> {
        wait(self.delay).await;
        Ok(())
    }

    async fn rollback(&mut self) -> Result<(), BranchError> {
        Ok(())
    }

    async fn commit_one_phase(&mut self) -> OnePhaseReply {
        wait(self.delay).await;
        OnePhaseReply::Committed
    }

    async fn end_read_only(&mut self) -> Result<(), BranchError> {
        Ok(())
    }

    async fn release(self: Box<Self>) {}
}
