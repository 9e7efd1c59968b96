//! In the place of a log that cannot be opened: it answers why, whatever it is asked. So what the
//! databases hold can be seen all the same.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous_core::ports::{
    ByHand, DecideError, DecisionLog, DecisionRecord, HeuristicEnd, LogError, LogHome, Lookup,
    Member, OpeningState, Refusal, UnixTime,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening, ResourceName};

/// The manager of a log of which that is not known. A real one is random.
pub(crate) const NO_MANAGER: ManagerId = ManagerId::from_bytes([0; 10]);

/// See the module.
pub(crate) struct NoLog(LogError);

impl NoLog {
    pub(crate) const fn new(why: LogError) -> Self {
        Self(why)
    }

    fn answer<T>(&self) -> Result<T, LogError> {
        Err(self.0.clone())
    }
}

#[async_trait]
impl LogHome for NoLog {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        Ok(Arc::new(*self))
    }
}

#[async_trait]
impl DecisionLog for NoLog {
    fn opening(&self) -> Opening {
        Opening {
            manager: NO_MANAGER,
            epoch: Epoch(0),
            nonce: 0,
        }
    }

    async fn decide(&self, _decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let refusal = Refusal::NotAttempted(self.0.clone());
        Err(DecideError::Refused(refusal))
    }

    async fn members(&self) -> Result<Vec<Member>, LogError> {
        self.answer()
    }

    fn complete(&self, _gtrid: Gtrid) {}

    async fn force(&self) -> Result<(), LogError> {
        self.answer()
    }

    async fn record_heuristic(
        &self,
        _gtrid: Gtrid,
        _resource: &ResourceName,
        _heuristic: Heuristic,
    ) -> Result<(), LogError> {
        self.answer()
    }

    async fn heuristics(&self) -> Result<Vec<HeuristicEnd>, LogError> {
        self.answer()
    }

    async fn record_by_hand(&self, _by_hand: &ByHand) -> Result<(), LogError> {
        self.answer()
    }

    async fn by_hand(&self) -> Result<Vec<ByHand>, LogError> {
        self.answer()
    }

    async fn decided_at(&self, _gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, LogError> {
        self.answer()
    }

    async fn close(&self, _epoch: Epoch) -> Result<(), LogError> {
        self.answer()
    }

    async fn lookup(&self, _gtrid: Gtrid) -> Result<Lookup, LogError> {
        self.answer()
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        self.answer()
    }

    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        self.answer()
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        Ok(())
    }
}
