//! Encrypted connections: every mode against every kind of server, and the protocol over them.
//!
//! Servers have certificates made in the test, for 127.0.0.1; `localhost` is the wrong name then.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use unanimous_core::ports::{
    Branch, BranchErrorKind, PrepareReply, Problem, Resource, ResourceManager,
};
use unanimous_core::protocol::Decision;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_mysql::mysql_async::{Opts, OptsBuilder, SslOpts};
use unanimous_mysql::{Mysql, MysqlBranch, MysqlBuilder, Tls, TlsMode};
use unanimous_testing::{Wire, WireFault};
use xtask::servers::{Kind, Server};

use crate::certificates::{Authority, Identity};
use crate::support::{Db, connection_id, eventually, expect_prepared, start};

/// A folder of certificates that a server, which runs as another user, can read.
struct Certificates {
    folder: TempDir,
    authority: Authority,
    other: Authority,
    server: Identity,
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let other = Authority::new(folder.path(), "other");
        let server = authority.server("server", &["127.0.0.1", "*.db.example"]);
        Self {
            folder,
            authority,
            other,
            server,
        }
    }

    fn start(&self, kind: Kind, more: &[&str]) -> Server {
        let ca = format!("--ssl-ca={}", self.authority.certificate.display());
        let certificate = format!("--ssl-cert={}", self.server.certificate.display());
        let key = format!("--ssl-key={}", self.server.key.display());
        let mut args = vec![&*ca, &certificate, &key];
        args.extend(more);
        start(kind, &args)
    }

    fn ca(&self) -> Tls {
        Tls::new(TlsMode::VerifyIdentity).ca_file(&self.authority.certificate)
    }
}

fn plain_server(kind: Kind) -> Server {
    match kind {
        Kind::Mysql => start(kind, &["--tls-version="]),
        _ => start(kind, &["--skip-ssl"]),
    }
}

fn resource(url: &str, with: impl FnOnce(MysqlBuilder) -> MysqlBuilder) -> Mysql {
    with(Mysql::builder("ledger", url)).build().unwrap()
}

fn localhost(url: &str) -> String {
    url.replace("127.0.0.1", "localhost")
}

async fn cipher(branch: &mut MysqlBranch) -> String {
    let sql = "SHOW SESSION STATUS LIKE 'Ssl_cipher'";
    let (_, cipher): (String, String) = branch.query_first(sql).await.unwrap().unwrap();
    cipher
}

/// Whether branches of the resource are encrypted, or why there are none.
async fn encrypted(db: &Db, resource: &Mysql) -> Result<bool, String> {
    match resource.open(db.env(1)).await {
        Ok(mut branch) => {
            let cipher = cipher(&mut branch).await;
            branch.rollback().await.unwrap();
            Ok(!cipher.is_empty())
        }
        Err(error) => {
            assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
            let found = resource.preflight().await.unwrap_err();
            assert_eq!(found.problem(), Problem::Unfit, "{found}");
            Err(error.to_string())
        }
    }
}

/// Right name, wrong name, wrong authority, no encryption at all; what each mode makes of them.
async fn each_mode_means_what_it_means_to_mysqls_own_clients(kind: Kind) {
    let made = Certificates::new();
    let (server, plain) = (made.start(kind, &[]), plain_server(kind));
    let (db, none) = (Db::on(&server).await, Db::on(&plain).await);
    let wrong_name = localhost(&db.url);
    let (right, wrong) = (&made.authority.certificate, &made.other.certificate);
    for (mode, named, misnamed, stranger, absent) in [
        (
            TlsMode::Disabled,
            Ok(false),
            Ok(false),
            Ok(false),
            Ok(false),
        ),
        (TlsMode::Preferred, Ok(true), Ok(true), Ok(true), Ok(false)),
        (
            TlsMode::Required,
            Ok(true),
            Ok(true),
            Ok(true),
            Err("offers no encryption"),
        ),
        (
            TlsMode::VerifyCa,
            Ok(true),
            Ok(true),
            Err("not signed by whom ssl-ca names"),
            Err("offers no encryption"),
        ),
        (
            TlsMode::VerifyIdentity,
            Ok(true),
            Err("not for the host of the address"),
            Err("not signed by whom ssl-ca names"),
            Err("offers no encryption"),
        ),
    ] {
        let verifies = matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyIdentity);
        let tls = |ca: &std::path::Path| {
            let tls = Tls::new(mode);
            if verifies { tls.ca_file(ca) } else { tls }
        };
        for (db, url, ca, expected) in [
            (&db, &db.url, right, named),
            (&db, &wrong_name, right, misnamed),
            (&db, &db.url, wrong, stranger),
            (&none, &none.url, right, absent),
        ] {
            let resource = resource(url, |builder| builder.tls(tls(ca)));
            let seen = encrypted(db, &resource).await;
            let fits = match (&seen, &expected) {
                (Ok(seen), Ok(expected)) => seen == expected,
                (Err(seen), Err(expected)) => seen.contains(expected),
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
            };
            assert!(
                fits,
                "{mode} at {url} with {}: {seen:?}, {expected:?}",
                ca.display()
            );
        }
    }
}

