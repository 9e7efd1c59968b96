//! The real file log in a simulated process: its engine, stepped in virtual time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use unanimous::log::OpenFileLog;
use unanimous::log::stepped::{Writer, open_stepped};
use unanimous::ports::{
    DecideError, DecisionLog, DecisionRecord, LogError, LogHome, Lookup, OpeningState,
};
use unanimous::{Gtrid, Heuristic, Opening, ResourceName};
use unanimous_core::protocol::LogSeq;
use unanimous_core::xid::Epoch;

use super::disk::Disk;
use super::journal::lock;
use super::life::Life;
use super::world::World;

/// Header, state and six batches: segments change often.
const SEGMENT_BYTES: u64 = 8 * 4096;
pub(super) struct SimHome {
    pub(super) world: Arc<World>,
    pub(super) member: usize,
    pub(super) life: Arc<Life>,
    pub(super) disk: Disk,
}

#[async_trait]
impl LogHome for SimHome {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        let Self {
            world,
            member,
            life,
            disk,
        } = *self;
        sleep(world.luck.millis(0, 20)).await;
        life.lives().await;
        let opened = open_stepped(Arc::new(disk), SEGMENT_BYTES, world.retained);
        life.lives().await;
        let (inner, writer) = opened?;
        world
            .account
            .opened(&world.journal, member, inner.opening());
        let log = Arc::new(SimLog {
            inner,
            world: Arc::clone(&world),
            member,
            life,
            poke: Notify::new(),
        });
        tokio::spawn(write(writer, Arc::clone(&log)));
        let shared: Arc<dyn DecisionLog> = log;
        let member = &world.members[member];
        lock(&member.now).log = Some(Arc::clone(&shared));
        Ok(shared)
    }
}

struct SimLog {
    inner: Arc<OpenFileLog>,
    world: Arc<World>,
    member: usize,
    life: Arc<Life>,
    /// Wakes the writer; what is sent after this in the same poll is queued when it runs.
    poke: Notify,
}

/// What the log's thread does.
async fn write(mut writer: Writer, log: Arc<SimLog>) {
    let (luck, journal) = (log.world.luck.fork(), &log.world.journal);
    let mut due = Instant::now() + luck.millis(50, 1500);
    loop {
        let ended = tokio::select! {
            biased;
            _ = log.life.ended() => true,
            () = log.poke.notified() => false,
            () = sleep_until(due) => false,
        };
        if ended {
            // Never drops an engine in the middle of its life: nobody asks it any more.
            return;
        }
        if Instant::now() >= due {
            writer.do_what_is_due();
            due = Instant::now() + luck.millis(50, 1500);
        }
        let slow = log.world.members[log.member].disk_millis();
        sleep(Duration::from_millis(luck.below(slow + 1))).await;
        while log.life.is_alive() && writer.step() {
            journal.note(format_args!("p{} wrote a batch", log.member));
        }
    }
}

impl SimLog {
    /// The answer to what is asked, after a while; whoever dies meanwhile does not hear it.
    async fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        self.life.lives().await;
        self.poke.notify_one();
        let answer = self.life.hear(question).await;
        sleep(Duration::from_millis(self.world.luck.below(2))).await;
        self.life.lives().await;
        answer
    }

    /// From memory.
    async fn read<T>(&self, question: impl Future<Output = T>) -> T {
        self.life.hear(question).await
    }
}

#[async_trait]
impl DecisionLog for SimLog {
    fn opening(&self) -> Opening {
        self.inner.opening()
    }

    async fn decide(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let decided = self.ask(self.inner.decide(decision)).await;
        let (journal, gtrid) = (&self.world.journal, decision.gtrid);
        match &decided {
            Ok(_) => self.world.account.decided(journal, gtrid),
            Err(DecideError::Refused(_)) => self.world.account.refused(journal, gtrid),
            Err(DecideError::Uncertain(_) | DecideError::MayBeLost(_)) => {
                journal.note(format_args!("decide {} is uncertain", gtrid.sequence));
            }
        }
        decided
    }

    fn complete(&self, gtrid: Gtrid) {
        if self.life.is_alive() {
            let journal = &self.world.journal;
            self.world.account.completed(journal, &self.world, gtrid);
            self.inner.complete(gtrid);
            self.poke.notify_one();
        }
    }

    async fn force(&self) -> Result<(), LogError> {
        self.ask(self.inner.force()).await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> Result<(), LogError> {
        let recorded = self.inner.record_heuristic(gtrid, resource, heuristic);
        self.ask(recorded).await
    }

    async fn close(&self, epoch: Epoch) -> Result<(), LogError> {
        self.ask(self.inner.close(epoch)).await
    }

    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError> {
        self.read(self.inner.lookup(gtrid)).await
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        self.read(self.inner.pending()).await
    }

    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        self.read(self.inner.openings()).await
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        self.ask(self.inner.shutdown()).await
    }
}
