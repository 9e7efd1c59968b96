//! An order service that runs as many instances without a disk: each order in PostgreSQL and its
//! booking in MySQL (or MariaDB), or in neither, and the decision log in a table that all instances
//! share. `docker/order-service` has it in containers, `docs/kubernetes.md` in pods.
//!
//! ```text
//! export UNANIMOUS_PG_URL=postgres://… UNANIMOUS_MYSQL_URL=mysql://…
//! cargo run --example order_service serve 127.0.0.1:8080      # an instance; INSTANCE names it,
//!     # and SUSPECT_AFTER says after how many seconds of silence another one is taken for dead
//! cargo run --example order_service serve 127.0.0.1:8081      # another one
//! curl -X POST http://127.0.0.1:8080/orders/7
//! curl http://127.0.0.1:8081/orders/7
//! cargo run --example order_service health 127.0.0.1:8080     # exits with 0 if it is ready
//! ```
//! Without a word it starts two instances, kills one of them in the midst of its work, has the
//! other one take over, and checks both databases: that is how the project's tests run it.

mod client;
mod shop;
mod story;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use unanimous::{BoxError, CommitError};

use crate::shop::Shop;

type Result<T> = std::result::Result<T, BoxError>;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match words[..] {
        [] => story::tell().await,
        ["serve", address] => serve(address).await,
        ["health", address] => client::health(address).await,
        _ => Err("usage: order_service [serve ADDRESS | health ADDRESS]".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("order_service: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What every request needs.
struct Service {
    shop: Shop,
    is_stopping: AtomicBool,
}

async fn serve(address: &str) -> Result<()> {
    let output = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
    output.with_ansi(false).init();
    let shop = Shop::start().await?;
    println!("{}", shop.tm.start_report());
    let is_stopping = AtomicBool::new(false);
    let service = Arc::new(Service { shop, is_stopping });
    let router = Router::new()
        .route("/orders/{id}", post(order).get(look))
        .route("/live", get(async || "alive\n"))
        .route("/ready", get(ready))
        .with_state(service.clone());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router)
        .with_graceful_shutdown(told_to_stop(service.clone())?)
        .await?;
    // Waits for commits that are still on their way, and leaves the log: the others need not find
    // out that this instance is gone.
    service.shop.tm.shutdown().await?;
    println!("stopped, with nothing left behind");
    Ok(())
}

/// SIGTERM is what `docker stop` and Kubernetes send.
fn told_to_stop(service: Arc<Service>) -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        service.is_stopping.store(true, Ordering::Relaxed);
    })
}

/// Looks at this instance only: a database that is away is away for all instances, and taking all
/// of them out would not bring it back.
async fn ready(State(service): State<Arc<Service>>) -> (StatusCode, &'static str) {
    if service.is_stopping.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn order(State(service): State<Arc<Service>>, Path(id): Path<i64>) -> (StatusCode, String) {
    let Err(error) = service.shop.order(id).await else {
        return (StatusCode::CREATED, format!("order {id} is committed\n"));
    };
    match error.downcast_ref::<CommitError>() {
        // Something before commit failed, or commit rolled back: nothing has happened.
        None | Some(CommitError::RolledBack { .. }) => (
            StatusCode::CONFLICT,
            format!("nothing was ordered: {}\n", innermost(&*error)),
        ),
        // It may yet be committed. Any instance can be asked for the order, and asked again.
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

async fn look(State(service): State<Arc<Service>>, Path(id): Path<i64>) -> (StatusCode, String) {
    match service.shop.count(id).await {
        Ok((orders, bookings)) => (StatusCode::OK, format!("{orders} {bookings}\n")),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

/// Drivers keep the server's own words in the source of their error.
fn innermost<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> &'e (dyn std::error::Error + 'static) {
    error.source().map_or(error, innermost)
}
