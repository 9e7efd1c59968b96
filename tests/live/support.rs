//! Accounts in real databases: written through Unanimous, read by independent clients.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::ports::Resource;
use unanimous::postgres::Postgres;
use unanimous::{BoxError, Config, Gtrid, TransactionManager, TransactionManagerBuilder};

/// A server of the shared set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Db {
    Postgres15,
    PostgresNewest,
    Mysql,
    Mariadb,
}

impl Db {
    pub(crate) fn url(self) -> String {
        let set = xtask::servers::shared();
        match self {
            Self::Postgres15 => set.pg15.url,
            Self::PostgresNewest => set.pg_newest.url,
            Self::Mysql => set.mysql.url,
            Self::Mariadb => set.mariadb.url,
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let all = [
            Self::Postgres15,
            Self::PostgresNewest,
            Self::Mysql,
            Self::Mariadb,
        ];
        all.into_iter()
            .find(|db| format!("{db:?}") == text)
            .expect("a name printed by Debug")
    }

    pub(crate) const fn is_postgres(self) -> bool {
        matches!(self, Self::Postgres15 | Self::PostgresNewest)
    }
}

/// An account table of one test in one database, and an independent client to look into it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) url: String,
    pub(crate) table: String,
    pub(crate) is_postgres: bool,
}

impl Account {
    /// A fresh table with one account that holds 100.
    pub(crate) async fn create(db: Db, table: &str) -> Self {
        let account = Self::at(db, table);
        account.sql(&format!("DROP TABLE IF EXISTS {table}")).await;
        let engine = if account.is_postgres {
            ""
        } else {
            " ENGINE=InnoDB"
        };
        account
            .sql(&format!(
                "CREATE TABLE {table} (id INT PRIMARY KEY, balance BIGINT){engine}"
            ))
            .await;
        account
            .sql(&format!("INSERT INTO {table} VALUES (1, 100)"))
            .await;
        account
    }

    pub(crate) fn at(db: Db, table: &str) -> Self {
        Self {
            url: db.url(),
            table: table.to_owned(),
            is_postgres: db.is_postgres(),
        }
    }

    pub(crate) async fn drop_table(&self) {
        self.sql(&format!("DROP TABLE {}", self.table)).await;
    }

    /// What the account holds, as an independent client sees it.
    pub(crate) async fn balance(&self) -> i64 {
        let sql = format!("SELECT balance FROM {} WHERE id = 1", self.table);
        if self.is_postgres {
            self.postgres(move |client| client.query_one(&sql, &[]).unwrap().get(0))
                .await
        } else {
            let mut conn = self.mysql().await;
            conn.query_first(sql).await.unwrap().unwrap()
        }
    }

    /// How many branches of this transaction the server lists as prepared.
    pub(crate) async fn prepared(&self, gtrid: Gtrid) -> usize {
        let gtrid = gtrid.to_string();
        if self.is_postgres {
            let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
            let gids: Vec<String> = self
                .postgres(move |client| {
                    client
                        .query(sql, &[])
                        .unwrap()
                        .iter()
                        .map(|row| row.get(0))
                        .collect()
                })
                .await;
            gids.iter().filter(|gid| gid.contains(&gtrid)).count()
        } else {
            let mut conn = self.mysql().await;
            let rows: Vec<(i64, i64, i64, Vec<u8>)> = conn.query("XA RECOVER").await.unwrap();
            let is_ours = |data: &[u8]| String::from_utf8_lossy(data).contains(&gtrid);
            rows.iter().filter(|row| is_ours(&row.3)).count()
        }
    }

    pub(crate) async fn sql(&self, sql: &str) {
        if self.is_postgres {
            let sql = sql.to_owned();
            self.postgres(move |client| client.batch_execute(&sql).unwrap())
                .await;
        } else {
            self.mysql().await.query_drop(sql).await.unwrap();
        }
    }

    pub(crate) async fn postgres<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut postgres::Client) -> T + Send + 'static,
    ) -> T {
        let url = self.url.clone();
        let task = tokio::task::spawn_blocking(move || {
            ask(&mut postgres::Client::connect(&url, postgres::NoTls).unwrap())
        });
        task.await.unwrap()
    }

    pub(crate) async fn mysql(&self) -> mysql_async::Conn {
        let opts = mysql_async::Opts::from_url(&self.url).unwrap();
        let opts = mysql_async::OptsBuilder::from_opts(opts).prefer_socket(false);
        mysql_async::Conn::new(opts).await.unwrap()
    }
}

/// A resource in whose branches money can be moved.
#[async_trait]
pub(crate) trait Bank: Resource {
    fn connect(name: &str, url: &str) -> Self;
    async fn add(branch: &mut Self::Branch, table: &str, amount: i64) -> Result<(), BoxError>;
    /// A statement of the application, whatever it does.
    async fn run(branch: &mut Self::Branch, sql: &str) -> Result<(), BoxError>;
    /// Says that a failed statement was dealt with, where that has to be said.
    fn handled(branch: &mut Self::Branch);
}

