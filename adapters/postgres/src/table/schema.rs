//! The tables: what makes them, and what the catalog says of them.

use unanimous_core::xid::ManagerId;

/// The schema that holds the tables. A constant, so that a statement for a last resource, which
/// runs in the application's session, needs no setting.
pub(crate) const SCHEMA: &str = "unanimous";

/// Of the tables.
pub(super) const VERSION: u32 = 1;

/// Serialises those that make the tables: the bytes `UNANLOG1`.
const MAKING: u64 = 0x554E_414E_4C4F_4731;

/// What makes the tables, as a person runs it.
pub(super) fn ddl(manager: ManagerId) -> String {
    format!("BEGIN;\n{};\nCOMMIT;\n", making(manager).join(";\n"))
}

/// What makes the tables that are not there.
pub(super) fn making(manager: ManagerId) -> Vec<String> {
    let lock = format!("SELECT pg_catalog.pg_advisory_xact_lock({MAKING})");
    let row = format!(
        "INSERT INTO unanimous.unanimous_log (version, manager, last_epoch) \
         VALUES ({VERSION}, '{manager}', 0) ON CONFLICT DO NOTHING"
    );
    // The row waits for whoever joins meanwhile, who goes on to the other tables: so before the
    // indexes, which lock those even where they are there.
    let (log, others) = TABLES.split_at(2);
    let mut statements = vec![lock];
    statements.extend(log.iter().map(ToString::to_string));
    statements.push(row);
    statements.extend(others.iter().map(ToString::to_string));
    statements
}

const TABLES: [&str; 10] = [
    "CREATE SCHEMA IF NOT EXISTS unanimous",
    "CREATE TABLE IF NOT EXISTS unanimous.unanimous_log (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version integer NOT NULL,
    manager text COLLATE \"C\" NOT NULL,
    last_epoch bigint NOT NULL CHECK (last_epoch BETWEEN 0 AND 4294967295),
    moved text
)",
    "CREATE TABLE IF NOT EXISTS unanimous.unanimous_opening (
    epoch bigint PRIMARY KEY,
    nonce text COLLATE \"C\" NOT NULL,
    identity text COLLATE \"C\" NOT NULL,
    label text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at timestamptz,
    released_at timestamptz
)",
    "CREATE INDEX IF NOT EXISTS unanimous_opening_unreleased
    ON unanimous.unanimous_opening (epoch) WHERE released_at IS NULL",
    "CREATE TABLE IF NOT EXISTS unanimous.unanimous_epoch (
    epoch bigint NOT NULL,
    slot smallint NOT NULL,
    closed boolean NOT NULL,
    PRIMARY KEY (epoch, slot)
)",
    "CREATE TABLE IF NOT EXISTS unanimous.unanimous_decision (
    gtrid text COLLATE \"C\" PRIMARY KEY,
    epoch bigint NOT NULL,
    state text COLLATE \"C\" NOT NULL CHECK (state IN ('C', 'D', 'R')),
    branches text NOT NULL,
    decided_at timestamptz DEFAULT clock_timestamp()
)",
    "CREATE INDEX IF NOT EXISTS unanimous_decision_pending
    ON unanimous.unanimous_decision (gtrid) WHERE state = 'C'",
    "CREATE TABLE IF NOT EXISTS unanimous.unanimous_heuristic (
    gtrid text COLLATE \"C\" NOT NULL,
    resource text COLLATE \"C\" NOT NULL,
    ended text COLLATE \"C\" NOT NULL,
    noted_at timestamptz DEFAULT clock_timestamp(),
    PRIMARY KEY (gtrid, resource)
)",
    "CREATE TABLE IF NOT EXISTS unanimous.unanimous_by_hand (
    id text COLLATE \"C\" PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY,
    gtrid text COLLATE \"C\" NOT NULL,
    resource text COLLATE \"C\" NOT NULL,
    state text COLLATE \"C\" NOT NULL CHECK (state IN ('I', 'U', 'D', 'V')),
    words text NOT NULL
)",
    "CREATE TABLE IF NOT EXISTS unanimous.unanimous_member (
    epoch bigint PRIMARY KEY,
    beats bigint NOT NULL,
    beat_at timestamptz NOT NULL
)",
];

/// Each table with the rights that the account needs on it.
pub(super) const RIGHTS: [(&str, &str); 7] = [
    ("unanimous_log", "SELECT, UPDATE"),
    ("unanimous_opening", "SELECT, INSERT, UPDATE"),
    ("unanimous_epoch", "SELECT, INSERT, UPDATE, DELETE"),
    ("unanimous_decision", "SELECT, INSERT, UPDATE, DELETE"),
    ("unanimous_heuristic", "SELECT, INSERT, UPDATE"),
    ("unanimous_by_hand", "SELECT, INSERT, UPDATE"),
    ("unanimous_member", "SELECT, INSERT, UPDATE, DELETE"),
];

/// What the catalog says of each table, which everybody may read: is it there, does a crash keep
/// it, has it its key, which rights does the account lack.
pub(super) fn shape() -> String {
    let wanted = RIGHTS.map(|(table, rights)| format!("('{table}', '{rights}')"));
    format!(
        "SELECT 't', w.name, c.oid IS NOT NULL, c.relkind = 'r' AND c.relpersistence = 'p', \
         EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary \
         AND i.indisvalid), (SELECT pg_catalog.string_agg(r, ', ') \
         FROM pg_catalog.unnest(pg_catalog.string_to_array(w.rights, ', ')) r \
         WHERE NOT pg_catalog.has_table_privilege(c.oid, r)), \
         pg_catalog.has_schema_privilege(n.oid, 'USAGE'), pg_catalog.quote_ident(current_user) \
         FROM (VALUES {}) w (name, rights) \
         LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = '{SCHEMA}' \
         LEFT JOIN pg_catalog.pg_class c ON c.relname = w.name AND c.relnamespace = n.oid",
        wanted.join(", ")
    )
}
