//! What a server's settings can make go wrong. Pure: variables in, findings out.
//!
//! The evidence names what was seen; the mend is SQL where the setting can be changed while the
//! server runs, else the line for its configuration file. Where it comes from: the manuals of both
//! servers, and this crate's `tests/live` (`crash`, `blocked`, `locks`).

use std::collections::BTreeMap;

use mysql_async::Row;
use unanimous_core::ports::{Finding, Severity};

use crate::identity::to_map;
use crate::session::{Flavour, text};

/// With MySQL's `xa_detach_on_prepare` OFF. It then hands a branch over as MariaDB does, its XID
/// before InnoDB's transaction (`THD::release_resources`, sql/sql_class.cc of 8.0): see `handover`.
/// It cannot be changed inside a transaction.
pub(crate) const STAYS_ATTACHED: &str = "xa_detach_on_prepare is OFF: a prepared branch stays \
     with its connection; while that closes, XA COMMIT from another one is answered with OK and \
     may commit nothing";

/// Pooled sessions that are closed sooner than this are hardly ever used twice.
const WAIT_SECONDS_MIN: u64 = 60;

/// Asks for the settings with which a server takes no writes, and what it lists as prepared proves
/// nothing: see [`why_not_writable`].
///
/// A standby lists nothing of what its primary holds, or what is not its own to end. With
/// `innodb_force_recovery` at 5 or more InnoDB does not look for what is prepared at all
/// (`trx_lists_init_at_db_start`, storage/innobase/trx/trx0trx.cc of MariaDB), and lists it again
/// after the next usual start.
pub(crate) const fn writable(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::MySql => {
            "SELECT @@GLOBAL.read_only, @@GLOBAL.super_read_only, @@GLOBAL.innodb_read_only, \
             @@GLOBAL.innodb_force_recovery"
        }
        Flavour::MariaDb => {
            "SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only, @@GLOBAL.innodb_force_recovery"
        }
    }
}

/// Why a server with this answer to [`writable`] may not be written to, and what to do.
pub(crate) fn why_not_writable(answer: &[Row]) -> Option<String> {
    let Some(row) = answer.first() else {
        return Some("the server does not say whether it takes writes".to_owned());
    };
    let columns = row.columns_ref().iter().enumerate();
    let mut settings = columns.map(|(column, about)| (about.name_str(), text(row, column)));
    settings.find_map(|(name, value)| {
        let value = value.unwrap_or_default();
        objection(name.rsplit('.').next().unwrap_or_default(), &value)
    })
}

fn objection(name: &str, value: &str) -> Option<String> {
    if matches!(value, "0" | "OFF") {
        return None;
    }
    Some(if name.starts_with("innodb_") {
        format!(
            "{name} is {value}: the server takes no writes, and may not list all that is \
             prepared; in its configuration file: {name} = 0, and restart it"
        )
    } else {
        format!(
            "the server is read-only ({name} is {value}): it is a standby, whose list of prepared \
             transactions proves nothing: connect to the primary; if it is the primary: SET \
             GLOBAL read_only = 0"
        )
    })
}

/// The variables of the whole server.
pub(crate) const GLOBAL: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
     ('innodb_flush_log_at_trx_commit', 'innodb_doublewrite', 'log_bin', 'sync_binlog', \
     'binlog_format', 'binlog_error_action', 'wsrep_on', 'wsrep_provider', 'read_only', \
     'super_read_only', 'innodb_read_only', 'innodb_force_recovery', 'innodb_rollback_on_timeout', \
     'innodb_deadlock_detect', 'autocommit', 'wait_timeout', \
     'max_connections', 'innodb_flush_method', 'init_connect')";

/// The variables that the set-up of a session may have changed, as that session has them.
pub(crate) const SESSION: &str = "SHOW SESSION VARIABLES WHERE Variable_name IN \
     ('transaction_read_only', 'tx_read_only', 'xa_detach_on_prepare', 'default_storage_engine', \
     'max_user_connections', 'max_statement_time', 'idle_transaction_timeout', \
     'idle_write_transaction_timeout')";

