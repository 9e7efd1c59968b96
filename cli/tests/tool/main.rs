//! The tool `unanimous` as a person runs it: the built program, real servers, and applications that
//! are this test program itself, run again and killed at named points.
#![allow(missing_docs, reason = "a test is its own documentation")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod application;
mod bad_input;
mod barrier;
mod by_hand;
mod check;
mod from_toml;
mod in_doubt;
mod living;
mod living_in_doubt;
mod log_file;
mod looking;
mod lost;
mod moved_log;
mod moved_rows;
mod not_ours;
mod resolve;
mod runbook;
mod schema;
mod secrets;
mod shared_log;
mod show;
mod socket;
mod support;
mod terminal;
mod words;
