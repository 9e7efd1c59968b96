//! A database server in memory that fails on demand.
//!
//! Owns the rows, the sessions and the prepared branches. Promises what a real server promises: a
//! prepared branch survives [`MemoryServer::crash`] and the loss of its session, an active one
//! survives neither. It does not promise to stay: everything is gone with the last handle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use unanimous_core::ports::{BranchErrorKind, Cause, ServerIdentity};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::{ResourceName, Xid};

use crate::gate::{Gate, Hang};
use crate::journal::{Event, Journal, Step};
use crate::memory_resource::MemoryResource;
use crate::memory_table::MemoryTable;
use crate::server_state::{ServerState, SessionId, Writes};

/// In which of the three known ways a server answers about branches that it does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// An absent branch can be proven committed or rolled back; anybody can finish a branch.
    Postgres,
    /// An absent branch proves nothing; anybody can finish a branch.
    Mysql,
    /// An absent branch proves nothing, a branch is unknown to all other connections as long as the
    /// one that prepared it is open, and a rollback that was answered can be lost with a crash
    /// (each seen on MariaDB 10.11 and 11.8).
    Mariadb,
}

impl Flavour {
    pub(crate) const fn proves_absence(self) -> bool {
        matches!(self, Self::Postgres)
    }

    pub(crate) const fn flushes_rollbacks(self) -> bool {
        !matches!(self, Self::Mariadb)
    }

    pub(crate) const fn holder_blocks_finish(self) -> bool {
        matches!(self, Self::Mariadb)
    }
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request never arrives, and the connection breaks: undetermined, without effect.
    LoseRequest,
    /// The request takes effect, and the connection breaks before the reply: undetermined.
    LoseReply,
    /// The server answers with this error. `RolledBack` rolls the branch back (in prepare a
    /// rollback vote, in commit a heuristic); every other kind changes nothing.
    Refuse(BranchErrorKind),
}

impl Fault {
    /// Votes for rollback, or refuses with a rollback elsewhere, because of a conflict.
    pub const CONFLICT: Self = Self::Refuse(BranchErrorKind::RolledBack(Cause::Conflict));
}

enum Planned {
    Fault(Fault),
    Hang(Gate),
    Late(Gate),
}

pub(crate) enum Delivery<R> {
    Reply(R),
    /// Answered with an error of this kind.
    Refused(BranchErrorKind),
    /// No answer; it may have taken effect.
    Lost,
    /// No connection: without effect.
    Unreachable,
}

struct Shared {
    state: Mutex<ServerState>,
    planned: Mutex<Vec<(Step, Planned)>>,
    crashes: watch::Sender<u64>,
}

/// A server in memory. Cloning gives the same server.
#[derive(Clone)]
pub struct MemoryServer(Arc<Shared>);

/// Making one, and the resources on it.
impl MemoryServer {
    /// A server that behaves like PostgreSQL, with a journal of its own.
    ///
    /// # Panics
    /// When `identity` is not printable ASCII of at most 128 bytes.
    pub fn new(identity: &str) -> Self {
        Self::with(identity, Flavour::Postgres, Journal::new())
    }

    /// A server of a given flavour that writes into a given journal.
    ///
    /// # Panics
    /// When `identity` is not printable ASCII of at most 128 bytes.
    pub fn with(identity: &str, flavour: Flavour, journal: Journal) -> Self {
        let state = ServerState::new(parse_identity(identity), flavour, journal);
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            planned: Mutex::default(),
            crashes: watch::Sender::new(0),
        }))
    }

    /// A resource of this name on this server. Every one has the server for its scope.
    ///
    /// # Panics
    /// When `name` is not a resource name.
    pub fn resource(&self, name: &str) -> MemoryResource {
        let name = name.parse::<ResourceName>();
        MemoryResource::on(self.clone(), name.expect("a valid resource name"))
    }
}

/// A decision table in it.
impl MemoryServer {
    /// Lets this table live in this database, before anybody joins it: branches here can be last
    /// resources, and what happens to the server happens to the table.
    ///
    /// # Panics
    /// When it hosts another one.
    pub fn hosts(&self, table: &MemoryTable) {
        let mut state = self.lock();
        assert!(state.table.is_none(), "one server hosts one table");
        table.settle_at(WeakServer(Arc::downgrade(&self.0)), state.identity.clone());
        state.table = Some(table.clone());
    }

    /// The table in this database.
    pub fn hosted(&self) -> Option<MemoryTable> {
        self.lock().table.clone()
    }
}

/// A server that its table knows, and does not keep.
pub(crate) struct WeakServer(Weak<Shared>);

