//! Servers that others use hard, that answer half, or that have no room: nothing foreign is
//! touched, nothing hangs, and what fails says what to mend.
//!
//! Every server here is the test's own: a thousand prepared transactions, or a limit of four, would
//! disturb other tests.

mod connections;
mod crowd;
mod encodings;
mod names;
mod others;
mod pools;
mod slots;
mod torn;

use std::collections::BTreeSet;

use mysql_async::prelude::Queryable;
use xtask::servers::{Kind, Options, Server};

use crate::support::Account;

/// A server of the test's own.
async fn start(kind: Kind, args: &[&str]) -> Server {
    let options = Options::new().args(args.iter().copied());
    let started = tokio::task::spawn_blocking(move || Server::start(kind, &options));
    started.await.unwrap().unwrap()
}

/// Room for the prepared transactions of the others and for ours.
const fn room_for_them(kind: Kind) -> &'static [&'static str] {
    if kind.is_postgres() {
        &["-c", "max_prepared_transactions=1100"]
    } else {
        &[]
    }
}

fn create(table: &str) -> String {
    format!("CREATE TABLE {table} (id INT PRIMARY KEY)")
}

/// An empty table there.
async fn table_on(server: &Server, table: &str) -> Account {
    let account = Account {
        url: server.url(),
        table: table.to_owned(),
        is_postgres: server.kind().is_postgres(),
    };
    account.sql(&create(table)).await;
    account
}

/// What is in the table, as an independent client sees it.
async fn ids(account: &Account) -> BTreeSet<i64> {
    let sql = format!("SELECT id FROM {}", account.table);
    if account.is_postgres {
        let ask = move |client: &mut postgres::Client| client.query(&sql, &[]).unwrap();
        let rows = account.postgres(ask).await;
        rows.iter()
            .map(|row| i64::from(row.get::<_, i32>(0)))
            .collect()
    } else {
        let ids: Vec<i64> = account.mysql().await.query(sql).await.unwrap();
        ids.into_iter().collect()
    }
}
