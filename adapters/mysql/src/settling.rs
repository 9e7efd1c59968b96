//! Keeps a branch of MariaDB's from being ended while the connection that prepared it closes.
//!
//! MariaDB hands such a branch over in two steps: its XID first, InnoDB's transaction some moments
//! later. In between, `XA COMMIT` and `XA ROLLBACK` from another connection answer OK and end
//! nothing; the branch is listed no more and keeps its locks until the server restarts (seen with
//! 10.11.19: `i1_a_branch_of_a_closing_connection_is_not_ended_before_its_time`). The server shows
//! nothing of the moment to an account without the privilege PROCESS, so this waits: a branch is
//! ended from elsewhere no sooner than [`SETTLES`] after it was first listed, and after its own
//! connection was closed by this process.
//!
//! What this does not cover: a connection that closes later by itself, because a proxy kept it open
//! or a statement was running, in the very moment in which recovery tries once more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use unanimous_core::ports::{ScannedBranch, XidOwner};
use unanimous_core::xid::Xid;

/// Some thousand times what a server needs to close a connection.
const SETTLES: Duration = Duration::from_millis(500);

/// When each branch was last seen to begin something that has to settle.
#[derive(Debug, Default)]
pub(crate) struct Settling(Mutex<HashMap<Xid, Instant>>);

impl Settling {
    /// Its own connection is being closed.
    pub(crate) fn closing(&self, xid: &Xid) {
        self.lock().insert(xid.clone(), Instant::now());
    }

    /// What the server lists now.
    pub(crate) fn listed(&self, branches: &[ScannedBranch]) {
        let now = Instant::now();
        let mut since = self.lock();
        let mut seen = HashMap::new();
        for branch in branches {
            if let XidOwner::Unanimous(xid) = &branch.owner {
                let first = since.remove(xid).unwrap_or(now);
                seen.insert(xid.clone(), first);
            }
        }
        // One whose connection closes may be listed only after its prepare has ended.
        since.retain(|_, since| now.duration_since(*since) < SETTLES);
        since.extend(seen);
    }

    /// Returns when it may be ended from another connection.
    pub(crate) async fn settled(&self, xid: &Xid) {
        let since = *self.lock().entry(xid.clone()).or_insert_with(Instant::now);
        tokio::time::sleep_until(since + SETTLES).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Xid, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
