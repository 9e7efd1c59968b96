//! The tables, version 1: what makes them. The same text is the file
//! `tests/live/table/schema-v1.sql` and stands on the page `docs/table-log-mysql.md`.
//!
//! DDL commits by itself, so making the tables is a row of steps, each of which may be repeated;
//! the row that says whose log it is comes last, and without it nothing uses the tables.

use unanimous_core::ports::{DOUBTFUL, ELSEWHERE, ServerIdentity};
use unanimous_core::xid::ManagerId;

use super::sql::{Tables, quoted};

/// Of the schema, as the table `unanimous_log` holds it.
pub(super) const VERSION: u32 = 1;

/// ASCII that is compared byte by byte, whatever the database's own character set is.
const ASCII: &str = "DEFAULT CHARACTER SET ascii COLLATE ascii_bin";

/// The statements that make what is not there.
pub(super) fn ddl(tables: &Tables, manager: ManagerId) -> Vec<String> {
    let mut statements = vec![log(tables), opening(tables), epoch(tables)];
    statements.extend([decision(tables), heuristic(tables)]);
    statements.extend([by_hand(tables), member(tables)]);
    statements.push(format!(
        "INSERT INTO {} (one, version, manager) VALUES (1, {VERSION}, '{manager}')\n  \
         ON DUPLICATE KEY UPDATE writes = writes + 1",
        tables.log
    ));
    statements
}

fn table(name: &str, columns: &[&str]) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (\n  {}\n) ENGINE=InnoDB {ASCII}",
        columns.join(",\n  ")
    )
}

const WRITES: &str = "writes BIGINT UNSIGNED NOT NULL DEFAULT 0";

fn log(tables: &Tables) -> String {
    table(
        &tables.log,
        &[
            "one TINYINT NOT NULL PRIMARY KEY CHECK (one = 1)",
            "version INT UNSIGNED NOT NULL",
            "manager CHAR(16) NOT NULL",
            "moved TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL",
            WRITES,
        ],
    )
}

fn opening(tables: &Tables) -> String {
    table(
        &tables.opening,
        &[
            "epoch INT UNSIGNED NOT NULL PRIMARY KEY CHECK (epoch > 0)",
            "random BIGINT UNSIGNED NOT NULL",
            "identity VARCHAR(128) NOT NULL",
            "label VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
            "closed DATETIME(6) NULL",
            "released TINYINT NOT NULL DEFAULT 0",
            WRITES,
        ],
    )
}

/// What stands in `identity` once the epoch is closed by this server.
pub(super) fn identity_closed_by(now: &ServerIdentity) -> String {
    format!(
        "IF(closed IS NULL AND identity NOT IN ({}, '{DOUBTFUL}'), \
         LEFT(CONCAT('{ELSEWHERE}', identity), {}), identity)",
        quoted(now.as_str()),
        ServerIdentity::BYTES_MAX
    )
}

fn epoch(tables: &Tables) -> String {
    table(
        &tables.epoch,
        &[
            "epoch INT UNSIGNED NOT NULL",
            "slot TINYINT UNSIGNED NOT NULL",
            "closed TINYINT NOT NULL DEFAULT 0",
            "PRIMARY KEY (epoch, slot)",
        ],
    )
}

fn decision(tables: &Tables) -> String {
    table(
        &tables.decision,
        &[
            "gtrid VARCHAR(64) NOT NULL PRIMARY KEY",
            "epoch INT UNSIGNED NOT NULL CHECK (epoch > 0)",
            "state CHAR(1) NOT NULL CHECK (state IN ('C', 'D', 'R'))",
            "branches MEDIUMTEXT NOT NULL",
            "decided DATETIME(6) NULL DEFAULT (UTC_TIMESTAMP(6))",
            WRITES,
            "KEY by_state (state, epoch)",
        ],
    )
}

fn heuristic(tables: &Tables) -> String {
    table(
        &tables.heuristic,
        &[
            "gtrid VARCHAR(64) NOT NULL",
            "resource VARCHAR(64) NOT NULL",
            "ended CHAR(1) NOT NULL",
            "noted DATETIME(6) NULL DEFAULT (UTC_TIMESTAMP(6))",
            WRITES,
            "PRIMARY KEY (gtrid, resource)",
        ],
    )
}

fn by_hand(tables: &Tables) -> String {
    table(
        &tables.by_hand,
        &[
            "id BIGINT UNSIGNED NOT NULL PRIMARY KEY",
            "number BIGINT UNSIGNED NOT NULL AUTO_INCREMENT UNIQUE",
            "gtrid VARCHAR(64) NOT NULL",
            "resource VARCHAR(64) NOT NULL",
            "state CHAR(1) NOT NULL CHECK (state IN ('I', 'U', 'D', 'V'))",
            "words TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
            WRITES,
        ],
    )
}

fn member(tables: &Tables) -> String {
    table(
        &tables.member,
        &[
            "epoch INT UNSIGNED NOT NULL PRIMARY KEY",
            "beats BIGINT UNSIGNED NOT NULL DEFAULT 0",
            "beat_at DATETIME(6) NOT NULL",
            WRITES,
        ],
    )
}
