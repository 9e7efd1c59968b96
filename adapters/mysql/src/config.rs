//! How a resource is described: its name, its address, and what its sessions are like.
//!
//! Nothing here connects. No text that leaves this file holds a password (I8): an address that
//! cannot be read is described, never repeated, because a misplaced `@` or `?` makes a piece of the
//! password look like a parameter.

use std::fmt;
use std::time::Duration;

use mysql_async::{IsolationLevel, Opts, OptsBuilder, UrlError};
use unanimous_core::xid::ResourceName;

use crate::Mysql;

/// The attributes by which an operator finds our sessions in
/// `performance_schema.session_connect_attrs`.
const PROGRAM_ATTRIBUTE: &str = "program_name";
const RESOURCE_ATTRIBUTE: &str = "unanimous_resource";

/// Sessions for recovery: never the application's, so that a full pool cannot keep it waiting.
const CONTROL_SESSIONS_MAX: usize = 4;

/// How long a recovery session waits for a lock: `FLUSH TABLES WITH READ LOCK` blocks `XA COMMIT`.
const CONTROL_LOCK_WAIT_SECONDS: u32 = 5;

/// The description of a resource that is wrong in itself. Says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    message: String,
}

impl ConfigError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Describes a MySQL or MariaDB resource; [`build`](Self::build) makes it.
///
/// Made by [`Mysql::builder`].
#[must_use]
pub struct Builder {
    name: String,
    source: Source,
    pool_size: usize,
    pool_timeout: Duration,
    connect_timeout: Duration,
    isolation: Option<IsolationLevel>,
    session_setup: String,
}

enum Source {
    Url(String),
    Opts(Box<Opts>),
}

impl Builder {
    pub(crate) fn from_url(name: String, url: String) -> Self {
        Self::new(name, Source::Url(url))
    }

    pub(crate) fn from_opts(name: String, opts: Opts) -> Self {
        Self::new(name, Source::Opts(Box::new(opts)))
    }

    fn new(name: String, source: Source) -> Self {
        Self {
            name,
            source,
            pool_size: 16,
            pool_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            isolation: None,
            session_setup: String::new(),
        }
    }

    /// The most branches that can be open at a time; default 16. Recovery has up to four sessions
    /// of its own beside them.
    pub fn pool_size(mut self, branches: usize) -> Self {
        self.pool_size = branches;
        self
    }

    /// How long opening a branch waits for a free session of the pool; default 30 s.
    pub fn pool_timeout(mut self, timeout: Duration) -> Self {
        self.pool_timeout = timeout;
        self
    }

    /// How long a new connection may take, login and set-up included; default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The isolation level of every branch; default: the server's.
    pub fn isolation(mut self, level: IsolationLevel) -> Self {
        self.isolation = Some(level);
        self
    }

    /// SQL that is run on every session before its first and between any two branches, such as
    /// `SET SESSION sql_mode = '…'`. Several statements are separated by semicolons.
    pub fn session_setup(mut self, sql: impl Into<String>) -> Self {
        self.session_setup = sql.into();
        self
    }

