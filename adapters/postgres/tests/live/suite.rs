//! The conformance suite of resources, on real servers.

use async_trait::async_trait;
use unanimous_core::ports::SourceError;
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{ManagerId, Xid};
use unanimous_postgres::{PgBranch, Postgres};
use unanimous_testing::resource_suite::{self, Harness};

use crate::support::{Db, oracle};

struct PgHarness {
    resource: Postgres,
    url: String,
    table: String,
}

#[async_trait]
impl Harness for PgHarness {
    type Resource = Postgres;

    fn resource(&self) -> &Postgres {
        &self.resource
    }

    async fn write(
        &self,
        branch: &mut PgBranch,
        key: &str,
        value: &str,
    ) -> Result<(), SourceError> {
        let table = &self.table;
        let upsert =
            format!("INSERT INTO {table} VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = $2");
        branch.execute(&upsert, &[&key, &value]).await?;
        Ok(())
    }

    async fn read(&self, branch: &mut PgBranch, key: &str) -> Result<Option<String>, SourceError> {
        let select = format!("SELECT v FROM {} WHERE k = $1", self.table);
        let row = branch.query_opt(&select, &[&key]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    async fn soil_session(&self, branch: &mut PgBranch) -> Result<(), SourceError> {
        Ok(branch.batch_execute("SET my.soil = 'soiled'").await?)
    }

    async fn is_session_soiled(&self, branch: &mut PgBranch) -> Result<bool, SourceError> {
        let soil = "SELECT coalesce(current_setting('my.soil', true), '') = 'soiled'";
        Ok(branch.query_one(soil, &[]).await?.get(0))
    }

    async fn committed(&self, key: &str) -> Option<String> {
        let select = format!("SELECT v FROM {} WHERE k = '{key}'", self.table);
        let rows = oracle(&self.url, &select).await.unwrap();
        rows.into_iter().next().map(|mut row| row.remove(0))
    }

    async fn prepared_count(&self, manager: ManagerId) -> usize {
        let count =
            format!("SELECT 1 FROM pg_prepared_xacts WHERE gid LIKE 'unanimous:{manager}-%'");
        oracle(&self.url, &count).await.unwrap().len()
    }

    async fn end_by_hand(&self, xid: &Xid, decision: Decision) {
        let verb = match decision {
            Decision::Commit => "COMMIT",
            Decision::Rollback => "ROLLBACK",
        };
        let end = format!("{verb} PREPARED 'unanimous:{xid}'");
        oracle(&self.url, &end).await.unwrap();
    }

    async fn plant_foreign(&self, unique: &str) -> String {
        let gid = format!("1096044365_{unique}");
        let insert = format!("INSERT INTO {} VALUES ('{gid}', 'v')", self.table);
        let plant = format!("BEGIN; {insert}; PREPARE TRANSACTION '{gid}'");
        oracle(&self.url, &plant).await.unwrap();
        gid
    }

    async fn remove_foreign(&self, unique: &str) {
        let end = format!("ROLLBACK PREPARED '1096044365_{unique}'");
        oracle(&self.url, &end).await.unwrap();
    }

    fn proves_absence(&self) -> bool {
        true
    }

    fn unreachable(&self) -> Option<(Postgres, String)> {
        let secret = "a-secret-of-nobody";
        let url = format!("postgres://app:{secret}@127.0.0.1:1/app");
        Some((
            Postgres::builder("orders", url).build().unwrap(),
            secret.to_owned(),
        ))
    }
}

async fn the_conformance_suite_holds(db: &Db) {
    let table = format!("{}_kv", db.table);
    db.sql(&format!(
        "CREATE TABLE {table} (k text PRIMARY KEY, v text)"
    ))
    .await;
    let harness = PgHarness {
        resource: db.resource.clone(),
        url: db.url.clone(),
        table: table.clone(),
    };
    resource_suite::run(harness).await;
    db.sql(&format!("DROP TABLE {table}")).await;
}

on_both!(the_conformance_suite_holds);
