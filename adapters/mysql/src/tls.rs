//! How connections are encrypted, and whom they trust: MySQL's `ssl-mode` by rustls.
//!
//! Certificates and keys are read and checked once, when the resource is built, so that what is
//! wrong with a file is an error that names it, not a login that fails later. No text of this file
//! holds a key (I8).
//!
//! What the driver does with a mode, and where it needs help:
//! * *Accept any certificate*: it builds a verifier all the same, which needs at least one root;
//!   so its built-in roots stay on where no certificate is looked at.
//! * *Skip the host name*: it looks for a word in the text of rustls's error that rustls 0.23 no
//!   longer writes there. `route.rs` asks for a name that the certificate has, instead.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use mysql_async::{ClientIdentity, Opts, SslOpts};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::BuildError;

/// What is demanded of a connection's encryption: the modes of MySQL's own clients (`--ssl-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Never encrypted.
    Disabled,
    /// Encrypted if the server offers it, else not. Keeps passive listeners out and nobody else.
    Preferred,
    /// Encrypted, or no connection. The server's certificate is not looked at.
    Required,
    /// The certificate is signed by a given authority, too. For which host it was made does not
    /// matter, but it has to name one (subjectAltName).
    VerifyCa,
    /// The certificate names the host of the address, too.
    VerifyIdentity,
}

impl TlsMode {
    /// `DISABLED`, `PREFERRED`, `REQUIRED`, `VERIFY_CA` or `VERIFY_IDENTITY`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "DISABLED",
            Self::Preferred => "PREFERRED",
            Self::Required => "REQUIRED",
            Self::VerifyCa => "VERIFY_CA",
            Self::VerifyIdentity => "VERIFY_IDENTITY",
        }
    }

    const fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyIdentity)
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// MySQL's words, in upper or lower case.
impl FromStr for TlsMode {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        let modes = [
            Self::Disabled,
            Self::Preferred,
            Self::Required,
            Self::VerifyCa,
            Self::VerifyIdentity,
        ];
        modes
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                BuildError::new(
                    "ssl-mode is one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY",
                )
            })
    }
}

/// Encryption of a resource's connections, by rustls.
///
/// ```no_run
/// use unanimous_mysql::{Mysql, Tls, TlsMode};
///
/// let ledger = Mysql::builder("ledger", "mysql://app:secret@db.internal:3306/app")
///     .tls(
///         Tls::new(TlsMode::VerifyIdentity)
///             .ca_file("/etc/unanimous/ca.pem")
///             .identity_files("/etc/unanimous/app-cert.pem", "/etc/unanimous/app-key.pem"),
///     )
///     .build()?;
/// # Ok::<(), unanimous_mysql::BuildError>(())
/// ```
///
/// Files are PEM. They are read by [`MysqlBuilder::build`](crate::MysqlBuilder::build), so that a
/// mistake is told at once, and again for each new connection, so that certificates and keys can be
/// replaced while the application runs.
#[derive(Clone)]
pub struct Tls {
    mode: TlsMode,
    roots: Vec<Pem>,
    built_in_roots: bool,
    identity: Option<(Pem, Pem)>,
}

#[derive(Clone)]
enum Pem {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Tls {
    /// Encryption of this mode, without anybody to trust and without a certificate of one's own.
    pub const fn new(mode: TlsMode) -> Self {
        Self {
            mode,
            roots: Vec::new(),
            built_in_roots: false,
            identity: None,
        }
    }

    /// Trusts the authorities in a PEM file (`ssl-ca`). Only for the modes that verify.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots.push(Pem::File(path.into()));
        self
    }

