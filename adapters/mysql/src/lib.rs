//! MySQL and MariaDB as parts of a global transaction, through `mysql_async`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use unanimous_mysql::Mysql;
//! use unanimous_mysql::mysql_async::IsolationLevel;
//!
//! let ledger = Mysql::builder("ledger", "mysql://app:secret@127.0.0.1:3306/app")
//!     .pool_size(32)
//!     .isolation(IsolationLevel::ReadCommitted)
//!     .session_setup("SET SESSION sql_mode = 'STRICT_ALL_TABLES'")
//!     .build()?;
//! # Ok::<(), unanimous_mysql::BuildError>(())
//! ```
//!
//! Hand the resource to the transaction manager and enlist it; inside the transaction it is a
//! [`MysqlBranch`], in which one works as in any connection of `mysql_async`:
//!
//! ```no_run
//! use unanimous_mysql::MysqlBranch;
//! use unanimous_mysql::mysql_async::{self, prelude::Queryable};
//!
//! async fn book(ledger: &mut MysqlBranch, id: u64, amount: i64) -> mysql_async::Result<()> {
//!     ledger.exec_drop("INSERT INTO entry (id, amount) VALUES (?, ?)", (id, amount)).await
//! }
//! ```
//!
//! # Servers
//! MySQL 8.0.30 or newer, MariaDB 10.6 or newer; which of the two is found out at login. Run
//! against MySQL 9.7 and MariaDB 10.11.
//!
//! The preflight finds, all at once, each with what was seen and the SQL or setting to paste
//! (tests: `preflight`, `credentials`; unit tests: `settings`, `version`):
//!
//! | subject | severity | found |
//! |---|---|---|
//! | `version` | error | older than 8.0.30 or 10.6; as a note: not run by us |
//! | `MDEV-37141` | warning | MariaDB goes on in a new transaction after a deadlock |
//! | `proxy` | error | a proxy numbers connections itself: a lost one could not be ended |
//! | `Uptime`, `server_uuid` | error | two servers, or two runs of one, cannot be told apart |
//! | `unanimous_identity` | error | MariaDB's identity row is missing or unreadable |
//! | `wsrep_on` | error | Galera has no XA |
//! | `read_only` | error | also `super_read_only`: a standby, whose list proves nothing |
//! | `innodb_read_only`, `innodb_force_recovery`, `transaction_read_only` | error | cannot write |
//! | `xa_detach_on_prepare` | error | off: a commit by recovery could be lost |
//! | `innodb_flush_log_at_trx_commit` | error | not 1: acknowledged branches can vanish |
//! | `sync_binlog` | error | not 1 beside `log_bin`: the same in a crash of the machine |
//! | `XA_RECOVER_ADMIN` | error | MySQL: recovery may not list branches |
//! | `PROCESS`, `CONNECTION_ADMIN` | error | recovery may not see, or end, lost connections |
//! | `INNODB_TRX` | warning | MariaDB: recovery may not see what a closed connection has left |
//! | `recovery_address` | error | it leads to another server |
//! | `binlog_format`, `binlog_error_action` | warning | replicas can come to differ |
//! | `innodb_doublewrite` | warning | off |
//! | `default_storage_engine` | warning | not InnoDB |
//! | `wait_timeout` | warning | under a minute |
//! | `max_connections`, `max_user_connections` | warning | fewer than the pools may open |
//! | `innodb_rollback_on_timeout`, `innodb_deadlock_detect` | note | not as usual |
//! | `autocommit`, `max_statement_time` | note | not as usual |
//! | `init_connect` | note | run at login only, not after a session was wiped |
//! | `innodb_flush_method` | error | `nosync` |
//! | `idle_transaction_timeout` | warning | MariaDB ends idle branches, within a minute |
//!
//! A checkup, for a person who asks, looks at more: connections that are left, what was prepared
//! long ago, tables of other engines, replicas and groups, and known bugs of the server's release.
//! `docs/findings.md` in the repository lists everything.
//!
//! # Encryption
//! TLS 1.2 and 1.3 by rustls. By the address, with the names of MySQL's own URIs, or by
//! [`MysqlBuilder::tls`]:
//!
//! | parameter | |
//! |---|---|
//! | `ssl-mode` | `DISABLED`, `PREFERRED` (default), `REQUIRED`, `VERIFY_CA`, `VERIFY_IDENTITY` |
//! | `ssl-ca` | PEM file of the authorities to trust; without `ssl-mode` it means `VERIFY_CA` |
//! | `ssl-cert`, `ssl-key` | PEM files of a client certificate with its chain, and of its key |
//! | `built_in_roots=true` | trust the public authorities, too |
//!
//! The modes mean what they mean to MySQL's own clients (`--ssl-mode`; manual,
//! "Command Options for Connecting to the Server"; test
//! `each_mode_means_what_it_means_to_mysqls_own_clients`). Values are percent-decoded. The driver's
//! own `require_ssl`, `verify_ca` and `verify_identity` mean what they always did. Whatever
//! contradicts itself is refused by [`MysqlBuilder::build`], which reads the files, too.
//!
//! * `PREFERRED` is never more than what the server offers: whoever can change what passes can take
//!   the encryption away. A login is never repeated without encryption; that a server has none is
//!   heard before anything is sent. It is asked again after a connection has failed.
//! * A certificate needs a subjectAltName for both `VERIFY` modes; what MySQL makes for itself at
//!   its first start has none, and serves for `REQUIRED` only.
//! * `VERIFY_CA` takes any name. The driver (0.37.1 with rustls 0.23) cannot be told so; the first
//!   connection may end before its login and be made again with a name that the certificate has.
//! * Connections through a socket are not encrypted.
//! * With [`Mysql::builder_with_opts`] and [`Mysql::builder_from`] the driver's options say how to
//!   encrypt, and plain is their default.
//! * rustls takes its cryptography from the process. If the application has installed none before
//!   the first encrypted connection, ring is installed then.
//! * MySQL does not show the connection attributes (`program_name`, `unanimous_resource`) of
//!   encrypted connections, because the driver announces them too late. MariaDB does not show
//!   them at all unless `performance_schema` is on.
//! * `caching_sha2_password` works without encryption, too: the password is encrypted with a key
//!   that the server sends, which keeps out listeners, but not who can change what passes.
//!
//! # Accounts
//! By default one account does everything. With [`MysqlBuilder::recovery_address`] there are two;
//! the preflight ends a connection of its own to see whether recovery may. The grants, no more
//! (test `recovery_works_with_the_least_privileges`):
//!
//! ```sql
//! -- MySQL: the application's account needs what its statements need, and
//! GRANT XA_RECOVER_ADMIN ON *.* TO 'app'@'%';            -- only without a recovery address
//! -- MySQL: recovery's account; the last lets it enter the database, any privilege there will do
//! GRANT XA_RECOVER_ADMIN, CONNECTION_ADMIN ON *.* TO 'recovery'@'%';
//! GRANT PROCESS ON *.* TO 'recovery'@'%';
//! GRANT REFERENCES ON app.* TO 'recovery'@'%';
//!
//! -- MariaDB: once, by an administrator, or by preflight if an account may create tables
//! CREATE TABLE app.unanimous_identity …;                 -- the preflight says the whole of it
//! -- MariaDB: both accounts
//! GRANT SELECT ON app.unanimous_identity TO 'app'@'%';
//! GRANT SELECT ON app.unanimous_identity TO 'recovery'@'%';
//! -- MariaDB: recovery's account
//! GRANT PROCESS, CONNECTION ADMIN ON *.* TO 'recovery'@'%';
//! ```
//!
//! To see which locks a prepared branch holds and whom it blocks, recovery's account also needs, on
//! MySQL, `GRANT SELECT ON performance_schema.* TO 'recovery'@'%'`. Without it the tool says so.
//!
//! Passwords that change: [`MysqlBuilder::password_source`],
//! [`MysqlBuilder::recovery_password_source`], or [`Mysql::builder_from`] for everything else. They
//! are asked before each new connection; those that are logged in go on (test
//! `a_password_that_changes_is_asked_for`).
//!
//! ```no_run
//! use unanimous_mysql::Mysql;
//!
//! let ledger = Mysql::builder("ledger", "mysql://app@db.internal:3306/app?ssl-ca=/etc/ca.pem")
//!     .password_source(|| async {
//!         Ok(std::fs::read_to_string("/run/secrets/app")?.trim().to_owned())
//!     })
//!     .recovery_address("mysql://recovery@db.internal:3306")
//!     .recovery_password_source(|| async {
//!         Ok(std::fs::read_to_string("/run/secrets/recovery")?.trim().to_owned())
//!     })
//!     .build()?;
//! # Ok::<(), unanimous_mysql::BuildError>(())
//! ```
//!
//! # Decisions in this database
//! A resource is a [`TableHome`](unanimous_core::ports::TableHome): the decision log of many
//! instances can live in its database, and a branch on its server can then commit as last resource,
//! without a prepare. The tables, the privileges, the settings and what a failover can lose are on
//! the page `docs/table-log-mysql.md` (tests: `table`).
//!
//! # What to know
//! * One branch per server and transaction: two branches of one transaction on one server wait for
//!   each other's locks. [`Branch::scope`](unanimous_core::ports::Branch::scope) names the server.
//! * Only InnoDB is transactional. What is written to a MyISAM table stays, whatever is decided.
//! * After a server crash a prepared branch has the locks of the rows that it has changed, but no
//!   longer those that it has only locked (`SELECT … FOR UPDATE`). Change a row to guard it.
//! * On MariaDB a branch that was prepared without changes ends by itself when its connection
//!   closes. Committing it then is answered with 1402; it is reported as committed, because nothing
//!   was there to be committed.
//! * `COMMIT`, `ROLLBACK`, `BEGIN`, DDL, `TRUNCATE` and `LOCK TABLES` are refused inside a branch
//!   by both servers (1399), and nothing has happened; XA by hand, which they let through, makes
//!   the branch vote to roll back (tests: `input`).
//! * A person who rolls a prepared branch back by hand cannot be told from its commit afterwards.
//! * An `XA COMMIT` that a server answers with an error may leave the branch prepared, not listed
//!   and locked until the server restarts. It is in doubt until then, or until the server lists it
//!   again, as long as the resource that has heard the error lives.

