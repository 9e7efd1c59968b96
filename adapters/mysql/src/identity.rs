//! Which server is at the other end: flavour, version, identity, scope, and when it was started.
//!
//! * MySQL has a `server_uuid` in its data folder.
//! * MariaDB's `server_uid` is made from the machine and was equal for two data folders, so a row
//!   of our own, random and made once, takes its place, together with `server_id`: a replica has
//!   the same row (it is replicated) and another `server_id`.
//!
//! Versions that cannot keep a prepared branch safe are refused here, before anything else is
//! asked.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Row};
use unanimous_core::ports::{Finding, ServerIdentity, Severity};

use crate::session::{Flavour, Server, text};
use crate::{codes, version};

/// The table that holds a MariaDB database's identity.
pub(crate) const TABLE: &str = "unanimous_identity";

/// Makes the identity row, if it is not there: the statements that a person can paste, too.
///
/// `UUID()` holds the time to 100 ns and the machine's address; two data folders of one machine get
/// different ones.
pub(crate) const CREATE: &str = "CREATE TABLE IF NOT EXISTS unanimous_identity \
     (one TINYINT NOT NULL PRIMARY KEY CHECK (one = 1), \
     identity CHAR(32) CHARACTER SET ascii NOT NULL) ENGINE=InnoDB";
/// See [`CREATE`].
pub(crate) const INSERT: &str =
    "INSERT IGNORE INTO unanimous_identity VALUES (1, REPLACE(UUID(), '-', ''))";

const ROW: &str = "SELECT identity FROM unanimous_identity WHERE one = 1";

/// The time is read before and after the uptime, so that both are known to be of the same second.
const FACTS: &str = "SELECT UNIX_TIMESTAMP(), CURRENT_USER(), CURRENT_ROLE(), CONNECTION_ID(); \
     SHOW GLOBAL STATUS LIKE 'Uptime'; \
     SELECT UNIX_TIMESTAMP(); \
     SHOW GLOBAL VARIABLES WHERE Variable_name IN \
     ('version', 'server_uuid', 'server_uid', 'server_id', 'hostname', 'port', 'datadir')";

/// A second boundary is hit once; hitting it again and again means that the clock runs wild.
const ATTEMPTS_MAX: usize = 5;

/// What a server said of itself.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    variables: BTreeMap<String, String>,
    account: String,
    role: Option<String>,
    connection: Option<u64>,
    started: Option<u64>,
    identity_row: Option<String>,
}

/// Reads it, in one round trip; on MariaDB in two.
pub(crate) async fn read(conn: &mut Conn) -> Result<Facts, Error> {
    let mut facts = read_variables(conn).await?;
    for _ in 1..ATTEMPTS_MAX {
        if facts.started.is_some() {
            break;
        }
        facts = read_variables(conn).await?;
    }
    if facts.flavour() == Flavour::MariaDb {
        facts.identity_row = read_row(conn).await?;
    }
    Ok(facts)
}

