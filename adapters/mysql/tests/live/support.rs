//! What the tests share: a database of the shared set, branches in it, and the independent client.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use unanimous_core::ports::{
    Branch, BranchEnv, BranchError, BranchErrorKind, BranchRecord, Cause, Evidence, PrepareReply,
    Resource, ResourceManager, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{Epoch, FORMAT_ID, ManagerId, Opening, Xid};
use unanimous_mysql::mysql_async::prelude::{FromRow, Queryable};
use unanimous_mysql::mysql_async::{Conn, Error, Opts, OptsBuilder};
use unanimous_mysql::{Mysql, MysqlBranch, MysqlBuilder};
use xtask::servers::{Address, Kind, Options, Server, shared};

/// Makes two tests of each function: one per server, with a database of the shared set.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let db = crate::support::Db::shared(xtask::servers::Kind::Mysql).await;
                super::$name(&db).await;
                db.clean().await;
            })+
        }
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let db = crate::support::Db::shared(xtask::servers::Kind::Mariadb).await;
                super::$name(&db).await;
                db.clean().await;
            })+
        }
    };
}

/// Makes two tests of each function: one per server, for tests that start their own.
macro_rules! on_own {
    ($($name:ident),+ $(,)?) => {
        mod own_mysql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(xtask::servers::Kind::Mysql).await;
            })+
        }
        mod own_mariadb {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(xtask::servers::Kind::Mariadb).await;
            })+
        }
    };
}

/// A server of the test's own.
pub(crate) fn start(kind: Kind, args: &[&str]) -> Server {
    let options = Options::new().args(args.iter().copied());
    tokio::task::block_in_place(|| Server::start(kind, &options)).unwrap()
}

/// A database with a table of the test's own, and a resource there.
#[derive(Clone)]
pub(crate) struct Db {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    pub(crate) admin_url: String,
    /// A table `(id INT PRIMARY KEY, v VARCHAR(40))`.
    pub(crate) table: String,
    pub(crate) resource: Mysql,
    pub(crate) opening: Opening,
}

impl Db {
    /// A database of the shared set.
    pub(crate) async fn shared(kind: Kind) -> Self {
        let set = shared();
        let Address { url, admin_url } = match kind {
            Kind::Mysql => set.mysql,
            Kind::Mariadb => set.mariadb,
            Kind::Postgres15 | Kind::PostgresNewest => unreachable!("only MySQL and MariaDB here"),
        };
        Self::new(kind, url, admin_url).await
    }

    /// A database of a server of the test's own.
    pub(crate) async fn on(server: &Server) -> Self {
        Self::new(server.kind(), server.url(), server.admin_url()).await
    }

    /// The same server with an empty database of the test's own, which the account may use.
    pub(crate) async fn in_own_database(&self) -> Self {
        let name = format!("own_{:016x}", random());
        let sql = format!("CREATE DATABASE {name}; GRANT ALL ON {name}.* TO 'app'@'%'");
        self.admin().await.query_drop(sql).await.unwrap();
        let within = |url: &str| format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        Self::new(self.kind, within(&self.url), within(&self.admin_url)).await
    }

    /// Drops the database of the test's own.
    pub(crate) async fn drop_database(&self) {
        let name = self.url.rsplit_once('/').unwrap().1;
        let sql = format!("DROP DATABASE {name}");
        self.admin().await.query_drop(sql).await.unwrap();
    }

    async fn new(kind: Kind, url: String, admin_url: String) -> Self {
        let mut manager = [0; 10];
        manager[..8].copy_from_slice(&random().to_be_bytes());
        let manager = ManagerId::from_bytes(manager);
        let db = Self {
            resource: Mysql::builder("ledger", &url).build().unwrap(),
            kind,
            url,
            admin_url,
            table: format!("t_{:016x}", random()),
            opening: Opening {
                manager,
                epoch: Epoch(1),
                nonce: random(),
            },
        };
        let table = &db.table;
        db.sql(&format!(
            "CREATE TABLE {table} (id INT PRIMARY KEY, v VARCHAR(40)) ENGINE=InnoDB"
        ))
        .await;
        db.resource.preflight().await.unwrap();
        db
    }

    /// The administrator's address up to the `@`.
    pub(crate) fn admin_login(&self) -> &str {
        self.admin_url.split_once('@').unwrap().0
    }

    /// Puts the usual resource in the place of a test's own.
    pub(crate) fn reset(&mut self) {
        self.resource = Mysql::builder("ledger", &self.url).build().unwrap();
    }

    pub(crate) fn is_mariadb(&self) -> bool {
        self.kind == Kind::Mariadb
    }

    /// Another resource in the same database, with another pool.
    pub(crate) fn build(&self, with: impl FnOnce(MysqlBuilder) -> MysqlBuilder) -> Mysql {
        with(Mysql::builder("ledger", &self.url)).build().unwrap()
    }

    /// Rolls back what the test left prepared and drops its table.
    pub(crate) async fn clean(&self) {
        self.clean_branches().await;
        self.sql(&format!("DROP TABLE IF EXISTS {}", self.table))
            .await;
    }

    pub(crate) async fn clean_branches(&self) {
        for xid in self.listed().await {
            self.finish(&xid, Decision::Rollback).await;
        }
    }

    pub(crate) fn xid(&self, sequence: u64) -> Xid {
        Xid {
            gtrid: self.opening.gtrid(sequence),
            bqual: "ledger".parse().unwrap(),
        }
    }

