//! PostgreSQL as a resource of Unanimous: branches on [`tokio_postgres`], two-phase commit by
//! `PREPARE TRANSACTION`, recovery from `pg_prepared_xacts`.
//!
//! # Use
//!
//! ```
//! use std::time::Duration;
//! use unanimous_postgres::{Isolation, Postgres};
//!
//! # fn main() -> Result<(), unanimous_postgres::BuildError> {
//! let orders = Postgres::builder("orders", "postgres://app:secret@db.example:5432/shop")
//!     .pool_size(32)
//!     .isolation(Isolation::RepeatableRead)
//!     .session_setup("SET search_path = shop")
//!     .connect_timeout(Duration::from_secs(5))
//!     .build()?;
//! # Ok(())
//! # }
//! ```
//! The resource is handed to a transaction manager; transactions enlist it and get a [`PgBranch`],
//! which is used like the driver's client:
//!
//! ```
//! # use unanimous_postgres::{PgBranch, tokio_postgres::Error};
//! async fn pay(orders: &PgBranch, id: i64) -> Result<u64, Error> {
//!     orders.execute("UPDATE orders SET paid = true WHERE id = $1", &[&id]).await
//! }
//! ```
//!
//! # The server
//!
//! * PostgreSQL 14 or newer (tested with 15 and 18), a primary, reached directly or through a
//!   pooler in session mode.
//! * `max_prepared_transactions` above 0: one slot for every branch that may be prepared at the
//!   same time.
//! * A branch is ended as the role that prepared it. Where the application changes its role inside
//!   a branch (`SET ROLE`), that role is taken again; the user of the address has to stay a member.
//!
//! The preflight checks this and more before a resource is used. Each finding has a subject that
//! stays the same, what was seen, and the SQL to paste:
//!
//! | subject | severity | found when |
//! |---|---|---|
//! | `server_version` | error, note | older than 14; never tested |
//! | `max_prepared_transactions` | error, warning | 0; less than `pool_size` |
//! | `free_prepared_slots` | warning | fewer are free now than `pool_size` |
//! | `max_connections` | warning | server, database or role allows less than the pools may open |
//! | `fsync` | error | off: a crash of the machine loses prepared branches |
//! | `full_page_writes` | warning | off |
//! | `synchronous_commit` | note, warning | off or local; the same with synchronous standbys |
//! | `synchronous_standby_names` | note, warning | set: commits can hang; no standby is there |
//! | `asynchronous_standbys` | note | a standby that is promoted may lack what was done last |
//! | `default_transaction_read_only` | warning | on |
//! | `standard_conforming_strings` | note | off |
//! | `idle_session_timeout`, `transaction_timeout` | note, warning | set; below a minute |
//! | `statement_timeout` | note, warning | set; below a second |
//! | `tcp_user_timeout` | warning | the server's system has none |
//! | `old_prepared_transactions` | warning | something has been prepared for more than an hour |
//! | `pooler` | error | a pooler in transaction mode stands in between |
//! | `pg_is_in_recovery` | error | the address leads to a standby |
//! | `execute` | error | a function of recovery's may not be called |
//! | `session_setup` | error | the set-up SQL fails |
//! | `recovery_address` | error | that account cannot log in, or leads to another database |
//! | `membership` | error | recovery's role is no member of the application's, or inherits not |
//! | `superuser` | warning | the application is a superuser, and recovery is not |
//! | `data_sync_retry` | warning | goes on after a disk has failed to write |
//!
//! A checkup, for a person who asks, looks at more: connections that are left, what was prepared
//! long ago (`autovacuum_freeze_max_age`), `unlogged_tables`, `foreign_tables`, and known bugs of
//! the server's release. `docs/findings.md` in the repository lists everything.
//!
//! # TLS
//!
//! By rustls, with libpq's words (manual, ["SSL Support"]), in an address of either form or by
//! [`Tls`]: `sslmode` ([`TlsMode`]; the default is `prefer`),
//! `sslrootcert` (a file, or `system`), `sslcert` and `sslkey` (both or none), `sslnegotiation`.
//!
//! ```
//! # fn main() -> Result<(), unanimous_postgres::BuildError> {
//! let orders = unanimous_postgres::Postgres::builder(
//!     "orders",
//!     "postgres://app:secret@db.example/shop?sslmode=verify-full&sslrootcert=/etc/shop/ca.pem",
//! )
//! .build()?;
//! # Ok(())
//! # }
//! ```
//! Unlike libpq:
//! * No file is looked for in `~/.postgresql`. `verify-full` without `sslrootcert` trusts the
//!   system's authorities; `verify-ca` without it is refused, for those sign for everybody.
//! * `prefer` is not tried again in plain text after a handshake or log-in that failed: only a
//!   server that says that it has no TLS is spoken to without. Root certificates that are given
//!   count in every mode that speaks TLS.
//! * A host is looked for among the certificate's subject alternative names only, never in its
//!   common name, and an authority's own certificate (`CA:TRUE`, what `openssl req -x509` makes
//!   unless told otherwise) is not accepted from a server.
//! * Encrypted keys, revocation lists and `sslpassword` are not known.
//!
//! Everything goes over TLS then, also the request to cancel a statement; SCRAM log-ins are bound
//! to the channel (`SCRAM-SHA-256-PLUS`; `channel_binding=require` insists on it) unless the
//! certificate is signed by Ed25519. Files are read again for each new connection. Over Unix
//! sockets TLS is never spoken.
//!
//! ["SSL Support"]: https://www.postgresql.org/docs/current/libpq-ssl.html
//!
//! # Accounts
//!
//! [`recovery_address`](PostgresBuilder::recovery_address) gives recovery an account of its own, so
//! that the application's needs no right beyond its tables:
//!
//! ```sql
//! CREATE ROLE shop_recovery LOGIN PASSWORD '...';
//! GRANT shop TO shop_recovery;
//! ```
//! Passwords that change come from [`password_source`](PostgresBuilder::password_source), whole
//! configurations from [`Postgres::builder_from`].
//!
//! # Decision log
//!
//! A database can be the home of a decision log that several instances share, and its branches last
//! resources, which commit together with the row of the decision. `docs/table-log-postgres.md` in
//! the repository has the tables, the rights that an account needs, and what is assumed of the
//! server.
//!
//! # Errors
//!
//! An error of this crate shows what was asked, the server's SQLSTATE and message, and what mends
//! it; never its detail, which may quote a row. The driver's own error is kept as the source. What
//! `session_setup` fails with is told by its SQLSTATE alone, because the message may quote it.
//!
//! # What a branch may not do
//!
//! PostgreSQL cannot prepare a transaction that has touched a temporary table, used `LISTEN` or
//! `NOTIFY`, a cursor `WITH HOLD`, an exported snapshot or a `postgres_fdw` table. Such a branch
//! votes to roll back, with an error that says so. Writes through `dblink` are not part of the
//! branch at all.
//!
//! A read-only branch takes its snapshot when it is opened, and the server refuses its writes. It
//! does let through `NOTIFY`, advisory locks and `dblink`; their effects come with the end of the
//! branch, before the other branches are decided.

