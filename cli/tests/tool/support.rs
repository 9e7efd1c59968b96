//! A folder with a config file, tables, an application that stops where it is told, and the tool.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use serde_json::Value;
use unanimous::mysql::Mysql;
use unanimous::operator::ConfigFile;
use unanimous::postgres::Postgres;
use unanimous::{Point, Probe};

const PLAN: &str = "UNANIMOUS_TEST_APPLICATION";
const AT_POINT: &str = "at the point:";
const PASSWORDS: [&str; 2] = ["UNANIMOUS_TEST_ORDERS_PW", "UNANIMOUS_TEST_LEDGER_PW"];

/// Where an application stops for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    BeforeDecide,
    DecisionDurable,
}

/// One test's service: orders in PostgreSQL, ledger in MySQL.
pub(crate) struct Service {
    folder: tempfile::TempDir,
    pub(crate) table: String,
    passwords: [String; 2],
    urls: [String; 2],
}

impl Service {
    pub(crate) fn new(test: &str) -> Self {
        let set = xtask::servers::shared();
        let (orders, orders_password) = without_password(&set.pg15.url);
        let (ledger, ledger_password) = without_password(&set.mysql.url);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ledger.pw"), &ledger_password).unwrap();
        let service = Self {
            folder,
            table: format!("cli_{test}_{}", std::process::id()),
            passwords: [orders_password, ledger_password],
            urls: [set.pg15.url, set.mysql.url],
        };
        service.write_config(&format!(
            "[log]\nfolder = \"log\"\n\
             [resources.orders]\nurl = \"{orders}\"\npassword_env = \"{}\"\n\
             [resources.ledger]\nurl = \"{ledger}\"\npassword_file = \"ledger.pw\"\n",
            PASSWORDS[0]
        ));
        service
    }

    pub(crate) fn write_config(&self, text: &str) {
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn config_text(&self) -> String {
        std::fs::read_to_string(self.config()).unwrap()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("unanimous.toml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) async fn create_tables(&self) {
        self.sql(&format!("CREATE TABLE {} (id INT PRIMARY KEY)", self.table))
            .await;
    }

    pub(crate) async fn drop_tables(&self) {
        self.sql(&format!("DROP TABLE {}", self.table)).await;
    }

    async fn sql(&self, sql: &str) {
        let (url, text) = (self.urls[0].clone(), sql.to_owned());
        let orders = tokio::task::spawn_blocking(move || {
            let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
            client.batch_execute(&text).unwrap();
        });
        orders.await.unwrap();
        self.mysql().await.query_drop(sql).await.unwrap();
    }

    async fn mysql(&self) -> mysql_async::Conn {
        let opts = mysql_async::Opts::from_url(&self.urls[1]).unwrap();
        let opts = mysql_async::OptsBuilder::from_opts(opts).prefer_socket(false);
        mysql_async::Conn::new(opts).await.unwrap()
    }

    /// How many rows each database has, as independent clients see them.
    pub(crate) async fn rows(&self) -> (i64, i64) {
        let sql = format!("SELECT count(*) FROM {}", self.table);
        let (url, text) = (self.urls[0].clone(), sql.clone());
        let orders = tokio::task::spawn_blocking(move || {
            let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
            client.query_one(&text, &[]).unwrap().get(0)
        });
        let ledger = self.mysql().await.query_first(sql).await.unwrap();
        (orders.await.unwrap(), ledger.unwrap())
    }

    /// Starts an application and waits until it stands at its point.
    pub(crate) fn start(&self, stop: Stop) -> Application {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["support::application", "--exact", "--nocapture"])
            .env(
                PLAN,
                format!("{stop:?}|{}|{}", self.table, self.config().display()),
            )
            .env(PASSWORDS[0], &self.passwords[0])
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut application = Application {
            child,
            gtrid: String::new(),
        };
        let said = lines.map_while(Result::ok).find_map(|line| {
            line.split_once(AT_POINT)
                .map(|(_, gtrid)| gtrid.trim().to_owned())
        });
        application.gtrid = said.expect("the application stands at its point");
        application
    }

    /// The tool, ready to be run.
    pub(crate) fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env(PASSWORDS[0], &self.passwords[0])
            .stdin(Stdio::null());
        command
    }

    /// Runs the tool.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let ran = Ran::new(self.tool(arguments).output().unwrap());
        for password in &self.passwords {
            let all = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!all.contains(password.as_str()), "I8: {all}");
        }
        ran
    }
}

/// What the tool said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The listed branches of one transaction: resource and branch.
    pub(crate) fn branches(&self, gtrid: &str) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        for resource in self.json()["resources"].as_array().unwrap() {
            let name = resource["resource"].as_str().unwrap();
            for branch in resource["branches"].as_array().unwrap() {
                if branch["gtrid"] == gtrid {
                    found.push((name.to_owned(), branch.clone()));
                }
            }
        }
        found
    }

    /// The table's lines about one transaction.
    pub(crate) fn lines(&self, gtrid: &str) -> Vec<String> {
        let lines = self.stdout.lines().filter(|line| line.contains(gtrid));
        lines.map(str::to_owned).collect()
    }
}

/// The address without its password, and the password.
fn without_password(url: &str) -> (String, String) {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (userinfo, host) = rest.split_once('@').unwrap();
    let (user, password) = userinfo.split_once(':').unwrap();
    (format!("{scheme}://{user}@{host}"), password.to_owned())
}

/// A running application; killed when it goes out of scope.
pub(crate) struct Application {
    child: Child,
    pub(crate) gtrid: String,
}

impl Application {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL. The transaction that it stood in.
    pub(crate) fn kill(self) -> String {
        self.gtrid.clone()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

struct StopAt {
    stop: Point,
    gtrid: std::sync::Mutex<String>,
}

#[async_trait]
impl Probe for StopAt {
    async fn reached(&self, point: Point) {
        if point == self.stop {
            println!("{AT_POINT}{}", self.gtrid.lock().unwrap());
            std::future::pending::<()>().await;
        }
    }
}

/// Not a test of its own: the application. Without a plan it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn application() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let [stop, table, config] = plan.split('|').collect::<Vec<_>>().try_into().unwrap();
    let stop = match stop {
        "BeforeDecide" => Point::BeforeDecide,
        "DecisionDurable" => Point::DecisionDurable,
        other => panic!("no such point: {other}"),
    };
    insert_and_stop(stop, table, Path::new(config)).await;
}

async fn insert_and_stop(stop: Point, table: &str, config: &Path) {
    let parts = ConfigFile::read(config).unwrap().parts().unwrap();
    let orders: Postgres = parts.resource("orders").unwrap();
    let ledger: Mysql = parts.resource("ledger").unwrap();
    let probe = Arc::new(StopAt {
        stop,
        gtrid: std::sync::Mutex::default(),
    });
    let tm = parts.builder().probe(probe.clone()).start().await.unwrap();
    let mut tx = tm.begin();
    *probe.gtrid.lock().unwrap() = tx.gtrid().to_string();
    let (pg, my) = tx.enlist((&orders, &ledger)).await.unwrap();
    let sql = format!("INSERT INTO {table} VALUES (1)");
    pg.execute(&sql, &[]).await.unwrap();
    my.query_drop(sql).await.unwrap();
    let ended = tx.commit().await;
    panic!("the point was not reached: {ended:?}");
}
