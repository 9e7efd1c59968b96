//! One account at the server: where its address and password come from, and how it connects.
//!
//! What the application gives as a function is asked before every new connection, so that
//! passwords can be replaced while it runs. It may fail, hang or panic: then nothing was sent, and
//! the error names it. Invariant I8: its answer enters no text.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Settings;
use crate::failure::Failure;
use crate::tls::{Tls, TlsMode};

/// What a connection of the driver reads and writes when it is encrypted.
pub(crate) type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send>>;
type SourceError = Box<dyn Error + Send + Sync>;

/// A function of the application.
pub(crate) struct Source<T> {
    /// The method of the builder that it was given to.
    name: &'static str,
    ask: Arc<dyn Fn() -> Answer<T> + Send + Sync>,
}

impl<T> Clone for Source<T> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            ask: Arc::clone(&self.ask),
        }
    }
}

impl<T: Send + 'static> Source<T> {
    pub(crate) fn new<F, Fut>(name: &'static str, ask: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, SourceError>> + Send + 'static,
    {
        Self {
            name,
            ask: Arc::new(move || Box::pin(ask())),
        }
    }

    async fn answer(&self, settings: &Settings, deadline: Instant) -> Result<T, Failure> {
        let name = self.name;
        // The call itself may panic, too.
        let asked = AssertUnwindSafe(async { (self.ask)().await }).catch_unwind();
        match timeout_at(deadline, asked).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => {
                let words = format!("{name} failed: {error}");
                Err(Failure::lost(words, Some(error)))
            }
            Ok(Err(_)) => Err(Failure::lost(format!("{name} panicked"), None)),
            Err(_) => {
                let within = settings.connect_timeout;
                let words = format!("{name} did not answer within {within:?}");
                Err(Failure::lost(words, None))
            }
        }
    }
}

/// Where an account's address comes from.
pub(crate) enum Origin {
    Fixed(Box<Config>),
    Made(Source<Config>),
}

/// One account at the server.
pub(crate) struct Access {
    pub(crate) origin: Origin,
    pub(crate) password: Option<Source<String>>,
    /// If not given, as the configuration says.
    pub(crate) tls: Option<Tls>,
}

/// A connection as the driver gives it, and how to reach its server again to cancel a statement.
pub(crate) struct Connected {
    pub(crate) client: Client,
    pub(crate) connection: Connection<Socket, Stream>,
    pub(crate) tls: MakeRustlsConnect,
}

impl Access {
    /// What cannot be, and what to write instead; as far as it can be told before connecting.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Origin::Fixed(config) = &self.origin else {
            return Ok(());
        };
        let mode = self
            .tls
            .as_ref()
            .map_or_else(|| Tls::of(config).mode(), Tls::mode);
        // Without the question before it, a server without TLS cannot say so.
        if config.get_ssl_negotiation() == SslNegotiation::Direct && mode < TlsMode::Require {
            return Err("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full");
        }
        Ok(())
    }

    /// Where it leads, for messages: hosts, ports and database, as far as they are known before
    /// connecting.
    pub(crate) fn place(&self) -> String {
        match &self.origin {
            Origin::Fixed(config) => {
                let ports = config.get_ports();
                // One port counts for all hosts.
                let port = |at: usize| ports.get(at).or_else(|| ports.first()).unwrap_or(&5432);
                let with_port = |(at, host)| format!("{host}:{}", port(at));
                let hosts: Vec<_> = hosts(config)
                    .into_iter()
                    .enumerate()
                    .map(with_port)
                    .collect();
                let database = config.get_dbname().or_else(|| config.get_user());
                format!("{}/{}", hosts.join(","), database.unwrap_or_default())
            }
            Origin::Made(source) => format!("at the address of {}", source.name),
        }
    }

    /// Connects and logs in.
    pub(crate) async fn connect(
        &self,
        settings: &Settings,
        deadline: Instant,
    ) -> Result<Connected, Failure> {
        let mut config = match &self.origin {
            Origin::Fixed(config) => Config::clone(config),
            Origin::Made(source) => source.answer(settings, deadline).await?,
        };
        if let Some(source) = &self.password {
            config.password(source.answer(settings, deadline).await?);
        }
        complete(&mut config, settings);
        let (tls, mode) = self.tls_for(&config);
        let late = || {
            Failure::lost(
                format!("no answer within {:?}", settings.connect_timeout),
                None,
            )
        };
        let connector = timeout_at(deadline, tls.connector())
            .await
            .map_err(|_| late())??;
        let connected = async {
            if mode != TlsMode::Allow {
                config.ssl_mode(driver_mode(mode));
                return connect(&config, connector).await;
            }
            config.ssl_mode(SslMode::Disable);
            match connect(&config, connector.clone()).await {
                // So a `hostssl` line of pg_hba.conf answers who comes in plain text, and a pooler
                // with words of its own; libpq tries again after any answer, too.
                Err(plain) if plain.is_of_server() => {
                    config.ssl_mode(SslMode::Require);
                    match connect(&config, connector).await {
                        Err(failure) if failure.is_for_want_of_tls() => Err(plain),
                        other => other,
                    }
                }
                other => other,
            }
        };
        timeout_at(deadline, connected).await.map_err(|_| late())?
    }

    /// Over Unix sockets TLS is not spoken, whatever is said (as with libpq).
    fn tls_for(&self, config: &Config) -> (Tls, TlsMode) {
        let tls = self.tls.clone().unwrap_or_else(|| Tls::of(config));
        let hosts = config.get_hosts();
        let only_sockets = !hosts.is_empty() && hosts.iter().all(|host| !is_tcp(host));
        if only_sockets && config.get_hostaddrs().is_empty() {
            return (Tls::new(TlsMode::Disable), TlsMode::Disable);
        }
        let mode = tls.mode();
        (tls, mode)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Access");
        match &self.origin {
            Origin::Fixed(config) => {
                text.field("hosts", &hosts(config))
                    .field("database", &config.get_dbname())
                    .field("user", &config.get_user());
            }
            Origin::Made(source) => {
                text.field("made_by", &source.name);
            }
        }
        // `options` of the address may hold secrets, too.
        text.field("tls", &self.tls).finish_non_exhaustive()
    }
}

