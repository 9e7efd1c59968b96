//! Members on one table log against each other, against fail-overs, and against those who drop or
//! restore its tables: nobody is told what nobody knows, and nothing is left behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use unanimous::log::TableLog;
use unanimous::ports::{
    BranchRecord, DecideError, DecisionLog, DecisionRecord, DecisionTable, Evidence, HandRow,
    LogHome, Lookup, ResourceManager, ServerIdentity,
};
use unanimous::{Planned, TransactionManager, Xid};
use unanimous_core::xid::{ManagerId, Opening};
use unanimous_testing::{MemoryResource, MemoryTable, TableFault, TableStep};

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

/// It was away while another server had the log, and its own has come back with that one's data.
#[tokio::test(start_paused = true)]
async fn i3_a_server_that_came_back_with_anothers_data_refuses_nobody() {
    let table = MemoryTable::new("log");
    let link = table.another_link();
    let owner = open(&link).await;
    let decided = decision(owner.opening(), 1);
    link.fail_next(TableStep::Decide, TableFault::LoseReply);
    owner.decide(&decided).await.unwrap_err();
    assert!(table.row(decided.gtrid).is_some());
    link.set_reachable(false);
    table.fail_over(false);
    let other = open(&table).await;
    other.close(decided.gtrid.opening.epoch).await.unwrap();
    table.move_to("log");
    link.set_reachable(true);
    let told = owner.decide(&decided).await.unwrap_err();
    assert!(!matches!(told, DecideError::Refused(_)), "{told}");
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
    // One that was under way is rolled back.
    assert_eq!(log.last_statement(&old, &stale), None);
    assert!(log.takes_last(&scope(&table).await), "at the new one");
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

/// Whoever asks first is told at once; an earlier attempt of another decision still holds its key.
#[tokio::test(start_paused = true)]
async fn one_that_waits_for_its_key_holds_up_and_refuses_nobody_else() {
    let table = MemoryTable::new("log");
    let log = open(&table).await;
    let [stuck, other] = [1, 2].map(|sequence| decision(log.opening(), sequence));
    table.fail_next(TableStep::Decide, TableFault::LoseRequest);
    log.decide(&stuck).await.unwrap_err();
    let statement = log.last_statement(&scope(&table).await, &stuck);
    let held = table.hold(&statement.unwrap()).unwrap();
    let (again, first) = tokio::join!(log.decide(&stuck), log.decide(&other));
    assert!(matches!(again, Err(DecideError::Uncertain(_))), "{again:?}");
    first.unwrap();
    held.commit();
    log.decide(&stuck).await.unwrap();
}

/// The fail-over has lost that its epoch was closed, on the strength of which others have rolled
/// back what it had not decided.
#[tokio::test(start_paused = true)]
async fn i1_a_member_whose_closing_was_lost_decides_nothing_under_its_epoch() {
    let table = MemoryTable::new("log");
    let log = open(&table.another_link()).await;
    let other = open(&table.another_link()).await;
    let [first, asked_before] = [1, 2].map(|sequence| decision(log.opening(), sequence));
    let before = log.opening();
    other.close(before.epoch).await.unwrap();
    table.fail_over(false);
    let rows = table.openings();
    let row = rows.iter().find(|row| row.opening == before).unwrap();
    assert!(!row.is_closed, "that is lost");
    let told = log.decide(&first).await.unwrap_err();
    assert!(matches!(told, DecideError::Refused(_)), "{told}");
    assert_eq!(table.row_count(), 0);
    sleep(A_MINUTE).await;
    assert_ne!(log.opening(), before);
    log.decide(&asked_before).await.unwrap_err();
    assert_eq!(table.row_count(), 0);
    log.decide(&decision(log.opening(), 1)).await.unwrap();
}

/// What was asked before the fail-over, and may have been recorded there: nobody can tell.
#[tokio::test(start_paused = true)]
async fn i3_a_decision_that_a_fail_over_may_have_lost_ends_as_lost() {
    let table = MemoryTable::new("log");
    let log = open(&table).await;
    let asked = decision(log.opening(), 1);
    table.fail_next(TableStep::Decide, TableFault::LoseReply);
    let told = log.decide(&asked).await.unwrap_err();
    assert!(matches!(told, DecideError::Uncertain(_)), "{told}");
    table.fail_over(false);
    assert_eq!(table.row(asked.gtrid), None, "it was recorded, and is lost");
    let told = log.decide(&asked).await.unwrap_err();
    assert!(
        matches!(told, DecideError::Uncertain(_)),
        "it has not left its epoch: {told}"
    );
    sleep(A_MINUTE).await;
    for _ in 0..2 {
        let told = log.decide(&asked).await.unwrap_err();
        assert!(matches!(told, DecideError::MayBeLost(_)), "{told}");
    }
    assert_eq!(log.lookup(asked.gtrid).await.unwrap(), Lookup::MayBeLost);
}

/// One that the fail-over has kept is answered as ever.
#[tokio::test(start_paused = true)]
async fn i3_a_decision_that_a_fail_over_has_kept_is_found_again() {
    let table = MemoryTable::new("log");
    let log = open(&table).await;
    let [asked, later] = [1, 2].map(|sequence| decision(log.opening(), sequence));
    table.fail_next(TableStep::Decide, TableFault::LoseReply);
    log.decide(&asked).await.unwrap_err();
    log.decide(&later).await.unwrap();
    // Only the last one is lost.
    table.fail_over(false);
    assert_eq!(table.row(later.gtrid), None);
    log.decide(&asked).await.unwrap();
}

/// Asked for more than an hour after its epoch was closed.
#[tokio::test(start_paused = true)]
async fn i3_a_decision_of_a_released_epoch_ends_as_lost_and_leaves_no_row() {
    let table = MemoryTable::new("log");
    let link = table.another_link();
    let log = open(&link).await;
    let other = open(&table).await;
    let [asked, last] = [1, 2].map(|sequence| decision(log.opening(), sequence));
    link.fail_next(TableStep::Decide, TableFault::LoseRequest);
    log.decide(&asked).await.unwrap_err();
    let epoch = log.opening().epoch;
    other.close(epoch).await.unwrap();
    table.release(epoch).await.unwrap();
    sleep(A_MINUTE).await;
    let told = log.decide(&asked).await.unwrap_err();
    assert!(matches!(told, DecideError::MayBeLost(_)), "{told}");
    let told = log.settle_last(&last).await.unwrap_err();
    assert!(matches!(told, DecideError::MayBeLost(_)), "{told}");
    assert_eq!(table.row_count(), 0);
}

/// It has joined anew twice.
#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_leaves_nothing_of_its_earlier_epochs() {
    let table = MemoryTable::new("log");
    let log = open(&table).await;
    for sequence in 1..=3 {
        let own = log.opening();
        let decided = decision(own, sequence);
        log.decide(&decided).await.unwrap();
        log.complete(decided.gtrid);
        if sequence < 3 {
            table.close(own.epoch).await.unwrap();
            sleep(A_MINUTE).await;
            assert_ne!(log.opening(), own);
        }
    }
    assert_eq!(table.row_count(), 3);
    log.shutdown().await.unwrap();
    let rows = table.openings();
    assert_eq!(rows.len(), 3);
    assert!(
        rows.iter().all(|row| row.is_closed && row.is_released),
        "{rows:?}"
    );
    assert_eq!(table.row_count(), 0);
}

