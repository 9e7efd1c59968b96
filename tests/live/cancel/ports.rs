//! The ports as each adapter fills them: whatever is asked of a branch or a resource, and dropped
//! half-way, recovery ends it afterwards as decided, and sessions can be had.
//!
//! The runtime drops these futures only when a limit has passed, and the branch with them.

use std::time::{Duration, Instant};

use unanimous::mysql::Mysql;
use unanimous::ports::{
    Absence, Branch, BranchError, BranchErrorKind, BranchRecord, InspectOptions, OnePhaseReply,
    PrepareReply, XidOwner,
};
use unanimous::postgres::Postgres;
use unanimous::{Decision, Gtrid, Opening, Xid};
use unanimous_core::xid::{Epoch, ManagerId};
use unanimous_testing::Wire;

use super::judge::Judge;
use super::manager::env;
use super::{Narrow, PATIENCE, Turns, at_every_poll};
use crate::support::{Account, Db, eventually, table};

#[test]
fn i7_ports_of_postgres() {
    Turns::run(async |turns| Port::<Postgres>::test(turns, Db::PostgresNewest).await);
}

#[test]
fn i7_ports_of_mysql() {
    Turns::run(async |turns| Port::<Mysql>::test(turns, Db::Mysql).await);
}

#[test]
fn i7_ports_of_mariadb() {
    Turns::run(async |turns| Port::<Mysql>::test(turns, Db::Mariadb).await);
}

/// A branch's request that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Open,
    Prepare,
    Commit,
    Rollback,
    RollbackPrepared,
    CommitOnePhase,
    CommitLast,
    EndReadOnly,
    Release,
}

const REQUESTS: [Request; 9] = [
    Request::Open,
    Request::Prepare,
    Request::Commit,
    Request::Rollback,
    Request::RollbackPrepared,
    Request::CommitOnePhase,
    Request::CommitLast,
    Request::EndReadOnly,
    Request::Release,
];

impl Request {
    const fn needs_prepare(self) -> bool {
        matches!(self, Self::Commit | Self::RollbackPrepared | Self::Release)
    }

    /// A decision was made before it.
    const fn is_decided(self) -> bool {
        matches!(self, Self::Commit | Self::Release)
    }
}

struct Port<R> {
    turns: Turns,
    resource: R,
    wire: Wire,
    judge: Judge,
    table: String,
    opening: Opening,
    sequence: u64,
}

impl<R: Narrow> Port<R> {
    async fn test(turns: Turns, db: Db) {
        let account = Account::create(db, &table("cancel_ports")).await;
        let (wire, url) = Wire::between(&account.url).await.unwrap();
        let began = std::process::id().to_be_bytes();
        let mut manager = [0; 10];
        manager[..4].copy_from_slice(&began);
        manager[4..].copy_from_slice(&account.table.as_bytes()[..6]);
        let mut port = Self {
            turns,
            resource: R::narrow("orders", &url),
            wire,
            table: account.table.clone(),
            judge: Judge::new(account).await,
            opening: Opening {
                manager: ManagerId::from_bytes(manager),
                epoch: Epoch(1),
                nonce: db as u64,
            },
            sequence: 0,
        };
        for request in REQUESTS {
            at_every_poll(&format!("{db:?}, {request:?}"), 1, async |polls| {
                port.drop_request(request, polls).await
            })
            .await;
        }
        port.drop_looks(db).await;
        port.drop_finish(db).await;
        let Self {
            resource,
            wire,
            judge,
            ..
        } = port;
        drop(resource);
        eventually("no session is left", || async { wire.connections() == 0 }).await;
        judge.end().await;
    }

    fn next(&mut self) -> Gtrid {
        self.sequence += 1;
        self.opening.gtrid(self.sequence)
    }

    fn xid(&self, gtrid: Gtrid) -> Xid {
        let bqual = self.resource.name().clone();
        Xid { gtrid, bqual }
    }

    /// A branch that has written, prepared if so wanted.
    async fn branch(&self, gtrid: Gtrid, read_only: bool) -> R::Branch {
        let mut env = env(&self.resource, gtrid);
        env.read_only = read_only;
        let mut branch = self.resource.open(env).await.unwrap();
        if !read_only {
            R::add(&mut branch, &self.table, 1).await.unwrap();
        }
        branch
    }

    async fn prepared(&self, gtrid: Gtrid) -> (R::Branch, BranchRecord) {
        let mut branch = self.branch(gtrid, false).await;
        let PrepareReply::Prepared(evidence) = branch.prepare().await else {
            panic!("nothing is in the way of it");
        };
        let record = BranchRecord {
            resource: self.resource.name().clone(),
            identity: branch.identity().clone(),
            evidence,
        };
        (branch, record)
    }

    async fn drop_request(&mut self, request: Request, polls: usize) -> bool {
        let (gtrid, before) = (self.next(), self.judge.balance().await);
        let (is_done, prepared) = self.ask(request, gtrid, polls).await;
        let decided = prepared.filter(|_| request.is_decided());
        self.resolve(gtrid, decided.as_ref()).await;
        let added = self.judge.balance().await - before;
        let context = format!("{request:?} after {polls} polls");
        match request {
            Request::Commit | Request::Release => assert_eq!(added, 1, "{context}"),
            Request::CommitOnePhase | Request::CommitLast if is_done => {
                assert_eq!(added, 1, "{context}");
            }
            Request::CommitOnePhase | Request::CommitLast if polls > 0 => {
                assert!([0, 1].contains(&added), "{context}");
            }
            Request::Open
            | Request::Prepare
            | Request::Rollback
            | Request::RollbackPrepared
            | Request::CommitOnePhase
            | Request::CommitLast
            | Request::EndReadOnly => assert_eq!(added, 0, "{context}"),
        }
        is_done
    }

