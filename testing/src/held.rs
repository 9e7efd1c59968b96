//! Whoever holds the decisions of a table in memory.

use async_trait::async_trait;
use unanimous_core::ports::{HeldDecisions, TableError, TableErrorKind};

use crate::memory_table::MemoryTable;

/// Dropping it sets them free.
pub(crate) struct HeldTable {
    table: MemoryTable,
    number: u64,
}

impl HeldTable {
    pub(crate) const fn new(table: MemoryTable, number: u64) -> Self {
        Self { table, number }
    }

    fn answer(&self) -> Result<(), TableError> {
        if self.table.lock().is_held_by(self.number) {
            return Ok(());
        }
        let why = "the session that held decisions is gone";
        Err(TableError::new(TableErrorKind::Lost, why))
    }
}

#[async_trait]
impl HeldDecisions for HeldTable {
    async fn check(&mut self) -> Result<(), TableError> {
        self.answer()
    }

    async fn end(self: Box<Self>) -> Result<(), TableError> {
        self.answer()
    }
}

impl Drop for HeldTable {
    fn drop(&mut self) {
        self.table.lock().set_free(self.number);
        self.table.note_unlocked();
    }
}
