//! How a PostgreSQL resource is set up: the builder, its checks and the settings it makes.
//!
//! Invariant I8: neither an error nor a `Debug` text of this module holds the address it was given,
//! for that may hold a password.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Config;
use unanimous_core::xid::ResourceName;

use crate::Postgres;
use crate::access::{Access, Origin, Source};
use crate::address::{self, Wrong};
use crate::pool::{Pools, TABLE_SESSIONS};
use crate::sql;
use crate::tls::Tls;

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
    /// The recovery address of the named resource cannot be read.
    RecoveryAddress(ResourceName),
    /// What is said about TLS for the named resource cannot be: says what to write.
    Tls(ResourceName, &'static str),
    /// A setting of the named resource is out of range: says which, and what it may be.
    Setting(ResourceName, &'static str),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str(
                "the name of a resource has 1 to 64 of A-Z a-z 0-9 _ - and begins with a letter",
            ),
            Self::Address(name) => {
                write!(f, "resource {name}: the address cannot be read; {WRITE}")
            }
            Self::RecoveryAddress(name) => {
                write!(
                    f,
                    "resource {name}: recovery_address cannot be read; {WRITE}"
                )
            }
            Self::Tls(name, rule) => write!(f, "resource {name}: TLS: {rule}"),
            Self::Setting(name, rule) => write!(f, "resource {name}: {rule}"),
        }
    }
}

const WRITE: &str = "write postgres://user:password@host:5432/database, with special characters of \
    the password percent-encoded, and only parameters that are documented";

impl Error for BuildError {}

/// What a resource works by.
pub(crate) struct Settings {
    pub(crate) name: ResourceName,
    pub(crate) access: Access,
    /// If recovery has an account of its own.
    pub(crate) recovery: Option<Access>,
    pub(crate) pool_size: usize,
    pub(crate) recovery_sessions: usize,
    pub(crate) pool_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) vanished_after: Duration,
    pub(crate) application_name: String,
    pub(crate) isolation: Option<Isolation>,
    pub(crate) session_setup: Option<String>,
    /// [`sql::wipe`], made once.
    pub(crate) wipe: String,
    /// A decision table was asked for: it has sessions of its own.
    pub(crate) holds_log: AtomicBool,
}

impl Settings {
    /// The account that scans, ends and fences.
    pub(crate) fn recovery_access(&self) -> &Access {
        self.recovery.as_ref().unwrap_or(&self.access)
    }

    /// How many sessions the resource may open: of branches, of recovery, and of the decision table
    /// if one was asked for.
    pub(crate) fn sessions_max(&self) -> usize {
        let table = if self.holds_log.load(Ordering::Relaxed) {
            TABLE_SESSIONS
        } else {
            0
        };
        let sessions = self.pool_size.saturating_add(self.recovery_sessions);
        sessions.saturating_add(table)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The set-up SQL may hold secrets, too.
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("access", &self.access)
            .field("recovery", &self.recovery)
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
    recovery_address: Option<String>,
    password: Option<Source<String>>,
    recovery_password: Option<Source<String>>,
    tls: Option<Tls>,
    settings: Options,
}

enum Address {
    Text(String),
    Parsed(Box<Config>),
    Made(Source<Config>),
}

struct Options {
    pool_size: usize,
    recovery_sessions: usize,
    pool_timeout: Duration,
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

    pub(crate) fn from_function<F, Fut>(name: impl Into<String>, make: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Config, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let source = Source::new("the function of builder_from", make);
        Self::new(name.into(), Address::Made(source))
    }

    fn new(name: String, address: Address) -> Self {
        let settings = Options {
            pool_size: 16,
            recovery_sessions: 8,
            pool_timeout: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(10),
            vanished_after: Duration::from_secs(60),
            application_name: "unanimous".to_owned(),
            isolation: None,
            session_setup: None,
        };
        Self {
            name,
            address,
            recovery_address: None,
            password: None,
            recovery_password: None,
            tls: None,
            settings,
        }
    }

    /// How to speak TLS, for both accounts. Counts instead of what the addresses (or the driver's
    /// configurations) say by `sslmode`, `sslrootcert`, `sslcert` and `sslkey`. Default: as they
    /// say, and [`TlsMode::Prefer`](crate::TlsMode::Prefer) if they say nothing.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Another account for recovery: it lists, ends and fences branches, so that the account of
    /// the application needs no right beyond its tables. Default: the same account.
    ///
    /// It has to lead to the same database of the same server, as a superuser or a role that is a
    /// member of the application's (`GRANT app TO recovery`); the preflight logs in as both and
    /// tells what is missing. An address that says nothing about TLS speaks it as the first does;
    /// beside [`builder_from`](Postgres::builder_from), whose configuration is not known before it
    /// is made, say it here or by [`tls`](Self::tls).
    pub fn recovery_address(mut self, address: impl Into<String>) -> Self {
        self.recovery_address = Some(address.into());
        self
    }

