//! Connections that are killed, run into time limits, or went stale in the pool.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use unanimous_core::ports::{
    Branch, BranchErrorKind, PrepareReply, Problem, Resource, ResourceManager,
};
use unanimous_core::protocol::Decision;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_mysql::mysql_async::{Opts, OptsBuilder};
use unanimous_mysql::{Mysql, TlsMode};
use xtask::servers::Kind;

use crate::support::{Db, connection_id, eventually, start};
use crate::trips::{proxy, until_quiet};

async fn kill(db: &Db, connection: u64) {
    db.admin()
        .await
        .query_drop(format!("KILL {connection}"))
        .await
        .unwrap();
    eventually("it is gone", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
}

/// A pooled connection that the server has closed meanwhile is noticed and replaced.
async fn a_stale_session_of_the_pool_is_replaced(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(3));
    let mut branches = Vec::new();
    for sequence in 1..=3 {
        branches.push(resource.open(db.env(sequence)).await.unwrap());
    }
    let mut connections = Vec::new();
    for branch in &mut branches {
        connections.push(connection_id(branch).await);
        branch.rollback().await.unwrap();
    }
    for branch in branches {
        Box::new(branch).release().await;
    }
    for connection in &connections {
        // It has been wiped by now, or is about to be; either way it comes to be closed.
        kill(db, *connection).await;
    }
    let mut branch = resource.open(db.env(4)).await.unwrap();
    assert!(!connections.contains(&connection_id(&mut branch).await));
    db.insert(&mut branch, 4).await.unwrap();
    branch.rollback().await.unwrap();
}

/// MySQL says goodbye with an error that nobody has asked for (4031), MariaDB just closes.
async fn a_session_that_idled_too_long_in_the_pool_is_replaced(db: &Db) {
    let resource = db.build(|builder| {
        builder
            .pool_size(1)
            .session_setup("SET SESSION wait_timeout = 1")
    });
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let first = connection_id(&mut branch).await;
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
    eventually("the server ends it", async || {
        !db.connections().await.contains(&first)
    })
    .await;
    let mut next = resource.open(db.env(2)).await.unwrap();
    db.insert(&mut next, 2).await.unwrap();
    next.rollback().await.unwrap();
}

/// An operator finds our sessions by their attributes; on MySQL only those that are not encrypted,
/// because of the driver (it tells the server of the attributes too late).
async fn sessions_carry_the_names_of_program_and_resource(db: &Db) {
    if db.is_mariadb() {
        // Its performance_schema is off unless it is asked for.
        return;
    }
    let resource = db.build(|builder| builder.tls(TlsMode::Disabled));
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let id = connection_id(&mut branch).await;
    let sql = format!(
        "SELECT attr_name, attr_value FROM performance_schema.session_connect_attrs \
         WHERE processlist_id = {id} ORDER BY attr_name"
    );
    let attributes: Vec<(String, String)> = db.admin().await.query(sql).await.unwrap();
    let has = |name: &str, value: &str| attributes.contains(&(name.to_owned(), value.to_owned()));
    assert!(
        has("program_name", "unanimous") && has("unanimous_resource", "ledger"),
        "{attributes:?}"
    );
    branch.rollback().await.unwrap();
}

/// Whatever is dropped after its runtime is gone, closes without a panic.
async fn a_branch_that_outlives_its_runtime_is_closed(db: &Db) {
    let (resource, env) = (db.build(|builder| builder.pool_size(1)), db.env(1));
    let connection = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (branch, id) = runtime.block_on(async {
            let mut branch = resource.open(env).await.unwrap();
            let id = connection_id(&mut branch).await;
            (branch, id)
        });
        drop(runtime);
        drop(branch);
        id
    });
    let connection = connection.join().unwrap();
    eventually("it is closed", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
}

async fn a_connection_that_is_killed_before_prepare_gives_no_vote_to_commit(db: &Db) {
    let mut branch = db.active(1).await;
    kill(db, connection_id(&mut branch).await).await;
    match branch.prepare().await {
        PrepareReply::RolledBack(_) | PrepareReply::Undetermined(_) => {}
        other => panic!("{other:?}"),
    }
    assert!(!db.is_listed(1).await && !db.has(1).await);
}

/// `wait_timeout` ends an idle session: an active branch is rolled back without a word, a prepared
/// one survives.
async fn an_idle_branch_ends_by_its_limit_and_a_prepared_one_survives_it(db: &Db) {
    let mut env = db.env(1);
    env.idle_timeout = Duration::from_secs(1);
    let mut active = db.resource.open(env.clone()).await.unwrap();
    db.insert(&mut active, 1).await.unwrap();
    let connection = connection_id(&mut active).await;
    env.xid = db.xid(2);
    let mut prepared = db.resource.open(env).await.unwrap();
    db.insert(&mut prepared, 2).await.unwrap();
    assert!(matches!(
        prepared.prepare().await,
        PrepareReply::Prepared(_)
    ));
    eventually("the server ends it", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
    let error = db.insert(&mut active, 3).await.unwrap_err();
    assert!(error.is_fatal(), "{error}");
    active.rollback().await.unwrap();
    let error = prepared.commit().await;
    if let Err(error) = error {
        assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
        drop(prepared);
        assert!(db.is_listed(2).await);
        db.finish(&db.xid(2), Decision::Commit).await;
    }
    assert!(!db.has(1).await && db.has(2).await);
}

/// A branch that is dropped is no connection that could be lent again.
async fn i8_a_connection_is_lent_again_only_after_release(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1));
    let mut dropped = resource.open(db.env(1)).await.unwrap();
    let first = connection_id(&mut dropped).await;
    dropped.rollback().await.unwrap();
    drop(dropped);
    let mut next = resource.open(db.env(2)).await.unwrap();
    assert_ne!(connection_id(&mut next).await, first);
    eventually("the first is closed", async || {
        !db.connections().await.contains(&first)
    })
    .await;
    next.rollback().await.unwrap();
}

