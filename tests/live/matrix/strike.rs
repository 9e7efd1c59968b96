//! The probe that counts how often the cell's point is reached, and lets the fault strike.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use unanimous::{Gtrid, Point, Probe};
use unanimous_testing::{Wire, WireFault};
use xtask::servers::Server;

use super::cell::{Cell, Fault};

/// Longer than every limit of a story with a delay.
pub(super) const DELAY: Duration = Duration::from_millis(1500);

/// Where a line of what was promised goes: kept, or printed by a victim.
pub(super) type Notes = Arc<dyn Fn(String) + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dropping {
    No,
    Wanted,
    Done,
}

/// See the module.
pub(super) struct Striker {
    cell: Cell,
    reached: AtomicU32,
    has_struck: AtomicBool,
    dropping: watch::Sender<Dropping>,
    wires: Vec<Wire>,
    server: Option<Arc<Mutex<Server>>>,
    restart: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Its restart is under way, or done.
    is_restarting: AtomicBool,
    notes: Notes,
    gtrid: Mutex<Option<Gtrid>>,
    /// Somebody else has ended a branch, in the stories of that.
    has_hand_acted: AtomicBool,
    /// The transaction that runs.
    number: AtomicU32,
    pause_over: Mutex<bool>,
    pause_ends: Condvar,
}

impl Striker {
    pub(super) fn new(
        cell: Cell,
        wires: Vec<Wire>,
        server: Option<Arc<Mutex<Server>>>,
        notes: Notes,
    ) -> Arc<Self> {
        Arc::new(Self {
            cell,
            reached: AtomicU32::new(0),
            has_struck: AtomicBool::new(false),
            dropping: watch::Sender::new(Dropping::No),
            wires,
            server,
            restart: Mutex::default(),
            is_restarting: AtomicBool::new(false),
            notes,
            gtrid: Mutex::default(),
            has_hand_acted: AtomicBool::new(false),
            number: AtomicU32::new(0),
            pause_over: Mutex::new(false),
            pause_ends: Condvar::new(),
        })
    }

    pub(super) fn has_struck(&self) -> bool {
        self.has_struck.load(Ordering::SeqCst)
    }

    pub(super) fn note(&self, line: String) {
        (self.notes)(line);
    }

    /// A transaction has begun.
    pub(super) fn begun(&self, gtrid: Gtrid) -> u32 {
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        *self.gtrid.lock().unwrap() = Some(gtrid);
        self.note(format!("begun {number} {gtrid}"));
        number
    }

    /// The transaction that began last, and its number.
    pub(super) fn latest(&self) -> Option<(Gtrid, u32)> {
        let gtrid = *self.gtrid.lock().unwrap();
        gtrid.map(|gtrid| (gtrid, self.number.load(Ordering::SeqCst)))
    }

    /// Somebody else has ended the target's branch of the latest transaction.
    pub(super) fn hand_acted(&self, how: &str) {
        let number = self.number.load(Ordering::SeqCst);
        self.note(format!("hand {number} {how}"));
        self.has_hand_acted.store(true, Ordering::SeqCst);
    }

    pub(super) fn wires(&self) -> &[Wire] {
        &self.wires
    }

    pub(super) fn target_wire(&self) -> &Wire {
        &self.wires[self.cell.target]
    }

