//! What prepared branches hold and whom they block, with sessions that are really blocked.

use std::time::Duration;

use postgres::Client;
use unanimous_core::ports::{
    BlockedSession, InspectOptions, InspectedBranch, Inspection, ResourceManager, XidOwner,
};

use crate::support::{Db, random};

async fn inspect(db: &Db, options: InspectOptions) -> Inspection {
    db.resource.inspect(options).await.unwrap()
}

fn of(inspection: &Inspection, owner: &XidOwner) -> InspectedBranch {
    let mut found = inspection.branches.iter().filter(|b| b.owner == *owner);
    let branch = found.next().unwrap().clone();
    assert!(found.next().is_none(), "once only");
    branch
}

/// A session that runs this, and its process id.
fn start(url: &str, sql: String) -> (i32, std::thread::JoinHandle<()>) {
    let (tell, told) = std::sync::mpsc::channel();
    let url = url.to_owned();
    let waiting = std::thread::spawn(move || {
        let mut client = Client::connect(&url, postgres::NoTls).unwrap();
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
        tell.send(pid.get(0)).unwrap();
        client.batch_execute(&sql).unwrap();
    });
    (told.recv().unwrap(), waiting)
}

async fn until_it_waits(db: &Db, pid: i32) {
    let sql = format!("SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted");
    for _ in 0..600 {
        if !db.admin(&sql).await.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("session {pid} never waited");
}

fn session(branch: &InspectedBranch, pid: i32) -> BlockedSession {
    let blocked = branch.holding.blocked.as_ref().unwrap();
    let number = u64::try_from(pid).unwrap();
    let mut found = blocked.sessions.iter().filter(|s| s.session == number);
    found.next().unwrap_or_else(|| panic!("{branch:?}")).clone()
}

/// Who waits for the row, for the table, and behind that.
fn tells_of_sessions(
    seen: &Inspection,
    branch: &InspectedBranch,
    [writer, admin, reader]: [i32; 3],
) -> (BlockedSession, BlockedSession) {
    let writer = session(branch, writer);
    assert_eq!(
        (writer.user.as_deref(), writer.is_behind),
        (Some("app"), false)
    );
    let statement = writer.statement.clone().unwrap();
    assert!(
        statement.starts_with("UPDATE ") && statement.contains('é'),
        "{statement}"
    );
    assert_eq!(statement.chars().count(), 120, "it is cut");
    assert!(writer.waiting.is_some());
    let admin = session(branch, admin);
    assert_eq!(
        (admin.user.as_deref(), admin.is_behind),
        (Some("postgres"), false)
    );
    assert_eq!(admin.statement, None, "not for this role");
    let note = seen
        .notes
        .iter()
        .find(|note| note.contains("GRANT pg_read_all_stats"));
    assert!(note.is_some(), "{:?}", seen.notes);
    assert!(session(branch, reader).is_behind);
    (writer, admin)
}

/// One waits for a row, an administrator for the table behind both, a reader behind him.
async fn a_branch_is_told_with_its_locks_and_whom_it_blocks(db: &Db) {
    let table = &db.table;
    db.sql(&format!("INSERT INTO {table} VALUES (77, 'v')"))
        .await;
    let gid = format!("inspected_{:016x}", random());
    let key = random() & 0xffff;
    db.sql(&format!(
        "BEGIN; SELECT pg_advisory_xact_lock({key}); \
         UPDATE {table} SET v = 'w' WHERE id = 77; PREPARE TRANSACTION '{gid}'"
    ))
    .await;
    let (_ours, _) = db.prepared(1).await;
    let foreign = XidOwner::Foreign(gid.clone());
    let idle = of(&inspect(db, InspectOptions::COUNTS).await, &foreign);
    assert_eq!(idle.holding.blocked.unwrap().count, 0);
    let counted = idle.holding.locks.unwrap();
    // The table, its primary key, and the advisory lock.
    assert_eq!((counted.count, counted.named.len()), (3, 0));

    let secret = "x".repeat(500);
    let update = format!("UPDATE {table} SET v = 'é{secret}' WHERE id = 77");
    let (writer, writes) = start(&db.url, update);
    until_it_waits(db, writer).await;
    let (admin, alters) = start(&db.admin_url, format!("ALTER TABLE {table} ADD n integer"));
    until_it_waits(db, admin).await;
    let (reader, reads) = start(&db.url, format!("SELECT * FROM {table}"));
    until_it_waits(db, reader).await;

    let seen = inspect(db, InspectOptions::DETAILS).await;
    let branch = of(&seen, &foreign);
    let locks = branch.holding.locks.clone().unwrap();
    assert_eq!(locks.count, 3, "{locks:?}");
    let has = |object: &str, mode: &str| {
        let mut named = locks.named.iter();
        named.any(|lock| lock.object == object && lock.mode == mode && lock.count == 1)
    };
    let named = format!("public.{table}");
    assert!(has(&named, "RowExclusiveLock"), "{locks:?}");
    let advisory = format!("advisory lock 0,{key}");
    assert!(has(&advisory, "ExclusiveLock"), "{locks:?}");
    assert_eq!(
        branch.holding.blocked.as_ref().unwrap().count,
        3,
        "{branch:?}"
    );
    let (writer, admin) = tells_of_sessions(&seen, &branch, [writer, admin, reader]);

    // Ours holds the same table in a mode that hinders the administrator, and nobody's row.
    let ours = of(&seen, &XidOwner::Unanimous(db.xid(1)));
    let blocked: Vec<_> = ours.holding.blocked.unwrap().sessions;
    let behind: Vec<_> = blocked.iter().map(|s| (s.session, s.is_behind)).collect();
    assert!(behind.contains(&(admin.session, false)), "{behind:?}");
    assert!(!behind.contains(&(writer.session, false)), "{behind:?}");

    let counts = of(&inspect(db, InspectOptions::COUNTS).await, &foreign);
    let blocked = counts.holding.blocked.unwrap();
    assert_eq!((blocked.count, blocked.sessions.len()), (3, 0));
    db.sql(&format!("ROLLBACK PREPARED '{gid}'")).await;
    db.clean_prepared(1).await;
    for session in [writes, alters, reads] {
        session.join().unwrap();
    }
    assert!(
        !inspect(db, InspectOptions::COUNTS)
            .await
            .branches
            .iter()
            .any(|b| b.owner == foreign)
    );
}

/// The age counts transactions; nothing of the cluster is older than the oldest branch.
async fn a_branch_is_told_with_its_age_against_vacuum(db: &Db) {
    let (_ours, _) = db.prepared(1).await;
    let own = XidOwner::Unanimous(db.xid(1));
    let before = of(&inspect(db, InspectOptions::COUNTS).await, &own);
    let before = before.horizon.unwrap();
    for id in 10..20 {
        let table = &db.table;
        db.sql(&format!("INSERT INTO {table} VALUES ({id}, 'v')"))
            .await;
    }
    let seen = inspect(db, InspectOptions::COUNTS).await;
    let after = of(&seen, &own).horizon.unwrap();
    assert!(after.count >= before.count + 10, "{before:?} {after:?}");
    assert_eq!(after.limit, Some(200_000_000));
    let ages = seen.branches.iter().filter_map(|b| b.horizon.as_ref());
    let (oldest, others): (Vec<_>, Vec<_>) = ages.partition(|horizon| horizon.is_oldest);
    for other in others {
        assert!(oldest.iter().all(|o| o.count >= other.count));
    }
    db.clean_prepared(1).await;
}

on_both!(
    a_branch_is_told_with_its_locks_and_whom_it_blocks,
    a_branch_is_told_with_its_age_against_vacuum,
);
