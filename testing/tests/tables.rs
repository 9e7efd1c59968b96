//! The suite of decision tables over the one in memory: alone the table, and in a server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{Branch, BranchEnv, DecisionTable, Resource, SourceError};
use unanimous_core::xid::{Gtrid, Xid};
use unanimous_testing::table_suite::{self, Held, Place};
use unanimous_testing::{HeldRow, MemoryResource, MemoryServer, MemoryTable};

struct InMemory {
    table: MemoryTable,
    resource: MemoryResource,
}

impl InMemory {
    fn new() -> Self {
        let table = MemoryTable::new("log 1");
        let server = MemoryServer::new("memory 1");
        server.hosts(&table);
        let resource = server.resource("rows");
        Self { table, resource }
    }
}

struct InMemoryHeld(HeldRow);

#[async_trait]
impl Held for InMemoryHeld {
    async fn commit(self: Box<Self>) {
        self.0.commit();
    }

    async fn rollback(self: Box<Self>) {}
}

#[async_trait]
impl Place for InMemory {
    fn table(&self) -> Arc<dyn DecisionTable> {
        Arc::new(self.table.another_link())
    }

    async fn run_ddl(&self, ddl: &str) {
        self.table.run_ddl(ddl);
    }

    async fn hold(&self, statement: &str) -> Result<Box<dyn Held>, SourceError> {
        Ok(Box::new(InMemoryHeld(self.table.hold(statement)?)))
    }

    async fn branch(&self, gtrid: Gtrid, key: &str) -> Box<dyn Branch> {
        let xid = Xid {
            gtrid,
            bqual: "rows".parse().expect("a name"),
        };
        let env = BranchEnv {
            xid,
            read_only: false,
            lock_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(60),
        };
        let branch = self.resource.open(env).await;
        let mut branch = branch.expect("a branch can be opened");
        branch.put(key, "v").expect("a row can be written");
        Box::new(branch)
    }

    async fn is_committed(&self, key: &str) -> bool {
        self.resource.server().row(key).is_some()
    }

    async fn crash(&self) -> bool {
        self.table.crash();
        true
    }
}

#[tokio::test]
async fn the_table_in_memory_passes_the_suite() {
    table_suite::run(async || InMemory::new()).await;
}
