//! What became of a branch that is to be committed and is no longer listed.

use unanimous_core::ports::{
    Absence, Branch, BranchErrorKind, BranchRecord, Evidence, Resource, ResourceManager,
    ServerIdentity, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_mysql::Mysql;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::Kind;

use crate::meddling::{Meddling, proxy};
use crate::support::{Db, connection_id, eventually, expect_prepared, random, record, start};

/// The numbers in a record's evidence: connection and second of the server's start.
fn numbers(record: &BranchRecord) -> (u64, u64) {
    let number = |name: &str| {
        let rest = record.evidence.as_str().split_once(name).unwrap().1;
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    (number("connection="), number("started="))
}

/// The branch was committed, and its connection serves another transaction of the same living
/// member, which nobody may end.
async fn i5_the_connection_that_prepared_is_left_to_the_transaction_that_has_it_now(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1));
    let mut branch = resource.open(db.env(1)).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap();
    let first = connection_id(&mut branch).await;
    let evidence = expect_prepared(branch.prepare().await);
    let record = record(&branch, evidence);
    branch.commit().await.unwrap();
    Box::new(branch).release().await;

    let mut next = resource.open(db.env(2)).await.unwrap();
    assert_eq!(connection_id(&mut next).await, first);
    db.insert(&mut next, 2).await.unwrap();
    let absence = db.resource.absent(&db.xid(1), &record).await.unwrap();
    assert_eq!(absence, Absence::Presumed);
    expect_prepared(next.prepare().await);
    next.commit().await.unwrap();
    assert!(db.has(1).await && db.has(2).await);
}

/// A prepared branch is present: whoever asks hears so, and it is still there afterwards.
async fn a_branch_that_is_listed_again_is_in_doubt(db: &Db) {
    let (branch, record) = db.prepared(1).await;
    let absence = db.resource.absent(&db.xid(1), &record).await.unwrap();
    assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
    drop(branch);
    assert!(db.is_listed(1).await);
    db.finish(&db.xid(1), Decision::Commit).await;
    assert!(db.has(1).await);
}

/// A branch is listed until it has ended, whoever holds it: also while its connection closes.
async fn i3_a_prepared_branch_is_listed_all_the_while_its_connection_closes(db: &Db) {
    for sequence in 1..=20 {
        let (branch, record) = db.prepared(sequence).await;
        let (connection, _) = numbers(&record);
        drop(branch);
        let mut left = 20;
        while left > 0 {
            assert!(db.is_listed(sequence).await, "{sequence}");
            left -= u32::from(!db.connections().await.contains(&connection));
        }
    }
}

async fn i3_evidence_that_cannot_be_read_proves_nothing(db: &Db) {
    let (mut branch, mut record) = db.prepared(1).await;
    branch.commit().await.unwrap();
    record.evidence = Evidence::default();
    let absence = db.resource.absent(&db.xid(1), &record).await.unwrap();
    assert!(matches!(absence, Absence::Hazard(_)), "{absence:?}");
}

/// Connection numbers begin again when a server starts; the new bearer of a number is spared.
async fn i5_after_a_restart_the_new_bearer_of_a_connection_number_is_spared(kind: Kind) {
    let mut server = start(kind, &[]);
    let db = Db::on(&server).await;
    let (mut branch, record) = db.prepared(1).await;
    branch.commit().await.unwrap();
    let (number, _) = numbers(&record);
    drop(branch);
    // The second in which the server starts tells its lives apart.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    tokio::task::block_in_place(|| server.restart()).unwrap();
    let mut innocent = db.plain().await;
    while u64::from(innocent.id()) < number {
        innocent = db.plain().await;
    }
    assert_eq!(u64::from(innocent.id()), number, "it bears the number now");
    let absence = db.resource.absent(&db.xid(1), &record).await.unwrap();
    assert_eq!(absence, Absence::Presumed);
    innocent.ping().await.unwrap();
    assert!(db.has(1).await);
}

/// Two servers have two identities; on MariaDB two databases of one server do, too.
async fn identities_are_unique(kind: Kind) {
    let (one, two) = (start(kind, &[]), start(kind, &[]));
    let (one, two) = (Db::on(&one).await, Db::on(&two).await);
    let identity = |db: &Db| {
        let resource = db.resource.clone();
        async move { resource.preflight().await.unwrap().identity.unwrap() }
    };
    let (of_one, of_two) = (identity(&one).await, identity(&two).await);
    assert_ne!(of_one, of_two);
    let (branch, mut record) = one.prepared(1).await;
    drop(branch);
    record.identity = of_two;
    let absence = one.resource.absent(&one.xid(1), &record).await.unwrap();
    assert!(matches!(absence, Absence::Hazard(_)), "{absence:?}");

    let name = format!("db_{:016x}", random());
    let mut admin = one.admin().await;
    admin
        .query_drop(format!("CREATE DATABASE {name}"))
        .await
        .unwrap();
    let url = one.admin_url.rsplit_once('/').unwrap().0.to_owned() + "/" + &name;
    let other = Mysql::builder("other", url)
        .build()
        .unwrap()
        .preflight()
        .await
        .unwrap()
        .identity
        .unwrap();
    assert_eq!(other == of_one, !one.is_mariadb());
    if one.is_mariadb() {
        // A replica has the same row and another number.
        admin.query_drop("SET GLOBAL server_id = 77").await.unwrap();
        let fresh = one.build(|builder| builder).preflight().await.unwrap();
        let fresh = fresh.identity.unwrap();
        let row = of_one.as_str().rsplit_once(':').unwrap().0;
        assert_eq!(ServerIdentity::new(format!("{row}:77")), Some(fresh));
    }
}

