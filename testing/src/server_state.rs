//! The rows, sessions and branches of a server in memory: its rules, without any waiting.
//!
//! * What a session writes is its own until its branch commits, and locks the rows it touches.
//! * A prepared branch belongs to the server: it outlives its session and the server's crash.
//! * An active branch ends with its session, except while a request of it is still on its way.

mod last;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use unanimous_core::ports::{
    Absence, BranchErrorKind, BranchRecord, Cause, Evidence, OnePhaseReply, PrepareReply,
    ScannedBranch, ServerIdentity, XidOwner,
};
use unanimous_core::protocol::{Decision, Heuristic};
use unanimous_core::xid::Xid;

use crate::journal::{Event, Journal};
use crate::last_row::LastRow;
use crate::memory_server::Flavour;
use crate::memory_table::MemoryTable;

pub(crate) type Writes = BTreeMap<String, Option<String>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) xid: Xid,
    pub(crate) read_only: bool,
    /// A statement failed: nothing but a rollback is left.
    pub(crate) failed: Option<Cause>,
    pub(crate) writes: Writes,
    /// The row of the decision that it commits as last resource.
    pub(crate) last: Option<LastRow>,
}

#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) work: Option<Work>,
    /// A request of this session is still on its way.
    pub(crate) is_busy: bool,
    /// Nobody is at the other end any more; it ends once it is not busy.
    pub(crate) is_abandoned: bool,
    pub(crate) settings: BTreeMap<String, String>,
}

#[derive(Debug)]
struct PreparedBranch {
    writes: Writes,
    /// The session that prepared it, while that is still attached.
    holder: Option<SessionId>,
    since: Instant,
}

/// Why a request to a branch was not carried out.
pub(crate) type Refused = (BranchErrorKind, &'static str);

pub(crate) struct ServerState {
    pub(crate) identity: ServerIdentity,
    pub(crate) flavour: Flavour,
    pub(crate) is_reachable: bool,
    pub(crate) is_writable: bool,
    pub(crate) detects_read_only: bool,
    /// How long requests and replies take on their way.
    pub(crate) latency: Duration,
    pub(crate) rows: BTreeMap<String, String>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) idle: Vec<Session>,
    pub(crate) foreign: BTreeSet<String>,
    pub(crate) misuses: Vec<String>,
    prepared: BTreeMap<Xid, PreparedBranch>,
    ended: BTreeMap<Xid, Decision>,
    /// Rollbacks of prepared branches that nothing has flushed since.
    unflushed_rollbacks: BTreeMap<Xid, Writes>,
    next_session: u64,
    /// The decision table in this database.
    pub(crate) table: Option<MemoryTable>,
    pub(crate) journal: Journal,
}

impl ServerState {
    pub(crate) fn new(identity: ServerIdentity, flavour: Flavour, journal: Journal) -> Self {
        Self {
            identity,
            flavour,
            is_reachable: true,
            is_writable: true,
            detects_read_only: false,
            latency: Duration::ZERO,
            rows: BTreeMap::new(),
            sessions: BTreeMap::new(),
            idle: Vec::new(),
            foreign: BTreeSet::new(),
            misuses: Vec::new(),
            prepared: BTreeMap::new(),
            ended: BTreeMap::new(),
            unflushed_rollbacks: BTreeMap::new(),
            next_session: 0,
            table: None,
            journal,
        }
    }

    pub(crate) fn prepared_xids(&self) -> Vec<Xid> {
        self.prepared.keys().cloned().collect()
    }

    /// Answers what the rows were before.
    fn apply(&mut self, writes: Writes) -> Writes {
        let mut before = Writes::new();
        for (key, value) in writes {
            let old = match value {
                Some(value) => self.rows.insert(key.clone(), value),
                None => self.rows.remove(&key),
            };
            before.insert(key, old);
        }
        before
    }

    fn end(&mut self, xid: Xid, decision: Decision, writes: Writes) {
        if decision == Decision::Commit {
            let before = self.apply(writes);
            if let Some(table) = &self.table {
                table.lock().commit_branch(None, before);
            }
        }
        self.note_end(xid, decision);
    }

