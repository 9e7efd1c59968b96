//! Decisions on their way to the table.
//!
//! Those that are asked for first go many in one write, one write at a time. One that is repeated
//! goes alone, beside them: an earlier attempt may hold its key, and nobody else's decision waits,
//! or is refused, for that.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use unanimous_core::ports::{
    DecideError, Decided, DecisionRecord, DecisionRow, EpochSlot, OpeningRow, Refusal, RowAnswer,
    RowState, SLOTS, TableError, TableErrorKind,
};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Gtrid, Opening};

use super::codec;
use super::log_error;
use super::shared::{FORGOTTEN, Shared};

const BATCH_MAX: usize = 256;

/// How many that are repeated are under way at once, and last resources whose answer was lost: they
/// leave connections to the others.
pub(super) const REPEATED_MAX: usize = 2;

type Reply = oneshot::Sender<Result<LogSeq, DecideError>>;

pub(super) struct Request {
    pub(super) decision: DecisionRecord,
    /// No attempt of it was under way, or without a certain answer, when it was asked for.
    pub(super) is_first: bool,
    pub(super) reply: Reply,
}

/// Everybody who asked for one decision.
struct Asked {
    decision: DecisionRecord,
    replies: Vec<Reply>,
}

/// Whether an attempt of it may have been recorded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Repeated,
}

/// Sorted, so that no two writers wait for each other's keys.
type Batch = BTreeMap<Gtrid, Asked>;

pub(super) async fn run(shared: Arc<Shared>, requests: mpsc::UnboundedReceiver<Request>) {
    let (repeated, waiting) = mpsc::unbounded_channel();
    tokio::join!(
        run_first(&shared, requests, repeated),
        run_repeated(&shared, waiting)
    );
}

async fn run_first(
    shared: &Shared,
    mut requests: mpsc::UnboundedReceiver<Request>,
    repeated: mpsc::UnboundedSender<Request>,
) {
    let mut waiting = Vec::new();
    while requests.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        let mut busy = None;
        for (opening, batch) in by_opening(shared, waiting.drain(..), &repeated) {
            busy = busy.or(write(shared, opening, batch, Attempt::First).await);
        }
        let Some(error) = busy else { continue };
        // Those who wait for their turn hear of the lock that they would wait for now, and not
        // when each batch before theirs has waited for it.
        waiting.extend(std::iter::from_fn(|| requests.try_recv().ok()));
        for (_, batch) in by_opening(shared, waiting.drain(..), &repeated) {
            failed(shared, &error, batch, Attempt::First);
        }
    }
}

async fn run_repeated(shared: &Shared, mut requests: mpsc::UnboundedReceiver<Request>) {
    stream::poll_fn(|cx| requests.poll_recv(cx))
        .for_each_concurrent(REPEATED_MAX, |request| {
            let Request {
                decision, reply, ..
            } = request;
            let (opening, gtrid) = (decision.gtrid.opening, decision.gtrid);
            let replies = vec![reply];
            let alone = Batch::from([(gtrid, Asked { decision, replies })]);
            async move {
                let _turn = shared.turn().await;
                write(shared, opening, alone, Attempt::Repeated).await;
            }
        })
        .await;
}

/// Those of a first attempt. None of them is under way otherwise.
fn by_opening(
    shared: &Shared,
    requests: impl Iterator<Item = Request>,
    repeated: &mpsc::UnboundedSender<Request>,
) -> BTreeMap<Opening, Batch> {
    let mut known = shared.known();
    let mut batches: BTreeMap<Opening, Batch> = BTreeMap::new();
    for request in requests {
        let gtrid = request.decision.gtrid;
        // It was answered for certain since it was asked for: nothing is under way, and it is now.
        let is_first = known.attempt(gtrid) || request.is_first;
        let asked = batches
            .get_mut(&gtrid.opening)
            .and_then(|batch| batch.get_mut(&gtrid));
        match asked {
            Some(asked) => asked.replies.push(request.reply),
            None if is_first => {
                let Request {
                    decision, reply, ..
                } = request;
                let replies = vec![reply];
                let batch = batches.entry(gtrid.opening).or_default();
                batch.insert(gtrid, Asked { decision, replies });
            }
            // Who takes it runs as long as this.
            None => drop(repeated.send(request)),
        }
    }
    batches
}

