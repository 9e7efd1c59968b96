//! Holds new decisions, by row locks of a transaction that is left open.

use async_trait::async_trait;
use mysql_async::Error;
use unanimous_core::ports::{HELD_SILENCE_MAX, HeldDecisions, TableError, TableErrorKind};

use super::MysqlTable;
use super::sql::IF_WRITABLE;
use crate::codes::{self, TablePhase};
use crate::session::Session;

const DOING: &str = "hold new decisions";

struct Held {
    table: MysqlTable,
    /// In no pool, of which it might be the only one. `None` once it was closed.
    session: Option<Session>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.close();
        }
    }
}

impl MysqlTable {
    pub(super) async fn hold_decisions(&self) -> Result<Box<dyn HeldDecisions>, TableError> {
        let tables = self.names(DOING).await?;
        let session = self.resource.inner.table.session_of_its_own().await;
        let session = session.map_err(|error| self.not_sent(DOING, error))?;
        let [log, slots] = tables.hold();
        // A client that is gone without a word is noticed by its silence.
        let silence = format!("SET SESSION wait_timeout = {}", HELD_SILENCE_MAX.as_secs());
        let statements = [
            silence.as_str(),
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "START TRANSACTION",
            &log,
            &slots,
            IF_WRITABLE,
        ];
        let mut held = Held {
            table: Self {
                resource: self.resource.clone(),
                tables: self.tables.clone(),
            },
            session: Some(session),
        };
        held.ask(&statements).await?;
        Ok(Box::new(held))
    }

    fn not_held(&self, error: Error) -> TableError {
        let (kind, mend) = codes::table(&error, TablePhase::Work);
        self.error(kind, DOING, &format!("{error}{mend}"))
            .with_source(error)
    }
}

impl Held {
    async fn ask(&mut self, statements: &[&str]) -> Result<(), TableError> {
        let Some(session) = &mut self.session else {
            let why = "the connection is closed";
            return Err(self.table.error(TableErrorKind::Lost, DOING, why));
        };
        match session.rows_of_all(statements).await {
            Ok(_) => Ok(()),
            Err((_, error)) => Err(self.table.not_held(error)),
        }
    }
}

#[async_trait]
impl HeldDecisions for Held {
    /// As long as the session is there, so is its transaction.
    async fn check(&mut self) -> Result<(), TableError> {
        self.ask(&["DO 0"]).await
    }

    async fn end(mut self: Box<Self>) -> Result<(), TableError> {
        self.ask(&["COMMIT AND NO CHAIN NO RELEASE"]).await
    }
}
