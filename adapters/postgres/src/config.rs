//! How a PostgreSQL resource is set up: the builder, its checks and the settings it makes.
//!
//! Invariant I8: neither an error nor a `Debug` text of this module holds the address it was given,
//! for that may hold a password.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use unanimous_core::xid::ResourceName;

use crate::Postgres;
use crate::pool::Pools;

/// The isolation level of a resource's transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// Each transaction sees what was committed before its first statement.
    RepeatableRead,
    /// As if transactions of this database had run one after another. Says nothing about the other
    /// databases of a global transaction.
    Serializable,
}

impl Isolation {
    pub(crate) const fn clause(self) -> &'static str {
        match self {
            Self::ReadCommitted => " ISOLATION LEVEL READ COMMITTED",
            Self::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            Self::Serializable => " ISOLATION LEVEL SERIALIZABLE",
        }
    }
}

/// Why a resource cannot be built. Holds no part of the address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The name does not fit into an XID.
    Name,
    /// The address of the named resource cannot be read.
    Address(ResourceName),
    /// The address of the named resource asks for TLS, which this version does not speak.
    Tls(ResourceName),
    /// A setting of the named resource is out of range: says which, and what it may be.
    Setting(ResourceName, &'static str),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str(
                "the name of a resource has 1 to 64 of A-Z a-z 0-9 _ - and begins with a letter",
            ),
            Self::Address(name) => write!(
                f,
                "resource {name}: the address cannot be read; write \
                 postgres://user:password@host:5432/database, with special characters of the \
                 password percent-encoded"
            ),
            Self::Tls(name) => write!(
                f,
                "resource {name}: the address asks for TLS (sslmode, sslnegotiation), which this \
                 version does not speak; use sslmode=disable or sslmode=prefer over a network you \
                 trust"
            ),
            Self::Setting(name, rule) => write!(f, "resource {name}: {rule}"),
        }
    }
}

impl std::error::Error for BuildError {}

/// What a resource works by.
pub(crate) struct Settings {
    pub(crate) name: ResourceName,
    pub(crate) config: Config,
    pub(crate) pool_size: usize,
    pub(crate) recovery_sessions: usize,
    pub(crate) acquire_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) vanished_after: Duration,
    pub(crate) application_name: String,
    pub(crate) isolation: Option<Isolation>,
    pub(crate) session_setup: Option<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `options` of the address and the set-up SQL may hold secrets, too.
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("hosts", &hosts(&self.config))
            .field("database", &self.config.get_dbname())
            .field("user", &self.config.get_user())
            .field("pool_size", &self.pool_size)
            .field("recovery_sessions", &self.recovery_sessions)
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
    }
}

/// Sets up a PostgreSQL resource. Made by [`Postgres::builder`].
#[must_use = "nothing happens before build"]
pub struct PostgresBuilder {
    name: String,
    address: Address,
    settings: Options,
}

enum Address {
    Text(String),
    Parsed(Box<Config>),
}

struct Options {
    pool_size: usize,
    recovery_sessions: usize,
    acquire_timeout: Duration,
    connect_timeout: Duration,
    vanished_after: Duration,
    application_name: String,
    isolation: Option<Isolation>,
    session_setup: Option<String>,
}

impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBuilder")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl PostgresBuilder {
    pub(crate) fn from_url(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self::new(name.into(), Address::Text(url.into()))
    }

    pub(crate) fn from_config(name: impl Into<String>, config: Config) -> Self {
        Self::new(name.into(), Address::Parsed(Box::new(config)))
    }

    fn new(name: String, address: Address) -> Self {
        let settings = Options {
            pool_size: 16,
            recovery_sessions: 4,
            acquire_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            vanished_after: Duration::from_secs(60),
            application_name: "unanimous".to_owned(),
            isolation: None,
            session_setup: None,
        };
        Self {
            name,
            address,
            settings,
        }
    }

    /// How many branches may be open at the same time, and how many connections are kept. A branch
    /// holds its connection until its end is known. Default: 16.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.settings.pool_size = connections;
        self
    }

    /// How many connections recovery may use beside those of the branches: branches that wait
    /// can never keep it from working. Opened when needed. Default: 4.
    pub fn recovery_sessions(mut self, connections: usize) -> Self {
        self.settings.recovery_sessions = connections;
        self
    }

    /// How long to wait for a free connection when the pool is used up. Default: 30 seconds.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.settings.acquire_timeout = timeout;
        self
    }

    /// How long a new connection may take until its first answer. Default: 10 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// After how long the server ends sessions (and the locks of their active branches) whose host
    /// has vanished without closing its connections: `tcp_user_timeout` and the keep-alive settings
    /// of the session. Default: 60 seconds; at least 4.
    pub fn vanished_after(mut self, time: Duration) -> Self {
        self.settings.vanished_after = time;
        self
    }

    /// What stands before the gtrid in `application_name`. Default: `unanimous`.
    pub fn application_name(mut self, prefix: impl Into<String>) -> Self {
        self.settings.application_name = prefix.into();
        self
    }

    /// The isolation level of the branches. Default: `default_transaction_isolation` of the server.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.settings.isolation = Some(isolation);
        self
    }

    /// SQL that every session runs before its first branch, and again after each wipe:
    /// `SET search_path = shop; SET timezone = 'UTC'`. Recovery's sessions do not run it.
    pub fn session_setup(mut self, sql: impl Into<String>) -> Self {
        self.settings.session_setup = Some(sql.into());
        self
    }

    /// Makes the resource. Nothing is connected yet.
    ///
    /// # Errors
    /// A name, address or setting is not valid: see [`BuildError`].
    pub fn build(self) -> Result<Postgres, BuildError> {
        let name: ResourceName = self.name.parse().map_err(|_| BuildError::Name)?;
        let mut config = self.address.read(&name)?;
        let options = self.settings;
        options.check(&name)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(options.connect_timeout);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(options.vanished_after);
        }
        config.application_name(&options.application_name);
        let settings = Arc::new(Settings {
            name,
            config,
            pool_size: options.pool_size,
            recovery_sessions: options.recovery_sessions,
            acquire_timeout: options.acquire_timeout,
            connect_timeout: options.connect_timeout,
            vanished_after: options.vanished_after,
            application_name: options.application_name,
            isolation: options.isolation,
            session_setup: options.session_setup,
        });
        Ok(Postgres::new(Arc::new(Pools::new(settings))))
    }
}

