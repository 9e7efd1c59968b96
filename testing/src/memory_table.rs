//! A decision table in memory that fails on demand.
//!
//! Follows the contract of `unanimous_core::ports::DecisionTable` but for durability: its rows live
//! as long as a handle does. What is forced survives [`MemoryTable::crash`], what is not is lost
//! there. It stands alone, or lives in a [`MemoryServer`], whose branches can then be last
//! resources: whatever happens to the server happens to the table.

mod port;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use unanimous_core::ports::{
    DecisionTable, OpeningRow, RowState, ServerIdentity, TableError, TableErrorKind, TableHome,
};
use unanimous_core::xid::Gtrid;

use crate::gate::{Gate, Hang};
use crate::journal::{Event, Journal, LogStep, TableStep};
use crate::last_row::LastRow;
use crate::memory_server::{MemoryServer, WeakServer, parse_identity};
use crate::server_state::Writes;
use crate::table_rows::{Attempt, TableRows};

/// What goes wrong with one request to a decision table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFault {
    /// Answered `NotSent`: without effect.
    NotSent,
    /// Answered `Refused`: without effect.
    Refused,
    /// The request never arrives: answered `Lost`, without effect.
    LoseRequest,
    /// The request takes effect: answered `Lost`.
    LoseReply,
    /// As `LoseReply`, and what should be forced is not: it is there for all to see, and a crash
    /// loses it unless a later forced write came in between.
    LoseForce,
}

enum Planned {
    Fault(TableFault),
    Hang(Gate),
    Late(Gate),
    Elsewhere(MemoryTable),
}

struct Shared {
    rows: Mutex<TableRows>,
    /// Counts the crashes: whatever was under way before the last one never happens.
    crashes: watch::Sender<u64>,
    /// Moves whenever a last resource's branch ends.
    unlocks: watch::Sender<u64>,
    host: Mutex<Option<WeakServer>>,
    lock_wait: Mutex<Duration>,
    lag: Mutex<usize>,
    place: String,
    journal: Journal,
}

/// What lies between a member and the table.
struct Link {
    planned: Mutex<Vec<(TableStep, Planned)>>,
    is_reachable: Mutex<bool>,
    latency: Mutex<Duration>,
}

impl Link {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            planned: Mutex::default(),
            is_reachable: Mutex::new(true),
            latency: Mutex::default(),
        })
    }
}

/// A decision table in memory. Cloning gives another handle onto the same table, over the same
/// link; [`another_link`](Self::another_link) one with faults of its own.
#[derive(Clone)]
pub struct MemoryTable {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Making one.
impl MemoryTable {
    /// A table at a server of this identity, without a row, with a journal of its own.
    ///
    /// # Panics
    /// When `identity` is not printable ASCII of at most 128 bytes.
    pub fn new(identity: &str) -> Self {
        Self::with(identity, Journal::new())
    }

    /// A table that writes into a given journal.
    ///
    /// # Panics
    /// When `identity` is not printable ASCII of at most 128 bytes.
    pub fn with(identity: &str, journal: Journal) -> Self {
        let rows = TableRows::new(parse_identity(identity), journal.clone());
        Self {
            shared: Arc::new(Shared {
                rows: Mutex::new(rows),
                crashes: watch::Sender::new(0),
                unlocks: watch::Sender::new(0),
                host: Mutex::default(),
                lock_wait: Mutex::new(Duration::from_secs(2)),
                lag: Mutex::new(1),
                place: format!("memory table at {identity}"),
                journal,
            }),
            link: Link::new(),
        }
    }

    /// Another handle onto the same table whose faults, delay and reach are its own: another
    /// member's.
    #[must_use]
    pub fn another_link(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            link: Link::new(),
        }
    }
}

/// Looking into it, as an independent client would.
impl MemoryTable {
    /// What the transaction's row says, if there is one.
    pub fn row(&self, gtrid: Gtrid) -> Option<RowState> {
        self.lock().row(gtrid)
    }

    /// How many decisions have a row.
    pub fn row_count(&self) -> usize {
        self.lock().row_count()
    }

    /// Every opening.
    pub fn openings(&self) -> Vec<OpeningRow> {
        self.lock().openings()
    }

    /// The server it is at.
    pub fn identity(&self) -> ServerIdentity {
        self.lock().identity.clone()
    }

    /// What happened here.
    pub fn journal(&self) -> Journal {
        self.shared.journal.clone()
    }
}

/// What a person or a driver does in its database.
impl MemoryTable {
    /// Makes the tables as [`ddl`](DecisionTable::ddl) says.
    ///
    /// # Panics
    /// When it is not this table's.
    pub fn run_ddl(&self, ddl: &str) {
        let manager = ddl.strip_prefix("make the tables of ");
        let manager = manager.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let manager = manager.expect("what makes these tables");
        self.lock().init(manager).expect("a writable server");
    }

    /// Runs the statement of a last resource in a transaction of its own, and leaves that open.
    ///
    /// # Errors
    /// What the statement answers: it has no effect then.
    pub fn hold(&self, statement: &str) -> Result<HeldRow, &'static str> {
        self.insert_last(statement).map(HeldRow)
    }
}