/// Neither the decision nor the closing was forced by whoever wrote it. Whoever reads both acts on
/// them.
#[tokio::test(start_paused = true)]
async fn i1_what_a_member_has_read_is_forced_before_it_is_acted_upon() {
    for is_one in [false, true] {
        let table = MemoryTable::new("log");
        let link = table.another_link();
        let [owner, other] = [open(&link).await, open(&link).await];
        let reader = open(&table).await;
        let decided = decision(owner.opening(), 1);
        for step in [TableStep::Decide, TableStep::Close] {
            link.fail_next(step, TableFault::LoseForce);
        }
        owner.decide(&decided).await.unwrap_err();
        other.close(decided.gtrid.opening.epoch).await.unwrap_err();
        let told = if is_one {
            let found = reader.lookup(decided.gtrid).await.unwrap();
            found == Lookup::Pending(decided.clone())
        } else {
            reader.snapshot().await.unwrap().pending == [decided.clone()]
        };
        assert!(told);
        table.crash();
        assert!(table.row(decided.gtrid).is_some(), "it was acted upon");
    }
}

/// It has joined anew meanwhile; others have rolled back what it had not decided.
#[tokio::test(start_paused = true)]
async fn i1_a_last_resource_decides_under_the_epoch_of_its_transaction_alone() {
    let table = MemoryTable::new("log");
    let [log, other] = [open(&table).await, open(&table).await];
    let [stale, new] = {
        let before = log.opening();
        other.close(before.epoch).await.unwrap();
        sleep(A_MINUTE).await;
        assert_ne!(log.opening(), before);
        [before, log.opening()].map(|opening| decision(opening, 1))
    };
    let scope = scope(&table).await;
    let statement = log.last_statement(&scope, &stale).unwrap();
    table.hold(&statement).unwrap_err();
    let statement = log.last_statement(&scope, &new).unwrap();
    table.hold(&statement).unwrap().commit();
    assert_eq!(table.row_count(), 1);
}

