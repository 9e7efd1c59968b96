//! What prepared branches hold and whom they block, with sessions that are really blocked.

use tokio::task::JoinHandle;
use unanimous_core::ports::{
    Blocked, BlockedSession, Holding, InspectOptions, Inspection, ResourceManager, XidOwner,
};
use unanimous_mysql::Mysql;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::Kind;

use crate::support::{Db, connect, connection_id, eventually, start};

/// As an account that may see everything.
fn all_seeing(db: &Db) -> Mysql {
    db.build(|builder| builder.recovery_address(&db.admin_url))
}

async fn inspect(resource: &Mysql, options: InspectOptions) -> Inspection {
    resource.inspect(options).await.unwrap()
}

fn of(db: &Db, seen: &Inspection, sequence: u64) -> Option<Holding> {
    let owner = XidOwner::Unanimous(db.xid(sequence));
    let found = seen.branches.iter().find(|branch| branch.owner == owner);
    found.map(|branch| branch.holding.clone())
}

/// A session that runs this, once it waits, and its connection id.
async fn blocked(db: &Db, url: &str, sql: String) -> (u64, JoinHandle<()>) {
    let mut conn = connect(url).await;
    conn.query_drop("SET SESSION innodb_lock_wait_timeout = 60, lock_wait_timeout = 60")
        .await
        .unwrap();
    let id = u64::from(conn.id());
    let waiting = tokio::spawn(async move { conn.query_drop(sql).await.unwrap() });
    let waits = format!(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE id = {id} AND time >= 1 \
         AND info IS NOT NULL"
    );
    let mut admin = db.admin().await;
    eventually("the session waits", async || {
        admin.query_first::<u64, _>(&waits).await.unwrap() == Some(1)
    })
    .await;
    (id, waiting)
}

fn session(blocked: &Blocked, id: u64) -> BlockedSession {
    let mut sessions = blocked.sessions.iter();
    let found = sessions.find(|session| session.session == id);
    found.unwrap_or_else(|| panic!("{id}: {blocked:?}")).clone()
}

/// While its connection is open MySQL tells whose a lock is, and MariaDB does not.
async fn a_branch_whose_connection_is_open_is_told_where_the_server_does(db: &Db) {
    let (branch, _) = db.prepared(1).await;
    let resource = all_seeing(db);
    if db.is_mariadb() {
        let seen = inspect(&resource, InspectOptions::DETAILS).await;
        assert_eq!(of(db, &seen, 1), None, "nobody guesses");
        drop(branch);
        return;
    }
    let table = &db.table;
    let statement = format!("UPDATE {table} SET v = '{}é' WHERE id = 1", "x".repeat(30));
    let (writer, writes) = blocked(db, &db.url, statement.clone()).await;
    let change = format!("ALTER TABLE {table} ADD n INT");
    let (changer, changes) = blocked(db, &db.admin_url, change).await;
    let (reader, reads) = blocked(db, &db.url, format!("SELECT * FROM {table}")).await;

    let seen = inspect(&resource, InspectOptions::DETAILS).await;
    let holding = of(db, &seen, 1).unwrap_or_else(|| panic!("{seen:?}"));
    let locks = holding.locks.unwrap();
    assert_eq!(locks.count, 2, "{locks:?}");
    let modes: Vec<_> = locks.named.iter().map(|lock| lock.mode.as_str()).collect();
    assert!(modes.contains(&"TABLE IX"), "{locks:?}");
    assert!(modes.contains(&"RECORD X,REC_NOT_GAP"), "{locks:?}");
    assert!(
        locks
            .named
            .iter()
            .all(|lock| lock.object == format!("app.{table}"))
    );
    let waiting = holding.blocked.unwrap();
    assert_eq!(waiting.count, 3, "{waiting:?}");
    let writer = session(&waiting, writer);
    assert_eq!(writer.user.as_deref(), Some("app"));
    assert_eq!(writer.statement, Some(statement));
    assert!(!writer.is_behind && writer.waiting.is_some());
    assert!(!session(&waiting, changer).is_behind);
    assert!(session(&waiting, reader).is_behind);

    let counts = of(db, &inspect(&resource, InspectOptions::COUNTS).await, 1).unwrap();
    let (locks, waiting) = (counts.locks.unwrap(), counts.blocked.unwrap());
    assert_eq!((locks.count, locks.named.len()), (2, 0));
    assert_eq!((waiting.count, waiting.sessions.len()), (3, 0));
    drop(branch);
    db.clean_branches().await;
    for session in [writes, changes, reads] {
        session.await.unwrap();
    }
}

