//! Runs cells: those that kill servers on servers of their own, one cell at a time on each; all
//! others side by side on the shared ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::app::App;
use super::cell::{Cell, FAULTS, Fault, Story};
use super::home::Home;
use super::judge::{Case, Findings};
use super::members;
use super::report::Report;
use super::rows::{Places, ROWS};
use super::story::live;
use super::strike::Striker;
use super::victim::kill_at_the_point;
use super::workplace::Workplace;
use crate::databases::{Judges, Own, Place};
use crate::support::{Db, env, settled_files, table};

/// How many cells run side by side on the shared servers.
const WORKERS: usize = 8;
/// Nothing hangs: longer than all limits of a cell together.
const HANGS: Duration = Duration::from_secs(150);
const DBS: [Db; 4] = [Db::Postgres15, Db::PostgresNewest, Db::Mysql, Db::Mariadb];

/// What all workers share.
struct Run {
    table: String,
    folder: tempfile::TempDir,
    next_row: AtomicI64,
    next_workplace: AtomicU32,
    report: Mutex<Report>,
}

/// `cargo xtask crash` asks for it; a plain run of the tests does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn matrix() {
    let Some(what) = env("UNANIMOUS_CRASH") else {
        return;
    };
    let (cells, dropped) = Cell::all();
    let chosen = choose(&what, cells);
    let report = Report::new(chosen.len(), dropped);
    let (kills, others): (Vec<_>, Vec<_>) = chosen
        .into_iter()
        .filter(|cell| !report.is_done(cell))
        .partition(|cell| cell.fault == Fault::KillServer);
    let run = Arc::new(Run {
        table: table("crash_matrix"),
        folder: tempfile::tempdir().unwrap(),
        next_row: AtomicI64::new(0),
        next_workplace: AtomicU32::new(0),
        report: Mutex::new(report),
    });
    let own = start_servers(&kills).await;
    let places = all_places(&own);
    let mut judges = Judges::default();
    for place in &places {
        judges.make_table(place, &run.table).await;
    }
    drop(judges);
    let files = settled_files(usize::MAX).await;
    work(&run, kills, others, &own).await;
    let left = settled_files(files).await;
    run.report.lock().unwrap().files_left = left.saturating_sub(files) as u64;
    let mut judges = Judges::default();
    for place in &places {
        judges.drop_table(place, &run.table).await;
    }
    let is_good = run.report.lock().unwrap().finish();
    assert!(is_good, "the summary above says which cells");
}

/// The cells that were asked for.
fn choose(what: &str, cells: Vec<Cell>) -> Vec<Cell> {
    let chosen = match env("UNANIMOUS_CRASH_CELL") {
        Some(name) => {
            let is_meant = |cell: &Cell| cell.name().contains(&name);
            let found: Vec<_> = cells.into_iter().filter(is_meant).collect();
            assert!(!found.is_empty(), "no cell has {name} in its name");
            found
        }
        None if what == "full" => cells,
        None => sample(cells),
    };
    let (shard, shards) = match env("UNANIMOUS_CRASH_SHARD") {
        None => (0, 1),
        Some(text) => {
            let (shard, shards) = text.split_once('/').expect("I/N");
            let (shard, shards): (usize, usize) = (shard.parse().unwrap(), shards.parse().unwrap());
            assert!((1..=shards).contains(&shard), "I is 1 to N");
            (shard - 1, shards)
        }
    };
    let mine = chosen.into_iter().enumerate();
    mine.filter(|(index, _)| index % shards == shard)
        .map(|(_, cell)| cell)
        .collect()
}

fn sample(cells: Vec<Cell>) -> Vec<Cell> {
    let (with_a_file, with_a_table): (Vec<_>, Vec<_>) =
        cells.into_iter().partition(|cell| cell.home == Home::File);
    let mut chosen = sample_of_files(with_a_file);
    chosen.extend(sample_of_tables(with_a_table));
    chosen
}

/// Every point with every fault once (a server's death with every sixth point only), with other
/// mixes, targets and passes from one to the next.
fn sample_of_files(cells: Vec<Cell>) -> Vec<Cell> {
    let mut by_point: BTreeMap<(&str, Fault), Vec<Cell>> = BTreeMap::new();
    for cell in cells {
        by_point
            .entry((cell.point, cell.fault))
            .or_default()
            .push(cell);
    }
    let mut kills = 0;
    let mut chosen = Vec::new();
    for (index, ((_, fault), cells)) in by_point.into_iter().enumerate() {
        if fault == Fault::KillServer {
            kills += 1;
            if kills % 6 != 0 {
                continue;
            }
        }
        chosen.push(cells[index * 7919 % cells.len()]);
    }
    chosen
}

