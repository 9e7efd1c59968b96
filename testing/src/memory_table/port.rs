//! The port: each method is one request, and its effect on the rows.

use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{
    Beat, Decided, DecisionRow, DecisionTable, Ends, EpochSlot, Found, HandRow, HeldDecisions,
    OpeningRow, RowState, ServerIdentity, Snapshot, TableError, TableState, UnixTime,
};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, ResourceName};

use super::MemoryTable;
use crate::held::HeldTable;
use crate::journal::TableStep;
use crate::last_row::last_statement;
use crate::table_rows::TableRows;

#[async_trait]
impl DecisionTable for MemoryTable {
    fn place(&self) -> String {
        self.shared.place.clone()
    }

    fn ddl(&self, manager: ManagerId) -> String {
        format!("make the tables of {manager} at {}", self.shared.place)
    }

    async fn init(&self, manager: ManagerId) -> Result<(), TableError> {
        let init = move |rows: &mut TableRows| Some(rows.init(manager));
        self.ask(TableStep::Init, init).await
    }

    async fn check(&self) -> Result<TableState, TableError> {
        let check = |rows: &mut TableRows| Some(rows.check());
        self.ask(TableStep::Check, check).await
    }

    async fn join(&self, random: u64, label: &str) -> Result<OpeningRow, TableError> {
        let label = label.to_string();
        let join = move |rows: &mut TableRows| rows.join(random, &label);
        self.ask(TableStep::Join, join).await
    }

    async fn decide(
        &self,
        at: EpochSlot,
        home: Option<&ServerIdentity>,
        rows: &[DecisionRow],
    ) -> Result<Decided, TableError> {
        let (home, decisions) = (home.cloned(), rows.to_vec());
        let decide = move |rows: &mut TableRows| rows.decide(at, home.as_ref(), &decisions);
        self.ask(TableStep::Decide, decide).await
    }

    fn last_statement(&self, at: EpochSlot, row: &DecisionRow) -> String {
        last_statement(&self.shared.place, at, row)
    }

    async fn put_rollback(&self, gtrid: Gtrid) -> Result<RowState, TableError> {
        let put = move |rows: &mut TableRows| rows.put_rollback(gtrid);
        self.ask(TableStep::PutRollback, put).await
    }

    async fn complete(&self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        let gtrids = gtrids.to_vec();
        let complete = move |rows: &mut TableRows| Some(rows.complete(&gtrids));
        self.ask(TableStep::Complete, complete).await
    }

    async fn forget(&self, gtrids: &[Gtrid]) -> Result<(), TableError> {
        let gtrids = gtrids.to_vec();
        let forget = move |rows: &mut TableRows| Some(rows.forget(&gtrids));
        self.ask(TableStep::Forget, forget).await
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        end: char,
    ) -> Result<(), TableError> {
        let resource = resource.clone();
        let record = move |rows: &mut TableRows| Some(rows.record_heuristic(gtrid, &resource, end));
        self.ask(TableStep::RecordHeuristic, record).await
    }

    async fn record_by_hand(&self, row: &HandRow) -> Result<(), TableError> {
        let row = row.clone();
        let record = move |rows: &mut TableRows| Some(rows.record_by_hand(&row));
        self.ask(TableStep::RecordByHand, record).await
    }

    async fn ends(&self, forced_by: Option<Epoch>) -> Result<Ends, TableError> {
        let ends = move |rows: &mut TableRows| Some(rows.ends(forced_by));
        self.ask(TableStep::Ends, ends).await
    }

    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, TableError> {
        let gtrids = gtrids.to_vec();
        let times = move |rows: &mut TableRows| Some(rows.decided_at(&gtrids));
        self.ask(TableStep::DecidedAt, times).await
    }

    async fn close(&self, epoch: Epoch) -> Result<(), TableError> {
        let close = move |rows: &mut TableRows| rows.close(epoch);
        self.ask(TableStep::Close, close).await
    }

    async fn release(&self, epoch: Epoch) -> Result<(), TableError> {
        let release = move |rows: &mut TableRows| Some(rows.release(epoch));
        self.ask(TableStep::Release, release).await
    }

    async fn beat(&self, own: Epoch) -> Result<Vec<Beat>, TableError> {
        let beat = move |rows: &mut TableRows| Some(rows.beat(own));
        self.ask(TableStep::Beat, beat).await
    }

    async fn read(
        &self,
        openings_from: Epoch,
        forced_by: Option<Epoch>,
    ) -> Result<Snapshot, TableError> {
        let read = move |rows: &mut TableRows| Some(rows.read(openings_from, forced_by));
        self.ask(TableStep::Read, read).await
    }

    async fn find_all(
        &self,
        gtrids: &[Gtrid],
        forced_by: Option<Epoch>,
    ) -> Result<Vec<Found>, TableError> {
        let gtrids = gtrids.to_vec();
        let find = move |rows: &mut TableRows| {
            let found = gtrids.iter().map(|gtrid| rows.find(*gtrid, forced_by));
            Some(found.collect())
        };
        self.ask(TableStep::Find, find).await
    }

    async fn hold(&self) -> Result<Box<dyn HeldDecisions>, TableError> {
        let table = self.clone();
        // Set free again if nobody waits for the answer any more.
        let hold = move |rows: &mut TableRows| {
            let held = rows.hold()?;
            Some(held.map(|number| HeldTable::new(table.clone(), number)))
        };
        Ok(Box::new(self.ask(TableStep::Hold, hold).await?))
    }

    async fn closed_for(&self, age: Duration) -> Result<Vec<Epoch>, TableError> {
        let closed = move |rows: &mut TableRows| Some(rows.closed_for(age));
        self.ask(TableStep::ClosedFor, closed).await
    }
}
