//! The rows of a cell, as the judge finds and leaves them.

use std::path::PathBuf;

use unanimous_testing::Wire;

use super::cell::Cell;
use crate::databases::{Judges, Place, wires_to};
use crate::support::Db;

/// How many rows a cell has: one for each transaction.
pub(super) const ROWS: i64 = 16;

/// Where everything of a cell is.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) branches: Vec<Place>,
    pub(super) log: LogPlace,
}

/// Where the decisions are.
#[derive(Debug, Clone)]
pub(super) enum LogPlace {
    Folder(PathBuf),
    Table(Place),
}

impl LogPlace {
    pub(super) fn table(&self) -> Option<&Place> {
        match self {
            Self::Folder(_) => None,
            Self::Table(place) => Some(place),
        }
    }
}

impl Places {
    /// The databases of a cell, all but one on the shared servers. A file log is in the folder;
    /// with a log in a table, all of it is in the database of this name.
    pub(super) fn of(cell: Cell, own: Option<(Db, &str)>, folder: PathBuf, database: &str) -> Self {
        let place = |db: Db| {
            let own = own.filter(|(own, _)| *own == db).map(|(_, url)| url);
            let url = own.map_or_else(|| db.url(), str::to_owned);
            let is_postgres = db.is_postgres();
            Place { url, is_postgres }
        };
        let branches = cell.mix.branches().0.iter().copied();
        match cell.home.db(cell.mix) {
            None => Self {
                branches: branches.map(place).collect(),
                log: LogPlace::Folder(folder),
            },
            Some(log) => Self {
                branches: branches.map(|db| place(db).database(database)).collect(),
                log: LogPlace::Table(place(log).database(database)),
            },
        }
    }

    /// The same over wires, one for each branch and one for the log if it is a table.
    pub(super) async fn wired(&self) -> (Vec<Wire>, Self) {
        let mut all = self.branches.clone();
        all.extend(self.log.table().cloned());
        let (wires, mut branches) = wires_to(&all).await;
        let log = if branches.len() > self.branches.len() {
            branches.pop().map(LogPlace::Table)
        } else {
            None
        };
        let log = log.unwrap_or_else(|| self.log.clone());
        (wires, Self { branches, log })
    }
}

impl Judges {
    /// Makes the table of this run.
    pub(super) async fn make_table(&mut self, place: &Place, table: &str) {
        let engine = if place.is_postgres {
            ""
        } else {
            " ENGINE=InnoDB"
        };
        let sql = format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, n INT){engine}");
        self.ask(place, &sql).await.unwrap();
    }

    pub(super) async fn drop_table(&mut self, place: &Place, table: &str) {
        // What a failed cell has left locked stays.
        let _ = self.try_ask(place, &format!("DROP TABLE {table}")).await;
    }

    /// Fresh rows, from `first` on.
    pub(super) async fn make_rows(&mut self, place: &Place, table: &str, first: i64) {
        let rows: Vec<_> = (first..first + ROWS)
            .map(|id| format!("({id}, 0)"))
            .collect();
        let sql = format!("INSERT INTO {table} VALUES {}", rows.join(","));
        self.ask(place, &sql).await.unwrap();
    }

    /// How often each row was written.
    pub(super) async fn rows(&mut self, place: &Place, table: &str, first: i64) -> Vec<u32> {
        let until = first + ROWS;
        let sql = format!("SELECT n FROM {table} WHERE id >= {first} AND id < {until} ORDER BY id");
        let rows = self.ask(place, &sql).await.unwrap();
        let number = |text: &Vec<u8>| String::from_utf8_lossy(text).parse().unwrap();
        rows.iter().map(number).collect()
    }

    /// Whether somebody holds a lock on one of the rows for longer than a moment.
    pub(super) async fn is_locked(&mut self, place: &Place, table: &str, first: i64) -> bool {
        let limit = if place.is_postgres {
            "SET lock_timeout = '2s'"
        } else {
            "SET innodb_lock_wait_timeout = 2"
        };
        self.ask(place, limit).await.unwrap();
        let until = first + ROWS;
        let sql = format!("UPDATE {table} SET n = n + 0 WHERE id >= {first} AND id < {until}");
        self.try_ask(place, &sql).await.is_err()
    }

    /// How many sessions of this manager PostgreSQL knows. (Those of the others are counted on the
    /// wire.)
    pub(super) async fn sessions(&mut self, place: &Place, manager: &str) -> usize {
        if !place.is_postgres {
            return 0;
        }
        let sql = "SELECT application_name FROM pg_stat_activity";
        let names = self.ask(place, sql).await.unwrap();
        let is_its = |name: &&Vec<u8>| String::from_utf8_lossy(name).contains(manager);
        names.iter().filter(is_its).count()
    }
}
