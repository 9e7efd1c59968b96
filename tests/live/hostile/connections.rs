//! I6: no connection left at the server, and pools that are used up. Whoever gets none is told why
//! and what to raise; the other databases go on; recovery waits, says so, and ends everything when
//! connections come free. (The limits of an account, 1203 and 1226: `adapters/mysql`.)

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use unanimous::ports::BranchErrorKind;
use unanimous::{EnlistError, TransactionManager};
use xtask::servers::Kind;

use super::crowd::{DECIDED, leave_in_doubt};
use super::others::listed;
use super::{create, ids, start, table_on};
use crate::support::{Account, Bank, Db, Transfer, eventually, table};
use crate::with_banks;

/// Only so that what hangs ends the test.
const LIMIT: Duration = Duration::from_secs(60);

/// Connections of others.
enum Held {
    Postgres(Vec<postgres::Client>),
    Mysql(Vec<mysql_async::Conn>),
}

impl Held {
    /// All that the server lets this account have.
    async fn all_of(account: &Account) -> Self {
        let url = account.url.clone();
        if account.is_postgres {
            let connect = move || {
                let connect = |_| postgres::Client::connect(&url, postgres::NoTls).ok();
                (0..1000).map_while(connect).collect()
            };
            return Self::Postgres(tokio::task::spawn_blocking(connect).await.unwrap());
        }
        let mut held = Vec::new();
        loop {
            let opts = mysql_async::Opts::from_url(&url).unwrap();
            let opts = mysql_async::OptsBuilder::from_opts(opts).prefer_socket(false);
            match mysql_async::Conn::new(opts).await {
                Ok(conn) => held.push(conn),
                Err(_) => return Self::Mysql(held),
            }
        }
    }

    async fn release(self) {
        match self {
            Self::Postgres(clients) => {
                tokio::task::spawn_blocking(|| drop(clients)).await.unwrap();
            }
            Self::Mysql(conns) => {
                for conn in conns {
                    conn.disconnect().await.unwrap();
                }
            }
        }
    }
}

/// The server's own words, and what to raise.
fn says_what_to_raise(text: &str) {
    let server = text.contains("53300") || text.contains("Too many connections");
    assert!(server && text.contains("raise max_connections"), "{text}");
}

async fn insert<R: Bank>(branch: &mut R::Branch, table: &str, id: usize) {
    let insert = format!("INSERT INTO {table} VALUES ({id})");
    R::run(branch, &insert).await.unwrap();
}

/// One transaction on both sides, or why there was no connection.
async fn both<A: Bank, B: Bank>(
    transfer: &Transfer<A, B>,
    tm: &TransactionManager,
    id: usize,
) -> Result<(), EnlistError> {
    let mut tx = tm.begin();
    let (from, to) = tx.enlist((&transfer.from, &transfer.to)).await?;
    insert::<A>(from, &transfer.from_table, id).await;
    insert::<B>(to, &transfer.to_table, id).await;
    // Long enough for all to be there at once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    tx.commit().await.unwrap();
    Ok(())
}

/// `look` is the first side by the account of the administrator, for whom connections are reserved.
async fn without_connections<A: Bank, B: Bank>(from: &Account, to: &Account, look: &Account) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let gtrids = leave_in_doubt::<A, B>(from, to, &log, 0).await;
    let held = Held::all_of(from).await;
    let transfer = Transfer::<A, B>::new(from, to);
    let starting = transfer.builder(&log).start();
    let tm = timeout(LIMIT, starting).await.unwrap().unwrap();
    let report = timeout(LIMIT, tm.recover()).await.unwrap();
    assert!(!report.is_clean());
    says_what_to_raise(&report.to_string());
    let refused = timeout(LIMIT, both(&transfer, &tm, 100)).await.unwrap();
    let EnlistError::Branch(error) = refused.unwrap_err() else {
        panic!("not an error of the branch")
    };
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    says_what_to_raise(&error.to_string());
    // The other side is not delayed.
    let mut tx = tm.begin();
    let other = tx.enlist(&transfer.to).await.unwrap();
    insert::<B>(other, &transfer.to_table, 200).await;
    tx.commit().await.unwrap();
    held.release().await;
    eventually("ours are ended", || async {
        listed(look, &gtrids).await.0.is_empty()
    })
    .await;
    let mut committed: BTreeSet<i64> = (0..DECIDED as i64).collect();
    assert_eq!(ids(look).await, committed);
    more_workers_than_connections(&transfer, &tm, &mut committed).await;
    tm.shutdown().await.unwrap();
    drop((tm, transfer));
    assert_eq!(ids(look).await, committed);
    committed.insert(200);
    assert_eq!(ids(to).await, committed);
    assert!(listed(look, &[]).await.1.is_empty());
}

/// The pool would let 16 connections be open, and the server does not.
async fn more_workers_than_connections<A: Bank, B: Bank>(
    transfer: &Transfer<A, B>,
    tm: &TransactionManager,
    committed: &mut BTreeSet<i64>,
) {
    let ids = 1000..1024;
    let works = ids.clone().map(|id| both(transfer, tm, id));
    let ended = timeout(LIMIT, join_all(works)).await.unwrap();
    let mut refused = 0;
    for (id, ended) in ids.zip(ended) {
        match ended {
            Ok(()) => drop(committed.insert(id as i64)),
            Err(error) => {
                says_what_to_raise(&error.to_string());
                refused += 1;
            }
        }
    }
    println!("{refused} of 24 were refused a connection");
    assert!((1..24).contains(&refused), "{refused}");
    eventually("nothing is left", || async {
        tm.recover().await.is_clean()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_server_without_connections_is_named_and_resolved_when_some_come_free() {
    for kind in [Kind::PostgresNewest, Kind::Mysql, Kind::Mariadb] {
        let (args, other) = if kind.is_postgres() {
            (&["-c", "max_connections=12"][..], Db::Mysql)
        } else {
            (&["--max-connections=12"][..], Db::PostgresNewest)
        };
        let server = start(kind, args).await;
        let name = table("connections");
        let from = table_on(&server, &name).await;
        let to = Account::at(other, &name);
        to.sql(&create(&name)).await;
        let look = Account {
            url: server.admin_url(),
            ..from.clone()
        };
        with_banks!((from, to), without_connections(&from, &to, &look));
        to.drop_table().await;
    }
}
