//! The statement of a last resource at a server in memory, and the row that it puts there: as long
//! as the branch's transaction runs, dropping it rolls it back.

use unanimous_core::ports::{DecisionRow, EpochSlot};
use unanimous_core::xid::Epoch;

use crate::memory_table::MemoryTable;
use crate::server_state::Writes;

/// `branches` comes last and as it is: nothing in it can be taken for anything else.
pub(crate) fn last_statement(place: &str, at: EpochSlot, row: &DecisionRow) -> String {
    let EpochSlot { epoch, slot } = at;
    let DecisionRow { gtrid, branches } = row;
    format!("decide at {place}\n{epoch} {slot} {gtrid}\n{branches}")
}

fn parse(statement: &str) -> Option<(&str, EpochSlot, DecisionRow)> {
    let (place, rest) = statement.strip_prefix("decide at ")?.split_once('\n')?;
    let (key, branches) = rest.split_once('\n')?;
    let mut words = key.split(' ');
    let at = EpochSlot {
        epoch: Epoch(words.next()?.parse().ok()?),
        slot: words.next()?.parse().ok()?,
    };
    let gtrid = words.next()?.parse().ok()?;
    let branches = branches.to_string();
    words
        .next()
        .is_none()
        .then_some((place, at, DecisionRow { gtrid, branches }))
}

/// A pending row whose transaction has not ended.
pub(crate) struct LastRow {
    table: MemoryTable,
    /// Nothing once it is committed.
    number: Option<u64>,
}

impl std::fmt::Debug for LastRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LastRow")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl LastRow {
    pub(crate) fn insert(table: &MemoryTable, statement: &str) -> Result<Self, &'static str> {
        let (place, at, row) = parse(statement).ok_or("it is not a statement of a table's")?;
        if !table.is_place(place) {
            return Err("that table is not in this database");
        }
        let number = table.lock().insert_last(at, row)?;
        Ok(Self {
            table: table.clone(),
            number: Some(number),
        })
    }

    /// The branch commits; `before` is what the rows were that it has written.
    pub(crate) fn commit(mut self, before: Writes) {
        let number = self.number.take();
        self.table.lock().commit_branch(number, before);
        self.table.note_unlocked();
    }
}

impl Drop for LastRow {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.table.lock().drop_last(number);
            self.table.note_unlocked();
        }
    }
}
