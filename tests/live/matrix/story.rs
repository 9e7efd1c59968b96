//! The application: lives of a manager around the cell's point, each with its transactions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{
    BoxError, CommitError, Config, Point, Probe, Transaction, TransactionManager,
    TransactionManagerBuilder,
};
use unanimous_testing::WireFault;

use super::asks::{self, When};
use super::cell::{Cell, Fault, Story};
use super::judge::PATIENCE;
use super::meddler::Meddler;
use super::strike::{DELAY, Striker};
use super::tricks::Tricky;
use crate::databases::{Judges, Place};
use crate::support::Bank;

/// Limits for what should not run into them, on a machine that does much else.
const PATIENT: Duration = Duration::from_secs(6);
/// How many lives an application has for its point to be reached.
const LIVES: u32 = 3;

/// A resource of either kind.
#[derive(Clone)]
pub(super) enum AnyBank {
    Postgres(Postgres),
    Mysql(Mysql),
}

/// What every life is made of.
#[derive(Clone)]
pub(super) struct App {
    pub(super) cell: Cell,
    pub(super) log: PathBuf,
    pub(super) table: String,
    /// The row of the first transaction.
    pub(super) first: i64,
    pub(super) banks: Vec<AnyBank>,
    /// Where an independent client finds the databases.
    pub(super) places: Vec<Place>,
}

impl App {
    pub(super) fn new(
        cell: Cell,
        log: PathBuf,
        table: String,
        first: i64,
        behind: &[Place],
        places: &[Place],
    ) -> Self {
        let bank = |(index, place): (usize, &Place)| {
            let (name, url) = (format!("b{index}"), &place.url);
            if place.is_postgres {
                AnyBank::Postgres(<Postgres as Bank>::connect(&name, url))
            } else {
                AnyBank::Mysql(<Mysql as Bank>::connect(&name, url))
            }
        };
        let banks = behind.iter().enumerate().map(bank).collect();
        Self {
            cell,
            log,
            table,
            first,
            banks,
            places: places.to_vec(),
        }
    }

    /// The log. On the second pass it forgets what is completed, so that nothing may rest on it.
    fn home(&self) -> FileLog {
        let home = FileLog::at(&self.log);
        if self.cell.nth == 2 {
            home.retain_completed(0)
        } else {
            home
        }
    }

    /// A manager without tricks, and what all others begin with.
    fn builder(&self) -> TransactionManagerBuilder {
        let mut builder = TransactionManager::builder().log(self.home());
        for bank in &self.banks {
            builder = match bank {
                AnyBank::Postgres(bank) => builder.resource(bank),
                AnyBank::Mysql(bank) => builder.resource(bank),
            };
        }
        let is_overdue = self.cell.story == Story::Overdue;
        let limit = if self.cell.fault == Fault::Delay {
            DELAY * 2 / 3
        } else {
            PATIENT
        };
        builder.config(|config| set_limits(config, limit, is_overdue))
    }

    /// The manager that recovers what is left.
    pub(super) fn last_builder(&self) -> TransactionManagerBuilder {
        let builder = self.builder();
        builder.config(|config| set_limits(config, PATIENT, false))
    }

    /// Enlists one branch after the other, and writes or reads this transaction's row.
    async fn work(
        &self,
        tx: &mut Transaction,
        number: u32,
        striker: Option<&Striker>,
    ) -> Result<(), BoxError> {
        let id = self.first + i64::from(number);
        for (index, bank) in self.banks.iter().enumerate() {
            let sql = if index < self.cell.mix.writers() {
                format!("UPDATE {} SET n = n + 1 WHERE id = {id}", self.table)
            } else {
                format!("SELECT n FROM {} WHERE id = {id}", self.table)
            };
            let is_reader = index >= self.cell.mix.writers();
            match bank {
                AnyBank::Postgres(bank) => {
                    one_branch(bank, tx, is_reader, &sql, striker).await?;
                }
                AnyBank::Mysql(bank) => one_branch(bank, tx, is_reader, &sql, striker).await?,
            }
        }
        Ok(())
    }
}

