//! A log that refuses, does not know, or takes its time; what it records is real.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use unanimous::ports::{
    DecideError, DecisionLog, DecisionRecord, LogError, LogHome, LogSnapshot, Lookup, Member,
    OpeningState,
};
use unanimous::{Gtrid, Heuristic, Opening, ResourceName};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::Epoch;

use super::app::AnyHome;
use super::cell::Story;
use super::strike::DELAY;

/// The log of a story.
pub(super) struct Tricky {
    pub(super) story: Story,
    pub(super) home: AnyHome,
}

struct Open {
    story: Story,
    log: Arc<dyn DecisionLog>,
    is_file: bool,
    is_played: AtomicBool,
}

#[async_trait]
impl LogHome for Tricky {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        let is_file = matches!(self.home, AnyHome::File(_));
        let (story, log) = (self.story, Box::new(self.home).open().await?);
        let is_played = AtomicBool::new(false);
        Ok(Arc::new(Open {
            story,
            log,
            is_file,
            is_played,
        }))
    }
}

#[async_trait]
impl DecisionLog for Open {
    fn opening(&self) -> Opening {
        self.log.opening()
    }

    async fn decide(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        if self.is_played.swap(true, Ordering::SeqCst) {
            return self.log.decide(decision).await;
        }
        if self.story == Story::Refused {
            // Whether or not it could be closed, what `decide` answers is true.
            let _ = self.log.close(self.opening().epoch).await;
        }
        if self.story == Story::Overdue {
            tokio::time::sleep(DELAY).await;
        }
        let decided = self.log.decide(decision).await;
        // A table's answer is lost on the wire.
        if self.story == Story::Uncertain && self.is_file {
            let lost = LogError::new("the answer is lost, in a test");
            return Err(DecideError::Uncertain(lost));
        }
        decided
    }

    fn last_statement(&self, scope: &str, decision: &DecisionRecord) -> Option<String> {
        self.log.last_statement(scope, decision)
    }

    fn takes_last(&self, scope: &str) -> bool {
        self.log.takes_last(scope)
    }

    fn note_last(&self, decision: &DecisionRecord) -> LogSeq {
        self.log.note_last(decision)
    }

    async fn settle_last(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        self.log.settle_last(decision).await
    }

    fn on_close(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.log.on_close(wake);
    }

    async fn members(&self) -> Result<Vec<Member>, LogError> {
        self.log.members().await
    }

    fn complete(&self, gtrid: Gtrid) {
        self.log.complete(gtrid);
    }

    async fn force(&self) -> Result<(), LogError> {
        self.log.force().await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> Result<(), LogError> {
        self.log.record_heuristic(gtrid, resource, heuristic).await
    }

    async fn close(&self, epoch: Epoch) -> Result<(), LogError> {
        self.log.close(epoch).await
    }

    async fn snapshot(&self) -> Result<LogSnapshot, LogError> {
        self.log.snapshot().await
    }

    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError> {
        self.log.lookup(gtrid).await
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        self.log.pending().await
    }

    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        self.log.openings().await
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        self.log.shutdown().await
    }
}
