//! What the tests share: a database of the shared set, branches in it, and the independent client.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use postgres::SimpleQueryMessage;
use unanimous_core::ports::{
    Branch, BranchEnv, BranchError, BranchErrorKind, BranchRecord, Cause, Evidence, Finding,
    PrepareReply, Resource, ResourceManager, XidOwner,
};
use unanimous_core::xid::{Epoch, ManagerId, Opening, Xid};
use unanimous_postgres::{PgBranch, Postgres, PostgresBuilder};
use xtask::servers::{Address, Kind, Server, shared};

/// Makes two tests of each function: one per version of PostgreSQL, with a database of the shared
/// set.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod pg15 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let db = crate::support::Db::shared(xtask::servers::Kind::Postgres15).await;
                super::$name(&db).await;
                db.clean().await;
            })+
        }
        mod newest {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let db = crate::support::Db::shared(xtask::servers::Kind::PostgresNewest).await;
                super::$name(&db).await;
                db.clean().await;
            })+
        }
    };
}

/// Makes two tests of each function: one per version of PostgreSQL, for tests that start their own
/// server.
macro_rules! on_own {
    ($($name:ident),+ $(,)?) => {
        mod pg15 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(xtask::servers::Kind::Postgres15).await;
            })+
        }
        mod newest {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(xtask::servers::Kind::PostgresNewest).await;
            })+
        }
    };
}

/// The same on one thread: while a test blocks it (to restart a server), nothing of the adapter
/// notices.
macro_rules! on_own_single_threaded {
    ($($name:ident),+ $(,)?) => {
        mod pg15 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(xtask::servers::Kind::Postgres15).await;
            })+
        }
        mod newest {
            $(#[tokio::test]
            async fn $name() {
                super::$name(xtask::servers::Kind::PostgresNewest).await;
            })+
        }
    };
}

/// A database with a table of the test's own, and a resource there.
pub(crate) struct Db {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    pub(crate) admin_url: String,
    /// A table `(id integer primary key, v text)`.
    pub(crate) table: String,
    pub(crate) resource: Postgres,
    pub(crate) opening: Opening,
}

impl Db {
    /// A database of the shared set.
    pub(crate) async fn shared(kind: Kind) -> Self {
        let set = shared();
        let Address { url, admin_url } = match kind {
            Kind::Postgres15 => set.pg15,
            Kind::PostgresNewest => set.pg_newest,
            Kind::Mysql | Kind::Mariadb => unreachable!("only PostgreSQL here"),
        };
        Self::new(kind, url, admin_url).await
    }

    /// A database of a server of the test's own.
    pub(crate) async fn on(server: &Server) -> Self {
        Self::new(server.kind(), server.url(), server.admin_url()).await
    }

    /// Another database of the same server.
    pub(crate) async fn in_database(&self, database: &str) -> Self {
        let admin = self.admin_url.strip_suffix("app").unwrap();
        Self::new(
            self.kind,
            self.url_of(database),
            format!("{admin}{database}"),
        )
        .await
    }

    async fn new(kind: Kind, url: String, admin_url: String) -> Self {
        let table = format!("t_{:016x}", random());
        let mut manager = [0; 10];
        manager[..8].copy_from_slice(&random().to_be_bytes());
        let opening = Opening {
            manager: ManagerId::from_bytes(manager),
            epoch: Epoch(1),
            nonce: random(),
        };
        let db = Self {
            resource: Postgres::builder("orders", &url).build().unwrap(),
            kind,
            url,
            admin_url,
            table,
            opening,
        };
        db.make_table().await;
        db
    }

    /// Without waiting for replication: some tests have a standby that is not there.
    pub(crate) async fn make_table(&self) {
        let table = &self.table;
        self.sql(&format!(
            "SET synchronous_commit = local; CREATE TABLE {table} (id integer PRIMARY KEY, v text)"
        ))
        .await;
    }

    /// Another resource in the same database.
    pub(crate) fn build(&self, with: impl FnOnce(PostgresBuilder) -> PostgresBuilder) -> Postgres {
        with(Postgres::builder("orders", &self.url))
            .build()
            .unwrap()
    }

    /// The address of another database of the same server, for the same user.
    pub(crate) fn url_of(&self, database: &str) -> String {
        let server = self.url.strip_suffix("app").unwrap();
        format!("{server}{database}")
    }

