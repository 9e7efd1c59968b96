//! Holds new decisions, by row locks of a transaction that is left open.
//!
//! The row of `unanimous_log` is locked first, shared: whoever joins updates it. So the slots that
//! are locked next are those of all epochs that are open, and no other is opened meanwhile.

use async_trait::async_trait;
use unanimous_core::ports::{HELD_SILENCE_MAX, HeldDecisions, TableError};

use super::sql::{Durability, transaction};
use super::{Table, send};
use crate::codes;
use crate::failure::Failure;
use crate::session::Session;

const ASKED: &str = "cannot hold new decisions";

/// In the order in which nobody else locks more than one: who closes an epoch may meet it in a
/// ring, and one of the two is told to ask again.
const SLOTS: &str = "SELECT '', slot FROM unanimous.unanimous_epoch WHERE NOT closed \
    ORDER BY epoch, slot FOR UPDATE";

/// PostgreSQL 17 can end transactions that are open for long; older ones do not know the setting.
const UNLIMITED: &str = "SELECT '', pg_catalog.set_config(name, '0', true) \
    FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'";

struct Held {
    table: Table,
    /// In no pool, of which it might be the only one; closed with this.
    session: Session,
}

pub(super) async fn hold(table: &Table) -> Result<Box<dyn HeldDecisions>, TableError> {
    let session = table.resource.pools().session_of_its_own().await;
    let session = session.map_err(|failure| {
        let (kind, mend) = codes::table_unsent(failure.answer());
        table.failed(kind, ASKED, failure, mend)
    })?;
    match send(&session, &statements()).await {
        Ok(_) => Ok(Box::new(Held {
            table: table.clone(),
            session,
        })),
        Err(failure) => Err(failed(table, failure)),
    }
}

/// A transaction without its end. A client that is gone without a word is noticed by its silence.
fn statements() -> Vec<String> {
    let silence = HELD_SILENCE_MAX.as_millis();
    let mut all = transaction(
        Durability::Lazy,
        [
            format!(
                "SELECT '', pg_catalog.set_config('idle_in_transaction_session_timeout', \
                 '{silence}', true)"
            ),
            UNLIMITED.to_owned(),
            "SELECT '' FROM unanimous.unanimous_log FOR SHARE".to_owned(),
            SLOTS.to_owned(),
        ],
    );
    all.pop();
    all
}

fn failed(table: &Table, failure: Failure) -> TableError {
    let (kind, mend) = codes::table_meaning(failure.answer());
    table.failed(kind, ASKED, failure, mend)
}

impl Held {
    async fn ask(&self, statement: &str) -> Result<(), TableError> {
        match self.session.run(statement).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(failed(&self.table, failure)),
        }
    }
}

#[async_trait]
impl HeldDecisions for Held {
    /// As long as the session is there, so is its transaction.
    async fn check(&mut self) -> Result<(), TableError> {
        self.ask("SELECT 1").await
    }

    async fn end(self: Box<Self>) -> Result<(), TableError> {
        self.ask("COMMIT").await
    }
}
