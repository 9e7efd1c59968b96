//! An application of the soak: this test program, run again with a plan in its environment. Orders
//! come on its standard input; what it prints is for the soak.

use std::collections::VecDeque;
use std::fmt;
use std::io::BufRead;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use unanimous::log::{FileLog, TableLog};
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{Config, Gtrid, TransactionManager, TransactionManagerBuilder, TransactionOutcome};

use super::history::{Claim, Writer};
use super::transfer::{Bank, Transfer};
use super::{SERVERS, WORKERS};
use crate::databases::Place;
use crate::support::{Bank as _, settled_files};

/// The variable with the [`Plan`].
pub(super) const PLAN: &str = "UNANIMOUS_SOAK_APPLICATION";
/// What its lines begin with.
pub(super) const NOTE: &str = "soak:";
/// Numbers that one life of an application may use.
pub(super) const IDS_OF_A_LIFE: u64 = 1_000_000;
/// How long a transaction may be in doubt after everything has been repaired.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// What one life of an application is told.
pub(super) struct Plan {
    /// Numbers from here on are its own.
    pub(super) first_id: u64,
    /// The round that goes on.
    pub(super) round: u32,
    pub(super) log: PathBuf,
    pub(super) history: PathBuf,
    /// Of the table that holds the log, if one does.
    pub(super) table: Option<Place>,
    pub(super) urls: Vec<String>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (log, history) = (self.log.display(), self.history.display());
        let (first_id, round, urls) = (self.first_id, self.round, self.urls.join("|"));
        let table = match &self.table {
            None => String::new(),
            Some(Place { url, is_postgres }) => format!("{is_postgres} {url}"),
        };
        write!(f, "{first_id}|{round}|{log}|{history}|{table}|{urls}")
    }
}

impl FromStr for Plan {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split('|').collect();
        let [first_id, round, log, history, table, urls @ ..] = &words[..] else {
            return Err(());
        };
        Ok(Self {
            first_id: first_id.parse().map_err(|_| ())?,
            round: round.parse().map_err(|_| ())?,
            log: log.into(),
            history: history.into(),
            table: table.split_once(' ').map(|(is_postgres, url)| Place {
                url: url.to_owned(),
                is_postgres: is_postgres == "true",
            }),
            urls: urls.iter().map(|&url| url.to_owned()).collect(),
        })
    }
}

/// What an application is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Transactions on the lists of this round.
    Run(u32),
    /// None, and every outcome is to be known.
    Rest,
    End,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(round) => write!(f, "{round}"),
            Self::Rest => f.write_str("rest"),
            Self::End => f.write_str("end"),
        }
    }
}

fn order_of(line: &str) -> Order {
    match line {
        "rest" => Order::Rest,
        "end" => Order::End,
        round => Order::Run(round.parse().unwrap()),
    }
}

struct App {
    tm: TransactionManager,
    banks: Vec<Bank>,
    history: Writer,
    next_id: AtomicU64,
    /// One for each worker that is at work.
    at_work: Semaphore,
    /// Whose outcome the application was not told.
    unknown: Mutex<VecDeque<(u64, Gtrid)>>,
}

/// Not a test of its own: see the module.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn application() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let files = settled_files(usize::MAX).await;
    let plan: Plan = plan.parse().unwrap();
    let mut orders = take_orders(plan.round);
    let app = Arc::new(start(&plan).await);
    println!("{NOTE}started");
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(work(Arc::clone(&app), orders.clone())))
        .collect();
    loop {
        let order = *orders.borrow_and_update();
        match order {
            Order::Run(_) => {}
            Order::Rest => {
                let _everyone = app.at_work.acquire_many(WORKERS).await.unwrap();
                app.settle().await;
                println!("{NOTE}resting");
            }
            Order::End => break,
        }
        if orders.changed().await.is_err() {
            break;
        }
    }
    for worker in workers {
        worker.await.unwrap();
    }
    app.settle().await;
    let closed = app.tm.shutdown().await;
    drop(app);
    println!(
        "{NOTE}ended {}",
        settled_files(files).await.saturating_sub(files)
    );
    match closed {
        Ok(()) => {}
        // The table's server may be away: then the others find out that this one is gone.
        Err(error) if plan.table.is_some() => eprintln!("{error}"),
        Err(error) => panic!("{error}"),
    }
}

