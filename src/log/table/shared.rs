//! What the port and the tasks of an open table log share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use unanimous_core::ports::{DecideError, LogError, OpeningRow, ServerIdentity, TableState};
use unanimous_core::xid::{Epoch, Gtrid};

use super::Options;
use super::batches::REPEATED_MAX;
use super::desk::Desk;
use super::known::Known;
use super::members::Watch;

/// Why nobody can tell what was decided.
pub(super) const FORGOTTEN: &str = "its epoch is closed, and its decision may have been deleted or \
    lost since it was asked for first: find out at its databases";

pub(super) struct Shared {
    pub(super) desk: Desk,
    pub(super) options: Options,
    pub(super) label: String,
    pub(super) watch: Watch,
    pub(super) wants_rejoin: Notify,
    /// Held while this member joins anew, or leaves.
    pub(super) joining: tokio::sync::Mutex<()>,
    /// Whoever may wait for a key that another transaction holds: so few, that sessions are left to
    /// first decisions and to signs of life.
    repeated: Semaphore,
    /// Held while what is lazy is on its way to the table.
    pub(super) lazy: tokio::sync::Mutex<()>,
    /// Of the server on which this member has joined last.
    state: Mutex<TableState>,
    known: Mutex<Known>,
    slot: AtomicU32,
}

impl Shared {
    pub(super) fn new(
        desk: Desk,
        state: TableState,
        options: Options,
        label: String,
        own: OpeningRow,
    ) -> Self {
        Self {
            desk,
            options,
            label,
            watch: Watch::default(),
            wants_rejoin: Notify::new(),
            joining: tokio::sync::Mutex::default(),
            repeated: Semaphore::new(REPEATED_MAX),
            lazy: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
            known: Mutex::new(Known::new(own)),
            slot: AtomicU32::new(0),
        }
    }

    /// See the field.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.repeated.acquire().await.ok()
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        // Consistent after every statement: a panic elsewhere does not spoil it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, TableState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whatever was recorded under that opening is at this server, too.
    pub(super) fn is_whole(&self, row: &OpeningRow, now: &ServerIdentity) -> bool {
        let is_lossless = self.options.lossless_failover && !row.is_doubtful();
        is_lossless || row.identity == *now
    }

    /// No question about a decision that was asked before has a certain answer any more.
    ///
    /// As long as this member has not left its opening, its transactions stay among the active
    /// ones: should an earlier server answer again, where that is open, an attempt may be under way
    /// there.
    pub(super) fn may_be_lost(&self, gtrid: Gtrid, why: &str) -> DecideError {
        let error = LogError::new(format!("{gtrid}: {why}"));
        let known = self.known();
        let has_left = known.own() != gtrid.opening || known.is_shut_down();
        if !has_left || !known.is_closed(gtrid.opening) {
            DecideError::Uncertain(error)
        } else {
            DecideError::MayBeLost(error)
        }
    }

    pub(super) fn next_slot(&self) -> u32 {
        self.slot.fetch_add(1, Ordering::Relaxed)
    }

    /// This member goes on under a new epoch, if it still decides under that one.
    pub(super) fn rejoin(&self, from: Epoch) {
        self.known().leave(from);
        self.wants_rejoin.notify_one();
    }

    /// Also if its epoch was opened on another server than the one that answers now.
    pub(super) fn rejoin_if_elsewhere(&self, now: &ServerIdentity) {
        let known = self.known();
        let own = known.own();
        let is_here = match known.listed(own) {
            Some(row) => self.is_whole(row, now),
            None => self.options.lossless_failover,
        };
        drop(known);
        if !is_here {
            self.rejoin(own.epoch);
        }
    }

    pub(super) fn wake(&self) {
        let wakes = self.known().wakes();
        for wake in wakes {
            wake();
        }
    }
}
