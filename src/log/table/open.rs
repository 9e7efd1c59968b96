//! The port, on an open table log.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use unanimous_core::ports::{
    ByHand, DecideError, DecisionLog, DecisionRecord, DecisionRow, EpochSlot, Hands, HeuristicEnd,
    LogError, LogSnapshot, Lookup, Member, OpeningRow, OpeningState, Refusal, RowState, SLOTS,
    Snapshot, TableState, UnixTime,
};
use unanimous_core::protocol::{Heuristic, LogSeq};
use unanimous_core::xid::{Epoch, Gtrid, Opening, ResourceName};

use super::batches::{self, Request};
use super::codec::{self, letter_of};
use super::desk::Desk;
use super::ends::{BATCH_MAX, Turn};
use super::known::Wake;
use super::members;
use super::shared::{FORGOTTEN, Shared};
use super::{Options, fit_label, lazy, log_error, random};

/// See [`TableLog`](super::TableLog).
pub(super) struct OpenTableLog {
    pub(super) shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<Request>,
    tasks: Vec<AbortHandle>,
    pub(super) is_member: bool,
}

impl Drop for OpenTableLog {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Opening and closing.
impl OpenTableLog {
    pub(super) async fn join(
        desk: Desk,
        state: TableState,
        options: Options,
    ) -> Result<Self, LogError> {
        let label = options.label.clone();
        let label = label.unwrap_or_else(|| fit_label(&host_and_process()));
        let random = u64::from_le_bytes(random()?);
        let joined = desk
            .ask_until_free(|| desk.table.join(random, &label))
            .await;
        let joined = joined.map_err(log_error)?;
        let (shared, requests, waiting) = Self::parts(desk, state, options, label, joined);
        let tasks = [
            tokio::spawn(batches::run(Arc::clone(&shared), waiting)),
            tokio::spawn(lazy::run(Arc::clone(&shared))),
            tokio::spawn(members::run(Arc::clone(&shared))),
        ];
        Ok(Self {
            shared,
            requests,
            tasks: tasks.iter().map(|task| task.abort_handle()).collect(),
            is_member: true,
        })
    }

    /// Under no opening of its own: every decision is refused.
    pub(super) fn observe(desk: Desk, state: TableState, options: Options) -> Self {
        let opening = Opening {
            manager: state.manager,
            epoch: Epoch(0),
            nonce: 0,
        };
        let nobody = OpeningRow {
            opening,
            identity: state.identity.clone(),
            label: String::new(),
            is_closed: true,
            is_released: false,
        };
        let label = String::new();
        let (shared, requests, _waiting) = Self::parts(desk, state, options, label, nobody);
        shared.known().shut_down();
        Self {
            shared,
            requests,
            tasks: Vec::new(),
            is_member: false,
        }
    }

    fn parts(
        desk: Desk,
        state: TableState,
        options: Options,
        label: String,
        own: OpeningRow,
    ) -> (
        Arc<Shared>,
        mpsc::UnboundedSender<Request>,
        mpsc::UnboundedReceiver<Request>,
    ) {
        let (requests, waiting) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(desk, state, options, label, own));
        (shared, requests, waiting)
    }

    /// By whom what is read is made durable.
    pub(super) fn reader(&self) -> Option<Epoch> {
        self.is_member.then(|| self.shared.known().own().epoch)
    }

    /// With all openings as they were then, whatever is known of them by now.
    async fn read(
        &self,
        forced_by: Option<Epoch>,
    ) -> Result<(Snapshot, Vec<OpeningState>), LogError> {
        let mut question = self.shared.known().question();
        let desk = &self.shared.desk;
        let (snapshot, openings) = loop {
            let read = desk.ask(desk.table.read(question.from, forced_by)).await;
            let mut snapshot = read.map_err(log_error)?;
            let mut known = self.shared.known();
            if known.is_new(&snapshot.identity) && !question.is_of_all() {
                // What was known to be closed may be open again there. Until all were read, it is
                // new.
                question = known.question_of_all();
                continue;
            }
            let listed = std::mem::take(&mut snapshot.openings);
            let openings = known.see(question, &snapshot.identity, listed);
            break (snapshot, openings);
        };
        if self.is_member {
            self.shared.rejoin_if_elsewhere(&snapshot.identity);
        }
        Ok((snapshot, openings))
    }

