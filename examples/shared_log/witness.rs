//! Plain clients, which know nothing of Unanimous.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use unanimous::mysql::mysql_async::{Conn, Opts, OptsBuilder, Row};
use unanimous::mysql::prelude::Queryable;
use unanimous::postgres::tokio_postgres::{self, Client, NoTls};

use crate::{ACCOUNTS, BALANCE, PATIENCE, Result, address};

pub(crate) struct Witness {
    pg: Client,
    my: Conn,
}

impl Witness {
    pub(crate) async fn connect() -> Result<Self> {
        let (pg, connection) =
            tokio_postgres::connect(&address("UNANIMOUS_PG_URL")?, NoTls).await?;
        tokio::spawn(connection);
        let opts = Opts::from_url(&address("UNANIMOUS_MYSQL_URL")?)?;
        let my = Conn::new(OptsBuilder::from_opts(opts).prefer_socket(false)).await?;
        Ok(Self { pg, my })
    }

    pub(crate) async fn make_tables(&mut self, names: &[&str]) -> Result<()> {
        for table in ["shared_log_checking", "shared_log_paid"] {
            self.pg
                .batch_execute(&format!("DROP TABLE IF EXISTS {table}"))
                .await?;
        }
        for table in ["shared_log_savings", "shared_log_booked"] {
            self.my
                .query_drop(format!("DROP TABLE IF EXISTS {table}"))
                .await?;
        }
        let account = "(account varchar(40) PRIMARY KEY, balance bigint NOT NULL)";
        let gtrid = "(gtrid varchar(64) PRIMARY KEY)";
        let pg = format!(
            "CREATE TABLE shared_log_checking {account}; CREATE TABLE shared_log_paid {gtrid}"
        );
        self.pg.batch_execute(&pg).await?;
        for (table, columns) in [("savings", account), ("booked", gtrid)] {
            let make = format!("CREATE TABLE shared_log_{table} {columns} ENGINE = InnoDB");
            self.my.query_drop(make).await?;
        }
        for name in names {
            for account in ACCOUNTS {
                let row = format!("VALUES ('{name}{account}', {BALANCE})");
                let insert = format!("INSERT INTO shared_log_checking {row}");
                self.pg.batch_execute(&insert).await?;
                let insert = format!("INSERT INTO shared_log_savings {row}");
                self.my.query_drop(insert).await?;
            }
        }
        Ok(())
    }

    /// Where branches of this transaction, or of this manager, are prepared.
    pub(crate) async fn prepared(&mut self, begin: &str) -> Result<Vec<&'static str>> {
        let sql = "SELECT count(*) FROM pg_prepared_xacts WHERE strpos(gid, $1) > 0";
        let count: i64 = self.pg.query_one(sql, &[&begin]).await?.get(0);
        let listed: Vec<Row> = self.my.query("XA RECOVER").await?;
        let xids = listed
            .iter()
            .filter_map(|row| row.get::<Vec<u8>, _>("data"));
        let is_prepared = xids
            .into_iter()
            .any(|xid| xid.starts_with(begin.as_bytes()));
        let all = [(count > 0, "PostgreSQL"), (is_prepared, "MySQL")];
        Ok(all
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, name)| *name)
            .collect())
    }

    /// Waits until nothing of these transactions is prepared any more; answers how long.
    pub(crate) async fn wait_for_end(&mut self, gtrids: &[&str]) -> Result<Duration> {
        let begin = Instant::now();
        for gtrid in gtrids {
            while !self.prepared(gtrid).await?.is_empty() {
                if begin.elapsed() > PATIENCE {
                    return Err(format!("{gtrid} is still in doubt").into());
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(begin.elapsed())
    }

    /// The transaction is in both databases, or in neither.
    pub(crate) async fn expect(&mut self, gtrid: &str, is_there: bool) -> Result<()> {
        let sql = "SELECT count(*) FROM shared_log_paid WHERE gtrid = $1";
        let paid: i64 = self.pg.query_one(sql, &[&gtrid]).await?.get(0);
        let sql = "SELECT count(*) FROM shared_log_booked WHERE gtrid = ?";
        let booked: Option<i64> = self.my.exec_first(sql, (gtrid,)).await?;
        println!(
            "{gtrid}: in PostgreSQL {paid} times, in MySQL {} times",
            booked.unwrap_or_default()
        );
        let expected = i64::from(is_there);
        if (paid, booked) == (expected, Some(expected)) {
            Ok(())
        } else {
            Err(format!("{gtrid}: expected {expected} row in each").into())
        }
    }

    /// The money, and the names of all transactions, in both databases.
    pub(crate) async fn check_sums(&mut self, accounts: usize) -> Result<()> {
        let sql = "SELECT coalesce(sum(balance), 0)::bigint FROM shared_log_checking";
        let checking: i64 = self.pg.query_one(sql, &[]).await?.get(0);
        let sql = "SELECT CAST(COALESCE(SUM(balance), 0) AS SIGNED) FROM shared_log_savings";
        let savings: Option<i64> = self.my.query_first(sql).await?;
        let savings = savings.unwrap_or_default();
        let sql = "SELECT gtrid FROM shared_log_paid ORDER BY gtrid COLLATE \"C\"";
        let rows = self.pg.query(sql, &[]).await?;
        let paid: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let mut booked: Vec<String> = self.my.query("SELECT gtrid FROM shared_log_booked").await?;
        booked.sort_unstable();
        let expected = 2 * BALANCE * i64::try_from(accounts)?;
        println!(
            "PostgreSQL holds {checking}, MySQL {savings}: {} of {expected}",
            checking + savings
        );
        println!(
            "transactions in PostgreSQL: {}, in MySQL: {}",
            paid.len(),
            booked.len()
        );
        if checking + savings != expected {
            return Err("money was lost, or made".into());
        }
        if paid != booked {
            return Err("a transaction is in one database only".into());
        }
        Ok(())
    }
}
