//! What the preflight finds, and that what it says to paste mends it.

use std::sync::atomic::Ordering;

use unanimous_core::ports::{
    Branch, BranchErrorKind, Finding, Preflight, Problem, Resource, ResourceManager, Severity,
};
use unanimous_mysql::Mysql;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::{Kind, Options, Server};

use crate::support::{Db, random, start};
use crate::trips::{proxy, until_quiet};

/// The only finding of this subject.
pub(crate) fn the<'a>(preflight: &'a Preflight, subject: &str) -> &'a Finding {
    let mut found = preflight
        .findings
        .iter()
        .filter(|finding| finding.subject == subject);
    let finding = found
        .next()
        .unwrap_or_else(|| panic!("no {subject} in {preflight:#?}"));
    assert_eq!(found.next(), None, "twice");
    finding
}

pub(crate) fn subjects(preflight: &Preflight) -> Vec<&str> {
    let findings = preflight.findings.iter();
    findings.map(|finding| finding.subject.as_str()).collect()
}

async fn a_fit_server_passes_again_and_again(db: &Db) {
    let first = db.resource.preflight().await.unwrap();
    let identity = first.identity.clone().unwrap();
    let (prefix, product) = if db.is_mariadb() {
        ("mariadb:", "MariaDB 1")
    } else {
        ("mysql:", "MySQL 9")
    };
    assert!(identity.as_str().starts_with(prefix), "{identity}");
    assert!(first.server.starts_with(product), "{}", first.server);
    let above_notes = |found: &Preflight| -> Vec<String> {
        let findings = found.findings.iter();
        let above = findings.filter(|finding| finding.severity > Severity::Note);
        above.map(|finding| finding.subject.clone()).collect()
    };
    // MariaDB's recovery has to see what a connection leaves behind; this account cannot.
    let expected: &[&str] = if db.is_mariadb() {
        &["INNODB_TRX"]
    } else {
        &[]
    };
    assert_eq!(above_notes(&first), expected, "{first:#?}");
    assert!(first.is_fit());
    let seeing = db.build(|builder| builder.recovery_address(&db.admin_url));
    let found = seeing.preflight().await.unwrap();
    assert_eq!(above_notes(&found), [""; 0], "{found:#?}");
    assert_eq!(db.resource.preflight().await.unwrap(), first);
    let again = db.build(|builder| builder).preflight().await.unwrap();
    assert_eq!(again.identity, Some(identity));
}

/// Settings that can be changed while a server runs: the change, the subject, the severity.
const SETTINGS: &[(&str, &str, Severity)] = &[
    (
        "innodb_flush_log_at_trx_commit = 0",
        "innodb_flush_log_at_trx_commit",
        Severity::Error,
    ),
    (
        "innodb_flush_log_at_trx_commit = 2",
        "innodb_flush_log_at_trx_commit",
        Severity::Error,
    ),
    ("sync_binlog = 0", "sync_binlog", Severity::Error),
    (
        "binlog_format = STATEMENT",
        "binlog_format",
        Severity::Warning,
    ),
    (
        "default_storage_engine = MyISAM",
        "default_storage_engine",
        Severity::Warning,
    ),
    ("wait_timeout = 20", "wait_timeout", Severity::Warning),
    ("max_connections = 15", "max_connections", Severity::Warning),
    (
        "innodb_deadlock_detect = OFF",
        "innodb_deadlock_detect",
        Severity::Note,
    ),
    ("autocommit = 0", "autocommit", Severity::Note),
];

const SETTINGS_OF_MYSQL: &[(&str, &str, Severity)] = &[
    (
        "transaction_read_only = ON",
        "transaction_read_only",
        Severity::Error,
    ),
    (
        "binlog_error_action = IGNORE_ERROR",
        "binlog_error_action",
        Severity::Warning,
    ),
    (
        "xa_detach_on_prepare = OFF",
        "xa_detach_on_prepare",
        Severity::Error,
    ),
];

const SETTINGS_OF_MARIADB: &[(&str, &str, Severity)] = &[
    (
        "tx_read_only = ON",
        "transaction_read_only",
        Severity::Error,
    ),
    (
        "max_statement_time = 60",
        "max_statement_time",
        Severity::Note,
    ),
    (
        "idle_transaction_timeout = 20",
        "idle_transaction_timeout",
        Severity::Warning,
    ),
    (
        "idle_write_transaction_timeout = 600",
        "idle_transaction_timeout",
        Severity::Note,
    ),
];

