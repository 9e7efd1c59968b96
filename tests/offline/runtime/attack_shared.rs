//! Members on one table log against each other, against fail-overs, and against those who drop or
//! restore its tables: nobody is told what nobody knows, and nothing is left behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use unanimous::log::TableLog;
use unanimous::ports::{
    BranchRecord, DecideError, DecisionLog, DecisionRecord, DecisionTable, Evidence, LogHome,
    Lookup, ServerIdentity,
};
use unanimous_core::xid::{ManagerId, Opening};
use unanimous_testing::{MemoryTable, TableFault, TableStep};

/// Long enough for a member to notice whatever it notices by itself.
const A_MINUTE: Duration = Duration::from_secs(60);

async fn open(table: &MemoryTable) -> Arc<dyn DecisionLog> {
    let log = TableLog::on(table).label("a member");
    Box::new(log).open().await.unwrap()
}

fn decision(opening: Opening, sequence: u64) -> DecisionRecord {
    let branch = BranchRecord {
        resource: "ledger".parse().unwrap(),
        identity: ServerIdentity::new("ledger").unwrap(),
        evidence: Evidence::default(),
    };
    DecisionRecord {
        gtrid: opening.gtrid(sequence),
        branches: vec![branch],
    }
}

async fn scope(table: &MemoryTable) -> String {
    table.check().await.unwrap().scope
}

fn open_epochs(table: &MemoryTable) -> usize {
    let rows = table.openings();
    rows.iter().filter(|row| !row.is_closed).count()
}

/// Its last resource had committed, and a survivor may have committed other branches since. The
/// owner, which asks after the fail-over, keeps the key from being used; that says nothing of
/// before.
#[tokio::test(start_paused = true)]
async fn i3_a_rollback_that_was_put_there_after_a_fail_over_proves_nothing() {
    let table = MemoryTable::new("log");
    let owner = open(&table).await;
    let decided = decision(owner.opening(), 1);
    let statement = owner.last_statement(&scope(&table).await, &decided);
    table.hold(&statement.unwrap()).unwrap().commit();
    table.fail_over(false);
    let told = owner.settle_last(&decided).await.unwrap_err();
    assert!(matches!(told, DecideError::Uncertain(_)), "{told}");
    let other = open(&table).await;
    other.close(decided.gtrid.opening.epoch).await.unwrap();
    for log in [&owner, &other] {
        let found = log.lookup(decided.gtrid).await.unwrap();
        assert_eq!(found, Lookup::MayBeLost);
    }
}

#[tokio::test(start_paused = true)]
async fn i1_a_rollback_of_a_last_resource_is_believed_on_the_same_server() {
    let table = MemoryTable::new("log");
    let owner = open(&table).await;
    let lost = decision(owner.opening(), 1);
    let told = owner.settle_last(&lost).await.unwrap_err();
    assert!(matches!(told, DecideError::Refused(_)), "{told}");
    let other = open(&table).await;
    // Before its epoch is closed, too: the row is final.
    assert_eq!(other.lookup(lost.gtrid).await.unwrap(), Lookup::NoRecord);
    other.close(lost.gtrid.opening.epoch).await.unwrap();
    assert_eq!(other.lookup(lost.gtrid).await.unwrap(), Lookup::NoRecord);
}