/// The identity row, if there is one.
pub(crate) async fn read_row(conn: &mut Conn) -> Result<Option<String>, Error> {
    match conn.query_first::<Row, _>(ROW).await {
        Ok(row) => Ok(row.and_then(|row| text(&row, 0))),
        // 1142: the table is there, or would be, but may not be read. Preflight says what to grant.
        Err(error) if codes::is_no_such_table(&error) || codes::is_access_denied(&error) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn read_variables(conn: &mut Conn) -> Result<Facts, Error> {
    let mut result = conn.query_iter(FACTS).await?;
    let before = result.collect::<Row>().await?;
    let uptime = result.collect::<Row>().await?;
    let after = result.collect::<Row>().await?;
    let variables = result.collect::<Row>().await?;
    result.drop_result().await?;
    let number = |rows: &[Row], column| text(rows.first()?, column)?.parse::<u64>().ok();
    let started = match (number(&before, 0), number(&uptime, 1), number(&after, 0)) {
        (Some(before), Some(uptime), Some(after)) if before == after => before.checked_sub(uptime),
        _ => None,
    };
    Ok(Facts {
        variables: to_map(&variables),
        account: before
            .first()
            .and_then(|row| text(row, 1))
            .unwrap_or_default(),
        role: before.first().and_then(|row| text(row, 2)),
        connection: number(&before, 3),
        started,
        identity_row: None,
    })
}

/// The rows of `SHOW VARIABLES`, names in lower case.
pub(crate) fn to_map(rows: &[Row]) -> BTreeMap<String, String> {
    rows.iter()
        .filter_map(|row| Some((text(row, 0)?.to_ascii_lowercase(), text(row, 1)?)))
        .collect()
}

impl Facts {
    /// The number that the server gives the connection is the one that it was greeted with.
    ///
    /// # Errors
    /// Somebody in between numbers connections himself, so that the one that the server knows
    /// cannot be looked for, nor ended.
    pub(crate) fn check_connection(&self, greeted: u32) -> Result<(), Finding> {
        if self.connection == Some(u64::from(greeted)) {
            return Ok(());
        }
        Err(error(
            "proxy",
            "a proxy stands in between: the server numbers the connection differently than its \
             greeting did, so that a lost connection could not be seen gone",
            "connect to the server itself",
        ))
    }

    /// The server's own text.
    pub(crate) fn version(&self) -> &str {
        self.variable("version")
    }

    /// Product and version, for people.
    pub(crate) fn product(&self) -> String {
        version::product(self.variable("version"))
    }

    /// All that speaks against the server, or is worth knowing, without having asked it for more.
    pub(crate) fn findings(&self, greeted: u32) -> Vec<Finding> {
        let version = self.variable("version");
        let checked = version::check(version);
        let remarks = match checked {
            Ok(()) => version::remarks(version),
            Err(_) => Vec::new(),
        };
        [
            checked,
            self.check_connection(greeted),
            self.check_start().map(drop),
            self.identity().map(drop),
        ]
        .into_iter()
        .filter_map(Result::err)
        .chain(remarks)
        .collect()
    }

    fn check_start(&self) -> Result<u64, Finding> {
        self.started.ok_or_else(|| {
            error(
                "Uptime",
                "the server's clock and its Uptime do not fit together, so that two runs of it \
                 could not be told apart",
                "check the clock of the server's machine",
            )
        })
    }

    fn identity(&self) -> Result<Option<ServerIdentity>, Finding> {
        match self.flavour() {
            Flavour::MySql => identity_of_mysql(self.variable("server_uuid")),
            Flavour::MariaDb => self.identity_of_mariadb(),
        }
    }

    fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    pub(crate) fn flavour(&self) -> Flavour {
        version::flavour(self.variable("version"))
    }

    /// What follows from it.
    ///
    /// # Errors
    /// The server is too old, or does not say what it must.
    pub(crate) fn into_server(self) -> Result<Server, Finding> {
        version::check(self.variable("version"))?;
        let started = self.check_start()?;
        let flavour = self.flavour();
        let identity = self.identity()?;
        let scope = match flavour {
            Flavour::MySql => format!("mysql:{}", self.variable("server_uuid")),
            Flavour::MariaDb => self.scope_of_mariadb(),
        };
        let hides_deadlocks = version::hides_deadlocks(self.variable("version"));
        Ok(Server {
            flavour,
            identity,
            scope: scope.into(),
            started,
            roles: self.roles(),
            account: self.account.into(),
            hides_deadlocks,
        })
    }

    /// MySQL prints a list of quoted names, or NONE; MariaDB a bare name, or NULL.
    fn roles(&self) -> String {
        match (self.flavour(), &self.role) {
            (_, None) => "NONE".to_owned(),
            (Flavour::MySql, Some(roles)) => roles.clone(),
            (Flavour::MariaDb, Some(role)) => format!("`{}`", role.replace('`', "``")),
        }
    }

    fn identity_of_mariadb(&self) -> Result<Option<ServerIdentity>, Finding> {
        let Some(row) = &self.identity_row else {
            return Ok(None);
        };
        mariadb_identity(row, self.variable("server_id")).map(Some)
    }

    /// The identity rows of two databases on one server differ; these do not.
    fn scope_of_mariadb(&self) -> String {
        ["server_uid", "server_id", "hostname", "port", "datadir"]
            .iter()
            .fold("mariadb".to_owned(), |scope, name| {
                scope + ":" + self.variable(name)
            })
    }
}

/// A MariaDB's identity: the row of ours, and the number that tells replicas apart.
pub(crate) fn mariadb_identity(row: &str, server_id: &str) -> Result<ServerIdentity, Finding> {
    let refused = || {
        error(
            TABLE,
            format!("the row in table {TABLE} is not one that Unanimous has made"),
            "restore the row as it was; if it never was another one, nothing of this database is \
             prepared, and the log is new: DELETE FROM unanimous_identity, and check again",
        )
    };
    if row.len() != 32 || !row.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(refused());
    }
    ServerIdentity::new(format!("mariadb:{row}:{server_id}")).ok_or_else(refused)
}

fn identity_of_mysql(uuid: &str) -> Result<Option<ServerIdentity>, Finding> {
    let text = format!("mysql:{uuid}");
    match ServerIdentity::new(text) {
        Some(identity) if !uuid.is_empty() => Ok(Some(identity)),
        Some(_) | None => Err(error(
            "server_uuid",
            "the server names no server_uuid: it is not MySQL, and nothing tells it from another",
            "connect to MySQL or MariaDB itself",
        )),
    }
}

fn error(subject: &str, evidence: impl Into<String>, mend: &str) -> Finding {
    Finding::new(Severity::Error, subject, evidence, mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(variables: &[(&str, &str)]) -> Facts {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Facts {
            variables: variables.collect(),
            account: "app@%".to_owned(),
            role: None,
            connection: Some(1),
            started: Some(7),
            identity_row: None,
        }
    }

    #[test]
    fn a_mysql_is_known_by_its_uuid() {
        let server = facts(&[("version", "9.7.4"), ("server_uuid", "a-b")])
            .into_server()
            .unwrap();
        assert_eq!(server.identity.unwrap().as_str(), "mysql:a-b");
        assert_eq!(&*server.scope, "mysql:a-b");
        assert_eq!(server.started, 7);
        assert!(facts(&[("version", "9.7.4")]).into_server().is_err());
    }

    #[test]
    fn two_databases_of_one_mariadb_have_two_identities_and_one_scope() {
        let of_row = |row: &str| {
            let mut facts = facts(&[("version", "10.11.19-MariaDB"), ("server_id", "3")]);
            facts.identity_row = Some(row.to_owned());
            facts.into_server()
        };
        let (one, other) = (
            of_row(&"1".repeat(32)).unwrap(),
            of_row(&"2".repeat(32)).unwrap(),
        );
        assert_ne!(one.identity, other.identity);
        assert_eq!(one.scope, other.scope);
        assert_eq!(
            one.identity.unwrap().as_str(),
            format!("mariadb:{}:3", "1".repeat(32))
        );
        for row in ["drop table", &"g".repeat(32), &"1".repeat(31)] {
            assert!(of_row(row).is_err(), "{row}");
        }
    }

    #[test]
    fn a_mariadb_is_known_by_all_that_tells_servers_apart() {
        let server = facts(&[
            ("version", "10.11.19-MariaDB"),
            ("server_uid", "u"),
            ("server_id", "3"),
            ("hostname", "h"),
            ("port", "3306"),
            ("datadir", "/d/"),
        ]);
        let scope = server.into_server().unwrap().scope;
        assert_eq!(&*scope, "mariadb:u:3:h:3306:/d/");
    }

    #[test]
    fn each_objection_to_a_server_is_one_finding() {
        let subjects = |version: &str, change: fn(&mut Facts)| -> Vec<String> {
            let mut facts = facts(&[("version", version), ("server_uuid", "a-b")]);
            change(&mut facts);
            let findings = facts.findings(1).into_iter();
            findings.map(|finding| finding.subject).collect()
        };
        assert_eq!(subjects("9.7.4", |_| {}), [""; 0]);
        for (subject, change) in [
            ("Uptime", (|facts| facts.started = None) as fn(&mut Facts)),
            ("proxy", |facts| facts.connection = Some(2)),
            ("proxy", |facts| facts.connection = None),
            ("server_uuid", |facts| {
                facts.variables.remove("server_uuid");
            }),
        ] {
            assert_eq!(subjects("9.7.4", change), [subject]);
        }
        // Of a version that is refused nothing else is told.
        assert_eq!(subjects("8.0.29", |_| {}), ["version"]);
        assert_eq!(subjects("8.0.45", |_| {}), ["version"]);
        assert_eq!(facts(&[("version", "9.7.4-2")]).product(), "MySQL 9.7.4");
    }

    #[test]
    fn the_roles_are_kept_as_set_role_takes_them() {
        let roles = |version: &str, role: Option<&str>| {
            let mut facts = facts(&[("version", version)]);
            facts.role = role.map(str::to_owned);
            facts.roles()
        };
        assert_eq!(roles("9.7.4", Some("NONE")), "NONE");
        assert_eq!(roles("9.7.4", Some("`a`@`%`,`b`@`%`")), "`a`@`%`,`b`@`%`");
        assert_eq!(roles("10.11.19-MariaDB", None), "NONE");
        assert_eq!(roles("10.11.19-MariaDB", Some("a`b")), "`a``b`");
    }

    #[test]
    fn a_mariadb_without_its_row_has_no_identity_yet() {
        let server = facts(&[("version", "10.11.19-MariaDB")])
            .into_server()
            .unwrap();
        assert_eq!(server.identity, None);
    }
}
