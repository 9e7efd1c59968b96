//! Makes everything fail. Which kinds of failure a world knows, and how often, is luck, too.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use unanimous::Decision;
use unanimous::ports::{BranchErrorKind, Cause};
use unanimous_testing::{Fault, Step};

use super::disk::Plan;
use super::journal::lock;
use super::life::Death;
use super::luck::Luck;
use super::network::Way;
use super::run::in_doubt;
use super::world::{Season, Strike, Trap, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kill,
    AtPoint,
    KillInDisk,
    ServerCrash,
    ServerStandby,
    ServerRefuses,
    Silence,
    Cut,
    SlowNetwork,
    DiskFails,
    DiskFull,
    SlowDisk,
    EverythingDies,
    /// A person rolls a prepared branch back.
    Hand,
    /// No failure: somebody asks for a recovery pass in the middle of everything.
    Recover,
}

/// Some are more telling than others.
const KINDS: [Kind; 16] = [
    Kind::Kill,
    Kind::AtPoint,
    Kind::AtPoint,
    Kind::AtPoint,
    Kind::KillInDisk,
    Kind::ServerCrash,
    Kind::ServerStandby,
    Kind::ServerRefuses,
    Kind::Silence,
    Kind::Cut,
    Kind::SlowNetwork,
    Kind::DiskFails,
    Kind::DiskFull,
    Kind::SlowDisk,
    Kind::EverythingDies,
    Kind::Recover,
];

pub(super) async fn rage(world: Arc<World>) {
    let luck = world.luck.fork();
    let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| luck.chance(500)).collect();
    if luck.chance(150) {
        kinds.extend([Kind::Hand; 4]);
    }
    let pause = *luck.pick(&[200, 600, 1500]);
    world
        .journal
        .note(format_args!("nemesis: {kinds:?} within {pause} ms"));
    while world.season() == Season::Storm && !kinds.is_empty() {
        sleep(luck.millis(0, pause)).await;
        if world.season() == Season::Storm {
            strike(&world, &luck, *luck.pick(&kinds));
        }
    }
}

fn death(luck: &Luck) -> Death {
    *luck.pick(&[Death::Killed, Death::PowerLost])
}

fn strike(world: &Arc<World>, luck: &Luck, kind: Kind) {
    let number = luck.below(world.members.len() as u64) as usize;
    let member = &world.members[number];
    let at = luck.below(world.servers.len() as u64) as usize;
    match kind {
        Kind::Kill if luck.chance(500) => {}
        Kind::Kill => member.now().life.end(death(luck), "at any time"),
        Kind::AtPoint => {
            let strike = match luck.below(5) {
                0 | 1 => Strike::Die(death(luck)),
                2 => Strike::Cut(at, Way::Cut),
                3 => Strike::Cut(at, Way::Silent),
                _ => Strike::CrashServer(at),
            };
            *lock(&member.trap) = Some(Trap {
                points_left: luck.below(60),
                strike,
            });
        }
        Kind::KillInDisk => member.now().disk.set_plan(Plan {
            dies_in: Some((luck.below(8), death(luck))),
            ..Plan::default()
        }),
        Kind::DiskFails => fail_disk(world, luck, number),
        Kind::DiskFull => fill_disk(world, luck, number),
        Kind::SlowDisk => slow_down_disk(world, luck, number),
        Kind::Silence => way(world, luck, "network silent", Way::Silent),
        Kind::Cut => way(world, luck, "network cut", Way::Cut),
        Kind::SlowNetwork => {
            let link = Arc::clone(luck.pick(&member.links));
            let millis = *luck.pick(&[20, 300, 1500]);
            let kind = "slow network";
            world
                .journal
                .fault(kind, format_args!("{} {millis} ms", link.name()));
            link.set_slow(millis);
            later(luck.millis(50, 2000), move || link.set_slow(0));
        }
        Kind::ServerCrash => crash_server(world, luck, at),
        Kind::ServerStandby => {
            let server = world.servers[at].memory.clone();
            let kind = "server is a standby";
            world.journal.fault(kind, format_args!("s{at}"));
            server.set_writable(false);
            later(luck.millis(10, 1000), move || server.set_writable(true));
        }
        Kind::ServerRefuses => refuse(world, luck, at),
        // The others are left some time in between.
        Kind::EverythingDies if luck.chance(300) => everything_dies(world, "at once"),
        Kind::EverythingDies => {}
        Kind::Hand => drop(tokio::spawn(roll_back_by_hand(Arc::clone(world), at))),
        Kind::Recover => {
            if let Some(manager) = member.now().manager {
                tokio::spawn(async move { manager.recover().await });
            }
        }
    }
}

fn fail_disk(world: &World, luck: &Luck, number: usize) {
    let plan = Plan {
        after: luck.below(6),
        fails: 1 + luck.below(5),
        took_effect: luck.chance(500),
        dies_in: None,
    };
    let kind = "disk fails";
    world
        .journal
        .fault(kind, format_args!("p{number} {plan:?}"));
    world.members[number].now().disk.set_plan(plan);
}

