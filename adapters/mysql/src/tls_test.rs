//! Modes, and files that are not what they should be.

use super::*;

fn refused(tls: &Tls) -> String {
    tls.read().err().unwrap()
}

#[test]
fn a_mode_is_read_in_mysqls_words() {
    for mode in [
        "DISABLED",
        "PREFERRED",
        "REQUIRED",
        "VERIFY_CA",
        "VERIFY_IDENTITY",
    ] {
        assert_eq!(mode.parse::<TlsMode>().unwrap().to_string(), mode);
        assert_eq!(
            mode.to_lowercase().parse::<TlsMode>().unwrap().as_str(),
            mode
        );
    }
    let error = "verify-full".parse::<TlsMode>().unwrap_err().to_string();
    assert!(error.contains("VERIFY_IDENTITY"), "{error}");
}

#[test]
fn files_that_are_missing_or_something_else_are_named_with_their_parameter() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let missing = folder.path().join("missing.pem");
    let text = file("text.pem", "no PEM at all, but s3cr3t");
    let garbage = file(
        "garbage.pem",
        "-----BEGIN CERTIFICATE-----\nczNjcjN0\n-----END CERTIFICATE-----\n",
    );
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let certificate = file("cert.pem", &params.self_signed(&key).unwrap().pem());
    let (key, other) = (
        file("key.pem", &key.serialize_pem()),
        file("other.pem", &other.serialize_pem()),
    );
    let ca = |path: &Path| refused(&Tls::new(TlsMode::VerifyCa).ca_file(path));
    let identity = |certificate: &Path, key: &Path| {
        refused(&Tls::new(TlsMode::Required).identity_files(certificate, key))
    };
    for (error, parameter, path) in [
        (ca(&missing), "ssl-ca: ", &missing),
        (ca(&text), "ssl-ca: ", &text),
        (ca(&garbage), "ssl-ca: ", &garbage),
        (identity(&missing, &key), "ssl-cert: ", &missing),
        (identity(&text, &key), "ssl-cert: ", &text),
        (identity(&certificate, &missing), "ssl-key: ", &missing),
        (identity(&certificate, &text), "ssl-key: ", &text),
        (
            identity(&certificate, &certificate),
            "ssl-key: ",
            &certificate,
        ),
        (
            identity(&certificate, &other),
            "ssl-cert and ssl-key: ",
            &other,
        ),
    ] {
        assert!(error.starts_with(parameter), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(
            !error.contains("s3cr3t") && !error.contains("PRIVATE"),
            "{error}"
        );
    }
    let whole = Tls::new(TlsMode::Required).identity_files(&certificate, &key);
    assert!(whole.read().unwrap().files.is_some());
    assert!(Tls::new(TlsMode::Required).read().unwrap().files.is_none());
    let pem = fs::read(&certificate).unwrap();
    for (built_in, mode) in [(false, TlsMode::VerifyCa), (true, TlsMode::VerifyIdentity)] {
        let mut tls = Tls::new(mode).ca_pem(pem.clone());
        if built_in {
            tls = tls.built_in_roots();
        }
        let security = tls.read().unwrap();
        assert!(security.files.is_none());
        let ssl = security.ssl.unwrap();
        assert_eq!(ssl.disable_built_in_roots(), !built_in);
        assert_eq!(ssl.skip_domain_validation(), mode == TlsMode::VerifyCa);
    }
    assert_eq!(format!("{whole:?}"), "Tls { mode: Required, .. }");
}

/// The driver builds a verifier even where none is asked, and that one needs a root.
#[test]
fn modes_that_do_not_verify_keep_the_drivers_roots() {
    for mode in [TlsMode::Preferred, TlsMode::Required] {
        let ssl = Tls::new(mode).read().unwrap().ssl.unwrap();
        assert!(ssl.accept_invalid_certs() && !ssl.disable_built_in_roots());
    }
    let given = SslOpts::default()
        .with_danger_accept_invalid_certs(true)
        .with_disable_built_in_roots(true);
    let opts = mysql_async::OptsBuilder::default().ssl_opts(given);
    let security = Security::of(&opts.into());
    assert_eq!(security.mode, TlsMode::Required);
    assert!(!security.ssl.unwrap().disable_built_in_roots());
}
