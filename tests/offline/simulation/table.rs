//! The decision table that all processes of a world share, as one life of one of them sees it:
//! behind a network of its own, so that the log can be away when its server is not.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimous::ports::{
    Beat, Decided, DecisionRow, DecisionTable, Ends, EpochSlot, Found, HandRow, HeldDecisions,
    OpeningRow, RowState, ServerIdentity, Snapshot, TableError, TableErrorKind, TableState,
    UnixTime,
};
use unanimous::{Gtrid, ManagerId, ResourceName};
use unanimous_core::xid::Epoch;
use unanimous_testing::MemoryTable;

use super::life::Life;
use super::luck::Luck;
use super::network::round_trip;
use super::world::{Server, World};

/// Where the table is, and how its members behave.
pub(super) struct SharedLog {
    pub(super) table: MemoryTable,
    /// The server in whose database it is; alone on another one if there is none.
    pub(super) at: Option<usize>,
    pub(super) last_resource: bool,
    pub(super) suspect_after: Duration,
}

impl SharedLog {
    pub(super) fn new(luck: &Luck, servers: &[Server]) -> Self {
        let table = MemoryTable::new("the log");
        let at = luck.chance(700).then(|| luck.below(servers.len() as u64));
        let at = at.map(|at| at as usize);
        if let Some(at) = at {
            servers[at].memory.hosts(&table);
        }
        table.set_lock_wait(Duration::from_millis(*luck.pick(&[20, 200, 1000])));
        Self {
            table,
            at,
            last_resource: luck.chance(700),
            suspect_after: Duration::from_millis(*luck.pick(&[300, 1000, 3000])),
        }
    }

    /// Its epoch is closed: others may end its branches.
    pub(super) fn is_closed(&self, gtrid: Gtrid) -> bool {
        let openings = self.table.openings();
        let mut of_it = openings.iter().filter(|row| row.opening == gtrid.opening);
        of_it.any(|row| row.is_closed)
    }
}

/// The way to it.
#[derive(Clone)]
pub(super) struct SimTable {
    pub(super) world: Arc<World>,
    pub(super) member: usize,
    pub(super) life: Arc<Life>,
    pub(super) table: MemoryTable,
}

impl SimTable {
    async fn ask<R: Send + 'static>(
        &self,
        what: String,
        arrive: impl Future<Output = Result<R, TableError>> + Send + 'static,
    ) -> Result<R, TableError> {
        self.life.lives().await;
        let links = &self.world.members[self.member].links;
        let link = links.last().expect("the log has a link");
        if link.is_cut() && self.world.luck.chance(500) {
            let why = "no connection to the log";
            return Err(TableError::new(TableErrorKind::NotSent, why));
        }
        let (journal, label) = (
            Arc::clone(&self.world.journal),
            format!("{} {what}", link.name()),
        );
        let arrived = async move {
            let reply = arrive.await;
            let end = reply.as_ref().map(|_| ()).map_err(TableError::kind);
            journal.note(format_args!("{label} {end:?}"));
            reply
        };
        let answer = self.life.hear(round_trip(link, what, None, arrived));
        answer.await.unwrap_or_else(|| {
            let why = "the connection to the log broke";
            Err(TableError::new(TableErrorKind::Lost, why))
        })
    }
}

#[async_trait]
impl DecisionTable for SimTable {
    fn place(&self) -> String {
        self.table.place()
    }

    fn ddl(&self, manager: ManagerId) -> String {
        self.table.ddl(manager)
    }

    /// Of this world, whatever was drawn: else a seed would not be the same world again.
    async fn init(&self, _manager: ManagerId) -> Result<(), TableError> {
        let (table, manager) = (self.table.clone(), ManagerId::from_bytes([100; 10]));
        let init = async move { table.init(manager).await };
        self.ask("init".into(), init).await
    }

    async fn check(&self) -> Result<TableState, TableError> {
        let table = self.table.clone();
        self.ask("check".into(), async move { table.check().await })
            .await
    }

    async fn join(&self, _random: u64, label: &str) -> Result<OpeningRow, TableError> {
        let (table, label) = (self.table.clone(), label.to_owned());
        let random = self.world.luck.next();
        let join = async move { table.join(random, &label).await };
        let joined = self.ask("join".into(), join).await?;
        let (account, journal) = (&self.world.account, &self.world.journal);
        account.opened(journal, self.member, joined.opening);
        Ok(joined)
    }

