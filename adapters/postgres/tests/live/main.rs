//! The adapter against real servers: each trap of PostgreSQL and of its driver is a test here.
//!
//! Every test runs on PostgreSQL 15 and on the newest. Results are checked by an independent client
//! (the blocking `postgres` crate). Tests that kill, restart or reconfigure a server start their
//! own.
//! Run it through `cargo xtask test`, or with the addresses in the environment.

// What is not expected fails the test; helpers are not seen as tests by the lint's own exception.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

#[macro_use]
mod support;
#[path = "../../../../tests/support/certificates.rs"]
mod certificates;

mod absent;
mod attack;
mod bad_input;
mod checkup;
mod conflicts;
mod crash;
mod credentials;
mod driver;
mod finish;
mod guard;
mod inspect;
mod one_phase;
mod poolers;
mod preflight;
mod prepare;
mod read_only;
mod recover;
mod settings;
mod standbys;
mod suite;
mod table;
mod timeouts;
mod tls;
mod tls_clients;
mod wipe;
