//! Rows: decided, completed, forgotten, refused.

use tokio::task::JoinSet;
use unanimous_core::ports::{DecisionRow, RowAnswer, RowState, SLOTS};

use super::{COMPLETED, PENDING, Place, ROLLED_BACK, Suite, row, slot, texts, until_answered};

/// By others, at once; and nothing else is.
pub async fn a_decision_is_found_and_read<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let identity = suite.table.check().await.expect("it is there").identity;
    let rows: Vec<_> = (0..u64::from(SLOTS)).map(|n| suite.row(n)).collect();
    for (number, row) in (0..).zip(&rows) {
        let at = slot(suite.own, number);
        let decided = suite
            .table
            .decide(at, None, std::slice::from_ref(row))
            .await;
        let decided = decided.expect("every slot takes decisions");
        assert_eq!(decided.answers, [PENDING]);
        assert_eq!(decided.identity, identity);
        assert!(!decided.is_released);
    }
    for row in &rows {
        let found = suite.find(row.gtrid).await;
        assert_eq!(found.row, Some((RowState::Pending, row.branches.clone())));
        assert_eq!(found.opening.map(|line| line.opening), Some(suite.own));
        assert_eq!(found.heuristics, []);
    }
    let twice = suite.table.find_all(&[rows[0].gtrid; 2], None).await;
    let twice = twice.expect("it can be read");
    assert!(twice.len() == 2 && twice.iter().all(|found| found.row.is_some()));
    let snapshot = suite.read(suite.own.epoch).await;
    assert_eq!((snapshot.pending, snapshot.identity), (rows, identity));
    assert_eq!(suite.find(suite.own.gtrid(99)).await.row, None);
    let unforced = suite.table.find(suite.own.gtrid(0), None).await;
    assert!(unforced.expect("it can be read").row.is_some());
    let unforced = suite.table.read(suite.own.epoch, None).await;
    let pending = unforced.expect("it can be read").pending;
    assert_eq!(pending.len(), SLOTS as usize);
}

/// Whatever stands in it, and whatever its number.
pub async fn a_decision_comes_back_exactly<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let mut rows: Vec<_> = (0..)
        .zip(texts())
        .map(|(n, text)| DecisionRow {
            gtrid: suite.own.gtrid(n),
            branches: text,
        })
        .collect();
    rows.push(row(suite.own, u64::MAX));
    for row in &rows {
        let answers = suite.decide(std::slice::from_ref(row)).await;
        assert_eq!(answers, [PENDING], "{:.80?}", row.branches);
        let found = suite.find(row.gtrid).await.row;
        assert_eq!(found, Some((RowState::Pending, row.branches.clone())));
    }
    assert_eq!(suite.pending().await, rows);
    let batch: Vec<_> = rows
        .iter()
        .map(|row| DecisionRow {
            gtrid: suite.own.gtrid(1000 + row.gtrid.sequence % 500),
            branches: row.branches.clone(),
        })
        .collect();
    assert!(suite.decide(&batch).await.iter().all(|a| *a == PENDING));
    for row in &batch {
        let found = suite.find(row.gtrid).await.row;
        assert_eq!(found, Some((RowState::Pending, row.branches.clone())));
    }
}

/// In whatever state it stands, and whatever is written on the second attempt.
pub async fn deciding_again_changes_nothing<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    let mut other = rows.clone();
    for row in &mut other {
        row.branches = "other".into();
    }
    for _ in 0..2 {
        let answers = suite.decide(&other[..1]).await;
        assert_eq!(answers, [PENDING]);
        assert_eq!(suite.decide(&other[1..2]).await, [COMPLETED]);
        assert_eq!(suite.decide(&other[2..3]).await, [ROLLED_BACK]);
    }
    let found = suite.find(rows[0].gtrid).await.row;
    assert_eq!(found, Some((RowState::Pending, rows[0].branches.clone())));
    let states = [RowState::Completed, RowState::RolledBack];
    for (row, state) in rows[1..].iter().zip(states) {
        assert_eq!(suite.state(row.gtrid).await, Some(state));
    }
    assert_eq!(suite.pending().await, rows[..1]);
}

/// Two hundred rows at a time, in their order, some of which stand.
pub async fn a_batch_is_answered_row_by_row<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    // Backwards: the order of the answers is that of the rows, not of the keys.
    let mut rows: Vec<_> = (0..200).rev().map(|n| suite.row(n)).collect();
    assert_eq!(suite.decide(&rows[120..121]).await, [PENDING]);
    assert!(suite.decide(&rows).await.iter().all(|a| *a == PENDING));
    rows.extend((200..400).map(|n| suite.row(n)));
    let done = [rows[7].gtrid, rows[150].gtrid];
    let completed = suite.table.complete(&done).await;
    completed.expect("rows can be completed");
    let refused = suite.table.put_rollback(rows[300].gtrid).await;
    refused.expect("a refusal can be put");
    let answers = suite.decide(&rows).await;
    assert_eq!(answers.len(), rows.len());
    for (position, answer) in answers.into_iter().enumerate() {
        let expected = match position {
            7 | 150 => COMPLETED,
            300 => ROLLED_BACK,
            _ => PENDING,
        };
        assert_eq!(answer, expected, "row {position}");
    }
    let mut pending = rows;
    pending.remove(300);
    pending.retain(|row| !done.contains(&row.gtrid));
    pending.sort_by_key(|row| row.gtrid);
    assert_eq!(suite.pending().await, pending);
}

