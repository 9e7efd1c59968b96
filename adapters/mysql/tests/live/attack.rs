//! What tries to make the adapter lie: proxies in between, networks that fall silent, and futures
//! that are dropped at every point.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use unanimous_core::ports::{
    Absence, Branch, BranchErrorKind, Resource, ResourceManager, Severity,
};
use unanimous_mysql::Mysql;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_mysql::mysql_async::{Opts, OptsBuilder};
use unanimous_testing::drop_after;

use crate::preflight::the;
use crate::support::{Db, connection_id, eventually, expect_prepared, expect_rolled_back, record};

/// How the server's bytes are passed on.
#[derive(Clone, Copy)]
enum Way {
    /// Three bytes at a time.
    Trickling,
    /// The number of the connection in the server's greeting is another one.
    Renumbering,
    /// Connections that were made before [`Proxy::freeze`] pass nothing on after it.
    Freezing,
}

/// Between the driver and the server.
struct Proxy {
    url: String,
    freezes: Arc<AtomicUsize>,
}

impl Proxy {
    async fn new(url: &str, way: Way) -> Self {
        let (before, rest) = url.split_once('@').unwrap();
        let (server, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{before}@{}/{database}", listener.local_addr().unwrap());
        let freezes = Arc::new(AtomicUsize::new(0));
        let (server, frozen) = (server.to_owned(), Arc::clone(&freezes));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                client.set_nodelay(true).unwrap();
                tokio::spawn(pass(client, server, way, Arc::clone(&frozen)));
            }
        });
        Self { url, freezes }
    }

    fn freeze(&self) {
        self.freezes.fetch_add(1, Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: TcpStream, way: Way, freezes: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let born = freezes.load(Ordering::SeqCst);
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut bytes = [0; 4096];
    let mut is_greeting = true;
    while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
        if freezes.load(Ordering::SeqCst) != born {
            std::future::pending::<()>().await;
        }
        let bytes = &mut bytes[..count];
        if matches!(way, Way::Renumbering) && is_greeting {
            // Header, protocol version, the server's version up to a zero, the number.
            let end = bytes[5..].iter().position(|byte| *byte == 0).unwrap();
            bytes[5 + end + 1] ^= 0xff;
        }
        is_greeting = false;
        let piece = if matches!(way, Way::Trickling) {
            3
        } else {
            count
        };
        for piece in bytes.chunks(piece) {
            if to_client.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A number that only a proxy knows would be looked for, and killed, at the server.
async fn i5_a_proxy_that_numbers_connections_itself_is_refused(db: &Db) {
    let proxy = Proxy::new(&db.url, Way::Renumbering).await;
    let resource = Mysql::builder("ledger", &proxy.url).build().unwrap();
    let found = resource.preflight().await.unwrap();
    assert_eq!(the(&found, "proxy").severity, Severity::Error);
    assert_eq!(found.identity, None);
    let error = resource.open(db.env(1)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
    assert!(
        error.to_string().contains("connect to the server itself"),
        "{error}"
    );
}

/// The second of the server's start tells a connection from the bearer of its number after a
/// restart. Were it now and then one off, a living connection would be taken for gone.
async fn i3_every_session_reads_the_same_start_of_the_server(db: &Db) {
    let mut first = None;
    for sequence in 0..150 {
        let resource = db.build(|builder| builder);
        let branch = resource.open(db.env(sequence)).await.unwrap();
        // Connection and start, as the evidence of the branch will tell them.
        let shown = format!("{branch:?}");
        let (_, started) = shown.split_once("started: ").unwrap();
        let started: u64 = started.split_once(',').unwrap().0.parse().unwrap();
        assert_eq!(*first.get_or_insert(started), started, "{shown}");
        tokio::time::sleep(Duration::from_millis(sequence % 17)).await;
    }
}

/// Abandoned branches look after their connections with sessions of recovery; when the network
/// falls silent they must not keep them.
async fn i6_abandoned_branches_do_not_use_recovery_up_when_the_network_falls_silent(db: &Db) {
    let proxy = Proxy::new(&db.url, Way::Freezing).await;
    let second = Duration::from_secs(1);
    let resource = Mysql::builder("ledger", &proxy.url)
        .connect_timeout(second)
        .pool_timeout(second)
        .build()
        .unwrap();
    let warm = (0..4).map(|_| resource.recover());
    futures_util::future::try_join_all(warm).await.unwrap();
    let mut branches = Vec::new();
    for sequence in 1..=4 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        let given_up = tokio::time::timeout(
            Duration::from_millis(50),
            branch.query_drop("DO SLEEP(100)"),
        );
        assert!(given_up.await.is_err(), "it was still running");
        branches.push(branch);
    }
    proxy.freeze();
    drop(branches);
    let mut attempts = 0..30;
    while let Err(error) = resource.recover().await {
        assert!(
            attempts.next().is_some(),
            "no session for recovery: {error}"
        );
    }
}

/// The driver runs `init` once per connection; a session that was wiped has to have it again.
async fn i8_the_drivers_init_statements_hold_for_every_branch(db: &Db) {
    let opts = OptsBuilder::from_opts(Opts::from_url(&db.url).unwrap())
        .init(vec!["SET @second = @first + 1", "SET @first = 1"]);
    let resource = Mysql::builder_with_opts("ledger", opts)
        .pool_size(1)
        .build()
        .unwrap();
    for sequence in 1..=2 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        let set: Option<u8> = branch.query_first("SELECT @second").await.unwrap().unwrap();
        assert_eq!(set, Some(2), "branch {sequence}");
        branch.rollback().await.unwrap();
        Box::new(branch).release().await;
    }
}

/// A server does not notice a closed socket while a statement waits for a row lock; all that the
/// branch has locked would stay locked until that wait times out.
async fn i7_a_branch_that_is_dropped_while_it_waits_for_a_lock_is_ended(db: &Db) {
    let mut holder = db.active(1).await;
    let mut env = db.env(2);
    env.lock_timeout = Duration::from_secs(1000);
    let mut waiter = db.resource.open(env).await.unwrap();
    let connection = connection_id(&mut waiter).await;
    db.insert(&mut waiter, 2).await.unwrap();
    let wait = tokio::time::timeout(Duration::from_millis(300), db.insert(&mut waiter, 1));
    assert!(wait.await.is_err(), "it waits for the holder");
    drop(waiter);
    eventually("the connection is ended", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
    let mut next = db.active(2).await;
    next.rollback().await.unwrap();
    holder.rollback().await.unwrap();
}

/// The server itself ends what waits or idles too long, by the limits of each branch.
async fn the_limits_of_a_branch_are_set_in_its_session(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1));
    for (sequence, lock, idle) in [(1, 3, 70), (2, 4, 80)] {
        let mut env = db.env(sequence);
        env.lock_timeout = Duration::from_secs(lock);
        env.idle_timeout = Duration::from_secs(idle);
        let mut branch = resource.open(env).await.unwrap();
        let limits = "SELECT @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@wait_timeout";
        let set: Option<(u64, u64, u64)> = branch.query_first(limits).await.unwrap();
        assert_eq!(set, Some((lock, lock, idle)));
        branch.rollback().await.unwrap();
        Box::new(branch).release().await;
    }
}

/// Wherever the future of a statement is dropped: the branch never takes one answer for another,
/// and is committed only with all of the statement or, once it was dropped, not at all.
async fn i7_a_statement_dropped_at_any_point_is_all_or_rollback(db: &Db) {
    let proxy = Proxy::new(&db.url, Way::Trickling).await;
    let resource = Mysql::builder("ledger", &proxy.url).build().unwrap();
    let table = &db.table;
    let mut is_done = false;
    for times in 0.. {
        if is_done {
            break;
        }
        let id = times as u64 + 1;
        let mut branch = resource.open(db.env(id)).await.unwrap();
        let sql = format!("INSERT INTO {table} VALUES ({id}, 'v'); SELECT 'wrong'; SELECT 'too'");
        let answer = drop_after(times, branch.query_drop(sql)).await;
        is_done = answer.is_some();
        answer.map_or(Ok(()), |answer| answer).unwrap();
        match branch.query_first::<String, _>("SELECT 'right'").await {
            Ok(answer) => assert_eq!(answer.as_deref(), Some("right"), "{times} polls"),
            Err(error) => assert!(!is_done, "{times} polls: {error}"),
        }
        if is_done || times == 0 {
            expect_prepared(branch.prepare().await);
            branch.commit().await.unwrap();
        } else {
            expect_rolled_back(branch.prepare().await);
        }
        assert_eq!(db.has(id).await, is_done, "{times} polls");
    }
}

/// The same where the application reads the results itself and gives up in their midst.
async fn i7_results_given_up_at_any_point_do_not_mix(db: &Db) {
    let proxy = Proxy::new(&db.url, Way::Trickling).await;
    let resource = Mysql::builder("ledger", &proxy.url).build().unwrap();
    let table = &db.table;
    let mut is_done = false;
    for times in 0.. {
        if is_done {
            break;
        }
        let id = times as u64 + 1;
        let mut branch = resource.open(db.env(id)).await.unwrap();
        let sql = format!(
            "SELECT 'wrong' UNION ALL SELECT 'also'; INSERT INTO {table} VALUES ({id}, 'v'); \
             SELECT 'too'"
        );
        let mut result = branch.query_iter(sql).await.unwrap();
        let read = async {
            while !result.is_empty() {
                result.collect::<String>().await.unwrap();
            }
        };
        is_done = drop_after(times, read).await.is_some();
        drop(result);
        let answer = branch.query_first::<String, _>("SELECT 'right'").await;
        let is_usable = answer.is_ok();
        match answer {
            Ok(answer) => assert_eq!(answer.as_deref(), Some("right"), "{times} polls"),
            Err(error) => assert!(!is_done, "{times} polls: {error}"),
        }
        if is_usable {
            expect_prepared(branch.prepare().await);
            branch.commit().await.unwrap();
        } else {
            expect_rolled_back(branch.prepare().await);
        }
        assert_eq!(db.has(id).await, is_usable, "{times} polls");
    }
}

/// Whatever of the protocol is dropped half-way: the session is not lent again, and what came of
/// it is prepared or gone.
async fn i7_a_prepare_dropped_at_any_point_leaves_no_session(db: &Db) {
    let proxy = Proxy::new(&db.url, Way::Trickling).await;
    let resource = Mysql::builder("ledger", &proxy.url)
        .pool_size(1)
        .build()
        .unwrap();
    let mut is_done = false;
    for times in 0.. {
        if is_done {
            break;
        }
        let id = times as u64 + 1;
        let mut branch = resource.open(db.env(id)).await.unwrap();
        let connection = connection_id(&mut branch).await;
        db.insert(&mut branch, id).await.unwrap();
        let reply = drop_after(times, branch.prepare()).await;
        is_done = reply.is_some();
        Box::new(branch).release().await;
        let mut next = resource.open(db.env(1000 + id)).await.unwrap();
        assert_ne!(connection_id(&mut next).await, connection, "{times} polls");
        assert!(!db.has(id).await);
    }
}

/// The application ends and begins the branch by hand: nothing of it is answered with success.
async fn xa_by_hand_is_a_rollback_vote(db: &Db) {
    let xid = |id| db.literal(id);
    for (id, by_hand) in [
        (1, "XA END {}"),
        (2, "XA END {}; XA PREPARE {}"),
        (3, "XA END {}; XA ROLLBACK {}"),
        (4, "XA END {}; XA ROLLBACK {}; START TRANSACTION"),
        (5, "XA END {}; XA ROLLBACK {}; SET autocommit = 0"),
    ] {
        let mut branch = db.active(id).await;
        let sql = by_hand.replace("{}", &xid(id));
        branch.query_drop(sql).await.unwrap();
        expect_rolled_back(branch.prepare().await);
        assert!(!db.is_listed(id).await && !db.has(id).await, "{by_hand}");
    }
}

/// Names and passwords that have to be encoded in an address, and quoted everywhere else.
async fn odd_names_and_passwords_work(db: &Db) {
    let database = format!("odd `'\"\\ ü%{}", &db.table[10..]);
    let user = format!("o'd@d {}", &db.table[10..]);
    let password = "p@s:s/w?o#r%d '\"\\ü";
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "''");
    let mut admin = db.admin().await;
    let account = format!("'{}'@'%'", quoted(&user));
    let name = database.replace('`', "``");
    admin
        .query_drop(format!(
            "CREATE DATABASE `{name}`; CREATE USER {account} IDENTIFIED BY '{}'; \
             GRANT ALL ON *.* TO {account}",
            quoted(password)
        ))
        .await
        .unwrap();
    let address = Opts::from_url(&db.url).unwrap();
    let encoded = |text: &str| {
        let bytes = text.bytes();
        bytes.map(|byte| format!("%{byte:02X}")).collect::<String>()
    };
    let url = format!(
        "mysql://{}:{}@127.0.0.1:{}/{}",
        encoded(&user),
        encoded(password),
        address.tcp_port(),
        encoded(&database)
    );
    let resource = Mysql::builder("ledger", url).pool_size(1).build().unwrap();
    resource.preflight().await.unwrap();
    for id in 1..=2 {
        let mut branch = resource.open(db.env(id)).await.unwrap();
        let at: String = branch
            .query_first("SELECT DATABASE()")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(at, database);
        branch.query_drop("USE app").await.unwrap();
        db.insert(&mut branch, id).await.unwrap();
        let evidence = expect_prepared(branch.prepare().await);
        let record = record(&branch, evidence);
        branch.commit().await.unwrap();
        if id == 1 {
            Box::new(branch).release().await;
        } else {
            let absence = resource.absent(&db.xid(id), &record).await.unwrap();
            assert_eq!(absence, Absence::Presumed);
        }
    }
    admin
        .query_drop(format!("DROP DATABASE `{name}`; DROP USER {account}"))
        .await
        .unwrap();
}

on_both!(
    i5_a_proxy_that_numbers_connections_itself_is_refused,
    i3_every_session_reads_the_same_start_of_the_server,
    i6_abandoned_branches_do_not_use_recovery_up_when_the_network_falls_silent,
    i8_the_drivers_init_statements_hold_for_every_branch,
    i7_a_branch_that_is_dropped_while_it_waits_for_a_lock_is_ended,
    the_limits_of_a_branch_are_set_in_its_session,
    i7_a_statement_dropped_at_any_point_is_all_or_rollback,
    i7_results_given_up_at_any_point_do_not_mix,
    i7_a_prepare_dropped_at_any_point_leaves_no_session,
    xa_by_hand_is_a_rollback_vote,
    odd_names_and_passwords_work,
);
