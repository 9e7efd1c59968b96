//! Whether the account of branches may write to the log's tables, as a last resource does.

use unanimous_core::ports::{Finding, Severity};

use crate::failure::Failure;
use crate::session::Session;

/// Nothing where there are no tables. The catalog may be read by everybody.
const ASK: &str = "SELECT pg_catalog.quote_ident(current_user), \
    pg_catalog.has_schema_privilege(n.oid, 'USAGE'), \
    pg_catalog.has_any_column_privilege(d.oid, 'INSERT'), \
    pg_catalog.has_any_column_privilege(e.oid, 'SELECT') \
    AND pg_catalog.has_any_column_privilege(e.oid, 'UPDATE') \
    FROM pg_catalog.pg_namespace n \
    JOIN pg_catalog.pg_class d ON d.relnamespace = n.oid AND d.relname = 'unanimous_decision' \
    JOIN pg_catalog.pg_class e ON e.relnamespace = n.oid AND e.relname = 'unanimous_epoch' \
    WHERE n.nspname = 'unanimous'";

/// What it lacks, in the order of the columns.
const RIGHTS: [&str; 3] = [
    "USAGE ON SCHEMA unanimous",
    "INSERT ON unanimous.unanimous_decision",
    "SELECT, UPDATE (slot) ON unanimous.unanimous_epoch",
];

/// Worth knowing, and no more: without them, it is prepared like any other.
pub(crate) async fn as_last(session: &Session) -> Result<Option<Finding>, Failure> {
    let replies = session.ask(ASK).await?;
    let account = replies.field(0).unwrap_or_default();
    let lacking = RIGHTS.iter().enumerate();
    let lacking = lacking.filter(|(number, _)| replies.field(number + 1) == Some("f"));
    let grants: Vec<_> = lacking
        .map(|(_, right)| format!("GRANT {right} TO {account};"))
        .collect();
    let evidence = format!(
        "a decision log lives in this database, and role {account} may not write to its tables: \
         a branch of it cannot be the last resource, and is prepared like any other"
    );
    let finding = Finding::new(Severity::Note, "last resource", evidence, grants.join(" "));
    Ok((!grants.is_empty()).then_some(finding))
}
