//! The application: moves money between two databases through Unanimous, and recovers when it
//! starts. Everything an application of one's own would do is in this file.
//!
//! What it says on standard output is for the narrator; see [`tag`].

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::runtime::Runtime;
use tokio::task::spawn_blocking;
use unanimous::log::FileLog;
use unanimous::mysql::mysql_async::prelude::Queryable;
use unanimous::mysql::{Mysql, MysqlBranch};
use unanimous::postgres::{PgBranch, Postgres};
use unanimous::{CommitError, Gtrid, Point, Probe, RecoveryReport, TransactionManager};

use crate::task::{
    CHECKING, MYSQL, OWNER, POSTGRES, ROLLED_BACK, SAVINGS, Task, Transfer, Wait, Work, tag,
};
use crate::{Result, address};

/// How long anything may take: the machine may be slow, and the narrator takes its time.
const LIMIT: Duration = Duration::from_secs(60);

/// Does one task and ends.
pub(crate) fn run(task: Task) -> Result<ExitCode> {
    Runtime::new()?.block_on(async {
        let bank = Bank::open(&task).await?;
        let code = match &task.work {
            Work::Transfer(transfer) => bank.transfer(transfer).await?,
            Work::Recover(gtrid) => bank.recover(gtrid.parse()?).await?,
        };
        bank.tm.shutdown().await?;
        Ok(code)
    })
}

struct Bank {
    tm: TransactionManager,
    checking: Postgres,
    savings: Mysql,
}

impl Bank {
    async fn open(task: &Task) -> Result<Self> {
        let checking = Postgres::builder(CHECKING, address(POSTGRES)?).build()?;
        let savings = Mysql::builder(SAVINGS, address(MYSQL)?).build()?;
        let wait = match &task.work {
            Work::Transfer(transfer) => transfer.wait,
            Work::Recover(_) => Wait::Nowhere,
        };
        let tm = TransactionManager::builder()
            .log(FileLog::at(&task.log))
            .resource(&checking)
            .resource(&savings)
            .config(|config| {
                config.start_timeout = LIMIT;
                config.decide_timeout = LIMIT;
            })
            .probe(Arc::new(Reporter { wait }))
            .start()
            .await?;
        Ok(Self {
            tm,
            checking,
            savings,
        })
    }

    async fn transfer(&self, transfer: &Transfer) -> Result<ExitCode> {
        let mut tx = self.tm.begin();
        say(&format!("{}{}", tag::GTRID, tx.gtrid()));
        let (checking, savings) = tx.enlist((&self.checking, &self.savings)).await?;
        let (paid, booked) = tokio::join!(pay(checking, transfer), book(savings, transfer));
        say_done(CHECKING, &paid);
        say_done(SAVINGS, &booked);
        if paid.is_err() || booked.is_err() {
            tx.rollback().await;
            say("rolled back");
            return Ok(ExitCode::from(ROLLED_BACK));
        }
        match tx.commit().await {
            Ok(_) => {
                say("commit answers: committed");
                Ok(ExitCode::SUCCESS)
            }
            Err(CommitError::RolledBack { cause, .. }) => {
                say(&format!("commit answers: rolled back, because of {cause}"));
                Ok(ExitCode::from(ROLLED_BACK))
            }
            // Undetermined or heuristic: neither has a place in this story.
            Err(error) => Err(error.into()),
        }
    }

    /// The recovery itself is in `start`; this says what it did.
    async fn recover(&self, gtrid: Gtrid) -> Result<ExitCode> {
        let report = self.tm.start_report();
        say_report(report, gtrid);
        let begin = Instant::now();
        let mut is_clean = report.is_clean();
        while !is_clean && begin.elapsed() < LIMIT {
            tokio::time::sleep(Duration::from_millis(100)).await;
            is_clean = self.tm.recover().await.is_clean();
        }
        if !is_clean {
            return Err("something is still in doubt".into());
        }
        let outcome = self.tm.outcome(gtrid).await?;
        say(&format!("{}{outcome:?}", tag::OUTCOME));
        Ok(ExitCode::SUCCESS)
    }
}

/// Takes the money out of the checking account and notes the transfer.
async fn pay(checking: &PgBranch, transfer: &Transfer) -> Result<()> {
    let Transfer {
        reference, amount, ..
    } = transfer;
    let note = "INSERT INTO demo_transfers (reference, amount) VALUES ($1, $2)";
    checking.execute(note, &[reference, amount]).await?;
    let pay = "UPDATE demo_checking SET balance = balance - $1 WHERE owner = $2";
    checking.execute(pay, &[amount, &OWNER]).await?;
    Ok(())
}

/// Puts the money into the savings account.
async fn book(savings: &mut MysqlBranch, transfer: &Transfer) -> Result<()> {
    let book = "UPDATE demo_savings SET balance = balance + ? WHERE owner = ?";
    savings.exec_drop(book, (transfer.amount, OWNER)).await?;
    Ok(())
}

fn say_done(name: &str, done: &Result<()>) {
    match done {
        Ok(()) => say(&format!("{name} has changed its row, inside its branch")),
        Err(error) => say(&format!("{name} refuses: {error}")),
    }
}

fn say_report(report: &RecoveryReport, gtrid: Gtrid) {
    for resource in &report.resources {
        let left = resource
            .left
            .iter()
            .filter(|(xid, _)| xid.gtrid.opening.manager == gtrid.opening.manager);
        say(&format!(
            "start report: {}: {} committed, {} rolled back, {} left in doubt",
            resource.resource,
            resource.committed,
            resource.rolled_back,
            left.count(),
        ));
    }
    for name in &report.unfinished {
        say(&format!("start report: {name}: not done yet"));
    }
}

/// Says how far a commit has come, and waits at one place.
struct Reporter {
    wait: Wait,
}

impl Reporter {
    fn waits_at(&self, point: &Point) -> bool {
        match self.wait {
            Wait::Nowhere => false,
            Wait::BeforeDecision => *point == Point::BeforeDecide,
            Wait::AfterDecision => *point == Point::DecisionDurable,
            Wait::BeforeRollback => {
                matches!(point, Point::BeforeRollback(name) if name.as_str() == SAVINGS)
            }
        }
    }
}

#[async_trait]
impl Probe for Reporter {
    async fn reached(&self, point: Point) {
        if let Some(said) = said_of(&point) {
            say(&said);
        }
        if self.waits_at(&point) {
            say(&format!("{}{}", tag::WAITING, self.wait.name()));
            wait_for_a_line().await;
        }
    }
}

/// What a person who watches wants to hear.
fn said_of(point: &Point) -> Option<String> {
    if let Point::PrepareAnswered(name) = point {
        Some(format!("{name} has answered to prepare"))
    } else if let Point::CommitAnswered(name) = point {
        Some(format!("{name} has answered to commit"))
    } else if let Point::RollbackAnswered(name) = point {
        Some(format!("{name} has answered to rollback"))
    } else {
        let is_decided = *point == Point::DecisionDurable;
        is_decided.then(|| "the decision to commit is on disk".to_owned())
    }
}

async fn wait_for_a_line() {
    let read = spawn_blocking(|| io::stdin().read_line(&mut String::new())).await;
    if !matches!(read, Ok(Ok(1..))) {
        // The narrator is gone, and nobody would ever let this process go on.
        std::process::exit(1);
    }
}

fn say(line: &str) {
    println!("{line}");
}