impl WeakServer {
    pub(crate) fn upgrade(&self) -> Option<MemoryServer> {
        self.0.upgrade().map(MemoryServer)
    }
}

/// Looking into it, as an independent client would.
impl MemoryServer {
    /// The committed value of a row.
    pub fn row(&self, key: &str) -> Option<String> {
        self.lock().rows.get(key).cloned()
    }

    /// Every prepared branch of ours, in the order of their XIDs.
    pub fn prepared(&self) -> Vec<Xid> {
        self.lock().prepared_xids()
    }

    /// Sessions that a branch uses or that were left behind; 0 when nothing leaks.
    pub fn open_sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Sessions that were released and wait for the next branch.
    pub fn idle_sessions(&self) -> usize {
        self.lock().idle.len()
    }

    /// Uses that break the contract of the port, such as releasing a branch that has not ended.
    pub fn misuses(&self) -> Vec<String> {
        self.lock().misuses.clone()
    }

    /// What happened here.
    pub fn journal(&self) -> Journal {
        self.lock().journal.clone()
    }
}

/// What goes wrong.
impl MemoryServer {
    /// Lets the next request of this kind fail. Faults of one kind are used up in order.
    pub fn fail_next(&self, step: Step, fault: Fault) {
        self.plan(step, Planned::Fault(fault));
    }

    /// Lets the next request of this kind hang until it is released. It takes effect then, even
    /// if the caller has given up: a late prepare.
    pub fn hang_next(&self, step: Step) -> Hang {
        let gate = Gate::closed();
        self.plan(step, Planned::Hang(gate.clone()));
        Hang(gate)
    }

    /// Answers the next request of this kind at once with "undetermined"; it takes effect when it
    /// is released.
    pub fn delay_next(&self, step: Step) -> Hang {
        let gate = Gate::closed();
        self.plan(step, Planned::Late(gate.clone()));
        Hang(gate)
    }

    /// Lets every request that is not planned otherwise take so long on its way, and its reply as
    /// long. It takes effect even if the caller gives up meanwhile, as over a network.
    pub fn slow_down(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Stops the server as by kill -9 and starts it again: sessions, active branches and requests
    /// under way are gone; what is prepared or committed stays.
    pub fn crash(&self) {
        self.lock().crash();
        self.0.crashes.send_modify(|count| *count += 1);
    }

    /// As [`crash`](Self::crash); a server that does not flush rollbacks has lost those since the
    /// last prepare or commit, and lists their branches as prepared again.
    pub fn crash_losing_rollbacks(&self) {
        self.lock().crash_losing_rollbacks();
        self.0.crashes.send_modify(|count| *count += 1);
    }

    /// Another server of this identity takes its place and has lost what was prepared.
    ///
    /// # Panics
    /// When `identity` is not printable ASCII of at most 128 bytes.
    pub fn fail_over(&self, identity: &str) {
        self.fail_over_as(identity, true);
    }

    /// If it is not lossless, the last transactions that the hosted table counts are lost, too.
    pub(crate) fn fail_over_as(&self, identity: &str, lossless: bool) {
        self.lock().fail_over(parse_identity(identity), lossless);
        self.0.crashes.send_modify(|count| *count += 1);
    }

    /// Cuts the network, or mends it. While it is cut every request fails without effect; sessions
    /// stay at the server until their owners let them go.
    pub fn set_reachable(&self, is_reachable: bool) {
        let mut state = self.lock();
        state.is_reachable = is_reachable;
        if let Some(table) = &state.table {
            table.set_reachable(is_reachable);
        }
    }

    /// Makes a standby of it, or the primary again. A standby answers no scan.
    pub fn set_writable(&self, is_writable: bool) {
        let mut state = self.lock();
        state.is_writable = is_writable;
        if let Some(table) = &state.table {
            table.set_writable(is_writable);
        }
    }

    /// Whether a branch that wrote nothing votes read-only. Off unless asked for.
    pub fn set_detects_read_only(&self, detects: bool) {
        self.lock().detects_read_only = detects;
    }

    /// A person ends a prepared branch by hand. False if it is not prepared.
    pub fn end_by_hand(&self, xid: &Xid, decision: Decision) -> bool {
        self.lock().finish_prepared(xid, decision).is_ok()
    }

    /// Plants a prepared branch of ours that wrote these rows, as a dead process would leave it.
    pub fn plant(&self, xid: &Xid, rows: &[(&str, &str)]) {
        let writes: Writes = rows
            .iter()
            .map(|(key, value)| ((*key).into(), Some((*value).into())))
            .collect();
        self.lock().insert_prepared(xid.clone(), writes, None);
    }

    /// Plants somebody else's prepared transaction.
    pub fn plant_foreign(&self, text: &str) {
        self.lock().foreign.insert(text.into());
    }

    /// Takes a foreign prepared transaction away. False if it is not there.
    pub fn remove_foreign(&self, text: &str) -> bool {
        self.lock().foreign.remove(text)
    }

    /// Somebody else's prepared transactions that are still there.
    pub fn foreign(&self) -> Vec<String> {
        self.lock().foreign.iter().cloned().collect()
    }

    fn plan(&self, step: Step, planned: Planned) {
        let mut plan = self
            .0
            .planned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        plan.push((step, planned));
    }
}

/// For the resources on it.
impl MemoryServer {
    pub(crate) fn lock(&self) -> MutexGuard<'_, ServerState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_planned(&self, step: Step) -> bool {
        let plan = self
            .0
            .planned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        plan.iter().any(|(wanted, _)| *wanted == step)
    }