    fn note_end(&mut self, xid: Xid, decision: Decision) {
        if decision == Decision::Commit {
            self.unflushed_rollbacks.clear();
        }
        self.journal.push(Event::Ended(xid.clone(), decision));
        self.ended.insert(xid, decision);
    }

    fn is_locked_for(&self, session: SessionId, key: &str) -> bool {
        let by_session = self.sessions.iter().any(|(id, other)| {
            let writes = other.work.as_ref().map(|work| &work.writes);
            *id != session && writes.is_some_and(|writes| writes.contains_key(key))
        });
        by_session || self.prepared.values().any(|b| b.writes.contains_key(key))
    }
}

/// What the application does in a session.
impl ServerState {
    pub(crate) fn open(&mut self, xid: Xid, read_only: bool) -> Result<SessionId, Refused> {
        let is_active = |session: &Session| {
            let work = session.work.as_ref();
            work.is_some_and(|work| !work.read_only && work.xid == xid)
        };
        if !read_only && (self.prepared.contains_key(&xid) || self.sessions.values().any(is_active))
        {
            return Err((BranchErrorKind::DuplicateXid, "the XID exists already"));
        }
        let mut session = self.idle.pop().unwrap_or_default();
        session.work = Some(Work {
            xid,
            read_only,
            failed: None,
            writes: Writes::new(),
            last: None,
        });
        self.next_session += 1;
        let id = SessionId(self.next_session);
        self.sessions.insert(id, session);
        Ok(id)
    }

    pub(crate) fn work(&mut self, session: SessionId) -> Result<&mut Work, Refused> {
        let session = self.sessions.get_mut(&session);
        let work = session.and_then(|session| session.work.as_mut());
        work.ok_or((BranchErrorKind::WrongState, "no branch is active here"))
    }

    pub(crate) fn write(
        &mut self,
        session: SessionId,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), Refused> {
        let is_locked = self.is_locked_for(session, key);
        let work = self.work(session)?;
        let (cause, why) = if work.read_only {
            (Cause::Refused, "the branch is read-only")
        } else if work.failed.is_some() {
            (Cause::RollbackOnly, "an earlier statement failed")
        } else if is_locked {
            (Cause::Timeout, "another branch holds the row's lock")
        } else {
            work.writes.insert(key.into(), value.map(Into::into));
            return Ok(());
        };
        work.failed.get_or_insert(cause);
        Err((BranchErrorKind::RolledBack(cause), why))
    }

    pub(crate) fn read(
        &mut self,
        session: SessionId,
        key: &str,
    ) -> Result<Option<String>, Refused> {
        let written = self.work(session)?.writes.get(key).cloned();
        Ok(written.unwrap_or_else(|| self.rows.get(key).cloned()))
    }

    /// The other end of the session is gone.
    pub(crate) fn abandon(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.is_abandoned = true;
        if session.is_busy {
            return;
        }
        let session = self.sessions.remove(&id);
        for branch in self.prepared.values_mut() {
            if branch.holder == Some(id) {
                branch.holder = None;
            }
        }
        if let Some(work) = session.and_then(|session| session.work) {
            self.end(work.xid, Decision::Rollback, Writes::new());
        }
    }