/// After an error in answer to `XA COMMIT` a server may keep the branch prepared and not list it.
/// This one has committed it, which nobody can tell: neither now, nor after its restart.
async fn i1_a_commit_that_failed_is_not_proven_by_the_list(kind: Kind) {
    let mut server = start(kind, &[]);
    let db = Db::on(&server).await;
    let (url, _meddler) = proxy(&db.url, Meddling::DeniesSuccess("XA COMMIT", 1180)).await;
    let resource = Mysql::builder("ledger", url).build().unwrap();
    let mut records = Vec::new();
    for sequence in 1..=2 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        db.insert(&mut branch, sequence).await.unwrap();
        let evidence = expect_prepared(branch.prepare().await);
        let (xid, record) = (db.xid(sequence), record(&branch, evidence));
        // By its own connection, and by recovery.
        let error = if sequence == 1 {
            branch.commit().await.unwrap_err()
        } else {
            drop(branch);
            let finished = resource.finish(&xid, Decision::Commit, Some(&record));
            finished.await.unwrap_err()
        };
        assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
        assert!(!db.is_listed(sequence).await);
        records.push((xid, record));
    }
    for (xid, record) in &records {
        let absence = resource.absent(xid, record).await.unwrap();
        assert!(
            matches!(&absence, Absence::InDoubt(why) if why.contains("1180")),
            "{absence:?}"
        );
        // Whoever has not heard it cannot know.
        let absence = db.resource.absent(xid, record).await.unwrap();
        assert_eq!(absence, Absence::Presumed);
    }
    // The second in which the server starts tells its lives apart.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    tokio::task::block_in_place(|| server.restart()).unwrap();
    for (xid, record) in &records {
        let absence = resource.absent(xid, record).await.unwrap();
        assert!(matches!(absence, Absence::Hazard(_)), "{absence:?}");
    }
}

/// A list that has the branch says that the failed commit has left it as it was, whoever asked for
/// it: how it ends from then on is nobody's doubt.
async fn a_commit_that_failed_is_forgotten_when_its_branch_is_listed(db: &Db) {
    let (url, _meddler) = proxy(&db.url, Meddling::Refuses("XA COMMIT", 1180)).await;
    let resource = Mysql::builder("ledger", url).build().unwrap();
    for (sequence, by_recovery) in [(1, true), (2, false)] {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        db.insert(&mut branch, sequence).await.unwrap();
        let evidence = expect_prepared(branch.prepare().await);
        let (xid, record) = (db.xid(sequence), record(&branch, evidence));
        let error = branch.commit().await.unwrap_err();
        assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
        drop(branch);
        if by_recovery {
            resource.recover().await.unwrap();
        } else {
            let absence = resource.absent(&xid, &record).await.unwrap();
            assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
        }
        db.finish(&xid, Decision::Commit).await;
        let absence = resource.absent(&xid, &record).await.unwrap();
        assert_eq!(absence, Absence::Presumed, "{sequence}");
        assert!(db.has(sequence).await);
    }
}

/// A replica that was promoted lists the branch, too; the server that has failed to commit it may
/// still hold it without listing it.
#[tokio::test(flavor = "multi_thread")]
async fn i1_a_commit_that_failed_is_not_forgotten_by_another_servers_list() {
    let server = start(Kind::Mariadb, &[]);
    let db = Db::on(&server).await;
    let (url, _meddler) = proxy(&db.url, Meddling::Refuses("XA COMMIT", 1180)).await;
    let resource = Mysql::builder("ledger", url).build().unwrap();
    let mut branch = resource.open(db.env(1)).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap();
    let evidence = expect_prepared(branch.prepare().await);
    let (xid, record) = (db.xid(1), record(&branch, evidence));
    branch.commit().await.unwrap_err();
    drop(branch);

    // A replica has the same row and another number.
    let own: u64 = db.one("SELECT @@GLOBAL.server_id").await;
    become_server(&db, 77).await;
    let scan = resource.recover().await.unwrap();
    assert_ne!(scan.identity, record.identity);
    let listed = XidOwner::Unanimous(xid.clone());
    assert!(scan.branches.iter().any(|branch| branch.owner == listed));
    become_server(&db, own).await;
    db.finish(&xid, Decision::Commit).await;
    let absence = resource.absent(&xid, &record).await.unwrap();
    assert!(
        matches!(&absence, Absence::InDoubt(why) if why.contains("1180")),
        "{absence:?}"
    );
}

/// A MariaDB with another number, to which nobody is connected.
async fn become_server(db: &Db, number: u64) {
    let mut admin = db.admin().await;
    let set = format!("SET GLOBAL server_id = {number}");
    admin.query_drop(set).await.unwrap();
    let of_app = "SELECT id FROM information_schema.processlist WHERE user = 'app'";
    let connected: Vec<u64> = admin.query(of_app).await.unwrap();
    for connection in &connected {
        // Some are closing already.
        let _ = admin.query_drop(format!("KILL {connection}")).await;
    }
    eventually("they are gone", async || {
        let now = db.connections().await;
        !connected.iter().any(|connection| now.contains(connection))
    })
    .await;
}

on_both!(
    a_commit_that_failed_is_forgotten_when_its_branch_is_listed,
    i5_the_connection_that_prepared_is_left_to_the_transaction_that_has_it_now,
    a_branch_that_is_listed_again_is_in_doubt,
    i3_a_prepared_branch_is_listed_all_the_while_its_connection_closes,
    i3_evidence_that_cannot_be_read_proves_nothing,
);
on_own!(
    i5_after_a_restart_the_new_bearer_of_a_connection_number_is_spared,
    i1_a_commit_that_failed_is_not_proven_by_the_list,
    identities_are_unique,
);
