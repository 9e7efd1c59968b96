//! Presumed-abort two-phase commit as a pure state machine: events in, commands out.
//!
//! [`Coordinator`] is the state of one global transaction. The runtime tells it what happened
//! (`handle_*`), the application tells it what to do (`commit`, `rollback`), and the runtime
//! carries out what [`Coordinator::poll_command`] says, in whatever order and parallelism it likes:
//! a command that needs a durable record holds that record's position.
//!
//! [`plan`] says which in-doubt branches a recovery pass may end, and how.

mod branch;
mod by_hand;
mod command;
mod coordinator;
#[cfg(test)]
mod coordinator_test;
#[cfg(test)]
mod last_resource_test;
mod recovery;

pub use branch::{BranchRole, BranchState, Decision, Finish, Heuristic, Vote};
pub use by_hand::ByHandCase;
pub use command::{BranchIndex, Command, LogSeq, OnePhaseEnd, Outcome, Phase};
pub use coordinator::Coordinator;
pub use recovery::{EpochView, LeaveReason, Resolution, plan};