    fn decode(&self, row: DecisionRow) -> Result<DecisionRecord, LogError> {
        let branches = codec::decode(&row.branches);
        let branches = branches.ok_or_else(|| self.unreadable(row.gtrid))?;
        let gtrid = row.gtrid;
        Ok(DecisionRecord { gtrid, branches })
    }

    fn shut_down_error(&self) -> LogError {
        let place = self.shared.desk.table.place();
        LogError::new(format!("the decision log in {place} was shut down"))
    }

    pub(super) fn unreadable(&self, gtrid: Gtrid) -> LogError {
        let place = self.shared.desk.table.place();
        LogError::new(format!(
            "the decision log in {place}: the row of {gtrid} cannot be read: was it written by a \
             newer version, or changed by hand?"
        ))
    }

    fn row(decision: &DecisionRecord) -> DecisionRow {
        DecisionRow {
            gtrid: decision.gtrid,
            branches: codec::encode(&decision.branches),
        }
    }

    /// Not where this opening is of another server than the scope, which may have been taken over
    /// from and still be there: its number could be another opening's there, and that it was closed
    /// may be lost.
    fn takes_last_of(&self, opening: Opening, scope: &str) -> bool {
        let state = self.shared.state();
        let known = self.shared.known();
        self.shared.options.last_resource
            && scope == state.scope
            && known
                .listed(opening)
                .is_some_and(|row| row.identity == state.identity)
            && !known.is_shut_down()
    }

    /// From here on it may be recorded, whoever still waits for it. Is it the first attempt? Or
    /// what can be answered without asking the table.
    fn begin_attempt(&self, gtrid: Gtrid) -> Result<bool, Result<LogSeq, DecideError>> {
        let mut known = self.shared.known();
        if !known.is_shut_down() {
            return Ok(known.attempt(gtrid));
        }
        drop(known);
        Err(self
            .answer(gtrid)
            .unwrap_or_else(|| Err(DecideError::Uncertain(self.shut_down_error()))))
    }

    /// What can be answered without asking the table.
    fn answer(&self, gtrid: Gtrid) -> Option<Result<LogSeq, DecideError>> {
        let known = self.shared.known();
        if let Some(seq) = known.recorded(gtrid) {
            return Some(Ok(seq));
        }
        let error = if known.is_shut_down() {
            if known.is_attempted(gtrid) {
                drop(known);
                return Some(Err(self.shared.may_be_lost(gtrid, SHUT_DOWN)));
            }
            self.shut_down_error()
        } else if gtrid.opening.manager != known.own().manager {
            LogError::new(format!("{gtrid} is of another manager than this log"))
        } else {
            return None;
        };
        // It was never asked for before: then it would be recorded, or in doubt.
        Some(Err(DecideError::Refused(Refusal::NotAttempted(error))))
    }

    /// The table goes by the epoch alone, which after a fail-over may be another opening's.
    async fn refuse_stranger(&self, gtrid: Gtrid) -> Option<DecideError> {
        let is_listed = || self.shared.known().listed(gtrid.opening).is_some();
        if !is_listed()
            && let Err(error) = self.read(None).await
        {
            return Some(DecideError::Uncertain(error));
        }
        if is_listed() {
            return None;
        }
        let why = "its opening is not one that this log lists";
        if self.shared.known().is_attempted(gtrid) {
            return Some(self.shared.may_be_lost(gtrid, why));
        }
        let error = LogError::new(format!("{gtrid}: {why}"));
        Some(DecideError::Refused(Refusal::NotAttempted(error)))
    }

