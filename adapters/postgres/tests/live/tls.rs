//! TLS: every mode against every kind of server, and the protocol over it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use unanimous_core::ports::{Branch, BranchErrorKind, Problem, Resource, ResourceManager};
use unanimous_core::protocol::Decision;
use unanimous_postgres::{PgBranch, Postgres, Tls, TlsMode, tokio_postgres};
use unanimous_testing::{Wire, WireFault};
use xtask::servers::{Kind, Options, Server};

use crate::certificates::{Authority, Identity};
use crate::prepare::during_sleep;
use crate::support::{Db, backend_pid, eventually, expect_prepared, expect_undetermined};

/// A server that can be given certificates, and two authorities.
pub(crate) struct Secure {
    pub(crate) server: Server,
    pub(crate) db: Db,
    pub(crate) trusted: Authority,
    pub(crate) stranger: Authority,
    pub(crate) folder: TempDir,
}

impl Secure {
    pub(crate) async fn start(kind: Kind) -> Self {
        let server = Server::start(kind, &Options::new()).unwrap();
        let db = Db::on(&server).await;
        let folder = tempfile::tempdir().unwrap();
        Self {
            db,
            server,
            trusted: Authority::new(folder.path(), "trusted"),
            stranger: Authority::new(folder.path(), "stranger"),
            folder,
        }
    }

    /// Speaks TLS from now on, with a certificate for these names.
    pub(crate) async fn certify(&self, hosts: &[&str]) {
        let Identity { certificate, key } = self.trusted.server("server", hosts);
        self.install(&certificate, "server.crt");
        self.install(&key, "server.key");
        self.install(&self.trusted.certificate, "ca.crt");
        self.set("ssl", "on").await;
    }