/// Each is changed, found, and mended by what was said.
async fn every_setting_that_is_wrong_is_found_and_mended_by_its_mend(kind: Kind) {
    let args = ["--log-bin=binlog", "--sync-binlog=1", "--server-id=1"];
    let server = start(kind, &args);
    let db = Db::on(&server).await;
    let mut admin = db.admin().await;
    let own = match kind {
        Kind::Mysql => SETTINGS_OF_MYSQL,
        _ => SETTINGS_OF_MARIADB,
    };
    for (set, subject, severity) in SETTINGS.iter().chain(own).copied() {
        admin.query_drop(format!("SET GLOBAL {set}")).await.unwrap();
        let found = db.resource.preflight().await.unwrap();
        let finding = the(&found, subject);
        assert_eq!(finding.severity, severity, "{finding}");
        assert_eq!(found.is_fit(), severity < Severity::Error, "{found:#?}");
        let is_sql = finding.mend.starts_with("SET ");
        let mend = if is_sql {
            &finding.mend
        } else {
            "SET GLOBAL max_statement_time = 0"
        };
        admin.query_drop(mend).await.unwrap();
        let after = db.resource.preflight().await.unwrap();
        assert!(
            !subjects(&after).contains(&subject),
            "{subject}: {after:#?}"
        );
    }
}

/// An account may have a limit of its own.
async fn an_account_with_too_few_connections_is_found(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let limit = "ALTER USER 'app'@'%' WITH MAX_USER_CONNECTIONS";
    let mut admin = db.admin().await;
    admin.query_drop(format!("{limit} 5")).await.unwrap();
    let found = db.resource.preflight().await.unwrap();
    let finding = the(&found, "max_user_connections");
    assert!(
        finding.mend.contains("WITH MAX_USER_CONNECTIONS 28"),
        "{finding}"
    );
    admin.query_drop(format!("{limit} 28")).await.unwrap();
    let after = db.resource.preflight().await.unwrap();
    assert!(
        !subjects(&after).contains(&"max_user_connections"),
        "{after:#?}"
    );
}

/// A server that is read-only for now, or for ever: nothing that it does not list proves anything.
async fn a_read_only_server_is_found(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let mut admin = db.admin().await;
    admin.query_drop("SET GLOBAL read_only = 1").await.unwrap();
    let found = db.resource.preflight().await.unwrap();
    let finding = the(&found, "read_only");
    assert_eq!(finding.severity, Severity::Error);
    let (_, mend) = finding.mend.split_once(": ").unwrap();
    admin.query_drop(mend).await.unwrap();
    assert!(db.resource.preflight().await.unwrap().is_fit());
}

/// What only a restart can mend. All of it is told at once, the worst first.
async fn every_wrong_setting_is_told_at_once(kind: Kind) {
    let args = [
        "--innodb-flush-log-at-trx-commit=0",
        "--log-bin=binlog",
        "--server-id=1",
        "--sync-binlog=0",
        "--innodb-rollback-on-timeout=ON",
        "--innodb-doublewrite=OFF",
        "--innodb-flush-method=nosync",
    ];
    let mut server = start(kind, &args);
    let resource = Mysql::builder("ledger", server.url()).build().unwrap();
    let found = resource.preflight().await.unwrap();
    for (subject, severity) in [
        ("innodb_flush_log_at_trx_commit", Severity::Error),
        ("sync_binlog", Severity::Error),
        ("innodb_flush_method", Severity::Error),
        ("innodb_doublewrite", Severity::Warning),
        ("innodb_rollback_on_timeout", Severity::Note),
    ] {
        assert_eq!(the(&found, subject).severity, severity);
    }
    assert!(
        found
            .findings
            .is_sorted_by_key(|finding| std::cmp::Reverse(finding.severity))
    );
    let options = Options::new().args(["--log-bin=binlog", "--sync-binlog=1", "--server-id=1"]);
    tokio::task::block_in_place(|| server.restart_with(&options)).unwrap();
    let mended = resource.preflight().await.unwrap();
    assert!(mended.is_fit(), "{mended:#?}");
    assert!(
        !subjects(&mended)
            .iter()
            .any(|subject| subject.starts_with("innodb_"))
    );
}

