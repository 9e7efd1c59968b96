//! The real table log in a simulated process, and what it answers, watched.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous::log::TableLog;
use unanimous::ports::{
    DecideError, DecisionLog, DecisionRecord, LogError, LogHome, LogSnapshot, Lookup, Member,
    OpeningState,
};
use unanimous::{Gtrid, Heuristic, Opening, ResourceName};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::Epoch;

use super::journal::lock;
use super::life::Life;
use super::table::{SharedLog, SimTable};
use super::world::World;

pub(super) struct SharedHome {
    pub(super) world: Arc<World>,
    pub(super) member: usize,
    pub(super) life: Arc<Life>,
}

impl SharedHome {
    fn log(&self, shared: &SharedLog) -> TableLog {
        let table = SimTable {
            world: Arc::clone(&self.world),
            member: self.member,
            life: Arc::clone(&self.life),
            table: shared.table.clone(),
        };
        TableLog::over(Arc::new(table))
            .last_resource(shared.last_resource)
            .lossless_failover(true)
            .suspect_after(shared.suspect_after)
            .label(format!("p{}.{}", self.member, self.life.number))
    }
}

#[async_trait]
impl LogHome for SharedHome {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        let shared = self.world.shared.as_ref().expect("they share a log");
        let inner = Box::new(self.log(shared)).open().await?;
        self.life.lives().await;
        let member = &self.world.members[self.member];
        let log: Arc<dyn DecisionLog> = Arc::new(Watched {
            inner,
            world: Arc::clone(&self.world),
            life: Arc::clone(&self.life),
        });
        lock(&member.now).log = Some(Arc::clone(&log));
        Ok(log)
    }
}

struct Watched {
    inner: Arc<dyn DecisionLog>,
    world: Arc<World>,
    life: Arc<Life>,
}

impl Watched {
    fn watch(&self, gtrid: Gtrid, answer: &Result<LogSeq, DecideError>) {
        let (account, journal) = (&self.world.account, &self.world.journal);
        match answer {
            Ok(_) => account.decided(journal, gtrid),
            Err(DecideError::Refused(_)) => account.refused(journal, gtrid),
            Err(DecideError::Uncertain(_) | DecideError::MayBeLost(_)) => {
                journal.note(format_args!("decide {} is uncertain", gtrid.sequence));
            }
        }
    }
}

#[async_trait]
impl DecisionLog for Watched {
    fn opening(&self) -> Opening {
        self.inner.opening()
    }

    async fn decide(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let decided = self.life.hear(self.inner.decide(decision)).await;
        self.watch(decision.gtrid, &decided);
        decided
    }

    fn last_statement(&self, scope: &str, decision: &DecisionRecord) -> Option<String> {
        self.inner.last_statement(scope, decision)
    }

    fn takes_last(&self, scope: &str) -> bool {
        self.inner.takes_last(scope)
    }

    fn note_last(&self, decision: &DecisionRecord) -> LogSeq {
        let seq = self.inner.note_last(decision);
        self.watch(decision.gtrid, &Ok(seq));
        seq
    }

    async fn settle_last(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let fault = &self.world.journal;
        fault.fault(
            "last resource settled",
            format_args!("{}", decision.gtrid.sequence),
        );
        let settled = self.life.hear(self.inner.settle_last(decision)).await;
        self.watch(decision.gtrid, &settled);
        settled
    }

    fn on_close(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.inner.on_close(wake);
    }

    async fn members(&self) -> Result<Vec<Member>, LogError> {
        self.life.hear(self.inner.members()).await
    }

    fn complete(&self, gtrid: Gtrid) {
        if self.life.is_alive() {
            let journal = &self.world.journal;
            self.world.account.completed(journal, &self.world, gtrid);
            self.inner.complete(gtrid);
        }
    }

    async fn force(&self) -> Result<(), LogError> {
        self.life.hear(self.inner.force()).await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> Result<(), LogError> {
        let recorded = self.inner.record_heuristic(gtrid, resource, heuristic);
        self.life.hear(recorded).await
    }

    async fn close(&self, epoch: Epoch) -> Result<(), LogError> {
        self.life.hear(self.inner.close(epoch)).await
    }

    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError> {
        self.life.hear(self.inner.lookup(gtrid)).await
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        self.life.hear(self.inner.pending()).await
    }

    async fn snapshot(&self) -> Result<LogSnapshot, LogError> {
        self.life.hear(self.inner.snapshot()).await
    }

    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        self.life.hear(self.inner.openings()).await
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        self.life.hear(self.inner.shutdown()).await
    }
}