/// The same by the address: MySQL's parameters and the driver's, and the default.
async fn the_address_says_how_to_encrypt(kind: Kind) {
    let made = Certificates::new();
    let server = made.start(kind, &[]);
    let db = Db::on(&server).await;
    let ca = made
        .authority
        .certificate
        .display()
        .to_string()
        .replace('/', "%2F");
    let other = made.other.certificate.display();
    for (query, expected) in [
        (String::new(), Ok(true)),
        ("?ssl-mode=DISABLED".to_owned(), Ok(false)),
        ("?ssl-mode=required".to_owned(), Ok(true)),
        (format!("?ssl-ca={ca}"), Ok(true)),
        (format!("?ssl-ca={other}"), Err("ssl-ca")),
        (format!("?ssl-mode=VERIFY_IDENTITY&ssl-ca={ca}"), Ok(true)),
        ("?require_ssl=true".to_owned(), Err("ssl-ca")),
        ("?require_ssl=true&verify_ca=false".to_owned(), Ok(true)),
        (format!("?require_ssl=true&ssl-ca={ca}"), Ok(true)),
        ("?built_in_roots=true".to_owned(), Err("ssl-ca")),
    ] {
        let resource = resource(&format!("{}{query}", db.url), |builder| builder);
        let seen = encrypted(&db, &resource).await;
        match (&seen, &expected) {
            (Ok(seen), Ok(expected)) => assert_eq!(seen, expected, "{query}"),
            (Err(seen), Err(expected)) => assert!(seen.contains(expected), "{query}: {seen}"),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("{query}: {seen:?}"),
        }
    }
    // Options of the driver are taken at their word, even where the driver would stumble.
    let ssl = SslOpts::default()
        .with_danger_accept_invalid_certs(true)
        .with_disable_built_in_roots(true);
    let opts = OptsBuilder::from_opts(Opts::from_url(&db.url).unwrap());
    for (opts, expected) in [(opts.clone(), false), (opts.ssl_opts(ssl), true)] {
        let resource = Mysql::builder_with_opts("ledger", opts).build().unwrap();
        assert_eq!(encrypted(&db, &resource).await, Ok(expected));
    }
}

/// An account that has to show a certificate: with one, without, and with a stranger's.
async fn an_account_that_needs_a_certificate_shows_it(kind: Kind) {
    let made = Certificates::new();
    let server = made.start(kind, &[]);
    let db = Db::on(&server).await;
    let sql = "CREATE USER cert@'%' IDENTIFIED BY 'pw' REQUIRE X509; \
               GRANT ALL ON app.* TO cert@'%'";
    db.admin().await.query_drop(sql).await.unwrap();
    let url = db.url.replace("app:app-secret", "cert:pw");
    let client = made.authority.client("cert");
    let stranger = made.other.client("stranger");
    let with = |who: &Identity| {
        let tls = made.ca().identity_files(&who.certificate, &who.key);
        resource(&url, |builder| builder.tls(tls))
    };
    assert_eq!(encrypted(&db, &with(&client)).await, Ok(true));
    let query = format!(
        "?ssl-mode=VERIFY_CA&ssl-ca={}&ssl-cert={}&ssl-key={}",
        made.authority.certificate.display(),
        client.certificate.display(),
        client.key.display()
    );
    let by_address = resource(&format!("{url}{query}"), |builder| builder);
    assert_eq!(encrypted(&db, &by_address).await, Ok(true));
    let key = std::fs::read(&client.key).unwrap();
    let pem = made
        .ca()
        .identity_pem(std::fs::read(&client.certificate).unwrap(), key);
    assert_eq!(
        encrypted(&db, &resource(&url, |b| b.tls(pem))).await,
        Ok(true)
    );

    let without = resource(&url, |builder| builder.tls(made.ca()));
    let error = encrypted(&db, &without).await.unwrap_err();
    assert!(
        error.contains("1045") && error.contains("ssl-cert, ssl-key"),
        "{error}"
    );
    let error = with(&stranger)
        .open(db.env(1))
        .await
        .unwrap_err()
        .to_string();
    for text in [&error, &format!("{:?} {:?}", with(&client), made.ca())] {
        assert!(!text.contains("PRIVATE") && !text.contains("pw"), "{text}");
    }
    assert!(made.folder.path().exists());
}

