//! Real database servers, found or made without touching the system.
//!
//! # Where servers come from
//!
//! In this order, for each [`Kind`]:
//!
//! 1. An address in the environment: `UNANIMOUS_PG_URL`, `UNANIMOUS_PG_NEWEST_URL`,
//!    `UNANIMOUS_MYSQL_URL`, `UNANIMOUS_MARIADB_URL`, each with an optional twin that names an
//!    administrator (`UNANIMOUS_PG_ADMIN_URL`, and so on). Only the shared set uses these: a server
//!    that a test starts for itself always comes from a program.
//! 2. Containers, where `docker info` answers within two seconds: `docker/compose.yaml`, under a
//!    project name of this run's own, on ports that the engine chooses. Only the shared set uses
//!    them: a server that a test starts for itself comes from a program (3 or 4) there, too.
//! 3. Server programs of a fitting version that the machine has already.
//! 4. Debian packages, downloaded by the machine's own `apt-get` with a private state, checked
//!    against Debian's keyring, and unpacked into a cache folder: `$UNANIMOUS_CACHE`, or
//!    `$XDG_CACHE_HOME/unanimous`, or `~/.cache/unanimous` (for root with a closed home,
//!    `/var/cache/unanimous`, because the servers run as another user and have to read it).
//!
//! `UNANIMOUS_SERVERS=compose` takes the shared set from step 2 only, `machine` leaves out the
//! steps 2 and 4, `download` the steps 2 and 3.
//! A server that cannot be had is an error that names the variable to set, never a skipped test.
//!
//! # What a started server promises
//!
//! * Its data is its own, made by the server's own initialisation, so its identity is unique.
//! * It listens on 127.0.0.1 only, on a free port that stays reserved as long as the [`Server`]
//!   lives, restarts included.
//! * Its durability settings are the safe ones, unless [`Options`] says otherwise.
//! * It has a database `app` that belongs to the unprivileged user `app`, and an administrator.
//! * It does not outlive its owner, even if the owner is killed: a guard process stops it and
//!   removes its folder. What guards could not do is swept up by the next run.

mod address;
mod compose;
mod debian;
mod error;
mod folder;
mod guard;
mod kind;
mod launch;
mod mysql;
mod pgbouncer;
mod postgres;
mod process;
mod programs;
mod server;
mod user;

pub use address::{Address, Set, shared};
pub use compose::{Containers, port_variable};
pub use error::Error;
pub use kind::{Kind, Version};
pub use pgbouncer::PgBouncer;
pub use process::{Ended, end_within};
pub use programs::{Origin, Programs, find};
pub use server::{Options, Server, standby_of};

/// The unprivileged user that owns the database `app` on every server.
pub const APP_USER: &str = "app";

/// The password of [`APP_USER`]. Tests look for it where no secret may appear.
pub const APP_PASSWORD: &str = "app-secret";

/// The database of [`APP_USER`].
pub const APP_DATABASE: &str = "app";

/// The password of the administrator (`postgres` or `root`).
pub const ADMIN_PASSWORD: &str = "admin-secret";
