//! The application asks: what became of a transaction, and when all of it is committed. The answers
//! are noted; whether they are true is the judge's to say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use unanimous::{
    CommitError, Committed, Gtrid, Transaction, TransactionManager, TransactionOutcome,
};

use super::app::App;
use super::judge::PATIENCE;
use super::strike::Striker;
use crate::databases::Judges;

/// When it is asked, seen from the transaction's `commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Before,
    During,
    After,
    /// When `completed` has answered, too.
    AtTheEnd,
    /// By the manager that recovers.
    InALaterLife,
}

/// Asks what became of a transaction.
pub(super) async fn ask(
    striker: &Striker,
    tm: &TransactionManager,
    gtrid: Gtrid,
    number: u32,
    when: When,
) {
    let answer = match striker.call(tm.outcome(gtrid)).await {
        None => return,
        Some(Ok(TransactionOutcome::Committed)) => "committed",
        Some(Ok(TransactionOutcome::RolledBack)) => "rolledback",
        Some(Ok(TransactionOutcome::InDoubt)) => "indoubt",
        Some(Ok(TransactionOutcome::Heuristic(_))) => "heuristic",
        Some(Ok(_)) => "unknown",
        Some(Err(error)) => {
            eprintln!("{gtrid}: {error}");
            "unread"
        }
    };
    striker.note(format!("said {number} {when:?} {answer}"));
}

/// Commits while somebody asks, again and again, what became of it.
pub(super) async fn commit_asked(
    striker: &Striker,
    tm: &TransactionManager,
    tx: Transaction,
    number: u32,
) -> Result<Committed, CommitError> {
    let gtrid = tx.gtrid();
    ask(striker, tm, gtrid, number, When::Before).await;
    let is_over = AtomicBool::new(false);
    let committing = async {
        let answer = tx.commit().await;
        is_over.store(true, Ordering::SeqCst);
        answer
    };
    let asking = async {
        while !is_over.load(Ordering::SeqCst) {
            ask(striker, tm, gtrid, number, When::During).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::join!(committing, asking).0
}

/// Waits until every branch is committed, and looks whether that is true then.
pub(super) async fn completed(app: &App, striker: &Striker, committed: &Committed, number: u32) {
    if committed.unfinished().is_empty() {
        return;
    }
    let waiting = async {
        let mut answer = match striker.call(committed.completed()).await {
            Some(answer) => answer,
            // Dropped, so once more.
            None => committed.completed().await,
        };
        while app.cell.log_may_be_away() && matches!(answer, Err(CommitError::Undetermined { .. }))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = committed.completed().await;
        }
        answer
    };
    let answer = match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(Ok(())) if is_committed(app, committed.gtrid(), number).await => "committed",
        Ok(Ok(())) => "early",
        Ok(Err(CommitError::Heuristic { .. })) => "heuristic",
        Ok(Err(error)) => {
            eprintln!("{}: {error}", app.cell.name());
            "undetermined"
        }
        Err(_) => "never",
    };
    striker.note(format!("completed {number} {answer}"));
}

/// An independent client sees every writer's row, and none of its branches.
async fn is_committed(app: &App, gtrid: Gtrid, number: u32) -> bool {
    let mut judges = Judges::default();
    for place in &app.places[..app.cell.mix.writers()] {
        let rows = judges.rows(place, &app.table, app.first).await;
        let prepared = judges.prepared(place, &gtrid.to_string()).await;
        if rows[number as usize] != 1 || prepared > 0 {
            return false;
        }
    }
    true
}
