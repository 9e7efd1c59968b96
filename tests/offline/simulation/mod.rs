//! The simulation: worlds of the real runtime, the real file log and servers in memory, in virtual
//! time, in which everything fails that can; each is the outcome of one seed.
//!
//! Every world runs once per test binary, and each invariant has a file with its test. A world that
//! breaks a promise prints one line that replays it:
//! `UNANIMOUS_TEST_SEED=7 cargo test -p unanimous --test offline simulation:: -- --nocapture`.
//! `UNANIMOUS_TEST_SEEDS=100000` runs that many fresh worlds instead of the usual number.
//!
//! Real: manager, transactions, drivers, recovery, the log's engine and its bytes. Simulated: the
//! disk and its machine (`disk`), the network (`network`), servers (`unanimous-testing`), time. Not
//! simulated: threads (the log's writer is stepped by a task, a batch at a time), the lock of the
//! log's folder, damage of synced bytes, failover to another server, commits by hand.

mod account;
mod determinism;
mod disk;
mod i1_atomicity;
mod i2_durability;
mod i3_never_guess;
mod i4_only_ours;
mod i5_no_fratricide;
mod i6_liveness;
mod i7_cancellation;
mod i8_no_leaks;
mod journal;
mod life;
mod log;
mod luck;
mod nemesis;
mod network;
mod process;
mod resource;
mod run;
mod shared;
mod signal;
mod table;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use self::journal::Invariant;
use self::run::{Run, run};
use self::world::SHARED;

/// The same in every run of the tests.
const FIXED: u64 = 300;
/// Others in every run of the tests.
const FRESH: u64 = 300;
/// Some thousand times what a world takes.
const WORLD_LIMIT: Duration = Duration::from_secs(5 * 60);

fn assert_held(invariant: Invariant) {
    let failed = worlds().failed.iter();
    let broken = failed.filter(|run| run.violations.iter().any(|v| v.invariant == invariant));
    let told: Vec<String> = broken.map(|run| tell(run, invariant)).collect();
    assert!(
        told.is_empty(),
        "{} worlds:\n{}",
        told.len(),
        told.join("\n")
    );
}

fn tell(run: &Run, invariant: Invariant) -> String {
    let of_it = run.violations.iter().filter(|v| v.invariant == invariant);
    let texts: Vec<&str> = of_it.map(|v| v.text.as_str()).collect();
    format!("{}\n    {}", replay(run.seed), texts.join("\n    "))
}

fn replay(seed: u64) -> String {
    let command = "cargo test -p unanimous --test offline simulation:: -- --nocapture";
    format!("UNANIMOUS_TEST_SEED={seed} {command}")
}

/// What came of all worlds.
struct Worlds {
    failed: Vec<Run>,
}

fn worlds() -> &'static Worlds {
    static WORLDS: OnceLock<Worlds> = OnceLock::new();
    WORLDS.get_or_init(|| match number_from("UNANIMOUS_TEST_SEED") {
        Some(seed) => {
            let run = run(seed);
            println!("{}", run.journal);
            let failed = (!run.violations.is_empty()).then_some(run);
            let failed = failed.into_iter().collect();
            Worlds { failed }
        }
        None => run_many(),
    })
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
    )
}

fn run_many() -> Worlds {
    let fresh_begin = u64::from(getrandom::u32().expect("the system has random bits")) << 20;
    let fresh = number_from("UNANIMOUS_TEST_SEEDS").unwrap_or(FRESH);
    // Every other one of a world whose processes share a log.
    let home = |n: u64| if n.is_multiple_of(2) { n } else { SHARED + n };
    let fresh_seeds = (fresh_begin..fresh_begin + fresh).map(home);
    let fixed = (0..FIXED).chain((0..FIXED).map(|n| SHARED + n));
    let seeds: Vec<u64> = fixed.chain(fresh_seeds).collect();
    println!(
        "worlds 0..{FIXED}, {SHARED}..{} and, fresh, {fresh_begin}..{}, every other one of a log \
         that is shared (+{SHARED})",
        SHARED + FIXED,
        fresh_begin + fresh
    );
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let sums: Vec<Sum> = std::thread::scope(|scope| {
        let run_some = || {
            let mut sum = Sum::default();
            while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (tell_end, ended) = mpsc::channel();
                scope.spawn(move || end_with(*seed, &ended));
                sum.add(run(*seed));
                drop(tell_end);
            }
            sum
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run_some)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|sum| sum.expect("a world that panics is a world that fails"))
            .collect()
    });
    let mut all = Sum::default();
    sums.into_iter().for_each(|sum| all.merge(sum));
    all.print(begin.elapsed().as_secs_f64());
    Worlds { failed: all.failed }
}

/// Ends the test program, and names the world, if it does not end: where something goes round and
/// round without a pause, virtual time stands still, and no time-out of the world's own helps.
fn end_with(seed: u64, ended: &mpsc::Receiver<()>) {
    if ended.recv_timeout(WORLD_LIMIT) == Err(RecvTimeoutError::Timeout) {
        // `eprintln!` would write to what the test harness shows only of a test that ends.
        let _ = writeln!(std::io::stderr(), "a world without end: {}", replay(seed));
        std::process::exit(1);
    }
}

#[derive(Default)]
struct Sum {
    worlds: u64,
    transactions: u64,
    acknowledged: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: Vec<Run>,
}

impl Sum {
    fn add(&mut self, run: Run) {
        self.worlds += 1;
        self.transactions += run.transactions;
        self.acknowledged += run.acknowledged;
        for (kind, count) in &run.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        if !run.violations.is_empty() {
            println!("{}", replay(run.seed));
            self.failed.push(run);
        }
    }

    fn merge(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.transactions += other.transactions;
        self.acknowledged += other.acknowledged;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.failed.extend(other.failed);
    }

    fn print(&self, seconds: f64) {
        let per_world = |count: u64| count as f64 / self.worlds as f64;
        println!(
            "{} worlds in {seconds:.1} s, {:.0} a minute; {:.1} transactions in each, {:.1} \
             acknowledged",
            self.worlds,
            self.worlds as f64 * 60.0 / seconds,
            per_world(self.transactions),
            per_world(self.acknowledged),
        );
        for (kind, count) in &self.faults {
            println!("{:>8.2} {kind}", per_world(*count));
        }
        for invariant in Invariant::ALL {
            let breaks = |run: &&Run| run.violations.iter().any(|v| v.invariant == invariant);
            let mut broken: Vec<u64> = self.failed.iter().filter(breaks).map(|r| r.seed).collect();
            broken.sort_unstable();
            println!(
                "{invariant:?}: {} worlds break it {:?}",
                broken.len(),
                broken.first()
            );
        }
    }
}
