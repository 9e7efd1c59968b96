//! What is asked of the writer, and a batch of it on its way to the disk.

use std::collections::HashMap;

use tokio::sync::oneshot::Sender;
use unanimous_core::ports::{DecideError, HandRow, LogError, Refusal, UnixTime};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ResourceName};

use super::record::{COMPLETED_BYTES, Id, Record, encode, is_same_decision};
use super::segment::Batch;
use super::shared::conflict;
use super::state::Change;

pub(super) type DecideReply = Sender<Result<LogSeq, DecideError>>;
pub(super) type Reply = Sender<Result<(), LogError>>;

/// One request. Whoever asked may have stopped waiting; then the answer is dropped.
#[derive(Debug)]
pub(super) enum Request {
    Decide {
        gtrid: Gtrid,
        bytes: Box<[u8]>,
        reply: DecideReply,
    },
    /// There are completions, and the writer was asleep.
    Wake,
    /// Answered when what is lazy is durable.
    Force(Reply),
    Heuristic {
        gtrid: Gtrid,
        resource: ResourceName,
        heuristic: Heuristic,
        when: UnixTime,
        reply: Reply,
    },
    ByHand {
        row: Box<HandRow>,
        reply: Reply,
    },
    Close {
        epoch: Epoch,
        reply: Reply,
    },
    Shutdown(Reply),
}

/// Requests that need one write: their records, what these change, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// Completions that go along; nobody waits for them.
    pub(super) lazy: Vec<Gtrid>,
    pub(super) changes: Vec<Change>,
    /// Where in `changes` the transaction's decision is.
    decided: HashMap<Id, usize>,
    closing: Vec<Epoch>,
    /// Who waits, and for which of `changes`.
    deciding: Vec<(usize, DecideReply)>,
    waiting: Vec<Reply>,
    is_forced: bool,
}

/// How the write of a batch ended, if not well.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Nothing of it was written, and the log is as it was.
    NotBegun(LogError),
    /// Nothing of it was written, but the log cannot go on in this opening.
    Abandoned(LogError),
    /// It may or may not be on the disk, and the log cannot go on in this opening.
    Uncertain(LogError),
}

impl Staged {
    /// Does anybody wait for it?
    pub(super) fn is_asked_for(&self) -> bool {
        !self.changes.is_empty() || !self.waiting.is_empty()
    }

    pub(super) fn is_closing(&self, epoch: Epoch) -> bool {
        self.closing.contains(&epoch)
    }

    pub(super) fn decide(&mut self, gtrid: Gtrid, bytes: Box<[u8]>, reply: DecideReply) {
        let id = Id::of(gtrid);
        let at = match self.decided.get(&id) {
            None => {
                self.decided.insert(id, self.changes.len());
                self.changes.push(Change::Decided { id, bytes });
                self.changes.len() - 1
            }
            Some(at) => {
                let change = &self.changes[*at];
                let is_same = matches!(change, Change::Decided { bytes: other, .. }
                    if is_same_decision(other, &bytes));
                if !is_same {
                    return answer(reply, Err(conflict(gtrid)));
                }
                *at
            }
        };
        self.deciding.push((at, reply));
    }

    pub(super) fn close(&mut self, epoch: Epoch, reply: Reply) {
        if !self.is_closing(epoch) {
            self.closing.push(epoch);
            self.changes.push(Change::Closed { epoch });
        }
        self.waiting.push(reply);
    }

    pub(super) fn force(&mut self, reply: Reply) {
        self.is_forced = true;
        self.waiting.push(reply);
    }

    /// Every completion goes along.
    pub(super) const fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// A change that somebody waits for.
    pub(super) fn change(&mut self, change: Change, reply: Reply) {
        self.changes.push(change);
        self.waiting.push(reply);
    }

    /// The records of it all, those of the completions first.
    pub(super) fn batch(&self) -> Batch {
        let decisions = self.changes.iter().map(|change| match change {
            Change::Decided { id: _, bytes } => bytes.len(),
            Change::Opened { .. }
            | Change::Closed { .. }
            | Change::Completed { .. }
            | Change::Heuristic { .. }
            | Change::Doubtful { .. }
            | Change::ByHand(_) => 0,
        });
        let completions = COMPLETED_BYTES * self.lazy.len();
        let mut batch = Batch::with_capacity(completions + decisions.sum::<usize>());
        for gtrid in &self.lazy {
            let id = Id::of(*gtrid);
            batch.push(|out| encode(&Record::Completed { id }, out));
        }
        for change in &self.changes {
            batch.push(|out| encode_change(change, out));
        }
        batch
    }

    /// The transactions that are decided in it.
    pub(super) fn decided(&self) -> impl Iterator<Item = Id> + '_ {
        self.decided.keys().copied()
    }

    /// Answers everybody who waits; if all is well, with the position of the first change.
    pub(super) fn answer(self, written: Result<LogSeq, &WriteError>) {
        for (change, reply) in self.deciding {
            let at = written.map(|first| LogSeq(first.0 + change as u64));
            answer(
                reply,
                at.map_err(|error| match error {
                    WriteError::NotBegun(error) | WriteError::Abandoned(error) => {
                        DecideError::Refused(Refusal::NotAttempted(error.clone()))
                    }
                    WriteError::Uncertain(error) => DecideError::Uncertain(error.clone()),
                }),
            );
        }
        for reply in self.waiting {
            let written = written.map(|_| ()).map_err(|error| error.error().clone());
            answer(reply, written);
        }
    }
}

impl WriteError {
    pub(super) const fn error(&self) -> &LogError {
        match self {
            Self::NotBegun(error) | Self::Abandoned(error) | Self::Uncertain(error) => error,
        }
    }
}

/// Answers, if anybody still waits.
pub(super) fn answer<T>(reply: Sender<T>, value: T) {
    drop(reply.send(value));
}

/// The same to all.
pub(super) fn answer_all(replies: Vec<Reply>, ended: &Result<(), LogError>) {
    for reply in replies {
        answer(reply, ended.clone());
    }
}

fn encode_change(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Opened { epoch, nonce } => encode(
            &Record::Opened {
                epoch: *epoch,
                nonce: *nonce,
            },
            out,
        ),
        Change::Closed { epoch } => encode(&Record::Closed { epoch: *epoch }, out),
        Change::Decided { id: _, bytes } => out.extend_from_slice(bytes),
        Change::Completed { id } => encode(&Record::Completed { id: *id }, out),
        Change::Heuristic {
            id,
            resource,
            heuristic,
            when,
        } => encode(
            &Record::Heuristic {
                id: *id,
                resource: resource.as_str(),
                heuristic: *heuristic,
                when: *when,
            },
            out,
        ),
        Change::Doubtful { epoch } => encode(&Record::Doubtful { epoch: *epoch }, out),
        Change::ByHand(row) => encode(&Record::ByHand(row.clone()), out),
    }
}
