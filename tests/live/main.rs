//! Unanimous on real servers: commits, failures, and SIGKILL at named points. The databases' own
//! rows, read by independent clients, are the oracle.
#![allow(missing_docs, reason = "a test is its own documentation")]

mod commit;
mod crash;
mod observability;
mod servers_fail;
mod support;
