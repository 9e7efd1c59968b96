//! What is asked of the servers, as text. Pure: names and values in, statements out.
//!
//! * Every name is qualified and quoted: the application may have changed its current database.
//! * A value is quoted in a way that means the same under every SQL mode and character set.
//! * `LOCK IN SHARE MODE` is the one form of a shared lock that both servers take; on MySQL it asks
//!   for no more privileges than `FOR SHARE` (seen on 9.7: `SELECT` will do).
//! * What locks rows names the index by which it finds them. In a small table the servers would
//!   rather look at every row, and wait for those that others work on.
//! * A write that has no other purpose than to be forced raises a column `writes`. An upsert that
//!   changed nothing would not be: InnoDB flushes nothing for a transaction that wrote nothing, and
//!   without a binary log others see a row before it is flushed.

use std::fmt::Write as _;
use std::time::Duration;

use unanimous_core::ports::{DecisionRow, EpochSlot, SLOTS, ServerIdentity};
use unanimous_core::xid::{Epoch, Gtrid};

use super::schema::{self, VERSION};
use crate::session::Flavour;

/// The longest label that is kept, in characters.
const LABEL_CHARS_MAX: usize = 255;

/// Nothing on a server that takes writes, an error (1690) on one that is read-only: for whoever has
/// the right to write there, too. What newer versions of MariaDB call the setting's values is text.
pub(super) const IF_WRITABLE: &str =
    "SELECT ~0 + (CAST(@@GLOBAL.read_only AS CHAR) NOT IN ('0', 'OFF'))";

/// The tables' names, as statements take them.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    /// As a value.
    database: String,
    pub(super) log: String,
    pub(super) opening: String,
    pub(super) epoch: String,
    pub(super) decision: String,
    pub(super) heuristic: String,
    pub(super) by_hand: String,
    pub(super) member: String,
}

impl Tables {
    pub(super) fn of(database: &str) -> Self {
        Self::with(database, &format!("`{}`.", database.replace('`', "``")))
    }

    /// For a person, who has chosen the database.
    pub(super) fn of_current_database() -> Self {
        Self::with("", "")
    }

    fn with(database: &str, prefix: &str) -> Self {
        let table = |name: &str| format!("{prefix}`unanimous_{name}`");
        Self {
            database: quoted(database),
            log: table("log"),
            opening: table("opening"),
            epoch: table("epoch"),
            decision: table("decision"),
            heuristic: table("heuristic"),
            by_hand: table("by_hand"),
            member: table("member"),
        }
    }

    pub(super) fn columns_of_opening(&self) -> String {
        format!(
            "SELECT l.manager, o.epoch, o.random, o.identity, o.label, o.closed IS NOT NULL, \
             o.released FROM {} o JOIN {} l",
            self.opening, self.log
        )
    }

    /// One query for each table, all without a row but the first: that they are there, and as they
    /// should be.
    pub(super) fn check(&self) -> Vec<String> {
        let none = |table: &str, columns: &str| format!("SELECT {columns} FROM {table} LIMIT 0");
        vec![
            format!("SELECT version, manager, moved, writes FROM {}", self.log),
            none(
                &self.opening,
                "epoch, random, identity, label, closed, released, writes",
            ),
            none(&self.epoch, "epoch, slot, closed"),
            none(
                &self.decision,
                "gtrid, epoch, state, branches, decided, writes",
            ),
            none(&self.heuristic, "gtrid, resource, ended, noted, writes"),
            none(
                &self.by_hand,
                "id, number, gtrid, resource, state, words, writes",
            ),
            none(&self.member, "epoch, beats, beat_at, writes"),
        ]
    }