/// Certificates that are replaced while the application runs count for the next connection.
async fn files_are_read_again_for_each_connection(kind: Kind) {
    let made = Certificates::new();
    let server = made.start(kind, &[]);
    let db = Db::on(&server).await;
    let sql = "CREATE USER cert@'%' IDENTIFIED BY 'pw' REQUIRE SUBJECT '/CN=cert'; \
               GRANT ALL ON app.* TO cert@'%'";
    db.admin().await.query_drop(sql).await.unwrap();
    let now = Identity {
        certificate: made.folder.path().join("now.pem"),
        key: made.folder.path().join("now.key"),
    };
    let install = |identity: &Identity| {
        std::fs::copy(&identity.certificate, &now.certificate).unwrap();
        std::fs::copy(&identity.key, &now.key).unwrap();
    };
    install(&made.authority.client("cert"));
    let tls = made.ca().identity_files(&now.certificate, &now.key);
    let url = db.url.replace("app:app-secret", "cert:pw");
    let resource = resource(&url, |builder| builder.tls(tls));
    let mut open = resource.open(db.env(1)).await.unwrap();
    install(&made.authority.client("somebody"));
    resource.open(db.env(2)).await.unwrap_err();
    std::fs::remove_file(&now.key).unwrap();
    let error = resource.open(db.env(3)).await.unwrap_err().to_string();
    assert!(
        error.contains("ssl-key") && error.contains("now.key"),
        "{error}"
    );
    install(&made.authority.client("cert"));
    resource.open(db.env(4)).await.unwrap();
    open.query_drop("SELECT 1").await.unwrap();
}

/// A server that takes nothing else refuses with a word that the error explains.
async fn a_server_that_takes_encrypted_connections_only_says_so(kind: Kind) {
    let made = Certificates::new();
    let server = made.start(kind, &["--require-secure-transport=ON"]);
    let plain = resource(&server.url(), |builder| builder.tls(TlsMode::Disabled));
    let error = plain.preflight().await.unwrap_err();
    assert_eq!(error.problem(), Problem::Unfit, "{error}");
    // MariaDB refuses as if the password were wrong.
    let mend = match kind {
        Kind::Mysql => "write ssl-mode=REQUIRED",
        _ => "or to encrypt (ssl-mode)",
    };
    assert!(error.to_string().contains(mend), "{error}");
    let by_default = resource(&server.url(), |builder| builder);
    assert!(by_default.preflight().await.unwrap().is_fit());
}

/// A server that begins or ceases to offer encryption is followed, by those who prefer it.
async fn who_prefers_encryption_follows_the_server(kind: Kind) {
    let made = Certificates::new();
    let mut server = plain_server(kind);
    let db = Db::on(&server).await;
    let preferring = db.build(|builder| builder);
    assert_eq!(encrypted(&db, &preferring).await, Ok(false));
    let ca = format!("--ssl-ca={}", made.authority.certificate.display());
    let certificate = format!("--ssl-cert={}", made.server.certificate.display());
    let key = format!("--ssl-key={}", made.server.key.display());
    let options = xtask::servers::Options::new().args([
        &*ca,
        &certificate,
        &key,
        "--require-secure-transport=ON",
    ]);
    tokio::task::block_in_place(|| server.restart_with(&options)).unwrap();
    eventually("the server is asked again", async || {
        match preferring.open(db.env(1)).await {
            Ok(mut branch) => {
                assert!(!cipher(&mut branch).await.is_empty());
                true
            }
            Err(_) => false,
        }
    })
    .await;
}

/// Prepare, commit, recovery and the fence, all of it encrypted.
async fn the_protocol_runs_over_encrypted_connections(kind: Kind) {
    let made = Certificates::new();
    let server = made.start(kind, &[]);
    let mut db = Db::on(&server).await;
    db.resource = resource(&db.url, |builder| builder.tls(made.ca()));
    let mut branch = db.active(1).await;
    assert!(!cipher(&mut branch).await.is_empty());
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    Box::new(branch).release().await;
    let mut branch = db.active(2).await;
    branch.rollback().await.unwrap();

    let (orphan, record) = db.prepared(3).await;
    drop(orphan);
    assert!(db.is_listed(3).await);
    db.finish(&db.xid(3), Decision::Commit).await;
    let absence = db.resource.absent(&db.xid(3), &record).await.unwrap();
    assert_eq!(absence, unanimous_core::ports::Absence::Presumed);

    // The fence ends a connection that waits; its locks are free then.
    let mut stuck = db.active(4).await;
    let connection = connection_id(&mut stuck).await;
    let dropped = timeout(Duration::from_millis(200), stuck.query_drop("DO SLEEP(60)")).await;
    assert!(dropped.is_err(), "it was still running");
    stuck.rollback().await.unwrap();
    assert!(!db.connections().await.contains(&connection));
    assert!(db.has(1).await && !db.has(2).await && db.has(3).await && !db.has(4).await);
}

