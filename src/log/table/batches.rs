//! Decisions on their way to the table: all that wait go in one write, one write at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use unanimous_core::ports::{
    DecideError, Decided, DecisionRecord, DecisionRow, EpochSlot, LogError, Refusal, RowAnswer,
    RowState, SLOTS, TableError, TableErrorKind,
};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::{Epoch, Gtrid};

use super::codec;
use super::log_error;
use super::open::Shared;

const BATCH_MAX: usize = 256;

type Reply = oneshot::Sender<Result<LogSeq, DecideError>>;

pub(super) struct Request {
    pub(super) decision: DecisionRecord,
    pub(super) reply: Reply,
}

/// Everybody who asked for one decision, and whether it was attempted before.
struct Asked {
    decision: DecisionRecord,
    replies: Vec<Reply>,
    is_first: bool,
}

/// Sorted, so that no two writers wait for each other's keys.
type Batch = BTreeMap<Gtrid, Asked>;

pub(super) async fn run(shared: Arc<Shared>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut waiting = Vec::new();
    while requests.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        for (epoch, batch) in by_epoch(&shared, waiting.drain(..)) {
            write(&shared, epoch, batch).await;
        }
    }
}

/// Attempted from here on.
fn by_epoch(shared: &Shared, requests: impl Iterator<Item = Request>) -> BTreeMap<Epoch, Batch> {
    let mut known = shared.known();
    let mut batches: BTreeMap<Epoch, Batch> = BTreeMap::new();
    for Request { decision, reply } in requests {
        let gtrid = decision.gtrid;
        let batch = batches.entry(gtrid.opening.epoch).or_default();
        let asked = batch.entry(gtrid).or_insert_with(|| Asked {
            decision,
            replies: Vec::new(),
            is_first: known.attempt(gtrid),
        });
        asked.replies.push(reply);
    }
    batches
}

async fn write(shared: &Shared, epoch: Epoch, batch: Batch) {
    let row = |asked: &Asked| DecisionRow {
        gtrid: asked.decision.gtrid,
        branches: codec::encode(&asked.decision.branches),
    };
    let rows: Vec<_> = batch.values().map(row).collect();
    let slot = shared.next_slot() % SLOTS;
    let deciding = shared.desk.table.decide(EpochSlot { epoch, slot }, &rows);
    match shared.desk.ask(deciding).await {
        Ok(decided) if decided.answers.len() == rows.len() => answered(shared, decided, batch),
        Ok(_) => {
            let message = format!("{}: not every row was answered", shared.desk.table.place());
            failed(
                shared,
                &TableError::new(TableErrorKind::Lost, message),
                batch,
            );
        }
        Err(error) => failed(shared, &error, batch),
    }
}

fn answered(shared: &Shared, decided: Decided, batch: Batch) {
    let mut closed = None;
    for (asked, answer) in batch.into_values().zip(decided.answers.iter()) {
        let gtrid = asked.decision.gtrid;
        let mut known = shared.known();
        let answer = match answer {
            RowAnswer::Stands(RowState::Pending) => Ok(known.record(asked.decision)),
            RowAnswer::Stands(RowState::Completed) => {
                let seq = known.record(asked.decision);
                known.complete(gtrid);
                Ok(seq)
            }
            RowAnswer::Stands(RowState::RolledBack) => {
                known.settle(gtrid);
                Err(DecideError::Refused(Refusal::LastRolledBack))
            }
            RowAnswer::EpochClosed => {
                let epoch = gtrid.opening.epoch;
                closed = Some(epoch);
                known.see_closed(epoch);
                let is_whole = !decided.is_released
                    && (shared.options.lossless_failover
                        || known.is_same_server(gtrid.opening, &decided.identity));
                if asked.is_first || is_whole {
                    known.settle(gtrid);
                    Err(DecideError::Refused(Refusal::EpochClosed))
                } else {
                    Err(DecideError::Uncertain(LogError::new(format!(
                        "the epoch of {gtrid} was closed, and its decision may have been deleted \
                         or lost since it was asked for first: find out at its databases"
                    ))))
                }
            }
        };
        drop(known);
        reply(asked.replies, &answer);
    }
    if let Some(epoch) = closed {
        shared.rejoin(epoch);
    }
    shared.rejoin_if_elsewhere(&decided.identity);
}

/// Only at the first attempt does an error say that nothing was recorded.
fn failed(shared: &Shared, error: &TableError, batch: Batch) {
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
        let answer = if nothing_happened && asked.is_first {
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
