//! Whether the account of branches may write to the log's tables, as a last resource does.

use unanimous_core::ports::{Finding, Severity};

use crate::session::Session;
use crate::{codes, preflight};

/// Seen by recovery's account, whose tables they are.
const ARE_THERE: &str = "SELECT 1 FROM unanimous_decision LIMIT 0";

/// Each right with what needs it, and changes nothing.
const RIGHTS: [(&str, &str); 2] = [
    (
        "SELECT ON unanimous_epoch",
        "SELECT closed FROM unanimous_epoch WHERE epoch = 0",
    ),
    (
        "INSERT ON unanimous_decision",
        "EXPLAIN INSERT INTO unanimous_decision (gtrid, epoch, state, branches) \
         VALUES ('', 1, 'C', '')",
    ),
];

/// Worth knowing, and no more: without them, it is prepared like any other.
pub(crate) async fn as_last(app: &mut Session, control: &mut Session) -> Option<Finding> {
    control.rows(ARE_THERE).await.ok()?;
    let account = preflight::quoted(&app.server().account);
    let mut grants = Vec::new();
    for (right, needs) in RIGHTS {
        let asked = app.rows(needs).await;
        if asked.is_err_and(|error| codes::is_access_denied(&error)) {
            grants.push(format!("GRANT {right} TO {account};"));
        }
    }
    let evidence = format!(
        "a decision log lives in this database, and account {account} may not write to its \
         tables: a branch of it cannot be the last resource, and is prepared like any other"
    );
    let finding = Finding::new(Severity::Note, "last resource", evidence, grants.join(" "));
    (!grants.is_empty()).then_some(finding)
}