/// Empty lists are no errors.
pub async fn nothing_is_nothing<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let decided = suite.table.decide(slot(suite.own, 0), None, &[]).await;
    let answers = decided.expect("an empty batch is one").answers;
    assert_eq!(answers, Vec::<RowAnswer>::new());
    suite.table.complete(&[]).await.expect("an empty list");
    suite.table.forget(&[]).await.expect("an empty list");
    assert_eq!(suite.pending().await, []);
}

/// Neither a refusal nor what is not there becomes a decision.
pub async fn only_pending_rows_are_completed<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    let all: Vec<_> = rows.iter().map(|row| row.gtrid).collect();
    for _ in 0..2 {
        let completed = suite.table.complete(&all).await;
        completed.expect("rows can be completed");
        let completed = Some(RowState::Completed);
        for (gtrid, state) in
            all.iter()
                .zip([completed, completed, Some(RowState::RolledBack), None])
        {
            assert_eq!(suite.state(*gtrid).await, state, "{gtrid}");
        }
    }
    assert_eq!(suite.pending().await, []);
    let many: Vec<_> = (10..310).map(|n| suite.row(n)).collect();
    suite.decide(&many).await;
    let all_but_one: Vec<_> = many[1..].iter().map(|row| row.gtrid).collect();
    let completed = suite.table.complete(&all_but_one).await;
    completed.expect("rows can be completed");
    assert_eq!(suite.pending().await, many[..1]);
}

/// Neither what is pending nor a refusal is deleted.
pub async fn only_completed_rows_are_forgotten<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    let all: Vec<_> = rows.iter().map(|row| row.gtrid).collect();
    for _ in 0..2 {
        suite.table.forget(&all).await.expect("rows can be deleted");
        let states = [
            Some(RowState::Pending),
            None,
            Some(RowState::RolledBack),
            None,
        ];
        for (gtrid, state) in all.iter().zip(states) {
            assert_eq!(suite.state(*gtrid).await, state, "{gtrid}");
        }
    }
    assert_eq!(suite.pending().await, rows[..1]);
}

/// From then on the transaction is not decided; in a closed epoch, too.
pub async fn a_refusal_is_put_once<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    for is_closed in [false, true] {
        if is_closed {
            suite.close(suite.own.epoch).await;
        }
        let row = suite.row(u64::from(is_closed));
        for _ in 0..2 {
            let put = place.table().put_rollback(row.gtrid).await;
            assert_eq!(put.expect("it can be put"), RowState::RolledBack);
            let state = suite.state(row.gtrid).await;
            assert_eq!(state, Some(RowState::RolledBack));
            let answers = suite.decide(std::slice::from_ref(&row)).await;
            assert_eq!(answers, [ROLLED_BACK]);
        }
    }
    assert_eq!(suite.pending().await, []);
}

/// It answers what stands.
pub async fn a_refusal_never_replaces_a_decision<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let rows = suite.rows_in_every_state().await;
    for _ in 0..2 {
        let states = [RowState::Pending, RowState::Completed];
        for (row, state) in rows.iter().zip(states) {
            let put = place.table().put_rollback(row.gtrid).await;
            assert_eq!(put.expect("it answers"), state);
            assert_eq!(suite.state(row.gtrid).await, Some(state));
        }
    }
    assert_eq!(suite.pending().await, rows[..1]);
}

/// Sixty-four of three members, each twice: every row once.
pub async fn deciders_at_once_are_all_recorded<P: Place>(place: &P) {
    let suite = Suite::start(place).await;
    let members = [suite.own, suite.join().await, suite.join().await];
    let mut running = JoinSet::new();
    let mut expected = Vec::new();
    for number in 0..64_u32 {
        let opening = members[number as usize % members.len()];
        let row = row(opening, u64::from(number));
        expected.push(row.clone());
        for _ in 0..2 {
            let (table, row) = (place.table(), row.clone());
            let at = slot(opening, number % SLOTS);
            running.spawn(async move {
                let rows = std::slice::from_ref(&row);
                until_answered(|| table.decide(at, None, rows)).await
            });
        }
    }
    for decided in running.join_all().await {
        assert_eq!(decided.expect("the table answers").answers, [PENDING]);
    }
    expected.sort_by_key(|row| row.gtrid);
    assert_eq!(suite.pending().await, expected);
}
