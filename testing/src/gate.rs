//! A request that is held up on its way, and arrives whether or not anybody still waits for it.
//!
//! This is what makes a late prepare: the client gave up, and the server goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// What is done when the request arrives at last. It looks up the state that it changes itself.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Held {
    is_open: bool,
    jobs: Vec<Job>,
}

/// The place where requests are held up. Cloning gives the same place.
#[derive(Clone)]
pub(crate) struct Gate {
    held: Arc<Mutex<Held>>,
    arrivals: Arc<watch::Sender<usize>>,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        Self {
            held: Arc::default(),
            arrivals: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Nothing is held up.
    pub(crate) fn opened() -> Self {
        let gate = Self::closed();
        gate.open();
        gate
    }

    /// A closed gate that opens by itself, whether or not anybody still waits.
    pub(crate) fn open_after(latency: Duration) -> Self {
        let gate = Self::closed();
        let opening = gate.clone();
        tokio::spawn(async move {
            sleep(latency).await;
            opening.open();
        });
        gate
    }

    /// Holds the job up, or runs it at once if the gate is open.
    pub(crate) fn submit(&self, job: Job) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let through = if held.is_open {
            Some(job)
        } else {
            held.jobs.push(job);
            None
        };
        drop(held);
        if let Some(job) = through {
            job();
        }
        self.arrivals.send_modify(|count| *count += 1);
    }

    fn open(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.is_open = true;
        let jobs = std::mem::take(&mut held.jobs);
        drop(held);
        for job in jobs {
            job();
        }
    }
}

/// A request that hangs until the test releases it.
///
/// The request takes effect at the release even if its sender has given up by then. A crash of the
/// server or the log that it was sent to loses it. Dropping this handle releases nothing.
#[must_use = "without this handle nothing can release the request"]
pub struct Hang(pub(crate) Gate);

impl Hang {
    /// Waits until the request hangs (or, after the release, has gone through).
    pub async fn reached(&self) {
        let mut arrivals = self.0.arrivals.subscribe();
        // Fails only when the sender is gone, and this handle holds it.
        let _ = arrivals.wait_for(|count| *count > 0).await;
    }

    /// Is the request there?
    pub fn is_reached(&self) -> bool {
        *self.0.arrivals.borrow() > 0
    }

    /// Lets the request take effect, now or as soon as it arrives.
    pub fn release(&self) {
        self.0.open();
    }
}
