//! The soak: transfers without end between three servers, while a nemesis kills, pauses, cuts off
//! and restarts everything there is.
//!
//! `cargo xtask soak --minutes N` runs it. Two applications, processes of their own with a decision
//! log each (`application`), move money and append their transaction's number to a list in each
//! database that they write to (`transfer`); a wire for each application and server, the servers
//! and the applications are struck at random (`nemesis`). Every few minutes the nemesis rests and
//! everything is repaired; what is in doubt then has to be resolved without a restart, and the
//! oracle (`oracle`) compares the databases' rows with what the applications were told
//! (`history`).

mod application;
mod coordinator;
mod history;
mod nemesis;
mod oracle;
mod report;
mod run;
mod transfer;

use crate::support::Db;

/// The servers, in the order of the applications' resources.
const SERVERS: [Db; 3] = [Db::PostgresNewest, Db::Mysql, Db::Mariadb];
/// How many applications there are, each with a log of its own.
const APPLICATIONS: usize = 2;
/// How many transactions an application runs at the same time.
const WORKERS: u32 = 8;
/// Accounts in each database.
const ACCOUNTS: u32 = 500;
/// What each account holds at first.
const BALANCE: i64 = 1000;
/// Lists in each database that a round appends to.
const LISTS: u32 = 60;
const ACCOUNTS_TABLE: &str = "soak_accounts";
const LISTS_TABLE: &str = "soak_lists";

/// The lists of a round.
fn lists_of(round: u32) -> std::ops::Range<u32> {
    round * LISTS..(round + 1) * LISTS
}
