//! TLS: what an application says about it, and what becomes of that for one connection.
//!
//! The words are libpq's (manual, "SSL Support"). Always by rustls with the provider *ring*, named
//! explicitly: an application may have several providers compiled in, and then rustls has no
//! default (its `ClientConfig::builder` panics).
//!
//! Invariant I8: no text of this module holds a key. A path is no secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_native_certs::{CertificateResult, load_native_certs};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::failure::Failure;

/// When TLS is spoken, and how far the server is checked: libpq's `sslmode`.
///
/// Over a Unix socket no mode means anything, as with libpq: it is never encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsMode {
    /// `disable`: never.
    Disable,
    /// `allow`: only if the server refuses to be spoken to without (28000, a `hostssl` line).
    Allow,
    /// `prefer`: if the server can, and else without. The default, as libpq's.
    ///
    /// Unlike libpq, a handshake or log-in that fails over TLS is an error, and not tried again
    /// without: only a server that says that it has no TLS is spoken to in plain text.
    Prefer,
    /// `require`: always; the server is not checked, unless root certificates are given (then as
    /// `verify-ca`).
    Require,
    /// `verify-ca`: always, and the server's certificate is of one of the given authorities. They
    /// have to be given: with the system's, which sign for everybody, it would prove nothing.
    VerifyCa,
    /// `verify-full`: as `verify-ca`, and the certificate is for the host in the address. Without
    /// root certificates those of the system count.
    VerifyFull,
}

impl TlsMode {
    /// The word of an address: `verify-full`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [
            Self::Disable,
            Self::Allow,
            Self::Prefer,
            Self::Require,
            Self::VerifyCa,
            Self::VerifyFull,
        ]
        .into_iter()
        .find(|mode| mode.as_str() == word)
    }
}

/// How a resource speaks TLS, for [`PostgresBuilder::tls`](crate::PostgresBuilder::tls); an address
/// says the same by `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
///
/// Files are read again for each new connection, so certificates and keys can be replaced while
/// the application runs. A file that cannot be read or used is an error of that connection, which
/// names it. Keys that are encrypted cannot be used.
///
/// ```
/// use unanimous_postgres::{Postgres, Tls, TlsMode, tokio_postgres::Config};
///
/// # fn main() -> Result<(), unanimous_postgres::BuildError> {
/// let mut config = Config::new();
/// config.host("db.example").user("app").dbname("shop");
/// let orders = Postgres::builder_with("orders", config)
///     .tls(
///         Tls::new(TlsMode::VerifyFull)
///             .root_file("/etc/shop/ca.pem")
///             .identity_files("/etc/shop/app.pem", "/etc/shop/app.key"),
///     )
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tls {
    mode: TlsMode,
    roots: Vec<Root>,
    identity: Option<Identity>,
}

#[derive(Clone)]
enum Root {
    System,
    File(PathBuf),
    Pem(Arc<[u8]>),
}

#[derive(Clone)]
enum Identity {
    Files {
        certificate: PathBuf,
        key: PathBuf,
    },
    Pem {
        certificate: Arc<[u8]>,
        key: Arc<[u8]>,
    },
}

impl Tls {
    /// TLS in this mode, without root certificates and without an identity of the client's own.
    pub const fn new(mode: TlsMode) -> Self {
        Self {
            mode,
            roots: Vec::new(),
            identity: None,
        }
    }

    /// The mode.
    pub const fn mode(&self) -> TlsMode {
        self.mode
    }

