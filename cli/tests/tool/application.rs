//! Applications that are this test program itself, run again, as a child that can be killed: each
//! is built from the service's config file and says on its standard output how far it is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mysql_async::prelude::Queryable;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use unanimous::mysql::Mysql;
use unanimous::operator::{ConfigFile, Parts};
use unanimous::postgres::Postgres;
use unanimous::{Point, Probe, TransactionManager};

use crate::support::{PASSWORDS, Service};

const PLAN: &str = "UNANIMOUS_TEST_APPLICATION";
const SAYS: &str = "the application says:";

/// What an application does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Stops for ever before its decision.
    BeforeDecide,
    /// Stops for ever when its decision is durable; goes on when it is told something.
    DecisionDurable,
    /// Says a gtrid that is used by nobody, and does nothing.
    Idle,
    /// The same, once the first pass of its own at every resource has begun.
    Rested,
    /// Commits one transaction after another.
    Busy,
    /// Says that it is ready. Told a number, it commits a row with it and says how that went. Told
    /// `full`, it can write to no file from then on, as if its disk was full; told `room`, it can;
    /// told `stop`, it shuts down and says that, too.
    Obedient,
}

impl Service {
    /// Starts an application and waits for its first word: a gtrid.
    pub(crate) fn start(&self, plan: Plan) -> Application {
        let mut application = self.launch(plan);
        application.gtrid = application.word().expect("the application says its gtrid");
        application
    }

    /// Starts one that has nothing to do, and whose first passes are over: what is prepared from
    /// now on stays until its next.
    pub(crate) fn start_idle(&self) -> Application {
        let application = self.start(Plan::Rested);
        // A pass takes its turn behind the one that runs.
        self.run(&["recover", "--yes"]).exits(0);
        application
    }

    /// Starts an application that has not said anything yet.
    pub(crate) fn launch(&self, plan: Plan) -> Application {
        let mut command = Command::new("sh");
        command
            // A file that becomes too long is an error for it, not its end.
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["application::application", "--exact", "--nocapture"])
            .env(
                PLAN,
                format!("{plan:?}|{}|{}", self.table, self.config().display()),
            )
            .env(PASSWORDS[0], &self.passwords[0])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Application {
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            stdin: child.stdin.take().unwrap(),
            child,
            gtrid: String::new(),
        }
    }
}

/// A running application; killed when it goes out of scope.
pub(crate) struct Application {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) gtrid: String,
}

impl Application {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says next; `None` at its end.
    pub(crate) fn word(&mut self) -> Option<String> {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        lines.find_map(|line| Some(line.split_once(SAYS)?.1.trim().to_owned()))
    }

    /// Lets it go on.
    pub(crate) fn go_on(&mut self) {
        self.tell("");
    }

    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").unwrap();
    }

    /// Has an obedient one commit a row, and hears how that went.
    pub(crate) fn commit(&mut self, id: u32) -> String {
        self.tell(&id.to_string());
        self.word().unwrap()
    }

    /// Has an obedient one shut down.
    pub(crate) fn stop(mut self) {
        self.tell("stop");
        assert_eq!(self.word().unwrap(), "stopped");
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

fn say(word: impl std::fmt::Display) {
    println!("{SAYS}{word}");
}

/// Returns when something is told on the standard input; never if that has ended.
async fn told() {
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    if told.await.unwrap().unwrap_or(0) == 0 {
        std::future::pending::<()>().await;
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
            say(self.gtrid.lock().unwrap());
            told().await;
        }
    }
}

/// Not a test of its own: the application. Without a plan it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn application() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let [plan, table, config] = plan.split('|').collect::<Vec<_>>().try_into().unwrap();
    let parts = match ConfigFile::read(Path::new(config)).unwrap().parts() {
        Ok(parts) => parts,
        Err(error) => return say(error),
    };
    match plan {
        "BeforeDecide" => insert_and_stop(&parts, Point::BeforeDecide, table).await,
        "DecisionDurable" => insert_and_stop(&parts, Point::DecisionDurable, table).await,
        "Idle" => idle(&parts).await,
        "Rested" => rested(&parts).await,
        "Busy" => busy(&parts, table).await,
        "Obedient" => obedient(&parts, table).await,
        other => panic!("no such plan: {other}"),
    }
}

