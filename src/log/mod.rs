//! The decision log in files of its own.
//!
//! Owns a folder: one process at a time, by an exclusive lock. Promises the contract of
//! [`DecisionLog`](unanimous_core::ports::DecisionLog): a decision is answered `Ok` only after an
//! `fdatasync` that covers it (I2); what may have been written is uncertain, never refused (I3);
//! opening closes every earlier epoch, which the lock allows (I5). The size is bounded: each new
//! segment begins with what is still needed, and the older ones are removed.
//!
//! The byte layout, what each crash leaves behind, and what is assumed of the disk are in
//! `docs/log-format.md`.
//!
//! Layers, each of which knows only those before it: `record` and `segment` (bytes), `identity`,
//! `storage` (the disk, with a simulated twin for tests), `state` (what the records say),
//! `appender` and `recover` (writing and reading a segment), `folder` and `open`, `engine` (what
//! is promised), `writer` (the thread), `file` (the port), `moved` and `moving` (another home),
//! `observed` (the port, for whoever only looks at a log that nobody has open).
//! Needs a Unix file system.

mod appender;
#[cfg(test)]
mod appender_test;
#[cfg(test)]
mod crash_test;
mod engine;
mod errors;
#[cfg(test)]
mod fault_test;
mod file;
#[cfg(test)]
mod file_test;
#[cfg(test)]
mod flip_test;
mod folder;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[cfg(test)]
mod golden_test;
mod hand;
mod home;
mod identity;
mod moved;
#[cfg(feature = "operator")]
mod moving;
mod next_segment;
#[cfg(feature = "operator")]
mod no_log;
#[cfg(feature = "operator")]
mod observed;
#[cfg(test)]
#[cfg(feature = "operator")]
mod observed_test;
mod open;
#[cfg(test)]
mod open_test;
#[cfg(test)]
mod place_test;
mod probed;
#[cfg(test)]
mod process_test;
mod record;
mod recover;
#[cfg(test)]
mod recover_test;
#[cfg(test)]
mod removed_test;
mod request;
mod segment;
#[cfg(test)]
mod segment_test;
mod shared;
#[cfg(test)]
mod sim_disk;
#[cfg(feature = "operator")]
mod sound;
mod state;
#[cfg(test)]
mod state_test;
#[doc(hidden)]
pub mod stepped;
mod storage;
mod table;
#[cfg(feature = "operator")]
mod verify;
pub(crate) mod wall_clock;
mod writer;

pub use file::{FileLog, LogContents, OpenFileLog};
pub use home::TornTail;
#[doc(hidden)]
pub use probed::STEPS;
pub use table::TableLog;

#[cfg(feature = "operator")]
pub(crate) use folder::{held_by, in_use_by};
#[cfg(feature = "operator")]
pub(crate) use hand::read as read_hand;
#[cfg(feature = "operator")]
pub(crate) use moving::{FolderMove, check_rows, one_line, read_folder};
#[cfg(feature = "operator")]
pub(crate) use no_log::{NO_MANAGER, NoLog};
#[cfg(feature = "operator")]
pub(crate) use sound::Loss;
#[cfg(feature = "operator")]
pub(crate) use table::{LABEL_CHARS_MAX, fit_label};
#[cfg(feature = "operator")]
pub(crate) use table::{
    decode_branches, encode_branches, end_of, is_of_a_logs_server, letter_of, picked, read_ends,
};
#[cfg(feature = "operator")]
pub(crate) use verify::{FolderVerified, verify_folder};