/// Every point once, with other faults, homes and mixes from one to the next; every story; the log
/// alone struck at every third point.
fn sample_of_tables(cells: Vec<Cell>) -> Vec<Cell> {
    let mut by_point: BTreeMap<(&str, u8), Vec<Cell>> = BTreeMap::new();
    for cell in cells.iter().filter(|cell| cell.fault != Fault::KillServer) {
        let kind = if cell.story == Story::Survivor {
            1
        } else if cell.story.pauses() {
            2
        } else if cell.is_at_log() {
            3
        } else {
            0
        };
        by_point.entry((cell.point, kind)).or_default().push(*cell);
    }
    let mut chosen = Vec::new();
    for (index, ((_, kind), cells)) in by_point.into_iter().enumerate() {
        if kind < 3 || index % 3 == 0 {
            chosen.push(cells[index * 7919 % cells.len()]);
        }
    }
    let kills = cells.iter().filter(|cell| cell.fault == Fault::KillServer);
    chosen.extend(kills.step_by(173));
    chosen
}

async fn start_servers(kills: &[Cell]) -> Vec<Own> {
    let wanted: BTreeSet<_> = kills
        .iter()
        .map(|cell| format!("{:?}", cell.target_db()))
        .collect();
    let starting = DBS
        .into_iter()
        .filter(|db| wanted.contains(&format!("{db:?}")))
        .map(|db| tokio::task::spawn_blocking(move || Own::start(db)));
    let mut own = Vec::new();
    for started in starting.collect::<Vec<_>>() {
        own.push(started.await.unwrap());
    }
    own
}

fn all_places(own: &[Own]) -> Vec<Place> {
    let shared = DBS.into_iter().map(|db| (db, db.url()));
    let own = own.iter().map(|own| (own.db, own.url.clone()));
    let place = |(db, url): (Db, String)| Place {
        url,
        is_postgres: db.is_postgres(),
    };
    shared.chain(own).map(place).collect()
}

