//! I7 on real servers: the future of `commit`, `rollback`, `enlist`, `start` and their like is
//! dropped after its kth poll, for every k until it is completed.
//!
//! The future is polled whenever the runtime has slept and something has happened since: a reply, a
//! request that passed the wire, a step of the log. What must be true afterwards is looked up by an
//! independent client: the money was moved as a whole or not at all and as `outcome` says, nothing
//! is prepared, and sessions can be had though the pool has only one. The same in memory, for every
//! function: `tests/offline/runtime/every_poll`.

mod judge;
mod manager;
mod ports;
mod statements;
mod transaction;

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::task::AtomicWaker;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{
    Gtrid, Point, Probe, StartError, TransactionManager, TransactionManagerBuilder,
    TransactionOutcome,
};
use unanimous_testing::{Wire, drop_after};

use self::judge::Judge;
use crate::support::{Account, Bank, Db, Transfer, eventually, table};

/// More polls than any future here needs.
const POLLS_MAX: usize = 2000;

/// How long something may take that needs nobody's help, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

const PAIRS: [(Db, Db); 2] = [(Db::PostgresNewest, Db::Mysql), (Db::Mysql, Db::Mariadb)];

/// Wakes whoever waits whenever something has happened outside of this thread.
#[derive(Clone, Default)]
struct Turns(Arc<AtomicWaker>);

impl Turns {
    /// Runs a test on a runtime of one thread that says when it has slept.
    fn run(test: impl AsyncFnOnce(Self)) {
        let turns = Self::default();
        let waker = Arc::clone(&turns.0);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder
            .enable_all()
            .on_thread_unpark(move || waker.wake())
            .build();
        runtime.unwrap().block_on(test(turns));
    }

    /// The future polled in so many turns; `None` if it was dropped.
    async fn polled<T>(&self, polls: usize, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let in_every_turn = poll_fn(|cx| {
            self.0.register(cx.waker());
            future.as_mut().poll(cx)
        });
        drop_after(polls, in_every_turn).await
    }
}

struct TakesTurns;

#[async_trait]
impl Probe for TakesTurns {
    async fn reached(&self, _point: Point) {
        tokio::task::yield_now().await;
    }
}

/// Runs `one` with 0, 1, 2, … polls until it says that the future was completed.
async fn at_every_poll(what: &str, polls_min: usize, mut one: impl AsyncFnMut(usize) -> bool) {
    let began = Instant::now();
    for polls in 0..POLLS_MAX {
        if one(polls).await {
            assert!(polls >= polls_min, "{what}: completed after {polls} polls");
            println!("{what}: {polls} polls, {:?}", began.elapsed());
            return;
        }
    }
    panic!("{what}: not completed after {POLLS_MAX} polls");
}

/// A resource with a pool for one branch: what leaks is missed by the next one.
trait Narrow: Bank {
    fn narrow(name: &str, url: &str) -> Self;
}

impl Narrow for Postgres {
    fn narrow(name: &str, url: &str) -> Self {
        let builder = Self::builder(name, url).pool_size(1);
        builder.build().unwrap()
    }
}

impl Narrow for Mysql {
    fn narrow(name: &str, url: &str) -> Self {
        let builder = Self::builder(name, url).pool_size(1);
        builder.build().unwrap()
    }
}

/// Two accounts behind wires, and the judge who looks at them without.
struct Bench<A, B> {
    transfer: Transfer<A, B>,
    wires: [Wire; 2],
    urls: [String; 2],
    judges: [Judge; 2],
    folder: tempfile::TempDir,
    logs: usize,
}

