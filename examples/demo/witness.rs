//! The independent witness: plain connections of the plain drivers, which know nothing of
//! Unanimous. Whatever the story claims is asked of the databases here.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Params};
use postgres::{NoTls, SimpleQueryMessage};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::task::{MYSQL, POSTGRES, SAVINGS};
use crate::{Result, address};

/// What the witness asks; also printed, so that a reader can ask the same.
pub(crate) mod ask {
    pub(crate) const CHECKING: &str = "SELECT balance FROM demo_checking WHERE owner = 'ana'";
    pub(crate) const SAVINGS: &str = "SELECT balance FROM demo_savings WHERE owner = 'ana'";
    pub(crate) const PREPARED_CHECKING: &str =
        "SELECT * FROM pg_prepared_xacts WHERE gid LIKE '%:demo-checking'";
    pub(crate) const PREPARED_SAVINGS: &str = "XA RECOVER";
    pub(crate) const TOUCH_CHECKING: &str =
        "UPDATE demo_checking SET balance = balance WHERE owner = 'ana'";
    pub(crate) const TOUCH_SAVINGS: &str =
        "UPDATE demo_savings SET balance = balance WHERE owner = 'ana'";
}

/// What a session says that got its row.
pub(crate) const TOUCHED: &str = "1 row changed";
/// What PostgreSQL says if a lock was not to be had in time (lock_not_available).
pub(crate) const LOCKED_CHECKING: &str = "refused with SQLSTATE 55P03";
/// What MySQL and MariaDB say then (lock wait timeout exceeded).
pub(crate) const LOCKED_SAVINGS: &str = "refused with error 1205";

/// How long a server may take to let the witness in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to each database.
pub(crate) struct Witness {
    postgres: postgres::Client,
    mysql: Mysql,
}

/// The name and version of a server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    version: String,
}

