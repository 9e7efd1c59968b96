//! What is worth a look when a person asks, and too dear or too unlikely for each start: room that
//! is left, what was prepared long ago, tables that take no part, replicas, and the known bugs of
//! the server's release.
//!
//! Some of it is shown to accounts with the privilege PROCESS only; without it, that much is not
//! judged. The list of InnoDB: MySQL manual, "The INFORMATION_SCHEMA INNODB_TRX Table".

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Row};
use unanimous_core::ports::{Finding, ResourceError, Severity};

use crate::bugs::{self, Circumstances};
use crate::identity::to_map;
use crate::session::{Flavour, Session, number, text};
use crate::settings::Variables;
use crate::{Mysql, codes, replication};

/// Transactions whose old versions of rows still have to be kept. A server at rest has some
/// hundreds.
const HISTORY_MAX: u64 = 1_000_000;

/// So many tables are named.
const NAMED_MAX: usize = 5;

/// Times in `INNODB_TRX` are those of the server's own zone, and so has `NOW()` to be.
const ZONE: &str = "SET SESSION time_zone = 'SYSTEM'";
const OLD: &str = "SELECT COUNT(*), MIN(trx_started) FROM information_schema.INNODB_TRX \
     WHERE trx_mysql_thread_id = 0 AND trx_started < NOW() - INTERVAL 1 HOUR";
const HISTORY: &str = "SELECT COUNT FROM information_schema.INNODB_METRICS \
     WHERE NAME = 'trx_rseg_history_len'";
/// Without PROCESS an account sees its own connections only.
const CONNECTIONS: &str = "SELECT COUNT(CASE WHEN USER = SUBSTRING_INDEX(USER(), '@', 1) \
     THEN 1 END), COUNT(CASE WHEN COMMAND LIKE 'Binlog Dump%' THEN 1 END) \
     FROM information_schema.PROCESSLIST";
const TABLES: &str = "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES \
     WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE' \
     AND ENGINE IS NOT NULL AND ENGINE <> 'InnoDB' ORDER BY TABLE_NAME LIMIT 6";
const SPIDER: &str = "SELECT COUNT(*) FROM information_schema.PLUGINS \
     WHERE PLUGIN_NAME = 'SPIDER' AND PLUGIN_STATUS = 'ACTIVE'";

/// See [`ResourceManager::checkup`](unanimous_core::ports::ResourceManager::checkup).
pub(crate) async fn look(resource: &Mysql) -> Result<Vec<Finding>, ResourceError> {
    let config = resource.config();
    let (mut conn, facts) = Session::inspect(config, &config.control).await?;
    let version = facts.version().to_owned();
    let seen = Seen::read(&mut conn, facts.flavour()).await;
    drop(conn);
    let seen = seen.map_err(|error| {
        let message = format!("cannot look at the server: {error}");
        let problem = codes::connect(&error);
        resource.error(problem, message).with_source(error)
    })?;
    Ok(seen.judge(&version, config.sessions() as u64))
}

/// What the server answered.
struct Seen {
    variables: Variables,
    status: BTreeMap<String, String>,
    own_connections: u64,
    /// Connections that read the binary log.
    readers: Option<u64>,
    /// How many have been prepared for over an hour without a connection, and since when.
    old: Option<(u64, String)>,
    /// See [`HISTORY_MAX`].
    history: Option<u64>,
    /// Tables of other engines: name and engine.
    tables: Vec<(String, String)>,
    has_spider: bool,
}

impl Seen {
    async fn read(conn: &mut Conn, flavour: Flavour) -> Result<Self, Error> {
        let variables = format!(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({}, 'max_connections', 'log_bin', \
             'gtid_mode')",
            replication::VARIABLES
        );
        let status = format!(
            "SHOW GLOBAL STATUS WHERE Variable_name IN ({}, 'Threads_connected', \
             'Innodb_history_list_length')",
            replication::STATUS
        );
        conn.query_drop(ZONE).await?;
        let variables = Variables::new(flavour, &conn.query::<Row, _>(variables).await?);
        let status = to_map(&conn.query::<Row, _>(status).await?);
        let old = if_shown(conn.query_first::<Row, _>(OLD).await)?;
        let history = if_shown(conn.query_first::<Row, _>(HISTORY).await)?;
        let connections = conn.query_first::<Row, _>(CONNECTIONS).await?;
        let tables = conn.query::<Row, _>(TABLES).await?;
        let spider = conn.query_first::<Row, _>(SPIDER).await?;
        let sees_others = old.is_some();
        let at = |row: Option<&Row>, column| number::<u64>(row?, column);
        let history = at(history.as_ref(), 0);
        Ok(Self {
            own_connections: at(connections.as_ref(), 0).unwrap_or(0),
            readers: at(connections.as_ref(), 1).filter(|_| sees_others),
            old: old.and_then(|row| Some((number(&row, 0)?, text(&row, 1)?))),
            history: history.or_else(|| status.get("innodb_history_list_length")?.parse().ok()),
            tables: tables
                .iter()
                .filter_map(|row| Some((text(row, 0)?, text(row, 1)?)))
                .collect(),
            has_spider: at(spider.as_ref(), 0) == Some(1),
            variables,
            status,
        })
    }

