//! The soak: transfers without end between three servers, while a nemesis kills, pauses, cuts off
//! and restarts everything there is.
//!
//! `cargo xtask soak --minutes N` runs it. Two applications, processes of their own with a decision
//! log each (`application`), or with `--log postgres|mysql|mariadb` two to four that share a table
//! log on that server and are wrongly suspected whenever they are paused, move money and append
//! their transaction's number to a list in each database that they write to (`transfer`); a wire
//! for each application and server, the servers and the applications are struck at random
//! (`nemesis`). Every few minutes the nemesis rests and
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

use crate::support::{Db, env};

/// The servers, in the order of the applications' resources.
const SERVERS: [Db; 3] = [Db::PostgresNewest, Db::Mysql, Db::Mariadb];
/// Where the applications have their decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    /// In a folder each.
    Folders,
    /// In a table that they share, on the server with this number, which is a branch of most
    /// transactions, too: their last resource.
    Table(usize),
}

impl Home {
    fn asked_for() -> Self {
        match env("UNANIMOUS_SOAK_LOG").as_deref() {
            None | Some("file") => Self::Folders,
            Some("postgres") => Self::Table(0),
            Some("mysql") => Self::Table(1),
            Some("mariadb") => Self::Table(2),
            Some(other) => panic!("UNANIMOUS_SOAK_LOG: no log `{other}`"),
        }
    }

    fn applications(self) -> usize {
        match self {
            Self::Folders => 2,
            Self::Table(_) => fastrand::usize(2..=4),
        }
    }
}

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
