//! `enlist`, `commit` and `rollback`.

use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{TransactionManager, TransactionOutcome};
use unanimous_testing::Wire;

use super::judge::Judge;
use super::{Bench, Narrow, PAIRS, Turns, at_every_poll};
use crate::support::{Account, Db, eventually, short_intervals, table};

/// Calls a function with the types of each pair's resources.
macro_rules! on_pairs {
    ($($test:ident => $check:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                Turns::run(async |turns| {
                    let [first, second] = PAIRS;
                    let name = stringify!($test);
                    let bench = Bench::<Postgres, Mysql>::new(first, name).await;
                    $check(&turns, bench, name).await;
                    let bench = Bench::<Mysql, Mysql>::new(second, name).await;
                    $check(&turns, bench, name).await;
                });
            }
        )+
    };
}
pub(super) use on_pairs;

on_pairs!(
    i7_commit => commit,
    i7_rollback => rollback,
    i7_enlist => enlist,
);

/// A commit that was never polled is a rollback; every other one goes on in the background.
async fn commit<A: Narrow, B: Narrow>(turns: &Turns, mut bench: Bench<A, B>, name: &str) {
    let tm = bench.start().await;
    at_every_poll(name, 6, async |polls| {
        let before = bench.balances().await;
        let tx = bench.transfer.begin(&tm).await.unwrap();
        let gtrid = tx.gtrid();
        let answer = turns.polled(polls, tx.commit()).await;
        let is_committed = bench.is_committed_whole(&tm, gtrid, before).await;
        assert_eq!(is_committed, polls > 0, "after {polls} polls");
        let is_done = answer.is_some();
        answer.map(Result::unwrap);
        is_done
    })
    .await;
    close(bench, tm).await;
}

async fn rollback<A: Narrow, B: Narrow>(turns: &Turns, mut bench: Bench<A, B>, name: &str) {
    let tm = bench.start().await;
    at_every_poll(name, 3, async |polls| {
        let before = bench.balances().await;
        let tx = bench.transfer.begin(&tm).await.unwrap();
        let gtrid = tx.gtrid();
        let is_done = turns.polled(polls, tx.rollback()).await.is_some();
        assert!(!bench.is_committed_whole(&tm, gtrid, before).await);
        is_done
    })
    .await;
    close(bench, tm).await;
}

/// What the application does after a dropped `enlist`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Drop,
    EnlistAgain,
    Commit,
    RollBack,
}

async fn enlist<A: Narrow, B: Narrow>(turns: &Turns, mut bench: Bench<A, B>, name: &str) {
    let tm = bench.start().await;
    // Where the branches are given up, the next ones need new connections, which takes more polls.
    let others = [Next::Commit, Next::RollBack];
    for (what, next) in [
        ("given up", [Next::Drop; 2]),
        ("enlisted again", [Next::EnlistAgain; 2]),
        ("ended", others),
    ] {
        at_every_poll(&format!("{name}, {what}"), 3, async |polls| {
            enlist_then(turns, &mut bench, &tm, next[polls % 2], polls).await
        })
        .await;
    }
    close(bench, tm).await;
}

async fn enlist_then<A: Narrow, B: Narrow>(
    turns: &Turns,
    bench: &mut Bench<A, B>,
    tm: &TransactionManager,
    next: Next,
    polls: usize,
) -> bool {
    let before = bench.balances().await;
    let mut tx = tm.begin();
    let gtrid = tx.gtrid();
    let transfer = &bench.transfer;
    let enlisting = tx.enlist((&transfer.from, &transfer.to));
    let enlisted = turns.polled(polls, enlisting).await;
    let is_done = enlisted.is_some();
    assert!(enlisted.is_none_or(|enlisted| enlisted.is_ok()));
    match next {
        Next::Drop => drop(tx),
        Next::EnlistAgain => {
            let (from, to) = tx.enlist((&transfer.from, &transfer.to)).await.unwrap();
            A::add(from, &transfer.from_table, -30).await.unwrap();
            B::add(to, &transfer.to_table, 30).await.unwrap();
            tx.commit().await.unwrap();
        }
        Next::Commit => drop(tx.commit().await.unwrap()),
        Next::RollBack => tx.rollback().await,
    }
    if next == Next::Commit {
        // Nothing was written.
        assert_eq!(bench.balances().await, before);
        assert_eq!(bench.prepared(gtrid).await, 0);
    } else {
        let is_committed = bench.is_committed_whole(tm, gtrid, before).await;
        assert_eq!(is_committed, next == Next::EnlistAgain, "{polls} polls");
    }
    is_done
}

pub(super) async fn close<A: Narrow, B: Narrow>(mut bench: Bench<A, B>, tm: TransactionManager) {
    bench.commits(&tm).await;
    assert!(tm.recover().await.is_clean());
    tm.shutdown().await.unwrap();
    drop(tm);
    bench.end().await;
}

/// One branch alone commits in one phase, without a record.
#[test]
fn i7_commit_in_one_phase() {
    Turns::run(async |turns| {
        one_phase::<Postgres>(&turns, Db::PostgresNewest).await;
        one_phase::<Postgres>(&turns, Db::Postgres15).await;
        one_phase::<Mysql>(&turns, Db::Mysql).await;
        one_phase::<Mysql>(&turns, Db::Mariadb).await;
    });
}

async fn one_phase<A: Narrow>(turns: &Turns, db: Db) {
    let account = Account::create(db, &table("cancel_one")).await;
    let folder = tempfile::tempdir().unwrap();
    let (_wire, url) = Wire::between(&account.url).await.unwrap();
    let resource = A::narrow("orders", &url);
    let tm = TransactionManager::builder()
        .log(unanimous::log::FileLog::at(folder.path().join("log")))
        .resource(&resource)
        .config(short_intervals);
    let tm = tm.start().await.unwrap();
    let mut judge = Judge::new(account.clone()).await;
    at_every_poll(&format!("one phase, {db:?}"), 2, async |polls| {
        let before = judge.balance().await;
        let mut tx = tm.begin();
        let gtrid = tx.gtrid();
        let branch = tx.enlist(&resource).await.unwrap();
        A::add(branch, &account.table, 30).await.unwrap();
        let answer = turns.polled(polls, tx.commit()).await;
        eventually("it has ended", || async {
            tm.outcome(gtrid).await.unwrap() != TransactionOutcome::InDoubt
        })
        .await;
        let expected = if polls == 0 {
            (TransactionOutcome::RolledBack, before)
        } else {
            (TransactionOutcome::Committed, before + 30)
        };
        let outcome = tm.outcome(gtrid).await.unwrap();
        assert_eq!((outcome, judge.balance().await), expected, "{polls} polls");
        let is_done = answer.is_some();
        answer.map(Result::unwrap);
        is_done
    })
    .await;
    tm.shutdown().await.unwrap();
    judge.end().await;
}
