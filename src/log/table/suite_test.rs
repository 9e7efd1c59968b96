//! The suite of decision logs over a table in memory.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{
    DecideError, DecisionLog, DecisionRecord, DecisionRow, DecisionTable, EpochSlot, LogHome,
    Lookup, Refusal, RowState,
};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::Opening;
use unanimous_testing::log_suite::{self, Place};
use unanimous_testing::{Event, LogStep, MemoryTable, TableStep};

use super::TableLog;

struct Table(MemoryTable);

impl Place for Table {
    fn home(&self) -> Box<dyn LogHome> {
        // Nobody is suspected while the suite runs.
        let patience = Duration::from_secs(3600);
        let log = TableLog::on(&self.0).suspect_after(patience);
        Box::new(log)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// With time enough for others on the way of every question and every answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_log_passes_the_suite_over_a_slow_network() {
    log_suite::run(async || {
        let table = MemoryTable::new("log 1");
        table.set_delay(Duration::from_millis(1));
        Table(table)
    })
    .await;
}

#[tokio::test]
async fn the_table_log_passes_the_suite() {
    log_suite::run(async || Table(MemoryTable::new("log 1"))).await;
}

fn record(opening: Opening, sequence: u64) -> DecisionRecord {
    DecisionRecord {
        gtrid: opening.gtrid(sequence),
        branches: Vec::new(),
    }
}

/// A log that goes to another home takes the labels along, and each home has its limits.
#[tokio::test]
async fn a_label_is_cut_where_it_is_given() {
    let table = MemoryTable::new("log 1");
    let label = format!("a\n\u{7}{}", "\u{f6}".repeat(300));
    let log = Box::new(TableLog::on(&table).label(label));
    let members = log.open().await.unwrap().members().await.unwrap();
    assert_eq!(members[0].label, format!("a{}", "\u{f6}".repeat(99)));
}

#[tokio::test]
async fn i5_a_member_that_a_fail_over_has_lost_closes_nobody_elses_epoch() {
    let table = MemoryTable::new("log 1");
    let place = Table(table.clone());
    let lost = place.home().open().await.unwrap();
    let before = lost.opening();
    // Its opening goes, and the next one gets its number.
    table.fail_over(false);
    let other = place.home().open().await.unwrap();
    let of_other = other.opening();
    assert_eq!(of_other.epoch, before.epoch);
    assert_ne!(of_other.nonce, before.nonce);
    // Whatever is answered: it learns from it where it is.
    let _ = lost.decide(&record(before, 1)).await;
    while lost.opening() == before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other.decide(&record(of_other, 1)).await.unwrap();
    let now = lost.opening();
    lost.decide(&record(now, 1)).await.unwrap();
    let listed = table.read(before.epoch, None).await.unwrap().openings;
    let open: Vec<_> = listed
        .iter()
        .map(|row| (row.opening, row.is_closed))
        .collect();
    assert_eq!(open, [(of_other, false), (now, false)]);
}

/// Forced, and not only sent: it survives the server, too. While it cannot be, this is told, and
/// nothing is forgotten.
#[tokio::test]
async fn what_is_forced_survives_a_crash_of_the_table() {
    let table = MemoryTable::new("log 1");
    let log = Table(table.clone()).home().open().await.unwrap();
    let gtrids = [1, 2].map(|sequence| log.opening().gtrid(sequence));
    for sequence in [1, 2] {
        log.decide(&record(log.opening(), sequence)).await.unwrap();
    }
    log.complete(gtrids[0]);
    log.force().await.unwrap();
    table.crash();
    assert_eq!(table.row(gtrids[0]), Some(RowState::Completed));
    log.complete(gtrids[1]);
    table.set_reachable(false);
    log.force().await.unwrap_err();
    table.set_reachable(true);
    log.force().await.unwrap();
    table.crash();
    assert_eq!(table.row(gtrids[1]), Some(RowState::Completed));
}

/// Each waits for whoever holds its key; all at once they would take every session that there is.
#[tokio::test]
async fn i6_last_resources_that_wait_to_be_settled_leave_sessions_to_the_others() {
    let table = MemoryTable::new("log 1");
    let log = Table(table.clone()).home().open().await.unwrap();
    let keys: Vec<_> = (0..12)
        .map(|_| table.hang_next(TableStep::PutRollback))
        .collect();
    let settling: Vec<_> = (0..12)
        .map(|sequence| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.settle_last(&record(log.opening(), sequence)).await })
        })
        .collect();
    for key in &keys[..2] {
        key.reached().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!keys[2].is_reached(), "a third one waits with them");
    for key in &keys {
        key.release();
    }
    for settled in settling {
        let refused = settled.await.unwrap().unwrap_err();
        assert!(matches!(
            refused,
            DecideError::Refused(Refusal::LastRolledBack)
        ));
    }
}

