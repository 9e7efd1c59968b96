//! One run of one world: a storm, a calm, the crash of everything, and what is left then.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use unanimous::ports::LogError;
use unanimous::{Gtrid, TransactionOutcome, Xid};

use super::account::Tx;
use super::journal::{Invariant, Violation};
use super::world::{Member, Season, World};
use super::{i1_atomicity, i2_durability, i3_never_guess, i4_only_ours, i6_liveness};
use super::{i7_cancellation, i8_no_leaks, nemesis, process};

/// What came of a world.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) seed: u64,
    pub(super) journal: String,
    pub(super) violations: Vec<Violation>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) transactions: u64,
    pub(super) acknowledged: u64,
}

/// How long recovery has at most, in virtual time, once nothing fails any more: some rounds of its
/// longest pause.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(seed: u64) -> Run {
    watch_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing from the system");
    PANICS.set(0);
    let world = runtime.block_on(live(seed));
    // Whatever still waits is dropped here.
    drop(runtime);
    if PANICS.get() > 0 {
        let text = format!("{} panics", PANICS.get());
        world.journal.violated(Invariant::I6Liveness, text);
    }
    let txs = world.account.all();
    let acknowledged =
        |tx: &&super::account::Tx| tx.answer == Some(super::account::Answer::Committed);
    Run {
        seed,
        journal: world.journal.text(),
        violations: world.journal.violations(),
        faults: world.journal.faults(),
        transactions: txs.len() as u64,
        acknowledged: txs.values().filter(acknowledged).count() as u64,
    }
}

async fn live(seed: u64) -> Arc<World> {
    let world = World::new(seed);
    // Virtual time: this passes at once when nothing else is left to wait for.
    let hour = Duration::from_secs(3600);
    if timeout(hour, live_in(Arc::clone(&world))).await.is_err() {
        let text = "the world hangs".to_owned();
        world.journal.violated(Invariant::I6Liveness, text);
    }
    world
}

async fn live_in(world: Arc<World>) {
    let members: Vec<_> = (0..world.members.len())
        .map(|member| tokio::spawn(process::run(Arc::clone(&world), member)))
        .collect();
    let nemesis = tokio::spawn(nemesis::rage(Arc::clone(&world)));
    sleep(world.luck.millis(2000, 6000)).await;

    world.journal.note(format_args!("calm"));
    world.season.change(|season| *season = Season::Calm);
    // A server stays away for longer: all others get done meanwhile.
    let away = world.luck.chance(300);
    let away = away.then(|| world.luck.below(world.servers.len() as u64) as usize);
    world.heal(away);
    drop(nemesis.await);
    if away.is_some() {
        if !i6_liveness::settle(&world, away, PATIENCE).await {
            return;
        }
        world.heal(None);
    }
    for ends in [false, true] {
        if ends {
            nemesis::everything_dies(&world, "after all");
            sleep(Duration::from_millis(100)).await;
        }
        // Without an end nothing more is to be learned.
        if !i6_liveness::settle(&world, None, PATIENCE).await {
            return;
        }
        ask_for_all_outcomes(&world).await;
        judge(&world);
    }

    world.season.change(|season| *season = Season::Over);
    for member in members {
        if member.await.is_err() {
            let text = "the task of a process panicked".to_owned();
            world.journal.violated(Invariant::I6Liveness, text);
        }
    }
    sleep(Duration::from_secs(1)).await;
    i8_no_leaks::judge(&world);
    world.journal.note(format_args!("{:?}", world.balances()));
}

fn judge(world: &World) {
    i1_atomicity::judge(world);
    i2_durability::judge(world);
    i3_never_guess::judge(world);
    i4_only_ours::judge(world);
    i7_cancellation::judge(world);
}

async fn ask_for_all_outcomes(world: &Arc<World>) {
    for (gtrid, tx) in world.account.all() {
        let member = &world.members[tx.member];
        // It may be about to restart.
        eventually(PATIENCE, async || member.now().manager.is_some()).await;
        if member.now().manager.is_none() {
            continue;
        }
        // Whoever has just ended it may still be about to let go of it.
        let is_over = async || {
            let outcome = outcome(world, member, gtrid).await;
            !matches!(outcome, Ok(TransactionOutcome::InDoubt))
        };
        eventually(PATIENCE, is_over).await;
        match last_word(world, member, gtrid, &tx).await {
            Ok(outcome) => world.account.outcome(&world.journal, gtrid, outcome),
            Err(error) => {
                let text = format!("the outcome of {} cannot be had: {error}", tx.mark());
                world.journal.violated(Invariant::I6Liveness, text);
            }
        }
    }
}

/// The way to a log that is shared loses questions and answers, even when all is well. Without its
/// log a process says what it has seen itself, which is not that somebody ended a branch by hand.
async fn last_word(
    world: &World,
    member: &Member,
    gtrid: Gtrid,
    tx: &Tx,
) -> Result<TransactionOutcome, LogError> {
    let mut last = outcome(world, member, gtrid).await;
    for _ in 0..20 {
        let is_said = match &last {
            Err(_) | Ok(TransactionOutcome::InDoubt) => false,
            Ok(TransactionOutcome::Committed) => tx.by_hand.is_empty(),
            Ok(_) => true,
        };
        if is_said || world.shared.is_none() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
        let again = outcome(world, member, gtrid).await;
        // A question that is lost takes nothing back.
        if again.is_ok() || last.is_err() {
            last = again;
        }
    }
    last
}

/// Whoever is asked may end over the question, and never say a word again: then whoever comes after
/// him is asked.
async fn outcome(
    world: &World,
    member: &Member,
    gtrid: Gtrid,
) -> Result<TransactionOutcome, LogError> {
    for _ in 0..3 {
        eventually(PATIENCE, async || member.now().manager.is_some()).await;
        let Some(manager) = member.now().manager else {
            break;
        };
        if let Ok(answer) = timeout(PATIENCE, manager.outcome(gtrid)).await {
            return answer;
        }
    }
    let text = format!("nobody answers what became of {gtrid}");
    world.journal.violated(Invariant::I6Liveness, text.clone());
    Err(LogError::new(text))
}

/// What is prepared at a server and belongs to this world.
pub(super) fn in_doubt(world: &World, at: usize) -> Vec<Xid> {
    let foreign = world.account.foreign();
    let foreign: BTreeSet<&Xid> = foreign.iter().map(|(_, xid)| xid).collect();
    let mut prepared = world.servers[at].memory.prepared();
    prepared.retain(|xid| !foreign.contains(xid));
    prepared
}

/// Waits for a condition in virtual time. `false` if it never came true.
pub(super) async fn eventually(
    patience: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> bool {
    let until = Instant::now() + patience;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// The runtime catches panics of tasks and drivers; a world must not have any.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            tell(panic);
        }));
    });
}
