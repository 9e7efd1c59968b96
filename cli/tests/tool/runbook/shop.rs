//! The shop of the runbook: orders in PostgreSQL, a ledger in MySQL, on servers of its own, which
//! one test after the other kills, fills and restores. A person's shell in it, and plain clients.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use mysql_async::prelude::Queryable;
use tokio::sync::{Mutex, MutexGuard};
use xtask::servers::{Kind, Options, Server};

use crate::support::{PASSWORDS, Ran, Service};
use crate::terminal::terminal;

static SERVERS: Mutex<Option<Servers>> = Mutex::const_new(None);

/// Made by the first test that needs them; their guards end them with this process.
pub(super) struct Servers {
    pub(super) orders: Server,
    pub(super) ledger: Server,
}

/// The service, and its servers for this test alone.
pub(super) struct Shop {
    pub(super) service: Service,
    servers: MutexGuard<'static, Option<Servers>>,
    /// Where the orders are: for itself, and for an administrator.
    orders_urls: [String; 2],
    /// What is called otherwise on the page: how it is called here, and there.
    names: Vec<(String, &'static str)>,
}

/// The table in both databases.
pub(super) const TABLE: &str = "booking";

impl Servers {
    fn start() -> Self {
        let start = |kind| Server::start(kind, &Options::new()).unwrap();
        Self {
            orders: start(Kind::PostgresNewest),
            ledger: start(Kind::Mysql),
        }
    }
}

impl Shop {
    pub(super) async fn open() -> Self {
        let mut servers = SERVERS.lock().await;
        if servers.is_none() {
            let started = tokio::task::spawn_blocking(Servers::start).await;
            *servers = Some(started.unwrap());
        }
        let pair = servers.as_mut().unwrap();
        let (orders, ledger) = (pair.orders.url(), pair.ledger.url());
        let mut service = Service::at("runbook", &orders, &ledger);
        TABLE.clone_into(&mut service.table);
        let names = vec![
            (folder(&service), "/srv/shop"),
            (
                format!("127.0.0.1:{}", pair.orders.port()),
                "orders.example:5432",
            ),
            (
                format!("127.0.0.1:{}", pair.ledger.port()),
                "ledger.example:3306",
            ),
            (text(&pair.orders.data()), "/var/lib/postgresql/data"),
            (text(&pair.ledger.data()), "/var/lib/mysql"),
            (who(), "kim@shop-1, uid 1000"),
            // Of members of a shared log, with the number of their process.
            (format!("{}:", host()), "shop-1:"),
        ];
        let shop = Self {
            orders_urls: [pair.orders.url(), pair.orders.admin_url()],
            service,
            servers,
            names,
        };
        shop.roll_back_all().await;
        shop.service.create_tables().await;
        shop
    }

    /// Leaves the servers as they were found.
    pub(super) async fn close(mut self) {
        let Servers { orders, ledger } = self.servers.as_mut().unwrap();
        self.service.urls = [orders.url(), ledger.url()];
        self.orders_urls = [orders.url(), orders.admin_url()];
        if !orders.is_running() {
            orders.restart().unwrap();
        }
        if !ledger.is_running() {
            ledger.restart().unwrap();
        }
        self.roll_back_all().await;
        self.service.drop_tables().await;
    }

    /// Nothing is in doubt, whoever asks.
    pub(super) fn is_over(&self) {
        self.service.run(&["list"]).exits(0);
        self.service.run(&["recover"]).exits(0);
    }

    /// The log was in the orders' database.
    pub(super) async fn drop_log_table(&self) {
        let place = "orders, as an administrator";
        self.rows(place, "DROP SCHEMA unanimous CASCADE").await;
    }

    pub(super) fn servers(&mut self) -> &mut Servers {
        self.servers.as_mut().unwrap()
    }

    /// What is prepared there by now is of no use any more: old data, and others' transactions.
    async fn roll_back_all(&self) {
        let sql = "SELECT gid FROM pg_prepared_xacts";
        for gid in self.rows("orders", sql).await.1 {
            let gid = &gid[0];
            let place = "orders, as an administrator";
            self.rows(place, &format!("ROLLBACK PREPARED '{gid}'"))
                .await;
        }
        for row in self.rows("ledger", "XA RECOVER").await.1 {
            let [format_id, length, _, both] = &row[..] else {
                panic!("{row:?}");
            };
            let (gtrid, bqual) = both.split_at(length.parse().unwrap());
            let xid = format!("'{gtrid}','{bqual}',{format_id}");
            self.rows("ledger", &format!("XA ROLLBACK {xid}")).await;
        }
    }