/// A newer release has written it, or somebody has changed it.
#[tokio::test(start_paused = true)]
async fn i6_a_record_by_hand_that_cannot_be_read_keeps_its_own_branch_and_no_other() {
    let table = MemoryTable::new("log");
    let dead = open(&table).await;
    let ledger = MemoryResource::new("ledger");
    let xids = [1, 2].map(|sequence| Xid {
        gtrid: dead.opening().gtrid(sequence),
        bqual: ledger.name().clone(),
    });
    for (xid, key) in xids.iter().zip(["one", "two"]) {
        ledger.server().plant(xid, &[(key, "1")]);
    }
    let row = HandRow {
        id: 1,
        gtrid: xids[0].gtrid,
        resource: xids[0].bqual.clone(),
        state: 'I',
        words: "act of another kind\n".into(),
    };
    table.record_by_hand(&row).await.unwrap();
    dead.close(dead.opening().epoch).await.unwrap();
    let builder = TransactionManager::builder().log(TableLog::on(&table));
    let tm = builder.resource(&ledger).start().await.unwrap();
    tm.recover().await;
    assert_eq!(ledger.server().prepared(), [xids[0].clone()]);
    let survey = tm.survey().await;
    let [branch] = &survey.resources[0].branches[..] else {
        panic!("{survey:?}");
    };
    let waits = matches!(&branch.planned, Planned::Wait(why) if why.contains("cannot be read"));
    assert!(waits, "as the pass says: {branch:?}");
    // Whoever needs all of them is told.
    dead.by_hand().await.unwrap_err();
    tm.shutdown().await.unwrap();
}

/// Nobody waits for it any more, and it waits for its turn: it will be recorded.
#[tokio::test(start_paused = true)]
async fn i3_a_decision_that_waits_for_its_turn_was_attempted() {
    let link = MemoryTable::new("log");
    let log = open(&link).await;
    let [first, second] = [1, 2].map(|sequence| decision(log.opening(), sequence));
    let writing = link.hang_next(TableStep::Decide);
    let deciding = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.decide(&first).await }
    });
    sleep(Duration::from_secs(1)).await;
    timeout(Duration::from_secs(1), log.decide(&second))
        .await
        .unwrap_err();
    let leaving = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.shutdown().await }
    });
    sleep(Duration::from_millis(100)).await;
    let told = log.decide(&second).await.unwrap_err();
    assert!(!matches!(told, DecideError::Refused(_)), "{told}");
    writing.release();
    let _ = deciding.await;
    let _ = leaving.await;
}

/// Whoever forces waits for what was completed before.
#[tokio::test(start_paused = true)]
async fn i6_forcing_ends_while_more_is_completed_than_one_write_takes() {
    let link = MemoryTable::new("log");
    let log = open(&link).await;
    let opening = log.opening();
    link.set_delay(Duration::from_millis(10));
    let busy = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            for sequence in 0.. {
                log.complete(opening.gtrid(sequence));
                if sequence % 100 == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
    });
    sleep(Duration::from_millis(50)).await;
    timeout(Duration::from_secs(3), log.force())
        .await
        .unwrap()
        .unwrap();
    busy.abort();
}