    /// Was it answered? The branch is dropped with the future. If it was prepared before, what a
    /// decision would say of it.
    async fn ask(
        &self,
        request: Request,
        gtrid: Gtrid,
        polls: usize,
    ) -> (bool, Option<BranchRecord>) {
        if request == Request::Open {
            let opening = self.resource.open(env(&self.resource, gtrid));
            return (self.turns.polled(polls, opening).await.is_some(), None);
        }
        let (mut branch, prepared) = if request.needs_prepare() {
            let (branch, record) = self.prepared(gtrid).await;
            (branch, Some(record))
        } else {
            let read_only = request == Request::EndReadOnly;
            (self.branch(gtrid, read_only).await, None)
        };
        let turns = &self.turns;
        let answered = match request {
            Request::Open => None,
            Request::Prepare => turns.polled(polls, branch.prepare()).await.map(|reply| {
                assert!(matches!(reply, PrepareReply::Prepared(_)), "{reply:?}");
            }),
            Request::Commit => turns
                .polled(polls, branch.commit())
                .await
                .map(Result::unwrap),
            Request::Rollback | Request::RollbackPrepared => turns
                .polled(polls, branch.rollback())
                .await
                .map(Result::unwrap),
            Request::CommitOnePhase => {
                let reply = turns.polled(polls, branch.commit_one_phase()).await;
                reply.map(|reply| assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}"))
            }
            Request::CommitLast => {
                // Instead of the row of a decision.
                let also = format!("UPDATE {} SET balance = balance WHERE id = 1", self.table);
                let reply = turns.polled(polls, branch.commit_last(&also)).await;
                reply.map(|reply| assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}"))
            }
            Request::EndReadOnly => turns
                .polled(polls, branch.end_read_only())
                .await
                .map(Result::unwrap),
            Request::Release => {
                branch.commit().await.unwrap();
                turns.polled(polls, Box::new(branch).release()).await
            }
        };
        (answered.is_some(), prepared)
    }

    /// What recovery does, until the branch is gone and its lock is free: what was sent may take
    /// effect later.
    async fn resolve(&mut self, gtrid: Gtrid, decided: Option<&BranchRecord>) {
        let decision = decided.map_or(Decision::Rollback, |_| Decision::Commit);
        let (xid, began) = (self.xid(gtrid), Instant::now());
        loop {
            let scan = self.resource.recover().await.unwrap();
            let ours = XidOwner::Unanimous(xid.clone());
            if scan.branches.iter().any(|branch| branch.owner == ours) {
                // Held or just being ended by its session, or gone since: the next round tells.
                let finished = self.resource.finish(&xid, decision, decided).await;
                let kind = finished.as_ref().err().map(BranchError::kind);
                let may_be = [BranchErrorKind::UnknownXid, BranchErrorKind::Unavailable];
                let is_clear = kind.is_none_or(|kind| may_be.contains(&kind));
                assert!(is_clear, "{finished:?}");
            } else if self.judge.is_free().await && self.judge.prepared(gtrid).await == 0 {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{xid} stays");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Looks change nothing and can be repeated.
    async fn drop_looks(&mut self, db: Db) {
        at_every_poll(&format!("{db:?}, preflight"), 3, async |polls| {
            let checked = self.turns.polled(polls, self.resource.preflight()).await;
            assert!(checked.as_ref().is_none_or(Result::is_ok), "{checked:?}");
            checked.is_some()
        })
        .await;
        at_every_poll(&format!("{db:?}, checkup"), 2, async |polls| {
            let looked = self.turns.polled(polls, self.resource.checkup()).await;
            assert!(looked.as_ref().is_none_or(Result::is_ok), "{looked:?}");
            looked.is_some()
        })
        .await;
        at_every_poll(&format!("{db:?}, inspect"), 2, async |polls| {
            let asked = self.resource.inspect(InspectOptions::DETAILS);
            let seen = self.turns.polled(polls, asked).await;
            assert!(seen.as_ref().is_none_or(Result::is_ok), "{seen:?}");
            seen.is_some()
        })
        .await;
        at_every_poll(&format!("{db:?}, recover"), 2, async |polls| {
            let scanned = self.turns.polled(polls, self.resource.recover()).await;
            assert!(scanned.as_ref().is_none_or(Result::is_ok), "{scanned:?}");
            scanned.is_some()
        })
        .await;
        self.resource.preflight().await.unwrap();
        self.resource.recover().await.unwrap();
    }

    /// A commit by recovery, and the proof of it.
    async fn drop_finish(&mut self, db: Db) {
        at_every_poll(&format!("{db:?}, finish and absent"), 3, async |polls| {
            let (gtrid, before) = (self.next(), self.judge.balance().await);
            let xid = self.xid(gtrid);
            let (branch, record) = self.prepared(gtrid).await;
            drop(branch);
            let finishing = self.resource.finish(&xid, Decision::Commit, Some(&record));
            let finished = self.turns.polled(polls, finishing).await;
            self.resolve(gtrid, Some(&record)).await;
            assert_eq!(self.judge.balance().await, before + 1, "{polls} polls");
            let proving = self.resource.absent(&xid, &record);
            let proven = self.turns.polled(polls, proving).await;
            let again = self.resource.absent(&xid, &record).await.unwrap();
            let is_finished = matches!(again, Absence::Finished | Absence::Presumed);
            assert!(is_finished, "{polls} polls: {again:?}");
            finished.is_some() && proven.is_some()
        })
        .await;
    }
}
