//! How a resource is described: its name, its address, and what its sessions are like.
//!
//! Nothing here connects; files of certificates are read. No text that leaves this file holds a
//! password (I8).

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use mysql_async::{IsolationLevel, Opts, OptsBuilder};
use unanimous_core::xid::ResourceName;

use crate::Mysql;
use crate::address::{self, Address};
use crate::pool::TABLE_SESSIONS;
use crate::route::{AnyError, Ask, Description, Route, Source};
use crate::tls::{Security, Tls, TlsMode};

/// The description of a resource that is wrong in itself. Says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    message: String,
}

impl BuildError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BuildError {}

/// Describes a MySQL or MariaDB resource; [`build`](Self::build) makes it.
///
/// Made by [`Mysql::builder`].
#[must_use]
pub struct MysqlBuilder {
    name: String,
    source: Given,
    tls: Option<Tls>,
    password: Option<Ask<String>>,
    recovery_url: Option<String>,
    recovery_password: Option<Ask<String>>,
    pool_size: usize,
    recovery_sessions: usize,
    pool_timeout: Duration,
    connect_timeout: Duration,
    isolation: Option<IsolationLevel>,
    session_setup: String,
}

enum Given {
    Url(String),
    Opts(Box<Opts>),
    Asked(Ask<Opts>),
}

impl MysqlBuilder {
    pub(crate) fn from_url(name: String, url: String) -> Self {
        Self::new(name, Given::Url(url))
    }

    pub(crate) fn from_opts(name: String, opts: Opts) -> Self {
        Self::new(name, Given::Opts(Box::new(opts)))
    }

