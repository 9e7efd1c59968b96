//! Certificates for one test, made afresh: an authority, servers that it has signed, clients, and
//! another authority that nobody should trust. Used by the live tests of both adapters.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// An authority, with its certificate as a PEM file.
pub(crate) struct Authority {
    pub(crate) certificate: PathBuf,
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the authority `name`; its files and those of what it signs are in `folder`.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = folder.join(format!("{name}.pem"));
        fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            certificate,
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A server's certificate for these host names and addresses.
    pub(crate) fn server(&self, name: &str, hosts: &[&str]) -> Identity {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        self.sign(name, hosts, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate, whose common name is `user`.
    pub(crate) fn client(&self, user: &str) -> Identity {
        self.sign(user, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, name: &str, hosts: Vec<String>, usage: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity {
            certificate: self.folder.join(format!("{name}-cert.pem")),
            key: self.folder.join(format!("{name}-key.pem")),
        };
        fs::write(&identity.certificate, signed.pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}
