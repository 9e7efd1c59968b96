//! The statements on the decision table, as text.
//!
//! Every name is qualified; strings are quoted here. What a method sends is one transaction in READ
//! COMMITTED, so that each statement sees what was committed before it (whatever the account's
//! default is), with [`limits`] of its own. Its durability is that of the [`session`]; one that
//! need not be forced says so itself.
//!
//! # Forced
//!
//! PostgreSQL flushes its log at the commit of a transaction that has a number of its own and has
//! written to the log. Inserts and updates do both, and so does locking a row. Where it can be that
//! none of these happens, [`FORCE`] locks the row of `unanimous_log` in a mode that nobody else's
//! collides with; the flush then takes along whatever had been written before, and all that was
//! read.

use std::collections::BTreeSet;
use std::time::Duration;

use unanimous_core::ports::{DecisionRow, EpochSlot, HandRow, SLOTS, ServerIdentity};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use crate::sql::EPOCH_CLOSED;

/// How long a statement may wait for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// How a transaction begins.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE";

/// A forced write that changes nothing and waits for nobody. Its row is there if it was done.
pub(super) const FORCE: &str = "SELECT 'f' FROM unanimous.unanimous_log FOR KEY SHARE";

/// Version and manager, and whether the log was moved.
pub(super) const LOG: &str = "SELECT 'l', version, manager, moved FROM unanimous.unanimous_log";

/// The log was not moved away, and does not arrive.
const IS_HERE: &str = "EXISTS (SELECT FROM unanimous.unanimous_log WHERE moved IS NULL)";

/// The beginning of a list of openings. Openings are read before rows, so that every row of an
/// epoch that was seen closed is seen, too.
pub(super) const OPENINGS: &str = "SELECT 'o', \
    pg_catalog.concat_ws('-', l.manager, o.epoch, o.nonce, 0), \
    o.identity, o.label, o.closed_at IS NOT NULL, o.released_at IS NOT NULL \
    FROM unanimous.unanimous_opening o LEFT JOIN unanimous.unanimous_log l ON true";

/// How many milliseconds a statement on the table may wait for a lock.
pub(crate) const fn lock_timeout() -> u128 {
    LOCK_TIMEOUT.as_millis()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Answered when it survives a crash.
    Forced,
    /// May be lost.
    Lazy,
}

/// What a session of the table is set to, once: a commit is forced.
pub(crate) fn session() -> String {
    crate::sql::durable()
}

/// What holds in each string that is sent, and ends with it: a limit for locks, and that names are
/// the server's [own](crate::sql::OWN_NAMES). A pooler that is yet to be found gives the session to
/// others.
pub(super) fn limits() -> [String; 2] {
    [
        crate::sql::OWN_NAMES.to_owned(),
        format!("SET LOCAL lock_timeout = {}", lock_timeout()),
    ]
}

/// These statements as one transaction, on a session that was set to [`session`].
pub(super) fn transaction(
    durability: Durability,
    statements: impl IntoIterator<Item = String>,
) -> Vec<String> {
    let mut all = vec![BEGIN.to_owned()];
    match durability {
        Durability::Forced => {}
        Durability::Lazy => all.push("SET LOCAL synchronous_commit = off".to_owned()),
    }
    all.extend(statements);
    all.push("COMMIT".to_owned());
    all
}

/// These questions as one transaction, in which all see the same.
pub(super) fn snapshot(questions: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all = vec!["BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY".to_owned()];
    all.extend(questions);
    all.push("COMMIT".to_owned());
    all
}