    /// Trusts the authorities in PEM text.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(Pem::Bytes(pem.into().into()));
        self
    }

    /// Trusts the public authorities that are built into the program (Mozilla's, by the crate
    /// `webpki-roots`), beside those that were given.
    #[must_use]
    pub const fn built_in_roots(mut self) -> Self {
        self.built_in_roots = true;
        self
    }

    /// Shows this certificate, with its chain, to servers that ask for one (`ssl-cert`, `ssl-key`).
    #[must_use]
    pub fn identity_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.identity = Some((Pem::File(certificate.into()), Pem::File(key.into())));
        self
    }

    /// The same from PEM text.
    #[must_use]
    pub fn identity_pem(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((
            Pem::Bytes(certificate.into().into()),
            Pem::Bytes(key.into().into()),
        ));
        self
    }

    /// The mode that was given.
    pub const fn mode(&self) -> TlsMode {
        self.mode
    }

    /// Reads the files and checks that everything fits together.
    ///
    /// # Errors
    /// It does not: names the parameter, the file and the mend.
    pub(crate) fn read(&self) -> Result<Security, String> {
        self.refuse_contradictions()?;
        if self.mode == TlsMode::Disabled {
            return Ok(Security::PLAIN);
        }
        let mut roots = Vec::new();
        let mut store = RootCertStore::empty();
        for pem in &self.roots {
            let bytes = pem.read("ssl-ca")?;
            for certificate in certificates("ssl-ca", pem, &bytes)? {
                store.add(certificate).map_err(|error| {
                    format!("ssl-ca: {pem} holds a certificate that is of no use: {error}")
                })?;
            }
            roots.push(bytes.into());
        }
        let identity = match &self.identity {
            Some((certificate, key)) => Some(read_identity(certificate, key, store)?),
            None => None,
        };
        let verifies = self.mode.verifies();
        let ssl = SslOpts::default()
            .with_root_certs(roots)
            .with_client_identity(identity)
            .with_disable_built_in_roots(verifies && !self.built_in_roots)
            .with_danger_accept_invalid_certs(!verifies)
            .with_danger_skip_domain_validation(self.mode != TlsMode::VerifyIdentity);
        Ok(Security {
            mode: self.mode,
            ssl: Some(ssl),
            files: self.has_files().then(|| self.clone()),
        })
    }

    fn has_files(&self) -> bool {
        let identity = self
            .identity
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        let mut all = self.roots.iter().chain(identity);
        all.any(|pem| matches!(pem, Pem::File(_)))
    }

    fn refuse_contradictions(&self) -> Result<(), String> {
        let mode = self.mode;
        let trusts = !self.roots.is_empty() || self.built_in_roots;
        if trusts && !mode.verifies() {
            return Err(format!(
                "ssl-mode={mode} does not look at the server's certificate, so that ssl-ca and \
                 built_in_roots mean nothing: write ssl-mode=VERIFY_IDENTITY or VERIFY_CA, or \
                 leave them out"
            ));
        }
        if mode.verifies() && !trusts {
            return Err(format!(
                "ssl-mode={mode} needs to know whom to trust: give ssl-ca=FILE, or \
                 built_in_roots=true for the public authorities"
            ));
        }
        if mode == TlsMode::Disabled && self.identity.is_some() {
            return Err(
                "ssl-mode=DISABLED shows no certificate to the server: leave ssl-cert and ssl-key \
                 out, or write another ssl-mode"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

impl From<TlsMode> for Tls {
    fn from(mode: TlsMode) -> Self {
        Self::new(mode)
    }
}

/// Shows the mode and nothing of the certificates.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Bytes(_) => f.write_str("the PEM text"),
        }
    }
}

impl Pem {
    fn read(&self, parameter: &str) -> Result<Vec<u8>, String> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| {
                let path = path.display();
                format!("{parameter}: {path} cannot be read: {error}")
            })
        };
        match self {
            Self::File(path) => read(path),
            Self::Bytes(bytes) => Ok(bytes.to_vec()),
        }
    }
}

fn certificates(
    parameter: &str,
    pem: &Pem,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{parameter}: {pem} is not readable as PEM: {error}"))?;
    if certificates.is_empty() {
        return Err(format!(
            "{parameter}: {pem} holds no certificate: it has to be PEM, with lines of -----BEGIN \
             CERTIFICATE-----"
        ));
    }
    Ok(certificates)
}

fn read_identity(
    certificate: &Pem,
    key: &Pem,
    roots: RootCertStore,
) -> Result<ClientIdentity, String> {
    let (chain_bytes, key_bytes) = (certificate.read("ssl-cert")?, key.read("ssl-key")?);
    let chain = certificates("ssl-cert", certificate, &chain_bytes)?;
    // The error is left out: it may show a line of the file.
    let private = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|_| {
        format!(
            "ssl-key: {key} holds no private key: it has to be PEM, and not under a password \
             (openssl pkey -in FILE -out NEW takes one off)"
        )
    })?;
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, private)
        })
        .map_err(|error| {
            format!("ssl-cert and ssl-key: {certificate} and {key} do not fit together: {error}")
        })?;
    Ok(ClientIdentity::new(chain_bytes.into(), key_bytes.into()))
}

/// A description that was read and found to fit: what the driver is told.
#[derive(Clone)]
pub(crate) struct Security {
    pub(crate) mode: TlsMode,
    /// `None` for [`TlsMode::Disabled`] alone.
    pub(crate) ssl: Option<SslOpts>,
    /// What is to be read again for each connection.
    pub(crate) files: Option<Tls>,
}

impl Security {
    pub(crate) const PLAIN: Self = Self {
        mode: TlsMode::Disabled,
        ssl: None,
        files: None,
    };

    pub(crate) fn preferred() -> Self {
        let ssl = SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true);
        Self {
            mode: TlsMode::Preferred,
            ssl: Some(ssl),
            files: None,
        }
    }

    /// What options of the driver ask for.
    pub(crate) fn of(opts: &Opts) -> Self {
        let Some(ssl) = opts.ssl_opts() else {
            return Self::PLAIN;
        };
        let mode = if ssl.accept_invalid_certs() {
            TlsMode::Required
        } else if ssl.skip_domain_validation() {
            TlsMode::VerifyCa
        } else {
            TlsMode::VerifyIdentity
        };
        let mut ssl = ssl.clone();
        if mode == TlsMode::Required {
            ssl = ssl.with_disable_built_in_roots(false);
        }
        Self {
            mode,
            ssl: Some(ssl),
            files: None,
        }
    }
}

/// The driver uses the process's own choice of cryptography, and panics if the application has
/// compiled in two and chosen none. Ring is chosen then, or any time before it, only if nobody has
/// chosen.
pub(crate) fn choose_cryptography() {
    if CryptoProvider::get_default().is_none() {
        // An error means that somebody has chosen at this very moment.
        let _ = ring::default_provider().install_default();
    }
}

#[cfg(test)]
#[path = "tls_test.rs"]
mod tests;
