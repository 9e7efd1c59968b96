//! `start`, `recover`, `survey` and `shutdown`, with money on its way.

use std::time::Duration;

use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::ports::{
    Branch, BranchEnv, BranchRecord, DecisionLog, DecisionRecord, PrepareReply,
};
use unanimous::postgres::Postgres;
use unanimous::{Gtrid, TransactionManager, TransactionOutcome, Xid};

use super::transaction::{close, on_pairs};
use super::{Bench, Narrow, PAIRS, Turns, at_every_poll};

on_pairs!(
    i7_start => start,
    i7_recover => recover,
    i7_survey => survey,
);

pub(super) fn env<R: Narrow>(resource: &R, gtrid: Gtrid) -> BranchEnv {
    BranchEnv {
        xid: Xid {
            gtrid,
            bqual: resource.name().clone(),
        },
        read_only: false,
        lock_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
    }
}

/// Prepares, and loses the connection.
async fn prepare<R: Narrow>(resource: &R, gtrid: Gtrid, table: &str, amount: i64) -> BranchRecord {
    let mut branch = resource.open(env(resource, gtrid)).await.unwrap();
    R::add(&mut branch, table, amount).await.unwrap();
    let PrepareReply::Prepared(evidence) = branch.prepare().await else {
        panic!("nothing is in the way of it");
    };
    BranchRecord {
        resource: resource.name().clone(),
        identity: branch.identity().clone(),
        evidence,
    }
}

impl<A: Narrow, B: Narrow> Bench<A, B> {
    async fn prepare(&self, gtrid: Gtrid) -> Vec<BranchRecord> {
        let Self { transfer, .. } = self;
        vec![
            prepare(&transfer.from, gtrid, &transfer.from_table, -30).await,
            prepare(&transfer.to, gtrid, &transfer.to_table, 30).await,
        ]
    }

    /// What an earlier life has left: all have prepared, and it is decided or not.
    async fn leave_in_doubt(&mut self, is_decided: bool) -> Gtrid {
        self.new_log();
        let log = FileLog::at(self.log()).open().await.unwrap();
        let gtrid = log.opening().gtrid(1);
        let branches = self.prepare(gtrid).await;
        if is_decided {
            let decision = DecisionRecord { gtrid, branches };
            log.decide(&decision).await.unwrap();
        }
        log.shutdown().await.unwrap();
        gtrid
    }
}

async fn start<A: Narrow, B: Narrow>(turns: &Turns, mut bench: Bench<A, B>, name: &str) {
    at_every_poll(name, 15, async |polls| {
        let before = bench.balances().await;
        let is_decided = polls.is_multiple_of(2);
        let gtrid = bench.leave_in_doubt(is_decided).await;
        let started = turns.polled(polls, bench.builder().start()).await;
        let is_done = started.is_some();
        drop(started.map(Result::unwrap));
        let tm = bench.start_again().await;
        bench.becomes_resolved(gtrid).await;
        let after = bench.balances().await;
        let outcome = tm.outcome(gtrid).await.unwrap();
        if is_decided {
            assert_eq!(after, [before[0] - 30, before[1] + 30], "{polls} polls");
            assert_eq!(outcome, TransactionOutcome::Committed);
        } else {
            assert_eq!(after, before, "{polls} polls");
            assert_eq!(outcome, TransactionOutcome::Unknown);
        }
        tm.shutdown().await.unwrap();
        is_done
    })
    .await;
    bench.end().await;
}

/// A pass that has begun goes on to its end.
async fn recover<A: Narrow, B: Narrow>(turns: &Turns, mut bench: Bench<A, B>, name: &str) {
    let tm = bench.start().await;
    at_every_poll(name, 5, async |polls| {
        let before = bench.balances().await;
        let gtrid = tm.begin().gtrid();
        bench.prepare(gtrid).await;
        let report = turns.polled(polls, tm.recover()).await;
        if polls > 0 {
            bench.becomes_resolved(gtrid).await;
        }
        tm.recover().await;
        bench.becomes_resolved(gtrid).await;
        assert_eq!(bench.balances().await, before);
        report.is_some()
    })
    .await;
    close(bench, tm).await;
}

/// It changes nothing.
async fn survey<A: Narrow, B: Narrow>(turns: &Turns, mut bench: Bench<A, B>, name: &str) {
    let tm = bench.start().await;
    let gtrid = tm.begin().gtrid();
    bench.prepare(gtrid).await;
    at_every_poll(name, 4, async |polls| {
        let survey = turns.polled(polls, tm.survey()).await;
        assert_eq!(bench.prepared(gtrid).await, 2, "{polls} polls");
        survey.is_some()
    })
    .await;
    let seen = tm.survey().await;
    let branches = seen.resources.iter().flat_map(|at| &at.branches);
    assert_eq!(branches.filter(|b| b.xid.gtrid == gtrid).count(), 2);
    tm.recover().await;
    bench.becomes_resolved(gtrid).await;
    close(bench, tm).await;
}

#[test]
fn i7_shutdown() {
    Turns::run(async |turns| {
        let bench = Bench::<Postgres, Mysql>::new(PAIRS[0], "i7_shutdown").await;
        shutdown(&turns, bench, "i7_shutdown").await;
    });
}

/// While a commit, whose future was dropped, goes on. The next start has to wait for the log.
async fn shutdown<A: Narrow, B: Narrow>(turns: &Turns, mut bench: Bench<A, B>, name: &str) {
    at_every_poll(name, 5, async |polls| {
        bench.new_log();
        let tm = bench.start().await;
        let before = bench.balances().await;
        let tx = bench.transfer.begin(&tm).await.unwrap();
        let gtrid = tx.gtrid();
        assert!(turns.polled(1, tx.commit()).await.is_none());
        let is_done = shut_down(turns, &tm, polls).await;
        drop(tm);
        let tm = bench.start_again().await;
        bench
            .balances_become([before[0] - 30, before[1] + 30])
            .await;
        bench.becomes_resolved(gtrid).await;
        let outcome = tm.outcome(gtrid).await.unwrap();
        assert_eq!(outcome, TransactionOutcome::Committed, "{polls} polls");
        tm.shutdown().await.unwrap();
        is_done
    })
    .await;
    bench.end().await;
}

async fn shut_down(turns: &Turns, tm: &TransactionManager, polls: usize) -> bool {
    let shutdown = turns.polled(polls, tm.shutdown()).await;
    let is_done = shutdown.is_some();
    shutdown.unwrap_or(Ok(())).unwrap();
    if polls % 2 == 1 {
        tm.shutdown().await.unwrap();
    }
    is_done
}
