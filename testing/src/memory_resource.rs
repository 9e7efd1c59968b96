//! A resource on a [`MemoryServer`], and the way recovery sees it.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous_core::ports::{
    Absence, BranchEnv, BranchError, BranchErrorKind, BranchRecord, DecisionTable, Preflight,
    Problem, RecoveryScan, Resource, ResourceError, ResourceManager, TableHome,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{ResourceName, Xid};

use crate::journal::Step;
use crate::memory_branch::MemoryBranch;
use crate::memory_server::{Delivery, MemoryServer, Request};

/// A resource in memory. Cloning gives the same resource; a test that restarts a manager gives the
/// new one a clone.
#[derive(Clone)]
pub struct MemoryResource {
    server: MemoryServer,
    name: ResourceName,
}

impl MemoryResource {
    /// A resource on a server of its own, which has the name for its identity.
    ///
    /// # Panics
    /// When `name` is not a resource name.
    pub fn new(name: &str) -> Self {
        MemoryServer::new(name).resource(name)
    }

    pub(crate) const fn on(server: MemoryServer, name: ResourceName) -> Self {
        Self { server, name }
    }

    /// The server behind it: to look into, and to make fail.
    pub const fn server(&self) -> &MemoryServer {
        &self.server
    }

    fn request(&self, step: Step, xid: Option<&Xid>) -> Request {
        Request {
            resource: self.name.clone(),
            step,
            xid: xid.cloned(),
            session: None,
        }
    }

    fn branch_error(&self, kind: BranchErrorKind, message: &str) -> BranchError {
        BranchError::new(kind, self.name.clone(), message)
    }

    fn received<T>(
        &self,
        delivery: Delivery<Result<T, ResourceError>>,
    ) -> Result<T, ResourceError> {
        let message = match delivery {
            Delivery::Reply(reply) => return reply,
            Delivery::Refused(kind) => format!("the server refused: {kind:?}"),
            Delivery::Lost => "the connection broke; try again".into(),
            Delivery::Unreachable => "the server cannot be reached; try again".into(),
        };
        Err(ResourceError::new(
            Problem::Unavailable,
            self.name.clone(),
            message,
        ))
    }
}

#[async_trait]
impl ResourceManager for MemoryResource {
    fn name(&self) -> &ResourceName {
        &self.name
    }

    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        let request = self.request(Step::Preflight, None);
        let delivery = self.server.perform(request, |state| {
            let identity = Some(state.identity.clone());
            Ok(Preflight::new("memory", identity, Vec::new()))
        });
        self.received(delivery.await)
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        let request = self.request(Step::Recover, None);
        let name = self.name.clone();
        let delivery = self.server.perform(request, move |state| {
            if !state.is_writable {
                let message = "the server is a standby and lists nothing; ask the primary";
                return Err(ResourceError::new(Problem::Unavailable, name, message));
            }
            Ok(RecoveryScan {
                identity: state.identity.clone(),
                branches: state.scan(),
            })
        });
        self.received(delivery.await)
    }

    async fn finish(
        &self,
        xid: &Xid,
        decision: Decision,
        _recorded: Option<&BranchRecord>,
    ) -> Result<(), BranchError> {
        let request = self.request(Step::Finish, Some(xid));
        let target = xid.clone();
        let delivery = self
            .server
            .perform(request, move |state| state.finish(&target, decision));
        let (kind, message) = match delivery.await {
            Delivery::Reply(Ok(())) => return Ok(()),
            Delivery::Reply(Err(refused)) => refused,
            Delivery::Refused(kind) => (kind, "the server refused to finish the branch"),
            Delivery::Lost => (BranchErrorKind::Undetermined, "the connection broke"),
            Delivery::Unreachable => (BranchErrorKind::Unavailable, "no connection to the server"),
        };
        Err(self.branch_error(kind, message))
    }

    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError> {
        let request = self.request(Step::Absent, Some(xid));
        let (xid, record) = (xid.clone(), branch.clone());
        let name = self.name.clone();
        let delivery = self.server.perform(request, move |state| {
            if !state.is_writable {
                let message = "the server is a standby and proves nothing; ask the primary";
                return Err(ResourceError::new(Problem::Unavailable, name, message));
            }
            Ok(state.absent(&xid, &record))
        });
        self.received(delivery.await)
    }
}

impl TableHome for MemoryResource {
    /// # Panics
    /// When its server [hosts](MemoryServer::hosts) no table.
    fn decision_table(&self) -> Arc<dyn DecisionTable> {
        let table = self.server.hosted();
        Arc::new(table.expect("a server that hosts a table"))
    }
}

#[async_trait]
impl Resource for MemoryResource {
    type Branch = MemoryBranch;

    async fn open(&self, env: BranchEnv) -> Result<MemoryBranch, BranchError> {
        let request = self.request(Step::Open, Some(&env.xid));
        let server = self.server.clone();
        let resource = self.name.clone();
        let delivery = self.server.perform(request, move |state| {
            let identity = state.identity.clone();
            let session = state.open(env.xid.clone(), env.read_only)?;
            // Made here, so that a branch whose opener has given up is dropped and ends.
            Ok(MemoryBranch::new(
                server, resource, env.xid, identity, session,
            ))
        });
        let (kind, message) = match delivery.await {
            Delivery::Reply(Ok(branch)) => return Ok(branch),
            Delivery::Reply(Err(refused)) => refused,
            Delivery::Refused(kind) => (kind, "the server refused to open a branch"),
            Delivery::Lost => (BranchErrorKind::Unavailable, "the connection broke"),
            Delivery::Unreachable => (BranchErrorKind::Unavailable, "no connection to the server"),
        };
        Err(self.branch_error(kind, message))
    }
}
