//! Marks completed decisions, and deletes the oldest of those that are marked: now and then, many
//! at once, and lost in a crash without harm.

use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;

const PAUSE: Duration = Duration::from_millis(250);
const BATCH_MAX: usize = 500;

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        while write_some(&shared).await {}
    }
}

/// Marks what is completed, as far as that goes. At the end.
pub(super) async fn write_all(shared: &Shared) {
    while write_some(shared).await {}
}

/// Is there more?
async fn write_some(shared: &Shared) -> bool {
    let (unmarked, to_forget) = {
        let mut known = shared.known();
        (
            known.take_unmarked(BATCH_MAX),
            known.take_to_forget(BATCH_MAX),
        )
    };
    let table = &shared.desk.table;
    let mut is_well = true;
    if !unmarked.is_empty() {
        let marked = shared.desk.ask(table.complete(&unmarked)).await;
        let mut known = shared.known();
        if let Err(error) = marked {
            tracing::debug!(target: "unanimous", %error, "completions are written later");
            known.put_back_unmarked(unmarked.clone());
            is_well = false;
        } else {
            known.note_marked(&unmarked);
        }
    }
    if !to_forget.is_empty()
        && let Err(error) = shared.desk.ask(table.forget(&to_forget)).await
    {
        tracing::debug!(target: "unanimous", %error, "completed decisions are deleted later");
        shared.known().put_back_to_forget(to_forget.clone());
        is_well = false;
    }
    is_well && (unmarked.len() == BATCH_MAX || to_forget.len() == BATCH_MAX)
}
