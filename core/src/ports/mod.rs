//! The two openings through which the outside world enters: databases and decision logs.
//!
//! An implementation passes the conformance suites of `unanimous-testing`; they say the contracts
//! below in executable form.

mod by_hand;
mod error;
mod inspect;
mod log;
mod preflight;
mod resource;
mod table;
mod table_move;

pub use by_hand::{ByHand, HandAct, HandState, Hands, HeuristicEnd, Remark, UnixTime};
pub use error::{BranchError, BranchErrorKind, Cause, Problem, ResourceError};
pub use inspect::{
    Blocked, BlockedSession, HeldLock, Holding, Horizon, InspectOptions, InspectedBranch,
    Inspection, Locks,
};
pub use log::{
    DecideError, DecisionLog, DecisionRecord, LogError, LogHome, LogSnapshot, Lookup, Member,
    OpeningState, Refusal,
};
pub use preflight::{Finding, Preflight, Severity};
pub use resource::{
    Absence, Branch, BranchEnv, BranchRecord, Evidence, OnePhaseReply, PrepareReply, RecoveryScan,
    Resource, ResourceManager, Room, ScannedBranch, ServerIdentity, XidOwner,
};
pub use table::{
    Beat, DOUBTFUL, Decided, DecisionRow, DecisionTable, ELSEWHERE, Ends, EpochSlot, Found,
    HELD_SILENCE_MAX, HandRow, HeldDecisions, NotedEnd, OpeningRow, RowAnswer, RowState, SLOTS,
    Snapshot, TableError, TableErrorKind, TableHome, TableState,
};
pub use table_move::{
    AN_EXPORT_OF, KeptRow, LogImage, Standing, TableMove, TableMoves, arrives_from, went_to,
};

/// The error of a driver, kept so that the caller can look for it in the chain of sources.
pub type SourceError = alloc::boxed::Box<dyn core::error::Error + Send + Sync + 'static>;