    /// Makes the resource. Does not connect.
    ///
    /// # Errors
    /// The name or the address cannot be used; the message says why and holds no password.
    pub fn build(self) -> Result<Mysql, ConfigError> {
        let name: ResourceName = self
            .name
            .parse()
            .map_err(|error| ConfigError::new(format!("{error}")))?;
        let opts = match self.source {
            Source::Url(url) => parse_url(&name, &url)?,
            Source::Opts(opts) => *opts,
        };
        if opts.ssl_opts().is_some() {
            return Err(ConfigError::new(format!(
                "resource {name}: encrypted connections are not supported yet; leave require_ssl \
                 out and use a private network or a tunnel"
            )));
        }
        let Some(database) = opts.db_name().filter(|database| !database.is_empty()) else {
            return Err(ConfigError::new(format!(
                "resource {name}: the address names no database: write \
                 mysql://user@host:port/database"
            )));
        };
        if self.pool_size == 0 {
            return Err(ConfigError::new(format!(
                "resource {name}: a pool of size 0 can open no branch: give 1 or more"
            )));
        }
        // The driver runs both from the last to the first, and the former once per connection: a
        // session that was wiped would be another one than a new one.
        let once = opts.init().iter().rev();
        let own: Vec<&str> = once
            .chain(opts.setup().iter().rev())
            .map(String::as_str)
            .chain([self.session_setup.as_str()])
            .collect();
        let setup = setup(database, &own);
        let control_setup = format!(
            "SET SESSION lock_wait_timeout = {CONTROL_LOCK_WAIT_SECONDS}, \
             innodb_lock_wait_timeout = {CONTROL_LOCK_WAIT_SECONDS}"
        );
        let base = base_opts(&name, opts);
        Mysql::new(Config {
            branch_opts: base.clone().setup(vec![setup.clone()]).into(),
            control_opts: base
                .setup(vec![format!("{setup};\n{control_setup}")])
                .into(),
            name,
            pool_size: self.pool_size,
            control_size: CONTROL_SESSIONS_MAX,
            pool_timeout: self.pool_timeout,
            connect_timeout: self.connect_timeout,
            isolation: self.isolation,
        })
        .map_err(|error| ConfigError::new(format!("no pool can be made: {error}")))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A description that was found to be usable.
pub(crate) struct Config {
    pub(crate) name: ResourceName,
    pub(crate) branch_opts: Opts,
    pub(crate) control_opts: Opts,
    pub(crate) pool_size: usize,
    pub(crate) control_size: usize,
    pub(crate) pool_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) isolation: Option<IsolationLevel>,
}

fn parse_url(name: &ResourceName, url: &str) -> Result<Opts, ConfigError> {
    Opts::from_url(url).map_err(|error| {
        let reason = describe(&error);
        ConfigError::new(format!("resource {name}: {reason}"))
    })
}

/// What is wrong with an address, without repeating any part of it that could be a secret.
fn describe(error: &UrlError) -> String {
    let is_word =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    match error {
        UrlError::InvalidParamValue { param, .. } if is_word(param) => {
            format!("the value of parameter {param} in the address cannot be used")
        }
        UrlError::InvalidPoolConstraints { .. } => {
            "leave the pool's size out of the address and use pool_size".to_owned()
        }
        UrlError::UnsupportedScheme { .. } => {
            "the address must begin with mysql://, for MariaDB, too".to_owned()
        }
        UrlError::FeatureRequired { .. }
        | UrlError::InvalidParamValue { .. }
        | UrlError::UnknownParameter { .. } => {
            "the address has a parameter that is not known: in a user name or password, write %40 \
             for @, %3F for ?, %2F for /, %3A for : and %23 for #"
                .to_owned()
        }
        UrlError::Invalid | UrlError::Parse(_) => {
            "the address cannot be read: write mysql://user:password@host:port/database, and in a \
             user name or password %40 for @, %3F for ?, %2F for /, %3A for : and %23 for #"
                .to_owned()
        }
    }
}

/// What every session has, whatever the address says.
fn base_opts(name: &ResourceName, opts: Opts) -> OptsBuilder {
    let program = opts
        .connect_attributes()
        .and_then(|attributes| attributes.get(PROGRAM_ATTRIBUTE).cloned())
        .unwrap_or_else(|| "unanimous".to_owned());
    let keepalive = opts.tcp_keepalive().unwrap_or(Duration::from_secs(60));
    OptsBuilder::from_opts(opts)
        // With it the driver reconnects to the path that the server calls its socket, which on this
        // machine may be another server's: asked for MySQL by address, it spoke to a MariaDB.
        .prefer_socket(false)
        .tcp_keepalive(Some(keepalive))
        .init(Vec::<String>::new())
        .connect_attribute(PROGRAM_ATTRIBUTE, program)
        .connect_attribute(RESOURCE_ATTRIBUTE, name.as_str())
}

/// What is run on a session after login and after each reset, in one round trip.
///
/// A reset (COM_RESET_CONNECTION) restores session variables but leaves the current database as the
/// branch before left it. Autocommit comes last: without it every `SELECT` opens a transaction, and
/// `XA START` is refused (1400).
fn setup(database: &str, own: &[&str]) -> String {
    let mut sql = format!("USE `{}`", database.replace('`', "``"));
    for statement in own {
        let statement = statement.trim().trim_end_matches(';').trim_end();
        if !statement.is_empty() {
            sql.push_str(";\n");
            sql.push_str(statement);
        }
    }
    // On a line of its own: the statement before may end in a comment.
    sql.push_str("\n;\nSET SESSION autocommit = 1");
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        Mysql::builder("ledger", url)
            .build()
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn i8_an_address_that_cannot_be_read_is_described_without_the_password() {
        for url in [
            "mysql://app:s3cr3t@@@host:port/db",
            "mysql://app:s3cr3t",
            "mysql://app:1?s3cr3t=x@host/db",
            "mysql://app:1?s3cr3t@host/db",
            "postgres://app:s3cr3t@host/db",
            "s3cr3t",
            "mysql://app@host/db?s3cr3t=1",
            "mysql://app@host/db?prefer_socket=s3cr3t",
            "mysql://app:s3cr3t@host",
        ] {
            let built = Mysql::builder("ledger", url).build();
            let text = format!("{built:?}");
            assert!(!text.contains("s3cr3t"), "{text}");
            assert!(
                error(url).starts_with("resource ledger: "),
                "{}",
                error(url)
            );
        }
    }

    #[test]
    fn i8_the_description_and_the_resource_print_no_password() {
        let builder = Mysql::builder("ledger", "mysql://app:s3cr3t@127.0.0.1:1/db");
        assert!(!format!("{builder:?}").contains("s3cr3t"));
        let resource = builder.build().unwrap();
        assert_eq!(
            format!("{resource:?}"),
            "Mysql { name: ResourceName(ledger) }"
        );
    }

    #[test]
    fn an_address_without_a_database_is_refused_with_the_mend() {
        for url in ["mysql://app@host", "mysql://app@host/"] {
            assert!(error(url).contains("names no database"), "{}", error(url));
        }
    }

    #[test]
    fn encryption_that_cannot_be_had_is_refused_and_not_left_out() {
        let text = error("mysql://app@host/db?require_ssl=true");
        assert!(
            text.contains("encrypted connections are not supported yet"),
            "{text}"
        );
    }

    #[test]
    fn a_name_that_does_not_fit_an_xid_and_an_empty_pool_are_refused() {
        let text = Mysql::builder("a b", "mysql://a@h/d")
            .build()
            .unwrap_err()
            .to_string();
        assert!(text.contains("resource name"), "{text}");
        let empty = Mysql::builder("a", "mysql://a@h/d")
            .pool_size(0)
            .build()
            .unwrap_err();
        assert!(empty.to_string().contains("size 0"), "{empty}");
    }

    #[test]
    fn the_session_set_up_comes_between_the_database_and_autocommit() {
        assert_eq!(
            setup("d", &["", " "]),
            "USE `d`\n;\nSET SESSION autocommit = 1"
        );
        assert_eq!(
            setup("a`b", &["SET x = 1; ", " SET y = 2 -- why"]),
            "USE `a``b`;\nSET x = 1;\nSET y = 2 -- why\n;\nSET SESSION autocommit = 1"
        );
    }

    #[test]
    fn the_socket_that_the_server_names_is_never_preferred() {
        let opts = Opts::from_url("mysql://app@host/db?prefer_socket=true").unwrap();
        let opts: Opts = base_opts(&"ledger".parse().unwrap(), opts).into();
        assert!(!opts.prefer_socket());
    }
}
