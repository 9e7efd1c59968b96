//! Files that are not what they should be, and modes that do not look at them.

use super::*;

/// What TLS is set up as, or why it cannot be.
fn set_up(tls: &Tls) -> String {
    match tls.read() {
        Ok(config) => format!("{config:?}"),
        Err(bad) => format!("{}; {}", bad.words, bad.mend),
    }
}

fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn files_are_looked_at_where_tls_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name, text: &str| write(folder.path().join(name), text);
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let certificate = file("cert.pem", &params.self_signed(&key).unwrap().pem());
    let authority = certificate.clone();
    let key = file("key.pem", &key.serialize_pem());
    let (other, text) = (
        file("other.pem", &other),
        file("text.pem", "no PEM: s3cret"),
    );
    let missing = folder.path().join("missing.pem");
    let garbage = file(
        "garbage.pem",
        "-----BEGIN CERTIFICATE-----\nczNjcjN0\n-----END CERTIFICATE-----\n",
    );
    for mode in [TlsMode::Require, TlsMode::VerifyFull] {
        let root = |path: &Path| set_up(&Tls::new(mode).root_file(path));
        let identity = |certificate: &Path, key: &Path| {
            let tls = Tls::new(mode).root_file(&authority);
            set_up(&tls.identity_files(certificate, key))
        };
        for (error, parameter, path, mend) in [
            (root(&missing), "sslrootcert ", &missing, "check the path"),
            (root(&text), "sslrootcert ", &text, "of the authorities"),
            (
                root(&garbage),
                "sslrootcert ",
                &garbage,
                "of the authorities",
            ),
            (
                identity(&missing, &key),
                "sslcert ",
                &missing,
                "check the path",
            ),
            (
                identity(&text, &key),
                "sslcert ",
                &text,
                "certificate first",
            ),
            (
                identity(&certificate, &missing),
                "sslkey ",
                &missing,
                "check the path",
            ),
            (
                identity(&certificate, &text),
                "sslkey ",
                &text,
                "not encrypted",
            ),
        ] {
            let start = format!("{parameter}{} ", path.display());
            assert!(error.starts_with(&start) && error.contains(mend), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let wrong = identity(&certificate, &other);
        assert!(
            wrong.starts_with("sslcert and sslkey do not fit together: "),
            "{wrong}"
        );
        assert!(identity(&certificate, &key).starts_with("ClientConfig"));
    }
}

#[test]
fn only_the_mode_that_looks_at_the_name_leaves_it_to_the_library() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    for (mode, looks) in [
        (TlsMode::Disable, false),
        (TlsMode::Require, false),
        (TlsMode::VerifyCa, false),
        (TlsMode::VerifyFull, true),
    ] {
        let text = set_up(&Tls::new(mode).root_pem(&pem));
        assert!(text.starts_with("ClientConfig"), "{text}");
        assert_eq!(!text.contains("NotTheName"), looks, "{mode:?}");
    }
    // Nothing is read where it would not be used.
    let missing = Path::new("/no/such/file.pem");
    let unused = Tls::new(TlsMode::Disable).root_file(missing);
    let text = set_up(&unused.identity_files(missing, missing));
    assert!(text.starts_with("ClientConfig"), "{text}");
}

#[test]
fn a_system_without_authorities_is_told_with_its_mend() {
    let bad = add_found(&mut RootCertStore::empty(), CertificateResult::default());
    assert!(bad.err().unwrap().mend.contains("ca-certificates"));
}
