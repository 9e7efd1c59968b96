//! What applications do wrong: each mistake is named with its mend, and nothing is lost.

use std::time::Duration;

use unanimous::{
    CommitError, EnlistError, Left, RecoveryReport, RollbackCause, TransactionOutcome, Xid,
};
use unanimous_testing::{MemoryResource, MemoryServer, Step};

use super::{World, eventually, write_both};

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test]
async fn a_commit_after_a_failed_enlist_is_rolled_back_and_says_which_enlist() {
    let world = World::new();
    let tm = world.start().await;
    let mut tx = tm.begin();
    let branch = tx.enlist(&world.orders).await.unwrap();
    branch.put("k", "1").unwrap();
    let stranger = MemoryResource::new("stranger");
    let refused = tx.enlist(&stranger).await.map(drop).unwrap_err();
    assert_says(
        &refused.to_string(),
        &["resource stranger is not registered", ".resource(&…)"],
    );
    let again = tx.enlist(&world.orders).await.map(drop).unwrap_err();
    assert!(matches!(again, EnlistError::RollbackOnly), "{again}");
    let error = tx.commit().await.unwrap_err();
    assert_says(
        &error.to_string(),
        &["was rolled back", "an enlist had failed", "stranger"],
    );
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn a_commit_after_a_branch_could_not_be_opened_names_the_server_and_changes_nothing() {
    let world = World::new();
    let tm = world.start().await;
    let mut tx = tm.begin();
    let branch = tx.enlist(&world.orders).await.unwrap();
    branch.put("k", "1").unwrap();
    world.ledger.server().set_reachable(false);
    let refused = tx.enlist(&world.ledger).await.map(drop).unwrap_err();
    assert!(matches!(refused, EnlistError::Branch(_)), "{refused}");
    let error = tx.commit().await.unwrap_err();
    assert_says(&error.to_string(), &["was rolled back", "resource ledger"]);
    world.ledger.server().set_reachable(true);
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
}

#[tokio::test]
async fn an_empty_transaction_commits_whatever_else_is_wrong() {
    let world = World::new();
    let tm = world.start().await;
    world.orders.server().set_reachable(false);
    let committed = tm.begin().commit().await.unwrap();
    assert!(committed.unfinished().is_empty());
    let outcome = tm.outcome(committed.gtrid()).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Committed);
    assert_eq!(world.log.decision_count(), 0);
    tm.begin().rollback().await;
}