/// Nothing can be changed then: the identity row of MariaDB cannot be made, either.
async fn a_server_under_forced_recovery_is_refused(kind: Kind) {
    let mut server = start(kind, &[]);
    let resource = Mysql::builder("ledger", server.url()).build().unwrap();
    let identity = resource.preflight().await.unwrap().identity;
    let forced = Options::new().args(["--innodb-force-recovery=1"]);
    tokio::task::block_in_place(|| server.restart_with(&forced)).unwrap();
    let found = resource.preflight().await.unwrap();
    assert_eq!(
        the(&found, "innodb_force_recovery").severity,
        Severity::Error
    );
    tokio::task::block_in_place(|| server.restart_with(&Options::new())).unwrap();
    let found = resource.preflight().await.unwrap();
    assert!(found.is_fit() && found.identity == identity, "{found:#?}");
}

fn start_as(version: &str) -> Server {
    start(Kind::Mariadb, &[&format!("--version={version}")])
}

/// MariaDB says whatever version it is told to; so versions can be seen that nobody has here.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_too_old_is_refused_by_preflight_and_by_open() {
    let mut server = start_as("10.5.9-MariaDB");
    let resource = Mysql::builder("ledger", server.url()).build().unwrap();
    let found = resource.preflight().await.unwrap();
    let finding = the(&found, "version");
    assert_eq!(
        (finding.severity, &found.identity),
        (Severity::Error, &None)
    );
    assert!(finding.evidence.contains("MDEV-742"), "{finding}");
    assert_eq!(found.server, "MariaDB 10.5.9");
    let error = resource.recover().await.unwrap_err();
    assert_eq!(error.problem(), Problem::Unfit);
    assert!(
        error.to_string().contains("10.5.9-MariaDB is too old"),
        "{error}"
    );

    let buggy = Options::new().args(["--version=10.11.13-MariaDB"]);
    tokio::task::block_in_place(|| server.restart_with(&buggy)).unwrap();
    let found = resource.preflight().await.unwrap();
    assert_eq!(the(&found, "MDEV-37141").severity, Severity::Warning);
    assert!(found.is_fit() && found.identity.is_some(), "{found:#?}");
    let found = resource.checkup().await.unwrap();
    let bugs: Vec<_> = found.iter().map(|found| &*found.subject).collect();
    assert_eq!(bugs, ["MDEV-24981", "MDEV-40218"]);

    let newer = Options::new().args(["--version=12.9.1-MariaDB"]);
    tokio::task::block_in_place(|| server.restart_with(&newer)).unwrap();
    let found = resource.preflight().await.unwrap();
    assert_eq!(the(&found, "version").severity, Severity::Note);
}

/// Something that calls itself MySQL and has no `server_uuid` cannot be told from another.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_an_identity_is_refused() {
    let server = start_as("8.4.0");
    let resource = Mysql::builder("ledger", server.url()).build().unwrap();
    let found = resource.preflight().await.unwrap();
    assert_eq!(the(&found, "server_uuid").severity, Severity::Error);
    assert_eq!(found.server, "MySQL 8.4.0");
    let error = resource.recover().await.unwrap_err();
    assert!(error.to_string().contains("server_uuid"), "{error}");
}

/// MySQL answers 1401, which reads like a broken branch, to an account without XA_RECOVER_ADMIN.
async fn a_missing_privilege_is_named_and_granting_it_mends_it(db: &Db) {
    let user = format!("u{:08x}", random() as u32);
    let mut admin = db.admin().await;
    admin
        .query_drop(format!(
            "CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'; \
             GRANT SELECT, INSERT ON app.* TO '{user}'@'%'"
        ))
        .await
        .unwrap();
    let url = db.url.replace("app:app-secret", &format!("{user}:pw"));
    let resource = Mysql::builder("ledger", url).build().unwrap();
    let found = resource.preflight().await.unwrap();
    if db.is_mariadb() {
        assert!(found.is_fit(), "{found:#?}");
    } else {
        let finding = the(&found, "XA_RECOVER_ADMIN");
        assert_eq!(finding.severity, Severity::Error);
        let error = resource.recover().await.unwrap_err();
        assert_eq!(error.problem(), Problem::Unfit);
        assert!(error.to_string().contains(&finding.to_string()), "{error}");
        admin.query_drop(&finding.mend).await.unwrap();
        assert!(resource.preflight().await.unwrap().is_fit());
        resource.recover().await.unwrap();
    }
    admin
        .query_drop(format!("DROP USER '{user}'@'%'"))
        .await
        .unwrap();
}

