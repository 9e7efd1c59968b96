//! A server that cannot be reached at enlist, prepare, commit or recovery, behind a proxy that cuts
//! or goes silent: what is answered, what is left, and that the other databases are not delayed.
//! (A server that is killed: `servers_fail`.)

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimous::{
    BranchErrorKind, CommitError, EnlistError, Point, Probe, TransactionManager,
    TransactionManagerBuilder, TransactionOutcome,
};
use unanimous_testing::{Wire, WireFault};

use crate::killed::Killed;
use crate::support::{Account, Bank, Db, Transfer, eventually, table};
use crate::with_banks;

const PAIRS: [(Db, Db); 3] = [
    (Db::PostgresNewest, Db::Mysql),
    (Db::Mysql, Db::PostgresNewest),
    (Db::Mariadb, Db::Postgres15),
];

/// Sets the wire's fault when a point is reached.
struct FaultAt(Arc<Wire>, Point, WireFault);

#[async_trait]
impl Probe for FaultAt {
    async fn reached(&self, point: Point) {
        if point == self.1 {
            self.0.set(self.2);
        }
    }
}

/// `from` is reached through a wire, `to` is not.
struct Scene<A, B> {
    transfer: Transfer<A, B>,
    wire: Arc<Wire>,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl<A: Bank, B: Bank> Scene<A, B> {
    async fn new(from: &Account, to: &Account) -> Self {
        let (wire, url) = Wire::between(&from.url).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let through = Account {
            url,
            ..from.clone()
        };
        Self {
            transfer: Transfer::new(&through, to),
            wire: Arc::new(wire),
            log: folder.path().join("log"),
            _folder: folder,
        }
    }

    fn builder(&self) -> TransactionManagerBuilder {
        let builder = self.transfer.builder(&self.log);
        // Limits that are met, where the network says nothing.
        builder.config(|config| {
            config.open_timeout = Duration::from_secs(2);
            config.prepare_timeout = Duration::from_secs(2);
            config.finish_timeout = Duration::from_secs(2);
            config.recovery_timeout = Duration::from_secs(2);
            config.start_timeout = Duration::from_secs(2);
        })
    }

    async fn start(&self) -> TransactionManager {
        self.builder().start().await.unwrap()
    }

    async fn start_with(&self, point: Point, fault: WireFault) -> TransactionManager {
        let probe = FaultAt(Arc::clone(&self.wire), point, fault);
        self.builder().probe(Arc::new(probe)).start().await.unwrap()
    }

    /// Work at `to` alone goes on as if nothing were, while `from` is away.
    async fn to_is_not_delayed(&self, tm: &TransactionManager, to: &Account) {
        assert_ne!(self.wire.fault(), WireFault::None);
        let before = to.balance().await;
        for amount in [1, -1] {
            let mut tx = tm.begin();
            let branch = tx.enlist(&self.transfer.to).await.unwrap();
            B::add(branch, &to.table, amount).await.unwrap();
            tx.commit().await.unwrap();
        }
        assert_eq!(to.balance().await, before);
    }

    /// The server can be reached again: nothing stays, and transactions commit.
    async fn is_well_again(&self, tm: &TransactionManager, from: &Account, to: &Account) {
        self.wire.set(WireFault::None);
        let before = (from.balance().await, to.balance().await);
        eventually("a transfer commits", || async {
            match self.transfer.begin(tm).await {
                Ok(tx) => tx.commit().await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
        let after = (before.0 - 30, before.1 + 30);
        eventually("both have changed", || async {
            (from.balance().await, to.balance().await) == after
        })
        .await;
    }
}

async fn accounts(pair: (Db, Db)) -> (Account, Account) {
    let name = table("unreachable");
    let from = Account::create(pair.0, &format!("{name}_a")).await;
    let to = Account::create(pair.1, &format!("{name}_b")).await;
    (from, to)
}

fn orders() -> unanimous::ResourceName {
    "orders".parse().unwrap()
}

async fn at_enlist<A: Bank, B: Bank>(from: &Account, to: &Account, fault: WireFault) {
    let scene = Scene::<A, B>::new(from, to).await;
    let tm = scene.start().await;
    scene.wire.set(fault);
    let mut tx = tm.begin();
    let both = (&scene.transfer.from, &scene.transfer.to);
    let refused = tx.enlist(both).await.map(drop).unwrap_err();
    let EnlistError::Branch(error) = &refused else {
        panic!("{refused}")
    };
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    assert!(refused.to_string().contains("resource orders"), "{refused}");
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    scene.to_is_not_delayed(&tm, to).await;
    scene.is_well_again(&tm, from, to).await;
    tm.shutdown().await.unwrap();
}

async fn at_prepare<A: Bank, B: Bank>(from: &Account, to: &Account, fault: WireFault) {
    let scene = Scene::<A, B>::new(from, to).await;
    let tm = scene
        .start_with(Point::BeforePrepare(orders()), fault)
        .await;
    let tx = scene.transfer.begin(&tm).await.unwrap();
    let gtrid = tx.gtrid();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    assert!(error.to_string().contains("resource orders"), "{error}");
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::RolledBack);
    eventually("the other branch is rolled back", || async {
        to.prepared(gtrid).await == 0
    })
    .await;
    if fault != WireFault::CutReply {
        scene.to_is_not_delayed(&tm, to).await;
    }
    scene.wire.set(WireFault::None);
    eventually("what had prepared unheard is rolled back", || async {
        from.prepared(gtrid).await == 0
    })
    .await;
    assert_eq!((from.balance().await, to.balance().await), (100, 100));
    tm.shutdown().await.unwrap();
}

async fn at_commit<A: Bank, B: Bank>(from: &Account, to: &Account, fault: WireFault) {
    let scene = Scene::<A, B>::new(from, to).await;
    let tm = scene.start_with(Point::DecisionDurable, fault).await;
    let tx = scene.transfer.begin(&tm).await.unwrap();
    let gtrid = tx.gtrid();
    let committed = tx.commit().await.unwrap();
    assert_eq!(committed.unfinished(), [orders()]);
    assert_eq!((from.balance().await, to.balance().await), (100, 130));
    assert_eq!(from.prepared(gtrid).await, 1);
    let outcome = tm.outcome(gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Committed);
    let report = tm.recover().await;
    assert!(!report.is_clean());
    assert!(report.to_string().contains("resource orders"), "{report}");
    scene.to_is_not_delayed(&tm, to).await;
    scene.wire.set(WireFault::None);
    committed.completed().await.unwrap();
    assert_eq!((from.balance().await, to.balance().await), (70, 130));
    tm.shutdown().await.unwrap();
}

async fn at_start<A: Bank, B: Bank>(killed: &Killed, fault: WireFault) {
    let (from, to) = (&killed.from, &killed.to);
    let mut scene = Scene::<A, B>::new(from, to).await;
    scene.log = killed.log();
    scene.wire.set(fault);
    let tm = scene.start().await;
    eventually("the other branch is committed", || async {
        to.prepared(killed.gtrid).await == 0
    })
    .await;
    assert_eq!((from.balance().await, to.balance().await), (100, 130));
    let report = tm.start_report();
    assert!(!report.is_clean());
    assert!(report.to_string().contains("orders"), "{report}");
    scene.to_is_not_delayed(&tm, to).await;
    scene.wire.set(WireFault::None);
    eventually("this one is committed", || async {
        from.balance().await == 70
    })
    .await;
    eventually("nothing is left", || async {
        tm.recover().await.is_clean()
    })
    .await;
    tm.shutdown().await.unwrap();
}

#[tokio::test]
async fn i6_a_server_that_is_away_at_enlist_is_named_and_the_transaction_rolled_back() {
    for pair in PAIRS {
        for fault in [WireFault::Down, WireFault::Silence] {
            let (from, to) = accounts(pair).await;
            with_banks!((from, to), at_enlist(&from, &to, fault));
            from.drop_table().await;
            to.drop_table().await;
        }
    }
}

#[tokio::test]
async fn i3_a_server_that_is_away_at_prepare_rolls_both_back_whatever_it_has_heard() {
    for pair in PAIRS {
        for fault in [
            WireFault::Down,
            WireFault::Silence,
            WireFault::CutReply,
            WireFault::HoldReplies,
        ] {
            let (from, to) = accounts(pair).await;
            with_banks!((from, to), at_prepare(&from, &to, fault));
            from.drop_table().await;
            to.drop_table().await;
        }
    }
}

#[tokio::test]
async fn i2_a_server_that_is_away_at_commit_is_named_as_unfinished_and_committed_when_it_is_back() {
    for pair in PAIRS {
        for fault in [WireFault::Down, WireFault::Silence] {
            let (from, to) = accounts(pair).await;
            with_banks!((from, to), at_commit(&from, &to, fault));
            from.drop_table().await;
            to.drop_table().await;
        }
    }
}

#[tokio::test]
async fn i6_a_server_that_is_away_at_the_restart_delays_neither_the_start_nor_the_other() {
    for pair in PAIRS {
        for fault in [WireFault::Down, WireFault::Silence] {
            let killed = Killed::at(pair, "after_the_decision").await;
            let (from, to) = (&killed.from, &killed.to);
            with_banks!((from, to), at_start(&killed, fault));
            killed.drop_tables().await;
        }
    }
}