impl Address {
    fn read(self, name: &ResourceName) -> Result<Config, BuildError> {
        let config = match self {
            Self::Parsed(config) => *config,
            Self::Text(text) => match text.parse::<Config>() {
                Ok(config) => config,
                // The driver's error may quote a piece of a password that was not encoded.
                Err(_) if asks_for_tls(&text) => return Err(BuildError::Tls(name.clone())),
                Err(_) => return Err(BuildError::Address(name.clone())),
            },
        };
        let plain = matches!(config.get_ssl_mode(), SslMode::Disable | SslMode::Prefer)
            && config.get_ssl_negotiation() == SslNegotiation::Postgres;
        if plain {
            Ok(config)
        } else {
            Err(BuildError::Tls(name.clone()))
        }
    }
}

/// Modes that libpq knows and the driver does not.
fn asks_for_tls(text: &str) -> bool {
    ["sslmode=verify-ca", "sslmode=verify-full", "sslmode=allow"]
        .iter()
        .any(|mode| text.contains(mode))
}

impl Options {
    fn check(&self, name: &ResourceName) -> Result<(), BuildError> {
        let refuse = |rule| Err(BuildError::Setting(name.clone(), rule));
        if self.pool_size == 0 {
            return refuse("pool_size is at least 1");
        }
        if self.recovery_sessions == 0 {
            return refuse("recovery_sessions is at least 1");
        }
        if self.vanished_after < Duration::from_secs(4) {
            return refuse("vanished_after is at least 4 seconds");
        }
        let printable = |c: char| (' '..='~').contains(&c) && c != '\'' && c != '\\';
        if !self.application_name.chars().all(printable) {
            return refuse("application_name is printable ASCII without ' and \\");
        }
        Ok(())
    }
}

fn hosts(config: &Config) -> Vec<String> {
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    };
    config.get_hosts().iter().map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "postgres://app:s3cret@db.example:5432/shop";

    fn error(name: &str, url: &str) -> BuildError {
        Postgres::builder(name, url).build().unwrap_err()
    }

    #[test]
    fn i8_a_bad_address_is_refused_without_showing_it() {
        for url in [
            "postgres://app:s3cret@db.example:notaport/shop",
            "postgres://app:s3cret@db.example/shop?s3cret=1",
            "host=db.example password=s3 s3cret=1",
            "mysql://app:s3cret@db.example/shop",
            "s3cret",
        ] {
            let error = error("orders", url);
            let text = format!("{error} {error:?}");
            assert!(text.contains("orders"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn i8_no_debug_text_shows_the_password() {
        let url = format!("{URL}?options=-c%20my.key%3Ds3cret");
        let builder = Postgres::builder("orders", url).session_setup("SET my.key = 's3cret'");
        assert!(!format!("{builder:?}").contains("s3cret"));
        let resource = builder.build().unwrap();
        let text = format!("{resource:?}");
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("db.example"), "{text}");
    }

    #[test]
    fn tls_is_refused_in_every_spelling() {
        for option in [
            "sslmode=require",
            "sslmode=verify-full",
            "sslmode=verify-ca",
            "sslnegotiation=direct&sslmode=require",
        ] {
            let error = error("orders", &format!("{URL}?{option}"));
            assert!(matches!(error, BuildError::Tls(_)), "{option}: {error}");
        }
        for option in ["sslmode=disable", "sslmode=prefer"] {
            let url = format!("{URL}?{option}");
            assert!(Postgres::builder("orders", url).build().is_ok());
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        assert_eq!(error("1st", URL), BuildError::Name);
        let builder = || Postgres::builder("orders", URL);
        for (builder, named) in [
            (builder().pool_size(0), "pool_size"),
            (builder().recovery_sessions(0), "recovery_sessions"),
            (builder().vanished_after(Duration::ZERO), "vanished_after"),
            (builder().application_name("it's"), "application_name"),
        ] {
            let error = builder.build().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