impl Server {
    /// Takes the number from texts such as `18.6 (Debian 18.6-3)` and `10.11.19-MariaDB-0`.
    fn new(name: &'static str, version: &str) -> Self {
        let number = version.split([' ', '-']).next().unwrap_or(version);
        let version = number.to_owned();
        Self { name, version }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Money in both places, as a reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balances {
    pub(crate) checking: i64,
    pub(crate) savings: i64,
}

impl Balances {
    pub(crate) const fn sum(self) -> i64 {
        self.checking + self.savings
    }

    /// What there is after so much has moved from checking to savings.
    pub(crate) const fn moved(self, amount: i64) -> Self {
        Self {
            checking: self.checking - amount,
            savings: self.savings + amount,
        }
    }
}

/// One of PostgreSQL's prepared transactions.
pub(crate) struct PreparedTransaction {
    pub(crate) gid: String,
    pub(crate) owner: String,
    pub(crate) prepared: String,
}

/// One of MySQL's prepared XA transactions.
pub(crate) struct PreparedXa {
    pub(crate) format_id: i64,
    pub(crate) gtrid: String,
    pub(crate) bqual: String,
}

impl Witness {
    pub(crate) fn connect() -> Result<Self> {
        Ok(Self {
            postgres: connect_postgres()?,
            mysql: Mysql::connect()?,
        })
    }

    /// Runs statements in PostgreSQL.
    pub(crate) fn run_postgres(&mut self, sql: &str) -> Result<()> {
        Ok(self.postgres.batch_execute(sql)?)
    }

    /// Runs one statement in MySQL.
    pub(crate) fn run_mysql(&mut self, sql: &str) -> Result<()> {
        self.mysql.run(sql)
    }

    /// Whether this is the only demo on these servers. The claim ends with the connections.
    pub(crate) fn claim_servers(&mut self) -> Result<bool> {
        // An arbitrary number that only this program uses.
        let claim = "SELECT pg_try_advisory_lock(7205759403)";
        let postgres = self.postgres.query_one(claim, &[])?.try_get(0)?;
        let claim = "SELECT GET_LOCK('unanimous-demo', 0)";
        let mysql: Option<i64> = self.mysql.rows(claim)?.pop().flatten();
        Ok(postgres && mysql == Some(1))
    }

    /// What both servers say they are.
    pub(crate) fn servers(&mut self) -> Result<(Server, Server)> {
        let row = self.postgres.query_one("SHOW server_version", &[])?;
        let postgres = Server::new("PostgreSQL", row.try_get(0)?);
        let version: Option<String> = self.mysql.rows("SELECT VERSION()")?.pop();
        let version = version.ok_or("the server does not tell its version")?;
        let is_mariadb = version.contains("MariaDB");
        let name = if is_mariadb { "MariaDB" } else { "MySQL" };
        Ok((postgres, Server::new(name, &version)))
    }

    pub(crate) fn balances(&mut self) -> Result<Balances> {
        let checking = self.postgres.query_one(ask::CHECKING, &[])?.try_get(0)?;
        let savings = self.mysql.rows(ask::SAVINGS)?.pop();
        let savings = savings.ok_or("there is no savings account")?;
        Ok(Balances { checking, savings })
    }

    /// How many transfers of this name PostgreSQL holds.
    pub(crate) fn count_transfers(&mut self, reference: &str) -> Result<i64> {
        let count = "SELECT count(*) FROM demo_transfers WHERE reference = $1";
        Ok(self.postgres.query_one(count, &[&reference])?.try_get(0)?)
    }

    /// The prepared transactions of the story's resource, and of no other.
    pub(crate) fn prepared_checking(&mut self) -> Result<Vec<PreparedTransaction>> {
        let rows = self.postgres.simple_query(ask::PREPARED_CHECKING)?;
        let read = |message| {
            let SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            let cell = |column| row.get(column).unwrap_or_default().to_owned();
            let (gid, owner, prepared) = (cell("gid"), cell("owner"), cell("prepared"));
            Some(PreparedTransaction {
                gid,
                owner,
                prepared,
            })
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// The same of MySQL, where the statement that lists them has no condition.
    pub(crate) fn prepared_savings(&mut self) -> Result<Vec<PreparedXa>> {
        let rows: Vec<(i64, usize, usize, Vec<u8>)> = self.mysql.rows(ask::PREPARED_SAVINGS)?;
        let read = |(format_id, gtrid_bytes, _, data): (i64, usize, usize, Vec<u8>)| {
            let (gtrid, bqual) = data.split_at_checked(gtrid_bytes)?;
            Some(PreparedXa {
                format_id,
                gtrid: String::from_utf8(gtrid.to_vec()).ok()?,
                bqual: String::from_utf8(bqual.to_vec()).ok()?,
            })
        };
        let ours = |found: &PreparedXa| found.bqual == SAVINGS;
        Ok(rows.into_iter().filter_map(read).filter(ours).collect())
    }

    /// Tries to change the row in PostgreSQL, and says what came of it.
    pub(crate) fn touch_checking(&mut self) -> String {
        match self.postgres.execute(ask::TOUCH_CHECKING, &[]) {
            Ok(rows) => changed(rows),
            Err(error) => match error.as_db_error() {
                Some(error) => format!("refused with SQLSTATE {}", error.code().code()),
                None => error.to_string(),
            },
        }
    }

    /// Tries to change the row in MySQL, and says what came of it.
    pub(crate) fn touch_savings(&mut self) -> String {
        match self.mysql.change(ask::TOUCH_SAVINGS) {
            Ok(rows) => changed(rows),
            Err(mysql_async::Error::Server(error)) => format!("refused with error {}", error.code),
            Err(error) => error.to_string(),
        }
    }
}

fn changed(rows: u64) -> String {
    match rows {
        1 => TOUCHED.to_owned(),
        rows => format!("{rows} rows changed"),
    }
}

fn connect_postgres() -> Result<postgres::Client> {
    let address = address(POSTGRES)?;
    // The driver's own error could quote a part of the password.
    let mut config: postgres::Config = address
        .parse()
        .map_err(|_| format!("{POSTGRES} is not an address of PostgreSQL"))?;
    config.connect_timeout(CONNECT_TIMEOUT);
    let mut client = config
        .connect(NoTls)
        .map_err(|error| match error.source() {
            Some(source) => format!("{POSTGRES}: no connection: {source}"),
            None => format!("{POSTGRES}: no connection: {error}"),
        })?;
    client.batch_execute("SET lock_timeout = '1s'; SET client_min_messages = 'warning'")?;
    Ok(client)
}

/// MySQL's driver is asynchronous; the story is not.
struct Mysql {
    runtime: Runtime,
    conn: Conn,
}

impl Mysql {
    fn connect() -> Result<Self> {
        let opts = Opts::from_url(&address(MYSQL)?)
            .map_err(|_| format!("{MYSQL} is not an address of MySQL"))?;
        let opts = OptsBuilder::from_opts(opts)
            // Else the driver goes on to whatever server has the socket that this one names.
            .prefer_socket(false)
            // The affected rows are those that were found, changed or not: as in PostgreSQL.
            .client_found_rows(true)
            .setup(vec![
                "SET SESSION innodb_lock_wait_timeout = 1, lock_wait_timeout = 10",
            ]);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connect = async { timeout(CONNECT_TIMEOUT, Conn::new(opts)).await };
        let conn = runtime
            .block_on(connect)
            .map_err(|_| format!("{MYSQL}: no answer within {CONNECT_TIMEOUT:?}"))?
            .map_err(|error| format!("{MYSQL}: no connection: {error}"))?;
        Ok(Self { runtime, conn })
    }

    fn run(&mut self, sql: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.conn.query_drop(sql))?)
    }

    fn rows<T: mysql_async::prelude::FromRow + Send + 'static>(
        &mut self,
        sql: &str,
    ) -> Result<Vec<T>> {
        Ok(self.runtime.block_on(self.conn.query(sql))?)
    }

    fn change(&mut self, sql: &str) -> mysql_async::Result<u64> {
        let change = self.conn.exec_drop(sql, Params::Empty);
        self.runtime.block_on(change)?;
        Ok(self.conn.affected_rows())
    }
}
