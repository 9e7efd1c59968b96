//! A process: starts the real transaction manager, lets applications work, dies, and starts again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use unanimous::{Config, Point, Probe, StartError, TransactionManager, TransactionManagerBuilder};

use super::journal::{Invariant, lock};
use super::life::{Death, Life};
use super::log::SimHome;
use super::resource::Remote;
use super::shared::SharedHome;
use super::world::{Now, Season, Strike, World};
use super::{nemesis, worker};

const START_TIMEOUT: Duration = Duration::from_secs(2);

/// Limits in the proportions of the defaults, in a world where a second is long.
fn limits(config: &mut Config, (interval, interval_max): (u64, u64)) {
    config.deadline = Duration::from_secs(5);
    config.open_timeout = Duration::from_secs(1);
    config.prepare_timeout = Duration::from_secs(1);
    config.decide_timeout = Duration::from_secs(1);
    config.finish_timeout = Duration::from_secs(1);
    config.start_timeout = START_TIMEOUT;
    config.drain_timeout = Duration::from_secs(3);
    config.recovery_timeout = Duration::from_secs(1);
    config.recovery_interval = Duration::from_millis(interval);
    config.recovery_interval_max = Duration::from_millis(interval_max);
}

/// All its lives.
pub(super) async fn run(world: Arc<World>, member: usize) {
    let mut death = Death::Left;
    for number in 1.. {
        if world.season() == Season::Over {
            return;
        }
        let life = Life::begin(number, member, Arc::clone(&world.journal));
        {
            let mut now = lock(&world.members[member].now);
            *now = Now {
                disk: now.disk.after(death, Arc::clone(&life)),
                life: Arc::clone(&life),
                manager: None,
                log: None,
            };
        }
        world
            .journal
            .note(format_args!("p{member}.{number} begins"));
        death = live(&world, member, &life).await;
        {
            let mut now = lock(&world.members[member].now);
            (now.manager, now.log) = (None, None);
        }
        world.account.died(member, number);
        world.members[member]
            .is_waited_for
            .store(false, Ordering::Relaxed);
        for connection in life.connections() {
            match death {
                Death::Killed | Death::Left => connection.close(world.luck.millis(0, 30)),
                Death::PowerLost => connection.close(world.luck.millis(1000, 8000)),
            }
        }
        let down = if world.season() == Season::Storm {
            1500
        } else {
            50
        };
        sleep(world.luck.millis(0, down)).await;
    }
}

async fn live(world: &Arc<World>, member: usize, life: &Arc<Life>) -> Death {
    // Dropped with this life, and all work with it.
    let mut workers = JoinSet::new();
    tokio::select! {
        biased;
        death = life.ended() => death,
        () = work(world, member, life, &mut workers) => {
            life.end(Death::Left, "by itself");
            Death::Left
        }
    }
}

async fn work(world: &Arc<World>, member: usize, life: &Arc<Life>, workers: &mut JoinSet<()>) {
    let Some(manager) = start(world, member, life).await else {
        return;
    };
    lock(&world.members[member].now).manager = Some(manager.clone());
    if life.number == 1 && world.luck.chance(500) {
        plant_unlisted(world, member);
    }
    if world.season() == Season::Storm {
        for number in 0..world.workers {
            let worker = worker::Worker::new(world, member, life, &manager, number);
            workers.spawn(worker.run());
        }
    }
    tokio::select! {
        biased;
        () = world.season_is(Season::Over) => {}
        () = tired(world) => {}
    }
    if world.luck.chance(500) {
        // In time, or not: what is left of them is dropped.
        let limit = world.luck.millis(0, 3000);
        let _ = timeout(limit, async {
            while workers.join_next().await.is_some() {}
        })
        .await;
    }
    workers.shutdown().await;
    world.members[member]
        .is_waited_for
        .store(false, Ordering::Relaxed);
    world.account.died(member, life.number);
    world
        .journal
        .note(format_args!("p{member}.{} shuts down", life.number));
    lock(&world.members[member].now).manager = None;
    // A log that has failed says so for a while after its disk is well again, and the way to one
    // that is shared never stops losing answers.
    let is_well = world.season() == Season::Over && world.shared.is_none();
    if let Err(error) = manager.shutdown().await
        && is_well
    {
        let text = format!("p{member} cannot shut down when all is well: {error}");
        world.journal.violated(Invariant::I6Liveness, text);
    }
}

