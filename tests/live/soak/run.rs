//! The soak itself: rounds of strikes, and what is checked between them.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use xtask::servers::Server;

use super::coordinator::Coordinator;
use super::history::{Reader, Transactions};
use super::nemesis::{Faults, Nemesis};
use super::oracle::Oracle;
use super::report::Report;
use super::{Home, SERVERS};
use crate::databases::{Own, Place, wires_to};
use crate::support::env;

/// The longest time without a check.
const ROUND: Duration = Duration::from_secs(150);

/// `cargo xtask soak` asks for it; a plain run of the tests does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn soak() {
    let Some(minutes) = env("UNANIMOUS_SOAK_MINUTES") else {
        return;
    };
    let minutes: f64 = minutes.parse().expect("a number of minutes");
    let begin = Instant::now();
    let until = begin + Duration::from_secs_f64(minutes * 60.0);
    let folder = tempfile::tempdir().unwrap();
    let mut soak = Soak::start(folder.path()).await;
    while Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        soak.round(ROUND.min(left)).await;
        soak.report.print(begin.elapsed());
    }
    let report = soak.finish().await;
    report.print(begin.elapsed());
    for (fault, count) in &report.faults {
        println!("  {count:6}  {fault}");
    }
    if let Some(path) = env("UNANIMOUS_SOAK_JSON") {
        std::fs::write(path, report.json(begin.elapsed())).unwrap();
    }
    assert!(
        report.is_good(),
        "see above; a soak in which nothing was committed or struck is none"
    );
}

struct Soak {
    nemesis: Nemesis,
    oracle: Oracle,
    readers: Vec<Reader>,
    round: u32,
    report: Report,
}

impl Soak {
    async fn start(folder: &Path) -> Self {
        let starting = SERVERS.map(|db| tokio::task::spawn_blocking(move || Own::start(db)));
        let (mut servers, mut places) = (Vec::<Arc<Mutex<Server>>>::new(), Vec::new());
        for started in starting {
            let own = started.await.unwrap();
            servers.push(own.server);
            places.push(Place {
                url: own.url,
                is_postgres: own.db.is_postgres(),
            });
        }
        let (mut coordinators, mut wires, mut readers) = (Vec::new(), Vec::new(), Vec::new());
        let home = Home::asked_for();
        for index in 0..home.applications() {
            let mut ends = places.clone();
            if let Home::Table(server) = home {
                ends.push(places[server].clone());
            }
            let (its_wires, mut behind) = wires_to(&ends).await;
            wires.extend(its_wires.into_iter().map(Arc::new));
            let table = behind.drain(SERVERS.len()..).next();
            let coordinator = Coordinator::new(index, folder, &behind, table);
            readers.push(coordinator.reader());
            coordinators.push(Arc::new(Mutex::new(coordinator)));
        }
        let oracle = Oracle::new(places).await;
        let nemesis = Nemesis {
            coordinators,
            servers,
            wires,
            faults: Faults::default(),
        };
        Self {
            nemesis,
            oracle,
            readers,
            round: 0,
            report: Report::default(),
        }
    }

    fn coordinators(&self) -> impl Iterator<Item = MutexGuard<'_, Coordinator>> {
        let all = self.nemesis.coordinators.iter();
        all.map(|coordinator| coordinator.lock().unwrap())
    }

    async fn round(&mut self, time: Duration) {
        self.oracle.make_lists(self.round).await;
        for mut coordinator in self.coordinators() {
            coordinator.work_on(self.round);
        }
        self.nemesis.strike_for(time).await;
        let repaired = Instant::now();
        self.of_all_coordinators(Coordinator::rest).await;
        self.oracle
            .wait_for_recovery(repaired, &mut self.report)
            .await;
        let mut transactions = Transactions::new();
        for reader in &mut self.readers {
            reader.read_into(&mut transactions);
        }
        self.oracle
            .check_round(self.round, &transactions, &mut self.report)
            .await;
        if transactions.is_empty() {
            let text = format!("I6: round {} has no transaction", self.round);
            self.report.violation(text);
        }
        self.round += 1;
        self.report.rounds = self.round;
        self.report.faults = self.nemesis.faults.lock().unwrap().clone();
        self.take_complaints();
    }

    /// Ends the applications, and looks at everything once more.
    async fn finish(mut self) -> Report {
        let begin = Instant::now();
        self.of_all_coordinators(Coordinator::end).await;
        self.take_complaints();
        self.oracle.wait_for_recovery(begin, &mut self.report).await;
        self.oracle.check_kept(self.round, &mut self.report).await;
        self.oracle.check_connections(&mut self.report).await;
        self.report
    }

    /// All at the same time, where waiting for them keeps nobody from running: the wires do.
    async fn of_all_coordinators(&self, act: fn(&mut Coordinator)) {
        let acting: Vec<_> = self
            .nemesis
            .coordinators
            .iter()
            .map(Arc::clone)
            .map(|coordinator| {
                tokio::task::spawn_blocking(move || act(&mut coordinator.lock().unwrap()))
            })
            .collect();
        for acted in acting {
            acted.await.unwrap();
        }
    }

    fn take_complaints(&mut self) {
        let complaints: Vec<String> = self
            .coordinators()
            .flat_map(|mut coordinator| std::mem::take(&mut coordinator.complaints))
            .collect();
        for complaint in complaints {
            self.report.violation(complaint);
        }
    }
}
