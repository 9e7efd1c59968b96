//! The futures of a manager, and that of a commit that is not complete yet.

use std::time::Duration;

use unanimous::ports::{
    BranchRecord, DecisionLog, DecisionRecord, Evidence, LogHome, ServerIdentity,
};
use unanimous::{CommitError, EnlistError, Gtrid, TransactionManager, TransactionOutcome, Xid};
use unanimous_testing::{Fault, Step};

use super::{at_every_poll, ended, polled, soon};
use crate::runtime::{World, eventually};

const NAMES: [&str; 2] = ["orders", "ledger"];

fn xid(gtrid: Gtrid, name: &str) -> Xid {
    let bqual = name.parse().unwrap();
    Xid { gtrid, bqual }
}

impl World {
    /// Prepared at both servers.
    fn plant(&self, gtrid: Gtrid, key: &str) {
        let servers = [self.orders.server(), self.ledger.server()];
        for (server, name) in servers.into_iter().zip(NAMES) {
            server.plant(&xid(gtrid, name), &[(key, "1")]);
        }
    }

    /// What an earlier life has left: one transaction decided and one not, both prepared.
    async fn leave_in_doubt(&self) -> (Gtrid, Gtrid) {
        let home: Box<dyn LogHome> = Box::new(self.log.clone());
        let log: std::sync::Arc<dyn DecisionLog> = home.open().await.unwrap();
        let (decided, orphan) = (log.opening().gtrid(1), log.opening().gtrid(2));
        let branches = NAMES.map(|name| BranchRecord {
            resource: name.parse().unwrap(),
            identity: ServerIdentity::new(name).unwrap(),
            evidence: Evidence::default(),
        });
        let decision = DecisionRecord {
            gtrid: decided,
            branches: branches.into(),
        };
        log.decide(&decision).await.unwrap();
        self.plant(decided, "k");
        self.plant(orphan, "orphan");
        (decided, orphan)
    }

    fn has_orphan(&self) -> bool {
        let servers = [self.orders.server(), self.ledger.server()];
        servers.iter().any(|server| server.row("orphan").is_some())
    }

    fn prepared(&self) -> usize {
        self.orders.server().prepared().len() + self.ledger.server().prepared().len()
    }

    /// In which no recovery pass comes by itself after the first.
    async fn start_without_passes(&self) -> TransactionManager {
        let builder = self.slow_builder().config(|config| {
            config.recovery_interval = Duration::from_secs(3600);
            config.recovery_interval_max = Duration::from_secs(3600);
        });
        let tm = builder.start().await.unwrap();
        // The first passes of the tasks are over then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        tm
    }
}

#[tokio::test(start_paused = true)]
async fn i7_start() {
    at_every_poll(20, async |world, polls| {
        let (decided, orphan) = world.leave_in_doubt().await;
        let started = polled(polls, world.slow_builder().start()).await;
        let is_done = started.is_some();
        drop(started);
        let tm = soon("the next start", world.start()).await;
        world.settle().await;
        assert_eq!(world.rows(), World::both("1"), "{polls} polls");
        assert!(!world.has_orphan(), "{polls} polls");
        let outcome = tm.outcome(decided).await.unwrap();
        assert_eq!(outcome, TransactionOutcome::Committed, "{polls} polls");
        let outcome = tm.outcome(orphan).await.unwrap();
        assert_eq!(outcome, TransactionOutcome::Unknown, "{polls} polls");
        world.goes_on(tm).await;
        is_done
    })
    .await;
}

