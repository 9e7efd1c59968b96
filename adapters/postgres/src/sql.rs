//! The statements of the protocol, as text.
//!
//! All of them go through the simple query protocol: utility statements take no parameters, one
//! string is one round trip, and execution stops at the first error. Only text of our own enters
//! them: GIDs and numbers, which need no quoting, and what [`config`](crate::config) has checked.
//!
//! # The guard
//!
//! `PREPARE TRANSACTION` and `COMMIT` in a block that has failed answer *success* (tag ROLLBACK),
//! which the driver shows exactly like a real success; outside a block they only warn; after
//! `COMMIT AND CHAIN` they end another transaction than the one that was meant. So both are sent
//! behind two statements that fail in all of these cases:
//!
//! * A `SELECT` that looks for the marker `unanimous.xid`, which was set with `SET LOCAL` when the
//!   branch was opened and vanishes with that transaction. If it is gone, the `SELECT` asks for a
//!   setting that does not exist, whose name then says in the error what was wrong.
//! * A `SAVEPOINT`, which fails in a failed block (25P02) and outside a block (25P01), even inside
//!   the implicit block of a string of several statements, where a bare `PREPARE TRANSACTION`
//!   would prepare that implicit transaction.

use std::time::Duration;

use unanimous_core::ports::BranchEnv;

use crate::checkup::{MORE, SEPARATOR};
use crate::codes::Guard;
use crate::config::Settings;
use crate::findings::Seen;
use crate::gid::Gid;
use crate::table;

/// How many statements [`prepare`] holds: each has to be answered.
pub(crate) const PREPARE_STATEMENTS: usize = 5;

/// How many statements [`end_reader`] holds: each has to be answered.
pub(crate) const END_READER_STATEMENTS: usize = 3;

const MARKER_GONE: &str = "unanimous.the_marker_of_the_branch_is_gone";
const OTHER_SESSION: &str = "unanimous.another_server_session_answers";
const MAY_WRITE: &str = "unanimous.the_reader_may_write";
/// Asked for by the statement of a last resource: see [`commit_last`].
pub(crate) const EPOCH_CLOSED: &str = "unanimous.the_epoch_is_closed_or_has_no_slot";

/// A value for `synchronous_commit`: the server's disk, and that of a synchronous standby where one
/// is set up. The only stronger level is kept.
pub(crate) const AT_LEAST_ON: &str = "CASE pg_catalog.current_setting('synchronous_commit') \
    WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END";

/// What a session is set to, at least: one row, one of the two texts.
pub(crate) fn durability() -> String {
    format!("SELECT {AT_LEAST_ON}")
}

/// Sets that for all that the session commits, and that the server tells what no synchronous
/// standby has: below `warning` it would say nothing (observed).
pub(crate) fn durable() -> String {
    let told = tell_warnings(false);
    format!("SELECT pg_catalog.set_config('synchronous_commit', {AT_LEAST_ON}, false), {told}")
}

fn tell_warnings(is_local: bool) -> String {
    format!("pg_catalog.set_config('client_min_messages', 'warning', {is_local})")
}

/// What need not be on the synchronous standbys waits for none: what follows on the session is on
/// this server's disk only when it is answered.
pub(crate) const AWAIT_NOBODY: &str = "SET synchronous_commit = local";

/// In the string that begins with it, functions and operators of that name are the server's own,
/// whoever may create others elsewhere: one in `public` that fits better would run with the rights
/// of whoever asks (CVE-2018-1058). It ends with the string, which is one transaction: a pooler
/// that nobody has noticed gives the session to others.
pub(crate) const OWN_NAMES: &str = "SET LOCAL search_path = pg_catalog, pg_temp";

/// Does not return before the synchronous standbys, if some are awaited, have all that was
/// committed before it: the commit of a transaction that has written to the log waits for them,
/// whatever its session is set to.
pub(crate) fn await_standbys() -> String {
    let told = tell_warnings(true);
    format!(
        "SELECT pg_catalog.set_config('synchronous_commit', {AT_LEAST_ON}, true), {told}, \
         CASE WHEN pg_catalog.current_setting('synchronous_standby_names') <> '' \
         THEN pg_catalog.pg_logical_emit_message(true, 'unanimous', '') END"
    )
}