mod address;
mod branch;
mod bugs;
mod checkup;
mod codes;
mod config;
mod failed;
mod fence;
mod finish;
mod handover;
mod identity;
mod inspect;
mod latch;
mod open;
mod picture;
mod pool;
mod preflight;
mod queryable;
mod replication;
mod route;
mod session;
mod settings;
mod setup;
mod table;
mod tls;
mod version;
mod xid;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use deadpool::managed;
use mysql_async::Opts;
use unanimous_core::ports::{
    Absence, BranchEnv, BranchError, BranchRecord, Cause, Finding, InspectOptions, Inspection,
    Preflight, Problem, RecoveryScan, Resource, ResourceError, ResourceManager, Room,
    ServerIdentity,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{ResourceName, Xid};

pub use branch::MysqlBranch;
pub use config::{BuildError, MysqlBuilder};
pub use latch::RollbackOnly;
/// The driver, in the version in which branches speak it.
pub use mysql_async;
pub use mysql_async::prelude;
pub use tls::{Tls, TlsMode};

use config::Config;
use failed::FailedCommits;
use fence::{Fenced, Holder};
use finish::Absent;
use handover::{Listed, Looks};
use pool::{Pool, Purpose};
use session::Session;

/// A MySQL or MariaDB database that takes part in global transactions.
///
/// Cloning is cheap and gives the same resource: the same pool, the same settings.
#[derive(Clone)]
pub struct Mysql {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    branches: Pool,
    control: Pool,
    table: Pool,
    looks: Looks,
    listed: Listed,
    absent: Absent,
    failed_commits: FailedCommits,
}

impl fmt::Debug for Mysql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mysql")
            .field("name", &self.inner.config.name)
            .finish()
    }
}