async fn work(run: &Arc<Run>, kills: Vec<Cell>, others: Vec<Cell>, own: &[Own]) {
    let mut tasks = tokio::task::JoinSet::new();
    for own in own {
        let mine = kills.iter().filter(|cell| cell.target_db() == own.db);
        let queue = Arc::new(Mutex::new(mine.copied().collect::<VecDeque<_>>()));
        tasks.spawn(worker(Arc::clone(run), queue, Some(own.clone())));
    }
    let queue = Arc::new(Mutex::new(others.into_iter().collect::<VecDeque<_>>()));
    for _ in 0..WORKERS {
        tasks.spawn(worker(Arc::clone(run), Arc::clone(&queue), None));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

async fn worker(run: Arc<Run>, queue: Arc<Mutex<VecDeque<Cell>>>, own: Option<Own>) {
    let mut judges = Judges::default();
    let mut workplace = None;
    loop {
        let Some(cell) = queue.lock().unwrap().pop_front() else {
            break;
        };
        let place = match cell.home {
            Home::File => None,
            Home::Pg | Home::PgLast | Home::My | Home::MyLast => {
                if workplace.is_none() {
                    workplace = Some(run.workplace(&mut judges, own.as_ref()).await);
                }
                workplace.as_ref()
            }
        };
        let begin = Instant::now();
        let mut findings = safely(one_cell(&run, cell, own.as_ref(), place, &mut judges)).await;
        // On a machine that does much else, a limit may have passed before the point.
        for _ in 0..2 {
            if findings.is_unreached && findings.violations.is_empty() {
                findings = safely(one_cell(&run, cell, own.as_ref(), place, &mut judges)).await;
            }
        }
        let took = begin.elapsed();
        let is_good = findings.is_good();
        run.report.lock().unwrap().add(&cell, findings, took);
        if !is_good && let Some(spoilt) = workplace.take_if(|_| cell.home != Home::File) {
            // What it has left meets nobody.
            spoilt.remove(&mut judges).await;
        }
    }
    if let Some(workplace) = workplace {
        workplace.remove(&mut judges).await;
    }
}

impl Run {
    async fn workplace(&self, judges: &mut Judges, own: Option<&Own>) -> Workplace {
        let number = self.next_workplace.fetch_add(1, Ordering::SeqCst);
        let name = format!("{}_{number}", self.table);
        Workplace::make(judges, name, &self.table, own).await
    }
}

/// A panic in one cell does not keep the others from being run.
async fn safely(cell: impl Future<Output = Findings>) -> Findings {
    let ended = AssertUnwindSafe(cell).catch_unwind().await;
    ended.unwrap_or_else(|_| Findings {
        violations: vec!["it panicked: see above".to_owned()],
        ..Findings::default()
    })
}

async fn one_cell(
    run: &Run,
    cell: Cell,
    own: Option<&Own>,
    workplace: Option<&Workplace>,
    judges: &mut Judges,
) -> Findings {
    let first = run.next_row.fetch_add(ROWS, Ordering::SeqCst);
    let folder = run.folder.path().join(format!("log-{first}"));
    let database = workplace.map_or_else(String::new, |own| own.name.clone());
    let own_url = own.map(|own| (own.db, own.url.as_str()));
    let places = Places::of(cell, own_url, folder.clone(), &database);
    if let Some(workplace) = workplace {
        assert!(
            workplace.clear(judges, &places).await,
            "an earlier cell failed"
        );
    }
    for place in &places.branches {
        judges.make_rows(place, &run.table, first).await;
    }
    let case = Case {
        cell,
        folder: folder.clone(),
        database,
        table: run.table.clone(),
        first,
        places,
        notes: Vec::new(),
    };
    let limited = tokio::time::timeout(HANGS, strike_and_judge(case, own, judges)).await;
    // A log in use by a cell that hangs stays until the folder goes.
    let _ = std::fs::remove_dir_all(folder);
    limited.unwrap_or_else(|_| Findings {
        violations: vec![format!("I6: it hangs for {HANGS:?}")],
        ..Findings::default()
    })
}

async fn strike_and_judge(mut case: Case, own: Option<&Own>, judges: &mut Judges) -> Findings {
    if case.cell.story.has_second() {
        return members::strike_and_judge(case, judges).await;
    }
    if case.cell.fault == Fault::KillCoordinator {
        let (case, has_struck) = kill(case).await;
        let mut findings = case.judge(judges, None).await;
        findings.is_unreached = has_struck.is_none();
        return findings;
    }
    let notes: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&notes);
    let (wires, behind) = case.places.wired().await;
    let server = own.map(|own| Arc::clone(&own.server));
    let keep = Arc::new(move |line| kept.lock().unwrap().push(line));
    let striker = Striker::new(case.cell, wires, server, keep);
    let table = case.table.clone();
    let app = App::new(case.cell, table, case.first, &behind, &case.places);
    live(&app, &striker).await;
    drop(app);
    let repairing = Arc::clone(&striker);
    tokio::task::spawn_blocking(move || repairing.repair())
        .await
        .unwrap();
    let left = connections_left(&striker).await;
    case.notes = std::mem::take(&mut *notes.lock().unwrap());
    let mut findings = case.judge(judges, None).await;
    findings.leaks += left;
    findings.is_unreached = !striker.has_struck();
    findings
}

/// The application is a process that is killed at the point.
pub(super) async fn kill(mut case: Case) -> (Case, Option<()>) {
    let killing = tokio::task::spawn_blocking(move || {
        let has_struck = kill_at_the_point(&mut case);
        (case, has_struck)
    });
    killing.await.unwrap()
}

/// Connections that are still open some time after the application has ended.
pub(super) async fn connections_left(striker: &Striker) -> u64 {
    let begin = Instant::now();
    loop {
        let left: usize = striker.wires().iter().map(|wire| wire.connections()).sum();
        if left == 0 || begin.elapsed() > Duration::from_secs(6) {
            return left as u64;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn the_sample_has_every_point_and_every_fault() {
    let (cells, _) = Cell::all();
    let chosen = sample(cells);
    let points: BTreeSet<_> = chosen.iter().map(|cell| cell.point).collect();
    assert_eq!(points.len(), super::catalogue().len());
    for (fault, name) in FAULTS {
        assert!(chosen.iter().any(|cell| cell.fault == fault), "{name}");
    }
}