    /// The row says that it was rolled back. That is believed unless rows of its epoch may have
    /// been deleted, or lost, before this one was put there. One that was put there after its epoch
    /// was released is deleted with a further release: nothing is decided under it any more.
    ///
    /// The server that has answered so does not say which it is. So another one answers for itself
    /// alone: the row has to stand where the opening is looked at.
    async fn believe_rollback(&self, gtrid: Gtrid) -> Result<LogSeq, DecideError> {
        let desk = &self.shared.desk;
        let found = desk.ask(desk.table.find(gtrid, self.reader())).await;
        let found = found.map_err(|error| DecideError::Uncertain(log_error(error)))?;
        let opening = found.opening.as_ref();
        let is_released = opening.is_some_and(|row| row.is_released);
        let is_whole = opening.is_some_and(|row| self.shared.is_whole(row, &found.identity));
        let stands = matches!(found.row, Some((RowState::RolledBack, _)));
        if stands && is_whole && !is_released {
            self.shared.known().settle(gtrid);
            return Err(DecideError::Refused(Refusal::LastRolledBack));
        }
        if stands && is_released {
            // Lost, the row stays: it says nothing that the released epoch does not.
            let _ = desk.ask(desk.table.release(gtrid.opening.epoch)).await;
        }
        let is_told = stands || is_released;
        let why = if is_told { FORGOTTEN } else { TWO_SERVERS };
        Err(self.shared.may_be_lost(gtrid, why))
    }
}

#[async_trait]
impl DecisionLog for OpenTableLog {
    fn opening(&self) -> Opening {
        self.shared.known().own()
    }

    async fn decide(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        if let Some(answer) = self.answer(decision.gtrid) {
            return answer;
        }
        if let Some(refusal) = self.refuse_stranger(decision.gtrid).await {
            return Err(refusal);
        }
        let is_first = match self.begin_attempt(decision.gtrid) {
            Ok(is_first) => is_first,
            Err(answer) => return answer,
        };
        let (reply, answer) = oneshot::channel();
        let request = Request {
            decision: decision.clone(),
            is_first,
            reply,
        };
        // If nobody takes it any more, nobody answers.
        let _ = self.requests.send(request);
        answer
            .await
            .unwrap_or_else(|_| Err(DecideError::Uncertain(task_ended())))
    }

    fn takes_last(&self, scope: &str) -> bool {
        let own = self.shared.known().own();
        self.takes_last_of(own, scope)
    }

    fn last_statement(&self, scope: &str, decision: &DecisionRecord) -> Option<String> {
        if !self.takes_last_of(decision.gtrid.opening, scope) {
            return None;
        }
        let at = EpochSlot {
            epoch: decision.gtrid.opening.epoch,
            slot: self.shared.next_slot() % SLOTS,
        };
        let table = &self.shared.desk.table;
        Some(table.last_statement(at, &Self::row(decision)))
    }

    fn note_last(&self, decision: &DecisionRecord) -> LogSeq {
        self.shared.known().record(decision.clone())
    }

    async fn settle_last(&self, decision: &DecisionRecord) -> Result<LogSeq, DecideError> {
        let gtrid = decision.gtrid;
        if let Some(seq) = self.shared.known().recorded(gtrid) {
            return Ok(seq);
        }
        if self.shared.known().is_shut_down() {
            return Err(self.shared.may_be_lost(gtrid, SHUT_DOWN));
        }
        let desk = &self.shared.desk;
        let turn = self.shared.turn().await;
        let stands = desk.ask(desk.table.put_rollback(gtrid)).await;
        drop(turn);
        match stands.map_err(|error| DecideError::Uncertain(log_error(error)))? {
            RowState::Pending => Ok(self.shared.known().record(decision.clone())),
            RowState::Completed => {
                let mut known = self.shared.known();
                let seq = known.record(decision.clone());
                known.complete(gtrid);
                Ok(seq)
            }
            RowState::RolledBack => self.believe_rollback(gtrid).await,
        }
    }

    fn complete(&self, gtrid: Gtrid) {
        self.shared.known().complete(gtrid);
    }