async fn insert_and_stop(parts: &Parts, stop: Point, table: &str) {
    let probe = Arc::new(StopAt {
        stop,
        gtrid: std::sync::Mutex::default(),
    });
    let tm = parts.builder().probe(probe.clone()).start().await.unwrap();
    let mut tx = tm.begin();
    *probe.gtrid.lock().unwrap() = tx.gtrid().to_string();
    insert(parts, &mut tx, table, 1).await;
    say(match tx.commit().await {
        Ok(_) => "committed".to_owned(),
        Err(error) => error.to_string(),
    });
    std::future::pending::<()>().await;
}

async fn insert(parts: &Parts, tx: &mut unanimous::Transaction, table: &str, id: u32) {
    let orders: Postgres = parts.resource("orders").unwrap();
    let ledger: Mysql = parts.resource("ledger").unwrap();
    let (pg, my) = tx.enlist((&orders, &ledger)).await.unwrap();
    let sql = format!("INSERT INTO {table} VALUES ({id})");
    pg.execute(&sql, &[]).await.unwrap();
    my.query_drop(sql).await.unwrap();
}

async fn idle(parts: &Parts) {
    let tm = match parts.builder().start().await {
        Ok(tm) => tm,
        Err(error) => return say(error),
    };
    say(tm.begin().gtrid());
    std::future::pending::<()>().await;
}

/// Counts the passes that have begun at each resource.
#[derive(Default)]
struct Passes(std::sync::Mutex<BTreeMap<String, usize>>);

impl Passes {
    /// After the start's, at every resource. A pass that has begun has its turn.
    fn are_under_way(&self) -> bool {
        self.0.lock().unwrap().values().all(|count| *count > 1)
    }
}

#[async_trait]
impl Probe for Passes {
    async fn reached(&self, point: Point) {
        if let Point::PassBegun(name) = point {
            *self.0.lock().unwrap().entry(name.to_string()).or_default() += 1;
        }
    }
}

async fn rested(parts: &Parts) {
    let passes = Arc::new(Passes::default());
    let tm = parts.builder().probe(passes.clone()).start().await.unwrap();
    while !passes.are_under_way() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    say(tm.begin().gtrid());
    std::future::pending::<()>().await;
}

async fn busy(parts: &Parts, table: &str) {
    let tm: TransactionManager = parts.builder().start().await.unwrap();
    for id in 1.. {
        let mut tx = tm.begin();
        let gtrid = tx.gtrid();
        insert(parts, &mut tx, table, id).await;
        tx.commit().await.unwrap();
        if id == 1 {
            say(gtrid);
        }
    }
}

async fn obedient(parts: &Parts, table: &str) {
    let tm = match parts.builder().start().await {
        Ok(tm) => tm,
        Err(error) => return say(error),
    };
    say("ready");
    loop {
        let read = || std::io::stdin().lines().next();
        let line = tokio::task::spawn_blocking(read).await.unwrap();
        let Some(line) = line else {
            return std::future::pending().await;
        };
        match &*line.unwrap() {
            "full" => limit_files(Some(1)),
            "room" => limit_files(None),
            "stop" => {
                tm.shutdown().await.unwrap();
                return say("stopped");
            }
            id => {
                let mut tx = tm.begin();
                insert(parts, &mut tx, table, id.parse().unwrap()).await;
                say(match tx.commit().await {
                    Ok(_) => "committed".to_owned(),
                    Err(error) => error.to_string(),
                });
            }
        }
    }
}

/// For this process alone.
fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let current = bytes.or(maximum);
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
}
