//! What is recorded for good, and only in a log that is here: in one that was moved away, or is
//! still to arrive, nobody would read it.
//!
//! A log is sealed only if every epoch is closed, and arrives with closed ones only. So whoever
//! locks the row of an opening that is not closed knows that the log is here; and it stays, because
//! a close waits for that lock. The log's own row would tell it as well: but a barrier holds that,
//! whoever joins meanwhile waits for it, and every further lock would wait behind. So it is locked
//! only if no epoch is open.

use unanimous_core::ports::{HandRow, TableError, TableErrorKind};
use unanimous_core::xid::{Gtrid, ResourceName};

use super::MysqlTable;
use super::request::Request;
use super::sql::{Tables, quoted};

impl Tables {
    /// Inserts it once for each row that the text behind `FROM` selects.
    pub(super) fn heuristic_from(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        end: char,
    ) -> impl Fn(&str) -> String {
        let heuristic = &self.heuristic;
        let end = quoted(&end.to_string());
        let insert = format!(
            "INSERT INTO {heuristic} (gtrid, resource, ended) SELECT '{gtrid}', '{resource}', {end}"
        );
        let else_update = format!(
            "ON DUPLICATE KEY UPDATE ended = IF({heuristic}.ended = 'h', {end}, \
             {heuristic}.ended), writes = {heuristic}.writes + 1"
        );
        move |here| format!("{insert} FROM {here} {else_update}")
    }

    /// The same of what a person does.
    pub(super) fn by_hand_from(&self, row: &HandRow) -> impl Fn(&str) -> String {
        let by_hand = &self.by_hand;
        let (state, words) = (quoted(&row.state.to_string()), quoted(&row.words));
        let insert = format!(
            "INSERT INTO {by_hand} (id, gtrid, resource, state, words) \
             SELECT {}, '{}', '{}', {state}, {words}",
            row.id, row.gtrid, row.resource
        );
        let else_update = format!(
            "ON DUPLICATE KEY UPDATE state = IF({by_hand}.state IN ('I', 'U'), {state}, \
             {by_hand}.state), writes = {by_hand}.writes + 1"
        );
        move |here| format!("{insert} FROM {here} {else_update}")
    }

    /// One row, and its lock, if the log is here: by an epoch that is open, or by its own word.
    fn here(&self) -> [String; 2] {
        let by_opening = format!(
            "{} FORCE INDEX (PRIMARY) WHERE closed IS NULL ORDER BY epoch DESC LIMIT 1 \
             LOCK IN SHARE MODE",
            self.opening
        );
        let by_log = format!(
            "{} WHERE one = 1 AND moved IS NULL LOCK IN SHARE MODE",
            self.log
        );
        [by_opening, by_log]
    }
}

impl MysqlTable {
    /// Records what `insert` makes the statement for.
    pub(super) async fn record(
        &self,
        doing: &str,
        tables: &Tables,
        insert: impl Fn(&str) -> String + Send,
    ) -> Result<(), TableError> {
        for here in tables.here() {
            let counted = "SELECT ROW_COUNT()".to_owned();
            let statements = vec![insert(&here), counted, tables.mark()];
            let answer = self.ask(doing, |_, _| Request::new(statements)).await?;
            self.refuse_moved(doing, &answer)?;
            if answer.is_counted(1) {
                return Ok(());
            }
        }
        let why = "the log arrived only just now: ask again";
        Err(self.error(TableErrorKind::Busy, doing, why))
    }
}
