//! A world: servers, processes, the ways between them, and an account of what was answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use unanimous::TransactionManager;
use unanimous::ports::DecisionLog;
use unanimous_core::xid::{Epoch, ManagerId, Opening, Xid};
use unanimous_testing::{Flavour, Journal as ServerJournal, MemoryResource, MemoryServer};

use super::account::Account;
use super::disk::Disk;
use super::journal::{Journal, lock};
use super::life::{Death, Life};
use super::luck::Luck;
use super::network::{Link, Way};
use super::signal::Signal;
use super::table::SharedLog;

/// Several accounts at each server, so that locks meet now and then.
pub(super) const ACCOUNTS: u64 = 12;

pub(super) struct Server {
    pub(super) memory: MemoryServer,
    pub(super) resource: MemoryResource,
    pub(super) flavour: Flavour,
    /// What others have prepared here, in their own form.
    pub(super) foreign_texts: Vec<String>,
}

impl Server {
    pub(super) fn has(&self, key: &str) -> bool {
        self.memory.row(key).is_some()
    }

    pub(super) fn balance(&self) -> i64 {
        let rows = (0..ACCOUNTS).filter_map(|n| self.memory.row(&account(n)));
        rows.filter_map(|row| row.parse::<i64>().ok()).sum()
    }
}

/// More than a world has transactions: none is forgotten.
pub(super) const RETAINED_ALL: usize = 10_000;

pub(super) fn account(number: u64) -> String {
    format!("account{number}")
}

/// From here on, the seeds of worlds whose processes share a log.
pub(super) const SHARED: u64 = 10_000_000_000_000_000;

/// A process, over all its lives.
pub(super) struct Member {
    /// To each server, and the last one to the log that is shared.
    pub(super) links: Vec<Arc<Link>>,
    pub(super) now: Mutex<Now>,
    disk_millis: AtomicU64,
    /// Somebody waits for the completion of a commit. One at a time: the runtime wakes them by
    /// tokio's `watch`, in an order that no seed decides.
    pub(super) is_waited_for: AtomicBool,
    /// What happens at a point of a commit to come.
    pub(super) trap: Mutex<Option<Trap>>,
}

/// Its present life.
#[derive(Clone)]
pub(super) struct Now {
    pub(super) life: Arc<Life>,
    pub(super) disk: Disk,
    pub(super) manager: Option<TransactionManager>,
    pub(super) log: Option<Arc<dyn DecisionLog>>,
}

/// After so many points of any kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trap {
    pub(super) points_left: u64,
    pub(super) strike: Strike,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Strike {
    Die(Death),
    Cut(usize, Way),
    CrashServer(usize),
}

impl Member {
    pub(super) fn now(&self) -> Now {
        lock(&self.now).clone()
    }

    /// The longest time that a batch takes.
    pub(super) fn disk_millis(&self) -> u64 {
        self.disk_millis.load(Ordering::Relaxed)
    }

    pub(super) fn set_disk_millis(&self, millis: u64) {
        self.disk_millis.store(millis, Ordering::Relaxed);
    }
}

/// What time it is in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Season {
    /// Applications work and everything fails.
    Storm,
    /// Nothing fails any more but what is left failing; no new work is begun.
    Calm,
    /// Processes do not start again.
    Over,
}

