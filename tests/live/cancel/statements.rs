//! Statements of the application whose futures, streams and copies are dropped half-way, and a
//! commit that is tried all the same: with all of the statement or nothing of it, and never with
//! one database's part alone.

use std::iter::empty;
use std::pin::pin;

use async_trait::async_trait;
use futures_util::{SinkExt, TryStreamExt};
use unanimous::mysql::mysql_async::{self, prelude::Queryable};
use unanimous::mysql::{Mysql, MysqlBranch};
use unanimous::postgres::{PgBranch, Postgres, bytes::Bytes, tokio_postgres};
use unanimous::{BoxError, CommitError, TransactionManager};

use super::transaction::close;
use super::{Bench, Narrow, Turns, at_every_poll};
use crate::support::Db;

/// What each statement adds: three rows of one.
const ADDED: i64 = 3;

/// A resource whose statements are dropped.
#[async_trait]
trait Statements: Narrow {
    /// The ways of a statement: methods of the branch.
    const WAYS: &'static [&'static str];

    /// Adds rows with these numbers in this way. What the method hands out is read in part only.
    async fn add_rows(
        branch: &mut Self::Branch,
        way: &str,
        table: &str,
        ids: [i64; 3],
    ) -> Result<(), BoxError>;
}

fn insert(table: &str, [a, b, c]: [i64; 3]) -> String {
    format!("INSERT INTO {table} VALUES ({a}, 1), ({b}, 1), ({c}, 1)")
}

#[async_trait]
impl Statements for Postgres {
    const WAYS: &'static [&'static str] = &[
        "execute",
        "query",
        "batch_execute",
        "simple_query",
        "prepare",
        "query_raw",
        "query_typed_raw",
        "simple_query_raw",
        "copy_in",
        "copy_out",
        "cancel",
        "cancel_query",
        "cancel_query_raw",
    ];

    async fn add_rows(
        branch: &mut PgBranch,
        way: &str,
        table: &str,
        ids: [i64; 3],
    ) -> Result<(), BoxError> {
        let insert = insert(table, ids);
        let returning = format!("{insert} RETURNING id");
        match way {
            "execute" => drop(branch.execute(&insert, &[]).await?),
            "query" => drop(branch.query(&returning, &[]).await?),
            "batch_execute" => branch.batch_execute(&insert).await?,
            "simple_query" => drop(branch.simple_query(&returning).await?),
            "prepare" => {
                let prepared = branch.prepare(&insert).await?;
                branch.execute(&prepared, &[]).await?;
            }
            "query_raw" => {
                let rows = branch.query_raw(&returning, empty::<i32>()).await?;
                pin!(rows).try_next().await?;
            }
            "query_typed_raw" => {
                let params = empty::<(i32, tokio_postgres::types::Type)>();
                let rows = branch.query_typed_raw(&returning, params).await?;
                pin!(rows).try_next().await?;
            }
            "simple_query_raw" => {
                let messages = branch.simple_query_raw(&returning).await?;
                pin!(messages).try_next().await?;
            }
            "copy_in" => copy_in(branch, table, ids).await?,
            "copy_out" => {
                branch.execute(&insert, &[]).await?;
                let text = format!("COPY {table} TO STDOUT");
                pin!(branch.copy_out(&text).await?).try_next().await?;
            }
            _ => cancel(branch, way, &insert).await?,
        }
        Ok(())
    }
}

async fn copy_in(branch: &PgBranch, table: &str, ids: [i64; 3]) -> Result<(), BoxError> {
    let text = format!("COPY {table} FROM STDIN");
    let mut sink = branch.copy_in::<_, Bytes>(&text).await?;
    for id in ids {
        sink.send(Bytes::from(format!("{id}\t1\n"))).await?;
    }
    assert_eq!(sink.finish().await?, 3);
    Ok(())
}

/// The request to cancel is sent when nothing runs: whatever it hits, nobody else gets the session.
async fn cancel(branch: &PgBranch, way: &str, insert: &str) -> Result<(), BoxError> {
    branch.execute(insert, &[]).await?;
    match way {
        "cancel" => branch.cancel_token().cancel().await?,
        "cancel_query" => branch.cancel_query(tokio_postgres::NoTls).await?,
        "cancel_query_raw" => {
            let (client, mut server) = tokio::io::duplex(64);
            let sent = branch.cancel_query_raw(client, tokio_postgres::NoTls);
            let read = tokio::io::AsyncReadExt::read_u32(&mut server);
            let (sent, read) = tokio::join!(sent, read);
            sent?;
            assert_eq!(read?, 16, "the length of a request to cancel");
        }
        other => panic!("{other}"),
    }
    Ok(())
}

