//! Standbys of a PostgreSQL server, as far as its settings and the list of its senders tell: what a
//! fail-over would lose, and what makes a prepare wait.
//!
//! What the levels of `synchronous_commit` wait for, and which standbys are synchronous: manual,
//! ["Write Ahead Log"] and ["Replication"]; `pg_stat_replication` shows the state of a standby to
//! members of `pg_read_all_stats` only, and its row to everybody (manual, ["The Statistics
//! System"]).
//!
//! ["Write Ahead Log"]: https://www.postgresql.org/docs/current/runtime-config-wal.html
//! ["Replication"]: https://www.postgresql.org/docs/current/runtime-config-replication.html
//! ["The Statistics System"]: https://www.postgresql.org/docs/current/monitoring-stats.html

use unanimous_core::ports::{Finding, Severity};

use crate::findings::Seen;

use Severity::{Note, Warning};

pub(crate) fn found(seen: &Seen) -> Vec<Finding> {
    let mut found: Vec<_> = level(seen).into_iter().collect();
    let standbys = seen.limit("our:standbys");
    if seen.text("synchronous_standby_names").is_empty() {
        found.extend((standbys > 0).then(|| asynchronous(standbys)));
    } else {
        found.push(synchronous(seen, standbys));
    }
    found
}

/// What a commit of this account waits for.
fn level(seen: &Seen) -> Option<Finding> {
    let level = seen.text("synchronous_commit");
    let has_names = !seen.text("synchronous_standby_names").is_empty();
    let (severity, evidence) = match (level, has_names) {
        ("off" | "local", true) => (
            Warning,
            format!(
                "synchronous_commit = {level} although there are synchronous standbys: branches \
                 wait for them all the same, other transactions of this account do not, and may be \
                 gone when one takes over"
            ),
        ),
        ("off" | "local", false) => (
            Note,
            format!(
                "synchronous_commit = {level}: branches are made durable all the same, other \
                 transactions of this account are not"
            ),
        ),
        ("remote_write", true) => (
            Note,
            "synchronous_commit = remote_write: synchronous standbys make branches durable all the \
             same, other transactions of this account they have in memory only"
                .to_owned(),
        ),
        _ => return None,
    };
    let mend = seen.for_account("synchronous_commit", "on");
    Some(Finding::new(severity, "synchronous_commit", evidence, mend))
}

fn asynchronous(standbys: u64) -> Finding {
    Finding::new(
        Note,
        "asynchronous_standbys",
        format!(
            "{standbys} standbys follow, and none of them is synchronous: one that is promoted may \
             lack what was prepared, committed and decided last"
        ),
        "name those that may be promoted: ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (a, \
         b)'; SELECT pg_reload_conf();",
    )
}

/// Are those that are waited for there?
fn synchronous(seen: &Seen, standbys: u64) -> Finding {
    let is_seen = seen.limit("our:standbys_seen") > 0;
    let are_others = is_seen && seen.limit("our:standbys_synchronous") == 0;
    if standbys > 0 && !are_others {
        return Finding::new(
            Note,
            "synchronous_standby_names",
            "prepare and commit wait for standbys: while too few are there, they hang with their \
             locks",
            "name more standbys than have to answer: ANY 1 (a, b)",
        );
    }
    let evidence = if are_others {
        "none of the standbys that are connected is one of those that \
         synchronous_standby_names asks for: every prepare and commit hangs, with its locks, until \
         one of these comes"
    } else {
        "no standby is connected, and synchronous_standby_names asks for some: every prepare and \
         commit hangs, with its locks, until one comes"
    };
    Finding::new(
        Warning,
        "synchronous_standby_names",
        evidence,
        "start a standby that is named (its primary_conninfo has application_name), or, knowing \
         what a fail-over then loses: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT \
         pg_reload_conf();",
    )
}
