//! The two databases, and what the service does in them.

use std::env;
use std::time::Duration;

use unanimous::log::TableLog;
use unanimous::mysql::Mysql;
use unanimous::mysql::mysql_async::{Conn, Opts, OptsBuilder};
use unanimous::mysql::prelude::Queryable;
use unanimous::postgres::Postgres;
use unanimous::{BoxError, Transaction, TransactionManager};

use crate::Result;

pub(crate) struct Shop {
    pub(crate) tm: TransactionManager,
    orders: Postgres,
    ledger: Mysql,
}

impl Shop {
    pub(crate) async fn start() -> Result<Self> {
        let orders = Postgres::builder("order-service-orders", address("UNANIMOUS_PG_URL")?);
        let orders = orders.build()?;
        let ledger = Mysql::builder("order-service-ledger", address("UNANIMOUS_MYSQL_URL")?);
        let ledger = ledger.build()?;
        let mut log = TableLog::on(&orders);
        // For people only: which instance is meant. The name of the container or pod.
        if let Ok(instance) = env::var("INSTANCE") {
            log = log.label(instance);
        }
        if let Ok(seconds) = env::var("SUSPECT_AFTER") {
            log = log.suspect_after(Duration::from_secs(seconds.parse()?));
        }
        let tm = TransactionManager::builder()
            .log(log)
            .resource(&orders)
            .resource(&ledger)
            .start()
            .await?;
        let shop = Self { tm, orders, ledger };
        shop.create_tables().await?;
        Ok(shop)
    }

    /// Instances start at the same time, and PostgreSQL does not like the same `IF NOT EXISTS`
    /// twice at once. MySQL allows no DDL in an XA transaction, so this has its own connection
    /// there.
    async fn create_tables(&self) -> Result<()> {
        let mut tx = self.tm.begin();
        let orders = tx.enlist(&self.orders).await?;
        let sql = "SELECT pg_advisory_xact_lock(1431191886);
                   CREATE TABLE IF NOT EXISTS service_orders (id bigint PRIMARY KEY)";
        orders.batch_execute(sql).await?;
        tx.commit().await?;
        let opts = Opts::from_url(&address("UNANIMOUS_MYSQL_URL")?)?;
        let mut conn = Conn::new(OptsBuilder::from_opts(opts).prefer_socket(false)).await?;
        let sql = "CREATE TABLE IF NOT EXISTS service_ledger (order_id BIGINT PRIMARY KEY)
                   ENGINE = InnoDB";
        conn.query_drop(sql).await?;
        Ok(conn.disconnect().await?)
    }

    /// Both rows, or neither. Conflicts are tried again.
    pub(crate) async fn order(&self, id: i64) -> Result<()> {
        let (orders, ledger) = (&self.orders, &self.ledger);
        let work = async |mut tx: Transaction| {
            let (pg, my) = tx.enlist((orders, ledger)).await?;
            pg.execute("INSERT INTO service_orders VALUES ($1)", &[&id])
                .await?;
            my.exec_drop("INSERT INTO service_ledger VALUES (?)", (id,))
                .await?;
            tx.commit().await?;
            Ok::<_, BoxError>(())
        };
        self.tm.retry(work).await
    }

    /// How many rows there are of this order, in both databases.
    pub(crate) async fn count(&self, id: i64) -> Result<(i64, i64)> {
        let mut tx = self.tm.begin();
        let (pg, my) = tx.enlist_read_only((&self.orders, &self.ledger)).await?;
        let sql = "SELECT count(*) FROM service_orders WHERE id = $1";
        let orders = pg.query_one(sql, &[&id]).await?.get(0);
        let sql = "SELECT count(*) FROM service_ledger WHERE order_id = ?";
        let ledger: Option<i64> = my.exec_first(sql, (id,)).await?;
        tx.commit().await?;
        Ok((orders, ledger.unwrap_or_default()))
    }
}

fn address(variable: &str) -> Result<String> {
    Ok(env::var(variable).map_err(|_| format!("{variable} is not set: give the address"))?)
}