/// The variables that a server has answered with.
pub(crate) struct Variables {
    pub(crate) flavour: Flavour,
    values: BTreeMap<String, String>,
}

/// How many sessions the resource may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sessions {
    /// Those of the account that is asked about.
    pub(crate) of_account: usize,
    pub(crate) all: usize,
}

impl Variables {
    pub(crate) fn new(flavour: Flavour, rows: &[Row]) -> Self {
        Self::of(flavour, to_map(rows))
    }

    /// Of names in lower case.
    pub(crate) const fn of(flavour: Flavour, values: BTreeMap<String, String>) -> Self {
        Self { flavour, values }
    }

    pub(crate) fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    pub(crate) fn is_on(&self, name: &str) -> bool {
        matches!(self.value(name), "ON" | "1")
    }

    fn is_off(&self, name: &str) -> bool {
        matches!(self.value(name), "OFF" | "0")
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.value(name).parse().ok()
    }

    /// The statement that sets it for good. MariaDB has no `SET PERSIST`.
    pub(crate) fn set(&self, name: &str, value: &str) -> String {
        match self.flavour {
            Flavour::MySql => format!("SET PERSIST {name} = {value}"),
            Flavour::MariaDb => format!(
                "SET GLOBAL {name} = {value} -- and in its configuration file: {name} = {value}"
            ),
        }
    }

    /// The setting by which the server takes no writes, and its value.
    pub(crate) fn read_only(&self) -> Option<(&'static str, &str)> {
        let settings = ["super_read_only", "read_only"].into_iter();
        let mut settings = settings.map(|name| (name, self.value(name)));
        // What else MariaDB 12 calls it (NO_LOCK, NO_LOCK_NO_ADMIN) is read-only, too.
        settings.find(|(_, value)| !matches!(*value, "" | "OFF" | "0"))
    }

