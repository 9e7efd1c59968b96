//! What a crash of the server leaves, where the place can crash it.

use unanimous_core::ports::{DecisionTable, RowState};
use unanimous_core::xid::ResourceName;

use super::{PENDING, Place, ROLLED_BACK, Suite, random, row, slot, until_answered};

/// The server is there again as soon as it answers.
async fn wait_for(table: &dyn DecisionTable) {
    let checked = until_answered(|| table.check()).await;
    checked.expect("the tables are there");
}

/// Each crash directly follows the answer.
pub async fn what_is_forced_survives_a_crash<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    if !place.crash().await {
        return;
    }
    wait_for(&*suite.table).await;
    assert_eq!(suite.opening(suite.own.epoch).await.opening, suite.own);

    assert_eq!(suite.decide(&[suite.row(1)]).await, [PENDING]);
    place.crash().await;
    wait_for(&*suite.table).await;
    assert_eq!(suite.pending().await, [suite.row(1)]);

    let refused = suite.row(2);
    let put = suite.table.put_rollback(refused.gtrid).await;
    assert_eq!(put.expect("it can be put"), RowState::RolledBack);
    place.crash().await;
    wait_for(&*suite.table).await;
    assert_eq!(suite.decide(&[refused]).await, [ROLLED_BACK]);

    let orders: ResourceName = "orders".parse().expect("a name");
    let gtrid = suite.own.gtrid(1);
    let noted = suite.table.record_heuristic(gtrid, &orders, 'r').await;
    noted.expect("it can be noted");
    place.crash().await;
    wait_for(&*suite.table).await;
    assert_eq!(suite.find(gtrid).await.heuristics, [(orders, 'r')]);

    let last = suite.row(3);
    let statement = suite.table.last_statement(slot(suite.own, 0), &last);
    let key = format!("crash-{:x}", random());
    let mut branch = place.branch(last.gtrid, &key).await;
    let reply = branch.commit_last(&statement).await;
    place.crash().await;
    wait_for(&*suite.table).await;
    assert_eq!(
        suite.state(last.gtrid).await,
        Some(RowState::Pending),
        "{reply:?}"
    );
    assert!(place.is_committed(&key).await);

    suite.close(suite.own.epoch).await;
    place.crash().await;
    wait_for(&*suite.table).await;
    assert!(suite.opening(suite.own.epoch).await.is_closed);
    let next = suite.join().await;
    assert!(next.epoch > suite.own.epoch);
    assert_eq!(suite.decide(&[row(next, 1)]).await, [PENDING]);
}

/// Also what others wrote without forcing it: whoever acts on it may rely on it, a member whose
/// epoch was released meanwhile included.
pub async fn what_was_read_survives_a_crash<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = [suite.row(1), suite.row(2), suite.row(3)];
    suite.decide(&rows).await;
    let gone = suite.join().await.epoch;
    suite.close(gone).await;
    let released = suite.table.release(gone).await;
    released.expect("a closed epoch can be released");
    for (number, row) in rows.iter().enumerate() {
        let completed = place.table().complete(&[row.gtrid]).await;
        completed.expect("a row can be completed");
        let left = rows[number + 1..].to_vec();
        let reader = if number == 2 { gone } else { suite.own.epoch };
        if number == 1 {
            let found = suite.table.find(row.gtrid, Some(reader)).await;
            let state = found.expect("the table can be read").row;
            assert_eq!(state.map(|(state, _)| state), Some(RowState::Completed));
        } else {
            let read = suite.table.read(reader, Some(reader)).await;
            let pending = read.expect("the table can be read").pending.len();
            assert_eq!(pending, left.len());
        }
        if !place.crash().await {
            return;
        }
        wait_for(&*suite.table).await;
        assert_eq!(suite.pending().await, left, "read before the crash");
    }
}
