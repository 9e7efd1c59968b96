//! A transaction manager for databases that you already have: one commit spans PostgreSQL, MySQL
//! and MariaDB, and all of it happens or none of it, whatever crashes.
//!
//! # The tutorial
//!
//! **1. Name your databases.** Every database that takes part gets a *resource* with a name of its
//! own. The names are stored in the decision log and in the databases while a transaction is in
//! doubt, so choose them once.
//!
//! **2. Start a manager.** It keeps a durable *decision log* in a folder of its own, one per
//! process. At start it recovers what an earlier crash has left.
//!
//! **3. Begin, enlist, work, commit.** [`enlist`](Transaction::enlist) opens a *branch* in each
//! database and lends it to you: the PostgreSQL branch is a `tokio_postgres::Client` to you, the
//! MySQL branch a `mysql_async` `Queryable`. [`commit`](Transaction::commit) is both, or neither.
//!
//! ```
//! # #[cfg(all(feature = "postgres", feature = "mysql"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use unanimous::{TransactionManager, log::FileLog, mysql::Mysql, postgres::Postgres};
//! use unanimous::mysql::prelude::Queryable;
//!
//! # let pg_url = std::env::var("UNANIMOUS_PG_NEWEST_URL")
//! #     .map_err(|_| "run it through `cargo xtask test`, or set UNANIMOUS_PG_NEWEST_URL")?;
//! # let my_url = std::env::var("UNANIMOUS_MYSQL_URL")
//! #     .map_err(|_| "run it through `cargo xtask test`, or set UNANIMOUS_MYSQL_URL")?;
//! # let folder = tempfile::tempdir()?;
//! # let log_folder = folder.path().join("unanimous-log");
//! let orders = Postgres::builder("orders", &pg_url).build()?;
//! let ledger = Mysql::builder("ledger", &my_url).build()?;
//! let tm = TransactionManager::builder()
//!     .log(FileLog::at(&log_folder))
//!     .resource(&orders)
//!     .resource(&ledger)
//!     .start().await?;
//!
//! let mut tx = tm.begin();
//! let (pg, my) = tx.enlist((&orders, &ledger)).await?;
//! pg.execute("SELECT 1", &[]).await?;
//! my.query_drop("SELECT 1").await?;
//! tx.commit().await?;                                    // both, or neither
//!
//! tm.shutdown().await?;
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "postgres", feature = "mysql")))]
//! # fn main() {}
//! ```
//!
//! **4. Read the errors.** They say what you may do next. [`CommitError::RolledBack`]: nothing
//! happened, you may try again ([`retry`](TransactionManager::retry) does, after conflicts).
//! [`CommitError::Undetermined`]: do *not* try again; ask
//! [`outcome`](TransactionManager::outcome) later with the gtrid. [`CommitError::Heuristic`]: a
//! person or a database ended a branch alone; a person has to look.
//!
//! **5. Dropping is safe.** A transaction that is dropped is rolled back; a `commit` whose future
//! is dropped goes on. No connection with an open or prepared branch goes back to a pool.
//!
//! # What is not promised
//!
//! There is no snapshot across databases: a reader may see one database's part before the other's.
//! A prepared branch holds its locks until it is resolved. Serializable parts do not make a
//! serializable whole.
//!
//! # Where to go from here
//!
//! [`Config`] holds every limit. [`RecoveryReport`] says what recovery found, did and left.
//! [`ports`] are the contracts for a database or a log of one's own. With the feature `operator`, a
//! manager is built from a TOML file, and the tool `unanimous` can talk to a running application.

mod active;
mod bounded;
mod config;
mod driver;
mod enlist;
mod error;
mod gate;
pub mod log;
mod manager;
mod observe;
mod opening;
#[cfg(feature = "operator")]
pub mod operator;
mod outcome;
mod places;
mod preflight;
mod recovery;
mod retry;
mod shutdown;
mod transaction;

pub use unanimous_core::ports::{
    BranchError, BranchErrorKind, Cause, LogError, Problem, Refusal, ResourceError,
};
pub use unanimous_core::protocol::{Decision, Heuristic, LeaveReason};
pub use unanimous_core::xid::{Gtrid, ManagerId, Opening, ResourceName, Xid};

pub use crate::config::Config;
pub use crate::enlist::EnlistSet;
pub use crate::error::{CommitError, EnlistError, RollbackCause, StartError};
pub use crate::manager::{TransactionManager, TransactionManagerBuilder};
#[doc(hidden)]
pub use crate::observe::{Point, Probe};
pub use crate::outcome::{Committed, TransactionOutcome};
pub use crate::recovery::{
    ForeignBranch, Left, Planned, RecoveryReport, ResourceReport, ResourceSurvey, Survey,
    SurveyedBranch,
};
pub use crate::retry::BoxError;
pub use crate::transaction::Transaction;

#[cfg(feature = "mysql")]
pub use unanimous_mysql as mysql;
#[cfg(feature = "postgres")]
pub use unanimous_postgres as postgres;

/// Contracts for those who bring a resource or a decision log of their own.
pub mod ports {
    pub use unanimous_core::ports::*;
}

/// What the fuzz targets drive (`fuzz/src/targets.rs`): not for anybody else, and without promise.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::log::fuzzing::{identity, record, segment};
    #[cfg(feature = "operator")]
    pub use crate::operator::fuzzing::{config, control};
}

#[cfg(doctest)]
mod compile_fail;

/// The README's example compiles, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So do those of the guides.
#[cfg(doctest)]
#[doc = include_str!("../docs/first-service.md")]
#[doc = include_str!("../docs/testing.md")]
#[doc = include_str!("../docs/operations.md")]
#[doc = include_str!("../docs/by-hand.md")]
#[doc = include_str!("../docs/servers.md")]
#[doc = include_str!("../docs/adapters.md")]
#[doc = include_str!("../docs/shared-log.md")]
struct Guides;