    /// Rolls back what the test left prepared and drops its table.
    pub(crate) async fn clean(&self) {
        let pattern = format!("unanimous:{}-%", self.opening.manager);
        let left = self
            .admin(&format!(
                "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE '{pattern}' \
                 AND database = current_database()"
            ))
            .await;
        for row in left {
            self.admin(&format!("ROLLBACK PREPARED '{}'", row[0])).await;
        }
        self.sql(&format!("DROP TABLE IF EXISTS {}", self.table))
            .await;
    }

    /// Rolls one branch back by hand.
    pub(crate) async fn clean_prepared(&self, sequence: u64) {
        let gid = self.gid(sequence);
        self.sql(&format!("ROLLBACK PREPARED '{gid}'")).await;
    }

    pub(crate) fn xid(&self, sequence: u64) -> Xid {
        Xid {
            gtrid: self.opening.gtrid(sequence),
            bqual: "orders".parse().unwrap(),
        }
    }

    pub(crate) fn env(&self, sequence: u64) -> BranchEnv {
        BranchEnv {
            xid: self.xid(sequence),
            read_only: false,
            lock_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
        }
    }

    pub(crate) fn reader(&self, sequence: u64) -> BranchEnv {
        BranchEnv {
            read_only: true,
            ..self.env(sequence)
        }
    }

    /// An open branch.
    pub(crate) async fn open(&self, sequence: u64) -> PgBranch {
        self.resource.open(self.env(sequence)).await.unwrap()
    }

    /// An open branch that has inserted the row `(sequence, 'v')`.
    pub(crate) async fn open_with_row(&self, sequence: u64) -> PgBranch {
        let branch = self.open(sequence).await;
        self.insert(&branch, sequence).await;
        branch
    }

    pub(crate) async fn insert(&self, branch: &PgBranch, id: u64) {
        let id = i32::try_from(id).unwrap();
        let insert = format!("INSERT INTO {} VALUES ($1, 'v')", self.table);
        branch.execute(&insert, &[&id]).await.unwrap();
    }

    /// The same without a prepared statement, which a pooler in between would confuse.
    pub(crate) async fn insert_by_text(&self, branch: &PgBranch, id: u64) {
        let insert = format!("INSERT INTO {} VALUES ({id}, 'v')", self.table);
        branch.batch_execute(&insert).await.unwrap();
    }

    /// A prepared branch with its row, and what a decision would store of it.
    pub(crate) async fn prepared(&self, sequence: u64) -> (PgBranch, BranchRecord) {
        let mut branch = self.open_with_row(sequence).await;
        let evidence = expect_prepared(branch.prepare().await);
        let record = record(&branch, evidence);
        (branch, record)
    }

    /// Is the branch prepared, says the independent client.
    pub(crate) async fn is_prepared(&self, sequence: u64) -> bool {
        let gid = self.gid(sequence);
        let rows = self
            .sql(&format!(
                "SELECT 1 FROM pg_prepared_xacts WHERE gid = '{gid}'"
            ))
            .await;
        !rows.is_empty()
    }

    pub(crate) fn gid(&self, sequence: u64) -> String {
        format!("unanimous:{}", self.xid(sequence))
    }

    /// Does the row exist, says the independent client.
    pub(crate) async fn has_row(&self, id: u64) -> bool {
        let rows = self
            .sql(&format!("SELECT 1 FROM {} WHERE id = {id}", self.table))
            .await;
        !rows.is_empty()
    }

    /// This resource leads to the same server by another way, and a branch commits through it.
    pub(crate) async fn assert_works_through(&self, resource: &Postgres) {
        let identity = resource.preflight().await.unwrap().identity.unwrap();
        let direct = self.resource.preflight().await.unwrap().identity.unwrap();
        assert_eq!(identity, direct);
        let mut branch = resource.open(self.env(1)).await.unwrap();
        self.insert(&branch, 1).await;
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
        Box::new(branch).release().await;
        assert!(self.has_row(1).await);
    }

    /// Neither prepared nor committed.
    pub(crate) async fn assert_nothing_of(&self, sequence: u64) {
        assert!(!self.is_prepared(sequence).await, "something is prepared");
        assert!(!self.has_row(sequence).await, "the row is committed");
    }