    /// A file in the server's folder that only the server may read.
    fn install(&self, from: &Path, name: &str) {
        let data = self.server.data();
        let to = data.join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
        let owner = fs::metadata(data).unwrap();
        chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    pub(crate) async fn set(&self, setting: &str, value: &str) {
        let sql = format!("ALTER SYSTEM SET {setting} = '{value}'");
        self.db.admin(&sql).await;
        self.reload().await;
    }

    /// Who may come in, and how; the administrator always may, in plain text.
    pub(crate) async fn let_in(&self, lines: &str) {
        let text = format!("host all postgres all scram-sha-256\n{lines}\n");
        fs::write(self.server.data().join("pg_hba.conf"), text).unwrap();
        self.reload().await;
    }

    async fn reload(&self) {
        let loaded = "SELECT pg_conf_load_time()::text";
        let before = self.db.admin(loaded).await;
        self.db.admin("SELECT pg_reload_conf()").await;
        eventually("the server has read its files again", async || {
            self.db.admin(loaded).await != before
        })
        .await;
    }

    /// The address with these parameters.
    pub(crate) fn url(&self, parameters: &str) -> String {
        format!("{}?{parameters}", self.db.url)
    }

    pub(crate) fn resource(&self, parameters: &str) -> Postgres {
        Postgres::builder("orders", self.url(parameters))
            .build()
            .unwrap()
    }
}

pub(crate) async fn is_encrypted(branch: &PgBranch) -> bool {
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    branch.query_one(ssl, &[]).await.unwrap().get(0)
}

/// What comes of opening a branch: encrypted or not, or the text of the error.
async fn outcome(secure: &Secure, parameters: &str) -> Result<bool, String> {
    match secure.resource(parameters).open(secure.db.env(1)).await {
        Ok(branch) => Ok(is_encrypted(&branch).await),
        Err(error) => {
            assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
            Err(error.to_string())
        }
    }
}

const PLAIN: Result<bool, &str> = Ok(false);
const ENCRYPTED: Result<bool, &str> = Ok(true);
const NO_TLS: Result<bool, &str> = Err("ssl = on");
const WRONG_NAME: Result<bool, &str> = Err("subject alternative names");
const WRONG_AUTHORITY: Result<bool, &str> = Err("sslrootcert has to hold");

/// Per mode: without TLS, with the right name, with a wrong name, and of another authority.
const MODES: &[(&str, [Result<bool, &str>; 4])] = &[
    ("sslmode=disable", [PLAIN, PLAIN, PLAIN, PLAIN]),
    ("sslmode=allow", [PLAIN, PLAIN, PLAIN, PLAIN]),
    ("", [PLAIN, ENCRYPTED, ENCRYPTED, ENCRYPTED]),
    ("sslmode=prefer", [PLAIN, ENCRYPTED, ENCRYPTED, ENCRYPTED]),
    (
        "sslmode=prefer&ROOT",
        [PLAIN, ENCRYPTED, ENCRYPTED, WRONG_AUTHORITY],
    ),
    ("sslmode=require", [NO_TLS, ENCRYPTED, ENCRYPTED, ENCRYPTED]),
    (
        "sslmode=require&ROOT",
        [NO_TLS, ENCRYPTED, ENCRYPTED, WRONG_AUTHORITY],
    ),
    (
        "sslmode=verify-ca&ROOT",
        [NO_TLS, ENCRYPTED, ENCRYPTED, WRONG_AUTHORITY],
    ),
    (
        "sslmode=verify-full&ROOT",
        [NO_TLS, ENCRYPTED, WRONG_NAME, WRONG_AUTHORITY],
    ),
];

async fn every_mode_means_what_it_means_to_libpq(kind: Kind) {
    let secure = Secure::start(kind).await;
    // After a refusal in plain text, a server without TLS leaves the first word standing.
    let wrong = secure.url("sslmode=allow").replace("app-secret", "wrong");
    let wrong = Postgres::builder("orders", wrong).build().unwrap();
    let error = wrong.open(secure.db.env(1)).await.unwrap_err();
    assert!(error.to_string().contains("28P01"), "{error}");
    for (column, hosts) in [None, Some(["127.0.0.1"]), Some(["db.example"]), None]
        .into_iter()
        .enumerate()
    {
        let authority = if column == 3 {
            &secure.stranger
        } else {
            &secure.trusted
        };
        let root = format!("sslrootcert={}", authority.certificate.display());
        if let Some(hosts) = hosts {
            secure.certify(&hosts).await;
        }
        if column == 3 {
            secure.certify(&["127.0.0.1"]).await;
        }
        for (mode, expected) in MODES {
            let got = outcome(&secure, &mode.replace("ROOT", &root)).await;
            match (&got, &expected[column]) {
                (Ok(got), Ok(expected)) if got == expected => {}
                (Err(got), Err(expected)) if got.contains(expected) => {}
                (got, expected) => panic!("{mode:?} in case {column}: {got:?}, not {expected:?}"),
            }
        }
    }
}

/// Nothing but TLS is let in, or nothing but plain text.
async fn a_way_in_that_is_not_let_in_is_told_or_avoided(kind: Kind) {
    let secure = Secure::start(kind).await;
    secure.certify(&["127.0.0.1"]).await;
    for line in ["hostssl", "hostnossl"] {
        secure
            .let_in(&format!("{line} all all all scram-sha-256"))
            .await;
        let only_tls = line == "hostssl";
        for (mode, is_let_in) in [
            ("sslmode=disable", !only_tls),
            ("sslmode=allow", true),
            ("sslmode=prefer", only_tls),
            ("sslmode=require", only_tls),
        ] {
            match outcome(&secure, mode).await {
                Ok(encrypted) => {
                    assert!(is_let_in, "{line} {mode}");
                    assert_eq!(encrypted, only_tls, "{line} {mode}");
                }
                Err(text) => {
                    assert!(!is_let_in, "{line} {mode}: {text}");
                    assert!(
                        text.contains("28000") && text.contains("pg_hba.conf"),
                        "{text}"
                    );
                }
            }
        }
    }
}

/// Branch, prepare, commit, scan, end by recovery: all of it encrypted, on bound channels.
async fn the_whole_protocol_runs_over_tls(kind: Kind) {
    let secure = Secure::start(kind).await;
    secure.certify(&["127.0.0.1"]).await;
    secure.let_in("hostssl all all all scram-sha-256").await;
    let mut config: tokio_postgres::Config = secure.db.url.parse().unwrap();
    // SCRAM-SHA-256-PLUS: the log-in proves that nobody stands in between.
    config.channel_binding(tokio_postgres::config::ChannelBinding::Require);
    let resource = Postgres::builder_with("orders", config)
        .tls(Tls::new(TlsMode::VerifyFull).root_pem(fs::read(&secure.trusted.certificate).unwrap()))
        .build()
        .unwrap();
    let db = &secure.db;
    assert!(resource.preflight().await.unwrap().is_fit());
    let mut kept = resource.open(db.env(1)).await.unwrap();
    db.insert(&kept, 1).await;
    expect_prepared(kept.prepare().await);
    for id in 2..=3 {
        let mut lost = resource.open(db.env(id)).await.unwrap();
        db.insert(&lost, id).await;
        expect_prepared(lost.prepare().await);
    }
    assert_eq!(resource.recover().await.unwrap().branches.len(), 3);
    resource
        .finish(&db.xid(2), Decision::Commit, None)
        .await
        .unwrap();
    assert!(!db.was_confirmed().await, "nobody stands in between");
    resource
        .finish(&db.xid(3), Decision::Rollback, None)
        .await
        .unwrap();
    kept.commit().await.unwrap();
    let sessions = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl) \
        FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'app'";
    let counts = db.admin(sessions).await;
    // The branch's and one of recovery's.
    assert!(counts[0][0].parse::<i32>().unwrap() >= 2, "{counts:?}");
    assert_eq!(counts[0][1], "0");
    let ids = format!(
        "SELECT string_agg(id::text, ',' ORDER BY id) FROM {}",
        db.table
    );
    assert_eq!(db.admin(&ids).await[0][0], "1,2");
}