    fn take_planned(&self, step: Step) -> Option<Planned> {
        let mut plan = self
            .0
            .planned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let position = plan.iter().position(|(wanted, _)| *wanted == step)?;
        Some(plan.remove(position).1)
    }

    /// Sends one request: it is lost, refused or held up if that was planned; else it takes effect.
    pub(crate) async fn perform<R: Send + 'static>(
        &self,
        request: Request,
        effect: impl FnOnce(&mut ServerState) -> R + Send + 'static,
    ) -> Delivery<R> {
        if !self.announce(&request) {
            return Delivery::Unreachable;
        }
        let latency = self.lock().latency;
        let (reply, waits) = match self.take_planned(request.step) {
            None if latency.is_zero() => return Delivery::Reply(effect(&mut self.lock())),
            None => (
                self.hold_up(&Gate::open_after(latency), &request, effect),
                true,
            ),
            Some(Planned::Fault(Fault::LoseRequest)) => return Delivery::Lost,
            Some(Planned::Fault(Fault::LoseReply)) => {
                // Bound to a name: a reply may lock the server when it is dropped.
                let _reply = effect(&mut self.lock());
                return Delivery::Lost;
            }
            Some(Planned::Fault(Fault::Refuse(kind))) => {
                let rolls_back = matches!(kind, BranchErrorKind::RolledBack(_));
                if let (true, Some(xid)) = (rolls_back, &request.xid) {
                    self.lock().roll_back_by_force(request.session, xid);
                }
                return Delivery::Refused(kind);
            }
            Some(Planned::Hang(gate)) => (self.hold_up(&gate, &request, effect), true),
            Some(Planned::Late(gate)) => (self.hold_up(&gate, &request, effect), false),
        };
        if !waits {
            return Delivery::Lost;
        }
        let mut crashes = self.0.crashes.subscribe();
        let delivery = tokio::select! {
            biased;
            reply = reply => reply.map_or(Delivery::Lost, Delivery::Reply),
            _ = crashes.changed() => Delivery::Lost,
        };
        if !latency.is_zero() {
            sleep(latency).await;
        }
        delivery
    }

    fn announce(&self, request: &Request) -> bool {
        let state = self.lock();
        state.journal.push(Event::Asked {
            resource: request.resource.clone(),
            step: request.step,
            xid: request.xid.clone(),
        });
        state.is_reachable
    }

    fn hold_up<R: Send + 'static>(
        &self,
        gate: &Gate,
        request: &Request,
        effect: impl FnOnce(&mut ServerState) -> R + Send + 'static,
    ) -> oneshot::Receiver<R> {
        let (sender, receiver) = oneshot::channel();
        let session = request.session;
        if let Some(id) = session {
            self.lock().set_busy(id);
        }
        let server = self.clone();
        let sent_after = *self.0.crashes.borrow();
        gate.submit(Box::new(move || {
            let mut state = server.lock();
            if *server.0.crashes.borrow() != sent_after {
                return;
            }
            let reply = effect(&mut state);
            if let Some(id) = session {
                state.arrived(id);
            }
            drop(state);
            // Nobody may be waiting any more; the effect stays.
            let _ = sender.send(reply);
        }));
        receiver
    }
}

/// What is asked, where and for whom.
pub(crate) struct Request {
    pub(crate) resource: ResourceName,
    pub(crate) step: Step,
    pub(crate) xid: Option<Xid>,
    pub(crate) session: Option<SessionId>,
}

pub(crate) fn parse_identity(text: &str) -> ServerIdentity {
    ServerIdentity::new(text).expect("printable ASCII of at most 128 bytes")
}