    /// The independent client, as the application's user.
    pub(crate) async fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        oracle(&self.url, sql).await.unwrap()
    }

    /// The independent client, as the administrator.
    pub(crate) async fn admin(&self, sql: &str) -> Vec<Vec<String>> {
        oracle(&self.admin_url, sql).await.unwrap()
    }

    /// Does a scan list the branch exactly once?
    pub(crate) async fn is_listed(&self, sequence: u64) -> bool {
        let owner = XidOwner::Unanimous(self.xid(sequence));
        let scan = self.resource.recover().await.unwrap();
        scan.branches.iter().filter(|b| b.owner == owner).count() == 1
    }

    /// Has recovery asked for the standbys on its own, because somebody stands in between?
    pub(crate) async fn was_confirmed(&self) -> bool {
        let asked = "SELECT 1 FROM pg_stat_activity \
            WHERE usename = 'app' AND query LIKE '%pg_logical_emit_message%'";
        !self.admin(asked).await.is_empty()
    }

    /// The server process of a branch.
    pub(crate) async fn wait_gone(&self, pid: i32) {
        let question = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid}");
        eventually("the session goes", async || {
            self.sql(&question).await.is_empty()
        })
        .await;
    }
}

/// What a preflight found on this subject.
pub(crate) async fn findings(resource: &Postgres, subject: &str) -> Vec<Finding> {
    let preflight = resource.preflight().await.unwrap();
    let all = preflight.findings.into_iter();
    all.filter(|finding| finding.subject == subject).collect()
}

/// The only finding on this subject.
pub(crate) async fn finding(resource: &Postgres, subject: &str) -> Finding {
    let mut found = findings(resource, subject).await;
    assert_eq!(found.len(), 1, "{subject}: {found:?}");
    found.remove(0)
}

/// One string of statements from a client that has nothing to do with the adapter.
pub(crate) async fn oracle(url: &str, sql: &str) -> Result<Vec<Vec<String>>, postgres::Error> {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    let ask = move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls)?;
        let messages = client.simple_query(&sql)?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|i| row.get(i).unwrap_or("NULL").to_owned())
                    .collect(),
            ),
            _ => None,
        });
        Ok(rows.collect())
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

pub(crate) async fn backend_pid(branch: &PgBranch) -> i32 {
    let row = branch.query_one("SELECT pg_backend_pid()", &[]).await;
    row.unwrap().get(0)
}

/// What a decision would hold of a branch that is still active: its number is in progress.
pub(crate) async fn evidence_of_an_active(branch: &PgBranch) -> BranchRecord {
    let facts = "SELECT 'xid8=' || pg_current_xact_id()::text || ' pid=' || pid || ' since=' || \
        (extract(epoch FROM backend_start) * 1000000)::bigint || ' server=' || \
        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint \
        FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let text: String = branch.query_one(facts, &[]).await.unwrap().get(0);
    record(branch, Evidence::new(text).unwrap())
}

pub(crate) fn record(branch: &PgBranch, evidence: Evidence) -> BranchRecord {
    BranchRecord {
        resource: branch.xid().bqual.clone(),
        identity: branch.identity().clone(),
        evidence,
    }
}

pub(crate) fn expect_prepared(reply: PrepareReply) -> Evidence {
    match reply {
        PrepareReply::Prepared(evidence) => evidence,
        PrepareReply::ReadOnly => panic!("a writer voted read-only"),
        PrepareReply::RolledBack(error) | PrepareReply::Undetermined(error) => {
            panic!("not prepared: {error}")
        }
    }
}

pub(crate) fn expect_rolled_back(reply: PrepareReply) -> BranchError {
    match reply {
        PrepareReply::RolledBack(error) => error,
        other => panic!("not rolled back: {other:?}"),
    }
}

pub(crate) fn expect_cause(reply: PrepareReply, cause: Cause) -> BranchError {
    let error = expect_rolled_back(reply);
    assert_eq!(error.kind(), BranchErrorKind::RolledBack(cause), "{error}");
    error
}

pub(crate) fn expect_undetermined(reply: PrepareReply) -> BranchError {
    match reply {
        PrepareReply::Undetermined(error) => {
            assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
            error
        }
        other => panic!("not undetermined: {other:?}"),
    }
}

/// Tries until it is so. The bound is far beyond what any of it takes: it only ends a hang.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..1200 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}, but it did not come to that");
}

pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// An error with all its sources, as a log would show it.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" | {cause} {cause:?}"));
        source = cause.source();
    }
    text
}