    /// Trusts the authorities in this file (PEM), beside those given already: `sslrootcert`.
    #[must_use]
    pub fn root_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots.push(Root::File(path.into()));
        self
    }

    /// Trusts the authorities in this text (PEM), beside those given already.
    #[must_use]
    pub fn root_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.roots.push(Root::Pem(pem.as_ref().into()));
        self
    }

    /// Trusts the authorities that this machine trusts (`sslrootcert=system`), beside those given
    /// already. Only for [`TlsMode::VerifyFull`]. `SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded.
    #[must_use]
    pub fn system_roots(mut self) -> Self {
        self.roots.push(Root::System);
        self
    }

    /// Shows the server this certificate (PEM, the client's own first) and proves it by this key
    /// (PEM), if the server asks: `sslcert` and `sslkey`.
    #[must_use]
    pub fn identity_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.identity = Some(Identity::Files {
            certificate: certificate.into(),
            key: key.into(),
        });
        self
    }

    /// The same from text (PEM).
    #[must_use]
    pub fn identity_pem(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.identity = Some(Identity::Pem {
            certificate: certificate.as_ref().into(),
            key: key.as_ref().into(),
        });
        self
    }

    /// What a configuration of the driver says, which knows no more than three modes.
    pub(crate) fn of(config: &Config) -> Self {
        let mode = config.get_ssl_mode();
        Self::new(if mode == SslMode::Disable {
            TlsMode::Disable
        } else if mode == SslMode::Prefer {
            TlsMode::Prefer
        } else {
            // Whatever the driver may learn is no weaker.
            TlsMode::Require
        })
    }

    /// What cannot be, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let system = self.roots.iter().any(|root| matches!(root, Root::System));
        if system && self.mode != TlsMode::VerifyFull {
            return Err(
                "the system's authorities sign for everybody, so they prove nothing in a weaker \
                 mode: write sslmode=verify-full with sslrootcert=system",
            );
        }
        if self.mode == TlsMode::VerifyCa && self.roots.is_empty() {
            return Err(
                "sslmode=verify-ca needs the certificate of the authority: write \
                 sslrootcert=/path/to/ca.pem, or sslmode=verify-full for the system's authorities",
            );
        }
        Ok(())
    }

    /// Makes what the driver connects with, from the files as they are now.
    pub(crate) async fn connector(&self) -> Result<MakeRustlsConnect, Failure> {
        if self.roots.is_empty() && self.identity.is_none() && self.mode != TlsMode::VerifyFull {
            // No file to wait for.
            return self
                .read()
                .map(MakeRustlsConnect::new)
                .map_err(Failure::from);
        }
        let tls = self.clone();
        match tokio::task::spawn_blocking(move || tls.read()).await {
            Ok(Ok(config)) => Ok(MakeRustlsConnect::new(config)),
            Ok(Err(bad)) => Err(bad.into()),
            Err(_) => Err(Failure::lost("TLS could not be set up", None)),
        }
    }

    fn read(&self) -> Result<ClientConfig, Bad> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Bad::new(format!("TLS cannot be set up: {error}"), ""))?;
        let builder = if self.mode == TlsMode::VerifyFull {
            builder.with_root_certificates(self.roots()?)
        } else {
            let roots = (!self.roots.is_empty() && self.mode != TlsMode::Disable)
                .then(|| self.roots())
                .transpose()?;
            let verifier = Arc::new(NotTheName { roots, algorithms });
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        };
        let mut config = match &self.identity {
            Some(identity) if self.mode != TlsMode::Disable => {
                let (chain, key) = identity.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let words = format!("sslcert and sslkey do not fit together: {error}");
                    Bad::new(words, "give the key that the certificate was made for")
                })?
            }
            Some(_) | None => builder.with_no_client_auth(),
        };
        // What a direct negotiation asks for; an old server does not look at it.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, Bad> {
        let mut store = RootCertStore::empty();
        if self.roots.is_empty() {
            add_system(&mut store)?;
        }
        for root in &self.roots {
            match root {
                Root::System => add_system(&mut store)?,
                Root::File(path) => {
                    let pem = read_file("sslrootcert", path)?;
                    add_pem(&mut store, &pem, &path.display().to_string())?;
                }
                Root::Pem(pem) => add_pem(&mut store, pem, "given as text")?,
            }
        }
        Ok(store)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots: Vec<String> = self.roots.iter().map(Root::place).collect();
        let identity = self.identity.as_ref().map(|identity| match identity {
            Identity::Files { certificate, .. } => certificate.display().to_string(),
            Identity::Pem { .. } => "text".to_owned(),
        });
        f.debug_struct("Tls")
            .field("mode", &self.mode.as_str())
            .field("roots", &roots)
            .field("identity", &identity)
            .finish()
    }
}

impl Root {
    fn place(&self) -> String {
        match self {
            Self::System => "system".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Pem(_) => "text".to_owned(),
        }
    }
}

/// Why TLS cannot be set up, and what mends it.
struct Bad {
    words: String,
    mend: &'static str,
}

impl Bad {
    fn new(words: String, mend: &'static str) -> Self {
        Self { words, mend }
    }
}

impl From<Bad> for Failure {
    fn from(bad: Bad) -> Self {
        Self::unsuited(bad.words, bad.mend)
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Bad> {
        let text = "given as text".to_owned();
        match self {
            Self::Files { certificate, key } => read_identity(
                (
                    &read_file("sslcert", certificate)?,
                    certificate.display().to_string(),
                ),
                (&read_file("sslkey", key)?, key.display().to_string()),
            ),
            Self::Pem { certificate, key } => {
                read_identity((certificate, text.clone()), (key, text))
            }
        }
    }
}

fn read_identity(
    (certificate, certificate_place): (&[u8], String),
    (key, key_place): (&[u8], String),
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Bad> {
    let chain = certificates(certificate).ok_or_else(|| {
        Bad::new(
            format!("sslcert {certificate_place} holds no certificate"),
            "give a PEM file with the client's certificate first",
        )
    })?;
    // The error of the parser is left out: it may quote the line that it did not understand.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        Bad::new(
            format!("sslkey {key_place} holds no private key that can be used"),
            "give a PEM file with a key that is not encrypted",
        )
    })?;
    Ok((chain, key))
}

fn read_file(parameter: &str, path: &Path) -> Result<Vec<u8>, Bad> {
    std::fs::read(path).map_err(|error| {
        Bad::new(
            format!("{parameter} {} cannot be read: {error}", path.display()),
            "check the path, and that this process may read it",
        )
    })
}

/// All certificates of a text, if it has any and all can be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()?;
    (!all.is_empty()).then_some(all)
}

fn add_pem(store: &mut RootCertStore, pem: &[u8], place: &str) -> Result<(), Bad> {
    let bad = || {
        Bad::new(
            format!("sslrootcert {place} holds no certificate that can be used"),
            "give a PEM file with the certificates of the authorities",
        )
    };
    for certificate in certificates(pem).ok_or_else(bad)? {
        store.add(certificate).map_err(|_| bad())?;
    }
    Ok(())
}

fn add_system(store: &mut RootCertStore) -> Result<(), Bad> {
    add_found(store, load_native_certs())
}

/// Single certificates of the system that cannot be used are left out, as every client does.
fn add_found(store: &mut RootCertStore, found: CertificateResult) -> Result<(), Bad> {
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(());
    }
    let why = found.errors.first().map(ToString::to_string);
    Err(Bad::new(
        format!(
            "no authority of the system was found{}",
            why.map(|why| format!(" ({why})")).unwrap_or_default()
        ),
        "install the package ca-certificates, or give sslrootcert",
    ))
}

/// Checks the authority, if there are root certificates, and never the name.
#[derive(Debug)]
struct NotTheName {
    roots: Option<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for NotTheName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(certificate)?;
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // The server has to hold the key of its certificate in every mode.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "tls_test.rs"]
mod tests;