    /// The XID as a person would write it.
    pub(crate) fn literal(&self, sequence: u64) -> String {
        literal(&self.xid(sequence))
    }

    pub(crate) fn env(&self, sequence: u64) -> BranchEnv {
        BranchEnv {
            xid: self.xid(sequence),
            read_only: false,
            lock_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(60),
        }
    }

    pub(crate) async fn open(&self, sequence: u64) -> MysqlBranch {
        self.resource.open(self.env(sequence)).await.unwrap()
    }

    /// Opens a branch and inserts the row `(sequence, 'v')`.
    pub(crate) async fn active(&self, sequence: u64) -> MysqlBranch {
        let mut branch = self.open(sequence).await;
        self.insert(&mut branch, sequence).await.unwrap();
        branch
    }

    /// Opens a branch, inserts the row `(sequence, 'v')` and prepares.
    pub(crate) async fn prepared(&self, sequence: u64) -> (MysqlBranch, BranchRecord) {
        let mut branch = self.active(sequence).await;
        let evidence = expect_prepared(branch.prepare().await);
        let record = record(&branch, evidence);
        (branch, record)
    }

    pub(crate) async fn insert(&self, branch: &mut MysqlBranch, id: u64) -> Result<(), Error> {
        branch
            .exec_drop(format!("INSERT INTO {} VALUES (?, 'v')", self.table), (id,))
            .await
    }

    /// Is the row there, for an independent client?
    pub(crate) async fn has(&self, id: u64) -> bool {
        let sql = format!("SELECT COUNT(*) FROM {} WHERE id = {id}", self.table);
        self.one::<u64>(&sql).await == 1
    }

    /// The prepared branches of this test, by the resource's own scan.
    pub(crate) async fn listed(&self) -> Vec<Xid> {
        let scan = self.resource.recover().await.unwrap();
        let owners = scan.branches.into_iter().map(|branch| branch.owner);
        owners
            .filter_map(|owner| match owner {
                XidOwner::Unanimous(xid) => Some(xid),
                XidOwner::Foreign(_) => None,
            })
            .filter(|xid| xid.gtrid.opening == self.opening)
            .collect()
    }

    pub(crate) async fn is_listed(&self, sequence: u64) -> bool {
        self.listed().await.contains(&self.xid(sequence))
    }

    /// Finishes a branch whose connection is closed, or about to be noticed as closed.
    pub(crate) async fn finish(&self, xid: &Xid, decision: Decision) {
        eventually("a listed branch can be finished", async || {
            let _ = self.resource.finish(xid, decision, None).await;
            !self.listed().await.contains(xid)
        })
        .await;
    }

    /// A connection that has nothing to do with the resource.
    pub(crate) async fn plain(&self) -> Conn {
        connect(&self.url).await
    }

    pub(crate) async fn admin(&self) -> Conn {
        connect(&self.admin_url).await
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.plain().await.query_drop(sql).await.unwrap();
    }

    pub(crate) async fn one<T: FromRow + Send + 'static>(&self, sql: &str) -> T {
        self.plain().await.query_first(sql).await.unwrap().unwrap()
    }

    /// The numbers of the account's connections.
    pub(crate) async fn connections(&self) -> Vec<u64> {
        self.admin()
            .await
            .query("SELECT id FROM information_schema.processlist")
            .await
            .unwrap()
    }
}

pub(crate) async fn connect(url: &str) -> Conn {
    let opts = OptsBuilder::from_opts(Opts::from_url(url).unwrap()).prefer_socket(false);
    Conn::new(opts).await.unwrap()
}

/// The XID as quoted text: its parts hold nothing that needs more.
pub(crate) fn literal(xid: &Xid) -> String {
    format!("'{}','{}',{FORMAT_ID}", xid.gtrid, xid.bqual)
}

pub(crate) async fn connection_id(branch: &mut MysqlBranch) -> u64 {
    branch
        .query_first("SELECT CONNECTION_ID()")
        .await
        .unwrap()
        .unwrap()
}

/// What a decision would store of a branch.
pub(crate) fn record(branch: &MysqlBranch, evidence: Evidence) -> BranchRecord {
    BranchRecord {
        resource: branch.xid().bqual.clone(),
        identity: branch.identity().clone(),
        evidence,
    }
}

pub(crate) fn expect_prepared(reply: PrepareReply) -> Evidence {
    match reply {
        PrepareReply::Prepared(evidence) => evidence,
        other => panic!("not prepared: {other:?}"),
    }
}

pub(crate) fn expect_rolled_back(reply: PrepareReply) -> (Cause, BranchError) {
    match reply {
        PrepareReply::RolledBack(error) => match error.kind() {
            BranchErrorKind::RolledBack(cause) => (cause, error),
            other => panic!("a rollback vote of kind {other:?}: {error}"),
        },
        other => panic!("not rolled back: {other:?}"),
    }
}

/// The server's code of a driver's error.
pub(crate) fn code(error: &Error) -> u16 {
    match error {
        Error::Server(server) => server.code,
        other => panic!("not a server's error: {other}"),
    }
}

/// The server's code at the end of an error's sources.
pub(crate) fn source_code(error: &BranchError) -> Option<u16> {
    let source = std::error::Error::source(error)?;
    match source.downcast_ref::<Error>()? {
        Error::Server(server) => Some(server.code),
        _ => None,
    }
}

/// Tries until it is so. Half a minute is far beyond what any of it takes: it only ends a hang.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}, but it did not come to that");
}

pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