/// The row of `unanimous_log` is locked from the first statement on, so two that join at once get
/// different epochs, and nobody joins a log that was moved.
pub(super) fn join(random: u64, label: &str, identity: &ServerIdentity) -> Vec<String> {
    let label: String = label.chars().filter(|c| !c.is_control()).collect();
    let opening = Opening {
        manager: ManagerId::from_bytes([0; 10]),
        epoch: Epoch(0),
        nonce: random,
    };
    vec![
        "UPDATE unanimous.unanimous_log SET last_epoch = last_epoch + 1 WHERE moved IS NULL"
            .to_owned(),
        format!(
            "INSERT INTO unanimous.unanimous_opening (epoch, nonce, identity, label) \
             SELECT last_epoch, '{}', {}, {} FROM unanimous.unanimous_log WHERE moved IS NULL",
            nonce(opening),
            quoted(identity.as_str()),
            quoted(&label)
        ),
        format!(
            "INSERT INTO unanimous.unanimous_epoch (epoch, slot, closed) \
             SELECT last_epoch, slot, false FROM unanimous.unanimous_log, \
             pg_catalog.generate_series(0, {}) slot WHERE moved IS NULL",
            SLOTS - 1
        ),
        "INSERT INTO unanimous.unanimous_member (epoch, beats, beat_at) \
         SELECT last_epoch, 0, pg_catalog.clock_timestamp() FROM unanimous.unanimous_log \
         WHERE moved IS NULL"
            .to_owned(),
        format!("{OPENINGS} WHERE o.epoch = l.last_epoch AND l.moved IS NULL"),
    ]
}

/// The slot is locked first, open or closed, and the lock answers with the row as it is then. So
/// the statements behind it, each of which sees what was committed before it, see what is so.
///
/// The opening is asked for only where the slot is not there any more.
pub(super) fn decide(at: EpochSlot, rows: &[DecisionRow]) -> Vec<String> {
    let (epoch, of_slot) = (at.epoch, of_slot(at));
    let mut statements = vec![lock_slot(at)];
    if !rows.is_empty() {
        statements.push(insert(at, rows));
        statements.push(rows_of(rows));
    }
    statements.push(format!(
        "SELECT 'r' FROM unanimous.unanimous_opening WHERE epoch = {epoch} \
         AND released_at IS NOT NULL AND NOT EXISTS (SELECT {of_slot}) FOR KEY SHARE"
    ));
    statements
}

/// The same, where none of the rows is expected to be there: the insert answers with those that it
/// has put there.
pub(super) fn put(at: EpochSlot, rows: &[DecisionRow]) -> Vec<String> {
    let insert = insert(at, rows);
    vec![
        lock_slot(at),
        format!("{insert} RETURNING 'd', gtrid, state, ''"),
    ]
}

fn of_slot(EpochSlot { epoch, slot }: EpochSlot) -> String {
    format!("FROM unanimous.unanimous_epoch WHERE epoch = {epoch} AND slot = {slot}")
}

fn lock_slot(at: EpochSlot) -> String {
    format!("SELECT 's', closed {} FOR SHARE", of_slot(at))
}

fn insert(at: EpochSlot, rows: &[DecisionRow]) -> String {
    let mut sorted: Vec<_> = rows
        .iter()
        .map(|row| (row.gtrid.to_string(), row))
        .collect();
    // Two that insert the same keys never wait for each other in a ring.
    sorted.sort_by(|one, other| one.0.cmp(&other.0));
    let values: Vec<_> = sorted
        .iter()
        .map(|(gtrid, row)| format!("('{gtrid}', {})", quoted(&row.branches)))
        .collect();
    format!(
        "INSERT INTO unanimous.unanimous_decision (gtrid, epoch, state, branches) \
         SELECT v.gtrid, {}, 'C', v.branches FROM (VALUES {}) v (gtrid, branches) \
         WHERE NOT (SELECT closed {}) ON CONFLICT (gtrid) DO NOTHING",
        at.epoch,
        values.join(", "),
        of_slot(at)
    )
}

/// What stands of these, forced: nothing is put there.
pub(super) fn decided(rows: &[DecisionRow]) -> Vec<String> {
    let mut statements = vec![FORCE.to_owned()];
    if !rows.is_empty() {
        statements.insert(0, rows_of(rows));
    }
    statements
}

fn rows_of(rows: &[DecisionRow]) -> String {
    let keys: Vec<_> = rows.iter().map(|row| format!("'{}'", row.gtrid)).collect();
    format!(
        "SELECT 'd', gtrid, state, '' FROM unanimous.unanimous_decision WHERE gtrid IN ({})",
        keys.join(", ")
    )
}

/// A plain insert: an upsert would commit over a refusal that stands. Where there is no open slot,
/// it asks for a setting that does not exist, whose name then says in the error what was wrong.
pub(super) fn last_statement(at: EpochSlot, row: &DecisionRow) -> String {
    let EpochSlot { epoch, slot } = at;
    format!(
        "INSERT INTO unanimous.unanimous_decision (gtrid, epoch, state, branches) \
         VALUES ('{}', coalesce((SELECT epoch FROM unanimous.unanimous_epoch \
         WHERE epoch = {epoch} AND slot = {slot} AND NOT closed FOR SHARE), \
         pg_catalog.current_setting('{EPOCH_CLOSED}')::bigint), 'C', {})",
        row.gtrid,
        quoted(&row.branches)
    )
}