/// It sees its own epoch closed, by itself.
#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_slowly_does_not_join_anew() {
    let table = MemoryTable::new("log");
    let log = open(&table).await;
    let release = table.hang_next(TableStep::Release);
    log.shutdown().await.unwrap();
    drop(release);
    drop(log);
    sleep(A_MINUTE).await;
    assert_eq!((table.openings().len(), open_epochs(&table)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_while_it_joins_anew_leaves_no_open_epoch() {
    let table = MemoryTable::new("log");
    let log = open(&table.another_link()).await;
    let link = table.another_link();
    let late = open(&link).await;
    let joining = link.hang_next(TableStep::Join);
    log.close(late.opening().epoch).await.unwrap();
    log.shutdown().await.unwrap();
    // It has noticed, and is on its way.
    sleep(Duration::from_secs(2)).await;
    let leaving = tokio::spawn(async move { late.shutdown().await });
    sleep(Duration::from_secs(1)).await;
    joining.release();
    leaving.await.unwrap().unwrap();
    sleep(A_MINUTE).await;
    assert_eq!((table.openings().len(), open_epochs(&table)), (3, 0));
}

/// Whoever keeps the value after a shutdown that failed is not taken for alive.
#[tokio::test(start_paused = true)]
async fn i6_a_member_that_could_not_leave_is_missed_by_the_others() {
    let table = MemoryTable::new("log");
    let link = table.another_link();
    let gone = open(&link).await;
    let other = open(&table).await;
    let close = link.hang_next(TableStep::Close);
    let limit = Duration::from_secs(1);
    let left = tokio::time::timeout(limit, gone.shutdown()).await;
    assert!(left.is_err(), "nobody waits any longer");
    sleep(A_MINUTE).await;
    let epoch = gone.opening().epoch;
    let states = other.openings().await.unwrap();
    let state = states.iter().find(|state| state.opening.epoch == epoch);
    assert!(state.unwrap().closed);
    assert_eq!(open_epochs(&table), 1, "the other one's");
    drop(close);
}

/// Somebody has dropped the tables, and another application has made its own.
#[tokio::test(start_paused = true)]
async fn i4_nothing_is_left_in_another_managers_log() {
    let table = MemoryTable::new("log");
    let log = open(&table).await;
    let lost = log.opening();
    table.set_lag(1_000);
    table.fail_over(false);
    table.init(ManagerId::from_bytes([7; 10])).await.unwrap();
    sleep(A_MINUTE).await;
    assert_eq!(table.openings(), []);
    log.decide(&decision(lost, 1)).await.unwrap_err();
    assert_eq!(table.row_count(), 0);
    assert_eq!(log.opening(), lost);
}

/// Two servers that both take writes are two logs: a branch at the old one is no last resource of
/// the log at the new one.
#[tokio::test(start_paused = true)]
async fn i1_a_branch_at_the_server_that_was_left_is_no_last_resource() {
    let table = MemoryTable::new("log");
    let log = open(&table).await;
    let (before, old) = (log.opening(), scope(&table).await);
    assert!(log.takes_last(&old));
    // This is what the fail-over loses.
    log.decide(&decision(before, 9)).await.unwrap();
    table.fail_over(false);
    log.pending().await.unwrap();
    sleep(A_MINUTE).await;
    assert_ne!(log.opening(), before, "it has joined at the new one");
    assert!(!log.takes_last(&old));
    let (stale, new) = (decision(before, 1), decision(log.opening(), 1));
    assert_eq!(log.last_statement(&old, &new), None);
    // One that was under way fails there, or not, as it would have.
    assert!(log.last_statement(&old, &stale).is_some());
}

/// The log was restored: an epoch that was closed there has the number of one that nobody needs to
/// read again.
#[tokio::test(start_paused = true)]
async fn i4_what_could_not_be_read_from_a_new_server_is_read_later() {
    let table = MemoryTable::new("log");
    let link = table.another_link();
    let log = open(&link).await;
    let first = log.opening();
    log.close(first.epoch).await.unwrap();
    sleep(A_MINUTE).await;
    log.openings().await.unwrap();
    assert_ne!(log.opening(), first);
    table.set_lag(1_000);
    table.fail_over(false);
    table.init(first.manager).await.unwrap();
    let other = open(&table).await;
    let restored = other.opening();
    assert_eq!(restored.epoch, first.epoch);
    other.shutdown().await.unwrap();
    link.set_delay(Duration::from_millis(10));
    let (asked, ()) = tokio::join!(log.openings(), async {
        sleep(Duration::from_millis(15)).await;
        link.fail_next(TableStep::Read, TableFault::NotSent);
    });
    asked.unwrap_err();
    let states = log.openings().await.unwrap();
    let state = states.iter().find(|state| state.opening == restored);
    assert!(state.is_some_and(|state| state.closed), "{states:?}");
}
