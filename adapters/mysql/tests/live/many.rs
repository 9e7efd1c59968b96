//! Very many branches of a member that is gone: what is asked for one of them serves all.

use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream;
use unanimous_core::ports::{Absence, BranchRecord, Evidence, ResourceManager};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::Xid;
use unanimous_mysql::Mysql;
use unanimous_mysql::mysql_async::prelude::Queryable;

use crate::support::{Db, eventually};
use crate::trips::proxy;

const BRANCHES: u64 = 200;
/// As many as recovery has under way at the same time.
const CONCURRENCY: usize = 8;

/// A branch of a decision whose connection is closed: its XID, and what the decision says of it.
async fn plant(db: &Db, sequence: u64, like: &BranchRecord) -> (Xid, BranchRecord) {
    let xid = db.literal(sequence);
    let mut plain = db.plain().await;
    let insert = format!("INSERT INTO {} VALUES ({sequence}, 'v')", db.table);
    let sql = format!("XA START {xid}; {insert}; XA END {xid}; XA PREPARE {xid}");
    plain.query_drop(sql).await.unwrap();
    let (_, rest) = like.evidence.as_str().split_once(" started=").unwrap();
    let evidence = format!("connection={} started={rest}", plain.id());
    let evidence = Evidence::new(evidence).unwrap();
    let record = BranchRecord {
        evidence,
        ..like.clone()
    };
    (db.xid(sequence), record)
}

async fn what_is_seen_for_one_branch_serves_all(db: &Db) {
    // With the privilege PROCESS, and without.
    for (url, from) in [(&db.admin_url, 0), (&db.url, BRANCHES)] {
        all_are_ended(db, url, from).await;
    }
}

async fn all_are_ended(db: &Db, url: &str, from: u64) {
    let (first, like) = db.prepared(from).await;
    drop(first);
    let mut branches = Vec::new();
    for sequence in from + 1..from + BRANCHES {
        branches.push(plant(db, sequence, &like).await);
    }
    branches.push((db.xid(from), like));
    eventually("the connections are closed", async || {
        let there = db.connections().await;
        !branches.iter().any(|(_, record)| {
            let numbers = record.evidence.as_str().split([' ', '=']);
            there.contains(&{ numbers }.nth(1).unwrap().parse().unwrap())
        })
    })
    .await;
    let (url, commands) = proxy(url).await;
    let resource = &Mysql::builder("ledger", url).build().unwrap();
    resource.recover().await.unwrap();

    commands.store(0, Ordering::SeqCst);
    let begin = Instant::now();
    let ended = stream::iter(&branches).map(|(xid, record)| async move {
        let ended = resource.finish(xid, Decision::Commit, Some(record)).await;
        ended.unwrap();
    });
    ended.buffer_unordered(CONCURRENCY).collect::<()>().await;
    let (asked, took) = (commands.swap(0, Ordering::SeqCst), begin.elapsed());
    println!("{BRANCHES} branches are committed by {asked} requests in {took:?}");
    // The rest is logins and looks.
    assert!(asked < 2 * branches.len(), "{asked} requests");

    let begin = Instant::now();
    let proven = stream::iter(&branches).map(|(xid, record)| async move {
        let absence = resource.absent(xid, record).await;
        assert_eq!(absence.unwrap(), Absence::Presumed);
    });
    proven.buffer_unordered(CONCURRENCY).collect::<()>().await;
    let (asked, took) = (commands.load(Ordering::SeqCst), begin.elapsed());
    println!("{BRANCHES} branches are proven absent by {asked} requests in {took:?}");
    assert!(asked < 2 * branches.len(), "{asked} requests");
    let count: u64 = db.one(&format!("SELECT COUNT(*) FROM {}", db.table)).await;
    assert_eq!(count, from + BRANCHES);
}

on_both!(what_is_seen_for_one_branch_serves_all);