/// Now and then, while there is a storm, a process is restarted in an orderly way.
async fn tired(world: &World) {
    loop {
        sleep(world.luck.millis(500, 6000)).await;
        if world.season() == Season::Storm && world.luck.chance(300) {
            world.journal.fault("orderly restart", format_args!(""));
            return;
        }
    }
}

/// The start may fail because of the disk, and is tried again. It is never delayed by a server.
async fn start(world: &Arc<World>, member: usize, life: &Arc<Life>) -> Option<TransactionManager> {
    loop {
        let mut builder = with_log(world, member, life)
            .config(|config| limits(config, world.recovery_millis))
            .probe(Arc::new(Watch {
                world: Arc::clone(world),
                member,
                life: Arc::clone(life),
            }));
        for at in 0..world.servers.len() {
            builder = builder.resource(&Remote::new(world, member, life, at));
        }
        let began = Instant::now();
        let started = builder.start().await;
        life.lives().await;
        let took = began.elapsed();
        // A log in a database may have to be waited for.
        let is_own = world.shared.is_none();
        if is_own && took > START_TIMEOUT + Duration::from_millis(100) {
            let text = format!("p{member} took {took:?} to start");
            world.journal.violated(Invariant::I6Liveness, text);
        }
        match started {
            Ok(manager) => return Some(manager),
            Err(StartError::Log(error)) => {
                world
                    .journal
                    .note(format_args!("p{member} cannot open its log: {error}"));
            }
            Err(error) => {
                let text = format!("p{member} does not start: {error}");
                world.journal.violated(Invariant::I6Liveness, text);
                return None;
            }
        }
        sleep(world.luck.millis(50, 500)).await;
    }
}

fn with_log(world: &Arc<World>, member: usize, life: &Arc<Life>) -> TransactionManagerBuilder {
    let builder = TransactionManager::builder();
    let (world, life) = (Arc::clone(world), Arc::clone(life));
    if world.shared.is_some() {
        return builder.log(SharedHome {
            world,
            member,
            life,
        });
    }
    let disk = world.members[member].now().disk;
    builder.log(SimHome {
        world,
        member,
        life,
        disk,
    })
}

/// Branches that name this manager and an opening that its log does not list.
fn plant_unlisted(world: &World, member: usize) {
    if let Some(mut opening) = world.account.manager_of(member) {
        let at = world.luck.below(world.servers.len() as u64) as usize;
        opening.nonce ^= 1;
        world.plant(at, opening);
        opening.nonce ^= 1;
        opening.epoch.0 += 1_000_000;
        world.plant(at, opening);
    }
}

/// Sees every point of a commit, delays some, and kills the process at one.
struct Watch {
    world: Arc<World>,
    member: usize,
    life: Arc<Life>,
}

impl Watch {
    fn sprung(&self) -> Option<Strike> {
        let mut trap = lock(&self.world.members[self.member].trap);
        if let Some(trap) = &mut *trap
            && trap.points_left > 0
        {
            trap.points_left -= 1;
            return None;
        }
        trap.take().map(|trap| trap.strike)
    }
}

#[async_trait]
impl Probe for Watch {
    async fn reached(&self, point: Point) {
        self.life.lives().await;
        if let Some(strike) = self.sprung() {
            nemesis::strike_at(&self.world, self.member, strike, &format!("{point:?}"));
            self.life.lives().await;
        }
        if self.world.luck.chance(100) {
            sleep(self.world.luck.millis(1, 3)).await;
            self.life.lives().await;
        }
    }

    fn luck(&self) -> Option<u32> {
        Some(self.world.luck.next() as u32)
    }
}