    /// Asks for the password before every new connection, instead of taking it from the address:
    /// for passwords and tokens that change while the application runs. Connections that are open
    /// go on.
    ///
    /// May be asked several times at once. If it fails, panics or has not answered within
    /// [`connect_timeout`](Self::connect_timeout), nothing was sent: the branch is not opened, and
    /// recovery tries again later. Its error is shown, so it must hold no secret.
    ///
    /// ```
    /// # fn main() -> Result<(), unanimous_postgres::BuildError> {
    /// # use unanimous_postgres::Postgres;
    /// let orders = Postgres::builder("orders", "postgres://app@db.example/shop")
    ///     .password_source(|| async { Ok(std::fs::read_to_string("/run/secrets/orders")?) })
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn password_source<F, Fut>(mut self, ask: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        self.password = Some(Source::new("password_source", ask));
        self
    }

    /// The same for the account of [`recovery_address`](Self::recovery_address).
    pub fn recovery_password_source<F, Fut>(mut self, ask: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        self.recovery_password = Some(Source::new("recovery_password_source", ask));
        self
    }

    /// How many branches may be open at the same time, and how many connections are kept. A branch
    /// holds its connection until its end is known. Default: 16.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.settings.pool_size = connections;
        self
    }

    /// How many connections recovery may use beside those of the branches: branches that wait
    /// can never keep it from working. Opened when needed. Default: 8.
    ///
    /// A decision log in this database has up to four more, also with recovery's account.
    pub fn recovery_sessions(mut self, connections: usize) -> Self {
        self.settings.recovery_sessions = connections;
        self
    }