#[async_trait]
impl Statements for Mysql {
    const WAYS: &'static [&'static str] = &[
        "ping",
        "query_iter",
        "prep",
        "close",
        "exec_iter",
        "query",
        "query_first",
        "query_map",
        "query_fold",
        "query_drop",
        "exec_batch",
        "exec",
        "exec_first",
        "exec_map",
        "exec_fold",
        "exec_drop",
        "query_stream",
        "exec_stream",
    ];

    async fn add_rows(
        branch: &mut MysqlBranch,
        way: &str,
        table: &str,
        ids: [i64; 3],
    ) -> Result<(), BoxError> {
        let insert = insert(table, ids);
        let both = format!("{insert}; SELECT id FROM {table}");
        let select = format!("SELECT id FROM {table}");
        if way.starts_with("exec") && way != "exec_batch" {
            branch.query_drop(&insert).await?;
        }
        match way {
            "query_drop" => branch.query_drop(insert).await?,
            "query" => drop(branch.query::<i64, _>(insert).await?),
            "query_first" => drop(branch.query_first::<i64, _>(insert).await?),
            "query_map" => drop(branch.query_map(insert, |id: i64| id).await?),
            "query_fold" => drop(
                branch
                    .query_fold(insert, 0, |n: i64, id: i64| n + id)
                    .await?,
            ),
            "query_iter" => {
                let mut result = branch.query_iter(both).await?;
                result.collect::<i64>().await?;
                result.next().await?;
            }
            "query_stream" => {
                branch.query_drop(insert).await?;
                branch
                    .query_stream::<i64, _>(select)
                    .await?
                    .try_next()
                    .await?;
            }
            "exec" => drop(branch.exec::<i64, _, _>(select, ()).await?),
            "exec_first" => drop(branch.exec_first::<i64, _, _>(select, ()).await?),
            "exec_map" => drop(branch.exec_map(select, (), |id: i64| id).await?),
            "exec_fold" => {
                let sum = branch.exec_fold(select, (), 0, |n: i64, id: i64| n + id);
                assert!(sum.await? > 0);
            }
            "exec_drop" => branch.exec_drop(select, ()).await?,
            "exec_iter" => {
                let mut result = branch.exec_iter(select, ()).await?;
                result.next().await?;
            }
            "exec_stream" => {
                let mut rows = branch.exec_stream::<i64, _, _>(select, ()).await?;
                rows.try_next().await?;
            }
            "exec_batch" => {
                let one = format!("INSERT INTO {table} VALUES (?, 1)");
                branch.exec_batch(one, ids.map(|id| (id,))).await?;
            }
            _ => prepared(branch, way, insert).await?,
        }
        Ok(())
    }
}

async fn prepared(branch: &mut MysqlBranch, way: &str, insert: String) -> mysql_async::Result<()> {
    match way {
        "ping" => {
            branch.query_drop(insert).await?;
            branch.ping().await
        }
        "prep" | "close" => {
            let statement = branch.prep(insert).await?;
            branch.exec_drop(&statement, ()).await?;
            if way == "close" {
                branch.close(statement).await?;
            }
            Ok(())
        }
        other => panic!("{other}"),
    }
}

macro_rules! on_servers {
    ($($test:ident: $kind:ident on $pair:expr;)+) => {
        $(
            #[test]
            fn $test() {
                Turns::run(async |turns| {
                    let bench = Bench::<$kind, Mysql>::new($pair, stringify!($test)).await;
                    drop_statements(&turns, bench).await;
                });
            }
        )+
    };
}

on_servers! {
    i7_statements_of_postgres: Postgres on (Db::PostgresNewest, Db::Mysql);
    i7_statements_of_mysql: Mysql on (Db::Mysql, Db::Mariadb);
    i7_statements_of_mariadb: Mysql on (Db::Mariadb, Db::Mysql);
}

async fn drop_statements<A: Statements, B: Narrow>(turns: &Turns, mut bench: Bench<A, B>) {
    let tm = bench.start().await;
    let mut id = 10;
    for way in A::WAYS {
        at_every_poll(way, 2, async |polls| {
            id += 10;
            let ids = [id, id + 1, id + 2];
            drop_statement(turns, &mut bench, &tm, way, ids, polls).await
        })
        .await;
    }
    close(bench, tm).await;
}

async fn drop_statement<A: Statements, B: Narrow>(
    turns: &Turns,
    bench: &mut Bench<A, B>,
    tm: &TransactionManager,
    way: &str,
    ids: [i64; 3],
    polls: usize,
) -> bool {
    let before = bench.totals().await;
    let mut tx = bench.transfer.begin(tm).await.unwrap();
    let gtrid = tx.gtrid();
    let branch = tx.enlist(&bench.transfer.from).await.unwrap();
    let table = &bench.transfer.from_table;
    let added = turns
        .polled(polls, A::add_rows(branch, way, table, ids))
        .await;
    let is_done = added.is_some();
    added.unwrap_or(Ok(())).unwrap();
    let answer = tx.commit().await;
    let after = bench.totals().await;
    let (moved, to) = (after[0] - before[0], after[1] - before[1]);
    let context = format!("{way}, {polls} polls: {answer:?}, {moved} and {to}");
    match answer {
        Ok(_) if is_done => assert_eq!((moved, to), (ADDED - 30, 30), "{context}"),
        // All of the statement, or nothing of it.
        Ok(_) => assert!(to == 30 && [-30, ADDED - 30].contains(&moved), "{context}"),
        Err(CommitError::RolledBack { .. }) => {
            assert!((moved, to) == (0, 0) && !is_done, "{context}");
        }
        Err(_) => panic!("{context}"),
    }
    bench.becomes_resolved(gtrid).await;
    is_done
}
