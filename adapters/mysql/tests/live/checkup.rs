//! What a checkup finds on a server that is brought to it, and its mend, pasted.

use std::time::Duration;

use unanimous_core::ports::{Finding, ResourceManager, Severity};
use unanimous_core::protocol::Decision;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::{Kind, Server};

use crate::support::{Db, eventually, start};

async fn looked(db: &Db, subject: &str) -> Vec<Finding> {
    let all = db.resource.checkup().await.unwrap().into_iter();
    all.filter(|finding| finding.subject == subject).collect()
}

async fn the(db: &Db, subject: &str) -> Finding {
    let mut found = looked(db, subject).await;
    assert_eq!(found.len(), 1, "{subject}: {found:?}");
    found.remove(0)
}

async fn run(db: &Db, sql: &str) {
    let done = db.admin().await.query_drop(sql).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn tables_of_other_engines_and_connections_of_others_are_found(kind: Kind) {
    let server = start(kind, &["--max-connections=29"]);
    let db = Db::on(&server).await;
    assert_eq!(looked(&db, "storage_engine").await, []);
    run(&db, "CREATE TABLE `a``b` (i INT) ENGINE=MyISAM").await;
    let found = the(&db, "storage_engine").await;
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.evidence.ends_with("a`b (MyISAM)"), "{found}");
    run(&db, &found.mend).await;
    assert_eq!(looked(&db, "storage_engine").await, []);

    assert_eq!(looked(&db, "free_connections").await, []);
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(db.admin().await);
    }
    let found = the(&db, "free_connections").await;
    assert!(found.evidence.contains("may open 28"), "{found}");
    run(&db, &found.mend).await;
    assert_eq!(looked(&db, "free_connections").await, []);
    for other in others {
        other.disconnect().await.unwrap();
    }
}

/// InnoDB shows the same list again until nobody has asked for a tenth of a second.
async fn looked_anew(db: &Db, subject: &str) -> Vec<Finding> {
    tokio::time::sleep(Duration::from_millis(150)).await;
    looked(db, subject).await
}

/// The clock of the server cannot be turned; what `NOW()` says to the account can.
async fn a_branch_that_was_prepared_long_ago_is_found(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let subject = "old_prepared_transactions";
    let (branch, _) = db.prepared(1).await;
    // MariaDB keeps it with its connection as long as that is open.
    drop(branch);
    let grant = "GRANT PROCESS ON *.* TO 'app'@'%'";
    run(&db, grant).await;
    assert_eq!(looked(&db, subject).await, []);
    run(
        &db,
        "SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP() + 7200'",
    )
    .await;
    eventually("it has no connection", async || {
        !looked_anew(&db, subject).await.is_empty()
    })
    .await;
    let found = the(&db, subject).await;
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.evidence.starts_with("1 transactions"), "{found}");
    // Without the privilege nothing is known of it.
    run(&db, "REVOKE PROCESS ON *.* FROM 'app'@'%'").await;
    assert_eq!(looked(&db, subject).await, []);
    run(&db, grant).await;
    db.finish(&db.xid(1), Decision::Rollback).await;
    eventually("it is gone", async || {
        looked_anew(&db, subject).await.is_empty()
    })
    .await;
}

/// Another server that copies the binary log, asynchronously.
async fn replicas_that_are_not_waited_for_are_found(kind: Kind) {
    let args = |id: u32| vec!["--log-bin=binlog".to_owned(), format!("--server-id={id}")];
    let own = |id| {
        let args = args(id);
        start(kind, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (source, replica) = (own(1), own(2));
    let (db, other) = (Db::on(&source).await, Db::on(&replica).await);
    run(&db, "GRANT PROCESS ON *.* TO 'app'@'%'").await;
    let subject = "asynchronous_replicas";
    assert_eq!(looked(&db, subject).await, []);
    follow(&other, &source).await;
    eventually("it follows", async || {
        !looked(&db, subject).await.is_empty()
    })
    .await;
    let found = the(&db, subject).await;
    assert_eq!(found.severity, Severity::Note);
    assert!(found.evidence.starts_with("1 connections"), "{found}");
    let crash = looked(&db, "MDEV-31949").await;
    assert_eq!(crash.len(), usize::from(kind == Kind::Mariadb));
}

async fn follow(replica: &Db, source: &Server) {
    let port = source.port();
    let password = xtask::servers::ADMIN_PASSWORD;
    let (change, begin) = if replica.is_mariadb() {
        let change = format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', \
             MASTER_PASSWORD='{password}'"
        );
        (change, "START SLAVE")
    } else {
        let change = format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, \
             SOURCE_USER='root', SOURCE_PASSWORD='{password}', GET_SOURCE_PUBLIC_KEY=1"
        );
        (change, "START REPLICA")
    };
    run(replica, &change).await;
    run(replica, begin).await;
}

/// Semi-synchronous replication without anybody who takes part.
async fn semi_synchronous_replication_without_replicas_is_found(kind: Kind) {
    let server = start(kind, &["--skip-log-bin"]);
    let db = Db::on(&server).await;
    assert_eq!(looked(&db, "semi_sync").await, []);
    if kind == Kind::Mysql {
        run(
            &db,
            "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'; \
             SET GLOBAL rpl_semi_sync_source_enabled = ON",
        )
        .await;
    } else {
        run(&db, "SET GLOBAL rpl_semi_sync_master_enabled = ON").await;
    }
    let found = the(&db, "semi_sync").await;
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.evidence.contains("0 replicas take part"), "{found}");
    let (_, mend) = found.mend.split_once(": ").unwrap();
    run(&db, mend).await;
    assert_eq!(looked(&db, "semi_sync").await, []);
}

/// MySQL's own plugin, set up and not started.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_replication_group_is_found() {
    let server = start(
        Kind::Mysql,
        &[
            "--plugin-load-add=group_replication.so",
            "--loose-group-replication-group-name=aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa",
            "--loose-group-replication-start-on-boot=OFF",
            "--log-bin=binlog",
            "--server-id=1",
            "--gtid-mode=ON",
            "--enforce-gtid-consistency=ON",
        ],
    );
    let db = Db::on(&server).await;
    let found = the(&db, "group_replication").await;
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.evidence.contains("change of the primary"), "{found}");
    run(
        &db,
        "SET GLOBAL group_replication_single_primary_mode = OFF",
    )
    .await;
    let found = the(&db, "group_replication").await;
    assert!(found.evidence.contains("several primaries"), "{found}");
    assert!(db.resource.preflight().await.unwrap().is_fit());
}

on_own!(
    tables_of_other_engines_and_connections_of_others_are_found,
    a_branch_that_was_prepared_long_ago_is_found,
    replicas_that_are_not_waited_for_are_found,
    semi_synchronous_replication_without_replicas_is_found,
);
