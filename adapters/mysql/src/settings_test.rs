//! Each setting alone: one finding, its severity, and its mend.

use super::*;

const SESSIONS: Sessions = Sessions {
    of_account: 20,
    all: 20,
};

const SAFE: [(&str, &str); 13] = [
    ("innodb_flush_log_at_trx_commit", "1"),
    ("innodb_doublewrite", "ON"),
    ("log_bin", "ON"),
    ("sync_binlog", "1"),
    ("binlog_format", "ROW"),
    ("read_only", "OFF"),
    ("innodb_force_recovery", "0"),
    ("autocommit", "ON"),
    ("wait_timeout", "28800"),
    ("max_connections", "151"),
    ("transaction_read_only", "OFF"),
    ("default_storage_engine", "InnoDB"),
    ("max_user_connections", "0"),
];

fn found(flavour: Flavour, changes: &[(&str, &str)]) -> Vec<Finding> {
    let all = SAFE.iter().chain(changes);
    let values = all
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let variables = Variables { flavour, values };
    let mut findings = variables.of_server(SESSIONS);
    findings.extend(variables.of_session(SESSIONS));
    findings
}

#[test]
fn safe_settings_are_not_objected_to() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        for changes in [
            &[][..],
            &[("wsrep_on", "OFF"), ("wsrep_provider", "none")],
            &[
                ("log_bin", "OFF"),
                ("sync_binlog", "0"),
                ("binlog_format", "STATEMENT"),
            ],
            &[
                ("xa_detach_on_prepare", "ON"),
                ("innodb_deadlock_detect", "ON"),
            ],
            &[
                ("max_user_connections", "20"),
                ("max_statement_time", "0.000000"),
            ],
            &[("wait_timeout", "60"), ("max_connections", "20")],
        ] {
            assert_eq!(found(flavour, changes), [], "{flavour:?} {changes:?}");
        }
    }
    let thrice = [("innodb_flush_log_at_trx_commit", "3")];
    assert_eq!(found(Flavour::MariaDb, &thrice), []);
    assert_eq!(found(Flavour::MySql, &thrice).len(), 1);
}

/// A setting, the subject and severity of its finding, and a part of its mend.
type Each = (
    (&'static str, &'static str),
    &'static str,
    Severity,
    &'static str,
);