/// Opening is dropped after its request was sent: what comes of it is nobody's, so its session is
/// closed and not lent again.
async fn i7_an_open_that_is_dropped_half_way_closes_its_session(db: &Db) {
    let (url, commands) = proxy(&db.url).await;
    let resource = Mysql::builder("ledger", url).pool_size(1).build().unwrap();
    let mut warm = resource.open(db.env(1)).await.unwrap();
    let first = connection_id(&mut warm).await;
    warm.rollback().await.unwrap();
    Box::new(warm).release().await;
    until_quiet(&commands).await;
    let before = commands.load(Ordering::SeqCst);
    let dropped = resource.open(db.env(2)).now_or_never();
    assert!(dropped.is_none(), "no answer can have come yet");
    eventually("it was sent", async || {
        commands.load(Ordering::SeqCst) > before
    })
    .await;
    eventually("its session is closed", async || {
        !db.connections().await.contains(&first)
    })
    .await;
    let mut next = resource.open(db.env(4)).await.unwrap();
    db.insert(&mut next, 4).await.unwrap();
    next.rollback().await.unwrap();
}

/// A full pool is an error in time, and recovery does not wait for it.
async fn i6_a_full_pool_is_an_error_and_does_not_keep_recovery_waiting(db: &Db) {
    let resource = db.build(|builder| {
        builder
            .pool_size(1)
            .pool_timeout(Duration::from_millis(100))
    });
    let mut only = resource.open(db.env(1)).await.unwrap();
    let error = resource.open(db.env(2)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("pool_size"), "{error}");
    resource.recover().await.unwrap();
    only.rollback().await.unwrap();
}

/// The driver would go on to the socket that the server names, which may be another server's.
async fn the_server_at_the_address_is_the_one_that_is_used(db: &Db) {
    let opts = Opts::from_url(&db.url).unwrap();
    let port = opts.tcp_port();
    let opts = OptsBuilder::from_opts(opts).prefer_socket(true);
    let resource = Mysql::builder_with_opts("ledger", opts).build().unwrap();
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let sql = "SELECT @@port, (SELECT host FROM information_schema.processlist \
               WHERE id = CONNECTION_ID())";
    let (seen, host): (u16, String) = branch.query_first(sql).await.unwrap().unwrap();
    assert_eq!(seen, port);
    assert!(
        host.starts_with("127.0.0.1:"),
        "not through a socket, which shows as localhost: {host}"
    );
    branch.rollback().await.unwrap();
}

/// I8: a refused login says who and where, and not the password.
async fn i8_a_refused_login_tells_no_password(db: &Db) {
    let url = db.url.replace("app-secret", "s3cr3t-word");
    assert_ne!(url, db.url);
    let resource = Mysql::builder("ledger", &url).build().unwrap();
    let error = resource.preflight().await.unwrap_err();
    assert_eq!(error.problem(), Problem::Unfit, "{error}");
    assert!(error.to_string().contains("Access denied"), "{error}");
    let opened = resource.open(db.env(1)).await.unwrap_err();
    assert_eq!(opened.kind(), BranchErrorKind::Failed, "{opened}");
    let branch = db.open(1).await;
    for text in [
        format!("{error} {error:?} {opened} {opened:?} {resource:?}"),
        format!("{branch:?} {:?}", db.resource),
    ] {
        assert!(
            !text.contains("s3cr3t-word") && !text.contains("app-secret"),
            "{text}"
        );
    }
}

/// After a restart every pooled session is stale; opening a branch and scanning notice it.
async fn a_restarted_server_is_used_again_at_once(kind: Kind) {
    let mut server = start(kind, &[]);
    let db = Db::on(&server).await;
    let mut branches = Vec::new();
    for sequence in 1..=4 {
        branches.push(db.active(sequence).await);
    }
    for mut branch in branches {
        branch.rollback().await.unwrap();
        Box::new(branch).release().await;
    }
    let (branch, _) = db.prepared(5).await;
    drop(branch);
    tokio::task::block_in_place(|| server.restart()).unwrap();
    let mut branch = db.active(6).await;
    branch.rollback().await.unwrap();
    db.resource
        .finish(&db.xid(5), Decision::Commit, None)
        .await
        .unwrap();
    assert!(db.has(5).await && !db.has(6).await);
}

on_both!(
    a_stale_session_of_the_pool_is_replaced,
    a_session_that_idled_too_long_in_the_pool_is_replaced,
    sessions_carry_the_names_of_program_and_resource,
    a_branch_that_outlives_its_runtime_is_closed,
    a_connection_that_is_killed_before_prepare_gives_no_vote_to_commit,
    an_idle_branch_ends_by_its_limit_and_a_prepared_one_survives_it,
    i8_a_connection_is_lent_again_only_after_release,
    i7_an_open_that_is_dropped_half_way_closes_its_session,
    i6_a_full_pool_is_an_error_and_does_not_keep_recovery_waiting,
    the_server_at_the_address_is_the_one_that_is_used,
    i8_a_refused_login_tells_no_password,
);
on_own!(a_restarted_server_is_used_again_at_once);
