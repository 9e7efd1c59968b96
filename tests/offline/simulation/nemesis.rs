//! Makes everything fail. Which kinds of failure a world knows, and how often, is luck, too.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use unanimous::Decision;
use unanimous::ports::{BranchErrorKind, Cause};
use unanimous_testing::{Fault, Step, TableFault, TableStep};

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
    /// A process stands still for a while: of a log that is shared.
    Pause,
    /// The epoch of a process that lives is closed.
    Suspect,
    LogCrash,
    /// Another server takes the place of the log's, without loss.
    LogFailOver,
    LogAway,
    /// Requests to the log are refused, lost, or not forced.
    LogFails,
    /// A last resource is refused or not heard, or has run its statement, and commits later.
    LastFails,
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

/// Where a log is shared, these come in the place of those of disks.
const SHARED_KINDS: [Kind; 12] = [
    Kind::Pause,
    Kind::Pause,
    Kind::Pause,
    Kind::Suspect,
    Kind::Suspect,
    Kind::LogCrash,
    Kind::LogFailOver,
    Kind::LogAway,
    Kind::LogFails,
    Kind::LogFails,
    Kind::LastFails,
    Kind::LastFails,
];

fn is_of_disks(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::KillInDisk | Kind::DiskFails | Kind::DiskFull | Kind::SlowDisk
    )
}

pub(super) async fn rage(world: Arc<World>) {
    let luck = world.luck.fork();
    let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| luck.chance(500)).collect();
    if world.shared.is_some() {
        kinds.retain(|kind| !is_of_disks(*kind));
        let more = SHARED_KINDS.into_iter().filter(|_| luck.chance(500));
        kinds.extend(more);
    }
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
        Kind::Pause => pause(world, luck, number),
        Kind::Suspect => suspect(world, luck, number),
        Kind::LogCrash => crash_log(world, luck, false),
        Kind::LogFailOver => crash_log(world, luck, true),
        Kind::LogAway => cut_log(world, luck, number),
        Kind::LogFails => fail_log(world, luck),
        Kind::LastFails => fail_last(world, luck),
        Kind::Recover => {
            if let Some(manager) = member.now().manager {
                tokio::spawn(async move { manager.recover().await });
            }
        }
    }
}

fn pause(world: &World, luck: &Luck, number: usize) {
    let life = world.members[number].now().life;
    let pause = luck.millis(50, *luck.pick(&[500, 2000, 9000]));
    let text = format_args!("p{number}.{} for {pause:?}", life.number);
    world.journal.fault("process paused", text);
    life.pause(true);
    later(pause, move || life.pause(false));
}

/// By another one, or by itself.
fn suspect(world: &World, luck: &Luck, number: usize) {
    let suspect = luck.pick(&world.members).now();
    if let (Some(by), Some(log)) = (world.members[number].now().log, suspect.log) {
        let epoch = log.opening().epoch;
        let text = format_args!("{epoch} by p{number}");
        world.journal.fault("process suspected", text);
        tokio::spawn(async move { by.close(epoch).await });
    }
}

/// Of a log that stands alone: what happens to the server of a resource, happens to the log there.
fn crash_log(world: &World, luck: &Luck, fails_over: bool) {
    let Some(shared) = world.shared.as_ref().filter(|shared| shared.at.is_none()) else {
        return;
    };
    let table = shared.table.clone();
    if fails_over {
        world.journal.fault("log fails over", format_args!(""));
        table.fail_over(true);
    } else {
        world.journal.fault("log crashes", format_args!(""));
        table.crash();
    }
    table.set_reachable(false);
    later(luck.millis(0, 1500), move || table.set_reachable(true));
}

fn cut_log(world: &World, luck: &Luck, number: usize) {
    let way = *luck.pick(&[Way::Cut, Way::Silent]);
    if let Some(link) = world.members[number].links.last() {
        let link = Arc::clone(link);
        let text = format_args!("{} {way:?}", link.name());
        world.journal.fault("log away", text);
        link.set_way(way);
        later(luck.millis(10, 4000), move || link.set_way(Way::Open));
    }
}

fn fail_log(world: &World, luck: &Luck) {
    let step = *luck.pick(&TABLE_STEPS);
    let fault = *luck.pick(&[
        TableFault::NotSent,
        TableFault::Refused,
        TableFault::LoseRequest,
        TableFault::LoseReply,
        TableFault::LoseForce,
    ]);
    if let Some(shared) = &world.shared {
        world
            .journal
            .fault("log fails", format_args!("{step:?} {fault:?}"));
        shared.table.fail_next(step, fault);
    }
}

fn fail_last(world: &World, luck: &Luck) {
    let Some(at) = world.shared.as_ref().and_then(|shared| shared.at) else {
        return;
    };
    let server = &world.servers[at].memory;
    let way = luck.below(6);
    world
        .journal
        .fault("last resource fails", format_args!("{way}"));
    match way {
        0 => server.fail_next(Step::CommitLast, Fault::CONFLICT),
        1 => server.fail_next(Step::CommitLast, Fault::LoseRequest),
        2 => server.fail_next(Step::CommitLast, Fault::LoseReply),
        3 => server.fail_next(Step::LastCommit, Fault::LoseReply),
        _ => {
            let (hang, step) = (luck.millis(1, 3000), Step::LastCommit);
            let hanging = server.delay_next(step);
            later(hang, move || hanging.release());
        }
    }
}

const TABLE_STEPS: [TableStep; 10] = [
    TableStep::Decide,
    TableStep::Decide,
    TableStep::PutRollback,
    TableStep::Complete,
    TableStep::Close,
    TableStep::Release,
    TableStep::Beat,
    TableStep::Read,
    TableStep::Find,
    TableStep::Join,
];

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
    if let Some(shared) = &world.shared
        && shared.at.is_none()
    {
        shared.table.crash();
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
