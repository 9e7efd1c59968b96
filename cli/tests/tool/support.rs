//! A folder with a config file, tables, the tool, and what it said.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use mysql_async::prelude::Queryable;
use serde_json::Value;

pub(crate) const PASSWORDS: [&str; 2] = ["UNANIMOUS_TEST_ORDERS_PW", "UNANIMOUS_TEST_LEDGER_PW"];

/// One test's service: orders in PostgreSQL, ledger in MySQL.
pub(crate) struct Service {
    folder: tempfile::TempDir,
    pub(crate) table: String,
    pub(crate) passwords: [String; 2],
    pub(crate) urls: [String; 2],
}

impl Service {
    pub(crate) fn new(test: &str) -> Self {
        let set = xtask::servers::shared();
        Self::at(test, &set.pg15.url, &set.mysql.url)
    }

    /// With the other half of the shared servers.
    pub(crate) fn new_on_the_others(test: &str) -> Self {
        let set = xtask::servers::shared();
        Self::at(test, &set.pg_newest.url, &set.mariadb.url)
    }

    pub(crate) fn at(test: &str, orders_url: &str, ledger_url: &str) -> Self {
        let (orders, orders_password) = split_password(orders_url);
        let (ledger, ledger_password) = split_password(ledger_url);
        // Not in the system's folder, which may be in memory: a log there is an error of a check.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::write(folder.path().join("ledger.pw"), &ledger_password).unwrap();
        let service = Self {
            folder,
            table: format!("cli_{test}_{}", std::process::id()),
            passwords: [orders_password, ledger_password],
            urls: [orders_url.to_owned(), ledger_url.to_owned()],
        };
        service.write_config(&format!(
            "[log]\nfolder = \"log\"\n\
             [resources.orders]\nurl = \"{orders}\"\npassword_env = \"{}\"\n\
             [resources.ledger]\nurl = \"{ledger}\"\npassword_file = \"ledger.pw\"\n",
            PASSWORDS[0]
        ));
        service
    }

    /// Adds lines at the end of the config file.
    pub(crate) fn configure(&self, lines: &str) {
        self.write_config(&format!("{}{lines}\n", self.config_text()));
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
        self.orders(sql).await;
        self.ledger().await.query_drop(sql).await.unwrap();
    }

    /// Runs this in the database of the orders, in one go.
    pub(crate) async fn orders(&self, sql: &str) {
        let (url, text) = (self.urls[0].clone(), sql.to_owned());
        let orders = tokio::task::spawn_blocking(move || {
            let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
            client.batch_execute(&text).unwrap();
        });
        orders.await.unwrap();
    }

    /// A session in the database of the ledger.
    pub(crate) async fn ledger(&self) -> mysql_async::Conn {
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
        let ledger = self.ledger().await.query_first(sql).await.unwrap();
        (orders.await.unwrap(), ledger.unwrap())
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
        self.shows_no_password(&ran);
        crate::schema::check(arguments, &ran.stdout);
        ran
    }

    #[track_caller]
    pub(crate) fn shows_no_password(&self, ran: &Ran) {
        for password in &self.passwords {
            let all = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!all.contains(password.as_str()), "I8: {all}");
        }
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

    /// The one listed branch whose text has this in it, and its resource.
    #[track_caller]
    pub(crate) fn branch(&self, text: &str) -> (String, Value) {
        let json = self.json();
        let resources = json["resources"].as_array().unwrap();
        let mut found = resources.iter().flat_map(|at| {
            let name = at["resource"].as_str().unwrap();
            let branches = at["branches"].as_array().unwrap();
            let named = branches.iter().map(move |branch| (name, branch));
            named.filter(|(_, branch)| branch["xid"].as_str().unwrap().contains(text))
        });
        let (name, branch) = found
            .next()
            .unwrap_or_else(|| panic!("no {text}: {self:?}"));
        assert!(found.next().is_none(), "more than one {text}: {self:?}");
        (name.to_owned(), branch.clone())
    }

    /// The table's lines about one transaction.
    pub(crate) fn lines(&self, gtrid: &str) -> Vec<String> {
        let lines = self.stdout.lines().filter(|line| line.contains(gtrid));
        lines.map(str::to_owned).collect()
    }
}

/// The address without its password, and the password.
pub(crate) fn split_password(url: &str) -> (String, String) {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (userinfo, host) = rest.split_once('@').unwrap();
    let (user, password) = userinfo.split_once(':').unwrap();
    (format!("{scheme}://{user}@{host}"), password.to_owned())
}
