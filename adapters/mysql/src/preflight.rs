//! Can this server do what will be asked of it? Every objection comes with its mend.
//!
//! Checked: the version (at login), the privilege to list branches, that the server may be written
//! to, Galera, and the settings without which an acknowledged prepare or commit can vanish. On
//! MariaDB the identity row is made if it is missing.

use std::collections::BTreeMap;

use unanimous_core::ports::{Preflight, Problem, ResourceError};

use crate::session::{Flavour, Server, Session};
use crate::{Mysql, codes, finish, identity};

pub(crate) const READ_ONLY: &str = "the server is read-only (read_only or super_read_only): it is \
     a standby, whose list of prepared transactions proves nothing; connect to the primary";

const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
     ('innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog', 'binlog_format', 'wsrep_on', \
     'wsrep_provider')";

/// See [`ResourceManager::preflight`](unanimous_core::ports::ResourceManager::preflight).
pub(crate) async fn check(resource: &Mysql) -> Result<Preflight, ResourceError> {
    let mut lease = resource.lend_checked_control().await?;
    let Some(session) = lease.session() else {
        return Err(resource.error(Problem::Unavailable, "the connection is closed"));
    };
    let rows = session.rows(VARIABLES).await.map_err(|error| {
        let message = format!("cannot read the server's variables: {error}");
        resource
            .error(codes::connect(&error), message)
            .with_source(error)
    })?;
    let objections = objections(&identity::to_map(&rows));
    if !objections.is_empty() {
        return Err(resource.unfit(objections.join("; ")));
    }
    // Refuses a read-only server and a missing privilege.
    finish::scan(resource, session).await?;
    if session.server().identity.is_none() {
        make_identity(resource, session).await?;
    }
    let identity = resource.identity_of(session).await?;
    lease.give_back();
    Ok(Preflight::new(
        "MySQL or MariaDB",
        Some(identity),
        Vec::new(),
    ))
}

async fn make_identity(resource: &Mysql, session: &mut Session) -> Result<(), ResourceError> {
    for sql in [identity::CREATE, identity::INSERT] {
        // One that others have made already is as good; whether it is there is asked afterwards.
        match session.run(sql).await {
            Ok(()) => {}
            Err(error) if codes::is_access_denied(&error) || codes::is_no_such_table(&error) => {}
            Err(error) => {
                let message = format!("{}: {error}", no_identity(session));
                return Err(resource
                    .error(codes::connect(&error), message)
                    .with_source(error));
            }
        }
    }
    Ok(())
}

/// The identity row is missing, or may not be read: what to run.
pub(crate) fn no_identity(session: &Session) -> String {
    let account = quoted(&session.server().account);
    format!(
        "the server has no identity row yet, which tells it from its copies: run the preflight \
         with an account that may create a table, or let an administrator run in this database: \
         {}; {}; GRANT SELECT ON {} TO {account}",
        identity::CREATE,
        identity::INSERT,
        identity::TABLE
    )
}

/// 1401 for `XA RECOVER`: what to grant.
pub(crate) fn no_recover_privilege(session: &Session) -> String {
    let Server {
        flavour, account, ..
    } = session.server();
    let account = quoted(account);
    match flavour {
        Flavour::MySql => format!(
            "the account may not list prepared transactions: GRANT XA_RECOVER_ADMIN ON *.* TO \
             {account}"
        ),
        Flavour::MariaDb => {
            format!("the server refuses XA RECOVER to {account} (1401): see its error log")
        }
    }
}

/// `app@%` as SQL: `'app'@'%'`. The last `@` separates: a host cannot hold one.
fn quoted(account: &str) -> String {
    let quote = |part: &str| format!("'{}'", part.replace('\'', "''"));
    match account.rsplit_once('@') {
        Some((user, host)) => format!("{}@{}", quote(user), quote(host)),
        None => quote(account),
    }
}

/// What speaks against the server's settings, each with the mend.
fn objections(variables: &BTreeMap<String, String>) -> Vec<String> {
    let value = |name: &str| variables.get(name).map_or("", String::as_str);
    let is_on = |name: &str| matches!(value(name), "ON" | "1");
    let mut objections = Vec::new();
    if is_on("wsrep_on") || !matches!(value("wsrep_provider"), "" | "none") {
        objections.push(
            "the server is part of a Galera cluster, which does not support XA: use another server"
                .to_owned(),
        );
    }
    let flush = value("innodb_flush_log_at_trx_commit");
    if flush != "1" {
        objections.push(format!(
            "innodb_flush_log_at_trx_commit is {flush}: prepared and committed branches can vanish \
             in a crash after they were acknowledged; SET PERSIST (MariaDB: SET GLOBAL, and in the \
             configuration) innodb_flush_log_at_trx_commit = 1"
        ));
    }
    let sync = value("sync_binlog");
    if is_on("log_bin") && sync != "1" {
        objections.push(format!(
            "the binary log is on and sync_binlog is {sync}: after a crash of the machine the \
             server rolls back what the binary log has lost, acknowledged or not; SET PERSIST \
             (MariaDB: SET GLOBAL, and in the configuration) sync_binlog = 1"
        ));
    }
    if is_on("log_bin") && value("binlog_format") == "STATEMENT" {
        tracing::warn!("binlog_format is STATEMENT, which is unsafe for XA on replicas: use ROW");
    }
    objections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objected(changes: &[(&str, &str)]) -> String {
        let safe = [
            ("innodb_flush_log_at_trx_commit", "1"),
            ("log_bin", "ON"),
            ("sync_binlog", "1"),
            ("binlog_format", "ROW"),
        ];
        let all = safe.iter().chain(changes);
        let variables = all
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        objections(&variables).join("; ")
    }

    #[test]
    fn safe_settings_are_not_objected_to() {
        assert_eq!(objected(&[]), "");
        assert_eq!(
            objected(&[("wsrep_on", "OFF"), ("wsrep_provider", "none")]),
            ""
        );
        assert_eq!(objected(&[("log_bin", "OFF"), ("sync_binlog", "0")]), "");
    }

    #[test]
    fn every_unsafe_setting_is_objected_to_with_its_mend() {
        for (changes, mend) in [
            (
                &[("innodb_flush_log_at_trx_commit", "0")][..],
                "log_at_trx_commit = 1",
            ),
            (
                &[("innodb_flush_log_at_trx_commit", "2")],
                "log_at_trx_commit = 1",
            ),
            (&[("sync_binlog", "0")], "sync_binlog = 1"),
            (&[("sync_binlog", "1000")], "sync_binlog = 1"),
            (&[("wsrep_on", "ON")], "use another server"),
            (
                &[("wsrep_provider", "/usr/lib/galera/libgalera_smm.so")],
                "use another server",
            ),
        ] {
            let text = objected(changes);
            assert!(text.contains(mend), "{changes:?}: {text}");
        }
    }

    #[test]
    fn an_account_is_quoted_for_pasting() {
        assert_eq!(quoted("app@%"), "'app'@'%'");
        assert_eq!(quoted("o'b@c@10.0.0.1"), "'o''b@c'@'10.0.0.1'");
    }
}