/// An opening that no server lists is nobody's: its branches are shown, and never touched.
#[tokio::test]
async fn i3_after_a_fail_over_nothing_is_listed_that_the_new_server_does_not_list() {
    let table = MemoryTable::new("log 1");
    let place = Table(table.clone());
    let log = place.home().open().await.unwrap();
    let lost = place.home().open().await.unwrap().opening();
    let lists = async || {
        let openings = log.openings().await.unwrap();
        openings.iter().any(|listed| listed.opening == lost)
    };
    assert!(lists().await);
    table.fail_over(false);
    assert!(!table.openings().iter().any(|row| row.opening == lost));
    assert!(!lists().await);
    let members = log.members().await.unwrap();
    assert!(!members.iter().any(|member| member.opening == lost));
}

/// A member, and another that sees how long it gives no sign of life. What the first asks goes over
/// the link that is answered, too.
async fn watched() -> (
    MemoryTable,
    std::sync::Arc<dyn DecisionLog>,
    std::sync::Arc<dyn DecisionLog>,
) {
    let link = MemoryTable::new("log 1");
    let log = |table: &MemoryTable| Box::new(TableLog::on(table).suspect_after(SUSPECT_AFTER));
    let silent = log(&link).open().await.unwrap();
    let other = log(&link.another_link()).open().await.unwrap();
    (link, silent, other)
}

const SUSPECT_AFTER: Duration = Duration::from_secs(10);

/// For how long `log` was not heard of at most, as `by` sees it, in this time.
async fn silence(by: &dyn DecisionLog, log: Opening, time: Duration) -> Duration {
    let end = tokio::time::Instant::now() + time;
    let mut longest = Duration::ZERO;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(SUSPECT_AFTER / 40).await;
        let members = by.members().await.unwrap();
        let member = members.iter().find(|member| member.opening == log);
        let member = member.unwrap();
        assert!(!member.is_closed, "it lives");
        longest = longest.max(member.silent_for);
    }
    longest
}

/// A connection that has died says nothing: the answer is not waited for as long as for a decision.
#[tokio::test(start_paused = true)]
async fn i5_a_sign_of_life_that_is_not_answered_silences_its_member_for_a_third_of_the_time() {
    let (link, log, other) = watched().await;
    let own = log.opening();
    // Each round counts one, and a round of either member may just have passed.
    let rounds = SUSPECT_AFTER / 5;
    assert!(silence(&*other, own, 2 * SUSPECT_AFTER).await <= rounds);
    let _lost = link.hang_next(TableStep::Beat);
    let silent = silence(&*other, own, 3 * SUSPECT_AFTER).await;
    let third = SUSPECT_AFTER / 3;
    assert!(silent >= third - rounds, "one was lost: {silent:?}");
    assert!(silent <= third + rounds, "{silent:?}");
}

#[tokio::test(start_paused = true)]
async fn i5_two_signs_of_life_in_a_row_that_are_not_answered_do_not_close_an_epoch() {
    let (link, log, other) = watched().await;
    let own = log.opening();
    let _lost = [TableStep::Beat; 2].map(|step| link.hang_next(step));
    silence(&*other, own, 3 * SUSPECT_AFTER).await;
    assert_eq!(log.opening(), own);
}

/// Whatever becomes of what was closed long ago.
#[tokio::test(start_paused = true)]
async fn i6_a_dead_member_is_closed_while_old_epochs_cannot_be_released() {
    let (link, _log, dies) = watched().await;
    let other_link = link.another_link();
    let mut hung = Vec::new();
    for random in 0..20 {
        let old = other_link.join(random, "old").await.unwrap();
        other_link.close(old.opening.epoch).await.unwrap();
        hung.push(link.hang_next(TableStep::Release));
    }
    // They are released every 600 rounds of a second, from an hour on.
    tokio::time::sleep(Duration::from_secs(4195)).await;
    let dead = dies.opening();
    drop(dies);
    tokio::time::sleep(4 * SUSPECT_AFTER).await;
    let asked = Event::Log(LogStep::Table(TableStep::Release));
    assert!(link.journal().events().contains(&asked));
    let rows = link.openings();
    let row = rows.iter().find(|row| row.opening == dead).unwrap();
    assert!(row.is_closed);
}

