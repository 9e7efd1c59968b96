//! The server that holds the tables: whether what is forced there is kept, and whether the way to
//! it leads to one and the same session. Nobody else may have looked: the log's database need not
//! be one of the resources.

use std::time::Duration;

use tracing::warn;
use unanimous_core::ports::{DecisionTable, Finding, LogError, Preflight, Severity};

use crate::bounded::bounded;

/// After that it is used unchecked, as it has answered already that it may be.
const LIMIT: Duration = Duration::from_secs(10);

/// What matters of a server that holds a log and no branches.
const OF_A_LOGS_SERVER: [&str; 26] = [
    "asynchronous_replicas",
    "asynchronous_standbys",
    "binlog_error_action",
    "data_sync_retry",
    "free_connections",
    "fsync",
    "full_page_writes",
    "group_replication",
    "innodb_doublewrite",
    "innodb_flush_log_at_trx_commit",
    "innodb_flush_method",
    "innodb_force_recovery",
    "innodb_read_only",
    "max_connections",
    "pg_is_in_recovery",
    "pooler",
    "proxy",
    "read_only",
    "semi_sync",
    "server_version",
    "sync_binlog",
    "synchronous_commit",
    "synchronous_standby_names",
    "transaction_read_only",
    "version",
    "wsrep_on",
];

/// Does it matter of a server that holds a log and no branches?
pub(crate) fn is_of_a_logs_server(found: &Finding) -> bool {
    OF_A_LOGS_SERVER.contains(&found.subject.as_str())
}

/// Refuses a server that could lose what is recorded there; tells of the rest what may harm.
pub(super) async fn judge(table: &dyn DecisionTable) -> Result<(), LogError> {
    let place = table.place();
    match bounded(LIMIT, table.preflight()).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(preflight))) => judged(&place, preflight),
        Ok(Err(error)) => {
            warn!(target: "unanimous", place, %error, "the decision log's server is not checked");
            Ok(())
        }
        Err(silence) => {
            warn!(target: "unanimous", place, %silence, "the decision log's server is not checked");
            Ok(())
        }
    }
}

fn judged(place: &str, mut preflight: Preflight) -> Result<(), LogError> {
    preflight.findings.retain(is_of_a_logs_server);
    let errors: Vec<String> = preflight.errors().map(ToString::to_string).collect();
    // One of the two ways may lead to another server just now. The tables' own does not: whether
    // that server takes writes was asked already.
    if errors.is_empty() || preflight.is_read_only {
        let told = preflight.findings.iter();
        for found in told.filter(|found| found.severity == Severity::Warning) {
            let (subject, evidence, mend) = (&found.subject, &found.evidence, &found.mend);
            warn!(target: "unanimous", place, %subject, %mend, "{evidence}");
        }
        return Ok(());
    }
    Err(LogError::new(format!(
        "the decision log: {place}: its server is not fit for it: {}",
        errors.join(". ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i2_a_server_that_loses_what_is_forced_is_no_home_for_a_log() {
        let judged = |severity, subject: &str| {
            let found = Finding::new(severity, subject.to_owned(), "seen", "mend it");
            judged("here", Preflight::new("server", None, vec![found]))
        };
        let error = judged(Severity::Error, "fsync").unwrap_err().to_string();
        for part in ["here", "fsync", "mend it"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(judged(Severity::Error, "pooler").is_err());
        assert!(judged(Severity::Warning, "fsync").is_ok());
        // Nothing is prepared there.
        assert!(judged(Severity::Error, "max_prepared_transactions").is_ok());
    }
}
