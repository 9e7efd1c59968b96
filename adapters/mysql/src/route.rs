//! The way to a server: from what the application has described to a connection that is logged in.
//!
//! * What is asked of the application for each new connection (a password, or all options) is asked
//!   inside the time limit of the connection; if it fails, hangs or panics, nothing has happened.
//! * A login is never repeated. What is repeated is a connection that ended before the login was
//!   sent: because the server offers no encryption ([`TlsMode::Preferred`]), or because the driver
//!   cannot be told that any host name will do ([`TlsMode::VerifyCa`]).
//!
//! What the application's own functions answer with is never printed, except for the text of their
//! errors.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mysql_async::{Conn, DriverError, Error, IoError, Opts, OptsBuilder, TlsError};
use rustls::CertificateError;
use tokio::time::{Instant, timeout_at};
use unanimous_core::ports::{Problem, ResourceError};
use unanimous_core::xid::ResourceName;

use crate::tls::{Security, Tls, TlsMode, choose_cryptography};
use crate::{codes, setup};

/// The attributes by which an operator finds our sessions in
/// `performance_schema.session_connect_attrs`.
const PROGRAM_ATTRIBUTE: &str = "program_name";
const RESOURCE_ATTRIBUTE: &str = "unanimous_resource";

/// How long a server is taken at its word that it offers no encryption. A refused question counts
/// as a failed connection there, so it is not asked each time.
const WITHOUT_TLS: Duration = Duration::from_secs(60);

/// What an application's own function may answer with instead of what it is asked for.
pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A function of the application that is asked before each new connection.
pub(crate) type Ask<T> =
    Arc<dyn Fn() -> BoxFuture<'static, Result<T, AnyError>> + Send + Sync + 'static>;

/// Where the driver's options come from.
pub(crate) enum Source {
    Fixed(Box<Opts>),
    Asked(Ask<Opts>),
}

impl Source {
    /// The same source for another way.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Fixed(opts) => Self::Fixed(opts.clone()),
            Self::Asked(ask) => Self::Asked(Arc::clone(ask)),
        }
    }
}

/// What makes up a way to a server.
pub(crate) struct Description {
    pub(crate) name: ResourceName,
    /// What errors begin with: which of two addresses it is.
    pub(crate) prefix: &'static str,
    pub(crate) source: Source,
    /// The builder's method that gave the password's source, and the source.
    pub(crate) password: Option<(&'static str, Ask<String>)>,
    /// `None`: what the options say.
    pub(crate) security: Option<Security>,
    pub(crate) session_setup: String,
    /// For recovery's sessions, which wait for locks a short time only.
    pub(crate) control: bool,
}

/// A way to a server.
pub(crate) struct Route {
    description: Description,
    /// Options that are the same for each connection.
    fixed: Option<Ready>,
    learnt: Mutex<Learnt>,
}

/// What earlier connections have found out about the server. Wrong at worst for one connection.
#[derive(Default)]
struct Learnt {
    /// When it last said that it offers no encryption.
    offers_none: Option<Instant>,
    /// A name that its certificate has.
    name: Option<String>,
    /// Where an application's own function leads to: see [`Place`].
    place: Option<Place>,
}

/// What a route leads to.
#[derive(Clone)]
struct Place {
    database: String,
    /// For people: without user and password.
    text: String,
}

impl Place {
    fn of(opts: &Opts) -> Option<Self> {
        let database = opts.db_name()?.to_owned();
        let server = match opts.socket() {
            Some(socket) => socket.to_owned(),
            None => format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port()),
        };
        let text = format!("{database} on {server}");
        Some(Self { database, text })
    }
}

impl Learnt {
    /// Not for ever: a server that begins to offer encryption ends no connection by that, and
    /// whoever came in between once would have taken it away for good.
    fn goes_without(&self, now: Instant) -> bool {
        self.offers_none
            .is_some_and(|said| now.saturating_duration_since(said) < WITHOUT_TLS)
    }
}

