//! What is believed of a commit in one phase that the server seems to have refused.

use unanimous_core::ports::{Branch, OnePhaseReply, Resource};
use unanimous_mysql::Mysql;

use crate::meddling::{Meddling, proxy};
use crate::support::Db;

/// `KILL QUERY` can come between the commit and its answer. That the XID is unknown afterwards is
/// what a commit leaves, too.
async fn i3_an_interrupted_commit_in_one_phase_is_undetermined(db: &Db) {
    let (url, _meddler) = proxy(&db.url, Meddling::DeniesSuccess("ONE PHASE", 1317)).await;
    let resource = Mysql::builder("ledger", url).build().unwrap();
    for (sequence, is_last) in [(1, false), (2, true)] {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        db.insert(&mut branch, sequence).await.unwrap();
        let reply = if is_last {
            let row = format!("INSERT INTO {} VALUES (10{sequence}, 'last')", db.table);
            branch.commit_last(&row).await
        } else {
            branch.commit_one_phase().await
        };
        assert!(matches!(reply, OnePhaseReply::Undetermined(_)), "{reply:?}");
        drop(branch);
        assert!(db.has(sequence).await, "it was committed");
    }
}

on_both!(i3_an_interrupted_commit_in_one_phase_is_undetermined);
