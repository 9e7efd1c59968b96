//! Who else has the server's data, and what a fail-over to it would lose. Pure.
//!
//! Sources: MySQL manual, [semi-synchronous][a] and [group replication][b] (whose limitations do
//! not mention XA; the work on crash-safe XA, [WL#11300], names it); MariaDB's
//! [semi-synchronous][c].
//!
//! [a]: https://dev.mysql.com/doc/refman/8.4/en/replication-semisync.html
//! [b]: https://dev.mysql.com/doc/refman/8.4/en/group-replication-limitations.html
//! [WL#11300]: https://github.com/mysql/mysql-server/commit/c1401ad
//! [c]: https://mariadb.com/kb/en/semisynchronous-replication/

use std::collections::BTreeMap;

use unanimous_core::ports::{Finding, Severity};

use crate::settings::Variables;

/// The variables that are judged here.
pub(crate) const VARIABLES: &str = "'rpl_semi_sync_master_enabled', \
     'rpl_semi_sync_source_enabled', 'rpl_semi_sync_master_timeout', \
     'rpl_semi_sync_source_timeout', 'group_replication_group_name', \
     'group_replication_single_primary_mode'";

/// The counters that are judged here.
pub(crate) const STATUS: &str = "'Slaves_connected', 'Rpl_semi_sync_master_clients', \
     'Rpl_semi_sync_source_clients', 'Rpl_semi_sync_master_status', 'Rpl_semi_sync_source_status'";

/// `status` by names in lower case; `readers`: connections that read the binary log, if this
/// account may see them.
pub(crate) fn judge(
    variables: &Variables,
    status: &BTreeMap<String, String>,
    readers: Option<u64>,
) -> Vec<Finding> {
    let mut found: Vec<_> = group(variables).into_iter().collect();
    let semi_sync = ["master", "source"].into_iter().find_map(|word| {
        let enabled = format!("rpl_semi_sync_{word}_enabled");
        variables
            .is_on(&enabled)
            .then(|| semi_sync(variables, status, word))
    });
    match semi_sync {
        Some(finding) => found.push(finding),
        None => found.extend(asynchronous(status, readers)),
    }
    found
}

fn group(variables: &Variables) -> Option<Finding> {
    let name = variables.value("group_replication_group_name");
    if name.is_empty() {
        return None;
    }
    let evidence = if variables.is_on("group_replication_single_primary_mode") {
        format!(
            "the server is set up as a member of the replication group {name}, which was never \
             tried: a change of the primary is a fail-over, and may roll back what the others had \
             not yet certified"
        )
    } else {
        format!(
            "the server is set up as a member of the replication group {name} with several \
             primaries, which was never tried: recovery asks one of them only"
        )
    };
    Some(Finding::new(
        Severity::Warning,
        "group_replication",
        evidence,
        "use a server with semi-synchronous replicas; or one primary \
         (group_replication_single_primary_mode = ON), and try a fail-over on a copy before you \
         rely on it",
    ))
}

fn semi_sync(
    variables: &Variables,
    status: &BTreeMap<String, String>,
    word: &'static str,
) -> Finding {
    let count = status.get(&format!("rpl_semi_sync_{word}_clients"));
    let clients: u64 = count.and_then(|text| text.parse().ok()).unwrap_or(0);
    let state = status.get(&format!("rpl_semi_sync_{word}_status"));
    let is_working = state.is_some_and(|state| state == "ON");
    let timeout = format!("rpl_semi_sync_{word}_timeout");
    let limit = variables.number(&timeout).unwrap_or(0);
    if clients == 0 || !is_working {
        return Finding::new(
            Severity::Warning,
            "semi_sync",
            format!(
                "semi-synchronous replication is on, {clients} replicas take part, and it is {}: \
                 commits wait {limit} ms for nobody, or are not waited for at all, and a replica \
                 that is promoted may lack what was prepared, committed and decided last",
                if is_working { "working" } else { "suspended" }
            ),
            format!(
                "start a replica that takes part, or, knowing what a fail-over then loses: SET \
                 GLOBAL rpl_semi_sync_{word}_enabled = OFF"
            ),
        );
    }
    Finding::new(
        Severity::Note,
        "semi_sync",
        format!(
            "{clients} replicas answer before a commit is confirmed; after {limit} ms without an \
             answer the server goes on without them, and a fail-over may lose what follows"
        ),
        variables.set(&timeout, "4294967295"),
    )
}

fn asynchronous(status: &BTreeMap<String, String>, readers: Option<u64>) -> Option<Finding> {
    let connected = status.get("slaves_connected");
    let connected = connected.and_then(|text| text.parse().ok());
    let replicas: u64 = connected.or(readers).unwrap_or(0);
    (replicas > 0).then(|| {
        Finding::new(
            Severity::Note,
            "asynchronous_replicas",
            format!(
                "{replicas} connections read the binary log, and replication is asynchronous: a \
                 replica that is promoted may lack what was prepared, committed and decided last"
            ),
            "use semi-synchronous replication for those that may be promoted \
             (rpl_semi_sync_source_enabled, on MariaDB rpl_semi_sync_master_enabled)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Flavour;

    fn found(
        flavour: Flavour,
        variables: &[(&str, &str)],
        status: &[(&str, &str)],
        readers: Option<u64>,
    ) -> Vec<Finding> {
        let to_map = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            pairs.collect::<BTreeMap<_, _>>()
        };
        let variables = Variables::of(flavour, to_map(variables));
        judge(&variables, &to_map(status), readers)
    }

    fn told(found: &[Finding]) -> Vec<(Severity, &str)> {
        let told = found.iter();
        told.map(|finding| (finding.severity, finding.subject.as_str()))
            .collect()
    }

    #[test]
    fn replicas_that_are_not_waited_for_are_a_note() {
        let expected = [(Severity::Note, "asynchronous_replicas")];
        assert_eq!(told(&found(Flavour::MySql, &[], &[], None)), []);
        assert_eq!(told(&found(Flavour::MySql, &[], &[], Some(0))), []);
        let two = found(Flavour::MySql, &[], &[], Some(2));
        assert_eq!(told(&two), expected);
        let of_status = found(Flavour::MariaDb, &[], &[("slaves_connected", "1")], None);
        assert_eq!(told(&of_status), expected);
    }

    #[test]
    fn semi_synchronous_replication_is_a_note_as_long_as_somebody_answers() {
        for (flavour, word) in [(Flavour::MySql, "source"), (Flavour::MariaDb, "master")] {
            let name = |end: &str| format!("rpl_semi_sync_{word}_{end}");
            let (enabled, clients, state) = (name("enabled"), name("clients"), name("status"));
            for (count, is, severity) in [
                ("1", "ON", Severity::Note),
                ("0", "ON", Severity::Warning),
                ("1", "OFF", Severity::Warning),
            ] {
                let status = [(&*clients, count), (&*state, is)];
                let found = found(flavour, &[(&*enabled, "ON")], &status, Some(1));
                assert_eq!(told(&found), [(severity, "semi_sync")], "{count} {is}");
            }
        }
    }

    #[test]
    fn a_replication_group_was_never_tried_with_one_primary_or_several() {
        let group = ("group_replication_group_name", "a-b");
        for (mode, text) in [("ON", "change of the primary"), ("OFF", "several")] {
            let mode = ("group_replication_single_primary_mode", mode);
            let found = found(Flavour::MySql, &[group, mode], &[], None);
            assert_eq!(told(&found), [(Severity::Warning, "group_replication")]);
            assert!(found[0].evidence.contains(text), "{found:?}");
        }
    }
}
