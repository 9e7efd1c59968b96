//! Tables in a database of the test's own, with a member.

use std::sync::Arc;

use unanimous_core::ports::{
    Branch, BranchEnv, Decided, DecisionRow, DecisionTable, EpochSlot, OpeningRow, Resource,
    RowAnswer, RowState, TableError, TableErrorKind, TableHome,
};
use unanimous_core::xid::{Gtrid, Xid};
use unanimous_mysql::mysql_async::Conn;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_mysql::{Mysql, MysqlBranch};

use crate::support::{Db, eventually, random};

pub(super) const PENDING: RowAnswer = RowAnswer::Stands(RowState::Pending);

pub(super) struct TableDb {
    pub(super) db: Db,
    pub(super) table: Arc<dyn DecisionTable>,
    pub(super) own: OpeningRow,
}

impl TableDb {
    pub(super) async fn new(db: &Db) -> Self {
        Self::of(db.in_own_database().await).await
    }

    /// In this very database.
    pub(super) async fn of(db: Db) -> Self {
        let table = db.resource.decision_table();
        table.init(db.opening.manager).await.unwrap();
        let own = table.join(random(), "the test").await.unwrap();
        Self { db, table, own }
    }

    pub(super) fn row(&self, sequence: u64) -> DecisionRow {
        DecisionRow {
            gtrid: self.own.opening.gtrid(sequence),
            branches: format!("orders\tpg 7\t{sequence}\n"),
        }
    }

    pub(super) fn slot(&self) -> EpochSlot {
        EpochSlot {
            epoch: self.own.opening.epoch,
            slot: 3,
        }
    }

    pub(super) async fn decide(&self, sequences: &[u64]) -> Result<Decided, TableError> {
        let rows: Vec<_> = sequences.iter().map(|n| self.row(*n)).collect();
        self.table.decide(self.slot(), None, &rows).await
    }

    /// As an independent client sees it.
    pub(super) async fn state(&self, gtrid: Gtrid) -> Option<String> {
        let sql = format!("SELECT state FROM unanimous_decision WHERE gtrid = '{gtrid}'");
        self.db.plain().await.query_first(sql).await.unwrap()
    }

    pub(super) async fn count(&self, table: &str) -> u64 {
        self.db.one(&format!("SELECT COUNT(*) FROM {table}")).await
    }

    /// A transaction that an independent client leaves open.
    pub(super) async fn held(&self, sql: &str) -> Conn {
        let mut conn = self.db.plain().await;
        let sql = format!("START TRANSACTION; {sql}");
        conn.query_drop(sql).await.unwrap();
        conn
    }

    /// Until so many sessions of this database are busy with a statement, for a while: they wait.
    pub(super) async fn waiters(&self, count: usize) {
        let name = self.db.url.rsplit_once('/').unwrap().1;
        let sql = format!(
            "SELECT id FROM information_schema.processlist \
             WHERE db = '{name}' AND command = 'Query' AND id <> CONNECTION_ID() ORDER BY id"
        );
        let mut admin = self.db.admin().await;
        let (mut seen, mut times) = (Vec::new(), 0);
        eventually("they wait", async || {
            let now: Vec<u64> = admin.query(&sql).await.unwrap();
            times = if now == seen { times + 1 } else { 0 };
            seen = now;
            seen.len() == count && times >= 5
        })
        .await;
    }

    /// What these statements lock is free; nothing stays of them.
    pub(super) async fn assert_free(&self, sql: &str) {
        let mut conn = self.db.plain().await;
        let sql = format!("SET innodb_lock_wait_timeout = 1; START TRANSACTION; {sql}; ROLLBACK");
        let free = conn.query_drop(&sql).await;
        assert!(free.is_ok(), "{sql}: {free:?}");
    }

    /// Nobody holds a lock of a row, neither of the tables nor of the application's.
    pub(super) async fn assert_all_free(&self) {
        let rows = &self.db.table;
        self.assert_free(&format!(
            "SELECT 1 FROM unanimous_epoch FOR UPDATE; SELECT 1 FROM unanimous_log FOR UPDATE; \
             SELECT 1 FROM unanimous_opening FOR UPDATE; SELECT 1 FROM {rows} FOR UPDATE; \
             SELECT 1 FROM unanimous_decision FOR UPDATE"
        ))
        .await
    }

    /// A branch of this transaction that has written the application's row of that number.
    pub(super) async fn branch(&self, resource: &Mysql, sequence: u64) -> MysqlBranch {
        let mut branch = self.idle_branch(resource, sequence).await;
        self.db.insert(&mut branch, sequence).await.unwrap();
        branch
    }

    pub(super) async fn idle_branch(&self, resource: &Mysql, sequence: u64) -> MysqlBranch {
        let xid = Xid {
            gtrid: self.own.opening.gtrid(sequence),
            bqual: "ledger".parse().unwrap(),
        };
        let env = self.db.env(sequence);
        resource.open(BranchEnv { xid, ..env }).await.unwrap()
    }

    pub(super) fn last(&self, sequence: u64) -> String {
        self.table.last_statement(self.slot(), &self.row(sequence))
    }

    pub(super) async fn drop_database(&self) {
        self.db.drop_database().await;
    }
}

/// Rolls a branch back that is not to be committed.
pub(super) async fn rolled_back(mut branch: MysqlBranch) {
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
}

#[track_caller]
pub(super) fn assert_error<T: std::fmt::Debug>(
    answer: Result<T, TableError>,
    kind: TableErrorKind,
    says: &[&str],
) {
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for words in says {
        assert!(error.to_string().contains(words), "{error}");
    }
}