/// The longest application name that PostgreSQL keeps, in bytes.
const APPLICATION_NAME_BYTES_MAX: usize = 63;

/// What a server and a session are: read by [`Facts`](crate::session::Facts), one row.
///
/// The timeline is that of the current WAL file, because the one of the last checkpoint lags
/// behind after a promotion (observed).
pub(crate) const FACTS: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
    (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.substr(\
    pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END, \
    (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()), \
    (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint, \
    pg_catalog.pg_backend_pid(), \
    (SELECT (extract(epoch FROM backend_start) * 1000000)::bigint \
    FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid())";

/// Everything that is prepared in this database, with its age in microseconds. The bytes of the
/// GIDs and not their text: in a database with another encoding others may have used bytes that
/// cannot be sent as UTF-8, and one such GID would fail the whole scan (observed).
pub(crate) const SCAN: &str = "SELECT pg_catalog.encode(\
    pg_catalog.convert_to(gid, pg_catalog.getdatabaseencoding()), 'hex'), greatest(0, \
    extract(epoch FROM pg_catalog.clock_timestamp() - prepared) * 1000000)::bigint \
    FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()";

/// Everything that decides whether the server can do what will be asked of it, as rows of name and
/// value: settings by their own names (milliseconds where they are times), the rest as `our:…`.
///
/// Logical replication prepares under names of its own (`pg_gid_…`), for as long as it needs.
pub(crate) fn preflight() -> String {
    const SETTINGS: &str = "'server_version', 'server_version_num', 'max_prepared_transactions', \
        'max_connections', 'superuser_reserved_connections', 'reserved_connections', 'fsync', \
        'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', \
        'standard_conforming_strings', 'default_transaction_read_only', 'tcp_user_timeout', \
        'idle_session_timeout', 'transaction_timeout', 'statement_timeout', 'data_sync_retry'";
    const OLD: &str = "FROM pg_catalog.pg_prepared_xacts \
        WHERE database = pg_catalog.current_database() AND gid NOT LIKE 'pg~_gid~_%' ESCAPE '~' \
        AND prepared < pg_catalog.clock_timestamp() - interval '1 hour'";
    const STANDBYS: &str = "SELECT count(*) AS a, count(sync_state) AS seen, \
        count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS synchronous \
        FROM pg_catalog.pg_stat_replication";
    const ROLE: &str =
        "FROM pg_catalog.pg_roles WHERE rolname = session_user AND rolconnlimit >= 0";
    const DATABASE: &str = "FROM pg_catalog.pg_database \
        WHERE datname = pg_catalog.current_database() AND datconnlimit >= 0";
    const FUNCTIONS: &str = "'pg_terminate_backend(integer, bigint)', 'pg_xact_status(xid8)'";
    format!(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ({SETTINGS}) \
         UNION ALL SELECT 'our:slots_used', count(*)::text FROM pg_catalog.pg_prepared_xacts \
         UNION ALL SELECT 'our:old_count', count(*)::text {OLD} \
         UNION ALL SELECT 'our:oldest', \
         to_char(min(prepared) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') {OLD} \
         UNION ALL SELECT name, number::text FROM ({STANDBYS}) s, LATERAL (VALUES \
         ('our:standbys', s.a), ('our:standbys_seen', s.seen), \
         ('our:standbys_synchronous', s.synchronous)) AS counted(name, number) \
         UNION ALL SELECT 'our:role_limit', rolconnlimit::text {ROLE} \
         UNION ALL SELECT 'our:database_limit', datconnlimit::text {DATABASE} \
         UNION ALL SELECT 'our:over_network', \
         CASE WHEN pg_catalog.inet_client_addr() IS NULL THEN 'f' ELSE 't' END \
         UNION ALL SELECT 'our:account', pg_catalog.quote_ident(session_user) \
         UNION ALL SELECT 'our:account_text', pg_catalog.quote_literal(session_user) \
         UNION ALL SELECT 'our:owner_text', pg_catalog.quote_literal(current_user) \
         UNION ALL SELECT 'our:database', \
         pg_catalog.quote_ident(pg_catalog.current_database()) \
         UNION ALL SELECT 'our:missing_functions', string_agg(f, ', ') \
         FROM unnest(ARRAY[{FUNCTIONS}]) f WHERE pg_catalog.to_regprocedure(f) IS NOT NULL \
         AND NOT pg_catalog.has_function_privilege(f, 'EXECUTE')"
    )
}

/// What [`checkup`](crate::checkup) judges, as rows of name and value.
///
/// `pg_stat_database` counts every session, `pg_stat_activity` shows whose they are; both to
/// everybody.
pub(crate) fn checkup() -> String {
    const SETTINGS: &str = "'server_version', 'server_version_num', 'max_connections', \
        'max_prepared_transactions', 'superuser_reserved_connections', 'reserved_connections', \
        'autovacuum_freeze_max_age'";
    const OLDEST: &str = "FROM pg_catalog.pg_prepared_xacts \
        ORDER BY pg_catalog.age(transaction) DESC LIMIT 1";
    let tables = |which: &str| {
        format!(
            "string_agg(CASE WHEN i <= 5 THEN name ELSE '{MORE}' END, '{SEPARATOR}' ORDER BY i) \
             FROM (SELECT pg_catalog.quote_ident(nspname) || '.' || \
             pg_catalog.quote_ident(relname), row_number() OVER (ORDER BY nspname, relname) \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE {which} LIMIT 6) t(name, i)"
        )
    };
    format!(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ({SETTINGS}) \
         UNION ALL (SELECT 'our:oldest_age', pg_catalog.age(transaction)::text {OLDEST}) \
         UNION ALL (SELECT 'our:oldest_database', pg_catalog.quote_ident(database) {OLDEST}) \
         UNION ALL SELECT 'our:sessions', sum(numbackends)::text FROM pg_catalog.pg_stat_database \
         UNION ALL SELECT 'our:own_sessions', count(*)::text FROM pg_catalog.pg_stat_activity \
         WHERE usename = session_user AND datname = pg_catalog.current_database() \
         UNION ALL SELECT 'our:unlogged', {} UNION ALL SELECT 'our:foreign', {}",
        tables("relkind = 'r' AND relpersistence = 'u'"),
        tables(
            "relkind = 'f' AND EXISTS (SELECT FROM pg_catalog.pg_foreign_table f \
             JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver \
             JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw \
             WHERE f.ftrelid = c.oid AND w.fdwname = 'postgres_fdw')"
        ),
    )
}

/// What recovery's account may do with what the application's leaves behind, one row: its name, may
/// it become that role (and the role that prepares, where a setting changes it), has it its rights,
/// is it below it.
pub(crate) fn account(seen: &Seen) -> String {
    let (app, owner) = (seen.text("our:account_text"), seen.text("our:owner_text"));
    let become_it = if seen.version() >= 16 {
        "SET"
    } else {
        "MEMBER"
    };
    let is_superuser =
        |role: &str| format!("(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = {role})");
    format!(
        "SELECT pg_catalog.quote_ident(session_user), \
         pg_catalog.pg_has_role({app}, '{become_it}') \
         AND pg_catalog.pg_has_role({owner}, '{become_it}'), \
         pg_catalog.pg_has_role({app}, 'USAGE'), {} AND NOT {}",
        is_superuser(app),
        is_superuser("session_user"),
    )
}

/// Makes a session as fresh as a new one, but for two things that `DISCARD ALL` does: it keeps
/// prepared statements, because the driver has some of its own, and tells of each whether it was
/// prepared by SQL (see [`DEALLOCATE`]); and it keeps plans, which are nobody's state (the server
/// makes anew what a changed path, role or table has outdated) and dear to make: that of one
/// foreign key cost a branch a tenth of the server's time (measured).
///
/// It is sent behind the end of a branch, before that is answered. If that was refused, it fails in
/// the block that is still open, or does no harm where none is.
///
/// What it asks has neither condition nor aggregate, which cost as much as all the rest (measured).
/// The role goes with the session's authorization, but not everything of it in releases before
/// 15.9, 16.5 and 17.1 (CVE-2024-10978).
pub(crate) fn wipe(vanished_after: Duration) -> String {
    format!(
        "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; {}; \
         UNLISTEN *; DISCARD TEMP; \
         DISCARD SEQUENCES; SELECT pg_catalog.pg_advisory_unlock_all(); \
         SELECT (pg_catalog.pg_prepared_statement()).from_sql",
        limits(vanished_after)
    )
}

/// How many statements [`wipe`] holds: each has to be answered.
pub(crate) const WIPE_STATEMENTS: usize = 13;

/// Tells what drops the statements that were prepared by SQL.
pub(crate) const DEALLOCATE: &str = "SELECT pg_catalog.string_agg('DEALLOCATE ' || \
    pg_catalog.quote_ident(name), '; ') FROM pg_catalog.pg_prepared_statements WHERE from_sql";

/// Lets the server notice that our host has vanished, and end the session with its locks.
pub(crate) fn limits(vanished_after: Duration) -> String {
    let ms = millis(vanished_after);
    let interval = (ms / 4000).max(1);
    format!(
        "SET tcp_user_timeout = {ms}; SET tcp_keepalives_idle = {interval}; \
         SET tcp_keepalives_interval = {interval}; SET tcp_keepalives_count = 3"
    )
}

/// Begins a branch, in one round trip.
///
/// A reader takes its snapshot here, because until the first snapshot `SET TRANSACTION READ WRITE`
/// would still be possible.
pub(crate) fn begin(settings: &Settings, env: &BranchEnv, gid: &Gid) -> String {
    let isolation = settings
        .isolation
        .map_or("", |isolation| isolation.clause());
    let (access, snapshot) = if env.read_only {
        (" READ ONLY", "; SELECT 1")
    } else {
        ("", "")
    };
    let name = application_name(&settings.application_name, env);
    format!(
        "BEGIN{isolation}{access}; SET LOCAL unanimous.xid = '{gid}'; \
         SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {}; \
         SET LOCAL application_name = '{name}'{snapshot}",
        millis(env.lock_timeout),
        millis(env.idle_timeout),
    )
}

/// Prepares the branch, if it still is what it was begun as, on the server's synchronous standbys,
/// too: with `off` and `local` neither prepare nor the end behind it would wait for them, and with
/// other `client_min_messages` nobody would hear that the wait was cancelled. A `SET` costs a tenth
/// of `set_config` (measured), which is why `durability`, the value of [`AT_LEAST_ON`], was asked
/// for beforehand. Its one row is the transaction's number (`xid8`).
pub(crate) fn prepare(gid: &Gid, backend_pid: i32, durability: &str) -> String {
    let guard = guard(
        gid,
        backend_pid,
        "",
        "pg_catalog.pg_current_xact_id()::text",
    );
    format!(
        "SELECT {guard}; SET client_min_messages = warning; \
         SET synchronous_commit = {durability}; SAVEPOINT unanimous_guard; \
         PREPARE TRANSACTION '{gid}'"
    )
}

/// The guard of a commit in one phase, and its durability: `off` would lose an acknowledged commit
/// (observed), the only stronger level is kept. Its row is the transaction's number, or NULL if it
/// has not written.
pub(crate) fn one_phase_guard(gid: &Gid, backend_pid: i32) -> String {
    let xid8 = "pg_catalog.pg_current_xact_id_if_assigned()::text";
    let guard = guard(gid, backend_pid, "", xid8);
    let told = tell_warnings(true);
    format!(
        "SELECT {guard}, {told}, pg_catalog.set_config('synchronous_commit', {AT_LEAST_ON}, true)"
    )
}

/// How many statements [`ONE_PHASE_END`] holds: each has to be answered.
pub(crate) const ONE_PHASE_END_STATEMENTS: usize = 2;

/// The end of a commit in one phase. Sent together with [`one_phase_guard`], in a string of its
/// own so that the guard's row is not held back until the commit is answered.
pub(crate) const ONE_PHASE_END: &str = "SAVEPOINT unanimous_guard; COMMIT";

/// How many statements [`commit_last`] holds, if the log's is one: each has to be answered.
pub(crate) const COMMIT_LAST_STATEMENTS: usize = 5;

/// Where the branch's own limit for locks is kept meanwhile.
const LIMIT_KEPT: &str = "unanimous.lock_timeout";

/// Commits the branch together with the log's `statement`, in one string that stops at the first
/// error. A key or an epoch that somebody else holds is not awaited for ever; for what deferred
/// constraints lock at the commit the branch's own limit holds.
pub(crate) fn commit_last(gid: &Gid, backend_pid: i32, statement: &str) -> String {
    let guard = guard(gid, backend_pid, "", "''");
    format!(
        "SELECT {guard}, {}, \
         pg_catalog.set_config('synchronous_commit', {AT_LEAST_ON}, true), \
         pg_catalog.set_config('{LIMIT_KEPT}', pg_catalog.current_setting('lock_timeout'), true), \
         pg_catalog.set_config('lock_timeout', '{}', true); \
         SAVEPOINT unanimous_guard; {statement}; \
         SELECT pg_catalog.set_config('lock_timeout', \
         pg_catalog.current_setting('{LIMIT_KEPT}'), true); COMMIT",
        tell_warnings(true),
        table::lock_timeout()
    )
}

/// Fails where another server process answers than the one that was set up, as behind a pooler in
/// transaction mode.
pub(crate) fn own_session(backend_pid: i32) -> String {
    format!(
        "SELECT CASE WHEN pg_catalog.pg_backend_pid() <> {backend_pid} \
         THEN pg_catalog.current_setting('{OTHER_SESSION}') ELSE '' END"
    )
}

/// Ends a reader, if it still is one.
pub(crate) fn end_reader(gid: &Gid, backend_pid: i32) -> String {
    let still_reads = format!(
        "WHEN pg_catalog.current_setting('transaction_read_only') <> 'on' \
         THEN pg_catalog.current_setting('{MAY_WRITE}') "
    );
    let guard = guard(gid, backend_pid, &still_reads, "'reader'");
    format!("SELECT {guard}; SAVEPOINT unanimous_guard; COMMIT")
}

/// Ends a prepared branch. Has to be alone in its string (25001 otherwise).
pub(crate) fn commit_prepared(gid: &Gid) -> String {
    format!("COMMIT PREPARED '{gid}'")
}

/// Ends a prepared branch. Has to be alone in its string (25001 otherwise).
pub(crate) fn rollback_prepared(gid: &Gid) -> String {
    format!("ROLLBACK PREPARED '{gid}'")
}

/// Who may end a prepared branch, as `SET ROLE` takes it.
pub(crate) fn owner_of(gid: &Gid) -> String {
    format!(
        "SELECT pg_catalog.quote_ident(owner) FROM pg_catalog.pg_prepared_xacts \
         WHERE gid = '{gid}' AND database = pg_catalog.current_database()"
    )
}

/// Which guard spoke, if the error is a guard's: 42704 (no such setting), naming ours.
pub(crate) fn guard_in(code: &str, message: &str) -> Option<Guard> {
    if code != "42704" {
        return None;
    }
    [
        (MARKER_GONE, Guard::MarkerGone),
        (OTHER_SESSION, Guard::OtherSession),
        (MAY_WRITE, Guard::MayWrite),
        (EPOCH_CLOSED, Guard::EpochClosed),
    ]
    .into_iter()
    .find_map(|(name, guard)| message.contains(name).then_some(guard))
}

fn guard(gid: &Gid, backend_pid: i32, further: &str, value: &str) -> String {
    format!(
        "CASE WHEN pg_catalog.pg_backend_pid() <> {backend_pid} \
         THEN pg_catalog.current_setting('{OTHER_SESSION}') \
         WHEN pg_catalog.current_setting('unanimous.xid', true) IS DISTINCT FROM '{gid}' \
         THEN pg_catalog.current_setting('{MARKER_GONE}') {further}ELSE {value} END"
    )
}

/// The prefix is cut rather than the gtrid, by which an operator finds the transaction.
fn application_name(prefix: &str, env: &BranchEnv) -> String {
    let gtrid = env.xid.gtrid.to_string();
    let room = APPLICATION_NAME_BYTES_MAX.saturating_sub(gtrid.len() + 1);
    let prefix: String = prefix.chars().take(room).collect();
    if prefix.is_empty() {
        gtrid
    } else {
        format!("{prefix} {gtrid}")
    }
}

/// Milliseconds as a server setting takes them: 0 would mean "for ever" and is not written.
fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis())
        .unwrap_or(i32::MAX)
        .max(1)
}

#[cfg(test)]
#[path = "sql_test.rs"]
mod sql_test;