    /// The shell of whoever follows the page, and says yes when asked, or cannot be asked. What is
    /// said on both ways is told as one.
    pub(super) fn shell(&self, command: &str, says_yes: bool) -> Ran {
        let (mut keyboard, screen) = terminal();
        let stdin = if says_yes {
            keyboard.write_all(b"y\n").unwrap();
            Stdio::from(screen)
        } else {
            Stdio::null()
        };
        let tool = Path::new(env!("CARGO_BIN_EXE_unanimous")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {}", self.undisguise(command))])
            .current_dir(folder(&self.service))
            .env("PATH", format!("{}:{path}", tool.display()))
            .env(PASSWORDS[0], &self.service.passwords[0])
            .env("USER", USER)
            .env_remove("SUDO_USER")
            .stdin(stdin)
            .output()
            .unwrap();
        let mut ran = Ran::new(output);
        // The terminal shows what is typed.
        ran.stdout = ran.stdout.replace("[y/N] ", "[y/N] y\n");
        self.service.shows_no_password(&ran);
        ran
    }

    /// As it is called on the page.
    pub(super) fn disguise(&self, text: &str) -> String {
        let names = self.names.iter();
        names.fold(text.to_owned(), |text, (real, shown)| {
            text.replace(real, shown)
        })
    }

    fn undisguise(&self, text: &str) -> String {
        let names = self.names.iter();
        names.fold(text.to_owned(), |text, (real, shown)| {
            text.replace(shown, real)
        })
    }

    /// From now on this is the server of the orders, for the service, too.
    pub(super) fn orders_are_at(&mut self, server: &Server) {
        let (old, new) = (
            self.names[1].0.clone(),
            format!("127.0.0.1:{}", server.port()),
        );
        let config = self.service.config_text();
        self.service.write_config(&config.replace(&old, &new));
        self.service.urls[0] = server.url();
        self.orders_urls = [server.url(), server.admin_url()];
        self.names[1].0 = new;
    }

    /// What the server says to a client whose statement fails.
    pub(super) async fn refusal(&self, at: &str, sql: &str) -> String {
        if at == "ledger" {
            let mut ledger = self.service.ledger().await;
            let error = ledger.query_drop(sql).await.unwrap_err();
            let mysql_async::Error::Server(error) = error else {
                panic!("{error}");
            };
            return error.to_string();
        }
        let (url, sql) = (self.orders_urls[0].clone(), sql.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
            let error = client.batch_execute(&sql).unwrap_err();
            error.as_db_error().unwrap().to_string()
        });
        asked.await.unwrap()
    }

    /// Runs statements, each of which ends with its line, in one session; shows the last one's
    /// rows.
    pub(super) async fn plain_client(&self, place: &str, sql: &str) -> String {
        let (names, rows) = self.rows(place, sql).await;
        table(&names, &rows)
    }

    /// Names of columns, and rows, as a plain client sees them.
    async fn rows(&self, place: &str, sql: &str) -> Table {
        let statements = sql.split_inclusive(";\n");
        let statements = statements.map(|one| one.trim().trim_end_matches(';').to_owned());
        let statements: Vec<_> = statements.collect();
        let (at, who) = place.split_once(", ").unwrap_or((place, "as itself"));
        let pair = self.servers.as_ref().unwrap();
        let url = match (at, who) {
            ("orders", "as itself") => self.orders_urls[0].clone(),
            ("orders", "as an administrator") => self.orders_urls[1].clone(),
            ("orders", "on the old server") => pair.orders.admin_url(),
            ("ledger", "as itself") => self.service.urls[1].clone(),
            ("ledger", "as an administrator") => pair.ledger.admin_url(),
            _ => panic!("where is {place:?}?"),
        };
        if at == "orders" {
            let asked = tokio::task::spawn_blocking(move || of_postgres(&url, &statements));
            asked.await.unwrap()
        } else {
            of_mysql(&url, &statements).await
        }
    }
}

/// Names of columns, and rows.
type Table = (Vec<String>, Vec<Vec<String>>);

impl Drop for Shop {
    fn drop(&mut self) {
        // Nobody knows what a test that failed has left there.
        if std::thread::panicking() {
            drop(self.servers.take());
        }
    }
}

const USER: &str = "kim";

/// Who the tool says that it is.
fn who() -> String {
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    format!("{USER}@{}, uid {uid}", host())
}

fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    host.trim().to_owned()
}

fn folder(service: &Service) -> String {
    text(service.config().parent().unwrap())
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn of_postgres(url: &str, statements: &[String]) -> Table {
    let mut client = postgres::Client::connect(url, postgres::NoTls).unwrap();
    let (mut names, mut rows) = (Vec::new(), Vec::new());
    for sql in statements {
        (names, rows) = (Vec::new(), Vec::new());
        for message in client.simple_query(sql).unwrap() {
            if let postgres::SimpleQueryMessage::Row(row) = message {
                let columns = row.columns().iter();
                names = columns.map(|column| column.name().to_owned()).collect();
                let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("").to_owned());
                rows.push(cells.collect());
            }
        }
    }
    (names, rows)
}

async fn of_mysql(url: &str, statements: &[String]) -> Table {
    let opts = mysql_async::Opts::from_url(url).unwrap();
    let opts = mysql_async::OptsBuilder::from_opts(opts).prefer_socket(false);
    let mut client = mysql_async::Conn::new(opts).await.unwrap();
    let mut found: Vec<mysql_async::Row> = Vec::new();
    for sql in statements {
        found = client.query(sql).await.unwrap();
    }
    client.disconnect().await.unwrap();
    let names = found.first().map(mysql_async::Row::columns_ref);
    let names = names.unwrap_or_default().iter();
    let names = names.map(|column| column.name_str().into_owned()).collect();
    let cell = |row: &mysql_async::Row, at: usize| {
        let text = row.get::<Option<Vec<u8>>, _>(at).unwrap();
        String::from_utf8(text.unwrap_or_default()).unwrap()
    };
    let rows = found.iter();
    let rows = rows.map(|row| (0..row.len()).map(|at| cell(row, at)).collect());
    (names, rows.collect())
}

/// As `psql` prints it.
fn table(names: &[String], rows: &[Vec<String>]) -> String {
    if names.is_empty() {
        return "(no rows)".to_owned();
    }
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([names[at].chars().count()]).max().unwrap()
    };
    let line = |cells: &[String]| {
        let cells = cells.iter().enumerate();
        let cells = cells.map(|(at, cell)| format!("{cell:w$}", w = width(at)));
        let line = format!(" {}", cells.collect::<Vec<_>>().join(" | "));
        line.trim_end().to_owned()
    };
    let rule: Vec<_> = (0..names.len())
        .map(|at| "-".repeat(width(at) + 2))
        .collect();
    let head = [line(names), rule.join("+")];
    let lines = head.into_iter().chain(rows.iter().map(|row| line(row)));
    lines.collect::<Vec<_>>().join("\n")
}