#[async_trait]
impl Bank for Postgres {
    fn connect(name: &str, url: &str) -> Self {
        Self::builder(name, url).build().unwrap()
    }

    async fn add(branch: &mut Self::Branch, table: &str, amount: i64) -> Result<(), BoxError> {
        let sql = format!("UPDATE {table} SET balance = balance + $1 WHERE id = 1");
        branch.execute(&sql, &[&amount]).await?;
        Ok(())
    }

    async fn run(branch: &mut Self::Branch, sql: &str) -> Result<(), BoxError> {
        Ok(branch.batch_execute(sql).await?)
    }

    fn handled(_branch: &mut Self::Branch) {}
}

#[async_trait]
impl Bank for Mysql {
    fn connect(name: &str, url: &str) -> Self {
        Self::builder(name, url).build().unwrap()
    }

    async fn add(branch: &mut Self::Branch, table: &str, amount: i64) -> Result<(), BoxError> {
        let sql = format!("UPDATE {table} SET balance = balance + ? WHERE id = 1");
        branch.exec_drop(sql, (amount,)).await?;
        Ok(())
    }

    async fn run(branch: &mut Self::Branch, sql: &str) -> Result<(), BoxError> {
        Ok(branch.query_drop(sql).await?)
    }

    fn handled(branch: &mut Self::Branch) {
        assert!(branch.statement_error_handled());
    }
}

/// Two accounts, a resource for each, and a log folder.
pub(crate) struct Transfer<A, B> {
    pub(crate) from: A,
    pub(crate) to: B,
    pub(crate) from_table: String,
    pub(crate) to_table: String,
}

impl<A: Bank, B: Bank> Transfer<A, B> {
    pub(crate) fn new(from: &Account, to: &Account) -> Self {
        Self {
            from: A::connect("orders", &from.url),
            to: B::connect("ledger", &to.url),
            from_table: from.table.clone(),
            to_table: to.table.clone(),
        }
    }

    pub(crate) fn builder(&self, log: &Path) -> TransactionManagerBuilder {
        TransactionManager::builder()
            .log(FileLog::at(log))
            .resource(&self.from)
            .resource(&self.to)
            .config(short_intervals)
    }

    /// Moves 30 within a new transaction, up to but not including its commit.
    pub(crate) async fn begin(
        &self,
        tm: &TransactionManager,
    ) -> Result<unanimous::Transaction, BoxError> {
        let mut tx = tm.begin();
        let (from, to) = tx.enlist((&self.from, &self.to)).await?;
        let (debited, credited) = tokio::join!(
            A::add(from, &self.from_table, -30),
            B::add(to, &self.to_table, 30)
        );
        debited?;
        credited?;
        Ok(tx)
    }
}

/// Tests that wait for recovery should not wait long.
pub(crate) fn short_intervals(config: &mut Config) {
    config.recovery_interval = Duration::from_millis(200);
    config.recovery_interval_max = Duration::from_secs(1);
}

/// Calls a function with both resources' types.
#[macro_export]
macro_rules! with_banks {
    (($from:expr, $to:expr), $call:ident ( $($argument:expr),* )) => {{
        use unanimous::{mysql::Mysql, postgres::Postgres};
        match ($from.is_postgres, $to.is_postgres) {
            (true, true) => $call::<Postgres, Postgres>($($argument),*).await,
            (true, false) => $call::<Postgres, Mysql>($($argument),*).await,
            (false, true) => $call::<Mysql, Postgres>($($argument),*).await,
            (false, false) => $call::<Mysql, Mysql>($($argument),*).await,
        }
    }};
}

/// Polls for a condition that must come true without anybody's help. The limit is only there so
/// that a failure ends.
pub(crate) async fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never true: {what}");
}

pub(crate) const PAIRS: [(Db, Db); 5] = [
    (Db::Postgres15, Db::Mysql),
    (Db::PostgresNewest, Db::Mariadb),
    (Db::Mysql, Db::PostgresNewest),
    (Db::Mysql, Db::Mariadb),
    (Db::Postgres15, Db::PostgresNewest),
];

/// A table name that no other test of this or another run uses.
pub(crate) fn table(test: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // MySQL allows 64 characters in all.
    let short = &test[..test.len().min(32)];
    format!("{short}_{}_{next}", std::process::id())
}

/// A variable of the environment that says something.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// How many files this process has open, once it is no more than `expected` or long enough.
pub(crate) async fn settled_files(expected: usize) -> usize {
    let count = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_millis(200)).await;
    while count() > expected && begin.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    count()
}
