//! One question to the table, bounded: no database makes the log wait for ever.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{DecisionTable, TableError, TableErrorKind};

use crate::bounded::bounded;

/// After that, an answer is not waited for any more. The table itself bounds its waits for locks.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Desk {
    pub(super) table: Arc<dyn DecisionTable>,
}

impl Desk {
    pub(super) fn new(table: Arc<dyn DecisionTable>) -> Self {
        Self { table }
    }

    /// No answer is [`TableErrorKind::Lost`].
    pub(super) async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, TableError>>,
    ) -> Result<T, TableError> {
        bounded(PATIENCE, question).await.unwrap_or_else(|silence| {
            let message = format!("{}: {silence}", self.table.place());
            Err(TableError::new(TableErrorKind::Lost, message))
        })
    }
}
