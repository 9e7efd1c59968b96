//! The application as a process of its own, which is killed at the point: this test program, run
//! again with a plan in its environment.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::app::App;
use super::cell::Cell;
use super::judge::Case;
use super::rows::Places;
use super::story::live;
use super::strike::Striker;

const PLAN: &str = "UNANIMOUS_MATRIX_VICTIM";
/// Nothing that the test program says by itself has it.
const NOTE: &str = "victim: ";

/// Not a test of its own: the other half of the cells that kill the application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let [cell, folder, database, table, first] =
        plan.split('|').collect::<Vec<_>>().try_into().unwrap();
    let cell = Cell::parse(cell).unwrap();
    let places = Places::of(cell, None, folder.into(), database);
    let (wires, behind) = places.wired().await;
    let notes = Arc::new(|line: String| println!("{NOTE}{line}"));
    let striker = Striker::new(cell, wires, None, notes);
    let first = first.parse().unwrap();
    let app = App::new(cell, table.to_owned(), first, &behind, &places);
    live(&app, &striker).await;
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// Runs the application until it stands at its point, and kills it with SIGKILL. `None` if it never
/// came there; its notes are in the case.
pub(super) fn kill_at_the_point(case: &mut Case) -> Option<()> {
    let plan = format!(
        "{}|{}|{}|{}|{}",
        case.cell.name(),
        case.folder.display(),
        case.database,
        case.table,
        case.first
    );
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command
        .args(["matrix::victim::victim", "--exact", "--nocapture"])
        .env(PLAN, plan)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut victim = Victim(command.spawn().unwrap());
    let lines = BufReader::new(victim.0.stdout.take().unwrap()).lines();
    let mut has_struck = None;
    for line in lines.map_while(Result::ok) {
        let Some((_, note)) = line.split_once(NOTE) else {
            continue;
        };
        if note == "struck" {
            has_struck = Some(());
            victim.0.kill().unwrap();
        } else {
            case.notes.push(note.to_owned());
        }
    }
    has_struck
}