    /// A request of the session is held up on its way.
    pub(crate) fn set_busy(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.is_busy = true;
        }
    }

    /// A request of the session has taken effect.
    pub(crate) fn arrived(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.is_busy = false;
        if session.is_abandoned {
            self.abandon(id);
        }
    }

    /// Wipes the session and keeps it. False, and the session is closed, if it still has a branch.
    pub(crate) fn release(&mut self, id: SessionId) -> bool {
        let holds = self.prepared.values().any(|b| b.holder == Some(id));
        let has_work = self.work(id).is_ok();
        if holds || has_work {
            self.abandon(id);
            return false;
        }
        if let Some(mut session) = self.sessions.remove(&id) {
            session.settings.clear();
            self.idle.push(session);
        }
        true
    }

    /// The server stops and starts: sessions end, prepared branches stay.
    pub(crate) fn crash(&mut self) {
        self.journal.push(Event::Crashed);
        self.unflushed_rollbacks.clear();
        self.idle.clear();
        let sessions = std::mem::take(&mut self.sessions);
        for work in sessions.into_values().filter_map(|session| session.work) {
            self.end(work.xid, Decision::Rollback, Writes::new());
        }
        for branch in self.prepared.values_mut() {
            branch.holder = None;
        }
        let lost = self.table.as_ref().map(MemoryTable::crash_alone);
        self.take_back(lost.unwrap_or_default());
    }

    /// What a crash or a fail-over has lost, newest first.
    fn take_back(&mut self, lost: Vec<Writes>) {
        for writes in lost {
            self.apply(writes);
        }
    }

    /// Stops and starts, and has lost the rollbacks that were answered but not flushed: those
    /// branches are prepared again.
    pub(crate) fn crash_losing_rollbacks(&mut self) {
        let lost = std::mem::take(&mut self.unflushed_rollbacks);
        self.crash();
        for (xid, writes) in lost {
            self.ended.remove(&xid);
            self.insert_prepared(xid, writes, None);
        }
    }

    /// Another server takes the place of this one, without what was prepared here.
    pub(crate) fn fail_over(&mut self, identity: ServerIdentity, lossless: bool) {
        self.crash();
        let table = self.table.as_ref();
        let lost = table.map(|table| table.fail_over_alone(identity.clone(), lossless));
        self.take_back(lost.unwrap_or_default());
        self.identity = identity;
        self.prepared.clear();
        self.ended.clear();
    }
}

/// What is asked of a branch by the protocol.
impl ServerState {
    pub(crate) fn prepare(&mut self, id: SessionId) -> Result<PrepareReply, Refused> {
        let work = self.work(id)?;
        if work.read_only {
            return Err((BranchErrorKind::WrongState, "a reader is not prepared"));
        }
        let failed = work.failed;
        let is_unchanged = work.writes.is_empty();
        let Some(work) = self.take_work(id) else {
            return Err((BranchErrorKind::WrongState, "no branch is active here"));
        };
        if let Some(cause) = failed {
            self.end(work.xid, Decision::Rollback, Writes::new());
            let why = "a failed statement rolls the branch back";
            return Err((BranchErrorKind::RolledBack(cause), why));
        }
        if is_unchanged && self.detects_read_only {
            self.end(work.xid, Decision::Commit, work.writes);
            return Ok(PrepareReply::ReadOnly);
        }
        self.insert_prepared(work.xid, work.writes, Some(id));
        let evidence = Evidence::new(format!("session {}", id.0)).unwrap_or_default();
        Ok(PrepareReply::Prepared(evidence))
    }

    pub(crate) fn insert_prepared(&mut self, xid: Xid, writes: Writes, holder: Option<SessionId>) {
        self.journal.push(Event::Prepared(xid.clone()));
        self.unflushed_rollbacks.clear();
        let branch = PreparedBranch {
            writes,
            holder,
            since: Instant::now(),
        };
        self.prepared.insert(xid, branch);
    }

    fn take_work(&mut self, id: SessionId) -> Option<Work> {
        self.sessions
            .get_mut(&id)
            .and_then(|session| session.work.take())
    }

    pub(crate) fn commit(&mut self, id: SessionId, xid: &Xid) -> Result<(), Refused> {
        if self.work(id).is_ok() {
            return Err((BranchErrorKind::WrongState, "the branch is not prepared"));
        }
        self.finish_prepared(xid, Decision::Commit)
    }

    pub(crate) fn rollback(&mut self, id: SessionId, xid: &Xid) -> Result<(), Refused> {
        match self.take_work(id) {
            Some(work) => {
                self.end(work.xid, Decision::Rollback, Writes::new());
                Ok(())
            }
            None => self.finish_prepared(xid, Decision::Rollback),
        }
    }

