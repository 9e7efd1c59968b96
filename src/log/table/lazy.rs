//! Marks completed decisions, and deletes the oldest of those that are marked: now and then, many
//! at once, and lost in a crash without harm. At once and durably if somebody asks for that.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{LogError, TableError};

use super::log_error;
use super::shared::Shared;

const PAUSE: Duration = Duration::from_millis(250);
const BATCH_MAX: usize = 500;

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        // What is not written now is written later.
        let _ = write_all(&shared).await;
    }
}

/// Marks what was completed until now, and makes the marks durable: what is forced takes along
/// whatever was written before it. What is completed meanwhile is not waited for.
pub(super) async fn force(shared: &Shared) -> Result<(), LogError> {
    let mut unmarked = {
        // What another has taken and could not write is there again.
        let _alone = shared.lazy.lock().await;
        shared.known().unmarked_count()
    };
    while unmarked > 0 {
        write_some(shared).await.map_err(log_error)?;
        unmarked = unmarked.saturating_sub(BATCH_MAX);
    }
    let own = shared.known().own();
    let desk = &shared.desk;
    let asked = desk.ask(desk.table.find(own.gtrid(0), Some(own.epoch)));
    asked.await.map(drop).map_err(log_error)
}

/// Marks what is completed, as far as that goes.
pub(super) async fn write_all(shared: &Shared) -> Result<(), TableError> {
    while write_some(shared).await? {}
    Ok(())
}

/// Is there more?
async fn write_some(shared: &Shared) -> Result<bool, TableError> {
    // What another has taken is there before this one says that it is.
    let _alone = shared.lazy.lock().await;
    let (unmarked, to_forget) = {
        let mut known = shared.known();
        (
            known.take_unmarked(BATCH_MAX),
            known.take_to_forget(BATCH_MAX),
        )
    };
    let is_more = unmarked.len() == BATCH_MAX || to_forget.len() == BATCH_MAX;
    let table = &shared.desk.table;
    let mut marked = Ok(());
    if !unmarked.is_empty() {
        marked = shared.desk.ask(table.complete(&unmarked)).await;
        let mut known = shared.known();
        if let Err(error) = &marked {
            tracing::debug!(target: "unanimous", %error, "completions are written later");
            known.put_back_unmarked(unmarked);
        } else {
            known.note_marked(&unmarked);
        }
    }
    let mut is_well = true;
    if !to_forget.is_empty()
        && let Err(error) = shared.desk.ask(table.forget(&to_forget)).await
    {
        tracing::debug!(target: "unanimous", %error, "completed decisions are deleted later");
        shared.known().put_back_to_forget(to_forget);
        is_well = false;
    }
    marked.map(|()| is_well && is_more)
}
