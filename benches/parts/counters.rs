//! What servers have counted of themselves: flushes and statements.
//!
//! * PostgreSQL 18: `fsyncs` of the WAL in `pg_stat_io`, split into those that a session waits for
//!   and those in the background (*lazy*); statements where `pg_stat_statements` is there and told
//!   to track.
//! * MySQL: `Innodb_os_log_fsyncs`. MariaDB has that no more (seen: 10.11), but
//!   `Innodb_data_fsyncs`, which counts the log's with the few of its data files. A binary log's
//!   syncs are its calls that are neither reads nor writes (`COUNT_MISC` of
//!   `wait/io/file/sql/binlog` in `performance_schema.file_summary_by_event_name`; seen: one for
//!   each commit). Statements are `Queries`, which counts each of a packet.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use unanimous::postgres::tokio_postgres::{self, Client, NoTls};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What was counted so far, or between two looks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) postgres_flushes: f64,
    pub(crate) postgres_lazy_flushes: f64,
    pub(crate) postgres_statements: f64,
    pub(crate) mysql_flushes: f64,
    pub(crate) binlog_syncs: f64,
    pub(crate) mysql_statements: f64,
}

impl Counts {
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            postgres_flushes: self.postgres_flushes - before.postgres_flushes,
            postgres_lazy_flushes: self.postgres_lazy_flushes - before.postgres_lazy_flushes,
            postgres_statements: self.postgres_statements - before.postgres_statements,
            mysql_flushes: self.mysql_flushes - before.mysql_flushes,
            binlog_syncs: self.binlog_syncs - before.binlog_syncs,
            mysql_statements: self.mysql_statements - before.mysql_statements,
        }
    }
}

/// Asks both servers, as their administrator.
pub(crate) struct Counters {
    postgres: Client,
    mysql: Conn,
}

impl Counters {
    pub(crate) async fn connect(postgres_url: &str, mysql_url: &str) -> Result<Self, Error> {
        let (postgres, connection) = tokio_postgres::connect(postgres_url, NoTls).await?;
        tokio::spawn(connection);
        let mysql = connect_mysql(mysql_url).await?;
        Ok(Self { postgres, mysql })
    }

    /// A session of PostgreSQL tells what it has done at its end, at the latest.
    pub(crate) async fn wait_until_alone(&self) -> Result<(), Error> {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
        for _ in 0..600 {
            let count: i64 = self.postgres.query_one(others, &[]).await?.get(0);
            if count == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("sessions of the application stay open".into())
    }

    /// What both have counted so far.
    pub(crate) async fn read(&mut self) -> Result<Counts, Error> {
        let sql = "SELECT
            coalesce(sum(fsyncs) FILTER (WHERE backend_type = 'client backend'), 0)::float8,
            coalesce(sum(fsyncs) FILTER (WHERE backend_type <> 'client backend'), 0)::float8
            FROM pg_stat_io WHERE object = 'wal'";
        let flushes = self.postgres.query_one(sql, &[]).await?;
        Ok(Counts {
            postgres_flushes: flushes.get(0),
            postgres_lazy_flushes: flushes.get(1),
            postgres_statements: self.postgres_statements().await?,
            mysql_flushes: self.mysql_flushes().await?,
            binlog_syncs: self.binlog_syncs().await?,
            mysql_statements: self.count_of("Queries").await?,
        })
    }

    async fn mysql_flushes(&mut self) -> Result<f64, Error> {
        match self.status("Innodb_os_log_fsyncs").await? {
            Some(count) => Ok(count),
            None => self.count_of("Innodb_data_fsyncs").await,
        }
    }

    async fn count_of(&mut self, name: &str) -> Result<f64, Error> {
        let count = self.status(name).await?;
        Ok(count.ok_or_else(|| format!("the server does not count {name}"))?)
    }

    /// Lets PostgreSQL count statements from now on, in every session, or no more.
    pub(crate) async fn track_statements(&self, track: bool) -> Result<(), Error> {
        let which = if track { "top" } else { "none" };
        let sql = [
            "CREATE EXTENSION IF NOT EXISTS pg_stat_statements".to_owned(),
            format!("ALTER SYSTEM SET pg_stat_statements.track = '{which}'"),
            "SELECT pg_reload_conf()".to_owned(),
        ];
        for sql in sql {
            self.postgres.batch_execute(&sql).await?;
        }
        Ok(())
    }

    /// Of the application alone: this session's own questions are another role's.
    async fn postgres_statements(&self) -> Result<f64, Error> {
        let there = "SELECT count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'";
        let there: i64 = self.postgres.query_one(there, &[]).await?.get(0);
        if there == 0 {
            return Ok(0.0);
        }
        let sql = "SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements s
                   JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = 'app'";
        Ok(self.postgres.query_one(sql, &[]).await?.get(0))
    }

    async fn status(&mut self, name: &str) -> Result<Option<f64>, Error> {
        let sql = format!("SHOW GLOBAL STATUS LIKE '{name}'");
        let row: Option<(String, f64)> = self.mysql.query_first(sql).await?;
        Ok(row.map(|(_, count)| count))
    }

    /// MariaDB has no such table unless it is told to; it is measured without a binary log.
    async fn binlog_syncs(&mut self) -> Result<f64, Error> {
        let sql = "SELECT CAST(COALESCE(SUM(COUNT_MISC), 0) AS DOUBLE)
                   FROM performance_schema.file_summary_by_event_name
                   WHERE EVENT_NAME = 'wait/io/file/sql/binlog'";
        let calls: Option<f64> = self.mysql.query_first(sql).await?;
        Ok(calls.unwrap_or_default())
    }
}

/// Over the network, whatever the server offers.
pub(crate) async fn connect_mysql(url: &str) -> Result<Conn, Error> {
    let opts = OptsBuilder::from_opts(Opts::from_url(url)?).prefer_socket(false);
    Ok(Conn::new(opts).await?)
}