/// Passes that have begun go on to their end.
#[tokio::test(start_paused = true)]
async fn i7_recover() {
    at_every_poll(10, async |world, polls| {
        let tm = world.start_without_passes().await;
        world.plant(tm.begin().gtrid(), "orphan");
        let report = polled(polls, tm.recover()).await;
        if polls > 0 {
            eventually("the pass goes on", || world.prepared() == 0).await;
        }
        if let Some(report) = &report {
            assert!(report.is_clean(), "{report:?}");
        }
        let report = report.is_some();
        assert!(soon("another pass", tm.recover()).await.is_clean());
        assert_eq!(world.prepared(), 0);
        assert!(!world.has_orphan());
        world.goes_on(tm).await;
        report
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i7_survey() {
    at_every_poll(6, async |world, polls| {
        let tm = world.start_without_passes().await;
        world.plant(tm.begin().gtrid(), "orphan");
        let survey = polled(polls, tm.survey()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.prepared(), 2, "it was only looked at");
        let again = soon("another survey", tm.survey()).await;
        let listed = again.resources.iter().map(|at| at.branches.len());
        assert_eq!(listed.sum::<usize>(), 2, "{again:?}");
        assert!(soon("a pass", tm.recover()).await.is_clean());
        assert_eq!(world.prepared(), 0);
        world.goes_on(tm).await;
        survey.is_some()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i7_outcome() {
    at_every_poll(2, async |world, polls| {
        let (decided, _) = world.leave_in_doubt().await;
        let tm = world.start_slow().await;
        let outcome = polled(polls, tm.outcome(decided)).await;
        let again = tm.outcome(decided).await.unwrap();
        assert_eq!(again, TransactionOutcome::Committed);
        world.settle().await;
        world.goes_on(tm).await;
        outcome.is_some()
    })
    .await;
}

/// The branch's commit is lost, and recovery's first attempt is refused.
#[tokio::test(start_paused = true)]
async fn i7_completed() {
    at_every_poll(20, async |world, polls| {
        let tm = world.start_slow().await;
        let ledger = world.ledger.server();
        ledger.fail_next(Step::Commit, Fault::LoseRequest);
        let unavailable = unanimous::BranchErrorKind::Unavailable;
        ledger.fail_next(Step::Finish, Fault::Refuse(unavailable));
        let mut tx = tm.begin();
        world.write(&mut tx, "1").await;
        let gtrid = tx.gtrid();
        let committed = tx.commit().await.unwrap();
        assert_eq!(committed.unfinished().len(), 1);
        let completed = polled(polls, committed.completed()).await;
        let is_done = completed.is_some();
        completed.unwrap_or(Ok(())).unwrap();
        soon("its end", committed.completed()).await.unwrap();
        assert_eq!(world.rows(), World::both("1"), "{polls} polls");
        assert!(world.is_committed_whole(&tm, gtrid).await);
        world.goes_on(tm).await;
        is_done
    })
    .await;
}

/// What runs while the manager is shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    Nothing,
    /// A commit whose future was dropped.
    Commit,
    /// A transaction that does not end before the limit.
    Transaction,
}

/// A shutdown that was dropped can be repeated, or the manager be dropped; the log is free then.
#[tokio::test(start_paused = true)]
async fn i7_shutdown() {
    for running in [Running::Nothing, Running::Commit, Running::Transaction] {
        for is_repeated in [true, false] {
            at_every_poll(10, async |world, polls| {
                shut_down(&world, running, polls, is_repeated).await
            })
            .await;
        }
    }
}

/// Whoever waits for a commit hears of its end, wherever the shutdown is dropped.
#[tokio::test(start_paused = true)]
async fn i7_shutdown_beside_a_commit_that_is_not_complete() {
    at_every_poll(10, async |world, polls| {
        let tm = world.start_slow().await;
        let ledger = world.ledger.server();
        ledger.fail_next(Step::Commit, Fault::LoseRequest);
        let mut tx = tm.begin();
        world.write(&mut tx, "1").await;
        let committed = tx.commit().await.unwrap();
        ledger.set_reachable(false);
        let shutdown = polled(polls, tm.shutdown()).await;
        ledger.set_reachable(true);
        match soon("its end", committed.completed()).await {
            Ok(()) | Err(CommitError::Undetermined { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        soon("the shutdown", tm.shutdown()).await.unwrap();
        drop(tm);
        let next = soon("the next start", world.start()).await;
        world.settle().await;
        assert_eq!(world.rows(), World::both("1"), "{polls} polls");
        world.goes_on(next).await;
        shutdown.is_some()
    })
    .await;
}

async fn shut_down(world: &World, running: Running, polls: usize, is_repeated: bool) -> bool {
    let builder = world.slow_builder().config(|config| {
        config.drain_timeout = Duration::from_millis(20);
    });
    let tm = builder.start().await.unwrap();
    let mut tx = tm.begin();
    let gtrid = tx.gtrid();
    world.write(&mut tx, "1").await;
    let mut open = None;
    match running {
        Running::Nothing => drop(tx.commit().await.unwrap()),
        Running::Commit => drop(polled(1, tx.commit()).await),
        Running::Transaction => open = Some(tx),
    }
    let shutdown = polled(polls, tm.shutdown()).await;
    let is_done = shutdown.is_some();
    shutdown.unwrap_or(Ok(())).unwrap();
    if polls > 0 {
        let mut late = tm.begin();
        let refused = late.enlist(&world.orders).await.map(drop);
        assert!(matches!(refused, Err(EnlistError::ShutDown)), "{refused:?}");
    }
    if is_repeated {
        soon("the shutdown", tm.shutdown()).await.unwrap();
    }
    drop(open);
    drop(tm);
    let next = soon("the next start", world.start()).await;
    world.settle().await;
    let outcome = soon("the outcome", ended(&next, gtrid)).await;
    let is_committed = outcome == TransactionOutcome::Committed;
    let rows = if is_committed {
        World::both("1")
    } else {
        assert_eq!(outcome, TransactionOutcome::Unknown, "{polls} polls");
        (None, None)
    };
    assert_eq!(world.rows(), rows, "{running:?}, {polls} polls");
    match running {
        Running::Transaction => assert!(!is_committed),
        // Without a shutdown, the next start may take the log away before the decision.
        Running::Commit if !is_repeated && !is_done => {}
        Running::Commit | Running::Nothing => assert!(is_committed, "{polls} polls"),
    }
    world.goes_on(next).await;
    is_done
}
