//! Three databases, one commit: an order in PostgreSQL, its payment in MySQL, its delivery in
//! MariaDB.
//!
//! ```text
//! UNANIMOUS_PG_URL=postgres://… UNANIMOUS_MYSQL_URL=mysql://… UNANIMOUS_MARIADB_URL=mysql://… \
//!     cargo run --example order_payment_delivery -- LOG-FOLDER
//! ```
//! The first order is paid and sent. The second costs more than the customer has: MySQL's
//! constraint refuses the payment, and neither the order nor its delivery exists afterwards. Plain
//! connections count what is there.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::mysql::mysql_async::{Conn, Opts, OptsBuilder};
use unanimous::mysql::prelude::Queryable;
use unanimous::postgres::Postgres;
use unanimous::postgres::tokio_postgres::{self, Client, NoTls};
use unanimous::{Gtrid, TransactionManager};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Names that every program of yours agrees on: they are stored in the log and in the databases.
const ORDERS: &str = "orders";
const PAYMENTS: &str = "payments";
const DELIVERIES: &str = "deliveries";

#[tokio::main]
async fn main() -> ExitCode {
    match shop().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("order_payment_delivery: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn shop() -> Result<()> {
    let addresses = Addresses::from_env()?;
    let log = env::args_os().nth(1).unwrap_or("./unanimous-log".into());
    let mut eyes = Eyes::open(&addresses).await?;
    eyes.create_tables().await?;

    let shop = Shop {
        orders: Postgres::builder(ORDERS, &addresses.postgres).build()?,
        payments: Mysql::builder(PAYMENTS, &addresses.mysql).build()?,
        deliveries: Mysql::builder(DELIVERIES, &addresses.mariadb).build()?,
    };
    let tm = TransactionManager::builder()
        .log(FileLog::at(log))
        .resource(&shop.orders)
        .resource(&shop.payments)
        .resource(&shop.deliveries)
        .start()
        .await?;

    let first = new_id()?;
    eyes.give_money(first, 100).await?;
    let gtrid = shop.buy(&tm, first, 100).await?;
    println!("order {first} is committed as transaction {gtrid}");
    eyes.expect(first, [1, 1, 1]).await?;

    let second = first + 1;
    eyes.give_money(second, 100).await?;
    match shop.buy(&tm, second, 101).await {
        Ok(_) => return Err("an order was paid with money that was not there".into()),
        Err(error) => println!("order {second} is rolled back: {error}"),
    }
    eyes.expect(second, [0, 0, 0]).await?;
    tm.shutdown().await?;
    eyes.close().await
}

/// The three databases as resources.
struct Shop {
    orders: Postgres,
    payments: Mysql,
    deliveries: Mysql,
}

impl Shop {
    /// All of it, or nothing: an error drops the transaction, which rolls it back everywhere.
    async fn buy(&self, tm: &TransactionManager, id: i64, price: i64) -> Result<Gtrid> {
        let mut tx = tm.begin();
        let all = (&self.orders, &self.payments, &self.deliveries);
        let (orders, payments, deliveries) = tx.enlist(all).await?;
        let order = "INSERT INTO shop_orders (id, price) VALUES ($1, $2)";
        orders.execute(order, &[&id, &price]).await?;
        let delivery = "INSERT INTO shop_deliveries (order_id) VALUES (?)";
        deliveries.exec_drop(delivery, (id,)).await?;
        let payment = "UPDATE shop_accounts SET money = money - ?, payments = payments + 1
                       WHERE customer = ?";
        payments.exec_drop(payment, (price, id)).await?;
        Ok(tx.commit().await?.gtrid())
    }
}

struct Addresses {
    postgres: String,
    mysql: String,
    mariadb: String,
}

impl Addresses {
    fn from_env() -> Result<Self> {
        let address =
            |name: &str| env::var(name).map_err(|_| format!("{name} is not set: give the address"));
        Ok(Self {
            postgres: address("UNANIMOUS_PG_URL")?,
            mysql: address("UNANIMOUS_MYSQL_URL")?,
            mariadb: address("UNANIMOUS_MARIADB_URL")?,
        })
    }
}

/// Plain connections, which know nothing of the transaction manager.
struct Eyes {
    orders: Client,
    payments: Conn,
    deliveries: Conn,
}

impl Eyes {
    async fn open(addresses: &Addresses) -> Result<Self> {
        let (orders, connection) = tokio_postgres::connect(&addresses.postgres, NoTls).await?;
        tokio::spawn(connection);
        Ok(Self {
            orders,
            payments: connect_mysql(&addresses.mysql).await?,
            deliveries: connect_mysql(&addresses.mariadb).await?,
        })
    }

    async fn create_tables(&mut self) -> Result<()> {
        let orders = "CREATE TABLE IF NOT EXISTS shop_orders (id bigint PRIMARY KEY, price bigint)";
        let accounts = "CREATE TABLE IF NOT EXISTS shop_accounts (
                            customer BIGINT PRIMARY KEY, money BIGINT NOT NULL,
                            payments INT NOT NULL,
                            CHECK (money >= 0)) ENGINE = InnoDB";
        let deliveries = "CREATE TABLE IF NOT EXISTS shop_deliveries (
                              order_id BIGINT PRIMARY KEY) ENGINE = InnoDB";
        self.orders.batch_execute(orders).await?;
        self.payments.query_drop(accounts).await?;
        self.deliveries.query_drop(deliveries).await?;
        Ok(())
    }

    async fn give_money(&mut self, customer: i64, money: i64) -> Result<()> {
        let account = "INSERT INTO shop_accounts VALUES (?, ?, 0)";
        self.payments.exec_drop(account, (customer, money)).await?;
        Ok(())
    }

    /// How many orders, payments and deliveries there are of this order.
    async fn expect(&mut self, id: i64, expected: [i64; 3]) -> Result<()> {
        let orders = "SELECT count(*) FROM shop_orders WHERE id = $1";
        let payments = "SELECT payments FROM shop_accounts WHERE customer = ?";
        let deliveries = "SELECT count(*) FROM shop_deliveries WHERE order_id = ?";
        let orders: i64 = self.orders.query_one(orders, &[&id]).await?.get(0);
        let payments: Option<i64> = self.payments.exec_first(payments, (id,)).await?;
        let deliveries: Option<i64> = self.deliveries.exec_first(deliveries, (id,)).await?;
        let seen = [Some(orders), payments, deliveries];
        println!("order {id}: orders, payments, deliveries = {seen:?}");
        if seen == expected.map(Some) {
            Ok(())
        } else {
            Err(format!("the databases do not agree: {seen:?} instead of {expected:?}").into())
        }
    }

    async fn close(self) -> Result<()> {
        self.payments.disconnect().await?;
        self.deliveries.disconnect().await?;
        Ok(())
    }
}

async fn connect_mysql(url: &str) -> Result<Conn> {
    let opts = OptsBuilder::from_opts(Opts::from_url(url)?).prefer_socket(false);
    Ok(Conn::new(opts).await?)
}

/// An id that no database has seen: the time, in microseconds.
fn new_id() -> Result<i64> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(time.as_micros())?)
}