#[tokio::test]
async fn what_begins_after_the_shutdown_is_told_so_and_an_open_transaction_is_rolled_back() {
    let world = World::new();
    let tm = world
        .start_with(|config| config.drain_timeout = Duration::from_millis(20))
        .await;
    let kept = world.begin_with_both(&tm, "1").await;
    tm.shutdown().await.unwrap();
    let mut late = tm.begin();
    let refused = late.enlist(&world.orders).await.map(drop).unwrap_err();
    assert!(matches!(refused, EnlistError::ShutDown), "{refused}");
    assert_says(&refused.to_string(), &["was shut down", "next start"]);
    let error = late.commit().await.unwrap_err();
    assert_says(&error.to_string(), &["rolled back", "was shut down"]);
    let error = kept.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    world.settle().await;
    assert_eq!(world.rows(), (None, None));
    // A second shutdown changes nothing.
    tm.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_manager_that_is_dropped_with_open_transactions_lets_them_end() {
    let world = World::new();
    let tm = world.start().await;
    let to_commit = world.begin_with_both(&tm, "1").await;
    drop(tm);
    to_commit.commit().await.unwrap();
    assert_eq!(world.rows(), World::both("1"));

    let tm = world.start().await;
    let to_drop = world.begin_with_both(&tm, "2").await;
    drop(tm);
    drop(to_drop);
    world.settle().await;
    assert_eq!(world.rows(), World::both("1"));
}

#[tokio::test]
async fn hundreds_of_branches_are_one_transaction() {
    const COUNT: usize = 300;
    let world = World::new();
    let resource = |n: usize| MemoryServer::new(&format!("server {n}")).resource(&format!("r{n}"));
    let resources: Vec<_> = (0..COUNT).map(resource).collect();
    let builder = resources
        .iter()
        .fold(world.builder(), |builder, resource| {
            builder.resource(resource)
        })
        .config(|config| {
            config.prepare_timeout = Duration::from_secs(60);
            config.finish_timeout = Duration::from_secs(60);
        });
    let tm = builder.start().await.unwrap();
    let named: Vec<_> = resources.iter().collect();
    for (value, is_refused) in [("1", false), ("2", true)] {
        let mut tx = tm.begin();
        for branch in tx.enlist(&named[..]).await.unwrap() {
            branch.put("k", value).unwrap();
        }
        if is_refused {
            let last = resources[COUNT - 1].server();
            last.fail_next(Step::Prepare, unanimous_testing::Fault::CONFLICT);
        }
        assert_eq!(tx.commit().await.is_err(), is_refused);
        for resource in &resources {
            let server = resource.server();
            eventually("nothing is prepared", || server.prepared().is_empty()).await;
            assert_eq!(server.row("k").as_deref(), Some("1"));
        }
    }
}

#[tokio::test]
async fn swapped_branches_are_told_with_the_mend() {
    let world = World::new();
    let tm = world.start().await;
    let (mut one, mut two) = (tm.begin(), tm.begin());
    let (a, b) = (
        one.enlist(&world.orders).await.unwrap(),
        two.enlist(&world.orders).await.unwrap(),
    );
    std::mem::swap(a, b);
    for tx in [one, two] {
        let error = tx.commit().await.unwrap_err();
        let text = error.to_string();
        assert_says(&text, &["orders", "swapped", "with its own transaction"]);
        let CommitError::RolledBack { cause, .. } = error else {
            panic!("{text}")
        };
        assert!(matches!(cause, RollbackCause::Swapped(_)));
    }
    world.settle().await;
}

#[tokio::test]
async fn a_name_that_is_used_twice_is_refused_at_start_with_the_mend() {
    let world = World::new();
    let twin = MemoryResource::new("orders");
    let builder = world.builder().resource(&world.orders).resource(&twin);
    let error = builder.start().await.unwrap_err().to_string();
    assert_says(&error, &["resource name orders is used twice", "its own"]);
}

async fn reported(world: &World, report: impl Fn(&RecoveryReport) -> bool) -> RecoveryReport {
    let tm = world.start().await;
    for _ in 0..2000 {
        let found = tm.recover().await;
        if report(&found) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no such report")
}

#[tokio::test]
async fn a_report_is_one_short_line_that_names_what_is_left_and_why() {
    let world = World::new();
    let tm = world.start().await;
    assert_eq!(tm.recover().await.to_string(), "recovery: nothing in doubt");
    let mut gtrid = tm.begin().gtrid();
    drop(tm);
    let orders = world.orders.server();
    let bqual: unanimous::ResourceName = "orders".parse().unwrap();
    for _ in 0..3 {
        gtrid.sequence += 1;
        let bqual = bqual.clone();
        orders.plant(&Xid { gtrid, bqual }, &[]);
    }
    let tm = world.start().await;
    let text = tm.start_report().to_string();
    assert_eq!(text, "recovery: 0 committed, 3 rolled back");
    drop(tm);

    // Ten thousand that nobody here may end, a foreign one, and a server that is away.
    gtrid.opening.nonce ^= 1;
    for _ in 0..10_000 {
        gtrid.sequence += 1;
        let bqual = bqual.clone();
        orders.plant(&Xid { gtrid, bqual }, &[]);
    }
    orders.plant_foreign("somebody's own");
    world.ledger.server().set_reachable(false);
    let is_full = |report: &RecoveryReport| {
        let is_long = |(_, left): &&(Xid, Left)| matches!(left, Left::Plan(_));
        let left = report.resources.iter().flat_map(|r| &r.left);
        left.filter(is_long).count() == 10_000
    };
    let text = reported(&world, is_full).await.to_string();
    assert_says(
        &text,
        &[
            "recovery: nothing ended; ",
            "; resource orders: 10000 left (",
            "was the log restored or copied?",
            "; resource orders: 1 prepared by others, not touched",
            "resource ledger: ",
        ],
    );
    assert!(text.len() < 1000 && !text.contains('\n'), "{text}");
    assert!(!text.contains("somebody's own"), "{text}");
}

#[tokio::test]
async fn a_missing_resource_is_in_the_line_of_the_report() {
    let world = World::new();
    let tm = world.start().await;
    let ledger = world.ledger.server();
    ledger.fail_next(Step::Commit, unanimous_testing::Fault::LoseRequest);
    for _ in 0..1000 {
        let kind = unanimous::BranchErrorKind::Unavailable;
        ledger.fail_next(Step::Finish, unanimous_testing::Fault::Refuse(kind));
    }
    let mut tx = tm.begin();
    write_both(
        tx.enlist((&world.orders, &world.ledger)).await.unwrap(),
        "1",
    );
    tx.commit().await.unwrap();
    drop(tm);
    let builder = world.builder().resource(&world.orders);
    let tm = builder.start().await.unwrap();
    assert_says(
        &tm.start_report().to_string(),
        &["not registered", "named by decisions", "ledger: register"],
    );
}
