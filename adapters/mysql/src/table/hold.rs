//! Holds new decisions, by row locks of a transaction that is left open.

use async_trait::async_trait;
use mysql_async::Error;
use unanimous_core::ports::{HELD_SILENCE_MAX, HeldDecisions, TableError, TableErrorKind};

use super::MysqlTable;
use crate::codes::{self, TablePhase};
use crate::pool::Lease;

const DOING: &str = "hold new decisions";

struct Held {
    table: MysqlTable,
    /// Never given back: it is closed with this.
    lease: Lease,
}

impl MysqlTable {
    pub(super) async fn hold_decisions(&self) -> Result<Box<dyn HeldDecisions>, TableError> {
        let tables = self.names(DOING).await?;
        let lease = self.resource.lend_control().await;
        let mut lease = lease.map_err(|error| self.not_sent(DOING, error))?;
        let Some(session) = lease.session() else {
            return Err(self.error(TableErrorKind::NotSent, DOING, "the connection is closed"));
        };
        let [log, slots] = tables.hold();
        // A client that is gone without a word is noticed by its silence.
        let silence = format!("SET SESSION wait_timeout = {}", HELD_SILENCE_MAX.as_secs());
        let statements = [
            silence.as_str(),
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "START TRANSACTION",
            &log,
            &slots,
        ];
        match session.rows_of_all(&statements).await {
            Ok(_) => Ok(Box::new(Held {
                table: Self {
                    resource: self.resource.clone(),
                    tables: self.tables.clone(),
                },
                lease,
            })),
            Err((_, error)) => Err(self.not_held(error)),
        }
    }

    fn not_held(&self, error: Error) -> TableError {
        let (kind, mend) = codes::table(&error, TablePhase::Work);
        self.error(kind, DOING, &format!("{error}{mend}"))
            .with_source(error)
    }
}

impl Held {
    async fn ask(&mut self, statement: &str) -> Result<(), TableError> {
        let Some(session) = self.lease.session() else {
            let why = "the connection is closed";
            return Err(self.table.error(TableErrorKind::Lost, DOING, why));
        };
        let asked = session.run(statement).await;
        asked.map_err(|error| self.table.not_held(error))
    }
}

#[async_trait]
impl HeldDecisions for Held {
    /// As long as the session is there, so is its transaction.
    async fn check(&mut self) -> Result<(), TableError> {
        self.ask("DO 0").await
    }

    async fn end(mut self: Box<Self>) -> Result<(), TableError> {
        self.ask("COMMIT AND NO CHAIN NO RELEASE").await
    }
}