/// The transaction of [`MemoryTable::hold`]. Dropping it rolls it back.
#[must_use = "dropping it rolls it back"]
#[derive(Debug)]
pub struct HeldRow(LastRow);

impl HeldRow {
    /// Commits it.
    pub fn commit(self) {
        self.0.commit(Writes::new());
    }
}

/// What goes wrong.
impl MemoryTable {
    /// Lets the next request of this kind over this link fail. Faults of one kind are used up in
    /// order.
    pub fn fail_next(&self, step: TableStep, fault: TableFault) {
        self.plan(step, Planned::Fault(fault));
    }

    /// Lets the next request of this kind over this link hang until it is released. It takes effect
    /// then, even if the caller has given up.
    pub fn hang_next(&self, step: TableStep) -> Hang {
        let gate = Gate::closed();
        self.plan(step, Planned::Hang(gate.clone()));
        Hang(gate)
    }

    /// Answers the next request of this kind over this link at once with `Lost`; it takes effect
    /// when it is released.
    pub fn delay_next(&self, step: TableStep) -> Hang {
        let gate = Gate::closed();
        self.plan(step, Planned::Late(gate.clone()));
        Hang(gate)
    }

    /// Lets another server answer the next request of this kind over this link, as a proxy does
    /// that has changed its mind.
    pub fn answer_next(&self, step: TableStep, by: &Self) {
        self.plan(step, Planned::Elsewhere(by.clone()));
    }

    /// Lets every request over this link that is not planned otherwise take so long on its way, and
    /// its reply as long. It takes effect even if the caller gives up meanwhile.
    pub fn set_delay(&self, latency: Duration) {
        *locked(&self.link.latency) = latency;
    }

    /// Cuts this link, or mends it. While it is cut nothing is sent; what is under way arrives.
    pub fn set_reachable(&self, is_reachable: bool) {
        *locked(&self.link.is_reachable) = is_reachable;
    }

    /// Makes a standby of its server, or the primary again. A standby refuses everything.
    pub fn set_writable(&self, is_writable: bool) {
        self.lock().is_writable = is_writable;
    }

    /// How long a request waits for a lock until it is refused: 2 s unless told.
    pub fn set_lock_wait(&self, wait: Duration) {
        *locked(&self.shared.lock_wait) = wait;
    }

    /// How many forced transactions a standby lags behind when it takes over: 1 unless told.
    pub fn set_lag(&self, transactions: usize) {
        *locked(&self.shared.lag) = transactions;
    }

    /// Stops the table's server as by kill -9 and starts it again: what was not forced is lost, and
    /// requests under way never happen.
    pub fn crash(&self) {
        match self.host() {
            Some(server) => server.crash(),
            None => drop(self.crash_alone()),
        }
    }

    /// Another server, of another identity, takes the place of the table's: as after a crash, and
    /// if it is not lossless the last forced transactions are lost, too.
    pub fn fail_over(&self, lossless: bool) {
        let old = self.identity();
        // Without what earlier fail-overs have added.
        let (old, _) = old
            .as_str()
            .split_once(" over ")
            .unwrap_or((old.as_str(), ""));
        let count = *self.shared.crashes.borrow() + 1;
        let identity = format!("{old} over {count}");
        match self.host() {
            Some(server) => server.fail_over_as(&identity, lossless),
            None => drop(self.fail_over_alone(parse_identity(&identity), lossless)),
        }
    }

    /// Its server is of this identity from now on: another one has taken over its data, be it one
    /// that it was at before.
    ///
    /// # Panics
    /// When `identity` is not printable ASCII of at most 128 bytes.
    pub fn move_to(&self, identity: &str) {
        drop(self.fail_over_alone(parse_identity(identity), true));
    }

    fn plan(&self, step: TableStep, planned: Planned) {
        locked(&self.link.planned).push((step, planned));
    }

    fn host(&self) -> Option<MemoryServer> {
        let host = locked(&self.shared.host);
        host.as_ref().and_then(WeakServer::upgrade)
    }
}

/// For the server that hosts it. A server's lock is taken before the table's, never after.
impl MemoryTable {
    pub(crate) fn settle_at(&self, server: WeakServer, identity: ServerIdentity) {
        *locked(&self.shared.host) = Some(server);
        self.lock().identity = identity;
    }

    /// Answers what the rows of the application were before, newest first.
    pub(crate) fn crash_alone(&self) -> Vec<Writes> {
        let lost = self.lock().crash();
        self.shared.crashes.send_modify(|count| *count += 1);
        lost
    }

    pub(crate) fn fail_over_alone(&self, identity: ServerIdentity, lossless: bool) -> Vec<Writes> {
        let lag = if lossless {
            0
        } else {
            *locked(&self.shared.lag)
        };
        let mut rows = self.lock();
        let lost = rows.lose_forced(lag);
        rows.identity = identity;
        drop(rows);
        self.shared.crashes.send_modify(|count| *count += 1);
        lost
    }

