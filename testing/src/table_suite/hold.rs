//! Nothing new is decided while decisions are held.

use std::time::Duration;

use tokio::task::JoinHandle;
use unanimous_core::ports::{HeldDecisions, RowAnswer, RowState, SLOTS};

use super::{PENDING, Place, Suite, row, slot, until_answered};

async fn hold<P: Place>(suite: &Suite<'_, P>) -> Box<dyn HeldDecisions> {
    let held = until_answered(|| suite.table.hold()).await;
    held.expect("decisions can be held")
}

/// Gives tasks that must not end some time to do so.
async fn assert_wait<R>(tasks: &[JoinHandle<R>]) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ended = tasks.iter().filter(|task| task.is_finished()).count();
    assert_eq!(ended, 0, "it does not wait");
}

/// In every slot of every epoch; and nobody joins, or closes.
pub async fn what_is_new_waits_until_decisions_are_set_free<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let other = suite.join().await;
    let mut held = hold(&suite).await;
    let mut waiting = Vec::new();
    for (opening, number) in [suite.own, other].into_iter().zip([0, SLOTS - 1]) {
        let (table, row) = (place.table(), row(opening, 1));
        waiting.push(tokio::spawn(async move {
            let rows = std::slice::from_ref(&row);
            let decided = until_answered(|| table.decide(slot(opening, number), None, rows)).await;
            assert_eq!(decided.expect("it is free").answers, [PENDING]);
        }));
    }
    let table = place.table();
    waiting.push(tokio::spawn(async move {
        let joined = until_answered(|| table.join(7, "late")).await;
        let joined = joined.expect("it is free").opening;
        let rows = [row(joined, 1)];
        let decided = until_answered(|| table.decide(slot(joined, 0), None, &rows)).await;
        assert_eq!(decided.expect("it is free").answers, [PENDING]);
    }));
    assert_wait(&waiting).await;
    for (opening, number) in [(suite.own, 3), (other, SLOTS - 2)] {
        let statement = suite
            .table
            .last_statement(slot(opening, number), &row(opening, 2));
        let deciding = place.hold(&statement);
        let deciding = tokio::time::timeout(Duration::from_millis(300), deciding).await;
        assert!(!matches!(deciding, Ok(Ok(_))), "a last resource is held");
    }
    assert_eq!(suite.pending().await, []);
    held.check().await.expect("it holds");
    held.end().await.expect("it has held until now");
    for task in waiting {
        task.await.expect("no panic");
    }
    assert_eq!(suite.pending().await.len(), 3);
    suite.close(other.epoch).await;
}

/// Without any lock in the way, each in one attempt; also beside somebody who joins and waits.
pub async fn what_was_decided_is_ended_while_decisions_are_held<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let closed = suite.join().await;
    suite.close(closed.epoch).await;
    let rows = suite.rows_in_every_state().await;
    let held = hold(&suite).await;
    let table = place.table();
    let joining = tokio::spawn(async move { until_answered(|| table.join(7, "late")).await });
    assert_wait(std::slice::from_ref(&joining)).await;
    let table = place.table();
    table.check().await.expect("no lock");
    table.beat(suite.own.epoch).await.expect("no lock");
    let read = table.read(suite.own.epoch, Some(suite.own.epoch)).await;
    assert_eq!(read.expect("no lock").pending, rows[..1]);
    let found = table.find(rows[0].gtrid, Some(suite.own.epoch)).await;
    assert!(found.expect("no lock").row.is_some());
    let name = "orders".parse().expect("a name");
    let noted = table.record_heuristic(rows[0].gtrid, &name, 'R').await;
    noted.expect("no lock");
    table.complete(&[rows[0].gtrid]).await.expect("no lock");
    table.forget(&[rows[1].gtrid]).await.expect("no lock");
    let put = table.put_rollback(suite.own.gtrid(99)).await;
    assert_eq!(put.expect("no lock"), RowState::RolledBack);
    table.close(closed.epoch).await.expect("no lock");
    // Whoever has lost its epoch is told so, and whoever has no member's row reads on.
    let late = [row(closed, 1)];
    let told = table.decide(slot(closed, 0), None, &late).await;
    assert_eq!(told.expect("no lock").answers, [RowAnswer::EpochClosed]);
    table.release(closed.epoch).await.expect("no lock");
    let told = table.decide(slot(closed, 0), None, &late).await;
    assert!(told.expect("no lock").is_released);
    let read = table.read(suite.own.epoch, Some(closed.epoch)).await;
    assert_eq!(read.expect("no lock").pending, []);
    let found = table.find(late[0].gtrid, Some(closed.epoch)).await;
    assert_eq!(found.expect("no lock").row, None);
    assert_eq!(suite.pending().await, []);
    held.end().await.expect("it has held until now");
    joining.await.expect("no panic").expect("it is free");
}

/// Its decision is there then, or will never be.
pub async fn holding_waits_for_a_last_resource<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    for (sequence, commits) in [(1, true), (2, false)] {
        let row = suite.row(sequence);
        let statement = suite.table.last_statement(slot(suite.own, 6), &row);
        let deciding = place.hold(&statement).await.expect("the statement runs");
        let table = place.table();
        let holding = tokio::spawn(async move { until_answered(|| table.hold()).await });
        assert_wait(std::slice::from_ref(&holding)).await;
        if commits {
            deciding.commit().await;
        } else {
            deciding.rollback().await;
        }
        let held = holding.await.expect("no panic");
        let state = commits.then_some(RowState::Pending);
        assert_eq!(suite.state(row.gtrid).await, state);
        held.expect("it is free").end().await.expect("it has held");
    }
}

/// And two hold them one after the other.
pub async fn whoever_is_gone_holds_nothing<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let first = hold(&suite).await;
    let table = place.table();
    let second = tokio::spawn(async move { until_answered(|| table.hold()).await });
    assert_wait(std::slice::from_ref(&second)).await;
    drop(first);
    let second = second.await.expect("no panic").expect("it is free");
    drop(second);
    let table = place.table();
    let rows = [suite.row(1)];
    let decided = until_answered(|| table.decide(slot(suite.own, 0), None, &rows)).await;
    assert_eq!(decided.expect("it is free").answers, [PENDING]);
}