/// The insert waits for whoever is inserting the key.
pub(super) fn put_rollback(gtrid: Gtrid) -> Vec<String> {
    let epoch = gtrid.opening.epoch;
    vec![
        format!(
            "INSERT INTO unanimous.unanimous_decision (gtrid, epoch, state, branches) \
             VALUES ('{gtrid}', {epoch}, 'R', '') ON CONFLICT (gtrid) DO NOTHING"
        ),
        row_of(gtrid),
        FORCE.to_owned(),
    ]
}

fn row_of(gtrid: Gtrid) -> String {
    format!(
        "SELECT 'd', gtrid, state, branches FROM unanimous.unanimous_decision \
         WHERE gtrid = '{gtrid}'"
    )
}

pub(super) fn complete(gtrids: &[Gtrid]) -> String {
    format!(
        "UPDATE unanimous.unanimous_decision SET state = 'D' WHERE {}",
        locked(gtrids, 'C')
    )
}

pub(super) fn forget(gtrids: &[Gtrid]) -> String {
    format!(
        "DELETE FROM unanimous.unanimous_decision WHERE {}",
        locked(gtrids, 'D')
    )
}

/// Locked in one order, so that two members never wait for each other in a ring.
fn locked(gtrids: &[Gtrid], state: char) -> String {
    let keys: Vec<_> = gtrids.iter().map(|gtrid| format!("'{gtrid}'")).collect();
    format!(
        "gtrid IN (SELECT gtrid FROM unanimous.unanimous_decision WHERE gtrid IN ({}) \
         AND state = '{state}' ORDER BY gtrid FOR UPDATE)",
        keys.join(", ")
    )
}

/// Not in a log that was moved away, after [`FORCE`], for which the move waits.
pub(super) fn record_heuristic(gtrid: Gtrid, resource: &ResourceName, end: char) -> String {
    format!(
        "INSERT INTO unanimous.unanimous_heuristic AS h (gtrid, resource, ended) \
         SELECT * FROM (VALUES ('{gtrid}', '{resource}', {})) v WHERE {IS_HERE} \
         ON CONFLICT (gtrid, resource) \
         DO UPDATE SET ended = EXCLUDED.ended WHERE h.ended = 'h'",
        quoted(&end.to_string())
    )
}

/// As [`record_heuristic`].
pub(super) fn record_by_hand(row: &HandRow) -> String {
    format!(
        "INSERT INTO unanimous.unanimous_by_hand AS b (id, gtrid, resource, state, words) \
         SELECT * FROM (VALUES {}) v WHERE {IS_HERE} \
         ON CONFLICT (id) DO UPDATE SET state = EXCLUDED.state \
         WHERE b.state IN ('I', 'U')",
        by_hand_values(row)
    )
}

pub(super) fn by_hand_values(row: &HandRow) -> String {
    format!(
        "('{}', '{}', '{}', {}, {})",
        row.id,
        row.gtrid,
        row.resource,
        quoted(&row.state.to_string()),
        quoted(&row.words)
    )
}

/// Heuristic ends and what people did.
pub(super) fn ends() -> Vec<String> {
    vec![
        format!(
            "SELECT 'g', resource, ended, gtrid, {} FROM unanimous.unanimous_heuristic \
             ORDER BY noted_at, gtrid, resource",
            unix_time("noted_at")
        ),
        "SELECT 'a', id, gtrid, resource, state, words FROM unanimous.unanimous_by_hand \
         ORDER BY number"
            .to_owned(),
    ]
}

pub(super) fn decided_at(gtrids: &[Gtrid]) -> String {
    format!(
        "SELECT 'w', gtrid, {} FROM unanimous.unanimous_decision \
         WHERE decided_at IS NOT NULL AND state <> 'R' AND gtrid IN ({})",
        unix_time("decided_at"),
        keys(gtrids)
    )
}

pub(super) fn unix_time(column: &str) -> String {
    format!("floor(extract(epoch FROM {column}))::bigint")
}