/// Closing does not wait for the server, nor for rows that are on their way (I8).
async fn i8_an_encrypted_session_is_closed_at_once(kind: Kind) {
    let made = Certificates::new();
    let server = made.start(kind, &[]);
    let db = Db::on(&server).await;
    let resource = resource(&db.url, |builder| builder.tls(made.ca()));
    let mut branch = resource.open(db.env(1)).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap();
    let connection = connection_id(&mut branch).await;
    // A minute and a half of rows.
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) \
                SELECT SLEEP(0.1), REPEAT('x', 100000) FROM n";
    drop(branch.query_iter(rows).await.unwrap());
    drop(branch);
    eventually("its connection is gone", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
    let mut again = resource.open(db.env(2)).await.unwrap();
    db.insert(&mut again, 1).await.unwrap();
    again.rollback().await.unwrap();
}

/// The reply to a prepare is lost: the branch may be prepared, and here it is (I3).
async fn i3_a_prepare_whose_encrypted_reply_is_lost_is_undetermined(kind: Kind) {
    let made = Certificates::new();
    let server = made.start(kind, &[]);
    let db = Db::on(&server).await;
    let (wire, url) = Wire::between(&db.url).await.unwrap();
    let through = resource(&url, |builder| builder.tls(made.ca()));
    let mut branch = through.open(db.env(1)).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap();
    assert!(!cipher(&mut branch).await.is_empty());
    wire.set(WireFault::CutReply);
    let reply = branch.prepare().await;
    assert!(matches!(reply, PrepareReply::Undetermined(_)), "{reply:?}");
    drop(branch);
    eventually("it is listed", async || db.is_listed(1).await).await;
    db.finish(&db.xid(1), Decision::Commit).await;
    assert!(db.has(1).await);
}

/// `caching_sha2_password` sends the password itself once: inside the encryption, or encrypted with
/// the server's RSA key.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_login_of_an_account_works_with_and_without_encryption() {
    let db = Db::shared(Kind::Mysql).await;
    let mut admin = db.admin().await;
    for (mode, expected) in [(TlsMode::Disabled, false), (TlsMode::Required, true)] {
        let user = format!("sha{}", u8::from(expected));
        let sql = format!(
            "DROP USER IF EXISTS {user}@'%'; \
             CREATE USER {user}@'%' IDENTIFIED WITH caching_sha2_password BY 'first'; \
             GRANT ALL ON app.* TO {user}@'%'"
        );
        admin.query_drop(sql).await.unwrap();
        let url = db.url.replace("app:app-secret", &format!("{user}:first"));
        let resource = resource(&url, |builder| builder.tls(mode));
        assert_eq!(encrypted(&db, &resource).await, Ok(expected));
        assert_eq!(
            encrypted(&db, &resource).await,
            Ok(expected),
            "from its cache"
        );
        admin
            .query_drop(format!("DROP USER {user}@'%'"))
            .await
            .unwrap();
    }
    db.clean().await;
}

/// What MySQL makes for itself at its first start names no host, which the driver needs.
#[tokio::test(flavor = "multi_thread")]
async fn the_certificates_that_mysql_makes_itself_serve_for_required_only() {
    let server = start(Kind::Mysql, &[]);
    let db = Db::on(&server).await;
    let required = db.build(|builder| builder.tls(TlsMode::Required));
    assert_eq!(encrypted(&db, &required).await, Ok(true));
    let ca = server.data().join("ca.pem");
    let verifying = db.build(|builder| builder.tls(Tls::new(TlsMode::VerifyCa).ca_file(ca)));
    let error = encrypted(&db, &verifying).await.unwrap_err();
    assert!(error.contains("subjectAltName"), "{error}");
}

on_own!(
    each_mode_means_what_it_means_to_mysqls_own_clients,
    the_address_says_how_to_encrypt,
    an_account_that_needs_a_certificate_shows_it,
    files_are_read_again_for_each_connection,
    a_server_that_takes_encrypted_connections_only_says_so,
    who_prefers_encryption_follows_the_server,
    the_protocol_runs_over_encrypted_connections,
    i8_an_encrypted_session_is_closed_at_once,
    i3_a_prepare_whose_encrypted_reply_is_lost_is_undetermined,
);