/// The error, if a lock was not free in time.
async fn write(
    shared: &Shared,
    opening: Opening,
    batch: Batch,
    attempt: Attempt,
) -> Option<TableError> {
    let row = |asked: &Asked| DecisionRow {
        gtrid: asked.decision.gtrid,
        branches: codec::encode(&asked.decision.branches),
    };
    let rows: Vec<_> = batch.values().map(row).collect();
    let at = EpochSlot {
        epoch: opening.epoch,
        slot: shared.next_slot() % SLOTS,
    };
    let row = shared.known().listed(opening).cloned();
    let Some(row) = row else {
        // Another one has its number since it was asked for.
        let place = shared.desk.table.place();
        let message = format!("{place}: the opening is not listed any more");
        let error = TableError::new(TableErrorKind::Unfit, message);
        failed(shared, &error, batch, attempt);
        return None;
    };
    let home = (!shared.options.lossless_failover).then_some(&row.identity);
    let deciding = shared.desk.table.decide(at, home, &rows);
    match shared.desk.ask(deciding).await {
        Ok(decided) if decided.answers.len() == rows.len() => {
            match is_final(shared, opening, &decided, attempt).await {
                Ok(is_final) => answered(shared, opening, decided, batch, is_final),
                Err(error) => failed(shared, &error, batch, attempt),
            }
            None
        }
        Ok(_) => {
            let place = shared.desk.table.place();
            let message = format!("{place}: not every row was answered");
            let error = TableError::new(TableErrorKind::Lost, message);
            failed(shared, &error, batch, attempt);
            None
        }
        Err(error) => {
            failed(shared, &error, batch, attempt);
            (error.kind() == TableErrorKind::Busy).then_some(error)
        }
    }
}

/// Whether no row of a closed epoch says that nothing was recorded: at a first attempt, always.
/// The opening is looked at as it is there now: who has closed it may not be known here.
async fn is_final(
    shared: &Shared,
    opening: Opening,
    decided: &Decided,
    attempt: Attempt,
) -> Result<bool, TableError> {
    if attempt == Attempt::First || !decided.answers.contains(&RowAnswer::EpochClosed) {
        return Ok(true);
    }
    let table = &shared.desk.table;
    let found = shared.desk.ask(table.find(opening.gtrid(0), None)).await?;
    let is_whole = |row: OpeningRow| !row.is_released && shared.is_whole(&row, &decided.identity);
    let is_same = found.identity == decided.identity;
    Ok(!decided.is_released && is_same && found.opening.is_some_and(is_whole))
}

fn answered(shared: &Shared, opening: Opening, decided: Decided, batch: Batch, is_final: bool) {
    let is_closed = decided.answers.contains(&RowAnswer::EpochClosed);
    for (asked, answer) in batch.into_values().zip(decided.answers) {
        let gtrid = asked.decision.gtrid;
        let answer = match answer {
            RowAnswer::Stands(RowState::Pending) => Ok(shared.known().record(asked.decision)),
            RowAnswer::Stands(RowState::Completed) => {
                let mut known = shared.known();
                let seq = known.record(asked.decision);
                known.complete(gtrid);
                Ok(seq)
            }
            RowAnswer::Stands(RowState::RolledBack) => {
                shared.known().settle(gtrid);
                Err(DecideError::Refused(Refusal::LastRolledBack))
            }
            RowAnswer::EpochClosed if is_final => {
                shared.known().settle(gtrid);
                Err(DecideError::Refused(Refusal::EpochClosed))
            }
            RowAnswer::EpochClosed => Err(shared.may_be_lost(gtrid, FORGOTTEN)),
        };
        reply(asked.replies, &answer);
    }
    if is_closed {
        shared.known().see_closed(opening.epoch);
        shared.rejoin(opening.epoch);
    }
    shared.rejoin_if_elsewhere(&decided.identity);
}

/// Only at the first attempt does an error say that nothing was recorded.
fn failed(shared: &Shared, error: &TableError, batch: Batch, attempt: Attempt) {
    tracing::warn!(target: "unanimous", %error, "decisions could not be recorded");
    let nothing_happened = match error.kind() {
        TableErrorKind::NotSent
        | TableErrorKind::Refused
        | TableErrorKind::Busy
        | TableErrorKind::Missing
        | TableErrorKind::Unfit => true,
        TableErrorKind::Lost => false,
    };
    let is_busy = error.kind() == TableErrorKind::Busy;
    for (gtrid, asked) in batch {
        let error = log_error(error.clone());
        let answer = if nothing_happened && attempt == Attempt::First {
            shared.known().settle(gtrid);
            Err(DecideError::Refused(if is_busy {
                Refusal::Busy(error)
            } else {
                Refusal::NotAttempted(error)
            }))
        } else {
            Err(DecideError::Uncertain(error))
        };
        reply(asked.replies, &answer);
    }
}

/// Whoever does not wait any more asks again, or has been dropped.
fn reply(replies: Vec<Reply>, answer: &Result<LogSeq, DecideError>) {
    for reply in replies {
        let _ = reply.send(answer.clone());
    }
}
