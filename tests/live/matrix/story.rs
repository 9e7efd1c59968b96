//! The application: lives of a manager around the cell's point, each with its transactions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use unanimous::{CommitError, Gtrid, Point, Probe, TransactionManager, TransactionOutcome};
use unanimous_testing::WireFault;

use super::app::App;
use super::asks::{self, When};
use super::cell::{Cell, Fault, Story};
use super::home::Home;
use super::judge::PATIENCE;
use super::meddler::{Meddler, let_answers_come};
use super::strike::{DELAY, Striker};
use super::tricks::Tricky;
use crate::databases::Judges;

/// How many lives an application has for its point to be reached.
const LIVES: u32 = 3;

/// Lives until the fault has struck, and says by notes what was promised.
pub(super) async fn live(app: &App, striker: &Arc<Striker>) {
    let lifted = tokio::spawn(lift_delay(app.cell, Arc::clone(striker)));
    for _ in 0..LIVES {
        one_life(app, striker).await;
        if striker.has_struck() {
            break;
        }
    }
    striker.give_up();
    lifted.abort();
    for wire in striker.wires() {
        wire.set(WireFault::None);
    }
}

/// Lets the replies that were held go on.
async fn lift_delay(cell: Cell, striker: Arc<Striker>) {
    if cell.fault != Fault::Delay {
        return;
    }
    while !striker.has_struck() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(DELAY).await;
    striker.target_wire().set(WireFault::None);
}

