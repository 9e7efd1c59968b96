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
//!   same time. [`Postgres`] checks this and more before it is used.
//! * A branch is ended as the role that prepared it. Where the application changes its role inside
//!   a branch (`SET ROLE`), that role is taken again; the user of the address has to stay a member.
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
mod branch;
mod codes;
mod config;
mod failure;
mod findings;
mod finish;
mod gid;
mod pool;
mod preflight;
mod session;
mod sql;
mod streams;
mod tls;
mod trace;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use unanimous_core::ports::{
    Absence, BranchError, BranchRecord, Cause, Preflight, RecoveryScan, ResourceError,
    ResourceManager,
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

    fn cause_of(&self, error: &(dyn Error + 'static)) -> Option<Cause> {
        failure::cause_of(error.downcast_ref()?)
    }

    async fn preflight(&self) -> Result<Preflight, ResourceError> {
        self.check().await
    }

    async fn recover(&self) -> Result<RecoveryScan, ResourceError> {
        self.scan().await
    }

    async fn finish(&self, xid: &Xid, decision: Decision) -> Result<(), BranchError> {
        self.finish_prepared(xid, decision).await
    }

    async fn absent(&self, xid: &Xid, branch: &BranchRecord) -> Result<Absence, ResourceError> {
        self.fate(xid, branch).await
    }
}