fn complete(config: &mut Config, settings: &Settings) {
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(settings.connect_timeout);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(settings.vanished_after);
    }
    config.application_name(&settings.application_name);
    if config.get_hosts().is_empty() {
        // The driver takes a name for TLS from the hosts only; with libpq an address will do.
        for address in config.get_hostaddrs().to_vec() {
            config.host(address.to_string());
        }
    }
}

const fn driver_mode(mode: TlsMode) -> SslMode {
    match mode {
        TlsMode::Disable | TlsMode::Allow => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    }
}

async fn connect(config: &Config, tls: MakeRustlsConnect) -> Result<Connected, Failure> {
    // Boxed, because a handshake is large and every branch's future would carry it.
    match Box::pin(config.connect(tls.clone())).await {
        Ok((client, connection)) => Ok(Connected {
            client,
            connection,
            tls,
        }),
        Err(error) => Err(Failure::connecting(error)),
    }
}

fn is_tcp(host: &Host) -> bool {
    match host {
        Host::Tcp(_) => true,
        #[cfg(unix)]
        Host::Unix(_) => false,
    }
}

fn hosts(config: &Config) -> Vec<String> {
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    };
    let named: Vec<_> = config.get_hosts().iter().map(host).collect();
    if !named.is_empty() {
        return named;
    }
    let addresses = config.get_hostaddrs().iter();
    addresses.map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libpq does, whatever the mode says; a number beside the hosts is one of a network.
    #[test]
    fn tls_is_not_spoken_over_sockets_alone() {
        for (address, mode) in [
            ("host=db", TlsMode::Require),
            ("hostaddr=10.0.0.1", TlsMode::Require),
            ("host=/run", TlsMode::Disable),
            ("host=/run,/tmp", TlsMode::Disable),
            ("host=/run,db", TlsMode::Require),
            ("host=/run hostaddr=10.0.0.1", TlsMode::Require),
        ] {
            let config: Config = address.parse().unwrap();
            let access = Access {
                origin: Origin::Fixed(Box::new(config.clone())),
                password: None,
                tls: Some(Tls::new(TlsMode::Require)),
            };
            let (tls, spoken) = access.tls_for(&config);
            assert_eq!((tls.mode(), spoken), (mode, mode), "{address}");
        }
    }

    #[test]
    fn what_the_address_leaves_open_comes_from_the_settings() {
        let orders = crate::Postgres::builder("orders", "postgres://app@db/shop");
        let orders = orders.build().unwrap();
        let settings = orders.settings();
        let completed = |address: &str| {
            let mut config: Config = address.parse().unwrap();
            complete(&mut config, settings);
            config
        };
        let open = completed("hostaddr=10.0.0.1");
        assert_eq!(open.get_connect_timeout(), Some(&settings.connect_timeout));
        assert_eq!(open.get_tcp_user_timeout(), Some(&settings.vanished_after));
        assert_eq!(open.get_hosts(), [Host::Tcp("10.0.0.1".to_owned())]);
        let name = open.get_application_name();
        assert_eq!(name, Some(settings.application_name.as_str()));
        let said = completed("host=db hostaddr=10.0.0.1 connect_timeout=1 tcp_user_timeout=2");
        let second = std::time::Duration::from_secs;
        assert_eq!(said.get_connect_timeout(), Some(&second(1)));
        assert_eq!(said.get_tcp_user_timeout(), Some(&second(2)));
        assert_eq!(said.get_hosts(), [Host::Tcp("db".to_owned())]);
    }
}