impl<A: Narrow, B: Narrow> Bench<A, B> {
    async fn new(pair: (Db, Db), test: &str) -> Self {
        let name = table(test);
        let (from_table, to_table) = (format!("{name}_a"), format!("{name}_b"));
        let from = Account::create(pair.0, &from_table).await;
        let to = Account::create(pair.1, &to_table).await;
        let (from_wire, from_url) = Wire::between(&from.url).await.unwrap();
        let (to_wire, to_url) = Wire::between(&to.url).await.unwrap();
        let transfer = Transfer {
            from: A::narrow("orders", &from_url),
            to: B::narrow("ledger", &to_url),
            from_table,
            to_table,
        };
        Self {
            transfer,
            wires: [from_wire, to_wire],
            urls: [from_url, to_url],
            judges: [Judge::new(from).await, Judge::new(to).await],
            folder: tempfile::tempdir().unwrap(),
            logs: 0,
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join(format!("log-{}", self.logs))
    }

    fn new_log(&mut self) {
        self.logs += 1;
    }

    fn builder(&self) -> TransactionManagerBuilder {
        // No pass but those that are asked for: what happens is what the future does.
        self.transfer.builder(&self.log()).config(|config| {
            config.recovery_interval = Duration::from_secs(3600);
            config.recovery_interval_max = Duration::from_secs(3600);
        })
    }

    /// A manager whose tasks take a turn at every named point, too.
    async fn start(&self) -> TransactionManager {
        let builder = self.builder().probe(Arc::new(TakesTurns));
        builder.start().await.unwrap()
    }

    /// Whoever was dropped with the log open lets go of it in the background.
    async fn start_again(&self) -> TransactionManager {
        let began = Instant::now();
        loop {
            match self.builder().start().await {
                Ok(tm) => return tm,
                Err(StartError::Log(error)) => {
                    assert!(began.elapsed() < PATIENCE, "{error}");
                }
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn balances(&mut self) -> [i64; 2] {
        let [from, to] = &mut self.judges;
        [from.balance().await, to.balance().await]
    }

    async fn totals(&mut self) -> [i64; 2] {
        let [from, to] = &mut self.judges;
        [from.total().await, to.total().await]
    }

    async fn prepared(&mut self, gtrid: Gtrid) -> usize {
        let mut prepared = 0;
        for judge in &mut self.judges {
            prepared += judge.prepared(gtrid).await;
        }
        prepared
    }

    /// The transaction has ended, is there as a whole or not at all, and as `outcome` says. Is it
    /// committed?
    async fn is_committed_whole(
        &mut self,
        tm: &TransactionManager,
        gtrid: Gtrid,
        before: [i64; 2],
    ) -> bool {
        eventually("it has ended", || async {
            tm.outcome(gtrid).await.unwrap() != TransactionOutcome::InDoubt
        })
        .await;
        let outcome = tm.outcome(gtrid).await.unwrap();
        if outcome == TransactionOutcome::Committed {
            // Branches may still be on their way.
            self.balances_become([before[0] - 30, before[1] + 30]).await;
            self.becomes_resolved(gtrid).await;
            return true;
        }
        assert_eq!(outcome, TransactionOutcome::RolledBack);
        assert_eq!(self.balances().await, before, "rolled back");
        assert_eq!(self.prepared(gtrid).await, 0, "rolled back");
        false
    }

    async fn balances_become(&mut self, balances: [i64; 2]) {
        let began = Instant::now();
        loop {
            let now = self.balances().await;
            if now == balances {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{now:?}, not {balances:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Without anybody's help, nothing of it is prepared any more.
    async fn becomes_resolved(&mut self, gtrid: Gtrid) {
        let began = Instant::now();
        while self.prepared(gtrid).await > 0 {
            assert!(began.elapsed() < PATIENCE, "{gtrid} stays prepared");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The manager goes on: sessions can be had and no row is locked.
    async fn commits(&mut self, tm: &TransactionManager) {
        let before = self.balances().await;
        let tx = self.transfer.begin(tm).await.unwrap();
        let gtrid = tx.gtrid();
        tx.commit().await.unwrap();
        assert!(self.is_committed_whole(tm, gtrid, before).await);
    }

    /// Nothing is left anywhere: no session, and for every k that there was, no prepared branch.
    async fn end(mut self) {
        let [from, to] = self.urls.clone();
        self.transfer.from = A::narrow("orders", &from);
        self.transfer.to = B::narrow("ledger", &to);
        for wire in &self.wires {
            eventually("no session is left", || async { wire.connections() == 0 }).await;
        }
        for judge in self.judges {
            judge.end().await;
        }
    }
}
