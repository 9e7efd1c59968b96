//! One question to the table, bounded: no database makes the log wait for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use unanimous_core::ports::{DecisionTable, TableError, TableErrorKind};

use crate::bounded::bounded;

/// After that, an answer is not waited for any more. The table itself bounds its waits for locks.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long whoever joins or leaves waits for the end of a barrier.
const BARRIER_PATIENCE: Duration = Duration::from_secs(120);

const BUSY_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Desk {
    pub(super) table: Arc<dyn DecisionTable>,
}

impl Desk {
    pub(super) fn new(table: Arc<dyn DecisionTable>) -> Self {
        Self { table }
    }

    /// Asks again as long as a lock is in the way, which may be a barrier's: see
    /// [`DecisionTable::hold`]. For what nobody else waits for.
    pub(super) async fn ask_until_free<T, Q: Future<Output = Result<T, TableError>>>(
        &self,
        mut question: impl FnMut() -> Q,
    ) -> Result<T, TableError> {
        let until = Instant::now() + BARRIER_PATIENCE;
        loop {
            let answer = self.ask(question()).await;
            let is_busy = matches!(&answer, Err(error) if error.kind() == TableErrorKind::Busy);
            if !is_busy || Instant::now() >= until {
                return answer;
            }
            sleep(BUSY_PAUSE).await;
        }
    }

    /// No answer is [`TableErrorKind::Lost`].
    pub(super) async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, TableError>>,
    ) -> Result<T, TableError> {
        self.ask_within(PATIENCE, question).await
    }

    /// The same, less patiently.
    pub(super) async fn ask_within<T>(
        &self,
        limit: Duration,
        question: impl Future<Output = Result<T, TableError>>,
    ) -> Result<T, TableError> {
        let limit = limit.min(PATIENCE);
        bounded(limit, question).await.unwrap_or_else(|silence| {
            let message = format!("{}: {silence}", self.table.place());
            Err(TableError::new(TableErrorKind::Lost, message))
        })
    }
}