    pub(crate) fn commit_one_phase(&mut self, id: SessionId) -> Result<OnePhaseReply, Refused> {
        let work = self.work(id)?;
        if let Some(cause) = work.failed {
            let why = "a failed statement rolls the branch back";
            self.roll_back_active(id);
            return Err((BranchErrorKind::RolledBack(cause), why));
        }
        if let Some(work) = self.take_work(id) {
            self.end(work.xid, Decision::Commit, work.writes);
        }
        Ok(OnePhaseReply::Committed)
    }

    pub(crate) fn end_read_only(&mut self, id: SessionId) -> Result<(), Refused> {
        let work = self.work(id)?;
        if !work.read_only {
            return Err((BranchErrorKind::WrongState, "the branch may write"));
        }
        let failed = work.failed;
        self.roll_back_active(id);
        match failed {
            None => Ok(()),
            Some(cause) => Err((
                BranchErrorKind::RolledBack(cause),
                "a failed statement rolls the branch back",
            )),
        }
    }

    fn roll_back_active(&mut self, id: SessionId) {
        if let Some(work) = self.take_work(id) {
            self.end(work.xid, Decision::Rollback, Writes::new());
        }
    }

    /// Whatever state the branch is in, it is rolled back.
    pub(crate) fn roll_back_by_force(&mut self, session: Option<SessionId>, xid: &Xid) {
        if let Some(id) = session {
            self.roll_back_active(id);
        }
        let _ = self.finish_prepared(xid, Decision::Rollback);
    }

    pub(crate) fn finish_prepared(&mut self, xid: &Xid, decision: Decision) -> Result<(), Refused> {
        let unknown = (BranchErrorKind::UnknownXid, "the XID is not known here");
        let branch = self.prepared.remove(xid).ok_or(unknown)?;
        if decision == Decision::Rollback && !self.flavour.flushes_rollbacks() {
            let writes = branch.writes.clone();
            self.unflushed_rollbacks.insert(xid.clone(), writes);
        }
        self.end(xid.clone(), decision, branch.writes);
        Ok(())
    }

    /// Finishes from a connection other than the one that prepared.
    pub(crate) fn finish(&mut self, xid: &Xid, decision: Decision) -> Result<(), Refused> {
        let holder = self.prepared.get(xid).and_then(|branch| branch.holder);
        if holder.is_some() && self.flavour.holder_blocks_finish() {
            let why = "the XID is not known here (its session is still attached)";
            return Err((BranchErrorKind::UnknownXid, why));
        }
        self.finish_prepared(xid, decision)
    }

    pub(crate) fn scan(&self) -> Vec<ScannedBranch> {
        let ours = self.prepared.iter().map(|(xid, branch)| ScannedBranch {
            owner: XidOwner::Unanimous(xid.clone()),
            age: Some(branch.since.elapsed()),
        });
        let foreign = self.foreign.iter().map(|text| ScannedBranch {
            owner: XidOwner::Foreign(text.clone()),
            age: None,
        });
        ours.chain(foreign).collect()
    }

    pub(crate) fn absent(&mut self, xid: &Xid, record: &BranchRecord) -> Absence {
        if record.identity != self.identity {
            return Absence::Hazard("another server has taken its place".into());
        }
        let of_xid = |session: &Session| session.work.as_ref().is_some_and(|w| w.xid == *xid);
        let holder = self.sessions.iter().find(|(_, session)| of_xid(session));
        if let Some((id, session)) = holder {
            if session.is_busy {
                return Absence::InDoubt("it is being prepared".into());
            }
            let id = *id;
            self.abandon(id);
        }
        if self.prepared.contains_key(xid) {
            return Absence::InDoubt("it is prepared".into());
        }
        match (self.flavour.proves_absence(), self.ended.get(xid)) {
            (false, _) => Absence::Presumed,
            (true, Some(Decision::Commit)) => Absence::Finished,
            (true, Some(Decision::Rollback)) => Absence::Heuristic(Heuristic::Rollback),
            (true, None) => Absence::Hazard("the server has no trace of it".into()),
        }
    }
}