    async fn decide(
        &self,
        at: EpochSlot,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
    ) -> Result<Decided, TableError> {
        let (table, home, rows) = (self.table.clone(), home.cloned(), rows.to_vec());
        let numbers: Vec<u64> = rows.iter().map(|row| row.gtrid.sequence).collect();
        let what = format!("decide {numbers:?} under {}", at.epoch);
        let decide = async move { table.decide(at, home.as_ref(), &rows).await };
        self.ask(what, decide).await
    }

    fn last_statement(&self, at: EpochSlot, row: &DecisionRow) -> String {
        self.table.last_statement(at, row)
    }

    async fn put_rollback(&self, gtrid: Gtrid) -> Result<RowState, TableError> {
        let table = self.table.clone();
        let what = format!("put rollback {}", gtrid.sequence);
        let put = async move { table.put_rollback(gtrid).await };
        self.ask(what, put).await
    }

    async fn complete(&self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        let (table, gtrids) = (self.table.clone(), gtrids.to_vec());
        let complete = async move { table.complete(&gtrids).await };
        self.ask("complete".into(), complete).await
    }

    async fn forget(&self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        let (table, gtrids) = (self.table.clone(), gtrids.to_vec());
        let forget = async move { table.forget(&gtrids).await };
        self.ask("forget".into(), forget).await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        end: char,
    ) -> Result<(), TableError> {
        let (table, resource) = (self.table.clone(), resource.clone());
        let record = async move { table.record_heuristic(gtrid, &resource, end).await };
        self.ask("record heuristic".into(), record).await
    }

    async fn record_by_hand(&self, row: &HandRow) -> Result<(), TableError> {
        let (table, row) = (self.table.clone(), row.clone());
        let record = async move { table.record_by_hand(&row).await };
        self.ask("record by hand".into(), record).await
    }

    async fn ends(&self, forced_by: Option<Epoch>) -> Result<Ends, TableError> {
        let table = self.table.clone();
        let ends = async move { table.ends(forced_by).await };
        self.ask("list the ends".into(), ends).await
    }

    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, TableError> {
        let (table, gtrids) = (self.table.clone(), gtrids.to_vec());
        let times = async move { table.decided_at(&gtrids).await };
        self.ask("ask for times".into(), times).await
    }

    async fn close(&self, epoch: Epoch) -> Result<(), TableError> {
        let table = self.table.clone();
        let close = async move { table.close(epoch).await };
        self.ask(format!("close {epoch}"), close).await
    }

    async fn release(&self, epoch: Epoch) -> Result<(), TableError> {
        let table = self.table.clone();
        let release = async move { table.release(epoch).await };
        self.ask(format!("release {epoch}"), release).await
    }

    async fn beat(&self, own: Epoch) -> Result<Vec<Beat>, TableError> {
        let table = self.table.clone();
        self.ask("beat".into(), async move { table.beat(own).await })
            .await
    }

    async fn read(&self, from: Epoch, by: Option<Epoch>) -> Result<Snapshot, TableError> {
        let table = self.table.clone();
        let read = async move { table.read(from, by).await };
        self.ask("read".into(), read).await
    }

    async fn find_all(
        &self,
        gtrids: &[Gtrid],
        by: Option<Epoch>,
    ) -> Result<Vec<Found>, TableError> {
        let (table, asked) = (self.table.clone(), gtrids.to_vec());
        let find = async move { table.find_all(&asked, by).await };
        let sequences: Vec<_> = gtrids.iter().map(|g| g.sequence.to_string()).collect();
        self.ask(format!("find {}", sequences.join(" ")), find)
            .await
    }

    /// Nobody in these worlds makes a barrier.
    async fn hold(&self) -> Result<Box<dyn HeldDecisions>, TableError> {
        DecisionTable::hold(&self.table).await
    }

    async fn closed_for(&self, age: Duration) -> Result<Vec<Epoch>, TableError> {
        let table = self.table.clone();
        let closed = async move { table.closed_for(age).await };
        self.ask("closed".into(), closed).await
    }
}