/// Options that are ready to be used.
#[derive(Clone)]
struct Ready {
    opts: Opts,
    mode: TlsMode,
    /// Files that are to be read again.
    files: Option<Tls>,
    /// The application has given SQL for each session.
    has_own_setup: bool,
}

impl Route {
    /// # Errors
    /// The options cannot be used: why, and the mend.
    pub(crate) fn new(description: Description) -> Result<Self, String> {
        let fixed = match &description.source {
            Source::Fixed(opts) => Some(description.prepare((**opts).clone())?),
            Source::Asked(_) => None,
        };
        Ok(Self {
            description,
            fixed,
            learnt: Mutex::default(),
        })
    }

    fn error(&self, problem: Problem, message: impl Into<String>) -> ResourceError {
        let message = format!("{}{}", self.description.prefix, message.into());
        ResourceError::new(problem, self.description.name.clone(), message)
    }

    /// Connects and logs in. Nothing was asked of the server if this fails.
    pub(crate) async fn connect(&self, timeout: Duration) -> Result<Conn, ResourceError> {
        let deadline = Instant::now() + timeout;
        let ready = self.ready(deadline, timeout).await?;
        match timeout_at(deadline, self.dial(&ready)).await {
            Ok(Ok(conn)) => {
                if self.fixed.is_none() {
                    self.learnt(|learnt| learnt.place = Place::of(&ready.opts));
                }
                Ok(conn)
            }
            Ok(Err(error)) => Err(self.refused(&ready, error)),
            Err(_) => Err(self.error(
                Problem::Unavailable,
                format!("no connection within {timeout:?}: is the server there, and reachable?"),
            )),
        }
    }

    /// The name of the database to which it leads; unknown before the first connection, if an
    /// application's function names it.
    pub(crate) fn database(&self) -> Option<String> {
        self.leads_to().map(|place| place.database)
    }

    /// Database and server, for people.
    pub(crate) fn place(&self) -> Option<String> {
        self.leads_to().map(|place| place.text)
    }

    fn leads_to(&self) -> Option<Place> {
        match &self.fixed {
            Some(ready) => Place::of(&ready.opts),
            None => self.learnt(|learnt| learnt.place.clone()),
        }
    }

    /// The driver runs the set-up SQL as a part of connecting, and the server quotes what it cannot
    /// read of it (I8).
    fn refused(&self, ready: &Ready, error: Error) -> ResourceError {
        if ready.has_own_setup
            && let Some(words) = codes::of_setup(&error)
        {
            let message = format!(
                "session_setup (or the login itself) {words}: run it by hand as the user of the \
                 address: the server's message says more, and is not shown here because it may \
                 quote a secret"
            );
            return self.error(Problem::Unfit, message);
        }
        let mend = codes::mend_of_connect(&error);
        let message = format!("cannot connect: {error}{mend}");
        self.error(codes::connect(&error), message)
            .with_source(error)
    }

    #[cfg(test)]
    pub(crate) fn mode(&self) -> Option<TlsMode> {
        self.fixed.as_ref().map(|ready| ready.mode)
    }

    async fn ready(&self, deadline: Instant, limit: Duration) -> Result<Ready, ResourceError> {
        let mut ready = match (&self.fixed, &self.description.source) {
            (Some(ready), _) => ready.clone(),
            (None, Source::Fixed(opts)) => self.prepare((**opts).clone())?,
            (None, Source::Asked(ask)) => {
                let opts = self.ask("builder_from", ask, deadline, limit).await?;
                self.prepare(opts)?
            }
        };
        if let Some((method, ask)) = &self.description.password {
            let password = self.ask(method, ask, deadline, limit).await?;
            ready.opts = OptsBuilder::from_opts(ready.opts)
                .pass(Some(password))
                .into();
        }
        if let Some(tls) = ready.files.take() {
            // Off this thread: they may lie on a network.
            let reading = tokio::task::spawn_blocking(move || tls.read());
            let security = match timeout_at(deadline, reading).await {
                Ok(Ok(read)) => read.map_err(|message| self.error(Problem::Unfit, message))?,
                Ok(Err(_)) | Err(_) => {
                    let message = format!("the files of certificates were not read in {limit:?}");
                    return Err(self.error(Problem::Unavailable, message));
                }
            };
            ready.opts = OptsBuilder::from_opts(ready.opts)
                .ssl_opts(security.ssl)
                .into();
        }
        Ok(ready)
    }