/// Starts until it succeeds: what an application's supervisor does.
async fn start(plan: &Plan) -> App {
    let bank = |(index, url): (usize, &String)| {
        let name = format!("b{index}");
        if SERVERS[index].is_postgres() {
            Bank::Postgres(Postgres::connect(&name, url))
        } else {
            Bank::Mysql(Mysql::connect(&name, url))
        }
    };
    let banks: Vec<Bank> = plan.urls.iter().enumerate().map(bank).collect();
    let tm = loop {
        let mut builder = builder(plan);
        for bank in &banks {
            builder = match bank {
                Bank::Postgres(bank) => builder.resource(bank),
                Bank::Mysql(bank) => builder.resource(bank),
            };
        }
        match builder.config(set_limits).start().await {
            Ok(tm) => break tm,
            Err(error) => {
                eprintln!("the application does not start yet: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    App {
        tm,
        banks,
        history: Writer::at(&plan.history),
        next_id: AtomicU64::new(plan.first_id),
        at_work: Semaphore::new(WORKERS as usize),
        unknown: Mutex::default(),
    }
}

/// With the log of the plan.
fn builder(plan: &Plan) -> TransactionManagerBuilder {
    let builder = TransactionManager::builder();
    let is_even = plan.first_id.is_multiple_of(2 * IDS_OF_A_LIFE);
    let Some(place) = &plan.table else {
        let home = FileLog::at(&plan.log);
        // Nothing may rest on what is completed.
        return builder.log(if is_even {
            home.retain_completed(0)
        } else {
            home
        });
    };
    let home = if place.is_postgres {
        TableLog::on(&Postgres::connect("log", &place.url))
    } else {
        TableLog::on(&Mysql::connect("log", &place.url))
    };
    // Every pause of some seconds is a wrong suspicion.
    let home = home.suspect_after(Duration::from_secs(2));
    builder.log(home.last_resource(is_even))
}

fn set_limits(config: &mut Config) {
    config.deadline = Duration::from_secs(10);
    config.lock_timeout = Duration::from_secs(1);
    config.open_timeout = Duration::from_secs(2);
    config.prepare_timeout = Duration::from_secs(2);
    config.decide_timeout = Duration::from_secs(2);
    config.finish_timeout = Duration::from_secs(2);
    config.recovery_timeout = Duration::from_secs(5);
    config.recovery_interval = Duration::from_millis(200);
    config.recovery_interval_max = Duration::from_secs(2);
}

/// Every worker sees the latest order. The end of the input is one to end.
fn take_orders(round: u32) -> watch::Receiver<Order> {
    let (sender, orders) = watch::channel(Order::Run(round));
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            sender.send_replace(order_of(&line));
        }
        sender.send_replace(Order::End);
    });
    orders
}

async fn work(app: Arc<App>, mut orders: watch::Receiver<Order>) {
    loop {
        let order = *orders.borrow_and_update();
        let round = match order {
            Order::Run(round) => round,
            Order::Rest => {
                if orders.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Order::End => return,
        };
        let _at_work = app.at_work.acquire().await.unwrap();
        if *orders.borrow() == order {
            app.transact(round).await;
        }
    }
}

impl App {
    async fn transact(&self, round: u32) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let transfer = Transfer::random(id, round);
        let (gtrid, claim) = transfer.run(&self.tm, &self.banks, &self.history).await;
        if claim == Claim::Unknown {
            self.unknown.lock().unwrap().push_back((id, gtrid));
        }
        if claim != Claim::Committed {
            // While a server is away, nothing succeeds at once.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Asks what became of everything that was not told.
    async fn settle(&self) {
        let begin = Instant::now();
        let unknown = std::mem::take(&mut *self.unknown.lock().unwrap());
        for (id, gtrid) in unknown {
            let mut outcome = self.tm.outcome(gtrid).await.ok();
            while matches!(outcome, None | Some(TransactionOutcome::InDoubt))
                && begin.elapsed() < PATIENCE
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
                outcome = self.tm.outcome(gtrid).await.ok();
            }
            let known = outcome.filter(|outcome| *outcome != TransactionOutcome::InDoubt);
            self.history.outcome(id, known.as_ref());
        }
    }
}
