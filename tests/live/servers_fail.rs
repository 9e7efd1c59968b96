//! A database server is killed while a commit is under way.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use unanimous::mysql::Mysql;
use unanimous::ports::ResourceManager;
use unanimous::{Point, Probe};
use xtask::servers::{Kind, Options, Server};

use crate::support::{Account, Bank, Db, Transfer, eventually, table};
use crate::with_banks;

/// Kills a server when a point is reached.
struct KillServerAt {
    point: Point,
    server: Arc<Mutex<Server>>,
}

#[async_trait]
impl Probe for KillServerAt {
    async fn reached(&self, point: Point) {
        if point == self.point {
            self.server.lock().unwrap().kill();
        }
    }
}

async fn crash_server_at(kind: Kind, point: Point, is_committed: bool) {
    let started = tokio::task::spawn_blocking(move || Server::start(kind, &Options::new()));
    let server = started.await.unwrap().unwrap();
    let name = table("server_killed");
    let (url, is_postgres) = (
        server.url(),
        matches!(kind, Kind::Postgres15 | Kind::PostgresNewest),
    );
    let from = Account {
        url,
        table: name.clone(),
        is_postgres,
    };
    from.sql(&format!(
        "CREATE TABLE {name} (id INT PRIMARY KEY, balance BIGINT)"
    ))
    .await;
    from.sql(&format!("INSERT INTO {name} VALUES (1, 100)"))
        .await;
    let other = if is_postgres {
        Db::Mysql
    } else {
        Db::Postgres15
    };
    let to = Account::create(other, &name).await;
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Mutex::new(server));
    let probe = KillServerAt {
        point,
        server: Arc::clone(&server),
    };
    let log = folder.path().join("log");
    with_banks!(
        (from, to),
        check(&from, &to, &log, probe, server, is_committed)
    );
    to.drop_table().await;
}

async fn check<A: Bank, B: Bank>(
    from: &Account,
    to: &Account,
    log: &Path,
    probe: KillServerAt,
    server: Arc<Mutex<Server>>,
    is_committed: bool,
) {
    let transfer = Transfer::<A, B>::new(from, to);
    let tm = transfer
        .builder(log)
        .probe(Arc::new(probe))
        .start()
        .await
        .unwrap();
    let tx = transfer.begin(&tm).await.unwrap();
    let gtrid = tx.gtrid();
    let ended = tx.commit().await;
    assert_eq!(ended.is_ok(), is_committed, "{ended:?}");
    eventually("I6: the living server's branch is not delayed", || async {
        to.prepared(gtrid).await == 0
    })
    .await;
    let restart = move || server.lock().unwrap().restart();
    tokio::task::spawn_blocking(restart).await.unwrap().unwrap();
    eventually("I6: the branch is resolved by itself", || async {
        from.prepared(gtrid).await == 0
    })
    .await;
    let expected = if is_committed { (70, 130) } else { (100, 100) };
    assert_eq!((from.balance().await, to.balance().await), expected);
    if let Ok(committed) = ended {
        committed.completed().await.unwrap();
    }
    tm.shutdown().await.unwrap();
}

const KINDS: [Kind; 4] = [
    Kind::Postgres15,
    Kind::PostgresNewest,
    Kind::Mysql,
    Kind::Mariadb,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_a_server_killed_before_its_prepare_rolls_back() {
    for kind in KINDS {
        crash_server_at(kind, Point::BeforePrepare("orders".parse().unwrap()), false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_server_killed_after_the_decision_commits_when_it_is_back() {
    for kind in KINDS {
        crash_server_at(kind, Point::DecisionDurable, true).await;
    }
}

/// A fail-over is under way when the application starts: the address leads to a server that takes
/// no writes yet.
async fn start_beside_a_standby<A: Bank, B: Bank>(from: &Account, to: &Account, promote: &Account) {
    let transfer = Transfer::<A, B>::new(from, to);
    let folder = tempfile::tempdir().unwrap();
    let builder = transfer.builder(&folder.path().join("log"));
    let tm = builder.start().await.unwrap();
    let mut tx = tm.begin();
    let other = tx.enlist(&transfer.to).await.unwrap();
    B::add(other, &transfer.to_table, 1).await.unwrap();
    tx.commit().await.unwrap();
    let sql = if promote.is_postgres {
        "SELECT pg_promote()"
    } else {
        "SET GLOBAL read_only = 0"
    };
    promote.sql(sql).await;
    transfer.begin(&tm).await.unwrap().commit().await.unwrap();
    assert_eq!((from.balance().await, to.balance().await), (70, 131));
    tm.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_standby_at_the_start_delays_nothing_and_is_used_once_it_is_the_primary() {
    for kind in [Kind::PostgresNewest, Kind::Mysql, Kind::Mariadb] {
        let start = move || Server::start(kind, &Options::new()).unwrap();
        let primary = tokio::task::spawn_blocking(start).await.unwrap();
        let is_postgres = kind == Kind::PostgresNewest;
        let name = table("standby");
        let on = |url| Account {
            url,
            table: name.clone(),
            is_postgres,
        };
        let (create, insert) = (
            format!("CREATE TABLE {name} (id INT PRIMARY KEY, balance BIGINT)"),
            format!("INSERT INTO {name} VALUES (1, 100)"),
        );
        on(primary.url()).sql(&create).await;
        on(primary.url()).sql(&insert).await;
        let (server, _primary) = if is_postgres {
            let make = move || (xtask::servers::standby_of(&primary).unwrap(), Some(primary));
            tokio::task::spawn_blocking(make).await.unwrap()
        } else {
            // A replica has got the identity row of its primary.
            let resource = Mysql::connect("orders", &primary.url());
            assert!(resource.preflight().await.unwrap().is_fit());
            let admin = on(primary.admin_url());
            admin.sql("SET GLOBAL read_only = 1").await;
            (primary, None)
        };
        let (from, promote) = (on(server.url()), on(server.admin_url()));
        let to = Account::create(Db::Postgres15, &name).await;
        with_banks!((from, to), start_beside_a_standby(&from, &to, &promote));
        to.drop_table().await;
    }
}