pub(super) struct World {
    pub(super) luck: Luck,
    pub(super) journal: Arc<Journal>,
    pub(super) servers: Vec<Server>,
    pub(super) members: Vec<Member>,
    /// Without one, every process has a log on its own disk.
    pub(super) shared: Option<SharedLog>,
    pub(super) account: Account,
    pub(super) season: Signal<Season>,
    pub(super) workers: u64,
    /// How many completed decisions a log keeps.
    pub(super) retained: usize,
    /// How long between two recovery passes, at least and at most.
    pub(super) recovery_millis: (u64, u64),
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let luck = Luck::new(seed);
        let journal = Arc::new(Journal::begin());
        let count = 2 + luck.below(3) as usize;
        let servers: Vec<Server> = (0..count).map(|at| server(at, &luck)).collect();
        let lose = *luck.pick(&[0, 0, 5, 30]);
        let is_shared = seed >= SHARED;
        let shared = is_shared.then(|| SharedLog::new(&luck, &servers));
        let members = match is_shared {
            true => 2 + luck.below(3) as usize,
            false => 1 + usize::from(luck.chance(300)),
        };
        let members = (0..members).map(|member| {
            let links = (0..count + usize::from(is_shared)).map(|at| {
                let name = match at == count {
                    true => format!("p{member}-log"),
                    false => format!("p{member}-s{at}"),
                };
                Link::new(lose, luck.fork(), Arc::clone(&journal), name)
            });
            let life = Life::begin(0, member, Arc::clone(&journal));
            Member {
                links: links.collect(),
                now: Mutex::new(Now {
                    disk: Disk::new(luck.fork(), Arc::clone(&life)),
                    life,
                    manager: None,
                    log: None,
                }),
                disk_millis: AtomicU64::new(2),
                is_waited_for: AtomicBool::new(false),
                trap: Mutex::default(),
            }
        });
        let world = Arc::new(Self {
            members: members.collect(),
            servers,
            account: Account::default(),
            season: Signal::new(Season::Storm),
            workers: 1 + luck.below(3),
            // A table log keeps them until its owner has left.
            retained: match is_shared {
                true => 0,
                false => *luck.pick(&[0, 2, RETAINED_ALL, RETAINED_ALL]),
            },
            shared,
            recovery_millis: *luck.pick(&[(30, 100), (50, 300), (500, 4000)]),
            journal,
            luck,
        });
        world.plant_others();
        world
    }

    /// Prepared transactions of other managers, and texts that only look like ours.
    fn plant_others(&self) {
        for at in 0..self.servers.len() {
            let opening = Opening {
                manager: ManagerId::from_bytes([at as u8; 10]),
                epoch: Epoch(1),
                nonce: self.luck.next(),
            };
            self.plant(at, opening);
        }
    }

    /// A branch of this opening that no process of this world may touch.
    pub(super) fn plant(&self, at: usize, opening: Opening) {
        let server = &self.servers[at];
        let xid = Xid {
            gtrid: opening.gtrid(1_000_000 + self.luck.below(1000)),
            bqual: format!("s{at}").parse().unwrap(),
        };
        let row = format!("foreign{}", self.luck.below(1000));
        server.memory.plant(&xid, &[(&row, "1")]);
        self.account.plant_foreign(at, xid);
    }

    pub(super) fn season(&self) -> Season {
        self.season.get()
    }

    pub(super) async fn season_is(&self, wanted: Season) {
        self.season.wait_for(|season| season >= wanted).await;
    }

    /// Everything works again, but for the server that is left out.
    pub(super) fn heal(&self, but: Option<usize>) {
        for member in &self.members {
            for (at, link) in member.links.iter().enumerate() {
                let way = if Some(at) == but { Way::Cut } else { Way::Open };
                link.set_way(way);
                link.set_slow(0);
            }
            let now = member.now();
            now.life.pause(false);
            now.disk.set_plan(super::disk::Plan::default());
            now.disk.set_room(None);
            member.set_disk_millis(2);
            *lock(&member.trap) = None;
        }
        for server in &self.servers {
            server.memory.set_reachable(true);
            server.memory.set_writable(true);
        }
        if let Some(shared) = &self.shared {
            shared.table.set_reachable(true);
            shared.table.set_writable(true);
        }
    }

    /// Money is moved, never made.
    pub(super) fn balances(&self) -> BTreeMap<usize, i64> {
        let servers = self.servers.iter().enumerate();
        servers.map(|(at, server)| (at, server.balance())).collect()
    }
}

fn server(at: usize, luck: &Luck) -> Server {
    let flavour = *luck.pick(&[Flavour::Postgres, Flavour::Mysql, Flavour::Mariadb]);
    // Long, so that a batch is longer than a sector and can be torn.
    let identity = format!("server {at} {}", "of a long name ".repeat(7));
    let memory = MemoryServer::with(&identity, flavour, ServerJournal::new());
    let foreign_texts = vec![
        "una".to_owned(),
        format!("pg_gid_{at}_7"),
        "una1.not.quite.ours'; --".to_owned(),
    ];
    memory.set_detects_read_only(luck.chance(500));
    for text in &foreign_texts {
        memory.plant_foreign(text);
    }
    Server {
        resource: memory.resource(&format!("s{at}")),
        memory,
        flavour,
        foreign_texts,
    }
}
