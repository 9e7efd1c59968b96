//! A database server is killed while a commit is under way.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
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
