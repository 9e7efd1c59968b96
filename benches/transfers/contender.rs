//! The alternatives: everybody's way to move money from PostgreSQL to MySQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join;
use mysql_async::prelude::Queryable;
use unanimous::TransactionManager;
use unanimous::log::{FileLog, TableLog};
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;

use crate::Error;
use crate::by_hand::{ByHand, How};
use crate::sqlalchemy::Sqlalchemy;

/// What is compared. The order is that of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alternative {
    Floor,
    Bare,
    BarePiped,
    BareGuarded,
    BareLogged,
    File,
    TablePg,
    TablePgLast,
    TableMysql,
    TableMysqlLast,
    Sqlalchemy,
}

impl Alternative {
    pub(crate) const ALL: [Self; 11] = [
        Self::Floor,
        Self::Bare,
        Self::BarePiped,
        Self::BareGuarded,
        Self::BareLogged,
        Self::File,
        Self::TablePg,
        Self::TablePgLast,
        Self::TableMysql,
        Self::TableMysqlLast,
        Self::Sqlalchemy,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Bare => "bare-2pc",
            Self::BarePiped => "bare-2pc-piped",
            Self::BareGuarded => "bare-2pc-guarded",
            Self::BareLogged => "bare-2pc-logged",
            Self::File => "file",
            Self::TablePg => "table-pg",
            Self::TablePgLast => "table-pg-llr",
            Self::TableMysql => "table-mysql",
            Self::TableMysqlLast => "table-mysql-llr",
            Self::Sqlalchemy => "sqlalchemy",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// How many connections each pool has: one for each worker and a few that are on their way back.
pub(crate) const fn pool_size(workers: usize) -> usize {
    workers + 4
}

pub(crate) fn debit(account: usize) -> String {
    format!("UPDATE accounts SET balance = balance - 1 WHERE id = {account}")
}

pub(crate) fn credit(account: usize) -> String {
    format!("UPDATE accounts SET balance = balance + 1 WHERE id = {account}")
}

/// One alternative, with its connections.
pub(crate) enum Contender {
    ByHand(ByHand),
    Ours(Ours),
    Sqlalchemy(Box<Sqlalchemy>),
}

impl Contender {
    pub(crate) async fn open(
        which: Alternative,
        postgres_url: &str,
        mysql_url: &str,
        workers: usize,
    ) -> Result<Self, Error> {
        let by_hand = |how| ByHand::new(how, postgres_url, mysql_url, pool_size(workers));
        Ok(match which {
            Alternative::Floor => Self::ByHand(by_hand(How::OneAfterTheOther)?),
            Alternative::Bare => Self::ByHand(by_hand(How::TwoPhases)?),
            Alternative::BarePiped => Self::ByHand(by_hand(How::TwoPhasesPiped)?),
            Alternative::BareGuarded => Self::ByHand(by_hand(How::TwoPhasesGuarded)?),
            Alternative::BareLogged => Self::ByHand(by_hand(How::TwoPhasesLogged)?),
            Alternative::File
            | Alternative::TablePg
            | Alternative::TablePgLast
            | Alternative::TableMysql
            | Alternative::TableMysqlLast => {
                let size = pool_size(workers);
                Self::Ours(Ours::start(which, postgres_url, mysql_url, size, None).await?)
            }
            Alternative::Sqlalchemy => {
                let child = Sqlalchemy::start(postgres_url, mysql_url, workers).await?;
                Self::Sqlalchemy(Box::new(child))
            }
        })
    }

    pub(crate) async fn close(self) -> Result<(), Error> {
        match self {
            Self::ByHand(by_hand) => drop(by_hand),
            Self::Ours(ours) => ours.tm.shutdown().await?,
            Self::Sqlalchemy(child) => child.stop().await?,
        }
        Ok(())
    }
}

/// A manager of ours with its resources.
pub(crate) struct Ours {
    pub(crate) tm: TransactionManager,
    pub(crate) orders: Postgres,
    pub(crate) ledger: Mysql,
    /// Synced batches of the file log.
    pub(crate) synced: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl Ours {
    /// `patience`: how long a transaction may wait for its connections, if not as usual.
    pub(crate) async fn start(
        which: Alternative,
        postgres_url: &str,
        mysql_url: &str,
        size: usize,
        patience: Option<Duration>,
    ) -> Result<Self, Error> {
        let mut orders = Postgres::builder("orders", postgres_url).pool_size(size);
        // Those by hand are not encrypted either.
        let mysql_url = format!("{mysql_url}?ssl-mode=DISABLED");
        let mut ledger = Mysql::builder("ledger", mysql_url).pool_size(size);
        if let Some(patience) = patience {
            orders = orders.pool_timeout(patience);
            ledger = ledger.pool_timeout(patience);
        }
        let (orders, ledger) = (orders.build()?, ledger.build()?);
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let synced = Arc::new(AtomicU64::new(0));
        let builder = TransactionManager::builder()
            .resource(&orders)
            .resource(&ledger)
            .config(|config| {
                config.open_timeout = patience.unwrap_or(config.open_timeout);
                config.deadline = config.deadline.max(config.open_timeout);
            });
        let builder = match which {
            Alternative::TablePg => builder.log(TableLog::on(&orders).last_resource(false)),
            Alternative::TablePgLast => builder.log(TableLog::on(&orders)),
            Alternative::TableMysql => builder.log(TableLog::on(&ledger).last_resource(false)),
            Alternative::TableMysqlLast => builder.log(TableLog::on(&ledger)),
            Alternative::File
            | Alternative::Floor
            | Alternative::Bare
            | Alternative::BarePiped
            | Alternative::BareGuarded
            | Alternative::BareLogged
            | Alternative::Sqlalchemy => {
                let synced = Arc::clone(&synced);
                builder.log(FileLog::at(folder.path().join("log")).watch(move |step| {
                    if step == "log.batch_synced" {
                        synced.fetch_add(1, Ordering::Relaxed);
                    }
                }))
            }
        };
        Ok(Self {
            tm: builder.start().await?,
            orders,
            ledger,
            synced,
            _folder: folder,
        })
    }

    pub(crate) async fn transfer(&self, account: usize) -> Result<(), Error> {
        let mut tx = self.tm.begin();
        let (pg, my) = tx.enlist((&self.orders, &self.ledger)).await?;
        let paid = async { Ok::<_, Error>(pg.batch_execute(&debit(account)).await?) };
        let got = async { Ok::<_, Error>(my.query_drop(credit(account)).await?) };
        try_join(paid, got).await?;
        tx.commit().await?;
        Ok(())
    }
}