#[tokio::test]
async fn whoever_only_looks_records_nothing() {
    let table = MemoryTable::new("log 1");
    let log = Table(table.clone()).home().open().await.unwrap();
    let looks = Box::new(TableLog::on(&table).observer());
    let looks = looks.open().await.unwrap();
    let resource = "ledger".parse().unwrap();
    let gtrid = log.opening().gtrid(1);
    let refused = looks.record_heuristic(gtrid, &resource, Heuristic::Rollback);
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("is only looked at"), "{refused}");
    assert_eq!(log.heuristics().await.unwrap().len(), 0);
}

/// Seen in the crash matrix: `completed` said that every branch was committed.
#[tokio::test]
async fn i1_while_the_table_is_away_nobody_is_told_that_a_heuristic_end_was_a_commit() {
    let table = MemoryTable::new("log 1");
    let log = Table(table.clone()).home().open().await.unwrap();
    let decision = record(log.opening(), 1);
    let gtrid = decision.gtrid;
    log.decide(&decision).await.unwrap();
    let resource = "ledger".parse().unwrap();
    let ended = Heuristic::Rollback;
    log.record_heuristic(gtrid, &resource, ended).await.unwrap();
    log.complete(gtrid);
    table.set_reachable(false);
    log.lookup(gtrid).await.unwrap_err();
    table.set_reachable(true);
    let told = Lookup::Heuristic {
        ends: vec![(resource, ended)],
        beside: Box::new(Lookup::Completed),
    };
    assert_eq!(log.lookup(gtrid).await.unwrap(), told);
}

/// Seen in the crash matrix: the answer was from before the record, what was remembered from after
/// it.
#[tokio::test(start_paused = true)]
async fn i1_a_heuristic_end_that_is_recorded_during_a_question_is_told() {
    let table = MemoryTable::new("log 1");
    let log = Table(table.clone()).home().open().await.unwrap();
    let decision = record(log.opening(), 1);
    let gtrid = decision.gtrid;
    log.decide(&decision).await.unwrap();
    let resource = "ledger".parse().unwrap();
    let ended = Heuristic::Rollback;
    table.set_delay(Duration::from_millis(200));
    let asking = tokio::spawn({
        let log = std::sync::Arc::clone(&log);
        async move { log.lookup(gtrid).await.unwrap() }
    });
    // The question has been answered, and the answer is on its way.
    tokio::time::sleep(Duration::from_millis(250)).await;
    table.set_delay(Duration::ZERO);
    log.record_heuristic(gtrid, &resource, ended).await.unwrap();
    log.complete(gtrid);
    assert!(!asking.is_finished());
    let told = Lookup::Heuristic {
        ends: vec![(resource, ended)],
        beside: Box::new(Lookup::Completed),
    };
    assert_eq!(asking.await.unwrap(), told);
}

/// A server took over from one that nobody has stopped, and what leads to them has changed its mind
/// in between: what the one says of a row is not believed for the other's opening.
#[tokio::test]
async fn i1_two_servers_that_answer_a_last_resource_do_not_make_one_refusal() {
    let old = MemoryTable::new("log 1");
    let log = Table(old.clone()).home().open().await.unwrap();
    let decision = record(log.opening(), 1);
    let successor = MemoryTable::new("log 2");
    let manager = decision.gtrid.opening.manager;
    successor.init(manager).await.unwrap();
    for is_decided in [false, true] {
        if is_decided {
            let at = EpochSlot {
                epoch: decision.gtrid.opening.epoch,
                slot: 0,
            };
            let row = DecisionRow {
                gtrid: decision.gtrid,
                branches: String::new(),
            };
            old.decide(at, None, &[row]).await.unwrap();
        }
        old.answer_next(TableStep::PutRollback, &successor);
        let told = log.settle_last(&decision).await.unwrap_err();
        assert!(matches!(told, DecideError::Uncertain(_)), "{told}");
    }
    assert_eq!(successor.row(decision.gtrid), Some(RowState::RolledBack));
    assert!(log.settle_last(&decision).await.is_ok());
}
