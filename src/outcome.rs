//! What became of a transaction, for those who ask right away and those who ask later.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use unanimous_core::ports::Lookup;
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName};

use crate::error::CommitError;
use crate::manager::Inner;
use crate::observe::Point;

/// The answer to "what became of this transaction?".
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionOutcome {
    /// Decided to commit, durably. Branches may still be on their way.
    Committed,
    /// Rolled back.
    RolledBack,
    /// Running, or being decided: ask again.
    InDoubt,
    /// These branches ended otherwise than was decided: rolled back although it was committed, or
    /// committed although it was rolled back.
    Heuristic(Vec<(ResourceName, Heuristic)>),
    /// Neither this process nor the log knows it (any more). *Not* a synonym of rolled back:
    /// records are kept for a while only, and a commit in one phase leaves none.
    Unknown,
}

/// A commit that has been answered. Every branch is committed, or will be without a person.
#[derive(Clone)]
pub struct Committed {
    gtrid: Gtrid,
    unfinished: Vec<ResourceName>,
    /// Kept by its own handles alone, and with it the log.
    manager: Weak<Inner>,
}

impl std::fmt::Debug for Committed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Committed");
        debug
            .field("gtrid", &self.gtrid)
            .field("unfinished", &self.unfinished)
            .finish()
    }
}

impl Committed {
    pub(crate) fn new(gtrid: Gtrid, unfinished: Vec<ResourceName>, manager: &Arc<Inner>) -> Self {
        Self {
            gtrid,
            unfinished,
            manager: Arc::downgrade(manager),
        }
    }

    /// The transaction.
    pub const fn gtrid(&self) -> Gtrid {
        self.gtrid
    }

    /// Resources whose branch was not confirmed when `commit` answered: recovery commits it as soon
    /// as the database can be reached. Until then it holds its locks there.
    pub fn unfinished(&self) -> &[ResourceName] {
        &self.unfinished
    }

    /// Waits until every branch is committed. Cancel safe. Waits for ever if a database never
    /// comes back: put a time limit around it.
    ///
    /// # Errors
    /// [`CommitError::Heuristic`] if a branch turned out to have ended otherwise, and
    /// [`CommitError::Undetermined`] if the log cannot be read, or the manager was shut down.
    pub async fn completed(&self) -> Result<(), CommitError> {
        if self.unfinished.is_empty() {
            return Ok(());
        }
        let gtrid = self.gtrid;
        let manager = self.manager.upgrade();
        let mut progress = manager.map(|manager| manager.recovery.progress());
        while let (Some(manager), Some(progress)) = (self.manager.upgrade(), &mut progress) {
            // Seen before looking: what changes after that is not missed.
            let is_stopped = *progress.borrow_and_update();
            let probes = manager.probes.clone();
            probes.reached(|| Point::BeforeCompletedLook).await;
            let found = manager.log.lookup(gtrid).await;
            probes.reached(|| Point::CompletedLooked).await;
            match found {
                Ok(Lookup::Pending(_)) if is_stopped => break,
                Ok(Lookup::Pending(_)) => {}
                Ok(Lookup::Heuristic { ends, .. }) => {
                    let branches = ends;
                    return Err(CommitError::Heuristic { gtrid, branches });
                }
                // It was decided: it is complete if it is not pending, be its record kept or not.
                Ok(Lookup::Completed | Lookup::NoRecord | Lookup::Open) => return Ok(()),
                Ok(Lookup::UnknownOpening | Lookup::MayBeLost | _) => {
                    let reason = "its log does not know its opening any more, or may have lost \
                                  its decision"
                        .to_owned();
                    return Err(CommitError::Undetermined { gtrid, reason });
                }
                Err(error) => {
                    let reason = error.to_string();
                    return Err(CommitError::Undetermined { gtrid, reason });
                }
            }
            // The last handle may be dropped meanwhile.
            drop(manager);
            if progress.changed().await.is_err() {
                break;
            }
        }
        let reason = "it is decided to commit, but the transaction manager was shut down before \
                      every branch was committed: the next start goes on"
            .to_owned();
        Err(CommitError::Undetermined { gtrid, reason })
    }
}

/// How this process's latest transactions ended, for [`TransactionOutcome`]: the log holds no
/// rollbacks and no commits in one phase.
#[derive(Debug, Default)]
pub(crate) struct RecentEnds {
    ends: Mutex<(HashMap<Gtrid, TransactionOutcome>, VecDeque<Gtrid>)>,
}

impl RecentEnds {
    const LEN_MAX: usize = 10_000;

    pub(crate) fn insert(&self, gtrid: Gtrid, outcome: TransactionOutcome) {
        let mut guard = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let (ends, order) = &mut *guard;
        if ends.insert(gtrid, outcome).is_none() {
            order.push_back(gtrid);
        }
        if order.len() > Self::LEN_MAX
            && let Some(oldest) = order.pop_front()
        {
            ends.remove(&oldest);
        }
    }

    pub(crate) fn lookup(&self, gtrid: Gtrid) -> Option<TransactionOutcome> {
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .get(&gtrid)
            .cloned()
    }
}
