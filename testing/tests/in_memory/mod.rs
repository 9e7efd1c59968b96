//! The harness of the resource suite over a server in memory.

use async_trait::async_trait;
use unanimous_core::ports::SourceError;
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{ManagerId, Xid};
use unanimous_testing::resource_suite::Harness;
use unanimous_testing::{Flavour, Journal, MemoryBranch, MemoryResource, MemoryServer};

pub(crate) struct InMemory {
    pub(crate) server: MemoryServer,
    resource: MemoryResource,
    flavour: Flavour,
}

impl InMemory {
    pub(crate) fn new(flavour: Flavour) -> Self {
        let server = MemoryServer::with("memory 1", flavour, Journal::new());
        let resource = server.resource("rows");
        Self {
            server,
            resource,
            flavour,
        }
    }
}

#[async_trait]
impl Harness for InMemory {
    type Resource = MemoryResource;

    fn resource(&self) -> &MemoryResource {
        &self.resource
    }

    async fn write(
        &self,
        branch: &mut MemoryBranch,
        key: &str,
        value: &str,
    ) -> Result<(), SourceError> {
        Ok(branch.put(key, value)?)
    }

    async fn read(
        &self,
        branch: &mut MemoryBranch,
        key: &str,
    ) -> Result<Option<String>, SourceError> {
        Ok(branch.get(key)?)
    }

    async fn soil_session(&self, branch: &mut MemoryBranch) -> Result<(), SourceError> {
        Ok(branch.set("role", "other")?)
    }

    async fn is_session_soiled(&self, branch: &mut MemoryBranch) -> Result<bool, SourceError> {
        Ok(branch.setting("role")?.is_some())
    }

    async fn committed(&self, key: &str) -> Option<String> {
        self.server.row(key)
    }

    async fn prepared_count(&self, manager: ManagerId) -> usize {
        let prepared = self.server.prepared();
        let ours = prepared
            .iter()
            .filter(|xid| xid.gtrid.opening.manager == manager);
        ours.count()
    }

    async fn end_by_hand(&self, xid: &Xid, decision: Decision) {
        assert!(self.server.end_by_hand(xid, decision), "it is prepared");
    }

    async fn plant_foreign(&self, unique: &str) -> String {
        self.server.plant_foreign(unique);
        unique.into()
    }

    async fn remove_foreign(&self, unique: &str) {
        assert!(self.server.remove_foreign(unique), "{unique} is gone");
    }

    fn proves_absence(&self) -> bool {
        self.flavour == Flavour::Postgres
    }

    fn unreachable(&self) -> Option<(MemoryResource, String)> {
        let resource = MemoryResource::new("elsewhere");
        resource.server().set_reachable(false);
        Some((resource, "hunter2".into()))
    }
}