impl Mysql {
    /// Begins the description of a resource.
    ///
    /// `name` is 1 to 64 of `A-Z a-z 0-9 _ -`, beginning with a letter, and stays the same as long
    /// as transactions may be pending. `url` is `mysql://user:password@host:port/database`, for
    /// MariaDB, too, with parameters as the crate's page lists them.
    pub fn builder(name: impl Into<String>, url: impl Into<String>) -> MysqlBuilder {
        MysqlBuilder::from_url(name.into(), url.into())
    }

    /// The same with options of the driver in the place of an address. `prefer_socket` is off
    /// whatever they say, and the driver's pool is not used.
    pub fn builder_with_opts(name: impl Into<String>, opts: impl Into<Opts>) -> MysqlBuilder {
        MysqlBuilder::from_opts(name.into(), opts.into())
    }

    /// The same with a function that is asked for the driver's options before each new connection:
    /// for addresses, accounts and passwords that change while the application runs.
    ///
    /// All options have to lead to the same server and database. The function runs inside
    /// [`connect_timeout`](MysqlBuilder::connect_timeout); if it fails, hangs or panics, there is
    /// no connection and nothing has happened.
    ///
    /// ```no_run
    /// use unanimous_mysql::Mysql;
    /// use unanimous_mysql::mysql_async::Opts;
    ///
    /// let ledger = Mysql::builder_from("ledger", || async {
    ///     let address = std::fs::read_to_string("/run/secrets/ledger")?;
    ///     Ok(Opts::from_url(address.trim())?)
    /// });
    /// ```
    pub fn builder_from<F, R>(name: impl Into<String>, ask: F) -> MysqlBuilder
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Opts, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        MysqlBuilder::from_ask(name.into(), ask)
    }

    fn new(config: Config) -> Result<Self, managed::BuildError> {
        let config = Arc::new(config);
        let pool = |purpose| Pool::of(purpose, &config);
        Ok(Self {
            inner: Arc::new(Inner {
                branches: pool(Purpose::Branches)?,
                control: pool(Purpose::Recovery)?,
                table: pool(Purpose::Table)?,
                looks: Looks::default(),
                listed: Listed::default(),
                absent: Absent::default(),
                failed_commits: FailedCommits::default(),
                config: Arc::clone(&config),
            }),
        })
    }

    fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Who the server is; on MariaDB only once preflight has made the identity row.
    async fn identity_of(&self, session: &mut Session) -> Result<ServerIdentity, ResourceError> {
        if let Some(identity) = &session.server().identity {
            return Ok(identity.clone());
        }
        match session.learn_identity().await {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Err(self.unfit(preflight::no_identity(session).to_string())),
            Err(error) => {
                let message = format!("cannot read the server's identity: {error}");
                Err(self
                    .error(codes::connect(&error), message)
                    .with_source(error))
            }
        }
    }

    /// Sees a branch's connection gone.
    ///
    /// # Errors
    /// It cannot be seen: the reason.
    async fn fence(&self, holder: &Holder, identity: &ServerIdentity) -> Result<(), String> {
        let lent = self.inner.control.lend_checked().await;
        let mut lease = lent.map_err(|error| error.to_string())?;
        let Some(session) = lease.session() else {
            return Err("the connection is closed".to_owned());
        };
        let now = self
            .identity_of(session)
            .await
            .map_err(|error| error.to_string())?;
        if now != *identity {
            return Err(format!(
                "the branch is on {identity}, and {now} answers now"
            ));
        }
        match fence::fence(session, holder).await {
            Ok(Fenced::Gone) => {
                lease.give_back();
                Ok(())
            }
            Ok(Fenced::NotSeen(reason)) => {
                lease.give_back();
                Err(reason.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn error(&self, problem: Problem, message: impl Into<String>) -> ResourceError {
        ResourceError::new(problem, self.config().name.clone(), message)
    }

    fn unfit(&self, message: impl Into<String>) -> ResourceError {
        self.error(Problem::Unfit, message)
    }
}

#[async_trait]
impl ResourceManager for Mysql {
    fn name(&self) -> &ResourceName {
        &self.config().name
    }

    fn room(&self) -> Option<Room> {
        Some(pool::room(self.config()))
    }

    /// By the one table of server codes: 1213 is a conflict, 1205 a time-out.
    fn cause_of(&self, error: &(dyn Error + 'static)) -> Option<Cause> {
        codes::cause(error)
    }

    /// On MariaDB makes the table `unanimous_identity` in the resource's database, if it is not
    /// there.
    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        preflight::check(self).await
    }

    async fn checkup(&self) -> Result<Vec<Finding>, ResourceError> {
        checkup::look(self).await
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        finish::recover(self).await
    }

    async fn finish(
        &self,
        xid: &Xid,
        decision: Decision,
        recorded: Option<&BranchRecord>,
    ) -> Result<(), BranchError> {
        finish::finish(self, xid, decision, recorded).await
    }

    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError> {
        finish::absent(self, xid, branch).await
    }

    async fn inspect(&self, options: InspectOptions) -> Result<Inspection, ResourceError> {
        inspect::inspect(self, options).await
    }
}

#[async_trait]
impl Resource for Mysql {
    type Branch = MysqlBranch;

    async fn open(&self, env: BranchEnv) -> Result<MysqlBranch, BranchError> {
        open::open(self, env).await
    }
}
