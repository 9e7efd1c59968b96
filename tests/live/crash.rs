//! SIGKILL of the application at named points, then a restart on the same log.
//!
//! The victim is this test program itself, run again with a plan in its environment. It stops for
//! ever at the point, says so, and is killed. Nothing it did not do before that line can happen.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use unanimous::{Gtrid, Point, Probe, TransactionOutcome};

use crate::support::{Account, Bank, Db, PAIRS, Transfer, eventually, table};
use crate::with_banks;

const PLAN: &str = "UNANIMOUS_TEST_VICTIM";
const AT_POINT: &str = "at the point:";

/// Where the victim is stopped, what is held back so that the point is exactly that, and whether
/// the decision is durable there.
struct Spot {
    name: &'static str,
    stop: Point,
    hold: Option<Point>,
    is_decided: bool,
}

fn spots() -> Vec<Spot> {
    let orders = || "orders".parse().unwrap();
    let ledger = || "ledger".parse().unwrap();
    let spot = |name, stop, hold, is_decided| Spot {
        name,
        stop,
        hold,
        is_decided,
    };
    vec![
        spot(
            "before_prepare",
            Point::BeforePrepare(orders()),
            Some(Point::BeforePrepare(ledger())),
            false,
        ),
        spot(
            "after_the_first_prepare",
            Point::PrepareAnswered(orders()),
            Some(Point::BeforePrepare(ledger())),
            false,
        ),
        spot(
            "after_the_second_prepare",
            Point::PrepareAnswered(ledger()),
            Some(Point::BeforePrepare(orders())),
            false,
        ),
        spot("after_both_prepares", Point::BeforeDecide, None, false),
        spot("after_the_decision", Point::DecisionDurable, None, true),
        spot(
            "after_the_first_commit",
            Point::CommitAnswered(orders()),
            Some(Point::BeforeCommit(ledger())),
            true,
        ),
        spot(
            "after_the_second_commit",
            Point::CommitAnswered(ledger()),
            Some(Point::BeforeCommit(orders())),
            true,
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

/// Not a test of its own: the other half of the tests below. Without a plan it has nothing to do.
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
            .args(["crash::victim", "--exact", "--nocapture"])
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

async fn kill_and_restart(pair: (Db, Db), spot: &Spot) {
    let killed = Killed::at(pair, spot.name).await;
    let (from, to, log) = (&killed.from, &killed.to, killed.log());
    with_banks!(
        (from, to),
        check_restart(from, to, &log, killed.gtrid, spot.is_decided)
    );
    killed.drop_tables().await;
}

async fn check_restart<A: Bank, B: Bank>(
    from: &Account,
    to: &Account,
    log: &Path,
    gtrid: Gtrid,
    is_decided: bool,
) {
    let transfer = Transfer::<A, B>::new(from, to);
    let tm = transfer.builder(log).start().await.unwrap();
    for account in [from, to] {
        eventually("I6: nothing stays in doubt", || async {
            account.prepared(gtrid).await == 0
        })
        .await;
    }
    let expected = if is_decided { (70, 130) } else { (100, 100) };
    let found = (from.balance().await, to.balance().await);
    assert_eq!(found, expected, "{gtrid}");
    if is_decided {
        assert_eq!(
            tm.outcome(gtrid).await.unwrap(),
            TransactionOutcome::Committed
        );
    }
    // The restarted application works, and no lock is left behind.
    transfer.begin(&tm).await.unwrap().commit().await.unwrap();
    assert_eq!(from.balance().await + to.balance().await, 200);
    tm.shutdown().await.unwrap();
}

/// Every spot with each pair of kinds of servers, one spot a test.
async fn kill_at(name: &str) {
    let spot = spots().into_iter().find(|spot| spot.name == name).unwrap();
    for pair in PAIRS {
        kill_and_restart(pair, &spot).await;
    }
}

macro_rules! kill_tests {
    ($($test:ident at $spot:ident;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                kill_at(stringify!($spot)).await;
            }
        )+

        #[test]
        fn every_spot_has_its_test() {
            let tested = [$(stringify!($spot)),+];
            assert!(spots().iter().all(|spot| tested.contains(&spot.name)));
        }
    };
}

kill_tests! {
    i1_kill_before_prepare_rolls_back at before_prepare;
    i1_kill_after_the_first_prepare_rolls_back at after_the_first_prepare;
    i1_kill_after_the_second_prepare_rolls_back at after_the_second_prepare;
    i1_kill_after_both_prepares_rolls_back at after_both_prepares;
    i2_kill_after_the_decision_commits at after_the_decision;
    i2_kill_in_the_middle_of_phase_two_commits at after_the_first_commit;
    i2_kill_in_the_middle_of_phase_two_the_other_way_round_commits at after_the_second_commit;
}
