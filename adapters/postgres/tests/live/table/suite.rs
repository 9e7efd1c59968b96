//! The conformance suite of decision tables, on real servers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{Branch, BranchEnv, DecisionTable, Resource, SourceError, TableHome};
use unanimous_core::xid::{Gtrid, Xid};
use unanimous_postgres::{Isolation, Postgres, tokio_postgres};
use unanimous_testing::table_suite::{self, Held, Place};
use xtask::servers::{Kind, Options, Server};

use super::support::{TableDb, ask, client};
use crate::support::{Db, oracle};

/// A database without tables of a log, and perhaps a server that is there for it alone.
struct PgPlace {
    url: String,
    isolation: Isolation,
    server: Option<Mutex<Server>>,
}

impl PgPlace {
    /// Clears what another place has left in this database.
    async fn new(t: &TableDb, isolation: Isolation) -> Self {
        let url = t.db.url.clone();
        let clear = "DROP SCHEMA IF EXISTS unanimous CASCADE; DROP TABLE IF EXISTS kv; \
            CREATE TABLE kv (k text PRIMARY KEY)";
        ask(&url, clear).await;
        Self {
            url,
            isolation,
            server: None,
        }
    }

    /// On a server that loses what is not forced.
    async fn alone(kind: Kind) -> Self {
        let server = Server::start(kind, &lazily()).unwrap();
        let t = TableDb::empty(&Db::on(&server).await).await;
        let place = Self::new(&t, Isolation::ReadCommitted).await;
        Self {
            server: Some(Mutex::new(server)),
            ..place
        }
    }

    fn resource(&self) -> Postgres {
        let builder = Postgres::builder("orders", &self.url);
        builder.isolation(self.isolation).build().unwrap()
    }
}

/// Without this a server writes soon what nobody has forced.
pub(super) fn lazily() -> Options {
    Options::new().args(["-c", "synchronous_commit=off", "-c", "wal_writer_delay=10s"])
}

#[async_trait]
impl Place for PgPlace {
    fn table(&self) -> Arc<dyn DecisionTable> {
        self.resource().decision_table()
    }

    async fn run_ddl(&self, ddl: &str) {
        oracle(&self.url, ddl).await.unwrap();
    }

    async fn hold(&self, statement: &str) -> Result<Box<dyn Held>, SourceError> {
        let client = client(&self.url).await;
        client.batch_execute(&format!("BEGIN; {statement}")).await?;
        Ok(Box::new(Holder(client)))
    }

    async fn branch(&self, gtrid: Gtrid, key: &str) -> Box<dyn Branch> {
        let env = BranchEnv {
            xid: Xid {
                gtrid,
                bqual: "orders".parse().unwrap(),
            },
            read_only: false,
            lock_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
        };
        let branch = self.resource().open(env).await.unwrap();
        let insert = format!("INSERT INTO kv VALUES ('{key}')");
        branch.batch_execute(&insert).await.unwrap();
        Box::new(branch)
    }

    async fn is_committed(&self, key: &str) -> bool {
        let select = format!("SELECT 1 FROM kv WHERE k = '{key}'");
        !ask(&self.url, &select).await.is_empty()
    }

    async fn crash(&self) -> bool {
        let Some(server) = &self.server else {
            return false;
        };
        tokio::task::block_in_place(|| {
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            server.kill();
            server.restart().unwrap();
        });
        true
    }
}

struct Holder(tokio_postgres::Client);

#[async_trait]
impl Held for Holder {
    async fn commit(self: Box<Self>) {
        self.0.batch_execute("COMMIT").await.unwrap();
    }

    async fn rollback(self: Box<Self>) {
        self.0.batch_execute("ROLLBACK").await.unwrap();
    }
}

async fn the_conformance_suite_holds(db: &Db) {
    let t = TableDb::empty(db).await;
    table_suite::run(async || PgPlace::new(&t, Isolation::ReadCommitted).await).await;
    t.drop_from(db).await;
}

/// A snapshot from before takes nothing for open, or free, that is not.
async fn a_last_resource_keeps_the_contract_at_every_isolation_level(db: &Db) {
    use table_suite::last;
    let t = TableDb::empty(db).await;
    for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
        let place = async || PgPlace::new(&t, isolation).await;
        last::the_row_commits_with_the_branch(&place().await).await;
        last::a_closed_epoch_rolls_the_branch_back(&place().await).await;
        last::a_slot_that_is_not_there_rolls_the_branch_back(&place().await).await;
        last::a_standing_row_rolls_the_branch_back(&place().await).await;
    }
    t.drop_from(db).await;
}

on_both!(
    the_conformance_suite_holds,
    a_last_resource_keeps_the_contract_at_every_isolation_level,
);

async fn i2_what_is_forced_survives_a_crash(kind: Kind) {
    table_suite::durability::what_is_forced_survives_a_crash(&PgPlace::alone(kind).await).await;
}

async fn i2_what_was_read_survives_a_crash(kind: Kind) {
    table_suite::durability::what_was_read_survives_a_crash(&PgPlace::alone(kind).await).await;
}

mod own {
    use super::*;
    on_own!(
        i2_what_is_forced_survives_a_crash,
        i2_what_was_read_survives_a_crash,
    );
}
