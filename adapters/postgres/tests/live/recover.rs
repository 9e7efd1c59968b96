//! The scan: all of it, of this database, ours told from others'.

use std::collections::HashSet;

use unanimous_core::ports::{Branch, ResourceManager, XidOwner};
use unanimous_core::protocol::Decision;
use xtask::servers::{Kind, Options, Server};

use crate::support::{Db, random};

async fn i4_others_transactions_are_listed_as_foreign(db: &Db) {
    let (mut ours, _) = db.prepared(1).await;
    let table = &db.table;
    let close = format!("{}x", db.gid(2));
    let foreign = format!("1096044365_Z3RyaWQ=_{:016x}", random());
    for (i, gid) in [&close, &foreign].into_iter().enumerate() {
        db.sql(&format!(
            "BEGIN; INSERT INTO {table} VALUES ({}, 'x'); PREPARE TRANSACTION '{gid}'",
            100 + i
        ))
        .await;
    }
    let scan = db.resource.recover().await.unwrap();
    let owner = |gid: &str| {
        let owned = XidOwner::Foreign(gid.to_owned());
        scan.branches
            .iter()
            .filter(|branch| branch.owner == owned)
            .count()
    };
    assert_eq!((owner(&close), owner(&foreign)), (0, 1));
    // `orders` and `ordersx` are both names of resources: that one is ours, of another resource.
    assert!(scan.branches.iter().any(|branch| match &branch.owner {
        XidOwner::Unanimous(xid) => xid.bqual.as_str() == "ordersx",
        XidOwner::Foreign(_) => false,
    }));
    let own = XidOwner::Unanimous(db.xid(1));
    let found = scan
        .branches
        .iter()
        .find(|branch| branch.owner == own)
        .unwrap();
    assert!(found.age.is_some());
    ours.rollback().await.unwrap();
    for gid in [&close, &foreign] {
        db.sql(&format!("ROLLBACK PREPARED '{gid}'")).await;
    }
}

async fn the_identity_of_a_scan_is_that_of_a_branch(db: &Db) {
    let branch = db.open(1).await;
    let identity = db.resource.preflight().await.unwrap().identity.unwrap();
    assert_eq!(*branch.identity(), identity);
    assert_eq!(branch.scope(), identity.as_str());
    assert_eq!(db.resource.recover().await.unwrap().identity, identity);
    let expected = db
        .sql(
            "SELECT 'pg:' || system_identifier || ':00000001:' || oid FROM pg_control_system(), \
             pg_database WHERE datname = current_database()",
        )
        .await;
    assert_eq!(identity.as_str(), expected[0][0]);
}

on_both!(
    i4_others_transactions_are_listed_as_foreign,
    the_identity_of_a_scan_is_that_of_a_branch,
);

/// Ten thousand in-doubt branches are listed at once, and are ended one by one.
async fn i6_ten_thousand_branches_are_listed(kind: Kind) {
    const COUNT: u64 = 10_000;
    // Durability is not what is tested here.
    let options = Options::new().args(["-c", "max_prepared_transactions=10100", "-c", "fsync=off"]);
    let server = Server::start(kind, &options).unwrap();
    let db = Db::on(&server).await;
    for first in (1..=COUNT).step_by(500) {
        let mut text = String::new();
        for sequence in first..first + 500 {
            let (table, gid) = (&db.table, db.gid(sequence));
            text.push_str(&format!(
                "BEGIN; INSERT INTO {table} VALUES ({sequence}, 'v'); \
                 PREPARE TRANSACTION '{gid}'; "
            ));
        }
        db.sql(&text).await;
    }
    let scan = db.resource.recover().await.unwrap();
    let listed: HashSet<_> = scan
        .branches
        .into_iter()
        .map(|branch| branch.owner)
        .collect();
    let expected: HashSet<_> = (1..=COUNT)
        .map(|i| XidOwner::Unanimous(db.xid(i)))
        .collect();
    assert!(listed == expected, "{} of {COUNT} are listed", listed.len());
    for sequence in [1, COUNT / 2, COUNT] {
        db.resource
            .finish(&db.xid(sequence), Decision::Commit, None)
            .await
            .unwrap();
    }
    assert_eq!(db.resource.recover().await.unwrap().branches.len(), 9_997);
}

mod own {
    use super::*;
    on_own!(i6_ten_thousand_branches_are_listed);
}
