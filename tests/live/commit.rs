//! Both or neither, on every pair of kinds of servers.

use unanimous::{BoxError, CommitError, TransactionOutcome};

use crate::support::{Account, Bank, Db, PAIRS, Transfer, eventually, table};
use crate::with_banks;

async fn accounts(pair: (Db, Db), test: &str) -> (Account, Account) {
    let name = table(test);
    let from = Account::create(pair.0, &format!("{name}_a")).await;
    let to = Account::create(pair.1, &format!("{name}_b")).await;
    (from, to)
}

macro_rules! on_every_pair {
    ($($test:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $test() {
                async fn run<A: Bank, B: Bank>(from: &Account, to: &Account) {
                    let folder = tempfile::tempdir().unwrap();
                    let transfer = Transfer::<A, B>::new(from, to);
                    let tm = transfer.builder(&folder.path().join("log")).start().await.unwrap();
                    checks::$test(&transfer, &tm, from, to).await;
                    tm.shutdown().await.unwrap();
                }
                for pair in PAIRS {
                    let (from, to) = accounts(pair, stringify!($test)).await;
                    with_banks!((from, to), run(&from, &to));
                    from.drop_table().await;
                    to.drop_table().await;
                }
            }
        )+
    };
}

on_every_pair!(
    i1_a_commit_changes_both,
    i1_a_refusal_on_one_side_changes_neither,
    i7_a_dropped_transaction_changes_neither_and_frees_its_locks,
    i7_a_dropped_commit_future_still_commits,
    i8_connections_are_reused_clean_over_many_transactions,
    transactions_run_side_by_side,
);

mod checks {
    use unanimous::TransactionManager;

    use super::*;

    pub(super) async fn i1_a_commit_changes_both<A: Bank, B: Bank>(
        transfer: &Transfer<A, B>,
        tm: &TransactionManager,
        from: &Account,
        to: &Account,
    ) {
        let committed = transfer.begin(tm).await.unwrap().commit().await.unwrap();
        assert!(committed.unfinished().is_empty());
        assert_eq!((from.balance().await, to.balance().await), (70, 130));
        assert_eq!(
            tm.outcome(committed.gtrid()).await.unwrap(),
            TransactionOutcome::Committed
        );
    }

    pub(super) async fn i1_a_refusal_on_one_side_changes_neither<A: Bank, B: Bank>(
        transfer: &Transfer<A, B>,
        tm: &TransactionManager,
        from: &Account,
        to: &Account,
    ) {
        let mut tx = transfer.begin(tm).await.unwrap();
        let branch = tx.enlist(&transfer.to).await.unwrap();
        // The account exists already: a statement fails, and the application commits all the same.
        assert!(B::add(branch, "no_such_table", 1).await.is_err());
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
        assert_eq!((from.balance().await, to.balance().await), (100, 100));
    }

    pub(super) async fn i7_a_dropped_transaction_changes_neither_and_frees_its_locks<A, B>(
        transfer: &Transfer<A, B>,
        tm: &TransactionManager,
        from: &Account,
        to: &Account,
    ) where
        A: Bank,
        B: Bank,
    {
        let tx = transfer.begin(tm).await.unwrap();
        let gtrid = tx.gtrid();
        drop(tx);
        eventually("it is rolled back", || async {
            tm.outcome(gtrid).await.unwrap() == TransactionOutcome::RolledBack
        })
        .await;
        assert_eq!((from.balance().await, to.balance().await), (100, 100));
        transfer.begin(tm).await.unwrap().commit().await.unwrap();
    }

    pub(super) async fn i7_a_dropped_commit_future_still_commits<A: Bank, B: Bank>(
        transfer: &Transfer<A, B>,
        tm: &TransactionManager,
        from: &Account,
        to: &Account,
    ) {
        let tx = transfer.begin(tm).await.unwrap();
        let commit = tx.commit();
        tokio::select! {
            biased;
            _ = commit => panic!("a commit takes more than one poll"),
            () = std::future::ready(()) => {}
        }
        eventually("both have changed", || async {
            (from.balance().await, to.balance().await) == (70, 130)
        })
        .await;
    }

    pub(super) async fn i8_connections_are_reused_clean_over_many_transactions<A: Bank, B: Bank>(
        transfer: &Transfer<A, B>,
        tm: &TransactionManager,
        from: &Account,
        to: &Account,
    ) {
        for round in 1..=20 {
            if round % 4 == 0 {
                transfer.begin(tm).await.unwrap().rollback().await;
            } else {
                transfer.begin(tm).await.unwrap().commit().await.unwrap();
            }
        }
        assert_eq!(
            (from.balance().await, to.balance().await),
            (100 - 15 * 30, 100 + 15 * 30)
        );
    }

    pub(super) async fn transactions_run_side_by_side<A: Bank, B: Bank>(
        transfer: &Transfer<A, B>,
        tm: &TransactionManager,
        from: &Account,
        to: &Account,
    ) {
        let one = || async {
            tm.retry(|mut tx| async move {
                let (from, to) = tx.enlist((&transfer.from, &transfer.to)).await?;
                A::add(from, &transfer.from_table, -30).await?;
                B::add(to, &transfer.to_table, 30).await?;
                tx.commit().await?;
                Ok::<_, BoxError>(())
            })
            .await
        };
        let ended = futures_util::future::join_all((0..8).map(|_| one())).await;
        let committed = ended.iter().filter(|result| result.is_ok()).count();
        assert_eq!(committed, 8, "{ended:?}");
        let moved = 30 * 8;
        assert_eq!(
            (from.balance().await, to.balance().await),
            (100 - moved, 100 + moved)
        );
    }
}

#[tokio::test]
async fn one_transaction_spans_three_databases() {
    use unanimous::{TransactionManager, log::FileLog, mysql::Mysql, postgres::Postgres};
    let name = table("three");
    let order = Account::create(Db::PostgresNewest, &name).await;
    let payment = Account::create(Db::Mysql, &name).await;
    let delivery = Account::create(Db::Mariadb, &name).await;
    let orders = Postgres::connect("orders", &order.url);
    let payments = Mysql::connect("payments", &payment.url);
    let deliveries = Mysql::connect("deliveries", &delivery.url);
    let folder = tempfile::tempdir().unwrap();
    let tm = TransactionManager::builder()
        .log(FileLog::at(folder.path().join("log")))
        .resource(&orders)
        .resource(&payments)
        .resource(&deliveries)
        .start()
        .await
        .unwrap();
    let mut tx = tm.begin();
    let (a, b, c) = tx.enlist((&orders, &payments, &deliveries)).await.unwrap();
    let (a, b, c) = tokio::join!(
        Postgres::add(a, &name, 1),
        Mysql::add(b, &name, 2),
        Mysql::add(c, &name, 3)
    );
    a.unwrap();
    b.unwrap();
    c.unwrap();
    tx.commit().await.unwrap();
    let balances = [
        order.balance().await,
        payment.balance().await,
        delivery.balance().await,
    ];
    assert_eq!(balances, [101, 102, 103]);
    for account in [order, payment, delivery] {
        account.drop_table().await;
    }
    tm.shutdown().await.unwrap();
}