    /// What the whole server's settings can make go wrong.
    pub(crate) fn of_server(&self, sessions: Sessions) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.kind_of_server(&mut findings);
        self.durability(&mut findings);
        self.binary_log(&mut findings);
        self.habits(&mut findings);
        self.limits(sessions, &mut findings);
        findings
    }

    fn kind_of_server(&self, findings: &mut Vec<Finding>) {
        if self.is_on("wsrep_on") || !matches!(self.value("wsrep_provider"), "" | "none") {
            findings.push(Finding::new(
                Severity::Error,
                "wsrep_on",
                "the server is part of a Galera cluster, which does not support XA (MDEV-26575)",
                "use another server",
            ));
        }
        if let Some((name, value)) = self.read_only() {
            findings.push(Finding::new(
                Severity::Error,
                "read_only",
                format!(
                    "{name} is {value}: the server is a standby, which takes no writes and whose \
                     list of prepared transactions proves nothing"
                ),
                "connect to the primary; if it is the primary: SET GLOBAL read_only = 0",
            ));
        }
        if self.is_on("innodb_read_only") {
            findings.push(Finding::new(
                Severity::Error,
                "innodb_read_only",
                "innodb_read_only is ON: nothing can be written",
                "in its configuration file: innodb_read_only = OFF, and restart it",
            ));
        }
        if let Some(level @ 1..) = self.number("innodb_force_recovery") {
            findings.push(Finding::new(
                Severity::Error,
                "innodb_force_recovery",
                format!(
                    "innodb_force_recovery is {level}: InnoDB lets nothing be changed, and from 3 \
                     on does not roll back what a crash has left"
                ),
                "in its configuration file: innodb_force_recovery = 0, and restart it",
            ));
        }
    }

    fn durability(&self, findings: &mut Vec<Finding>) {
        let flush = self.value("innodb_flush_log_at_trx_commit");
        // MariaDB's 3 flushes as often as 1, and waits once more.
        let is_safe = flush == "1" || (flush == "3" && self.flavour == Flavour::MariaDb);
        if !is_safe {
            findings.push(Finding::new(
                Severity::Error,
                "innodb_flush_log_at_trx_commit",
                format!(
                    "innodb_flush_log_at_trx_commit is {flush}: prepared and committed branches \
                     can vanish in a crash after they were acknowledged"
                ),
                self.set("innodb_flush_log_at_trx_commit", "1"),
            ));
        }
        if self.value("innodb_flush_method") == "nosync" {
            findings.push(Finding::new(
                Severity::Error,
                "innodb_flush_method",
                "innodb_flush_method is nosync: nothing is flushed to the disk, so a crash of the \
                 machine loses prepared and committed branches after they were acknowledged",
                "in its configuration file: remove innodb_flush_method, and restart it",
            ));
        }
        if self.is_off("innodb_doublewrite") {
            findings.push(Finding::new(
                Severity::Warning,
                "innodb_doublewrite",
                "innodb_doublewrite is OFF: a crash of the machine can leave half-written pages, \
                 unless the file system writes them at once",
                "in its configuration file: innodb_doublewrite = ON, and restart it",
            ));
        }
    }

    fn binary_log(&self, findings: &mut Vec<Finding>) {
        if !self.is_on("log_bin") {
            return;
        }
        let sync = self.value("sync_binlog");
        if sync != "1" {
            findings.push(Finding::new(
                Severity::Error,
                "sync_binlog",
                format!(
                    "the binary log is on and sync_binlog is {sync}: after a crash of the machine \
                     the server rolls back what the binary log has lost, acknowledged or not"
                ),
                self.set("sync_binlog", "1"),
            ));
        }
        if self.value("binlog_format") == "STATEMENT" {
            findings.push(Finding::new(
                Severity::Warning,
                "binlog_format",
                "binlog_format is STATEMENT, which is unsafe for XA: replicas can come to hold \
                 other data (ER_BINLOG_UNSAFE_XA)",
                self.set("binlog_format", "ROW"),
            ));
        }
        if self.value("binlog_error_action") == "IGNORE_ERROR" {
            findings.push(Finding::new(
                Severity::Warning,
                "binlog_error_action",
                "binlog_error_action is IGNORE_ERROR: when the binary log cannot be written, the \
                 server goes on without it, and replicas miss branches",
                self.set("binlog_error_action", "DEFAULT"),
            ));
        }
    }

    /// What does no harm, or is set for each session, but is good to know.
    fn habits(&self, findings: &mut Vec<Finding>) {
        if self.is_on("innodb_rollback_on_timeout") {
            findings.push(Finding::new(
                Severity::Note,
                "innodb_rollback_on_timeout",
                "innodb_rollback_on_timeout is ON: a lock wait time-out rolls back the whole \
                 branch, and statement_error_handled cannot save it",
                "if that is not wanted, in its configuration file: innodb_rollback_on_timeout = \
                 OFF, and restart it",
            ));
        }
        if !self.value("init_connect").trim().is_empty() {
            findings.push(Finding::new(
                Severity::Note,
                "init_connect",
                "init_connect is set: the server runs it at each login, except for administrators, \
                 and not again when a session is wiped, so that branches find other settings after \
                 the first one",
                "give the same SQL to session_setup, which is run between any two branches",
            ));
        }
        if self.is_off("innodb_deadlock_detect") {
            findings.push(Finding::new(
                Severity::Note,
                "innodb_deadlock_detect",
                "innodb_deadlock_detect is OFF: deadlocks inside this server last until the lock \
                 timeout of the transaction",
                self.set("innodb_deadlock_detect", "ON"),
            ));
        }
        if self.is_off("autocommit") {
            findings.push(Finding::new(
                Severity::Note,
                "autocommit",
                "autocommit is OFF by default: Unanimous sets it to 1 in its own sessions, because \
                 XA START is refused otherwise (1400)",
                self.set("autocommit", "1"),
            ));
        }
    }

    fn limits(&self, sessions: Sessions, findings: &mut Vec<Finding>) {
        if let Some(seconds) = self.number("wait_timeout")
            && seconds < WAIT_SECONDS_MIN
        {
            findings.push(Finding::new(
                Severity::Warning,
                "wait_timeout",
                format!(
                    "wait_timeout is {seconds} s: the server closes pooled connections that were \
                     idle for so long, and each is replaced by a new login"
                ),
                self.set("wait_timeout", "28800"),
            ));
        }
        if let Some(max) = self.number("max_connections")
            && max < sessions.all as u64
        {
            findings.push(Finding::new(
                Severity::Warning,
                "max_connections",
                format!(
                    "max_connections is {max}, and this resource alone may have {} (pool_size, and \
                     those of recovery): branches then fail to open with 1040",
                    sessions.all
                ),
                self.set("max_connections", &(sessions.all * 2).to_string()),
            ));
        }
    }

    /// What one account's session has that can make its work fail.
    pub(crate) fn of_session(&self, sessions: Sessions) -> Vec<Finding> {
        let mut findings = Vec::new();
        for name in ["transaction_read_only", "tx_read_only"] {
            if self.is_on(name) {
                findings.push(Finding::new(
                    Severity::Error,
                    "transaction_read_only",
                    format!("{name} is ON: every branch would be read-only (1792)"),
                    self.set(name, "OFF"),
                ));
                break;
            }
        }
        if self.flavour == Flavour::MySql && self.is_off("xa_detach_on_prepare") {
            findings.push(Finding::new(
                Severity::Error,
                "xa_detach_on_prepare",
                STAYS_ATTACHED,
                self.set("xa_detach_on_prepare", "ON"),
            ));
        }
        let engine = self.value("default_storage_engine");
        if !engine.eq_ignore_ascii_case("InnoDB") {
            findings.push(Finding::new(
                Severity::Warning,
                "default_storage_engine",
                format!(
                    "default_storage_engine is {engine}: tables made without ENGINE=InnoDB \
                     keep what is written to them, whatever is decided"
                ),
                self.set("default_storage_engine", "InnoDB"),
            ));
        }
        if let Some(max @ 1..) = self.number("max_user_connections")
            && max < sessions.of_account as u64
        {
            findings.push(Finding::new(
                Severity::Warning,
                "max_user_connections",
                format!(
                    "the account may have {max} connections, and this resource may need {}: \
                     branches then fail to open with 1203 or 1226",
                    sessions.of_account
                ),
                format!(
                    "lower pool_size, or {}; for an account with a limit of its own: ALTER USER … \
                     WITH MAX_USER_CONNECTIONS {}",
                    self.set("max_user_connections", "0"),
                    sessions.of_account
                ),
            ));
        }
        self.idle_limits(&mut findings);
        if let Ok(seconds) = self.value("max_statement_time").parse::<f64>()
            && seconds > 0.0
        {
            findings.push(Finding::new(
                Severity::Note,
                "max_statement_time",
                format!(
                    "max_statement_time is {seconds} s and counts for XA PREPARE and XA COMMIT, \
                     too: one that is ended by it is asked about and repeated"
                ),
                "if that is not wanted: session_setup(\"SET SESSION max_statement_time = 0\")",
            ));
        }
        findings
    }

    /// MariaDB ends connections that are idle inside a transaction; a branch sets its own limit by
    /// `wait_timeout`, which these undercut.
    fn idle_limits(&self, findings: &mut Vec<Finding>) {
        for name in ["idle_transaction_timeout", "idle_write_transaction_timeout"] {
            let Some(seconds @ 1..) = self.number(name) else {
                continue;
            };
            let severity = if seconds < WAIT_SECONDS_MIN {
                Severity::Warning
            } else {
                Severity::Note
            };
            findings.push(Finding::new(
                severity,
                "idle_transaction_timeout",
                format!(
                    "{name} is {seconds} s: the server closes the connection of a branch in which \
                     nothing was done for so long, and rolls it back"
                ),
                self.set(name, "0"),
            ));
        }
    }
}

#[cfg(test)]
#[path = "settings_test.rs"]
mod tests;
