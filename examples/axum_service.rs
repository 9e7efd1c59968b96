//! A web service that takes orders: each in PostgreSQL and its booking in MySQL (or MariaDB), or in
//! neither.
//!
//! ```text
//! UNANIMOUS_PG_URL=postgres://… UNANIMOUS_MYSQL_URL=mysql://… \
//!     cargo run --example axum_service -- LOG-FOLDER 127.0.0.1:8080
//! curl -X POST http://127.0.0.1:8080/orders/7
//! ```
//! Without an address it listens on a free port, orders from itself, checks both databases, and
//! stops: that is how the project's tests run it.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::mysql::prelude::Queryable;
use unanimous::postgres::Postgres;
use unanimous::{BoxError, CommitError, TransactionManager};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let log = args.next().unwrap_or_else(|| "./unanimous-log".to_owned());
    let served = match args.next() {
        Some(address) => serve(&log, &address).await,
        None => try_it(&log).await,
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axum_service: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What every request needs.
struct Shop {
    tm: TransactionManager,
    orders: Postgres,
    ledger: Mysql,
}

impl Shop {
    async fn start(log: &str) -> Result<Arc<Self>> {
        let address =
            |name: &str| env::var(name).map_err(|_| format!("{name} is not set: give the address"));
        let orders = Postgres::builder("orders", address("UNANIMOUS_PG_URL")?).build()?;
        let ledger = Mysql::builder("ledger", address("UNANIMOUS_MYSQL_URL")?).build()?;
        let tm = TransactionManager::builder()
            .log(FileLog::at(log))
            .resource(&orders)
            .resource(&ledger)
            .start()
            .await?;
        let shop = Self { tm, orders, ledger };
        shop.create_tables().await?;
        Ok(Arc::new(shop))
    }

    /// One database at a time: MySQL allows no DDL in an XA transaction, so this has its own
    /// connection there.
    async fn create_tables(&self) -> Result<()> {
        use unanimous::mysql::mysql_async::{Conn, Opts, OptsBuilder};
        let mut tx = self.tm.begin();
        let orders = tx.enlist(&self.orders).await?;
        let table = "CREATE TABLE IF NOT EXISTS web_orders (id bigint PRIMARY KEY)";
        orders.batch_execute(table).await?;
        tx.commit().await?;
        let opts = Opts::from_url(&env::var("UNANIMOUS_MYSQL_URL")?)?;
        let mut conn = Conn::new(OptsBuilder::from_opts(opts).prefer_socket(false)).await?;
        let table = "CREATE TABLE IF NOT EXISTS web_ledger (order_id BIGINT PRIMARY KEY)
                     ENGINE = InnoDB";
        conn.query_drop(table).await?;
        Ok(conn.disconnect().await?)
    }

    /// Both rows, or neither. Conflicts are tried again.
    async fn order(&self, id: i64) -> std::result::Result<(), BoxError> {
        let (orders, ledger) = (&self.orders, &self.ledger);
        let work = async |mut tx: unanimous::Transaction| {
            let (pg, my) = tx.enlist((orders, ledger)).await?;
            pg.execute("INSERT INTO web_orders VALUES ($1)", &[&id])
                .await?;
            my.exec_drop("INSERT INTO web_ledger VALUES (?)", (id,))
                .await?;
            tx.commit().await?;
            Ok::<_, BoxError>(())
        };
        self.tm.retry(work).await
    }

    /// How many rows there are of this order, in both databases.
    async fn count(&self, id: i64) -> Result<(i64, i64)> {
        let mut tx = self.tm.begin();
        let (pg, my) = tx.enlist_read_only((&self.orders, &self.ledger)).await?;
        let orders = "SELECT count(*) FROM web_orders WHERE id = $1";
        let orders = pg.query_one(orders, &[&id]).await?.get(0);
        let ledger = "SELECT count(*) FROM web_ledger WHERE order_id = ?";
        let ledger: Option<i64> = my.exec_first(ledger, (id,)).await?;
        tx.commit().await?;
        Ok((orders, ledger.unwrap_or_default()))
    }
}

async fn order(State(shop): State<Arc<Shop>>, Path(id): Path<i64>) -> (StatusCode, String) {
    match shop.order(id).await {
        Ok(()) => (StatusCode::CREATED, format!("order {id} is committed\n")),
        Err(error) => answer_to(&*error),
    }
}

/// What a client may be told. Whether it happened is a question of its own.
fn answer_to(error: &(dyn Error + Send + Sync + 'static)) -> (StatusCode, String) {
    match error.downcast_ref::<CommitError>() {
        // Something before commit failed, so nothing has happened.
        None | Some(CommitError::RolledBack { .. }) => (
            StatusCode::CONFLICT,
            format!("nothing was ordered: {}\n", innermost(error)),
        ),
        // It may yet be committed: neither a success nor a failure.
        Some(CommitError::Undetermined { gtrid, .. }) => (
            StatusCode::ACCEPTED,
            format!("ask for transaction {gtrid} later\n"),
        ),
        // A person has to look.
        Some(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "please call us\n".to_owned(),
        ),
    }
}

/// Drivers keep the server's own words in the source of their error.
fn innermost<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    error.source().map_or(error, innermost)
}

fn router(shop: Arc<Shop>) -> Router {
    Router::new()
        .route("/orders/{id}", post(order))
        .with_state(shop)
}

async fn serve(log: &str, address: &str) -> Result<()> {
    let shop = Shop::start(log).await?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let server = axum::serve(listener, router(shop.clone()));
    let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    server.with_graceful_shutdown(ctrl_c).await?;
    // Waits for commits that are still on their way, and lets go of the log.
    Ok(shop.tm.shutdown().await?)
}

/// The same service, asked twice for one order by a client of its own.
async fn try_it(log: &str) -> Result<()> {
    let shop = Shop::start(log).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router(shop.clone()));
    let server = server.with_graceful_shutdown(async move {
        // Sent or dropped: the end either way.
        let _ = stopped.await;
    });
    let server = tokio::spawn(async move { server.await });

    let time = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let id = i64::try_from(time.as_micros())?;
    let request = format!(
        "POST /orders/{id} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    for status in ["201 Created", "409 Conflict"] {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        client.read_to_string(&mut response).await?;
        println!("{}", response.lines().last().unwrap_or_default());
        if !response.starts_with(&format!("HTTP/1.1 {status}")) {
            return Err(format!("expected {status}, got {response}").into());
        }
        let count = shop.count(id).await?;
        if count != (1, 1) {
            return Err(format!("the databases do not agree: {count:?}").into());
        }
    }
    let _ = stop.send(());
    server.await??;
    shop.tm.shutdown().await?;
    Ok(())
}
