//! Client certificates, and files that are replaced or wrong.

use std::fs;
use std::path::Path;

use unanimous_core::ports::{BranchErrorKind, Problem, Resource, ResourceManager};
use unanimous_postgres::{Postgres, Tls, TlsMode};
use xtask::servers::Kind;

use crate::support::whole;
use crate::tls::{Secure, is_encrypted};

async fn with_clients(kind: Kind, line: &str) -> Secure {
    let secure = Secure::start(kind).await;
    secure.certify(&["127.0.0.1"]).await;
    secure.set("ssl_ca_file", "ca.crt").await;
    secure.let_in(line).await;
    secure
}

fn identity(certificate: &Path, key: &Path) -> String {
    format!(
        "sslmode=require&sslcert={}&sslkey={}",
        certificate.display(),
        key.display()
    )
}

async fn a_client_certificate_lets_in_and_a_wrong_one_does_not(kind: Kind) {
    for line in [
        "hostssl all all all cert",
        "hostssl all all all scram-sha-256 clientcert=verify-full",
    ] {
        let secure = with_clients(kind, line).await;
        let app = secure.trusted.client("app");
        let resource = secure.resource(&identity(&app.certificate, &app.key));
        let branch = resource.open(secure.db.env(1)).await.unwrap();
        assert!(is_encrypted(&branch).await);
        resource.recover().await.unwrap();

        let somebody = secure.trusted.client("somebody");
        // The files are named after the user: another folder's worth of `app`.
        let forged = secure.stranger.client("app");
        for (parameters, words) in [
            ("sslmode=require".to_owned(), &["28000", "certificate"][..]),
            (
                identity(&somebody.certificate, &somebody.key),
                &["FATAL 28"],
            ),
            (identity(&forged.certificate, &forged.key), &["ssl_ca_file"]),
        ] {
            let resource = secure.resource(&parameters);
            let error = resource.open(secure.db.env(2)).await.unwrap_err();
            assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
            for word in words {
                assert!(error.to_string().contains(word), "{line}: {error}");
            }
            let error = resource.preflight().await.unwrap_err();
            assert_eq!(error.problem(), Problem::Unfit, "{error}");
        }
    }
}

/// What is in the files counts for the next connection; those that are open go on.
async fn files_are_read_again_for_every_connection(kind: Kind) {
    let secure = with_clients(kind, "hostssl all all all cert").await;
    let db = &secure.db;
    let (certificate, key) = (
        secure.folder.path().join("now.pem"),
        secure.folder.path().join("now.key"),
    );
    let install = |identity: &crate::certificates::Identity| {
        fs::copy(&identity.certificate, &certificate).unwrap();
        fs::copy(&identity.key, &key).unwrap();
    };
    let resource = secure.resource(&identity(&certificate, &key));
    install(&secure.trusted.client("app"));
    let open = resource.open(db.env(1)).await.unwrap();
    install(&secure.trusted.client("somebody"));
    resource.open(db.env(2)).await.unwrap_err();
    install(&secure.trusted.client("app"));
    resource.open(db.env(3)).await.unwrap();
    open.batch_execute("SELECT 1").await.unwrap();
}

async fn i8_a_bad_file_is_named_and_no_key_is_shown(kind: Kind) {
    let secure = Secure::start(kind).await;
    secure.certify(&["127.0.0.1"]).await;
    let app = secure.trusted.client("app");
    let other = secure.trusted.client("other");
    let key = fs::read_to_string(&app.key).unwrap();
    let folder = secure.folder.path();
    let (empty, broken) = (folder.join("empty.pem"), folder.join("broken.pem"));
    fs::write(&empty, "").unwrap();
    fs::write(&broken, key.replace("-----BEGIN", "-----BEGUN")).unwrap();
    let missing = folder.join("missing.pem");
    let root = |path: &Path| format!("sslmode=verify-ca&sslrootcert={}", path.display());
    for (parameters, named, file) in [
        (root(&missing), "sslrootcert", "missing.pem"),
        (root(&empty), "sslrootcert", "empty.pem"),
        (root(&broken), "sslrootcert", "broken.pem"),
        (identity(&missing, &app.key), "sslcert", "missing.pem"),
        (identity(&app.key, &app.key), "sslcert", "app-key.pem"),
        (
            identity(&app.certificate, &missing),
            "sslkey",
            "missing.pem",
        ),
        (identity(&app.certificate, &broken), "sslkey", "broken.pem"),
        (
            identity(&app.certificate, &app.certificate),
            "sslkey",
            "app-cert.pem",
        ),
        (
            identity(&app.certificate, &other.key),
            "sslkey",
            "fit together",
        ),
    ] {
        let resource = secure.resource(&parameters);
        let error = resource.preflight().await.unwrap_err();
        assert_eq!(error.problem(), Problem::Unfit, "{error}");
        let text = whole(&error);
        assert!(text.contains(named) && text.contains(file), "{text}");
        let secret = key.lines().nth(1).unwrap();
        assert!(!text.contains(secret), "{text}");
    }
    let certificate = fs::read(&app.certificate).unwrap();
    let tls = Tls::new(TlsMode::Require).identity_pem(certificate, &key);
    let url = &secure.db.url;
    let resource = Postgres::builder("orders", url).tls(tls.clone()).build();
    for text in [format!("{tls:?}"), format!("{:?}", resource.unwrap())] {
        assert!(!text.contains("BEGIN"), "{text}");
        assert!(!text.contains(key.lines().nth(1).unwrap()), "{text}");
    }
}

mod own {
    use super::*;
    on_own!(
        a_client_certificate_lets_in_and_a_wrong_one_does_not,
        files_are_read_again_for_every_connection,
        i8_a_bad_file_is_named_and_no_key_is_shown,
    );
}