/// Since version 17 the handshake can come first.
async fn a_direct_negotiation_is_for_new_servers(kind: Kind) {
    let secure = Secure::start(kind).await;
    secure.certify(&["127.0.0.1"]).await;
    let resource = secure.resource("sslmode=require&sslnegotiation=direct");
    let db = &secure.db;
    let opened = resource.open(db.env(1)).await;
    match kind {
        Kind::PostgresNewest => {
            let mut branch = opened.unwrap();
            assert!(is_encrypted(&branch).await);
            db.insert(&branch, 1).await;
            expect_prepared(branch.prepare().await);
            let xid = db.xid(1);
            let finish = resource.finish(&xid, Decision::Commit, None);
            finish.await.unwrap();
            assert!(!db.was_confirmed().await, "nobody stands in between");
        }
        // It hangs up, as it does on any first word that it does not know.
        _ => assert_eq!(opened.unwrap_err().kind(), BranchErrorKind::Unavailable),
    }
}

/// What the network does to a prepare is no more certain because it is encrypted.
async fn i3_a_tls_connection_lost_at_prepare_is_undetermined(kind: Kind) {
    let secure = Secure::start(kind).await;
    secure.certify(&["127.0.0.1"]).await;
    let db = &secure.db;
    let root = secure.trusted.certificate.display();
    let tls = format!("sslmode=verify-full&sslrootcert={root}");
    let (wire, url) = Wire::between(&secure.url(&tls)).await.unwrap();
    let resource = Postgres::builder("orders", url).build().unwrap();
    for (id, fault, is_prepared) in [
        (1, WireFault::CutReply, true),
        (2, WireFault::CutRequest, false),
    ] {
        let mut branch = resource.open(db.env(id)).await.unwrap();
        assert!(is_encrypted(&branch).await);
        let pid = backend_pid(&branch).await;
        // Nothing of the driver's own is on its way when its answer has come.
        db.insert_by_text(&branch, id).await;
        wire.set(fault);
        expect_undetermined(branch.prepare().await);
        drop(branch);
        db.wait_gone(pid).await;
        assert_eq!(db.is_prepared(id).await, is_prepared, "{fault:?}");
    }
    resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap();
    assert!(db.has_row(1).await);
    db.assert_nothing_of(2).await;
}

