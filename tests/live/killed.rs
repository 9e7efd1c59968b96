//! What an application leaves that was killed with SIGKILL in the middle of a transfer, for tests
//! of what comes afterwards. (Kills at every point are the matrix's.)
//!
//! The victim is this test program itself, run again with a plan in its environment. It stops for
//! ever at the point, says so, and is killed. Nothing it did not do before that line can happen.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use unanimous::{Gtrid, Point, Probe};

use crate::support::{Account, Bank, Db, Transfer, table};
use crate::with_banks;

const PLAN: &str = "UNANIMOUS_TEST_VICTIM";
const AT_POINT: &str = "at the point:";

/// Where the victim is stopped, and what is held back so that the point is exactly that.
struct Spot {
    name: &'static str,
    stop: Point,
    hold: Option<Point>,
}

fn spots() -> [Spot; 3] {
    let orders = || "orders".parse().unwrap();
    let ledger = || "ledger".parse().unwrap();
    let spot = |name, stop, hold| Spot { name, stop, hold };
    [
        spot("after_both_prepares", Point::BeforeDecide, None),
        spot("after_the_decision", Point::DecisionDurable, None),
        spot(
            "after_the_first_commit",
            Point::CommitAnswered(orders()),
            Some(Point::BeforeCommit(ledger())),
        ),
    ]
}

struct StopAt {
    spot: Spot,
    gtrid: std::sync::Mutex<Option<Gtrid>>,
}

#[async_trait]
impl Probe for StopAt {
    async fn reached(&self, point: Point) {
        if point == self.spot.stop {
            let gtrid = self.gtrid.lock().unwrap().expect("known before commit");
            println!("{AT_POINT}{gtrid}");
            std::future::pending::<()>().await;
        }
        if Some(point) == self.spot.hold {
            std::future::pending::<()>().await;
        }
    }
}

/// Not a test of its own: the other half of [`Killed::at`]. Without a plan it has nothing to do.
#[tokio::test]
async fn victim() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let [spot, from, to, from_table, to_table, log] =
        plan.split('|').collect::<Vec<_>>().try_into().unwrap();
    let from = Account::at(Db::parse(from), from_table);
    let to = Account::at(Db::parse(to), to_table);
    let spot = spots()
        .into_iter()
        .find(|candidate| candidate.name == spot)
        .unwrap();
    with_banks!((from, to), die_at(spot, &from, &to, Path::new(log)));
}

async fn die_at<A: Bank, B: Bank>(spot: Spot, from: &Account, to: &Account, log: &Path) {
    let transfer = Transfer::<A, B>::new(from, to);
    let probe = Arc::new(StopAt {
        spot,
        gtrid: std::sync::Mutex::default(),
    });
    let tm = transfer
        .builder(log)
        .probe(probe.clone())
        .start()
        .await
        .unwrap();
    let tx = transfer.begin(&tm).await.unwrap();
    *probe.gtrid.lock().unwrap() = Some(tx.gtrid());
    let ended = tx.commit().await;
    panic!("the point was not reached: {ended:?}");
}

/// Kills the victim when it goes out of scope, too: a failing test leaves nothing running.
struct Victim(Child);

impl Victim {
    fn start(plan: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command
            .args(["killed::victim", "--exact", "--nocapture"])
            .env(PLAN, plan);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until it stands at its point, then kills it with SIGKILL.
    fn kill_at_the_point(mut self) -> Gtrid {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let said = lines.map_while(Result::ok).find_map(|line| {
            line.split_once(AT_POINT)
                .map(|(_, gtrid)| gtrid.trim().to_owned())
        });
        said.expect("the victim stands at its point")
            .parse()
            .unwrap()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What a victim has left behind.
pub(crate) struct Killed {
    pub(crate) from: Account,
    pub(crate) to: Account,
    pub(crate) gtrid: Gtrid,
    folder: tempfile::TempDir,
}

impl Killed {
    /// Kills an application at a spot of a transfer between a fresh pair of accounts.
    pub(crate) async fn at(pair: (Db, Db), spot: &str) -> Self {
        let name = table(&format!("crash_{spot}"));
        let (from_table, to_table) = (format!("{name}_a"), format!("{name}_b"));
        let from = Account::create(pair.0, &from_table).await;
        let to = Account::create(pair.1, &to_table).await;
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let plan = format!(
            "{spot}|{:?}|{:?}|{from_table}|{to_table}|{}",
            pair.0,
            pair.1,
            log.display()
        );
        let victim = tokio::task::spawn_blocking(move || Victim::start(&plan).kill_at_the_point());
        let gtrid = victim.await.unwrap();
        Self {
            from,
            to,
            gtrid,
            folder,
        }
    }

    /// Its decision log.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) async fn drop_tables(&self) {
        self.from.drop_table().await;
        self.to.drop_table().await;
    }
}
