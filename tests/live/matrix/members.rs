//! Two members on one log: the first is killed at the point, or paused there until the second has
//! closed its epoch. The second one ends what the first has left; no other life comes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use unanimous::TransactionManager;

use super::app::App;
use super::cell::{Fault, Story};
use super::judge::{Case, Findings, PATIENCE};
use super::run::{connections_left, kill};
use super::story::{is_over, live};
use super::strike::Striker;
use crate::databases::Judges;

/// How long the second one has for the branches, once the epoch is closed. Some of them it cannot
/// end while the connection of a paused one is open, and need not.
const ENDING: Duration = Duration::from_secs(3);

/// What is lazy has happened after that: whoever asks again finds what the others have left.
const LAZY: Duration = Duration::from_secs(1);

/// Lets nobody be paused for ever.
struct Resumed(Arc<Striker>);

impl Drop for Resumed {
    fn drop(&mut self) {
        self.0.resume();
    }
}

pub(super) async fn strike_and_judge(case: Case, judges: &mut Judges) -> Findings {
    let Some(second) = case.last_life().await else {
        return Findings {
            violations: vec!["the second member does not start".to_owned()],
            ..Findings::default()
        };
    };
    if case.cell.fault == Fault::Pause {
        return paused(case, second, judges).await;
    }
    let (case, has_struck) = kill(case).await;
    let mut findings = case.judge(judges, Some(second)).await;
    findings.is_unreached = has_struck.is_none();
    findings
}

async fn paused(mut case: Case, second: TransactionManager, judges: &mut Judges) -> Findings {
    let notes: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&notes);
    let (wires, behind) = case.places.wired().await;
    let keep = Arc::new(move |line| kept.lock().unwrap().push(line));
    let striker = Striker::new(case.cell, wires, None, keep);
    let resumed = Resumed(Arc::clone(&striker));
    let (cell, table, first) = (case.cell, case.table.clone(), case.first);
    let (places, watched) = (case.places.clone(), Arc::clone(&striker));
    let life = std::thread::spawn(move || {
        // One thread for all of it, so that whoever blocks it pauses all of it.
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let app = App::new(cell, table, first, &behind, &places);
        runtime.block_on(live(&app, &watched));
    });
    while !striker.has_struck() && !life.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let is_closed = !striker.has_struck() || second_has_acted(&case, &striker).await;
    drop(resumed);
    let joined = tokio::task::spawn_blocking(move || life.join()).await;
    let left = connections_left(&striker).await;
    case.notes = std::mem::take(&mut *notes.lock().unwrap());
    let mut findings = case.judge(judges, Some(second)).await;
    if joined.unwrap().is_err() {
        let text = "the paused member panicked".to_owned();
        findings.violations.push(text);
    }
    if !is_closed {
        let text = "I6: nobody closes the epoch of a member that gives no sign of life".to_owned();
        findings.violations.push(text);
    }
    findings.leaks += left;
    findings.is_unreached = !striker.has_struck();
    findings
}

/// Waits until the second one has closed the epoch, and as long as it needs for what it can end.
async fn second_has_acted(case: &Case, striker: &Striker) -> bool {
    let (app, begin) = (case.app(), Instant::now());
    let Some((gtrid, _)) = striker.latest() else {
        return true;
    };
    while !app.is_closed(gtrid.opening).await {
        if begin.elapsed() > PATIENCE {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let closed = Instant::now();
    while !is_over(&app, gtrid).await && closed.elapsed() < ENDING {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if case.cell.story == Story::PausedUnsure {
        tokio::time::sleep(LAZY).await;
    }
    true
}
