//! A transaction manager for databases that you already have.

mod active;
mod config;
mod driver;
mod enlist;
mod error;
pub mod log;
mod manager;
mod observe;
mod outcome;
mod recovery;
mod retry;
mod transaction;

pub use unanimous_core::ports::{
    BranchError, BranchErrorKind, Cause, LogError, Problem, Refusal, ResourceError,
};
pub use unanimous_core::protocol::{Decision, Heuristic, LeaveReason};
pub use unanimous_core::xid::{Gtrid, ResourceName, Xid};

pub use crate::config::Config;
pub use crate::enlist::EnlistSet;
pub use crate::error::{CommitError, EnlistError, RollbackCause, StartError};
pub use crate::manager::{TransactionManager, TransactionManagerBuilder};
#[doc(hidden)]
pub use crate::observe::{Point, Probe};
pub use crate::outcome::{Committed, TransactionOutcome};
pub use crate::recovery::{Left, RecoveryReport, ResourceReport};
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
