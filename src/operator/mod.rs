//! For the operator: a TOML file that names log and resources, and a look at what is in doubt.
//!
//! * [`ConfigFile`] is the file; an application builds its manager from it, and the tool
//!   `unanimous` finds log and databases by it.
//! * [`Access`] is how the tool gets at the log: while an application holds it, through the
//!   application, over a *control socket* in the log's folder; without one, by reading it, and by
//!   taking it as long as something is done. Never beside a living application.
//! * [`Listing`], [`TransactionShown`], [`Recovered`] and [`Checked`] are what it reports: data,
//!   for tables and JSON.
//!
//! Every manager that is built with the feature `operator` and a file log offers the socket
//! `control.sock` in the log's folder, for its own user alone (mode 0600), and takes it away at its
//! end. Whatever goes wrong with it is logged and changes nothing for transactions.
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! use unanimous::operator::ConfigFile;
//! use unanimous::postgres::Postgres;
//!
//! let parts = ConfigFile::read("unanimous.toml")?.parts()?;
//! let orders: Postgres = parts.resource("orders")?;
//! let tm = parts.builder().start().await?;
//! let mut tx = tm.begin();
//! let pg = tx.enlist(&orders).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The file:
//!
//! ```toml
//! [log]
//! folder = "unanimous-log"             # relative to this file
//!
//! [limits]                             # those of `Config`, by its names
//! deadline = "1m 30s"
//!
//! [resources.orders]
//! url = "postgres://app@db.example:5432/shop"
//! password_env = "ORDERS_PASSWORD"     # or password_file, or password_command
//! recovery_url = "postgres://recovery@db.example:5432/shop"
//! recovery_password_file = "recovery.pw"
//!
//! [resources.ledger]
//! url_env = "LEDGER_URL"               # the whole address from the environment
//! pool_size = 32
//! connect_timeout = "5s"
//! ```
//!
//! The tool's README lists every key. Passwords are asked for whenever a connection is made, on
//! tokio's blocking threads, so that they may change while an application runs. No error and no
//! `Debug` text holds a value of the file or a password (I8).
//!
//! Layers, each of which knows only those before it: `error`, `text` (keys, types and ranges),
//! `secret`, `limits`, `adapters` and `entry` (an address becomes a resource), `place` (the log's
//! home) and `file`, `foreign`, `holding`, `counts` and `report` (data), `show` and `advice`,
//! `person`, `resolved`, `resolve`, `heuristics` and `lost` (what people do), `barrier`, `wire` and
//! `socket`, `server` and `client`, `shared` (a log in a table), `own` (a log in a folder, without
//! an application), `access`. Beside these, of the log alone: `source` (it is read), `shown`,
//! `verified`, `relocate` and `silence` (homes, and a move between them, which no member outlives),
//! `adopt`, `init`, `lines` (JSON), `export` and `import`; and of checks: `finding`, `volume`,
//! `twins`, `check_log`, `check_table`, `check`.

mod access;
mod adapters;
mod adopt;
mod advice;
mod barrier;
mod barrier_shared;
#[cfg(test)]
mod barrier_test;
mod check;
mod check_log;
mod check_table;
mod client;
mod counts;
mod entry;
mod error;
mod export;
mod file;
#[cfg(test)]
mod file_test;
mod finding;
mod foreign;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod heuristics;
mod holding;
mod import;
mod in_log;
mod init;
mod limits;
mod lines;
mod lost;
mod own;
mod person;
mod place;
mod relocate;
mod report;
mod resolve;
mod resolved;
mod secret;
mod server;
mod shared;
#[cfg(test)]
mod shared_test;
mod show;
mod shown;
mod silence;
mod socket;
#[cfg(test)]
mod socket_test;
mod source;
mod text;
mod twins;
mod verified;
mod volume;
mod wire;

pub use access::Access;
pub use adopt::{Adopted, Adoption};
pub use barrier::{Barrier, BarrierEnded, BarrierOptions, Stood, UnfinishedDecision};
pub use check::{Checked, CheckedResource};
pub use check_log::CheckedLog;
pub use counts::LogCounts;
pub use error::{ConfigFileError, OperatorError};
pub use export::{Exported, LogExport};
pub use file::{ConfigFile, Parts};
pub use finding::CheckedFinding;
pub use heuristics::{Forget, Heuristics, ListedEnd, ListedHand};
pub use holding::{Held, ListedHorizon, ListedLock, ListedSession};
pub use import::{Imported, LogImport};
pub use init::Initialised;
pub use lost::{GiveUp, GivenUp};
pub use relocate::{Move, Moved};
pub use report::{
    LeftBranch, ListedBranch, ListedMember, ListedResource, Listing, MemberState, Recovered,
    RecoveredResource, State,
};
pub use resolved::{Resolve, ResolveShown, Resolved, ResolvedBranch};
pub(crate) use server::{Control, serve};
pub use show::{BranchShown, DecisionShown, TransactionShown};
pub use shown::{
    Shown, ShownBranch, ShownEnd, ShownLog, ShownOpening, ShownTransaction, TransactionRecord,
};
pub use verified::{Verified, VerifiedFinding, VerifiedPart};
