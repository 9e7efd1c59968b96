//! What every life of a cell's application is made of: resources, log, limits, and its work.

use std::time::Duration;

use std::sync::Arc;

use async_trait::async_trait;
use unanimous::log::{FileLog, TableLog};
use unanimous::mysql::Mysql;
use unanimous::ports::{DecisionLog, DecisionTable, LogError, LogHome};
use unanimous::postgres::Postgres;
use unanimous::{
    BoxError, Config, Opening, Transaction, TransactionManager, TransactionManagerBuilder,
};
use unanimous_core::xid::Epoch;

use super::cell::{Cell, Fault, Story};
use super::rows::{LogPlace, Places};
use super::strike::{DELAY, Striker};
use crate::databases::Place;
use crate::support::Bank;

/// Limits for what should not run into them, on a machine that does much else.
const PATIENT: Duration = Duration::from_secs(6);
/// How long a member is silent before the others close its epoch.
pub(super) const SUSPECT_AFTER: Duration = Duration::from_millis(500);

/// A resource of either kind.
#[derive(Clone)]
pub(super) enum AnyBank {
    Postgres(Postgres),
    Mysql(Mysql),
}

impl AnyBank {
    fn connect(name: &str, place: &Place) -> Self {
        if place.is_postgres {
            Self::Postgres(<Postgres as Bank>::connect(name, &place.url))
        } else {
            Self::Mysql(<Mysql as Bank>::connect(name, &place.url))
        }
    }

    fn log(&self) -> TableLog {
        match self {
            Self::Postgres(bank) => TableLog::on(bank),
            Self::Mysql(bank) => TableLog::on(bank),
        }
    }
}

/// A log of either kind.
pub(super) enum AnyHome {
    File(FileLog),
    Table(TableLog),
}

#[async_trait]
impl LogHome for AnyHome {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        match *self {
            Self::File(home) => Box::new(home).open().await,
            Self::Table(home) => Box::new(home).open().await,
        }
    }
}

/// What every life is made of.
#[derive(Clone)]
pub(super) struct App {
    pub(super) cell: Cell,
    pub(super) table: String,
    /// The row of the first transaction.
    pub(super) first: i64,
    pub(super) banks: Vec<AnyBank>,
    /// Where an independent client finds the databases.
    pub(super) places: Vec<Place>,
    /// Where everybody else finds the log in a table.
    pub(super) log_place: Option<Place>,
    log: LogPlace,
    /// The log in a table, over a way of its own.
    log_bank: Option<AnyBank>,
    /// The same, for an independent look.
    log_judge: Option<AnyBank>,
}

impl App {
    /// `behind` are the databases as the application finds them, `places` as everybody else does.
    pub(super) fn new(
        cell: Cell,
        table: String,
        first: i64,
        behind: &Places,
        places: &Places,
    ) -> Self {
        let bank = |(index, place)| AnyBank::connect(&format!("b{index}"), place);
        let log_bank = |places: &Places| {
            let place = places.log.table();
            place.map(|place| AnyBank::connect("log", place))
        };
        Self {
            cell,
            table,
            first,
            banks: behind.branches.iter().enumerate().map(bank).collect(),
            places: places.branches.clone(),
            log_place: places.log.table().cloned(),
            log: behind.log.clone(),
            log_bank: log_bank(behind),
            log_judge: log_bank(places),
        }
    }

    /// The log. On the second pass a file forgets what is completed, so that nothing may rest on
    /// it.
    pub(super) fn home(&self, watch: Option<Arc<Striker>>) -> AnyHome {
        if let Some(bank) = &self.log_bank {
            let home = bank.log().suspect_after(SUSPECT_AFTER);
            return AnyHome::Table(home.last_resource(self.cell.home.has_last()));
        }
        let LogPlace::Folder(folder) = &self.log else {
            unreachable!("a table has its bank");
        };
        let mut home = FileLog::at(folder);
        if self.cell.nth == 2 {
            home = home.retain_completed(0);
        }
        if let Some(watcher) = watch {
            home = home.watch(move |step| watcher.step(step));
        }
        AnyHome::File(home)
    }

    /// The log's table as it is, whatever happens to the application's way to it.
    pub(super) fn judged_table(&self) -> Option<Arc<dyn DecisionTable>> {
        self.log_judge.as_ref().map(|bank| bank.log().table())
    }

    /// Whether this opening is listed closed; so is every one in a file that was opened again.
    pub(super) async fn is_closed(&self, opening: Opening) -> bool {
        let Some(table) = self.judged_table() else {
            return true;
        };
        let read = table.read(Epoch(0), None).await;
        read.is_ok_and(|seen| {
            let mut rows = seen.openings.iter();
            rows.any(|row| row.opening == opening && row.is_closed)
        })
    }

    /// How many decisions are pending in the table, of this opening if one is named.
    pub(super) async fn pending(&self, of: Option<Opening>) -> Result<usize, String> {
        let Some(table) = self.judged_table() else {
            return Ok(0);
        };
        let read = table.read(Epoch(0), None).await;
        let pending = read.map_err(|error| error.to_string())?.pending;
        let is_its = |row: &&unanimous::ports::DecisionRow| {
            of.is_none_or(|opening| row.gtrid.opening == opening)
        };
        Ok(pending.iter().filter(is_its).count())
    }

    /// A manager without tricks, and what all others begin with.
    pub(super) fn builder(&self) -> TransactionManagerBuilder {
        let builder = TransactionManager::builder();
        let mut builder = match self.home(None) {
            AnyHome::File(home) => builder.log(home),
            AnyHome::Table(home) => builder.log(home),
        };
        for bank in &self.banks {
            builder = match bank {
                AnyBank::Postgres(bank) => builder.resource(bank),
                AnyBank::Mysql(bank) => builder.resource(bank),
            };
        }
        let is_overdue = self.cell.story == Story::Overdue;
        let is_late = self.cell.fault == Fault::Delay || self.cell.story == Story::LastLate;
        let limit = if is_late { DELAY * 2 / 3 } else { PATIENT };
        builder.config(|config| set_limits(config, limit, is_overdue))
    }

    /// The manager that recovers what is left.
    pub(super) fn last_builder(&self) -> TransactionManagerBuilder {
        let builder = self.builder();
        builder.config(|config| set_limits(config, PATIENT, false))
    }

    /// Enlists one branch after the other, and writes or reads this transaction's row.
    pub(super) async fn work(
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