    fn prepare(&self, opts: Opts) -> Result<Ready, ResourceError> {
        self.description
            .prepare(opts)
            .map_err(|message| self.error(Problem::Unfit, message))
    }

    /// Asks the application's own function.
    async fn ask<T>(
        &self,
        method: &str,
        ask: &Ask<T>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<T, ResourceError> {
        // The function itself may panic, too, not only what it returns.
        let asked = AssertUnwindSafe(async { ask().await }).catch_unwind();
        let nothing = "no connection was made and nothing has happened";
        match timeout_at(deadline, asked).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(self
                .error(
                    Problem::Unavailable,
                    format!("the function given to {method} failed: {error}; {nothing}"),
                )
                .with_source(error)),
            // What a panic says may be anything.
            Ok(Err(_)) => Err(self.error(
                Problem::Unavailable,
                format!("the function given to {method} panicked; {nothing}"),
            )),
            Err(_) => Err(self.error(
                Problem::Unavailable,
                format!("the function given to {method} gave no answer in {limit:?}; {nothing}"),
            )),
        }
    }

    async fn dial(&self, ready: &Ready) -> Result<Conn, Error> {
        let opts = ready.opts.clone();
        if ready.mode != TlsMode::Disabled {
            choose_cryptography();
        }
        match ready.mode {
            TlsMode::Disabled | TlsMode::Required | TlsMode::VerifyIdentity => {
                Conn::new(opts).await
            }
            TlsMode::Preferred => self.dial_preferring(opts).await,
            TlsMode::VerifyCa => self.dial_any_name(opts).await,
        }
    }