fn fill_disk(world: &World, luck: &Luck, number: usize) {
    let room = luck.below(16 * 1024) as usize;
    let kind = "disk full";
    world
        .journal
        .fault(kind, format_args!("p{number} but for {room} bytes"));
    let disk = world.members[number].now().disk;
    disk.set_room(Some(room));
    later(luck.millis(50, 2000), move || disk.set_room(None));
}

fn slow_down_disk(world: &Arc<World>, luck: &Luck, number: usize) {
    let millis = *luck.pick(&[50, 500, 1500]);
    let kind = "slow disk";
    world
        .journal
        .fault(kind, format_args!("p{number} {millis} ms"));
    world.members[number].set_disk_millis(millis);
    let world = Arc::clone(world);
    later(luck.millis(50, 2000), move || {
        world.members[number].set_disk_millis(2);
    });
}

/// A transaction of this process has reached a point.
pub(super) fn strike_at(world: &Arc<World>, member: usize, strike: Strike, point: &str) {
    let luck = &world.luck;
    let text = format_args!("p{member} {strike:?} at {point}");
    match strike {
        Strike::Die(death) => world.members[member].now().life.end(death, point),
        Strike::Cut(at, way) => {
            world.journal.fault("network cut at a point", text);
            let link = Arc::clone(&world.members[member].links[at]);
            link.set_way(way);
            later(luck.millis(1, 1500), move || link.set_way(Way::Open));
        }
        Strike::CrashServer(at) => {
            world.journal.fault("server crashes at a point", text);
            let server = world.servers[at].memory.clone();
            server.crash_losing_rollbacks();
            server.set_reachable(false);
            later(luck.millis(0, 300), move || server.set_reachable(true));
        }
    }
}

/// Every process and every server loses its power.
pub(super) fn everything_dies(world: &World, why: &str) {
    world
        .journal
        .fault("everything dies", format_args!("{why}"));
    for member in &world.members {
        member.now().life.end(Death::PowerLost, why);
    }
    for server in &world.servers {
        server.memory.crash_losing_rollbacks();
    }
}

fn crash_server(world: &Arc<World>, luck: &Luck, at: usize) {
    let server = world.servers[at].memory.clone();
    let (flavour, keeps) = (world.servers[at].flavour, luck.chance(500));
    let text = format_args!("s{at} {flavour:?} {keeps}");
    world.journal.fault("server crashes", text);
    if keeps {
        server.crash();
    } else {
        server.crash_losing_rollbacks();
    }
    server.set_reachable(false);
    later(luck.millis(0, 1000), move || server.set_reachable(true));
}

/// The first branch that is prepared there within a second.
async fn roll_back_by_hand(world: Arc<World>, at: usize) {
    for _ in 0..500 {
        if let Some(xid) = in_doubt(&world, at).first()
            && world.season() == Season::Storm
        {
            let server = &world.servers[at].memory;
            server.end_by_hand(xid, Decision::Rollback);
            let kind = "rolled back by hand";
            world.journal.fault(kind, format_args!("s{at} {xid}"));
            world.account.note(xid.gtrid, |tx| {
                tx.by_hand.insert(at);
            });
            return;
        }
        sleep(Duration::from_millis(2)).await;
    }
}

fn refuse(world: &Arc<World>, luck: &Luck, at: usize) {
    let (step, refusal) = *luck.pick(&[
        (Step::Prepare, BranchErrorKind::RolledBack(Cause::Conflict)),
        (Step::Prepare, BranchErrorKind::RolledBack(Cause::Exhausted)),
        (Step::Prepare, BranchErrorKind::Undetermined),
        (Step::Open, BranchErrorKind::Unavailable),
        (Step::Commit, BranchErrorKind::Unavailable),
        (Step::Commit, BranchErrorKind::UnknownXid),
        (Step::Rollback, BranchErrorKind::UnknownXid),
        (Step::Rollback, BranchErrorKind::Failed),
        (Step::Finish, BranchErrorKind::UnknownXid),
        (Step::Finish, BranchErrorKind::Failed),
        (Step::OnePhase, BranchErrorKind::RolledBack(Cause::Conflict)),
    ]);
    let kind = "server refuses";
    world
        .journal
        .fault(kind, format_args!("s{at} {step:?} {refusal:?}"));
    let server = &world.servers[at].memory;
    server.fail_next(step, Fault::Refuse(refusal));
}

fn way(world: &Arc<World>, luck: &Luck, kind: &'static str, way: Way) {
    let member = luck.pick(&world.members);
    let count = 1 + luck.below(member.links.len() as u64) as usize;
    for at in luck.some_of(member.links.len(), count) {
        let link = Arc::clone(&member.links[at]);
        world.journal.fault(kind, format_args!("{}", link.name()));
        link.set_way(way);
        later(luck.millis(10, 1500), move || link.set_way(Way::Open));
    }
}

fn later(after: Duration, what: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        sleep(after).await;
        what();
    });
}
