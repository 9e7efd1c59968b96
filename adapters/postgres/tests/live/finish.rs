//! Who may end a prepared branch, where, and what the refusals mean.

use unanimous_core::ports::{Branch, BranchErrorKind, Resource, ResourceManager};
use unanimous_core::protocol::Decision;
use unanimous_postgres::Postgres;

use crate::support::{Db, random};

async fn recovery_commits_and_rolls_back_from_another_connection(db: &Db) {
    let (first, _) = db.prepared(1).await;
    let (second, _) = db.prepared(2).await;
    // One preparing connection is closed, one still open: PostgreSQL knows no difference.
    drop(first);
    db.resource
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap();
    db.resource
        .finish(&db.xid(2), Decision::Rollback, None)
        .await
        .unwrap();
    drop(second);
    assert!(db.has_row(1).await && !db.has_row(2).await);
    assert!(!db.is_prepared(1).await && !db.is_prepared(2).await);
}

async fn a_branch_that_is_not_there_is_an_unknown_xid_whatever_became_of_it(db: &Db) {
    let (mut committed, _) = db.prepared(1).await;
    committed.commit().await.unwrap();
    let (mut rolled_back, _) = db.prepared(2).await;
    rolled_back.rollback().await.unwrap();
    let active = db.open_with_row(3).await;
    for sequence in 1..=4 {
        for decision in [Decision::Commit, Decision::Rollback] {
            let error = db
                .resource
                .finish(&db.xid(sequence), decision, None)
                .await
                .unwrap_err();
            assert_eq!(
                error.kind(),
                BranchErrorKind::UnknownXid,
                "{sequence}: {error}"
            );
        }
    }
    drop(active);
}

/// A branch whose own end is taken over by somebody else learns that nothing is proven.
async fn a_branch_ended_by_hand_is_an_unknown_xid_to_its_owner(db: &Db) {
    let (mut branch, _) = db.prepared(1).await;
    db.clean_prepared(1).await;
    let error = branch.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::UnknownXid, "{error}");
}

async fn a_branch_of_another_database_is_refused_and_not_listed(db: &Db) {
    let name = format!("other_{:016x}", random());
    db.admin(&format!("CREATE DATABASE {name} OWNER app")).await;
    let other_url = db.url_of(&name);
    let other = Postgres::builder("orders", &other_url).build().unwrap();
    let (mut branch, record) = db.prepared(1).await;

    let error = other
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("0A000"), "{error}");
    let scan = other.recover().await.unwrap();
    assert!(scan.branches.is_empty(), "{scan:?}");
    assert_ne!(scan.identity, record.identity, "databases are told apart");

    // The GID is unique in the whole cluster all the same.
    let mut twin = other.open(db.env(1)).await.unwrap();
    twin.batch_execute("CREATE TABLE twin (i int)")
        .await
        .unwrap();
    match twin.prepare().await {
        unanimous_core::ports::PrepareReply::RolledBack(error) => {
            assert_eq!(error.kind(), BranchErrorKind::DuplicateXid, "{error}");
        }
        reply => panic!("{reply:?}"),
    }
    branch.rollback().await.unwrap();
    drop((twin, other));
    db.admin(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await;
}

async fn a_read_only_default_does_not_keep_a_branch_from_its_end(db: &Db) {
    let (branch, _) = db.prepared(1).await;
    drop(branch);
    let url = format!("{}?options=-c%20default_transaction_read_only%3Don", db.url);
    let read_only = Postgres::builder("orders", url).build().unwrap();
    read_only
        .finish(&db.xid(1), Decision::Commit, None)
        .await
        .unwrap();
    assert!(db.has_row(1).await);
}

on_both!(
    recovery_commits_and_rolls_back_from_another_connection,
    a_branch_that_is_not_there_is_an_unknown_xid_whatever_became_of_it,
    a_branch_ended_by_hand_is_an_unknown_xid_to_its_owner,
    a_branch_of_another_database_is_refused_and_not_listed,
    a_read_only_default_does_not_keep_a_branch_from_its_end,
);