const EACH: &[Each] = &[
    (
        ("innodb_flush_method", "nosync"),
        "innodb_flush_method",
        Severity::Error,
        "remove innodb_flush_method",
    ),
    (
        ("idle_transaction_timeout", "59"),
        "idle_transaction_timeout",
        Severity::Warning,
        "SET PERSIST idle_transaction_timeout = 0",
    ),
    (
        ("idle_write_transaction_timeout", "60"),
        "idle_transaction_timeout",
        Severity::Note,
        "SET PERSIST idle_write_transaction_timeout = 0",
    ),
    (
        ("innodb_flush_log_at_trx_commit", "0"),
        "innodb_flush_log_at_trx_commit",
        Severity::Error,
        "SET PERSIST innodb_flush_log_at_trx_commit = 1",
    ),
    (
        ("innodb_flush_log_at_trx_commit", "2"),
        "innodb_flush_log_at_trx_commit",
        Severity::Error,
        "SET PERSIST innodb_flush_log_at_trx_commit = 1",
    ),
    (
        ("sync_binlog", "0"),
        "sync_binlog",
        Severity::Error,
        "SET PERSIST sync_binlog = 1",
    ),
    (
        ("sync_binlog", "1000"),
        "sync_binlog",
        Severity::Error,
        "SET PERSIST sync_binlog = 1",
    ),
    (
        ("wsrep_on", "ON"),
        "wsrep_on",
        Severity::Error,
        "use another server",
    ),
    (
        ("wsrep_provider", "/usr/lib/galera/libgalera_smm.so"),
        "wsrep_on",
        Severity::Error,
        "use another server",
    ),
    (
        ("read_only", "ON"),
        "read_only",
        Severity::Error,
        "SET GLOBAL read_only = 0",
    ),
    (
        ("super_read_only", "ON"),
        "read_only",
        Severity::Error,
        "SET GLOBAL read_only = 0",
    ),
    (
        ("read_only", "NO_LOCK"),
        "read_only",
        Severity::Error,
        "SET GLOBAL read_only = 0",
    ),
    (
        ("innodb_read_only", "ON"),
        "innodb_read_only",
        Severity::Error,
        "innodb_read_only = OFF",
    ),
    (
        ("innodb_force_recovery", "1"),
        "innodb_force_recovery",
        Severity::Error,
        "innodb_force_recovery = 0",
    ),
    (
        ("innodb_doublewrite", "OFF"),
        "innodb_doublewrite",
        Severity::Warning,
        "innodb_doublewrite = ON",
    ),
    (
        ("binlog_format", "STATEMENT"),
        "binlog_format",
        Severity::Warning,
        "SET PERSIST binlog_format = ROW",
    ),
    (
        ("binlog_error_action", "IGNORE_ERROR"),
        "binlog_error_action",
        Severity::Warning,
        "SET PERSIST binlog_error_action = DEFAULT",
    ),
    (
        ("xa_detach_on_prepare", "OFF"),
        "xa_detach_on_prepare",
        Severity::Error,
        "SET PERSIST xa_detach_on_prepare = ON",
    ),
    (
        ("innodb_rollback_on_timeout", "ON"),
        "innodb_rollback_on_timeout",
        Severity::Note,
        "innodb_rollback_on_timeout = OFF",
    ),
    (
        ("init_connect", "SET NAMES latin1"),
        "init_connect",
        Severity::Note,
        "session_setup",
    ),
    (
        ("innodb_deadlock_detect", "OFF"),
        "innodb_deadlock_detect",
        Severity::Note,
        "SET PERSIST innodb_deadlock_detect = ON",
    ),
    (
        ("autocommit", "OFF"),
        "autocommit",
        Severity::Note,
        "SET PERSIST autocommit = 1",
    ),
    (
        ("wait_timeout", "59"),
        "wait_timeout",
        Severity::Warning,
        "wait_timeout = 28800",
    ),
    (
        ("max_connections", "19"),
        "max_connections",
        Severity::Warning,
        "SET PERSIST max_connections = 40",
    ),
    (
        ("transaction_read_only", "ON"),
        "transaction_read_only",
        Severity::Error,
        "SET PERSIST transaction_read_only = OFF",
    ),
    (
        ("tx_read_only", "ON"),
        "transaction_read_only",
        Severity::Error,
        "SET PERSIST tx_read_only = OFF",
    ),
    (
        ("default_storage_engine", "MyISAM"),
        "default_storage_engine",
        Severity::Warning,
        "SET PERSIST default_storage_engine = InnoDB",
    ),
    (
        ("max_user_connections", "19"),
        "max_user_connections",
        Severity::Warning,
        "WITH MAX_USER_CONNECTIONS 20",
    ),
    (
        ("max_statement_time", "2.5"),
        "max_statement_time",
        Severity::Note,
        "session_setup",
    ),
];

#[test]
fn each_setting_is_one_finding_with_its_severity_and_its_mend() {
    for (change, subject, severity, mend) in EACH.iter().copied() {
        let findings = found(Flavour::MySql, &[change]);
        let [finding] = &findings[..] else {
            panic!("{change:?}: {findings:?}")
        };
        assert_eq!(
            (&*finding.subject, finding.severity),
            (subject, severity),
            "{change:?}"
        );
        assert!(finding.mend.contains(mend), "{change:?}: {finding}");
        assert!(
            finding.evidence.contains(change.1) || ["wsrep_on", "init_connect"].contains(&subject),
            "{finding}"
        );
    }
}

/// MariaDB has no `SET PERSIST`: the mend is SQL to paste, with the line for its file in a comment.
#[test]
fn what_is_set_on_mariadb_is_said_for_its_file_too() {
    let findings = found(Flavour::MariaDb, &[("sync_binlog", "0")]);
    assert_eq!(
        findings[0].mend,
        "SET GLOBAL sync_binlog = 1 -- and in its configuration file: sync_binlog = 1"
    );
}

#[test]
fn i3_a_server_that_takes_no_writes_proves_nothing_by_its_list() {
    for (name, value) in [
        ("read_only", "1"),
        ("read_only", "NO_LOCK_NO_ADMIN"),
        ("super_read_only", "ON"),
        ("innodb_read_only", "1"),
        ("innodb_force_recovery", "1"),
        ("innodb_force_recovery", "6"),
        ("innodb_force_recovery", ""),
    ] {
        let why = objection(name, value).unwrap();
        assert!(why.contains(&format!("{name} is {value}")), "{why}");
    }
    assert_eq!(objection("innodb_force_recovery", "0"), None);
    assert_eq!(objection("read_only", "OFF"), None);
    assert!(why_not_writable(&[]).is_some());
}