    pub(crate) fn from_ask<F, R>(name: String, ask: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Opts, AnyError>> + Send + 'static,
    {
        Self::new(name, Given::Asked(boxed(ask)))
    }

    fn new(name: String, source: Given) -> Self {
        Self {
            name,
            source,
            tls: None,
            password: None,
            recovery_url: None,
            recovery_password: None,
            pool_size: 16,
            recovery_sessions: 8,
            pool_timeout: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(10),
            isolation: None,
            session_setup: String::new(),
        }
    }

    /// How connections are encrypted, in the place of `ssl-mode`, `ssl-ca`, `ssl-cert` and
    /// `ssl-key` in the address. Counts for the recovery address, too, unless that one says
    /// something else.
    ///
    /// Default: what the address says; if it says nothing, [`TlsMode::Preferred`], as for MySQL's
    /// own clients. With options of the driver ([`Mysql::builder_with_opts`],
    /// [`Mysql::builder_from`]) the default is what those say.
    pub fn tls(mut self, tls: impl Into<Tls>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// Asks for the password before each new connection, for passwords that change.
    ///
    /// Connections that are logged in go on with the password of their login; they are not logged
    /// in again when they are reset between two branches. The function runs inside
    /// [`connect_timeout`](Self::connect_timeout). If it fails, hangs or panics, there is no
    /// connection and nothing has happened; the text of its error is shown, so it must hold no
    /// secret.
    pub fn password_source<F, R>(mut self, ask: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, AnyError>> + Send + 'static,
    {
        self.password = Some(boxed(ask));
        self
    }

    /// Another address, with another account, for recovery: listing and ending prepared branches,
    /// and ending the application's connections that nobody can reach any more. Default: the
    /// address of the resource.
    ///
    /// It has to lead to the same server, which preflight checks. Where it names no database, it is
    /// the one of the resource. The crate's page lists what each account has to be granted.
    pub fn recovery_address(mut self, url: impl Into<String>) -> Self {
        self.recovery_url = Some(url.into());
        self
    }

    /// [`password_source`](Self::password_source) for the recovery address.
    pub fn recovery_password_source<F, R>(mut self, ask: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, AnyError>> + Send + 'static,
    {
        self.recovery_password = Some(boxed(ask));
        self
    }

    /// How many branches may be open at the same time, and how many connections are kept. A branch
    /// holds its connection until its end is known. Default: 16.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// How many connections recovery may use beside those of the branches: branches that wait
    /// can never keep it from working. Opened when needed. Default: 8. A decision log that lives in
    /// this database has up to three of its own.
    pub fn recovery_sessions(mut self, connections: usize) -> Self {
        self.recovery_sessions = connections;
        self
    }

    /// How long opening a branch waits for a free session of the pool; default 8 s, less than a
    /// manager waits for a branch to open: so that the error says that it was the pool.
    pub fn pool_timeout(mut self, timeout: Duration) -> Self {
        self.pool_timeout = timeout;
        self
    }

    /// How long a new connection may take, with asking for its password, login and set-up; default
    /// 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The isolation level of every branch; default: the server's.
    pub fn isolation(mut self, level: IsolationLevel) -> Self {
        self.isolation = Some(level);
        self
    }

    /// SQL that is run on every branch's session before its first and between any two branches,
    /// such as `SET SESSION sql_mode = '…'`. Several statements are separated by semicolons. It is
    /// not run on the sessions of recovery and of a decision log (test
    /// `the_set_up_of_a_session_is_not_run_for_recovery`): a role that they need has to be a
    /// default role of their account.
    pub fn session_setup(mut self, sql: impl Into<String>) -> Self {
        self.session_setup = sql.into();
        self
    }

    /// Makes the resource. Reads the files of certificates; does not connect.
    ///
    /// # Errors
    /// The name, the address, a file or a combination cannot be used; the message says why and
    /// holds no password.
    pub fn build(self) -> Result<Mysql, BuildError> {
        let name: ResourceName = self
            .name
            .parse()
            .map_err(|error| BuildError::new(format!("{error}")))?;
        let prefixed = |message: String| BuildError::new(format!("resource {name}: {message}"));
        if self.pool_size == 0 {
            return Err(prefixed(
                "a pool of size 0 can open no branch: give 1 or more".to_owned(),
            ));
        }
        if self.recovery_sessions == 0 {
            return Err(prefixed("recovery_sessions is at least 1".to_owned()));
        }
        let config = self.into_config(name.clone()).map_err(prefixed)?;
        Mysql::new(config).map_err(|error| BuildError::new(format!("no pool can be made: {error}")))
    }

    fn into_config(self, name: ResourceName) -> Result<Config, String> {
        let (source, security) = source(self.source, self.tls)?;
        let password = own_password("password_source", self.password, &source)?;
        let has_recovery = self.recovery_url.is_some();
        if self.recovery_password.is_some() && !has_recovery {
            return Err(
                "recovery_password_source needs recovery_address beside it: without one, recovery \
                 uses the address and the password of the resource"
                    .to_owned(),
            );
        }
        let recovery = match self.recovery_url {
            Some(url) => {
                let of_recovery = |message| format!("recovery_address: {message}");
                let Address { opts, tls } = address::read(&url).map_err(of_recovery)?;
                let security = match tls {
                    Some(tls) => Some(tls.read().map_err(of_recovery)?),
                    None => security.clone().or_else(|| said_by(&source)),
                };
                let source = Source::Fixed(Box::new(with_database_of(opts, &source)));
                let method = "recovery_password_source";
                let password = own_password(method, self.recovery_password, &source)?;
                (source, password, security)
            }
            None => (source.again(), password.clone(), security.clone()),
        };
        let prefix = if has_recovery {
            "recovery_address: "
        } else {
            ""
        };
        let route = |(source, password, security), control| {
            Route::new(Description {
                name: name.clone(),
                prefix: if control { prefix } else { "" },
                source,
                password,
                security,
                session_setup: self.session_setup.clone(),
                control,
            })
        };
        let branches = route((source, password, security), false)?;
        let control = route(recovery, true).map_err(|message| format!("{prefix}{message}"))?;
        Ok(Config {
            branches,
            control,
            has_recovery,
            name: name.clone(),
            pool_size: self.pool_size,
            control_size: self.recovery_sessions,
            pool_timeout: self.pool_timeout,
            connect_timeout: self.connect_timeout,
            isolation: self.isolation,
        })
    }
}

impl fmt::Debug for MysqlBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlBuilder")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn boxed<T, F, R>(ask: F) -> Ask<T>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, AnyError>> + Send + 'static,
{
    Arc::new(move || ask().boxed())
}

/// The driver's options, and how to encrypt. `None`: as the options say.
fn source(given: Given, tls: Option<Tls>) -> Result<(Source, Option<Security>), String> {
    let read = |tls: Option<Tls>| tls.map(|tls| tls.read()).transpose();
    match given {
        Given::Opts(opts) => Ok((Source::Fixed(opts), read(tls)?)),
        Given::Asked(ask) => Ok((Source::Asked(ask), read(tls)?)),
        Given::Url(url) => {
            let Address { opts, tls: said } = address::read(&url)?;
            if said.is_some() && tls.is_some() {
                return Err(
                    "both tls and the address say how to encrypt: leave ssl-mode, ssl-ca, \
                     ssl-cert, ssl-key and require_ssl out of the address, or tls"
                        .to_owned(),
                );
            }
            let tls = said.or(tls).unwrap_or(Tls::new(TlsMode::Preferred));
            Ok((Source::Fixed(Box::new(opts)), Some(tls.read()?)))
        }
    }
}

/// What the options of the resource say of encryption: the recovery address is not to have less.
fn said_by(source: &Source) -> Option<Security> {
    match source {
        Source::Fixed(opts) => Some(Security::of(opts)),
        // Not known before they are asked for.
        Source::Asked(_) => Some(Security::preferred()),
    }
}

/// One account has one password.
fn own_password(
    method: &'static str,
    ask: Option<Ask<String>>,
    source: &Source,
) -> Result<Option<(&'static str, Ask<String>)>, String> {
    match (ask, source) {
        (Some(_), Source::Asked(_)) => Err(format!(
            "{method} beside builder_from: put the password into the options that its function \
             answers with"
        )),
        (Some(_), Source::Fixed(opts)) if opts.pass().is_some() => Err(format!(
            "the address holds a password, and {method} gives another: leave one of them out"
        )),
        (ask, Source::Fixed(_) | Source::Asked(_)) => Ok(ask.map(|ask| (method, ask))),
    }
}

fn with_database_of(opts: Opts, source: &Source) -> Opts {
    match source {
        Source::Fixed(main) if opts.db_name().is_none() => {
            OptsBuilder::from_opts(opts).db_name(main.db_name()).into()
        }
        Source::Fixed(_) | Source::Asked(_) => opts,
    }
}

/// A description that was found to be usable.
pub(crate) struct Config {
    pub(crate) name: ResourceName,
    pub(crate) branches: Route,
    pub(crate) control: Route,
    /// Recovery has an address of its own.
    pub(crate) has_recovery: bool,
    pub(crate) pool_size: usize,
    pub(crate) control_size: usize,
    pub(crate) pool_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) isolation: Option<IsolationLevel>,
}

impl Config {
    /// How many sessions the resource may have; those of a decision log, if one lives here.
    pub(crate) const fn sessions(&self) -> usize {
        self.pool_size + self.control_size + TABLE_SESSIONS
    }
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
    fn what_the_recovery_address_leaves_open_is_as_for_the_resource() {
        let fixed = |url: &str| Source::Fixed(Box::new(Opts::from_url(url).unwrap()));
        let main = fixed("mysql://app:s3cr3t@host/db?require_ssl=true");
        let database = |url| {
            let opts = with_database_of(Opts::from_url(url).unwrap(), &main);
            opts.db_name().map(str::to_owned)
        };
        assert_eq!(database("mysql://rec@host").as_deref(), Some("db"));
        assert_eq!(database("mysql://rec@host/own").as_deref(), Some("own"));
        let mode = |source| said_by(&source).map(|security| security.mode);
        assert_eq!(mode(fixed("mysql://app@host/db")), Some(TlsMode::Disabled));
        assert_eq!(mode(main.again()), Some(TlsMode::VerifyIdentity));
        let ask = || boxed(|| async { Ok(String::new()) });
        assert!(own_password("password_source", Some(ask()), &main).is_err());
        let without = fixed("mysql://app@host/db");
        let (method, _) = own_password("password_source", Some(ask()), &without)
            .unwrap()
            .unwrap();
        assert_eq!(method, "password_source");
    }

    #[test]
    fn i8_the_description_and_the_resource_print_no_password() {
        let builder = Mysql::builder("ledger", "mysql://app:s3cr3t@127.0.0.1:1/db");
        assert_eq!(
            format!("{builder:?}"),
            "MysqlBuilder { name: \"ledger\", .. }"
        );
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

    fn refused(builder: MysqlBuilder) -> String {
        let text = builder.build().unwrap_err().to_string();
        assert!(!text.contains("s3cr3t"), "{text}");
        text
    }

    #[test]
    fn i8_contradictions_are_refused_and_tell_no_password() {
        let builder = || Mysql::builder("ledger", "mysql://app:s3cr3t@host/db");
        let source = || async { Ok("s3cr3t".to_owned()) };
        let opts = || async { Ok(Opts::default()) };
        let required = "mysql://rec:s3cr3t@host/db?ssl-mode=REQUIRED";
        for (builder, says) in [
            (
                builder().password_source(source),
                "password_source gives another",
            ),
            (
                builder().recovery_password_source(source),
                "needs recovery_address beside it",
            ),
            (
                builder()
                    .recovery_address("mysql://rec:s3cr3t@host")
                    .recovery_password_source(source),
                "recovery_password_source gives another",
            ),
            (
                Mysql::builder_from("ledger", opts).password_source(source),
                "beside builder_from",
            ),
            (
                Mysql::builder("ledger", required).tls(TlsMode::Required),
                "both tls and the address",
            ),
            (
                builder().tls(TlsMode::VerifyIdentity),
                "needs to know whom to trust",
            ),
            (
                builder().recovery_address("mysql://rec:s3cr3t@host?ssl-ca=/no/such"),
                "recovery_address: ssl-ca: /no/such cannot be read",
            ),
            (
                builder().recovery_address("rec:s3cr3t@host"),
                "recovery_address: the address",
            ),
            (
                Mysql::builder("ledger", "mysql://a:s3cr3t@h/d?socket=/s&ssl-mode=REQUIRED"),
                "cannot be had through a socket",
            ),
        ] {
            let text = refused(builder);
            assert!(text.starts_with("resource ledger: "), "{text}");
            assert!(text.contains(says), "{text}");
        }
        let ssl = mysql_async::SslOpts::default();
        let opts = OptsBuilder::default().db_name(Some("db")).ssl_opts(ssl);
        let text = refused(Mysql::builder_with_opts("ledger", opts).tls(TlsMode::Required));
        assert!(text.contains("both tls and the driver's options"), "{text}");
    }

    /// What is said of encryption for the resource counts for recovery, unless it has its own word.
    #[test]
    fn recovery_is_encrypted_like_the_resource() {
        let config = |url: &str, recovery: &str| {
            let builder = Mysql::builder("ledger", url).recovery_address(recovery);
            builder.into_config("ledger".parse().unwrap()).unwrap()
        };
        let main = "mysql://app@host/db?ssl-mode=REQUIRED";
        let inherited = config(main, "mysql://rec@host");
        assert_eq!(inherited.control.mode(), Some(TlsMode::Required));
        let own = config(main, "mysql://rec@host?ssl-mode=DISABLED");
        assert_eq!(own.control.mode(), Some(TlsMode::Disabled));
        assert_eq!(own.branches.mode(), Some(TlsMode::Required));
        let said_nothing = config("mysql://app@host/db", "mysql://rec@host");
        assert_eq!(said_nothing.control.mode(), Some(TlsMode::Preferred));
    }
}