    /// Those that another engine keeps, which would know nothing of transactions.
    pub(super) fn engines(&self) -> String {
        format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = {} AND \
             table_name IN ('unanimous_log', 'unanimous_opening', 'unanimous_epoch', \
             'unanimous_decision', 'unanimous_heuristic', 'unanimous_by_hand', \
             'unanimous_member') \
             AND engine <> 'InnoDB'",
            self.database
        )
    }

    /// The lock of the one row makes joins wait for each other. Without that row, or with one of
    /// another version or a log that was moved, the epoch is NULL, and its insertion fails (1048).
    pub(super) fn join(&self, random: u64, identity: &ServerIdentity, label: &str) -> Vec<String> {
        let label: String = label.chars().take(LABEL_CHARS_MAX).collect();
        let slots: Vec<_> = (0..SLOTS)
            .map(|slot| format!("(@unanimous_epoch, {slot})"))
            .collect();
        vec![
            self.force(),
            format!(
                "SET @unanimous_epoch = (SELECT (SELECT CAST(COALESCE(MAX(epoch), 0) + 1 AS \
                 UNSIGNED) FROM {}) FROM {} WHERE one = 1 AND version = {VERSION} AND \
                 moved IS NULL)",
                self.opening, self.log
            ),
            format!(
                "INSERT INTO {} (epoch, random, identity, label) VALUES (@unanimous_epoch, \
                 {random}, {}, {})",
                self.opening,
                quoted(identity.as_str()),
                quoted(&label)
            ),
            format!(
                "INSERT INTO {} (epoch, slot) VALUES {}",
                self.epoch,
                slots.join(", ")
            ),
            format!(
                "INSERT INTO {} (epoch, beat_at) VALUES (@unanimous_epoch, UTC_TIMESTAMP(6))",
                self.member
            ),
            format!(
                "{} WHERE o.epoch = @unanimous_epoch",
                self.columns_of_opening()
            ),
        ]
    }

    /// The slot and the rows, in this order.
    pub(super) fn decide(
        &self,
        flavour: Flavour,
        at: EpochSlot,
        rows: &[DecisionRow],
    ) -> Vec<String> {
        let mut statements = vec![self.slot(at)];
        if !rows.is_empty() {
            statements.push(self.insert_if_open(flavour, at, rows));
            statements.push(self.rows_of(rows));
        }
        statements
    }

    /// What stands of these, as [`decide`](Self::decide) answers it: nothing is put there.
    pub(super) fn decided(&self, at: EpochSlot, rows: &[DecisionRow]) -> Vec<String> {
        let mut statements = vec![self.slot(at)];
        if !rows.is_empty() {
            statements.extend(["DO 0".to_owned(), self.rows_of(rows)]);
        }
        statements
    }

    fn slot(&self, at: EpochSlot) -> String {
        let EpochSlot { epoch, slot } = at;
        format!(
            "SELECT closed FROM {} WHERE epoch = {epoch} AND slot = {slot} LOCK IN SHARE MODE",
            self.epoch
        )
    }

    /// What is deleted when an epoch is released begins with its slots: after one was missing, this
    /// says whether it was that.
    pub(super) fn released(&self, epoch: Epoch) -> String {
        format!(
            "SELECT released FROM {} WHERE epoch = {epoch}",
            self.opening
        )
    }

    fn rows_of(&self, rows: &[DecisionRow]) -> String {
        format!(
            "SELECT gtrid, state FROM {} FORCE INDEX (PRIMARY) WHERE gtrid IN ({}) \
             LOCK IN SHARE MODE",
            self.decision,
            keys(rows.iter().map(|row| row.gtrid))
        )
    }

    /// In the order of the keys, in which everybody locks them.
    fn insert_if_open(&self, flavour: Flavour, at: EpochSlot, rows: &[DecisionRow]) -> String {
        let EpochSlot { epoch, slot } = at;
        let decision = &self.decision;
        let row = match flavour {
            Flavour::MySql => "ROW",
            Flavour::MariaDb => "",
        };
        let mut values: Vec<_> = rows
            .iter()
            .map(|decision| {
                let branches = quoted(&decision.branches);
                format!("{row}('{}', {branches})", decision.gtrid)
            })
            .collect();
        values.sort_unstable();
        format!(
            "INSERT INTO {decision} (gtrid, epoch, state, branches) \
             WITH v (gtrid, branches) AS (VALUES {}) \
             SELECT v.gtrid, e.epoch, 'C', v.branches FROM v JOIN {} e \
             ON e.epoch = {epoch} AND e.slot = {slot} AND e.closed = 0 LOCK IN SHARE MODE \
             ON DUPLICATE KEY UPDATE writes = {decision}.writes + 1",
            values.join(", "),
            self.epoch
        )
    }

    /// One row and no upsert: a row that stands fails it (1062), and a slot that is closed or
    /// missing makes the epoch NULL, which a row of its own cannot hold under any SQL mode (1048).
    /// The slot is read as it is now, however old the transaction's snapshot is. On a server that
    /// is read-only it fails as well.
    pub(super) fn last_statement(&self, at: EpochSlot, row: &DecisionRow) -> String {
        let EpochSlot { epoch, slot } = at;
        format!(
            "INSERT INTO {} (gtrid, epoch, state, branches) VALUES ('{}', (SELECT e.epoch FROM {} \
             e WHERE e.epoch = {epoch} AND e.slot = {slot} AND e.closed = 0 \
             AND ({IF_WRITABLE}) > 0 LOCK IN SHARE MODE), 'C', {})",
            self.decision,
            row.gtrid,
            self.epoch,
            quoted(&row.branches)
        )
    }

    pub(super) fn put_rollback(&self, gtrid: Gtrid) -> Vec<String> {
        let (decision, epoch) = (&self.decision, gtrid.opening.epoch);
        vec![
            format!(
                "INSERT INTO {decision} (gtrid, epoch, state, branches) \
                 VALUES ('{gtrid}', {epoch}, 'R', '') \
                 ON DUPLICATE KEY UPDATE writes = {decision}.writes + 1"
            ),
            format!("SELECT state FROM {decision} WHERE gtrid = '{gtrid}' LOCK IN SHARE MODE"),
        ]
    }

    pub(super) fn complete(&self, gtrids: &[Gtrid]) -> Vec<String> {
        vec![format!(
            "UPDATE {} FORCE INDEX (PRIMARY) SET state = 'D' \
             WHERE gtrid IN ({}) AND state = 'C'",
            self.decision,
            keys(gtrids.iter().copied())
        )]
    }

    pub(super) fn forget(&self, gtrids: &[Gtrid]) -> Vec<String> {
        vec![format!(
            "DELETE d FROM {} d FORCE INDEX (PRIMARY) \
             WHERE d.gtrid IN ({}) AND d.state = 'D'",
            self.decision,
            keys(gtrids.iter().copied())
        )]
    }

    /// Heuristic ends and what people did.
    pub(super) fn ends(&self) -> Vec<String> {
        vec![
            format!(
                "SELECT resource, ended, gtrid, {} FROM {} ORDER BY noted, gtrid, resource",
                unix_time("noted"),
                self.heuristic
            ),
            format!(
                "SELECT id, gtrid, resource, state, words FROM {} ORDER BY number",
                self.by_hand
            ),
        ]
    }

    pub(super) fn decided_at(&self, gtrids: &[Gtrid]) -> Vec<String> {
        vec![format!(
            "SELECT gtrid, {} FROM {} FORCE INDEX (PRIMARY) \
             WHERE decided IS NOT NULL AND state <> 'R' AND gtrid IN ({})",
            unix_time("decided"),
            self.decision,
            keys(gtrids.iter().copied())
        )]
    }

    /// Closed by another server than the one on which it was opened, it is of none for good.
    pub(super) fn close(&self, epoch: Epoch, now: &ServerIdentity) -> Vec<String> {
        vec![
            format!("UPDATE {} SET closed = 1 WHERE epoch = {epoch}", self.epoch),
            format!(
                "UPDATE {} SET identity = {}, closed = COALESCE(closed, UTC_TIMESTAMP(6)), \
                 writes = writes + 1 WHERE epoch = {epoch}",
                self.opening,
                schema::identity_closed_by(now)
            ),
            "SELECT ROW_COUNT()".to_owned(),
        ]
    }

    /// The slots first, so that it waits for whoever looks at one.
    pub(super) fn release(&self, epoch: Epoch) -> Vec<String> {
        let (opening, decision, member) = (&self.opening, &self.decision, &self.member);
        vec![
            format!(
                "DELETE e FROM {} e FORCE INDEX (PRIMARY) WHERE e.epoch = {epoch} AND e.closed = 1",
                self.epoch
            ),
            format!(
                "UPDATE {opening} SET released = 1, writes = writes + 1 \
                 WHERE epoch = {epoch} AND closed IS NOT NULL"
            ),
            "SELECT ROW_COUNT()".to_owned(),
            format!(
                "DELETE d FROM {decision} d FORCE INDEX (by_state) \
                 JOIN {opening} o ON o.epoch = {epoch} AND o.released = 1 \
                 WHERE d.state IN ('D', 'R') AND d.epoch = {epoch}"
            ),
            format!(
                "DELETE m FROM {member} m JOIN {opening} o ON o.epoch = m.epoch \
                 WHERE o.epoch = {epoch} AND o.released = 1"
            ),
        ]
    }

    pub(super) fn beat(&self, own: Epoch) -> Vec<String> {
        let (opening, member) = (&self.opening, &self.member);
        vec![
            format!(
                "UPDATE {member} SET beats = beats + 1, beat_at = UTC_TIMESTAMP(6) \
                 WHERE epoch = {own}"
            ),
            format!(
                "SELECT m.epoch, m.beats, o.closed IS NOT NULL, \
                 GREATEST(0, TIMESTAMPDIFF(MICROSECOND, m.beat_at, UTC_TIMESTAMP(6))) \
                 FROM {member} m JOIN {opening} o ON o.epoch = m.epoch ORDER BY m.epoch"
            ),
        ]
    }

    pub(super) fn read(&self, openings_from: Epoch) -> Vec<String> {
        vec![
            format!(
                "{} WHERE o.epoch >= {openings_from} OR o.closed IS NULL ORDER BY o.epoch",
                self.columns_of_opening()
            ),
            format!(
                "SELECT gtrid, branches FROM {} WHERE state = 'C' ORDER BY gtrid",
                self.decision
            ),
        ]
    }

    /// In READ COMMITTED, in which the locks of rows that do not match are let go at once. Whoever
    /// joins updates the row of the log: so no epoch is opened after the first statement.
    pub(super) fn hold(&self) -> [String; 2] {
        [
            format!("SELECT one FROM {} LOCK IN SHARE MODE", self.log),
            format!(
                "SELECT COUNT(*) FROM {} FORCE INDEX (PRIMARY) WHERE closed = 0 FOR UPDATE",
                self.epoch
            ),
        ]
    }

    pub(super) fn closed_for(&self, age: Duration) -> Vec<String> {
        let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        // A time before year 0 is NULL, and no epoch was closed before it.
        vec![format!(
            "SELECT epoch FROM {} WHERE released = 0 AND closed <= \
             UTC_TIMESTAMP(6) - INTERVAL {micros} MICROSECOND ORDER BY epoch",
            self.opening
        )]
    }

    /// A forced write of one's own, whose only purpose that is.
    pub(super) fn force(&self) -> String {
        format!("UPDATE {} SET writes = writes + 1 WHERE one = 1", self.log)
    }

    /// The same on the newest opening, and whether there is one.
    pub(super) fn force_by_newest(&self) -> Vec<String> {
        vec![
            format!(
                "UPDATE {} SET writes = writes + 1 ORDER BY epoch DESC LIMIT 1",
                self.opening
            ),
            "SELECT ROW_COUNT()".to_owned(),
        ]
    }

    /// The same on a row that nobody else writes to, and whether it was there.
    pub(super) fn force_by(&self, member: Epoch) -> Vec<String> {
        vec![
            format!(
                "UPDATE {} SET writes = writes + 1 WHERE epoch = {member}",
                self.member
            ),
            "SELECT ROW_COUNT()".to_owned(),
        ]
    }
}