    /// Awaits a call of the application; `None` if its future was dropped.
    pub(super) async fn call<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let mut dropping = self.dropping.subscribe();
        let done = tokio::select! {
            biased;
            done = call => Some(done),
            _ = dropping.wait_for(|state| *state == Dropping::Wanted) => None,
        };
        // By now the future is gone.
        if done.is_none() {
            self.dropping.send_replace(Dropping::Done);
        }
        done
    }

    /// The application is over: whoever waits for a future to be dropped goes on.
    pub(super) fn give_up(&self) {
        self.dropping.send_replace(Dropping::Done);
    }

    /// A killed server is back.
    pub(super) fn repair(&self) {
        let is_killed = self.cell.fault == Fault::KillServer && self.has_struck();
        while is_killed && !self.is_restarting.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let restart = self.restart.lock().unwrap().take();
        if let Some(restart) = restart {
            restart.join().unwrap();
        }
    }

    /// Whether it is the nth time.
    fn strikes(&self, name: &str, resource: Option<&str>) -> bool {
        // By then the next record is the one that the story is about.
        let is_early = self.cell.story.is_by_hand() && !self.has_hand_acted.load(Ordering::SeqCst);
        let is_it = name == self.cell.point
            && !is_early
            && (self.cell.is_at_log()
                || resource.is_none_or(|resource| resource == self.cell.target_name()));
        let strikes = is_it && self.reached.fetch_add(1, Ordering::SeqCst) + 1 == self.cell.nth;
        if strikes {
            self.has_struck.store(true, Ordering::SeqCst);
        }
        strikes
    }

    fn is_frozen(&self) -> bool {
        self.has_struck() && self.cell.fault == Fault::KillCoordinator
    }

    /// What strikes at once; the rest depends on whether the point may wait.
    fn strike(&self) {
        match self.cell.fault {
            Fault::KillCoordinator => self.note("struck".to_owned()),
            Fault::KillServer => self.kill_server(),
            Fault::CutRequest => self.target_wire().set(WireFault::CutRequest),
            Fault::CutReply => self.target_wire().set(WireFault::CutReply),
            Fault::Delay => self.target_wire().set(WireFault::HoldReplies),
            Fault::DropFuture => {
                self.dropping.send_replace(Dropping::Wanted);
            }
            Fault::Pause => self.pause(),
        }
    }

    /// Blocks the one thread on which this member lives: nothing of it goes on.
    fn pause(&self) {
        let mut is_over = self.pause_over.lock().unwrap();
        while !*is_over {
            is_over = self.pause_ends.wait(is_over).unwrap();
        }
    }

    /// Whoever is paused goes on; nobody is paused any more.
    pub(super) fn resume(&self) {
        *self.pause_over.lock().unwrap() = true;
        self.pause_ends.notify_all();
    }

    fn kill_server(&self) {
        let server = self.server.clone().expect("a cell that kills has its own");
        server.lock().unwrap().kill();
        let restarted = std::thread::spawn(move || server.lock().unwrap().restart().unwrap());
        *self.restart.lock().unwrap() = Some(restarted);
        self.is_restarting.store(true, Ordering::SeqCst);
    }

    /// A step of the log, whose thread is blocked by this.
    pub(super) fn step(&self, name: &'static str) {
        if self.is_frozen() {
            park_for_ever();
        }
        if !self.strikes(name, None) {
            return;
        }
        if self.cell.fault == Fault::Delay {
            std::thread::sleep(DELAY);
            return;
        }
        self.strike();
        match self.cell.fault {
            Fault::KillCoordinator => park_for_ever(),
            Fault::DropFuture => {
                while *self.dropping.borrow() != Dropping::Done {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Fault::KillServer
            | Fault::CutRequest
            | Fault::CutReply
            | Fault::Delay
            | Fault::Pause => {}
        }
    }
}

fn park_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

#[async_trait]
impl Probe for Striker {
    async fn reached(&self, point: Point) {
        if self.is_frozen() {
            std::future::pending::<()>().await;
        }
        if point == Point::DecisionDurable {
            let number = self.number.load(Ordering::SeqCst);
            self.note(format!("decided {number}"));
        }
        let resource = point.resource().map(|name| name.as_str());
        if !self.strikes(point.name(), resource) {
            return;
        }
        self.strike();
        match self.cell.fault {
            Fault::KillCoordinator => std::future::pending().await,
            Fault::DropFuture => {
                let mut dropping = self.dropping.subscribe();
                // Fails only when the sender is gone, and `self` holds it.
                let _ = dropping.wait_for(|state| *state == Dropping::Done).await;
            }
            Fault::KillServer
            | Fault::CutRequest
            | Fault::CutReply
            | Fault::Delay
            | Fault::Pause => {}
        }
    }
}
