//! The servers of one comparison, with full durability, and what they and we have cost so far.

use std::collections::HashMap;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use unanimous::postgres::tokio_postgres::{self, Client, NoTls};
use xtask::servers::{Kind, Options, Server};

use crate::Error;
use crate::counters::{Counters, connect_mysql};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// How many accounts there are. A worker has its own, so that no transfer waits for another's rows.
pub(crate) const ACCOUNTS: usize = 8192;
pub(crate) const BALANCE: i64 = 1_000_000;
/// For every alternative a pool, for the most workers.
const CONNECTIONS: usize = 1800;

/// Where the money goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ledger {
    /// Without a binary log.
    Mysql,
    /// With a binary log, synced at each commit.
    MysqlBinlog,
    /// Without a binary log.
    Mariadb,
}

impl Ledger {
    pub(crate) const ALL: [Self; 3] = [Self::Mysql, Self::MysqlBinlog, Self::Mariadb];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::MysqlBinlog => "mysql-binlog",
            Self::Mariadb => "mariadb",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    pub(crate) fn start(self) -> Result<Server, Error> {
        let connections = format!("--max-connections={CONNECTIONS}");
        let mut options = Options::new().args([
            connections.as_str(),
            "--innodb-buffer-pool-size=256M",
            "--innodb-flush-log-at-trx-commit=1",
        ]);
        options = match self {
            Self::Mysql => options.args(["--innodb-redo-log-capacity=1G"]),
            Self::MysqlBinlog => options.args([
                "--innodb-redo-log-capacity=1G",
                "--log-bin=binlog",
                "--server-id=1",
                "--sync-binlog=1",
            ]),
            Self::Mariadb => options.args(["--innodb-log-file-size=1G"]),
        };
        let kind = match self {
            Self::Mysql | Self::MysqlBinlog => Kind::Mysql,
            Self::Mariadb => Kind::Mariadb,
        };
        Ok(Server::start(kind, &options)?)
    }
}

/// PostgreSQL, where the money comes from.
pub(crate) fn start_postgres() -> Result<Server, Error> {
    let options = Options::new().args([
        "-c",
        "fsync=on",
        "-c",
        "synchronous_commit=on",
        "-c",
        "shared_buffers=256MB",
        "-c",
        "max_wal_size=4GB",
        "-c",
        "shared_preload_libraries=pg_stat_statements",
        "-c",
        "pg_stat_statements.track_utility=on",
    ]);
    // What is told by ALTER SYSTEM does not win against the command line.
    let connections = format!("max_connections={CONNECTIONS}");
    let prepared = format!("max_prepared_transactions={CONNECTIONS}");
    let options = options.args(["-c", connections.as_str(), "-c", prepared.as_str()]);
    Ok(Server::start(Kind::PostgresNewest, &options)?)
}

/// Both servers, with the accounts.
pub(crate) struct Lab {
    pub(crate) ledger: Ledger,
    pub(crate) postgres_url: String,
    pub(crate) mysql_url: String,
    pub(crate) counters: Counters,
    postgres: Client,
    mysql: Conn,
    postgres_pid: u32,
    mysql_pid: u32,
    // The last: the clients are gone before their server.
    _mysql_server: Server,
}

impl Lab {
    pub(crate) async fn open(ledger: Ledger, postgres: &Server) -> Result<Self, Error> {
        let mysql = ledger.start()?;
        let (postgres_url, mysql_url) = (postgres.url(), mysql.url());
        // As administrators: whoever is there as `app` is a contender.
        let admin_url = postgres.admin_url();
        let (client, connection) = tokio_postgres::connect(&admin_url, NoTls).await?;
        tokio::spawn(connection);
        let counters = Counters::connect(&admin_url, &mysql.admin_url()).await?;
        counters.track_statements(false).await?;
        let mut lab = Self {
            ledger,
            mysql: connect_mysql(&mysql.admin_url()).await?,
            postgres: client,
            counters,
            postgres_url,
            mysql_url,
            postgres_pid: postgres.pid(),
            mysql_pid: mysql.pid(),
            _mysql_server: mysql,
        };
        lab.make_accounts().await?;
        Ok(lab)
    }

    async fn make_accounts(&mut self) -> Result<(), Error> {
        let sql = format!(
            "SET ROLE app;
             DROP TABLE IF EXISTS accounts;
             CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)
                 WITH (fillfactor = 50);
             INSERT INTO accounts SELECT id, {BALANCE} FROM generate_series(0, {}) id;
             RESET ROLE",
            ACCOUNTS - 1
        );
        self.postgres.batch_execute(&sql).await?;
        self.mysql
            .query_drop("CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)")
            .await?;
        for first in (0..ACCOUNTS).step_by(1024) {
            let rows = (first..first + 1024).map(|id| format!("({id},{BALANCE})"));
            let rows: Vec<_> = rows.collect();
            let sql = format!("INSERT INTO accounts VALUES {}", rows.join(","));
            self.mysql.query_drop(sql).await?;
        }
        Ok(())
    }

    /// Every transfer is in both books, and nothing else is.
    ///
    /// # Errors
    /// The books do not agree with what was acknowledged since the accounts were made.
    pub(crate) async fn check_money(&mut self, transfers: u64) -> Result<(), Error> {
        let sql = "SELECT sum(balance)::bigint FROM accounts";
        let paid: i64 = self.postgres.query_one(sql, &[]).await?.get(0);
        let sql = "SELECT CAST(SUM(balance) AS SIGNED) FROM accounts";
        let got: Option<i64> = self.mysql.query_first(sql).await?;
        let all = i64::try_from(ACCOUNTS)? * BALANCE;
        let moved = (all - paid, got.unwrap_or_default() - all);
        let transfers = i64::try_from(transfers)?;
        if moved == (transfers, transfers) {
            return Ok(());
        }
        let (paid, got) = moved;
        Err(format!("{transfers} transfers, {paid} paid, {got} received").into())
    }

    /// What the servers have used so far.
    pub(crate) fn cpu(&self) -> Result<ServerCpu, Error> {
        let processes = Processes::read()?;
        Ok(ServerCpu {
            postgres: processes.used_below(self.postgres_pid, used_by),
            mysql: processes.used_below(self.mysql_pid, used_by),
        })
    }
}

/// Processor time of the servers, each with all its processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerCpu {
    pub(crate) postgres: Duration,
    pub(crate) mysql: Duration,
}

/// Processor time of this process, as `getrusage` tells it, too.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

/// Processor time of another process and of all that it has started, to a hundredth of a second:
/// also of threads that have ended.
pub(crate) fn cpu_below(pid: u32) -> Result<Duration, Error> {
    Ok(Processes::read()?.used_below(pid, ticks_of))
}

/// Who has started whom.
struct Processes(HashMap<u32, Vec<u32>>);

impl Processes {
    fn read() -> Result<Self, Error> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // It may have ended meanwhile.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // After the name in brackets, which may hold anything: state, parent.
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            if let Some(parent) = parent {
                children.entry(parent).or_default().push(pid);
            }
        }
        Ok(Self(children))
    }

    fn used_below(&self, pid: u32, used_by: fn(u32) -> Duration) -> Duration {
        let below = self.0.get(&pid).into_iter().flatten();
        let below = below.map(|child| self.used_below(*child, used_by));
        used_by(pid) + below.sum::<Duration>()
    }
}

/// `utime` and `stime` of `stat`, in hundredths of a second, as Linux counts them for programs.
fn ticks_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.filter_map(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// Nanoseconds on a processor, of every thread that lives: the first field of `schedstat`.
fn used_by(pid: u32) -> Duration {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let nanos = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
