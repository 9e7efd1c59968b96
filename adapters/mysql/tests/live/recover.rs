//! What a scan lists.

use unanimous_core::ports::{Branch, Resource, ResourceManager, XidOwner};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::FORMAT_ID;
use unanimous_mysql::mysql_async::prelude::Queryable;

use crate::support::{Db, eventually, random};

async fn plant(db: &Db, xid: &str) {
    let sql = format!(
        "XA START {xid}; INSERT INTO {} VALUES ({}, 'foreign'); XA END {xid}; XA PREPARE {xid}",
        db.table,
        random() % 1_000_000_000
    );
    db.sql(&sql).await;
}

async fn remove(db: &Db, xid: &str) {
    let mut plain = db.plain().await;
    eventually("the foreign branch is let go of", async || {
        plain.query_drop(format!("XA ROLLBACK {xid}")).await.is_ok()
    })
    .await;
}

async fn owners(db: &Db) -> Vec<XidOwner> {
    let scan = db.resource.recover().await.unwrap();
    scan.branches
        .into_iter()
        .map(|branch| branch.owner)
        .collect()
}

/// Binary XIDs, as Java's managers make them, come back byte by byte, in a form that can be pasted.
async fn i4_binary_xids_of_others_are_shown_exactly(db: &Db) {
    let unique = format!("{:016x}", random());
    let xids = [
        format!("X'00ff{unique}27',X'00',131077"),
        format!("X'{unique}5c',X'',0"),
        format!("X'{}',X'{}',2147483647", unique.repeat(8), "f0".repeat(64)),
    ];
    for xid in &xids {
        plant(db, xid).await;
    }
    let listed = owners(db).await;
    for xid in &xids {
        assert!(
            listed.contains(&XidOwner::Foreign(xid.clone())),
            "{xid} in {listed:?}"
        );
        remove(db, xid).await;
    }
}

/// Ours but for one detail: shown, and not taken for ours.
async fn i4_what_is_nearly_ours_is_foreign(db: &Db) {
    let gtrid = db.xid(1).gtrid.to_string();
    let xids = [
        format!("'{gtrid}','ledger',1"),
        format!("'{gtrid}','',{FORMAT_ID}"),
        format!("'{gtrid}-','ledger',{FORMAT_ID}"),
        format!("'{gtrid} ','ledger',{FORMAT_ID}"),
        format!("'{}','ledger',{FORMAT_ID}", gtrid.to_uppercase()),
    ];
    for xid in &xids {
        plant(db, xid).await;
    }
    let listed = owners(db).await;
    assert!(!db.is_listed(1).await);
    for xid in &xids {
        assert!(
            listed.contains(&XidOwner::Foreign(xid.clone())),
            "{xid} in {listed:?}"
        );
        remove(db, xid).await;
    }
}

/// Branches of another resource's name, or another manager, are ours in form: whoever scans
/// decides.
async fn every_branch_of_every_manager_is_listed_with_its_names(db: &Db) {
    let (one, _) = db.prepared(1).await;
    let (two, _) = db.prepared(2).await;
    drop((one, two));
    let listed = owners(db).await;
    for sequence in [1, 2] {
        assert!(
            listed.contains(&XidOwner::Unanimous(db.xid(sequence))),
            "{listed:?}"
        );
        db.finish(&db.xid(sequence), Decision::Rollback).await;
    }
    assert!(db.listed().await.is_empty());
}

/// A thousand branches are listed and finished one after the other, on kept connections.
async fn a_thousand_branches_are_listed_and_finished(db: &Db) {
    for sequence in 1..=1000 {
        let xid = db.literal(sequence);
        let mut plain = db.plain().await;
        let insert = format!("INSERT INTO {} VALUES ({sequence}, 'v')", db.table);
        let sql = format!("XA START {xid}; {insert}; XA END {xid}; XA PREPARE {xid}");
        plain.query_drop(sql).await.unwrap();
    }
    let listed = db.listed().await;
    assert_eq!(listed.len(), 1000);
    for xid in &listed {
        eventually("it is finished", async || {
            db.resource
                .finish(xid, Decision::Commit, None)
                .await
                .is_ok()
        })
        .await;
    }
    assert!(db.listed().await.is_empty());
    let count: u64 = db.one(&format!("SELECT COUNT(*) FROM {}", db.table)).await;
    assert_eq!(count, 1000);
}

/// The set-up is for the application's statements, and may need its account.
async fn the_set_up_of_a_session_is_not_run_for_recovery(db: &Db) {
    let role = format!("r_{}", &db.table[2..10]);
    let make = if db.is_mariadb() {
        format!("CREATE ROLE {role} WITH ADMIN 'app'@'%'")
    } else {
        format!("CREATE ROLE {role}; GRANT {role} TO 'app'@'%'")
    };
    let mut admin = db.admin().await;
    admin.query_drop(make).await.unwrap();
    let resource = db.build(|builder| {
        builder
            .recovery_address(db.admin_url.clone())
            .session_setup(format!("SET ROLE {role}; SET sql_select_limit = 10"))
    });
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let taken: Option<String> = branch.query_first("SELECT CURRENT_ROLE()").await.unwrap();
    branch.rollback().await.unwrap();
    let (scan, preflight) = (resource.recover().await, resource.preflight().await);
    admin.query_drop(format!("DROP ROLE {role}")).await.unwrap();
    assert!(taken.unwrap().contains(&role));
    scan.unwrap();
    preflight.unwrap();
}

on_both!(
    the_set_up_of_a_session_is_not_run_for_recovery,
    i4_binary_xids_of_others_are_shown_exactly,
    i4_what_is_nearly_ours_is_foreign,
    every_branch_of_every_manager_is_listed_with_its_names,
    a_thousand_branches_are_listed_and_finished,
);
