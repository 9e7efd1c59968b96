//! A database with a decision table, clients beside it, and what is expected of answers.

use std::sync::Arc;

use unanimous_core::ports::{
    Decided, DecisionRow, DecisionTable, EpochSlot, OpeningRow, RowAnswer, RowState, TableError,
    TableErrorKind, TableHome,
};
use unanimous_core::xid::{Gtrid, ManagerId};
use unanimous_postgres::Postgres;
use unanimous_postgres::tokio_postgres::{self, NoTls};

use crate::support::{Db, eventually, oracle, random};

pub(super) const PENDING: RowAnswer = RowAnswer::Stands(RowState::Pending);

/// A database of the test's own.
pub(super) struct TableDb {
    pub(super) db: Db,
    pub(super) table: Arc<dyn DecisionTable>,
    name: String,
}

impl TableDb {
    /// Empty: no table was made.
    pub(super) async fn empty(beside: &Db) -> Self {
        let name = format!("log_{:016x}", random());
        beside
            .admin(&format!("CREATE DATABASE {name} OWNER app"))
            .await;
        let db = beside.in_database(&name).await;
        let table = db.resource.decision_table();
        Self { db, table, name }
    }

    /// With its tables.
    pub(super) async fn new(beside: &Db) -> Self {
        let this = Self::empty(beside).await;
        this.table.init(this.db.opening.manager).await.unwrap();
        this
    }

    pub(super) async fn drop_from(self, beside: &Db) {
        let name = self.name;
        beside
            .admin(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await;
    }

    pub(super) async fn join(&self) -> OpeningRow {
        self.table.join(random(), "a test").await.unwrap()
    }

    /// State of a row, says the independent client.
    pub(super) async fn state(&self, gtrid: Gtrid) -> Option<String> {
        let select =
            format!("SELECT state FROM unanimous.unanimous_decision WHERE gtrid = '{gtrid}'");
        let rows = self.db.sql(&select).await;
        rows.into_iter().next().map(|mut row| row.remove(0))
    }

    /// A client in this database that holds a transaction open, to be driven step by step.
    pub(super) async fn client(&self) -> tokio_postgres::Client {
        client(&self.db.url).await
    }

    /// So many sessions in this database wait for a lock.
    pub(super) async fn waiters(&self, count: usize) {
        let waiting = "SELECT pid FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("they wait for a lock", async || {
            self.db.sql(waiting).await.len() == count
        })
        .await;
    }
}

pub(super) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(super) fn slot(opening: &OpeningRow) -> EpochSlot {
    EpochSlot {
        epoch: opening.opening.epoch,
        slot: 3,
    }
}

pub(super) fn row(opening: &OpeningRow, sequence: u64) -> DecisionRow {
    DecisionRow {
        gtrid: opening.opening.gtrid(sequence),
        branches: "orders\tpg:1:1:1\tit's\nledger".to_owned(),
    }
}

pub(super) async fn decide(
    table: &Arc<dyn DecisionTable>,
    opening: &OpeningRow,
    sequences: &[u64],
) -> Result<Decided, TableError> {
    let rows: Vec<_> = sequences
        .iter()
        .map(|sequence| row(opening, *sequence))
        .collect();
    table.decide(slot(opening), None, &rows).await
}

/// The kind is expected, and the message names the place and holds these words, and no password.
pub(super) fn assert_error(error: &TableError, kind: TableErrorKind, words: &str) {
    let text = crate::support::whole(error);
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(words), "{text}");
    assert!(text.contains("schema unanimous"), "no place: {text}");
    assert!(!text.contains("secret"), "{text}");
}

pub(super) fn resource(url: &str) -> Postgres {
    Postgres::builder("orders", url).build().unwrap()
}

pub(super) fn manager(of: u8) -> ManagerId {
    ManagerId::from_bytes([of; 10])
}

pub(super) async fn ask(url: &str, sql: &str) -> Vec<Vec<String>> {
    oracle(url, sql).await.unwrap()
}