mod access;
mod address;
mod awaited;
mod branch;
mod bugs;
mod checkup;
mod codes;
mod config;
mod direct;
mod failure;
mod findings;
mod finish;
mod gid;
mod inspect;
mod pool;
mod preflight;
mod session;
mod sql;
mod standbys;
mod streams;
mod table;
mod tls;
mod trace;
mod unawaited;
mod wipe;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use unanimous_core::ports::{
    Absence, BranchError, BranchRecord, Cause, Finding, InspectOptions, Inspection, Preflight,
    RecoveryScan, ResourceError, ResourceManager, Room,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{ResourceName, Xid};

pub use bytes;
pub use tokio_postgres;

pub use branch::PgBranch;
pub use config::{BuildError, Isolation, PostgresBuilder};
pub use streams::{CancelToken, CopyInSink, CopyOutStream, RowStream, SimpleQueryStream};
pub use tls::{Tls, TlsMode};

use config::Settings;
use pool::Pools;

/// A PostgreSQL database as a resource. Cloning is cheap and gives the same resource: the same
/// connections, the same settings.
#[derive(Clone)]
pub struct Postgres {
    pools: Arc<Pools>,
}

impl Postgres {
    /// Sets up a resource by the name that the application gives it and an address: an URL
    /// (`postgres://user:password@host:port/database`, several hosts separated by commas) or the
    /// `key=value` form.
    ///
    /// The name becomes part of every XID and is stored in the decision log.
    pub fn builder(name: impl Into<String>, url: impl Into<String>) -> PostgresBuilder {
        PostgresBuilder::from_url(name, url)
    }

    /// Sets up a resource with a configuration of the driver.
    pub fn builder_with(
        name: impl Into<String>,
        config: tokio_postgres::Config,
    ) -> PostgresBuilder {
        PostgresBuilder::from_config(name, config)
    }

    /// Sets up a resource with a configuration of the driver that is made afresh for every new
    /// connection: for passwords, hosts or certificates that change while the application runs.
    ///
    /// The function may be asked several times at once. If it fails, panics or has not answered
    /// within [`connect_timeout`](PostgresBuilder::connect_timeout), there is no connection: the
    /// branch is not opened ([`Unavailable`](unanimous_core::ports::BranchErrorKind)), and recovery
    /// tries again later. Its error is shown, so it must hold no secret. All configurations have to
    /// lead to the same database of the same server.
    ///
    /// ```
    /// use unanimous_postgres::{Postgres, tokio_postgres::Config};
    ///
    /// # fn main() -> Result<(), unanimous_postgres::BuildError> {
    /// let orders = Postgres::builder_from("orders", || async {
    ///     let mut config: Config = "postgres://app@db.example/shop".parse()?;
    ///     config.password(std::fs::read("/run/secrets/orders")?);
    ///     Ok(config)
    /// })
    /// .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder_from<F, Fut>(name: impl Into<String>, make: F) -> PostgresBuilder
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<tokio_postgres::Config, Box<dyn Error + Send + Sync>>>
            + Send
            + 'static,
    {
        PostgresBuilder::from_function(name, make)
    }

    pub(crate) const fn new(pools: Arc<Pools>) -> Self {
        Self { pools }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.pools.settings
    }

    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Postgres").field(self.settings()).finish()
    }
}

#[async_trait]
impl ResourceManager for Postgres {
    fn name(&self) -> &ResourceName {
        &self.settings().name
    }

    fn room(&self) -> Option<Room> {
        Some(self.pools.room())
    }

    fn cause_of(&self, error: &(dyn Error + 'static)) -> Option<Cause> {
        failure::cause_of(error.downcast_ref()?)
    }

    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        self.check().await
    }

    async fn checkup(&self) -> Result<Vec<Finding>, ResourceError> {
        self.look_deeper().await
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        self.scan().await
    }

    async fn finish(
        &self,
        xid: &Xid,
        decision: Decision,
        _recorded: Option<&BranchRecord>,
    ) -> Result<(), BranchError> {
        self.finish_prepared(xid, decision).await
    }

    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError> {
        self.fate(xid, branch).await
    }

    async fn inspect(&self, options: InspectOptions) -> Result<Inspection, ResourceError> {
        self.look(options).await
    }
}