fn set_limits(config: &mut Config, limit: Duration, is_overdue: bool) {
    config.open_timeout = limit * 2;
    config.prepare_timeout = limit;
    config.finish_timeout = limit;
    config.recovery_timeout = limit;
    config.decide_timeout = if is_overdue { limit / 40 } else { limit };
    config.start_timeout = limit * 2;
    config.drain_timeout = Duration::from_secs(5);
    config.lock_timeout = Duration::from_secs(2);
    config.recovery_interval = Duration::from_millis(100);
    config.recovery_interval_max = Duration::from_millis(400);
}

async fn one_branch<B: Bank>(
    bank: &B,
    tx: &mut Transaction,
    is_reader: bool,
    sql: &str,
    striker: Option<&Striker>,
) -> Result<(), BoxError> {
    // A dropped `enlist` is repeated: the branch is the same.
    for _ in 0..2 {
        let enlisting = async {
            if is_reader {
                tx.enlist_read_only(bank).await.map(drop)
            } else {
                tx.enlist(bank).await.map(drop)
            }
        };
        match striker {
            None => enlisting.await?,
            Some(striker) => match striker.call(enlisting).await {
                Some(enlisted) => enlisted?,
                None => continue,
            },
        }
        break;
    }
    let lent = async {
        if is_reader {
            tx.enlist_read_only(bank).await
        } else {
            tx.enlist(bank).await
        }
    };
    let lent = match striker {
        None => Some(lent.await),
        Some(striker) => striker.call(lent).await,
    };
    let branch = lent.ok_or("the application gave up")??;
    B::run(branch, sql).await
}

/// Lives until the fault has struck, and says by notes what was promised.
pub(super) async fn live(app: &App, striker: &Arc<Striker>) {
    let lifted = tokio::spawn(lift_delay(app.cell, Arc::clone(striker)));
    for _ in 0..LIVES {
        one_life(app, striker).await;
        if striker.has_struck() {
            break;
        }
    }
    striker.give_up();
    lifted.abort();
    for wire in striker.wires() {
        wire.set(WireFault::None);
    }
}

/// Lets the replies that were held go on.
async fn lift_delay(cell: Cell, striker: Arc<Striker>) {
    if cell.fault != Fault::Delay {
        return;
    }
    while !striker.has_struck() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(DELAY).await;
    striker.target_wire().set(WireFault::None);
}