/// The servers keep it in UTC, whatever the session's time zone is.
pub(super) fn unix_time(column: &str) -> String {
    format!("TIMESTAMPDIFF(SECOND, '1970-01-01', {column})")
}

/// The keys in their order, in which everybody locks them. A gtrid needs no quoting of its own.
pub(super) fn keys(gtrids: impl Iterator<Item = Gtrid>) -> String {
    let mut keys: Vec<_> = gtrids.map(|gtrid| format!("'{gtrid}'")).collect();
    keys.sort_unstable();
    keys.join(", ")
}

/// A text that means the same under every SQL mode: a backslash, and what is not ASCII, goes out
/// in hexadecimal.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'\\';
    if text.bytes().all(is_plain) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut literal = "_utf8mb4 X'".to_owned();
    for byte in text.bytes() {
        // Writing into a string cannot fail.
        let _ = write!(literal, "{byte:02x}");
    }
    literal + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_quoted_so_that_no_sql_mode_matters() {
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's; --"), "'it''s; --'");
        assert_eq!(quoted("a\\'b"), "_utf8mb4 X'615c2762'");
        assert_eq!(quoted("\u{e4}\n"), "_utf8mb4 X'c3a40a'");
    }

    #[test]
    fn a_databases_name_is_quoted() {
        assert_eq!(Tables::of("a`b.c").log, "`a``b.c`.`unanimous_log`");
    }
}
