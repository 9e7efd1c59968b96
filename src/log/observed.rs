//! A log in a folder that nobody has open, only looked at: no lock is held, nothing is written, no
//! opening is begun. An application can start meanwhile, and finds the log as it was.
//!
//! What is planned from it is true (I5). Whoever asks has seen what is prepared; then the lock is
//! found free, and then the records are read. Whoever prepared any of that, and could decide it,
//! would hold the lock: so no decision of theirs can come any more, and every opening that is
//! listed counts as closed, as the next one will have it. Whoever has taken the lock meanwhile is
//! told instead. What was read may not be durable yet, and nothing is acted upon.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use unanimous_core::ports::{
    ByHand, DecideError, DecisionLog, DecisionRecord, HeuristicEnd, LogError, LogHome, LogSnapshot,
    Lookup, OpeningState, Refusal, UnixTime,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

use super::FileLog;
use super::folder::held_by;
use super::moved::refuse_moved;
use super::open::{check_place, inspect, no_log, read_identity};
use super::state::State;
use super::writer::visit;

/// Looks at a log that has been made. Opening it reads whose it is, and nothing else.
pub(crate) struct Observer(FileLog);

/// See the module.
struct ObservedLog {
    log: FileLog,
    manager: ManagerId,
    /// As it was read last.
    seen: Mutex<Option<Arc<State>>>,
}

impl FileLog {
    /// To look at the log without having it open.
    pub(crate) const fn observer(self) -> Observer {
        Observer(self)
    }
}

#[async_trait]
impl LogHome for Observer {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        let Self(log) = *self;
        let (folder, options) = log.clone().into_parts();
        let manager = apart(move || {
            let home = visit(folder, options)?;
            let identity = read_identity(&home)?.ok_or_else(|| no_log(&home))?;
            Ok(identity.manager)
        });
        Ok(Arc::new(ObservedLog {
            manager: manager.await?,
            log,
            seen: Mutex::default(),
        }))
    }
}

/// On a thread of its own: a disk can hang.
async fn apart<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let panicked = |_| Err(LogError::new("reading the log panicked, which is a bug"));
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(panicked)
}

fn look(log: FileLog) -> Result<State, LogError> {
    let (folder, options) = log.into_parts();
    refuse_held(&folder)?;
    let home = visit(folder.clone(), options)?;
    refuse_moved(&home)?;
    check_place(&home)?;
    let mut state = inspect(&home)?.state;
    // An opening that was begun meanwhile is not closed.
    refuse_held(&folder)?;
    state.close_all();
    Ok(state)
}

fn refuse_held(folder: &Path) -> Result<(), LogError> {
    match held_by(folder)? {
        None => Ok(()),
        Some(holder) => Err(LogError::new(format!(
            "log {}: in use by {holder}, which has taken it since this began: run this again",
            folder.display()
        ))),
    }
}

impl ObservedLog {
    /// As it is now.
    async fn look(&self) -> Result<Arc<State>, LogError> {
        let log = self.log.clone();
        let state = Arc::new(apart(move || look(log)).await?);
        *self.kept() = Some(Arc::clone(&state));
        Ok(state)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Arc<State>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it was when somebody looked.
    async fn seen(&self) -> Result<Arc<State>, LogError> {
        let kept = self.kept().clone();
        match kept {
            Some(state) => Ok(state),
            None => self.look().await,
        }
    }

    fn refusal(&self) -> LogError {
        let folder = self.log.folder().display();
        LogError::new(format!("log {folder}: it is only looked at"))
    }
}

#[async_trait]
impl DecisionLog for ObservedLog {
    /// Of nobody: no epoch has this number.
    fn opening(&self) -> Opening {
        Opening {
            manager: self.manager,
            epoch: Epoch(0),
            nonce: 0,
        }
    }

    async fn decide(&self, _decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let refusal = Refusal::NotAttempted(self.refusal());
        Err(DecideError::Refused(refusal))
    }

    fn complete(&self, _gtrid: Gtrid) {}

    async fn force(&self) -> Result<(), LogError> {
        Err(self.refusal())
    }

    async fn record_heuristic(
        &self,
        _gtrid: Gtrid,
        _resource: &ResourceName,
        _heuristic: Heuristic,
    ) -> Result<(), LogError> {
        Err(self.refusal())
    }

    async fn heuristics(&self) -> Result<Vec<HeuristicEnd>, LogError> {
        Ok(self.seen().await?.heuristics())
    }

    async fn record_by_hand(&self, _by_hand: &ByHand) -> Result<(), LogError> {
        Err(self.refusal())
    }

    async fn by_hand(&self) -> Result<Vec<ByHand>, LogError> {
        Ok(self.seen().await?.by_hand())
    }

    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, LogError> {
        let state = self.seen().await?;
        let dated = |gtrid: &Gtrid| Some((*gtrid, state.decided_at(*gtrid)?));
        Ok(gtrids.iter().filter_map(dated).collect())
    }

    async fn close(&self, _epoch: Epoch) -> Result<(), LogError> {
        Err(self.refusal())
    }

    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError> {
        Ok(self.seen().await?.lookup(gtrid))
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        Ok(self.look().await?.pending())
    }

    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        Ok(self.look().await?.openings())
    }

    async fn snapshot(&self) -> Result<LogSnapshot, LogError> {
        let state = self.look().await?;
        Ok(LogSnapshot {
            openings: state.openings(),
            pending: state.pending(),
        })
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        Ok(())
    }
}
