//! The conformance suite of the port, over both servers.

use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::SourceError;
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{ManagerId, Xid};
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_mysql::mysql_async::{Conn, Row};
use unanimous_mysql::{Mysql, MysqlBranch};
use unanimous_testing::resource_suite::{self, Harness};

use crate::support::{Db, code, connect, literal, random};

struct MysqlHarness {
    url: String,
    admin_url: String,
    table: String,
    resource: Mysql,
}

impl MysqlHarness {
    async fn new(db: &Db) -> Self {
        let table = format!("suite_{:016x}", random());
        db.sql(&format!(
            "CREATE TABLE {table} (k VARCHAR(40) PRIMARY KEY, v TEXT)"
        ))
        .await;
        Self {
            url: db.url.clone(),
            admin_url: db.admin_url.clone(),
            table,
            resource: db.resource.clone(),
        }
    }

    async fn client(&self) -> Conn {
        connect(&self.url).await
    }

    /// MariaDB lets go of a closed connection's branch only after a while.
    async fn until_ok(&self, sql: &str) {
        let mut client = self.client().await;
        let mut answer = client.query_drop(sql).await;
        for _ in 0..600 {
            // 1402: MariaDB's answer for a branch without changes; it has ended now.
            if answer.as_ref().err().map_or(0, code) == 1402 || answer.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer = client.query_drop(sql).await;
        }
        panic!("{sql}: {answer:?}");
    }
}

#[async_trait]
impl Harness for MysqlHarness {
    type Resource = Mysql;

    fn resource(&self) -> &Mysql {
        &self.resource
    }

    async fn write(
        &self,
        branch: &mut MysqlBranch,
        key: &str,
        value: &str,
    ) -> Result<(), SourceError> {
        let sql = format!("REPLACE INTO {} VALUES (?, ?)", self.table);
        Ok(branch.exec_drop(sql, (key, value)).await?)
    }

    async fn read(
        &self,
        branch: &mut MysqlBranch,
        key: &str,
    ) -> Result<Option<String>, SourceError> {
        let sql = format!("SELECT v FROM {} WHERE k = ?", self.table);
        Ok(branch.exec_first(sql, (key,)).await?)
    }

    async fn soil_session(&self, branch: &mut MysqlBranch) -> Result<(), SourceError> {
        Ok(branch
            .query_drop("SET @soiled = 1, SESSION sql_mode = 'ANSI_QUOTES'")
            .await?)
    }

    async fn is_session_soiled(&self, branch: &mut MysqlBranch) -> Result<bool, SourceError> {
        let sql = "SELECT @soiled IS NOT NULL OR @@SESSION.sql_mode LIKE '%ANSI_QUOTES%'";
        Ok(branch.query_first::<bool, _>(sql).await? == Some(true))
    }

    async fn committed(&self, key: &str) -> Option<String> {
        let sql = format!("SELECT v FROM {} WHERE k = ?", self.table);
        self.client().await.exec_first(sql, (key,)).await.unwrap()
    }

    async fn prepared_count(&self, manager: ManagerId) -> usize {
        let rows: Vec<Row> = connect(&self.admin_url)
            .await
            .query("XA RECOVER")
            .await
            .unwrap();
        let ours = format!("{manager}-").into_bytes();
        let data = rows.iter().map(|row| row.get::<Vec<u8>, _>(3).unwrap());
        data.filter(|data| data.starts_with(&ours)).count()
    }

    async fn end_by_hand(&self, xid: &Xid, decision: Decision) {
        let verb = match decision {
            Decision::Commit => "COMMIT",
            Decision::Rollback => "ROLLBACK",
        };
        let sql = format!("XA {verb} {}", literal(xid));
        self.until_ok(&sql).await;
    }

    async fn plant_foreign(&self, unique: &str) -> String {
        let xid = format!("'{unique}','theirs',7");
        let sql = format!("XA START {xid}; XA END {xid}; XA PREPARE {xid}");
        self.client().await.query_drop(sql).await.unwrap();
        xid
    }

    async fn remove_foreign(&self, unique: &str) {
        self.until_ok(&format!("XA ROLLBACK '{unique}','theirs',7"))
            .await;
    }

    fn proves_absence(&self) -> bool {
        false
    }

    fn unreachable(&self) -> Option<(Mysql, String)> {
        // Port 9 (discard) is not served on 127.0.0.1.
        let resource = Mysql::builder("ledger", "mysql://app:s3cr3t-word@127.0.0.1:9/app");
        Some((resource.build().unwrap(), "s3cr3t-word".to_owned()))
    }
}

async fn the_conformance_suite_passes(db: &Db) {
    let harness = MysqlHarness::new(db).await;
    let table = harness.table.clone();
    resource_suite::run(harness).await;
    db.sql(&format!("DROP TABLE {table}")).await;
}

on_both!(the_conformance_suite_passes);