/// The account may list branches, and nothing of what they hold.
async fn i4_what_may_not_be_seen_is_a_note_with_the_grant(db: &Db) {
    let (_branch, _) = db.prepared(1).await;
    let seen = inspect(&db.resource, InspectOptions::DETAILS).await;
    let note = "GRANT PROCESS ON *.* TO 'app'@'%'";
    assert!(
        seen.notes.iter().any(|said| said.ends_with(note)),
        "{:?}",
        seen.notes
    );
    assert_eq!(of(db, &seen, 1), None);
    assert!(seen.untold.is_empty());
}

on_both!(
    a_branch_whose_connection_is_open_is_told_where_the_server_does,
    i4_what_may_not_be_seen_is_a_note_with_the_grant,
);

/// One branch and one transaction are left, so they belong together. With two nobody guesses.
async fn the_only_branch_is_told_and_of_two_the_server_does_not_say_which(kind: Kind) {
    let server = start(kind, &[]);
    let db = Db::on(&server).await;
    let resource = all_seeing(&db);
    assert_eq!(
        inspect(&resource, InspectOptions::DETAILS).await,
        Inspection::default()
    );
    close(&db, 1).await;
    let update = format!("UPDATE {} SET v = 'w' WHERE id = 1", db.table);
    let (writer, writes) = blocked(&db, &db.url, update).await;

    let seen = inspect(&resource, InspectOptions::DETAILS).await;
    let only = of(&db, &seen, 1).unwrap();
    assert!(only.begun.is_some());
    let locks = only.locks.unwrap();
    assert_eq!(locks.count, 2, "{locks:?}");
    assert!(
        locks
            .named
            .iter()
            .any(|lock| lock.object.contains(&db.table)),
        "{locks:?}"
    );
    let waiting = only.blocked.unwrap();
    assert_eq!(waiting.count, 1);
    let writer = session(&waiting, writer);
    assert_eq!(writer.user.as_deref(), Some("app"));
    assert!(writer.statement.unwrap().starts_with("UPDATE "));
    assert!(seen.horizon.is_some() && seen.untold.is_empty(), "{seen:?}");

    close(&db, 2).await;
    let seen = inspect(&resource, InspectOptions::COUNTS).await;
    assert_eq!((of(&db, &seen, 1), of(&db, &seen, 2)), (None, None));
    let untold = seen
        .untold
        .iter()
        .map(|holding| holding.blocked.as_ref().unwrap().count);
    let mut untold: Vec<u64> = untold.collect();
    untold.sort_unstable();
    assert_eq!(untold, [0, 1]);
    db.clean_branches().await;
    writes.await.unwrap();
    if db.is_mariadb() {
        a_lost_transaction_is_not_taken_for_the_only_branch(&db, &resource).await;
    }
}

/// MariaDB has lost one, as a reset makes it do, and the only branch is with its connection.
async fn a_lost_transaction_is_not_taken_for_the_only_branch(db: &Db, resource: &Mysql) {
    let xid = "'lost','',7";
    let mut plain = db.plain().await;
    let insert = format!("INSERT INTO {} VALUES (77, 'v')", db.table);
    let prepare = format!("XA START {xid}; {insert}; XA END {xid}; XA PREPARE {xid}");
    plain.query_drop(prepare).await.unwrap();
    plain.reset().await.unwrap();
    let mut other = db.plain().await;
    other.query_drop(format!("XA COMMIT {xid}")).await.unwrap();
    drop((plain, other));
    let (branch, _) = db.prepared(3).await;
    let mut untold = Vec::new();
    eventually("the lost one has no connection", async || {
        let seen = inspect(resource, InspectOptions::COUNTS).await;
        assert_eq!(of(db, &seen, 3), None, "nobody guesses");
        untold = seen.untold;
        !untold.is_empty()
    })
    .await;
    assert_eq!(untold.len(), 1, "{untold:?}");
    drop(branch);
}

/// Prepares a branch and sees its connection gone.
async fn close(db: &Db, sequence: u64) {
    let mut branch = db.active(sequence).await;
    let connection = connection_id(&mut branch).await;
    crate::support::expect_prepared(unanimous_core::ports::Branch::prepare(&mut branch).await);
    drop(branch);
    eventually("its connection is gone", async || {
        !db.connections().await.contains(&connection)
    })
    .await;
}

on_own!(the_only_branch_is_told_and_of_two_the_server_does_not_say_which);
