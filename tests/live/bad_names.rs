//! Resources that are renamed, missing at a restart, or two names of one server: nothing is lost.

use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{EnlistError, TransactionManager, TransactionManagerBuilder, TransactionOutcome};

use crate::killed::Killed;
use crate::support::{Account, Bank, Db, eventually, short_intervals, table};
use crate::with_banks;

const PAIRS: [(Db, Db); 3] = [
    (Db::PostgresNewest, Db::Mysql),
    (Db::Mysql, Db::Postgres15),
    (Db::Postgres15, Db::Mariadb),
];

fn builder(killed: &Killed) -> TransactionManagerBuilder {
    TransactionManager::builder()
        .log(FileLog::at(killed.log()))
        .config(short_intervals)
}

async fn balances(killed: &Killed) -> (i64, i64) {
    (killed.from.balance().await, killed.to.balance().await)
}

async fn nothing_is_prepared(killed: &Killed) {
    for account in [&killed.from, &killed.to] {
        eventually("nothing is prepared", || async {
            account.prepared(killed.gtrid).await == 0
        })
        .await;
    }
}

/// Every decision is completed and nothing is left, and the manager can be shut down then.
async fn ends_clean(tm: &TransactionManager) {
    eventually("the report is clean", || async {
        tm.recover().await.is_clean()
    })
    .await;
    tm.shutdown().await.unwrap();
}

/// With a decision in the log, start and report name the resource. Without one, nobody can know of
/// the branch; its database keeps it, and it is rolled back when it is registered again.
async fn without_the_second<A: Bank, B: Bank>(killed: &Killed, is_decided: bool) {
    let from = A::connect("orders", &killed.from.url);
    let to = B::connect("ledger", &killed.to.url);
    let tm = builder(killed).resource(&from).start().await.unwrap();
    eventually("the known branch is ended", || async {
        killed.from.prepared(killed.gtrid).await == 0
    })
    .await;
    let report = tm.recover().await;
    let unknown: Vec<&str> = report
        .unknown_resources
        .iter()
        .map(|n| n.as_str())
        .collect();
    if is_decided {
        assert_eq!(unknown, ["ledger"]);
        let text = report.to_string();
        assert!(text.contains("ledger: register"), "{text}");
    } else {
        assert!(unknown.is_empty(), "nobody can know: {unknown:?}");
    }
    let expected = if is_decided { (70, 100) } else { (100, 100) };
    assert_eq!(balances(killed).await, expected);
    assert_eq!(killed.to.prepared(killed.gtrid).await, 1, "it is kept");
    // The rest of the application works meanwhile.
    let mut tx = tm.begin();
    A::add(tx.enlist(&from).await.unwrap(), &killed.from.table, 0)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    tm.shutdown().await.unwrap();

    let tm = builder(killed).resource(&from).resource(&to);
    let tm = tm.start().await.unwrap();
    nothing_is_prepared(killed).await;
    let expected = if is_decided { (70, 130) } else { (100, 100) };
    assert_eq!(balances(killed).await, expected);
    ends_clean(&tm).await;
}

#[tokio::test]
async fn a_resource_that_is_missing_at_a_restart_is_named_and_registered_again_loses_nothing() {
    for pair in PAIRS {
        for (spot, is_decided) in [("after_both_prepares", false), ("after_the_decision", true)] {
            let killed = Killed::at(pair, spot).await;
            let (from, to) = (&killed.from, &killed.to);
            with_banks!((from, to), without_the_second(&killed, is_decided));
            killed.drop_tables().await;
        }
    }
}

/// What is prepared is found under whatever name its server has now. What has been committed before
/// can be proven under the old name only, so the decision waits for it.
async fn with_the_first_renamed<A: Bank, B: Bank>(killed: &Killed, is_committed_there: bool) {
    let renamed = A::connect("shop", &killed.from.url);
    let to = B::connect("ledger", &killed.to.url);
    let tm = builder(killed).resource(&renamed).resource(&to);
    let tm = tm.start().await.unwrap();
    nothing_is_prepared(killed).await;
    assert_eq!(balances(killed).await, (70, 130));
    let outcome = tm.outcome(killed.gtrid).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Committed);
    if is_committed_there {
        let report = tm.recover().await;
        let unknown: Vec<&str> = report
            .unknown_resources
            .iter()
            .map(|n| n.as_str())
            .collect();
        assert_eq!(unknown, ["orders"]);
        tm.shutdown().await.unwrap();
        // Both names at once end it: two names of one server are allowed.
        let old = A::connect("orders", &killed.from.url);
        let builder = builder(killed).resource(&renamed).resource(&old);
        let tm = builder.resource(&to).start().await.unwrap();
        ends_clean(&tm).await;
        assert_eq!(balances(killed).await, (70, 130));
    } else {
        ends_clean(&tm).await;
    }
}

#[tokio::test]
async fn a_resource_that_was_renamed_while_in_doubt_loses_nothing_and_the_old_name_is_told() {
    for pair in PAIRS {
        for (spot, is_committed_there) in [
            ("after_the_decision", false),
            ("after_the_first_commit", true),
        ] {
            let killed = Killed::at(pair, spot).await;
            let (from, to) = (&killed.from, &killed.to);
            with_banks!(
                (from, to),
                with_the_first_renamed(&killed, is_committed_there)
            );
            killed.drop_tables().await;
        }
    }
}

async fn two_names<R: Bank>(account: &Account) {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (
        R::connect("one", &account.url),
        R::connect("two", &account.url),
    );
    let tm = TransactionManager::builder()
        .log(FileLog::at(folder.path().join("log")))
        .resource(&one)
        .resource(&two)
        .config(short_intervals);
    let tm = tm.start().await.unwrap();
    let mut tx = tm.begin();
    let error = tx.enlist((&one, &two)).await.map(drop).unwrap_err();
    assert!(matches!(error, EnlistError::SameServer { .. }), "{error}");
    let text = error.to_string();
    for part in ["one", "two", "same server", "use one resource"] {
        assert!(text.contains(part), "{text}");
    }
    let text = tx.commit().await.unwrap_err().to_string();
    assert!(text.contains("same server"), "{text}");
    for resource in [&one, &two] {
        let mut tx = tm.begin();
        let branch = tx.enlist(resource).await.unwrap();
        R::add(branch, &account.table, 1).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(account.balance().await, 102);
    tm.shutdown().await.unwrap();
}

#[tokio::test]
async fn two_names_of_one_server_are_refused_in_one_transaction_and_work_one_at_a_time() {
    for db in [Db::PostgresNewest, Db::Mysql, Db::Mariadb] {
        let account = Account::create(db, &table("two_names")).await;
        if account.is_postgres {
            two_names::<Postgres>(&account).await;
        } else {
            two_names::<Mysql>(&account).await;
        }
        account.drop_table().await;
    }
}