/// The opening first: who closes the same epoch at the same time waits there, and not in a ring.
pub(super) fn close(epoch: Epoch) -> Vec<String> {
    vec![
        format!(
            "UPDATE unanimous.unanimous_opening \
             SET closed_at = coalesce(closed_at, pg_catalog.clock_timestamp()) \
             WHERE epoch = {epoch} RETURNING 'c'"
        ),
        format!(
            "UPDATE unanimous.unanimous_epoch SET closed = true \
             WHERE epoch = {epoch} AND NOT closed"
        ),
    ]
}

pub(super) fn release(epoch: Epoch) -> Vec<String> {
    let released = format!(
        "EXISTS (SELECT FROM unanimous.unanimous_opening \
         WHERE epoch = {epoch} AND released_at IS NOT NULL)"
    );
    vec![
        format!(
            "UPDATE unanimous.unanimous_opening \
             SET released_at = coalesce(released_at, pg_catalog.clock_timestamp()) \
             WHERE epoch = {epoch} AND closed_at IS NOT NULL RETURNING 'c'"
        ),
        format!(
            "DELETE FROM unanimous.unanimous_decision \
             WHERE epoch = {epoch} AND state IN ('D', 'R') AND {released}"
        ),
        format!("DELETE FROM unanimous.unanimous_epoch WHERE epoch = {epoch} AND {released}"),
        format!("DELETE FROM unanimous.unanimous_member WHERE epoch = {epoch} AND {released}"),
    ]
}

pub(super) fn beat(own: Epoch) -> Vec<String> {
    vec![
        format!(
            "UPDATE unanimous.unanimous_member \
             SET beats = beats + 1, beat_at = pg_catalog.clock_timestamp() WHERE epoch = {own}"
        ),
        "SELECT 'b', m.epoch, m.beats, o.closed_at IS NOT NULL, greatest(0, \
         extract(epoch FROM pg_catalog.clock_timestamp() - m.beat_at) * 1000)::bigint \
         FROM unanimous.unanimous_member m JOIN unanimous.unanimous_opening o ON o.epoch = m.epoch"
            .to_owned(),
    ]
}

/// What is released is closed, and has an index.
pub(super) fn read(openings_from: Epoch) -> Vec<String> {
    vec![
        format!(
            "{OPENINGS} WHERE o.epoch >= {openings_from} \
             OR o.closed_at IS NULL AND o.released_at IS NULL"
        ),
        "SELECT 'd', gtrid, state, branches FROM unanimous.unanimous_decision WHERE state = 'C'"
            .to_owned(),
    ]
}

pub(super) fn find(gtrids: &[Gtrid]) -> Vec<String> {
    let epochs: BTreeSet<Epoch> = gtrids.iter().map(|gtrid| gtrid.opening.epoch).collect();
    let epochs: Vec<_> = epochs.iter().map(ToString::to_string).collect();
    let keys = keys(gtrids);
    vec![
        format!("{OPENINGS} WHERE o.epoch IN ({})", epochs.join(", ")),
        format!(
            "SELECT 'd', gtrid, state, branches FROM unanimous.unanimous_decision \
             WHERE gtrid IN ({keys})"
        ),
        format!(
            "SELECT 'g', resource, ended, gtrid, NULL FROM unanimous.unanimous_heuristic \
             WHERE gtrid IN ({keys}) ORDER BY resource"
        ),
    ]
}

fn keys(gtrids: &[Gtrid]) -> String {
    let keys: Vec<_> = gtrids.iter().map(|gtrid| format!("'{gtrid}'")).collect();
    keys.join(", ")
}

pub(super) fn closed_for(age: Duration) -> String {
    // Longer than any server's clock has run, and no more than an interval takes.
    let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    format!(
        "SELECT 'e', epoch FROM unanimous.unanimous_opening WHERE released_at IS NULL \
         AND extract(epoch FROM pg_catalog.clock_timestamp() - closed_at) * 1000000 >= {micros} \
         ORDER BY epoch"
    )
}

/// The random bits of an opening, as its gtrids show them.
pub(super) fn nonce(opening: Opening) -> String {
    let gtrid = opening.gtrid(0).to_string();
    gtrid.split('-').nth(2).unwrap_or_default().to_owned()
}

/// A string constant that means the same whatever `standard_conforming_strings` says.
pub(super) fn quoted(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}
