//! For those who write a resource or a decision log for Unanimous, and for Unanimous' own tests.
//!
//! * [`resource_suite`], [`log_suite`] and [`table_suite`]: the contracts of the ports in
//!   executable form. An adapter's live tests run the first and the last over a real server; a
//!   log's tests run the second.
//! * [`MemoryServer`] with its [`MemoryResource`]s, [`MemoryLog`] and [`MemoryTable`]: parts in
//!   memory that follow the same contracts and fail on demand. They lose what a crash loses and
//!   keep what it keeps.
//! * [`drop_after`] and [`drop_after_ticks`]: drop a future after so many polls, to test
//!   cancellation.
//! * [`Journal`]: what reached them and what became of it, in one order.
//! * [`Wire`]: a proxy between a driver and its server that cuts, holds and counts.
//!
//! Nothing else here talks to a database, a file or a socket, and nothing here is durable.

mod cancel;
mod gate;
mod held;
mod journal;
mod last_row;
pub mod log_suite;
mod memory_branch;
mod memory_log;
mod memory_resource;
mod memory_server;
mod memory_table;
pub mod resource_suite;
mod server_state;
mod table_rows;
pub mod table_suite;
mod wire;

pub use cancel::{drop_after, drop_after_ticks};
pub use gate::Hang;
pub use journal::{Event, Journal, LogStep, Step, TableStep};
pub use memory_branch::MemoryBranch;
pub use memory_log::{DecideFault, MemoryLog};
pub use memory_resource::MemoryResource;
pub use memory_server::{Fault, Flavour, MemoryServer};
pub use memory_table::{HeldRow, MemoryTable, TableFault};
pub use wire::{Wire, WireFault};