    async fn force(&self) -> Result<(), LogError> {
        if !self.is_member {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        // Whoever gives up takes nothing along that is on its way.
        let forcing = tokio::spawn(async move { lazy::force(&shared).await });
        forcing.await.unwrap_or_else(|_| Err(task_ended()))
    }

    async fn record_heuristic(
        &self,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> Result<(), LogError> {
        self.refuse_observer()?;
        self.shared.known().note_heuristic(gtrid);
        let desk = &self.shared.desk;
        let noting = desk
            .table
            .record_heuristic(gtrid, resource, letter_of(heuristic));
        desk.ask(noting).await.map_err(log_error)
    }

    async fn heuristics(&self) -> Result<Vec<HeuristicEnd>, LogError> {
        self.noted_ends().await
    }

    async fn record_by_hand(&self, by_hand: &ByHand) -> Result<(), LogError> {
        self.note_by_hand(by_hand).await
    }

    async fn by_hand(&self) -> Result<Vec<ByHand>, LogError> {
        self.noted_by_hand().await
    }

    async fn hands(&self) -> Result<Hands, LogError> {
        self.noted_hands().await
    }

    async fn decided_at(&self, gtrids: &[Gtrid]) -> Result<Vec<(Gtrid, UnixTime)>, LogError> {
        self.times_of(gtrids).await
    }

    async fn close(&self, epoch: Epoch) -> Result<(), LogError> {
        members::close(&self.shared, epoch, members::ASKED).await?;
        self.shared.rejoin(epoch);
        Ok(())
    }

    async fn lookup(&self, gtrid: Gtrid) -> Result<Lookup, LogError> {
        for turn in [Turn::First, Turn::Last] {
            let asked = self.find(&[gtrid]).await;
            let asked = asked.map(|mut found| found.pop());
            if let Some(lookup) = self.judge(gtrid, asked, turn)? {
                return Ok(lookup);
            }
        }
        Err(self.unreadable(gtrid))
    }

    async fn lookup_all(
        &self,
        gtrids: &[Gtrid],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        let mut all = Vec::with_capacity(gtrids.len());
        for some in gtrids.chunks(BATCH_MAX) {
            self.look_up_some(some, &mut all).await;
        }
        Ok(all)
    }

    async fn pending(&self) -> Result<Vec<DecisionRecord>, LogError> {
        let snapshot = self.snapshot().await?;
        Ok(snapshot.pending)
    }

    async fn snapshot(&self) -> Result<LogSnapshot, LogError> {
        let (snapshot, openings) = self.read(self.reader()).await?;
        let rows = snapshot.pending.into_iter();
        let listed: Result<Vec<_>, LogError> = rows.map(|row| self.decode(row)).collect();
        let pending = self.shared.known().pending(listed?);
        Ok(LogSnapshot { openings, pending })
    }

    /// Not forced: whoever acts on it reads what is pending afterwards, which is.
    async fn openings(&self) -> Result<Vec<OpeningState>, LogError> {
        let (_, openings) = self.read(None).await?;
        Ok(openings)
    }

    fn on_close(&self, wake: Wake) {
        self.shared.known().add_wake(wake);
    }

    async fn members(&self) -> Result<Vec<Member>, LogError> {
        self.read(None).await?;
        Ok(members::list(&self.shared, self.is_member))
    }

    async fn shutdown(&self) -> Result<(), LogError> {
        if !self.is_member {
            return Ok(());
        }
        self.shared.known().shut_down();
        // Whoever is joining anew has joined, and nobody does so any more.
        let _joining = self.shared.joining.lock().await;
        let own = self.shared.known().own().epoch;
        // What is not written is written by whoever finds it pending.
        let _ = lazy::write_all(&self.shared).await;
        let desk = &self.shared.desk;
        let closed = desk.ask_until_free(|| desk.table.close(own)).await;
        if closed.is_ok() {
            self.shared.known().see_closed(own);
            // Nothing is asked any more under it. Lost, it is released by another, later.
            let _ = desk.ask(desk.table.release(own)).await;
            members::release_left(&self.shared).await;
        }
        for task in &self.tasks {
            task.abort();
        }
        closed.map_err(log_error)
    }
}

const TWO_SERVERS: &str = "two servers answer for the decision log, and not alike: find out at its \
    databases";

const SHUT_DOWN: &str = "the decision log was shut down before it could answer";

fn task_ended() -> LogError {
    LogError::new("the decision log's task has ended: restart this process")
}

/// Who this process is, for people.
pub(crate) fn host_and_process() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}
