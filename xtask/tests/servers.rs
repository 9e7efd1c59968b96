//! What a started server promises, seen by clients. Every test starts servers of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{fs, future::Future, time::Duration};

use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use xtask::servers::{Error, Kind, Options, PgBouncer, Server, standby_of};

const POSTGRES: [Kind; 2] = [Kind::Postgres15, Kind::PostgresNewest];
const MYSQL: [Kind; 2] = [Kind::Mysql, Kind::Mariadb];

fn start(kind: Kind) -> Server {
    Server::start(kind, &Options::new()).unwrap_or_else(|error| panic!("{error}"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

async fn postgres(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The first column of the only row.
async fn ask_postgres(client: &Client, query: &str) -> String {
    let messages = client.simple_query(query).await.unwrap();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            return row.get(0).unwrap().to_owned();
        }
    }
    panic!("no row from {query}");
}

async fn mysql(url: &str) -> Result<Conn, mysql_async::Error> {
    // The way over the network, not the socket that the server offers.
    Conn::new(OptsBuilder::from_opts(Opts::from_url(url).unwrap()).prefer_socket(false)).await
}

#[test]
fn postgres_keeps_committed_and_prepared_work_over_a_kill() {
    for kind in POSTGRES {
        let mut server = start(kind);
        let (url, old_pid) = (server.url(), server.pid());
        block_on(async {
            let client = postgres(&url).await.unwrap();
            client
                .batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
                .await
                .unwrap();
            let prepare = "BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'left'";
            client.batch_execute(prepare).await.unwrap();
        });
        server.kill();
        assert!(!server.is_running());
        assert!(
            block_on(postgres(&url)).is_err(),
            "{kind} answers after a kill"
        );
        server.restart().unwrap();
        assert_eq!(server.url(), url);
        assert_ne!(server.pid(), old_pid);
        block_on(async {
            let client = postgres(&url).await.unwrap();
            assert_eq!(
                ask_postgres(&client, "SELECT gid FROM pg_prepared_xacts").await,
                "left"
            );
            client
                .batch_execute("COMMIT PREPARED 'left'")
                .await
                .unwrap();
            assert_eq!(ask_postgres(&client, "SELECT sum(n) FROM t").await, "3");
        });
        let pid_file = fs::read_to_string(server.data().join("postmaster.pid")).unwrap();
        let segment = pid_file.lines().nth(6).unwrap().split_whitespace().nth(1);
        let segment = segment.unwrap();
        assert!(is_shared_memory(segment), "{pid_file}");
        drop(server);
        assert!(!is_shared_memory(segment), "{kind} leaves {segment} behind");
    }
}

/// Whether the kernel has this segment.
fn is_shared_memory(segment: &str) -> bool {
    let all = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let mut numbers = all
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    numbers.any(|number| number == segment)
}

#[test]
fn mysql_and_mariadb_keep_committed_and_prepared_work_over_a_kill() {
    for kind in MYSQL {
        let mut server = start(kind);
        let url = server.url();
        block_on(async {
            let mut conn = mysql(&url).await.unwrap();
            for statement in [
                "CREATE TABLE t (n int)",
                "INSERT INTO t VALUES (1)",
                "XA START 'left'",
                "INSERT INTO t VALUES (2)",
                "XA END 'left'",
                "XA PREPARE 'left'",
            ] {
                conn.query_drop(statement).await.unwrap();
            }
        });
        server.kill();
        assert!(
            block_on(mysql(&url)).is_err(),
            "{kind} answers after a kill"
        );
        server.restart().unwrap();
        block_on(async {
            let mut conn = mysql(&url).await.unwrap();
            let left: Vec<(i64, i64, i64, String)> = conn.query("XA RECOVER").await.unwrap();
            assert_eq!(left.len(), 1, "{kind}");
            conn.query_drop("XA COMMIT 'left'").await.unwrap();
            let sum: Option<i64> = conn.query_first("SELECT SUM(n) FROM t").await.unwrap();
            assert_eq!(sum, Some(3), "{kind}");
            conn.disconnect().await.unwrap();
        });
        server.stop();
    }
}

#[test]
fn the_application_user_needs_its_password_and_the_administrator_may_everything() {
    for kind in POSTGRES {
        let server = start(kind);
        block_on(async {
            let client = postgres(&server.url()).await.unwrap();
            let is_super = ask_postgres(&client, "SHOW is_superuser").await;
            assert_eq!(is_super, "off", "{kind}");
            let admin = postgres(&server.admin_url()).await.unwrap();
            assert_eq!(
                ask_postgres(&admin, "SHOW is_superuser").await,
                "on",
                "{kind}"
            );
            let wrong = server.url().replace("app-secret", "guess");
            assert!(postgres(&wrong).await.is_err(), "{kind} lets a guess in");
        });
    }
    for kind in MYSQL {
        let server = start(kind);
        block_on(async {
            let mut conn = mysql(&server.url()).await.unwrap();
            assert!(
                conn.query_drop("CREATE DATABASE other").await.is_err(),
                "{kind}"
            );
            let mut admin = mysql(&server.admin_url()).await.unwrap();
            admin.query_drop("CREATE DATABASE other").await.unwrap();
            for wrong in ["guess", ""] {
                let url = server.url().replace("app-secret", wrong);
                assert!(mysql(&url).await.is_err(), "{kind} lets `{wrong}` in");
                let url = server.admin_url().replace("admin-secret", wrong);
                assert!(
                    mysql(&url).await.is_err(),
                    "{kind} lets root with `{wrong}` in"
                );
            }
        });
    }
}

#[test]
fn the_usual_settings_are_the_durable_ones() {
    for kind in POSTGRES {
        let server = start(kind);
        block_on(async {
            let client = postgres(&server.url()).await.unwrap();
            for (setting, value) in [
                ("fsync", "on"),
                ("synchronous_commit", "on"),
                ("full_page_writes", "on"),
                ("max_prepared_transactions", "200"),
                ("wal_level", "replica"),
            ] {
                let found = ask_postgres(&client, &format!("SHOW {setting}")).await;
                assert_eq!(found, value, "{kind} {setting}");
            }
        });
    }
    for kind in MYSQL {
        let server = start(kind);
        block_on(async {
            let mut conn = mysql(&server.url()).await.unwrap();
            let query = "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@innodb_doublewrite";
            let found: Option<(i64, i64, String)> = conn.query_first(query).await.unwrap();
            let (flush, binlog, doublewrite) = found.unwrap();
            assert_eq!((flush, binlog), (1, 0), "{kind}");
            assert!(
                matches!(doublewrite.as_str(), "ON" | "1"),
                "{kind} {doublewrite}"
            );
        });
    }
}

#[test]
fn two_servers_of_a_kind_have_different_identities() {
    let (first, second) = (start(Kind::Postgres15), start(Kind::Postgres15));
    let query = "SELECT system_identifier FROM pg_control_system()";
    let identity =
        |url: String| block_on(async { ask_postgres(&postgres(&url).await.unwrap(), query).await });
    assert_ne!(identity(first.url()), identity(second.url()));
    for (kind, query) in [
        (Kind::Mysql, "SELECT @@server_uuid"),
        (Kind::Mariadb, "SELECT @@server_uid"),
    ] {
        let identity = |url: String| {
            block_on(async {
                let mut conn = mysql(&url).await.unwrap();
                conn.query_first::<String, _>(query).await.unwrap().unwrap()
            })
        };
        assert_ne!(
            identity(start(kind).url()),
            identity(start(kind).url()),
            "{kind}"
        );
    }
}

#[test]
fn options_replace_the_usual_settings_and_can_be_changed_by_a_restart() {
    let off = Options::new().args(["-c", "max_prepared_transactions=0"]);
    let mut server = Server::start(Kind::PostgresNewest, &off).unwrap();
    let slots = |url: String| {
        block_on(async {
            let client = postgres(&url).await.unwrap();
            ask_postgres(&client, "SHOW max_prepared_transactions").await
        })
    };
    assert_eq!(slots(server.url()), "0");
    server
        .restart_with(&Options::new().args(["-c", "max_prepared_transactions=7"]))
        .unwrap();
    assert_eq!(slots(server.url()), "7");

    let binlog = Options::new().args(["--log-bin=binlog", "--server-id=1", "--sync-binlog=1"]);
    for kind in MYSQL {
        let server = Server::start(kind, &binlog).unwrap();
        block_on(async {
            let mut conn = mysql(&server.url()).await.unwrap();
            let on: Option<i64> = conn.query_first("SELECT @@log_bin").await.unwrap();
            assert_eq!(on, Some(1), "{kind}");
        });
    }
}

#[test]
fn a_server_that_does_not_start_says_why_and_can_be_mended() {
    let bad = Options::new().args(["-c", "shared_buffers=much"]);
    let refusal = Server::start(Kind::Postgres15, &bad).unwrap_err();
    assert!(matches!(refusal, Error::NotReady { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains("shared_buffers"), "{refusal}");

    let mut server = start(Kind::Mariadb);
    let refusal = server
        .restart_with(&Options::new().args(["--no-such-option"]))
        .unwrap_err();
    assert!(refusal.to_string().contains("no-such-option"), "{refusal}");
    server.restart_with(&Options::new()).unwrap();
    assert!(server.is_running());
}

#[test]
fn a_paused_server_is_silent_until_it_is_resumed() {
    let limit = Duration::from_millis(300);
    let server = start(Kind::PostgresNewest);
    block_on(async {
        let client = postgres(&server.url()).await.unwrap();
        server.pause();
        let silent = tokio::time::timeout(limit, ask_postgres(&client, "SELECT 1")).await;
        assert!(silent.is_err());
        server.resume();
        assert_eq!(ask_postgres(&client, "SELECT 2").await, "2");
    });
    let mut server = start(Kind::Mysql);
    block_on(async {
        let mut conn = mysql(&server.url()).await.unwrap();
        server.pause();
        let query = conn.query_first::<i64, _>("SELECT 1");
        assert!(tokio::time::timeout(limit, query).await.is_err());
        server.resume();
        let mut conn = mysql(&server.url()).await.unwrap();
        assert_eq!(
            conn.query_first::<i64, _>("SELECT 2").await.unwrap(),
            Some(2)
        );
    });
    // Nothing hangs if a paused server is stopped, killed or dropped.
    server.pause();
    server.shut_down();
    server.restart().unwrap();
    server.pause();
    drop(server);
}

#[test]
fn a_standby_follows_and_does_not_show_what_is_prepared() {
    for kind in POSTGRES {
        let primary = start(kind);
        let standby = standby_of(&primary).unwrap();
        assert_ne!(primary.port(), standby.port());
        block_on(async {
            let client = postgres(&primary.url()).await.unwrap();
            let work = "CREATE TABLE t (n int); INSERT INTO t VALUES (5)";
            client.batch_execute(work).await.unwrap();
            client
                .batch_execute("BEGIN; DELETE FROM t; PREPARE TRANSACTION 'p'")
                .await
                .unwrap();
            let reader = postgres(&standby.url()).await.unwrap();
            assert_eq!(
                ask_postgres(&reader, "SELECT pg_is_in_recovery()").await,
                "t"
            );
            let target = ask_postgres(&client, "SELECT pg_current_wal_lsn()").await;
            let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn");
            while ask_postgres(&reader, &caught_up).await != "t" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(ask_postgres(&reader, "SELECT n FROM t").await, "5");
            let prepared = "SELECT count(*) FROM pg_prepared_xacts";
            assert_eq!(ask_postgres(&reader, prepared).await, "0");
            assert_eq!(ask_postgres(&client, prepared).await, "1");
        });
    }
    let refusal = standby_of(&start(Kind::Mariadb)).unwrap_err();
    assert!(refusal.to_string().contains("PostgreSQL"), "{refusal}");
}

#[test]
fn a_pooler_in_transaction_mode_shares_one_connection() {
    let server = start(Kind::Postgres15);
    let one = Options::new().args(["default_pool_size = 1"]);
    let pooler = PgBouncer::start(&server, &one).unwrap();
    block_on(async {
        let first = postgres(&pooler.url()).await.unwrap();
        let second = postgres(&pooler.url()).await.unwrap();
        let pid = "SELECT pg_backend_pid()";
        let first = ask_postgres(&first, pid).await;
        assert_eq!(first, ask_postgres(&second, pid).await);
    });
}
