//! A member: what an instance of an application does. Everything an application of one's own would
//! do is in `Bank`; the gate is there to stop it at a place that the story wants.
//!
//! What it says on standard output is for the narrator; see [`tag`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use unanimous::log::TableLog;
use unanimous::mysql::Mysql;
use unanimous::mysql::prelude::Queryable;
use unanimous::postgres::Postgres;
use unanimous::{BoxError, CommitError, Point, Probe, Transaction, TransactionManager};

use crate::{ACCOUNTS, Result, address, lines_of, tag};

struct Bank {
    name: String,
    tm: TransactionManager,
    checking: Postgres,
    savings: Mysql,
    gate: Arc<Gate>,
}

impl Bank {
    async fn open(name: &str, home: &str) -> Result<Arc<Self>> {
        let checking =
            Postgres::builder("shared-checking", address("UNANIMOUS_PG_URL")?).build()?;
        let savings = Mysql::builder("shared-savings", address("UNANIMOUS_MYSQL_URL")?).build()?;
        let log = match home {
            "mysql" => TableLog::on(&savings),
            _ => TableLog::on(&checking),
        };
        let gate = Arc::new(Gate::default());
        let tm = TransactionManager::builder()
            // Not so patient as the default, 10 s: the story is to be short.
            .log(log.label(name).suspect_after(Duration::from_secs(2)))
            .resource(&checking)
            .resource(&savings)
            .probe(gate.clone())
            .start()
            .await?;
        let name = name.to_owned();
        Ok(Arc::new(Self {
            name,
            tm,
            checking,
            savings,
            gate,
        }))
    }

    /// Moves money, and notes the transaction's name in both databases.
    async fn change(&self, tx: &mut Transaction, account: &str, amount: i64) -> Result<()> {
        let gtrid = tx.gtrid().to_string();
        let account = format!("{}{account}", self.name);
        let (pg, my) = tx.enlist((&self.checking, &self.savings)).await?;
        let pay = "UPDATE shared_log_checking SET balance = balance - $1 WHERE account = $2";
        pg.execute(pay, &[&amount, &account]).await?;
        pg.execute("INSERT INTO shared_log_paid VALUES ($1)", &[&gtrid])
            .await?;
        let book = "UPDATE shared_log_savings SET balance = balance + ? WHERE account = ?";
        my.exec_drop(book, (amount, account)).await?;
        my.exec_drop("INSERT INTO shared_log_booked VALUES (?)", (gtrid,))
            .await?;
        Ok(())
    }

    /// Transfers until told to stop; answers how many were committed.
    async fn move_money(self: Arc<Self>, stop: Arc<AtomicBool>) -> u32 {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            let amount = fastrand::i64(-9..=9);
            let bank = &self;
            let work = async |mut tx: Transaction| {
                bank.change(&mut tx, "", amount).await?;
                tx.commit().await?;
                Ok::<_, BoxError>(())
            };
            match self.tm.retry(work).await {
                Ok(()) => count += 1,
                Err(error) => say(&format!("a transfer did not go through: {error}")),
            }
            sleep(Duration::from_millis(20)).await;
        }
        count
    }

    /// A transfer whose commit stands still at the gate.
    async fn hold(self: Arc<Self>, hold: Hold) -> Result<()> {
        let mut tx = self.tm.begin();
        say(&format!("{}{}", tag::GTRID, tx.gtrid()));
        self.change(&mut tx, hold.account(), 10).await?;
        self.gate.shut(hold);
        tokio::spawn(async move {
            match tx.commit().await {
                Ok(_) => say(tag::COMMITTED),
                Err(CommitError::RolledBack { cause, .. }) => {
                    say(&format!("{}: {cause}", tag::ROLLED_BACK));
                }
                Err(error) => say(&format!("commit answers: {error}")),
            }
        });
        Ok(())
    }

    fn say_epoch(&self) {
        let epoch = self.tm.begin().gtrid().opening.epoch;
        say(&format!("{}{epoch}", tag::JOINED));
    }
}

/// Where a commit can be made to stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The others are prepared; the decision is not recorded.
    Undecided,
    /// The decision is recorded; nobody who is prepared has been told.
    Decided,
}

impl Hold {
    const fn account(self) -> &'static str {
        match self {
            Self::Decided => ACCOUNTS[1],
            Self::Undecided => ACCOUNTS[2],
        }
    }

    fn is_at(self, point: &Point) -> bool {
        match self {
            Self::Decided => matches!(point, Point::BeforeCommit(_)),
            Self::Undecided => matches!(point, Point::BeforeDecide | Point::BeforeLast(_)),
        }
    }
}

/// Stops the next commit that comes by at the place that it was shut at.
#[derive(Default)]
struct Gate {
    hold: Mutex<Option<Hold>>,
    open: Notify,
}

impl Gate {
    fn shut(&self, hold: Hold) {
        *self.hold.lock().expect("nobody panics with it") = Some(hold);
    }

    fn stops(&self, point: &Point) -> Option<Hold> {
        let mut hold = self.hold.lock().expect("nobody panics with it");
        hold.take_if(|hold| hold.is_at(point))
    }
}

#[async_trait]
impl Probe for Gate {
    async fn reached(&self, point: Point) {
        if let Some(hold) = self.stops(&point) {
            let how = match hold {
                Hold::Undecided => "the others are prepared, nothing is decided",
                Hold::Decided => "the decision is recorded, the others do not know it yet",
            };
            say(&format!("{}{how}", tag::HELD));
            self.open.notified().await;
        }
    }
}

fn say(line: &str) {
    println!("{line}");
}

/// Does what the narrator says, a word a line.
pub(crate) async fn run(name: &str, home: &str) -> Result<()> {
    let output = tracing_subscriber::fmt().without_time().with_target(false);
    output.with_max_level(tracing::Level::WARN).init();
    let bank = Bank::open(name, home).await?;
    bank.say_epoch();
    let mut traffic: Option<(Arc<AtomicBool>, JoinHandle<u32>)> = None;
    let mut words = lines_of(io::stdin(), |_| {});
    while let Some(word) = words.recv().await {
        match word.as_str() {
            "move" => {
                let stop = Arc::new(AtomicBool::new(false));
                let moving = tokio::spawn(bank.clone().move_money(stop.clone()));
                traffic = Some((stop, moving));
            }
            "rest" => {
                if let Some((stop, moving)) = traffic.take() {
                    stop.store(true, Ordering::Relaxed);
                    say(&format!("{}{} transfers", tag::RESTS, moving.await?));
                }
            }
            "hold decided" => bank.clone().hold(Hold::Decided).await?,
            "hold undecided" => bank.clone().hold(Hold::Undecided).await?,
            "go on" => bank.gate.open.notify_waiters(),
            "epoch" => bank.say_epoch(),
            "end" => return Ok(bank.tm.shutdown().await?),
            other => return Err(format!("nobody has taught me {other:?}").into()),
        }
    }
    // The narrator is gone, and nobody would ever let this process go on.
    Ok(())
}