    pub(crate) fn insert_last(&self, statement: &str) -> Result<LastRow, &'static str> {
        LastRow::insert(self, statement)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, TableRows> {
        locked(&self.shared.rows)
    }

    pub(crate) fn note_unlocked(&self) {
        self.shared.unlocks.send_modify(|count| *count += 1);
    }

    pub(crate) fn is_place(&self, place: &str) -> bool {
        self.shared.place == place
    }
}

/// A request on its way.
impl MemoryTable {
    fn take_planned(&self, step: TableStep) -> Option<Planned> {
        let mut planned = locked(&self.link.planned);
        let position = planned.iter().position(|(wanted, _)| *wanted == step)?;
        Some(planned.remove(position).1)
    }

    async fn ask<R: Send + 'static>(
        &self,
        step: TableStep,
        mut effect: impl FnMut(&mut TableRows) -> Attempt<R> + Send + 'static,
    ) -> Result<R, TableError> {
        let asked = Event::Log(LogStep::Table(step));
        self.shared.journal.push(asked);
        if !*locked(&self.link.is_reachable) {
            return Err(self.error(TableErrorKind::NotSent, "no connection to the server"));
        }
        let latency = *locked(&self.link.latency);
        let lost = || self.error(TableErrorKind::Lost, "the connection broke");
        let mut crashes = self.shared.crashes.subscribe();
        let (gate, waits) = match self.take_planned(step) {
            None if latency.is_zero() => (Gate::opened(), true),
            None => (Gate::open_after(latency), true),
            Some(Planned::Hang(gate)) => (gate, true),
            Some(Planned::Late(gate)) => (gate, false),
            Some(Planned::Elsewhere(other)) => return Box::pin(other.ask(step, effect)).await,
            Some(Planned::Fault(TableFault::LoseReply)) => (Gate::opened(), false),
            Some(Planned::Fault(TableFault::LoseRequest)) => return Err(lost()),
            Some(Planned::Fault(TableFault::LoseForce)) => {
                let mut rows = self.lock();
                rows.is_forcing = false;
                let _reply = effect(&mut rows);
                rows.is_forcing = true;
                drop(rows);
                return Err(lost());
            }
            Some(Planned::Fault(TableFault::NotSent)) => {
                return Err(self.error(TableErrorKind::NotSent, "no connection to the server"));
            }
            Some(Planned::Fault(TableFault::Refused)) => {
                return Err(self.error(TableErrorKind::Refused, "the disk is full: make room"));
            }
        };
        let reply = self.send(&gate, effect);
        if !waits {
            return Err(lost());
        }
        let answer = tokio::select! {
            biased;
            reply = reply => reply.unwrap_or_else(|_| Err(lost())),
            _ = crashes.changed() => Err(lost()),
        };
        if !latency.is_zero() {
            sleep(latency).await;
        }
        answer
    }

    fn error(&self, kind: TableErrorKind, why: &str) -> TableError {
        TableError::new(kind, format!("{}: {why}", self.shared.place))
    }

    fn send<R: Send + 'static>(
        &self,
        gate: &Gate,
        mut effect: impl FnMut(&mut TableRows) -> Attempt<R> + Send + 'static,
    ) -> oneshot::Receiver<Result<R, TableError>> {
        let (sender, receiver) = oneshot::channel();
        let table = self.clone();
        let sent_after = *table.shared.crashes.borrow();
        gate.submit(Box::new(move || {
            let mut rows = table.lock();
            if *table.shared.crashes.borrow() != sent_after {
                return;
            }
            let attempt = effect(&mut rows);
            drop(rows);
            match attempt {
                // Nobody may be waiting any more; the effect stays.
                Some(reply) => drop(sender.send(reply)),
                None => {
                    tokio::spawn(async move {
                        if let Some(reply) = table.wait_for_lock(sent_after, effect).await {
                            let _ = sender.send(reply);
                        }
                    });
                }
            }
        }));
        receiver
    }

    /// Tries again whenever a lock may be free. Nothing if the server crashed meanwhile.
    async fn wait_for_lock<R>(
        &self,
        sent_after: u64,
        mut effect: impl FnMut(&mut TableRows) -> Attempt<R>,
    ) -> Attempt<R> {
        let wait = *locked(&self.shared.lock_wait);
        let mut unlocks = self.shared.unlocks.subscribe();
        let mut crashes = self.shared.crashes.subscribe();
        let mut patience = std::pin::pin!(sleep(wait));
        loop {
            unlocks.mark_unchanged();
            {
                let mut rows = self.lock();
                if *self.shared.crashes.borrow() != sent_after {
                    return None;
                }
                if let Some(reply) = effect(&mut rows) {
                    return Some(reply);
                }
            }
            tokio::select! {
                biased;
                _ = crashes.changed() => return None,
                _ = unlocks.changed() => {}
                () = &mut patience => {
                    let why = "a lock was not free in time: ask again";
                    return Some(Err(self.error(TableErrorKind::Busy, why)));
                }
            }
        }
    }
}

impl TableHome for MemoryTable {
    fn decision_table(&self) -> Arc<dyn DecisionTable> {
        Arc::new(self.clone())
    }
}