    fn judge(&self, version: &str, needed: u64) -> Vec<Finding> {
        let circumstances = Circumstances {
            has_binary_log: self.variables.is_on("log_bin"),
            has_gtids: self.variables.is_on("gtid_mode"),
            has_spider: self.has_spider,
        };
        let mut found = bugs::of(version, circumstances);
        found.extend(replication::judge(
            &self.variables,
            &self.status,
            self.readers,
        ));
        found.extend(self.connections(needed));
        found.extend(self.old());
        found.extend(self.history());
        found.extend(self.tables());
        found
    }

    /// Those that are taken by other accounts.
    fn connections(&self, needed: u64) -> Option<Finding> {
        let max = self.variables.number("max_connections")?;
        let all: u64 = self.status.get("threads_connected")?.parse().ok()?;
        let others = all.saturating_sub(self.own_connections);
        let free = max.saturating_sub(others);
        // A server that never has enough is told by the preflight.
        (max >= needed && free < needed).then(|| {
            Finding::new(
                Severity::Warning,
                "free_connections",
                format!(
                    "{others} of {max} connections are taken by others, and this resource may open \
                     {needed}: branches then fail to open with 1040"
                ),
                self.variables
                    .set("max_connections", &((others + needed) * 2).to_string()),
            )
        })
    }

    fn old(&self) -> Option<Finding> {
        let (count, since) = self.old.as_ref().filter(|(count, _)| *count > 0)?;
        Some(Finding::new(
            Severity::Warning,
            "old_prepared_transactions",
            format!(
                "{count} transactions are prepared, have no connection, and began more than an \
                 hour ago, the oldest at {since} (time of the server): they hold their locks, and \
                 old versions of rows are kept because of them"
            ),
            "see whose they are: unanimous list, or XA RECOVER; then: unanimous recover",
        ))
    }

    fn history(&self) -> Option<Finding> {
        let length = self.history.filter(|length| *length > HISTORY_MAX)?;
        Some(Finding::new(
            Severity::Warning,
            "undo_history",
            format!(
                "old versions of rows of {length} transactions are kept: the server becomes slow \
                 and its undo tablespaces grow; an old transaction, prepared or not, may be the \
                 reason"
            ),
            "SELECT trx_id, trx_mysql_thread_id, trx_started FROM information_schema.INNODB_TRX \
             ORDER BY trx_started LIMIT 5; those of connection 0 are prepared: unanimous recover",
        ))
    }

    fn tables(&self) -> Option<Finding> {
        if self.tables.is_empty() {
            return None;
        }
        let shown = self.tables.iter().take(NAMED_MAX);
        let mut names: Vec<_> = shown
            .clone()
            .map(|(name, engine)| format!("{name} ({engine})"))
            .collect();
        if self.tables.len() > NAMED_MAX {
            names.push("...".to_owned());
        }
        let mends = shown.map(|(name, _)| {
            let name = name.replace('`', "``");
            format!("ALTER TABLE `{name}` ENGINE=InnoDB")
        });
        Some(Finding::new(
            Severity::Warning,
            "storage_engine",
            format!(
                "what is written to tables of other engines than InnoDB stays, whatever is \
                 decided: {}",
                names.join(", ")
            ),
            mends.collect::<Vec<_>>().join("; "),
        ))
    }
}

/// Nothing, if a privilege is missing.
fn if_shown(row: Result<Option<Row>, Error>) -> Result<Option<Row>, Error> {
    match row {
        Err(error) if codes::is_access_denied(&error) => Ok(None),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(change: impl FnOnce(&mut Seen)) -> Vec<String> {
        let variables = [("max_connections", "100"), ("log_bin", "ON")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let threads = ("threads_connected".to_owned(), "10".to_owned());
        let mut seen = Seen {
            variables: Variables::of(Flavour::MySql, BTreeMap::from(variables)),
            status: BTreeMap::from([threads]),
            own_connections: 0,
            readers: None,
            old: Some((0, String::new())),
            history: Some(HISTORY_MAX),
            tables: Vec::new(),
            has_spider: false,
        };
        change(&mut seen);
        let found = seen.judge("9.7.4", 20).into_iter();
        found.map(|finding| finding.subject).collect()
    }

    #[test]
    fn a_server_with_room_and_without_old_transactions_is_well() {
        assert_eq!(subjects(|_| {}), [""; 0]);
        assert_eq!(subjects(|seen| seen.old = None), [""; 0]);
    }

    #[test]
    fn connections_of_this_account_are_not_taken_by_others() {
        let of = |all: &str, own: u64| {
            let all = all.to_owned();
            subjects(|seen| {
                seen.status.insert("threads_connected".into(), all);
                seen.own_connections = own;
            })
        };
        assert_eq!(of("80", 0), [""; 0]);
        assert_eq!(of("81", 0), ["free_connections"]);
        assert_eq!(of("81", 1), [""; 0]);
    }

    #[test]
    fn a_history_of_over_a_million_transactions_is_told() {
        let long = subjects(|seen| seen.history = Some(HISTORY_MAX + 1));
        assert_eq!(long, ["undo_history"]);
    }
}