async fn one_life(app: &App, striker: &Arc<Striker>) {
    let story = app.cell.story;
    if story.is_recovery() {
        earlier_life(app, striker).await;
    }
    if story == Story::DownAtStart && !striker.has_struck() {
        striker.target_wire().set(WireFault::Down);
    }
    let tm = start(app, striker).await;
    if story == Story::DownAtStart && striker.target_wire().fault() == WireFault::Down {
        striker.target_wire().set(WireFault::None);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    if story.is_recovery() {
        recover(app, striker, &tm).await;
    } else {
        for _ in 0..2 {
            if !striker.has_struck() {
                transact(app, striker, &tm).await;
            }
        }
    }
    if striker.has_struck() && app.cell.fault != Fault::KillCoordinator {
        resolve_while_running(app, striker).await;
    }
    if striker.call(tm.shutdown()).await.is_none() {
        // Once more, because the first was dropped; what it answers is the judge's to see.
        let _ = tm.shutdown().await;
    }
}

/// Recovers what the earlier life left. In a table that life's epoch has to be closed first, by
/// those who miss its signs.
async fn recover(app: &App, striker: &Arc<Striker>, tm: &TransactionManager) {
    let begin = Instant::now();
    let mut rounds_left = 2;
    while rounds_left > 0 && begin.elapsed() < PATIENCE {
        let latest = striker.latest();
        if let Some((gtrid, number)) = latest {
            asks::ask(striker, tm, gtrid, number, When::InALaterLife).await;
        }
        striker.call(tm.recover()).await;
        if app.cell.home == Home::File || striker.has_struck() {
            rounds_left -= 1;
            continue;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let is_over = match latest {
            None => true,
            Some((gtrid, _)) => is_over(app, gtrid).await,
        };
        rounds_left -= u32::from(is_over);
    }
}

/// The epoch is closed, and nothing of it is left.
pub(super) async fn is_over(app: &App, gtrid: Gtrid) -> bool {
    let opening = gtrid.opening;
    if !app.is_closed(opening).await || app.pending(Some(opening)).await != Ok(0) {
        return false;
    }
    let mut judges = Judges::default();
    for place in &app.places {
        if judges.prepared(place, &gtrid.to_string()).await > 0 {
            return false;
        }
    }
    true
}

/// I6: nothing needs a restart to be resolved.
async fn resolve_while_running(app: &App, striker: &Arc<Striker>) {
    let Some((gtrid, _)) = striker.latest() else {
        return;
    };
    let manager = gtrid.opening.manager.to_string();
    let repairing = Arc::clone(striker);
    let repaired = tokio::task::spawn_blocking(move || repairing.repair());
    repaired.await.unwrap();
    let mut judges = Judges::default();
    let begin = Instant::now();
    let mut left = 1;
    while left > 0 && begin.elapsed() < PATIENCE {
        left = 0;
        for place in &app.places {
            left += judges.prepared(place, &manager).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if left > 0 {
        striker.note(format!("stuck {left}"));
    }
}

/// Starts until it succeeds: after a start that was dropped, the log may be in use for a moment.
async fn start(app: &App, striker: &Arc<Striker>) -> TransactionManager {
    loop {
        let home = app.home(Some(Arc::clone(striker)));
        let tricky = Tricky {
            story: app.cell.story,
            home,
        };
        let probe: Arc<dyn Probe> = Meddler::around(app, striker);
        let starting = app.builder().log(tricky).probe(probe).start();
        match striker.call(starting).await {
            Some(Ok(tm)) => return tm,
            Some(Err(_)) | None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn transact(app: &App, striker: &Striker, tm: &TransactionManager) {
    let mut tx = tm.begin();
    let (gtrid, number) = (tx.gtrid(), striker.begun(tx.gtrid()));
    if app.work(&mut tx, number, Some(striker)).await.is_err() {
        let _ = striker.call(tx.rollback()).await;
        return striker.note(format!("rolledback {number}"));
    }
    if app.cell.story == Story::Rollback {
        let _ = striker.call(tx.rollback()).await;
        return striker.note(format!("rolledback {number}"));
    }
    let answer = if app.cell.story == Story::Asked {
        Some(asks::commit_asked(striker, tm, tx, number).await)
    } else {
        striker.call(tx.commit()).await
    };
    // A decision that could not even be sent is no uncertain one, and the log is to be used again.
    let_answers_come(striker);
    if app.cell.story == Story::LastLate {
        // What its server does by itself, it has done by then.
        tokio::time::sleep(DELAY).await;
    }
    let claim = match &answer {
        Some(Ok(_)) => "committed",
        Some(Err(CommitError::RolledBack { .. })) => "rolledback",
        Some(Err(CommitError::Undetermined { .. })) => "undetermined",
        Some(Err(error)) => {
            eprintln!("{}: {error}", app.cell.name());
            "heuristic"
        }
        None => "dropped",
    };
    striker.note(format!("{claim} {number}"));
    if app.cell.home != Home::File {
        until_decided(striker, tm, gtrid).await;
    }
    let is_asked = app.cell.story == Story::Asked || app.cell.story.is_by_hand();
    if is_asked {
        asks::ask(striker, tm, gtrid, number, When::After).await;
    }
    if let Some(Ok(committed)) = answer {
        asks::completed(app, striker, &committed, number).await;
    }
    if is_asked {
        asks::ask(striker, tm, gtrid, number, When::AtTheEnd).await;
    }
}

/// What goes on without its application is over before the next transaction begins: points that
/// are reached later would be taken for those of that one.
async fn until_decided(striker: &Striker, tm: &TransactionManager, gtrid: Gtrid) {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE / 3 {
        match striker.call(tm.outcome(gtrid)).await {
            Some(Ok(TransactionOutcome::InDoubt)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Some(_) | None => return,
        }
    }
}

/// Stands still where an earlier life is to end.
struct EndAt {
    cell: Cell,
    reached: UnboundedSender<()>,
}

#[async_trait]
impl Probe for EndAt {
    async fn reached(&self, point: Point) {
        let is_target = |point: &Point| {
            let name = point.resource().map(|name| name.as_str());
            name == Some(self.cell.target_name().as_str())
        };
        let is_proof = self.cell.story == Story::RecoverProof;
        let has_last = self.cell.home.has_last();
        let is_end = match self.cell.story {
            Story::RecoverRollback if has_last => point.name() == "last.before",
            Story::RecoverRollback => point == Point::BeforeDecide,
            Story::RecoverProof => point.name() == "commit.answered" && is_target(&point),
            Story::RecoverCommit if has_last => point.name() == "last.answered",
            Story::RecoverCommit
            | Story::Commit
            | Story::Rollback
            | Story::Refused
            | Story::Uncertain
            | Story::Overdue
            | Story::CutCommit
            | Story::HandRollsBack
            | Story::HandCommits
            | Story::Asked
            | Story::DownAtStart
            | Story::LastUnsent
            | Story::LastUnanswered
            | Story::LastLate
            | Story::Survivor
            | Story::Paused
            | Story::PausedUnsure => point == Point::DecisionDurable,
        };
        let is_held = is_proof && point.name() == "commit.before" && !is_target(&point);
        if is_end {
            // Whoever waits for it may have waited long enough.
            let _ = self.reached.send(());
        }
        if is_end || is_held {
            std::future::pending::<()>().await;
        }
    }
}

/// A life that ends in the middle of its transaction: its runtime is taken away.
async fn earlier_life(app: &App, striker: &Arc<Striker>) {
    let (app, striker) = (app.clone(), Arc::clone(striker));
    let life = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(until_its_end(&app, &striker));
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    let joined = tokio::task::spawn_blocking(move || life.join()).await;
    joined.unwrap().unwrap();
}

async fn until_its_end(app: &App, striker: &Striker) {
    let (reached, mut ended) = unbounded_channel();
    let cell = app.cell;
    let probe = Arc::new(EndAt { cell, reached });
    let Ok(tm) = app.builder().probe(probe).start().await else {
        return;
    };
    let mut tx = tm.begin();
    let number = striker.begun(tx.gtrid());
    if app.work(&mut tx, number, None).await.is_err() {
        return tx.rollback().await;
    }
    let is_decided = app.cell.story != Story::RecoverRollback;
    tokio::select! {
        _ = ended.recv() => if is_decided {
            striker.note(format!("decided {number}"));
        },
        _ = tx.commit() => {}
    }
}
