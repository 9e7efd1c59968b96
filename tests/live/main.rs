//! Unanimous on real servers: commits, failures, and SIGKILL at named points. The databases' own
//! rows, read by independent clients, are the oracle.
#![allow(missing_docs, reason = "a test is its own documentation")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod bad_names;
mod bad_statements;
mod barrier;
mod by_hand;
mod cancel;
mod commit;
mod databases;
mod failover;
mod hostile;
mod killed;
mod many;
mod matrix;
mod observability;
mod retry;
mod servers_fail;
mod soak;
mod support;
mod table_log;
mod unreachable;
