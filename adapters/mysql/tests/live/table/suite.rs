//! The conformance suite of the decision table, over both servers, and with crashes of their own.

use std::sync::Mutex;

use async_trait::async_trait;
use unanimous_core::ports::{Branch, BranchEnv, DecisionTable, Resource, SourceError, TableHome};
use unanimous_core::xid::{Gtrid, Xid};
use unanimous_mysql::mysql_async::Conn;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_testing::table_suite::{self, Held, Place};
use xtask::servers::{Kind, Server};

use crate::support::{Db, start};

/// A database of the test's own, on the shared server or on one of its own.
struct MysqlPlace {
    db: Db,
    server: Option<Mutex<Server>>,
}

struct Open(Conn);

#[async_trait]
impl Held for Open {
    async fn commit(mut self: Box<Self>) {
        self.0.query_drop("COMMIT").await.unwrap();
    }

    async fn rollback(mut self: Box<Self>) {
        self.0.query_drop("ROLLBACK").await.unwrap();
    }
}

#[async_trait]
impl Place for MysqlPlace {
    fn table(&self) -> std::sync::Arc<dyn DecisionTable> {
        self.db.build(|builder| builder).decision_table()
    }

    async fn run_ddl(&self, ddl: &str) {
        self.db.sql(ddl).await;
    }

    async fn hold(&self, statement: &str) -> Result<Box<dyn Held>, SourceError> {
        let mut conn = self.db.plain().await;
        conn.query_drop(format!("START TRANSACTION; {statement}"))
            .await?;
        Ok(Box::new(Open(conn)))
    }

    async fn branch(&self, gtrid: Gtrid, key: &str) -> Box<dyn Branch> {
        let bqual = "ledger".parse().unwrap();
        let xid = Xid { gtrid, bqual };
        let env = BranchEnv {
            xid,
            ..self.db.env(1)
        };
        // A server that was restarted has closed what is pooled; opening notices.
        let mut branch = self.db.resource.open(env).await.unwrap();
        let sql = format!("INSERT INTO app_row VALUES ('{key}')");
        branch.query_drop(sql).await.unwrap();
        Box::new(branch)
    }

    async fn is_committed(&self, key: &str) -> bool {
        let sql = format!("SELECT COUNT(*) FROM app_row WHERE k = '{key}'");
        self.db.one::<u64>(&sql).await == 1
    }

    async fn crash(&self) -> bool {
        let Some(server) = &self.server else {
            return false;
        };
        tokio::task::block_in_place(|| {
            let mut server = server.lock().unwrap();
            server.kill();
            server.restart().unwrap();
        });
        true
    }
}

const APP_ROW: &str = "CREATE TABLE app_row (k VARCHAR(40) PRIMARY KEY) ENGINE=InnoDB";

async fn the_conformance_suite_passes(db: &Db) {
    let databases = Mutex::new(Vec::new());
    table_suite::run(async || {
        let own = db.in_own_database().await;
        own.sql(APP_ROW).await;
        databases.lock().unwrap().push(own.clone());
        MysqlPlace {
            db: own,
            server: None,
        }
    })
    .await;
    for own in databases.into_inner().unwrap() {
        own.drop_database().await;
    }
}

on_both!(the_conformance_suite_passes);

async fn on_a_server_that_crashes(kind: Kind) -> MysqlPlace {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    db.sql(APP_ROW).await;
    MysqlPlace {
        db,
        server: Some(Mutex::new(server)),
    }
}

async fn i2_what_is_forced_survives_a_crash(kind: Kind) {
    let place = on_a_server_that_crashes(kind).await;
    table_suite::durability::what_is_forced_survives_a_crash(&place).await;
}

async fn i2_what_was_read_survives_a_crash(kind: Kind) {
    let place = on_a_server_that_crashes(kind).await;
    table_suite::durability::what_was_read_survives_a_crash(&place).await;
}

on_own!(
    i2_what_is_forced_survives_a_crash,
    i2_what_was_read_survives_a_crash,
);
