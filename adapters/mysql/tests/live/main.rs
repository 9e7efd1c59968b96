//! The adapter against real servers: each trap of MySQL, of MariaDB and of their driver is a test
//! here.
//!
//! Every test runs on MySQL and on MariaDB. Results are checked by an independent connection. Tests
//! that kill, restart, block or reconfigure a server start their own. Run it through
//! `cargo xtask test`, or with the addresses in the environment.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test is its own documentation, and panics when it fails"
)]

#[macro_use]
mod support;

#[path = "../../../../tests/support/certificates.rs"]
mod certificates;

mod absent;
mod attack;
mod blocked;
mod checkup;
mod connection;
mod crash;
mod credentials;
mod finish;
mod input;
mod inspect;
mod locks;
mod many;
mod meddling;
mod one_phase;
mod preflight;
mod read_only;
mod recover;
mod results;
mod statements;
mod suite;
mod table;
mod tls;
mod trips;
mod wipe;