    /// Encrypted if the server offers it. The server's first packet says so, before anything was
    /// sent to it.
    async fn dial_preferring(&self, opts: Opts) -> Result<Conn, Error> {
        let plain = || OptsBuilder::from_opts(opts.clone()).ssl_opts(None);
        if self.learnt(|learnt| learnt.goes_without(Instant::now())) {
            let dialled = Conn::new(plain()).await;
            if dialled.is_err() {
                // It may have changed its mind, or be another one.
                self.learnt(|learnt| learnt.offers_none = None);
            }
            return dialled;
        }
        match Conn::new(opts.clone()).await {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) => {
                self.learnt(|learnt| learnt.offers_none = Some(Instant::now()));
                Conn::new(plain()).await
            }
            dialled => dialled,
        }
    }

    /// The certificate's chain is verified, and then its name against one that it has: an error
    /// about the name comes only after the chain was found good, and before the login is sent.
    async fn dial_any_name(&self, opts: Opts) -> Result<Conn, Error> {
        let name = self.learnt(|learnt| learnt.name.clone());
        match Conn::new(with_name(&opts, name)).await {
            Err(error) => match presented_name(&error) {
                Some(name) => {
                    self.learnt(|learnt| learnt.name = Some(name.clone()));
                    Conn::new(with_name(&opts, Some(name))).await
                }
                None => Err(error),
            },
            Ok(conn) => Ok(conn),
        }
    }

    fn learnt<T>(&self, look: impl FnOnce(&mut Learnt) -> T) -> T {
        look(&mut self.learnt.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Description {
    /// Checks options, and adds what every session has.
    fn prepare(&self, opts: Opts) -> Result<Ready, String> {
        let Some(database) = opts.db_name().filter(|database| !database.is_empty()) else {
            return Err(
                "the address names no database: write mysql://user@host:port/database".to_owned(),
            );
        };
        let security = match (&self.security, opts.ssl_opts()) {
            (Some(_), Some(_)) => {
                return Err(
                    "both tls and the driver's options say how to encrypt: leave one of them out"
                        .to_owned(),
                );
            }
            (Some(security), None) => security.clone(),
            (None, _) => Security::of(&opts),
        };
        let security = over_socket(security, &opts)?;
        // The driver runs both from the last to the first, and the former once per connection: a
        // session that was wiped would be another one than a new one.
        let own = opts.init().iter().rev();
        let own = own.chain(opts.setup().iter().rev()).map(String::as_str);
        let own: Vec<&str> = if self.control {
            // Written for the application's statements: it may cut lists short that are proof here,
            // or need the application's account.
            Vec::new()
        } else {
            own.chain([self.session_setup.as_str()]).collect()
        };
        let has_own_setup = own.iter().any(|sql| !sql.trim().is_empty());
        let setup = if self.control {
            setup::of_control(database)
        } else {
            setup::of_branches(database, &own)
        };
        // The driver runs its set-up after each reset, too, in a round trip of its own. What is
        // not the application's is left to the next branch's first one.
        let (init, setup) = if has_own_setup {
            (Vec::new(), vec![setup])
        } else {
            (vec![setup], Vec::new())
        };
        let opts = base_opts(&self.name, opts)
            .init(init)
            .setup(setup)
            .ssl_opts(security.ssl);
        Ok(Ready {
            opts: opts.into(),
            mode: security.mode,
            files: security.files,
            has_own_setup,
        })
    }
}

/// A connection through a socket of this machine is not encrypted: it never leaves the machine, and
/// the driver would ask the server for encryption and then send none.
fn over_socket(security: Security, opts: &Opts) -> Result<Security, String> {
    if opts.socket().is_none() {
        return Ok(security);
    }
    match security.mode {
        TlsMode::Disabled | TlsMode::Preferred => Ok(Security::PLAIN),
        mode @ (TlsMode::Required | TlsMode::VerifyCa | TlsMode::VerifyIdentity) => Err(format!(
            "ssl-mode={mode} cannot be had through a socket, which needs no encryption: leave the \
             socket out, or write ssl-mode=DISABLED"
        )),
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

fn with_name(opts: &Opts, name: Option<String>) -> Opts {
    match (opts.ssl_opts(), name) {
        (Some(ssl), Some(name)) => {
            let ssl = ssl.clone().with_danger_tls_hostname_override(Some(name));
            OptsBuilder::from_opts(opts.clone()).ssl_opts(ssl).into()
        }
        _ => opts.clone(),
    }
}

/// What rustls says of the server's certificate, wherever the driver has put it.
pub(crate) fn tls_error(error: &Error) -> Option<&rustls::Error> {
    match error {
        Error::Io(IoError::Tls(TlsError::Tls(error))) => Some(error),
        Error::Io(IoError::Io(error)) => error.get_ref()?.downcast_ref(),
        Error::Io(IoError::Tls(_))
        | Error::Driver(_)
        | Error::Other(_)
        | Error::Server(_)
        | Error::Url(_) => None,
    }
}

/// Of a certificate that was found good but for the host: a host that it names.
fn presented_name(error: &Error) -> Option<String> {
    let Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
        presented,
        ..
    })) = tls_error(error)
    else {
        return None;
    };
    presented.iter().find_map(|name| host_of(name))
}

/// A host that fits what rustls prints of a subjectAltName: `DnsName("*.a.b")`, `IpAddress(::1)`.
fn host_of(presented: &str) -> Option<String> {
    let inside = |kind: &str, end: &str| presented.strip_prefix(kind)?.strip_suffix(end);
    if let Some(name) = inside("DnsName(\"", "\")") {
        return Some(match name.strip_prefix("*.") {
            Some(domain) => format!("any.{domain}"),
            None => name.to_owned(),
        });
    }
    inside("IpAddress(", ")").map(str::to_owned)
}

#[cfg(test)]
#[path = "route_test.rs"]
mod tests;