/// MariaDB needs a row that tells it from its copies; without the right to make it, the mend is
/// what the administrator runs.
async fn a_mariadb_without_its_identity_row_says_what_to_run(db: &Db) {
    if !db.is_mariadb() {
        return;
    }
    let name = format!("db_{:08x}", random() as u32);
    let mut admin = db.admin().await;
    let set_up = format!(
        "CREATE DATABASE {name}; CREATE USER '{name}'@'%' IDENTIFIED BY 'pw'; \
         GRANT INSERT ON {name}.* TO '{name}'@'%'"
    );
    admin.query_drop(set_up).await.unwrap();
    let (_, rest) = db.url.split_once('@').unwrap();
    let (host, _) = rest.rsplit_once('/').unwrap();
    let resource = Mysql::builder("ledger", format!("mysql://{name}:pw@{host}/{name}"));
    let resource = resource.build().unwrap();
    let found = resource.preflight().await.unwrap();
    let finding = the(&found, "unanimous_identity");
    assert_eq!(
        (finding.severity, &found.identity),
        (Severity::Error, &None)
    );
    let opened = resource.open(db.env(1)).await.unwrap_err();
    assert_eq!(opened.kind(), BranchErrorKind::Failed, "{opened}");
    assert!(opened.to_string().contains(&finding.mend), "{opened}");
    admin.query_drop(format!("USE {name}")).await.unwrap();
    admin.query_drop(&finding.mend).await.unwrap();
    let mended = resource.preflight().await.unwrap();
    assert!(mended.is_fit(), "{mended:#?}");
    let mut branch = resource.open(db.env(1)).await.unwrap();
    assert_eq!(Some(branch.identity()), mended.identity.as_ref());
    branch.rollback().await.unwrap();
    admin
        .query_drop(format!("DROP USER '{name}'@'%'; DROP DATABASE {name}"))
        .await
        .unwrap();
}

/// A session that was connected before the row was made learns of it.
async fn the_identity_row_is_found_by_sessions_that_are_older(kind: Kind) {
    let server = start(kind, &[]);
    let resource = Mysql::builder("ledger", server.url()).build().unwrap();
    let scanned = resource.recover().await;
    assert_eq!(scanned.is_err(), kind == Kind::Mariadb, "{scanned:?}");
    let identity = resource.preflight().await.unwrap().identity.unwrap();
    assert_eq!(resource.recover().await.unwrap().identity, identity);
}

/// It is asked at each start of each instance.
async fn a_preflight_asks_few_questions(db: &Db) {
    let (url, commands) = proxy(&db.url).await;
    let resource = Mysql::builder("ledger", url).build().unwrap();
    resource.preflight().await.unwrap();
    until_quiet(&commands).await;
    let asked = commands.load(Ordering::SeqCst);
    let expected = if db.is_mariadb() { 15 } else { 12 };
    assert_eq!(asked, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_takes_no_session_of_the_pools() {
    let db = Db::shared(Kind::Mysql).await;
    let resource = db.build(|builder| builder.pool_size(1));
    let mut only = resource.open(db.env(1)).await.unwrap();
    assert!(resource.preflight().await.unwrap().is_fit());
    only.rollback().await.unwrap();
    db.clean().await;
}

on_both!(
    a_preflight_asks_few_questions,
    a_fit_server_passes_again_and_again,
    a_missing_privilege_is_named_and_granting_it_mends_it,
    a_mariadb_without_its_identity_row_says_what_to_run,
);
on_own!(
    an_account_with_too_few_connections_is_found,
    every_setting_that_is_wrong_is_found_and_mended_by_its_mend,
    a_read_only_server_is_found,
    every_wrong_setting_is_told_at_once,
    a_server_under_forced_recovery_is_refused,
    the_identity_row_is_found_by_sessions_that_are_older,
);