/// The first words of each connection: a request for TLS, or one to cancel in plain text.
async fn listening_in(url: &str) -> (String, Arc<Mutex<Vec<i32>>>) {
    let (before, rest) = url.split_once('@').unwrap();
    let (server, tail) = rest.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("{before}@{}/{tail}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (server, words) = (server.to_owned(), Arc::clone(&heard));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&server).await.unwrap();
            let words = Arc::clone(&words);
            tokio::spawn(async move {
                let length = client.read_i32().await.unwrap();
                let word = client.read_i32().await.unwrap();
                words.lock().unwrap().push(word);
                server.write_i32(length).await.unwrap();
                server.write_i32(word).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, heard)
}

/// The key with which a statement is cancelled is a secret of the session.
async fn i8_a_statement_is_cancelled_over_tls(kind: Kind) {
    const REQUEST_TLS: i32 = 80_877_103;
    let secure = Secure::start(kind).await;
    secure.certify(&["127.0.0.1"]).await;
    let db = &secure.db;
    let (url, heard) = listening_in(&secure.url("sslmode=require")).await;
    let resource = Postgres::builder("orders", url).build().unwrap();
    // By the branch's own token, and by dropping the branch.
    let branch = resource.open(db.env(1)).await.unwrap();
    let (pid, token) = (backend_pid(&branch).await, branch.cancel_token());
    let (slept, ()) = tokio::join!(branch.batch_execute("SELECT pg_sleep(600)"), async {
        during_sleep(db, pid).await;
        token.cancel().await.unwrap();
    });
    let code = slept.unwrap_err().code().cloned();
    assert_eq!(code, Some(tokio_postgres::error::SqlState::QUERY_CANCELED));
    drop(branch);
    let branch = resource.open(db.env(2)).await.unwrap();
    let pid = backend_pid(&branch).await;
    let sleeps = tokio::time::timeout(
        Duration::from_millis(200),
        branch.batch_execute("SELECT pg_sleep(600)"),
    );
    assert!(sleeps.await.is_err());
    drop(branch);
    db.wait_gone(pid).await;
    // Two connections, the token's request, and one for each branch that was dropped.
    eventually("all have spoken", async || heard.lock().unwrap().len() == 5).await;
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard, [REQUEST_TLS; 5]);
}

/// Without a file, the system's authorities count. Which those are is said by the environment, so
/// the test runs itself again in another one.
async fn the_systems_authorities_count_where_none_is_given(kind: Kind) {
    const CHILD: &str = "UNANIMOUS_TEST_TLS_URL";
    if let Ok(url) = std::env::var(CHILD) {
        for parameters in ["sslmode=verify-full", "sslrootcert=system"] {
            let url = format!("{url}?{parameters}");
            let resource = Postgres::builder("orders", url).build().unwrap();
            resource.recover().await.unwrap();
        }
        return;
    }
    let secure = Secure::start(kind).await;
    secure.certify(&["127.0.0.1"]).await;
    let error = secure.resource("sslrootcert=system").recover().await;
    assert_eq!(error.unwrap_err().problem(), Problem::Unfit);
    let own_name = std::thread::current().name().unwrap().to_owned();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", &own_name])
        .env(CHILD, &secure.db.url)
        .env_remove("SSL_CERT_DIR")
        .env("SSL_CERT_FILE", &secure.trusted.certificate);
    let output = tokio::task::spawn_blocking(move || child.output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

mod own {
    use super::*;
    on_own!(
        every_mode_means_what_it_means_to_libpq,
        a_way_in_that_is_not_let_in_is_told_or_avoided,
        the_whole_protocol_runs_over_tls,
        a_direct_negotiation_is_for_new_servers,
        i3_a_tls_connection_lost_at_prepare_is_undetermined,
        i8_a_statement_is_cancelled_over_tls,
        the_systems_authorities_count_where_none_is_given,
    );
}