    /// How long to wait for a free connection when the pool is used up. Default: 8 seconds, less
    /// than a manager waits for a branch to open: so that the error says that it was the pool.
    pub fn pool_timeout(mut self, timeout: Duration) -> Self {
        self.settings.pool_timeout = timeout;
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
    pub fn build(mut self) -> Result<Postgres, BuildError> {
        let name: ResourceName = self.name.parse().map_err(|_| BuildError::Name)?;
        let (access, recovery) = self.accesses(&name)?;
        let options = self.settings;
        options.check(&name)?;
        let settings = Arc::new(Settings {
            name,
            access,
            recovery,
            pool_size: options.pool_size,
            recovery_sessions: options.recovery_sessions,
            pool_timeout: options.pool_timeout,
            connect_timeout: options.connect_timeout,
            vanished_after: options.vanished_after,
            application_name: options.application_name,
            isolation: options.isolation,
            session_setup: options.session_setup,
            wipe: sql::wipe(options.vanished_after),
            holds_log: AtomicBool::new(false),
        });
        Ok(Postgres::new(Arc::new(Pools::new(settings))))
    }
}

impl PostgresBuilder {
    /// The account of the branches, and that of recovery if it is another.
    fn accesses(&mut self, name: &ResourceName) -> Result<(Access, Option<Access>), BuildError> {
        let tls_error = |rule| BuildError::Tls(name.clone(), rule);
        if let Some(tls) = &self.tls {
            tls.check().map_err(tls_error)?;
        }
        let read = |text: &str, bad: fn(ResourceName) -> BuildError| {
            address::read(text).map_err(|wrong| match wrong {
                Wrong::Text => bad(name.clone()),
                Wrong::Tls(rule) => tls_error(rule),
            })
        };
        let (origin, said) = match &mut self.address {
            Address::Text(text) => {
                let (config, said) = read(text, BuildError::Address)?;
                (Origin::Fixed(Box::new(config)), said)
            }
            Address::Parsed(config) => (Origin::Fixed(config.clone()), Some(Tls::of(config))),
            Address::Made(source) => (Origin::Made(source.clone()), None),
        };
        let recovery = match &self.recovery_address {
            Some(text) => {
                let (config, own) = read(text, BuildError::RecoveryAddress)?;
                let access = Access {
                    origin: Origin::Fixed(Box::new(config)),
                    password: self.recovery_password.take(),
                    tls: self.tls.clone().or(own).or_else(|| said.clone()),
                };
                access.check().map_err(tls_error)?;
                Some(access)
            }
            None if self.recovery_password.is_some() => {
                let rule = "recovery_password_source needs recovery_address";
                return Err(BuildError::Setting(name.clone(), rule));
            }
            None => None,
        };
        let access = Access {
            origin,
            password: self.password.take(),
            tls: self.tls.take().or(said),
        };
        access.check().map_err(tls_error)?;
        Ok((access, recovery))
    }
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
            "postgres://app:a@s3cret@db.example/shop",
            "postgres://app:a@b/s3cret@db.example/shop",
            "postgres://app:s3cret@db.example/shop?s3cret=1",
            "host=db.example password=s3 s3cret=1",
            "mysql://app:s3cret@db.example/shop",
            "s3cret",
        ] {
            let built = Postgres::builder("orders", url).build();
            let text = match &built {
                Err(error) => format!("{error} {error:?}"),
                Ok(_) => format!("{built:?}"),
            };
            assert!(text.contains("orders"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn i8_no_debug_text_shows_the_password() {
        let url = format!("{URL}?options=-c%20my.key%3Ds3cret");
        let builder = Postgres::builder("orders", url).session_setup("SET my.key = 's3cret'");
        let text = format!("{builder:?}");
        assert!(
            text.starts_with("PostgresBuilder { ") && !text.contains("s3cret"),
            "{text}"
        );
        let resource = builder.build().unwrap();
        let text = format!("{resource:?}");
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("db.example"), "{text}");
    }

    #[test]
    fn what_cannot_be_said_of_tls_is_refused_for_both_accounts() {
        let weak = Tls::new(crate::TlsMode::Require).system_roots();
        let direct = "sslnegotiation=direct";
        let plain = Tls::new(crate::TlsMode::Prefer);
        for builder in [
            Postgres::builder("orders", format!("{URL}?{direct}")),
            Postgres::builder("orders", format!("{URL}?{direct}&sslmode=require")).tls(plain),
            Postgres::builder_with("orders", format!("{URL}?{direct}").parse().unwrap()),
            Postgres::builder("orders", format!("{URL}?sslmode=verify-ca")),
            Postgres::builder("orders", URL).recovery_address(format!("{URL}?sslmode=on")),
            Postgres::builder("orders", URL).tls(weak),
        ] {
            let error = builder.build().unwrap_err();
            assert!(matches!(error, BuildError::Tls(..)), "{error}");
        }
        for mode in ["require", "verify-full"] {
            let url = format!("{URL}?{direct}&sslmode={mode}");
            assert!(Postgres::builder("orders", url).build().is_ok());
        }
    }

    #[test]
    fn the_account_of_recovery_speaks_tls_as_the_first_unless_it_says_otherwise() {
        let mode = |recovery: &str, tls: Option<Tls>| {
            let mut builder = Postgres::builder("orders", format!("{URL}?sslmode=verify-full"));
            builder = builder.recovery_address(recovery);
            if let Some(tls) = tls {
                builder = builder.tls(tls);
            }
            let resource = builder.build().unwrap();
            resource
                .settings()
                .recovery_access()
                .tls
                .as_ref()
                .unwrap()
                .mode()
        };
        use crate::TlsMode::{Require, VerifyFull};
        let mut config: Config = URL.parse().unwrap();
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        let given = Postgres::builder_with("orders", config).recovery_address(URL);
        let resource = given.build().unwrap();
        let recovery = resource.settings().recovery_access();
        assert_eq!(recovery.tls.as_ref().map(Tls::mode), Some(Require));
        assert_eq!(mode(URL, None), VerifyFull);
        assert_eq!(mode(&format!("{URL}?sslmode=require"), None), Require);
        assert_eq!(mode(URL, Some(Tls::new(Require))), Require);
    }

    #[test]
    fn a_recovery_address_is_checked_as_the_first_is() {
        let builder = Postgres::builder("orders", URL).recovery_address("s3cret");
        let error = builder.build().unwrap_err();
        assert!(matches!(error, BuildError::RecoveryAddress(_)), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        let builder = Postgres::builder("orders", URL);
        let alone = builder.recovery_password_source(|| async { Ok(String::new()) });
        let error = alone.build().unwrap_err();
        assert!(error.to_string().contains("recovery_address"), "{error}");
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
        let four = builder().vanished_after(Duration::from_secs(4));
        assert!(four.build().is_ok());
    }
}
