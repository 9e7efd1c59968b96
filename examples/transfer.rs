//! A whole program that commits across PostgreSQL and MySQL (or MariaDB):
//!
//! ```text
//! UNANIMOUS_PG_URL=postgres://… UNANIMOUS_MYSQL_URL=mysql://… cargo run --example transfer
//! ```
//! An order is paid in one database and booked in the other. The decision log lies in
//! `./unanimous-log`, or where the first argument says.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::mysql::mysql_async::prelude::Queryable;
use unanimous::mysql::mysql_async::{Conn, Opts, OptsBuilder};
use unanimous::postgres::Postgres;
use unanimous::postgres::tokio_postgres::{self, Client, NoTls};
use unanimous::{CommitError, TransactionManager};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PAY: &str = "INSERT INTO transfer_orders (id, paid) VALUES ($1, true)";
const BOOK: &str = "INSERT INTO transfer_ledger (order_id, amount) VALUES (?, ?)";

#[tokio::main]
async fn main() -> ExitCode {
    match transfer().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transfer: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn transfer() -> Result<()> {
    let pg_url = address("UNANIMOUS_PG_URL")?;
    let my_url = address("UNANIMOUS_MYSQL_URL")?;
    let log = env::args().nth(1);
    let log = log.unwrap_or_else(|| "./unanimous-log".to_owned());
    let pg_plain = connect_postgres(&pg_url).await?;
    let mut my_plain = connect_mysql(&my_url).await?;
    create_tables(&pg_plain, &mut my_plain).await?;

    let orders = Postgres::builder("orders", &pg_url).build()?;
    let ledger = Mysql::builder("ledger", &my_url).build()?;
    let tm = TransactionManager::builder()
        .log(FileLog::at(log))
        .resource(&orders)
        .resource(&ledger)
        .start()
        .await?;

    let (id, amount) = (new_id()?, 42_i64);
    let mut tx = tm.begin();
    let (pg, my) = tx.enlist((&orders, &ledger)).await?;
    // An error here drops the transaction, which rolls it back in both databases.
    pg.execute(PAY, &[&id]).await?;
    my.exec_drop(BOOK, (id, amount)).await?;
    let committed = tx
        .commit()
        .await
        .inspect_err(|error| eprintln!("{}", what_to_do(error)))?;
    println!("transaction {} is committed", committed.gtrid());

    show(&pg_plain, &mut my_plain, id, amount).await?;
    my_plain.disconnect().await?;
    tm.shutdown().await?;
    Ok(())
}

/// What the errors of a commit ask of the caller.
fn what_to_do(error: &CommitError) -> String {
    let gtrid = error.gtrid();
    match error {
        CommitError::RolledBack { .. } => "nothing has happened: try again".to_owned(),
        CommitError::Undetermined { .. } => {
            format!("do not try again, but ask for outcome({gtrid}) later")
        }
        CommitError::Heuristic { .. } => {
            format!("a branch of {gtrid} was ended by hand: a person has to look")
        }
        // Errors of later versions.
        _ => "do not try again before it is understood".to_owned(),
    }
}

/// What plain connections see in both databases.
async fn show(pg: &Client, my: &mut Conn, id: i64, amount: i64) -> Result<()> {
    let order = pg
        .query_opt("SELECT paid FROM transfer_orders WHERE id = $1", &[&id])
        .await?;
    let paid: Option<bool> = order.map(|row| row.get(0));
    let booked: Option<i64> = my
        .exec_first(
            "SELECT amount FROM transfer_ledger WHERE order_id = ?",
            (id,),
        )
        .await?;
    println!("PostgreSQL: order {id}: paid = {paid:?}");
    println!("MySQL:      order {id}: booked = {booked:?}");
    if paid == Some(true) && booked == Some(amount) {
        Ok(())
    } else {
        Err("the databases do not agree".into())
    }
}

async fn create_tables(pg: &Client, my: &mut Conn) -> Result<()> {
    let orders = "CREATE TABLE IF NOT EXISTS transfer_orders (id bigint PRIMARY KEY, paid bool)";
    pg.batch_execute(orders).await?;
    my.query_drop(
        "CREATE TABLE IF NOT EXISTS transfer_ledger (order_id BIGINT PRIMARY KEY, amount BIGINT)
         ENGINE = InnoDB",
    )
    .await?;
    Ok(())
}

/// An id that neither database has seen: the time, in microseconds.
fn new_id() -> Result<i64> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(time.as_micros())?)
}

fn address(variable: &str) -> Result<String> {
    Ok(env::var(variable).map_err(|_| format!("{variable} is not set: give the address"))?)
}

async fn connect_postgres(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn connect_mysql(url: &str) -> Result<Conn> {
    let opts = OptsBuilder::from_opts(Opts::from_url(url)?).prefer_socket(false);
    Ok(Conn::new(opts).await?)
}
