//! The wait for the synchronous standbys of a server, shared by all of recovery that asks for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use unanimous_core::ports::ServerIdentity;

use crate::failure::Failure;
use crate::{Postgres, sql};

/// A synchronous standby that is there answers sooner.
const PATIENCE: Duration = Duration::from_secs(1);

/// For how long nobody waits again for a standby that was waited for in vain: as long as recovery
/// waits by default, so that it does something else for half of its time at least.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// What is known of waits for the synchronous standbys.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    /// Held by the one that is under way.
    waits: Mutex<Waits>,
    moments: AtomicU64,
}

#[derive(Debug, Default)]
struct Waits {
    /// The newest that has ended well began after this moment, at this server.
    last: Option<(u64, ServerIdentity)>,
    /// When the newest was given up unanswered.
    given_up: Option<Instant>,
}

/// A wait under way. Dropped unanswered, it was given up; one that was short says nothing.
struct Wait<'a> {
    waits: MutexGuard<'a, Waits>,
    since: Instant,
    is_answered: bool,
}

impl<'a> Wait<'a> {
    fn begin(waits: MutexGuard<'a, Waits>) -> Self {
        Self {
            waits,
            since: Instant::now(),
            is_answered: false,
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.is_answered && self.since.elapsed() >= PATIENCE {
            self.waits.given_up = Some(Instant::now());
        }
    }
}

impl Postgres {
    /// Waits until the synchronous standbys of the server, which it names, have all that was
    /// committed before. One wait serves all who had asked for it before it began, on one session:
    /// a standby that is away takes no more of recovery's. Nor of its time: whoever asks soon after
    /// a wait was given up does not wait.
    pub(crate) async fn await_standbys(&self) -> Result<ServerIdentity, Failure> {
        let Awaited { waits, moments } = &self.pools().awaited;
        let moment = moments.fetch_add(1, Ordering::SeqCst);
        let waits = waits.lock().await;
        if let Some((begun, identity)) = &waits.last
            && *begun > moment
        {
            return Ok(identity.clone());
        }
        if waits.given_up.is_some_and(|at| at.elapsed() < GIVEN_UP) {
            return Err(Failure::lost("all were waited for in vain just now", None));
        }
        let begun = moments.fetch_add(1, Ordering::SeqCst);
        let mut wait = Wait::begin(waits);
        let answer = self.ask_who_and(&sql::await_standbys()).await;
        wait.is_answered = true;
        wait.waits.given_up = None;
        let (facts, _) = answer?;
        wait.waits.last = Some((begun, facts.identity.clone()));
        Ok(facts.identity)
    }
}
