//! The project's own commands as a library: real servers for tests, demo and benchmarks.
//!
//! Tests in every crate of the workspace take this crate as a dev-dependency:
//!
//! * [`servers::shared`] gives the addresses of the set of servers that `cargo xtask test` or
//!   `cargo xtask servers` has started; most tests need nothing else.
//! * [`servers::Server::start`] gives a server of one's own, for tests that kill it, stop it in the
//!   middle of something, or start it with other settings.
//!
//! Servers run on Linux; on another system give addresses in the environment (see [`servers`]).

pub mod servers;