async fn one_life(app: &App, striker: &Arc<Striker>) {
    let story = app.cell.story;
    if story.is_recovery() {
        earlier_life(app, striker).await;
    }
    if story == Story::DownAtStart && !striker.has_struck() {
        striker.target_wire().set(WireFault::Down);
    }
    let tm = start(app, striker).await;
    if story == Story::DownAtStart && striker.target_wire().fault() == WireFault::Down {
        striker.target_wire().set(WireFault::None);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for _ in 0..2 {
        if story.is_recovery() {
            if let Some((gtrid, number)) = striker.latest() {
                asks::ask(striker, &tm, gtrid, number, When::InALaterLife).await;
            }
            striker.call(tm.recover()).await;
        } else if !striker.has_struck() {
            transact(app, striker, &tm).await;
        }
    }
    if striker.has_struck() && app.cell.fault != Fault::KillCoordinator {
        resolve_while_running(app, striker).await;
    }
    if striker.call(tm.shutdown()).await.is_none() {
        // Once more, because the first was dropped; what it answers is the judge's to see.
        let _ = tm.shutdown().await;
    }
}

/// I6: nothing needs a restart to be resolved.
async fn resolve_while_running(app: &App, striker: &Arc<Striker>) {
    let Some((gtrid, _)) = striker.latest() else {
        return;
    };
    let manager = gtrid.opening.manager.to_string();
    let repairing = Arc::clone(striker);
    let repaired = tokio::task::spawn_blocking(move || repairing.repair());
    repaired.await.unwrap();
    let mut judges = Judges::default();
    let begin = Instant::now();
    let mut left = 1;
    while left > 0 && begin.elapsed() < PATIENCE {
        left = 0;
        for place in &app.places {
            left += judges.prepared(place, &manager).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if left > 0 {
        striker.note(format!("stuck {left}"));
    }
}

/// Starts until it succeeds: after a start that was dropped, the log may be in use for a moment.
async fn start(app: &App, striker: &Arc<Striker>) -> TransactionManager {
    loop {
        let watcher = Arc::clone(striker);
        let home = app.home().watch(move |step| watcher.step(step));
        let tricky = Tricky {
            story: app.cell.story,
            home,
        };
        let probe: Arc<dyn Probe> = Meddler::around(app, striker);
        let starting = app.builder().log(tricky).probe(probe).start();
        match striker.call(starting).await {
            Some(Ok(tm)) => return tm,
            Some(Err(_)) | None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn transact(app: &App, striker: &Striker, tm: &TransactionManager) {
    let mut tx = tm.begin();
    let (gtrid, number) = (tx.gtrid(), striker.begun(tx.gtrid()));
    if app.work(&mut tx, number, Some(striker)).await.is_err() {
        let _ = striker.call(tx.rollback()).await;
        return striker.note(format!("rolledback {number}"));
    }
    if app.cell.story == Story::Rollback {
        let _ = striker.call(tx.rollback()).await;
        return striker.note(format!("rolledback {number}"));
    }
    let answer = if app.cell.story == Story::Asked {
        Some(asks::commit_asked(striker, tm, tx, number).await)
    } else {
        striker.call(tx.commit()).await
    };
    let claim = match &answer {
        Some(Ok(_)) => "committed",
        Some(Err(CommitError::RolledBack { .. })) => "rolledback",
        Some(Err(CommitError::Undetermined { .. })) => "undetermined",
        Some(Err(error)) => {
            eprintln!("{}: {error}", app.cell.name());
            "heuristic"
        }
        None => "dropped",
    };
    striker.note(format!("{claim} {number}"));
    let is_asked = app.cell.story == Story::Asked || app.cell.story.is_by_hand();
    if is_asked {
        asks::ask(striker, tm, gtrid, number, When::After).await;
    }
    if let Some(Ok(committed)) = answer {
        asks::completed(app, striker, &committed, number).await;
    }
    if is_asked {
        asks::ask(striker, tm, gtrid, number, When::AtTheEnd).await;
    }
}

/// Stands still where an earlier life is to end.
struct EndAt {
    cell: Cell,
    reached: UnboundedSender<()>,
}

#[async_trait]
impl Probe for EndAt {
    async fn reached(&self, point: Point) {
        let is_target = |point: &Point| {
            let name = point.resource().map(|name| name.as_str());
            name == Some(self.cell.target_name().as_str())
        };
        let is_proof = self.cell.story == Story::RecoverProof;
        let is_end = match self.cell.story {
            Story::RecoverRollback => point == Point::BeforeDecide,
            Story::RecoverProof => point.name() == "commit.answered" && is_target(&point),
            Story::RecoverCommit
            | Story::Commit
            | Story::Rollback
            | Story::Refused
            | Story::Uncertain
            | Story::Overdue
            | Story::CutCommit
            | Story::HandRollsBack
            | Story::HandCommits
            | Story::Asked
            | Story::DownAtStart => point == Point::DecisionDurable,
        };
        let is_held = is_proof && point.name() == "commit.before" && !is_target(&point);
        if is_end {
            // Whoever waits for it may have waited long enough.
            let _ = self.reached.send(());
        }
        if is_end || is_held {
            std::future::pending::<()>().await;
        }
    }
}

/// A life that ends in the middle of its transaction: its runtime is taken away.
async fn earlier_life(app: &App, striker: &Arc<Striker>) {
    let (app, striker) = (app.clone(), Arc::clone(striker));
    let life = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(until_its_end(&app, &striker));
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    let joined = tokio::task::spawn_blocking(move || life.join()).await;
    joined.unwrap().unwrap();
}

async fn until_its_end(app: &App, striker: &Striker) {
    let (reached, mut ended) = unbounded_channel();
    let cell = app.cell;
    let probe = Arc::new(EndAt { cell, reached });
    let Ok(tm) = app.builder().probe(probe).start().await else {
        return;
    };
    let mut tx = tm.begin();
    let number = striker.begun(tx.gtrid());
    if app.work(&mut tx, number, None).await.is_err() {
        return tx.rollback().await;
    }
    let is_decided = app.cell.story != Story::RecoverRollback;
    tokio::select! {
        _ = ended.recv() => if is_decided {
            striker.note(format!("decided {number}"));
        },
        _ = tx.commit() => {}
    }
}
