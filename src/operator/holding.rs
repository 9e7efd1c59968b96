//! What prepared branches hold and whom they block, as data. Fields are only ever added.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use unanimous_core::ports::{Holding, Horizon, InspectOptions, Inspection, XidOwner};

use super::report::{ListedBranch, ListedResource, Listing};
use crate::bounded::bounded;
use crate::manager::Inner;

/// What a prepared transaction holds, and whom it blocks. `null` is what cannot be seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Held {
    /// How many locks it holds.
    pub locks: Option<u64>,
    /// How many sessions wait for it, at once or behind others who do.
    pub blocked: Option<u64>,
    /// For how many seconds there has been a transaction.
    pub begun_seconds: Option<u64>,
    /// What it holds back by its age.
    pub horizon: Option<ListedHorizon>,
    /// Some of the locks, by object and mode. Only told by `show`.
    #[serde(default)]
    pub lock_list: Vec<ListedLock>,
    /// Some of the sessions, those that have waited longest first. Only told by `show`.
    #[serde(default)]
    pub session_list: Vec<ListedSession>,
}

/// Locks of one kind on one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedLock {
    /// Which object.
    pub object: String,
    /// In which mode, in the server's words.
    pub mode: String,
    /// How many.
    pub count: u64,
}

/// A session that waits for a prepared transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedSession {
    /// Its process id (PostgreSQL) or connection id.
    pub session: u64,
    /// As whom it has logged in.
    pub user: Option<String>,
    /// For how many seconds it has waited.
    pub waiting_seconds: Option<u64>,
    /// It waits behind another session that waits.
    pub behind: bool,
    /// The beginning of its statement, if it may be seen.
    pub statement: Option<String>,
}

/// Something that grows while a transaction is not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedHorizon {
    /// What is counted.
    pub subject: String,
    /// How much it is.
    pub count: u64,
    /// From where on it hurts, where the server has such a limit.
    pub limit: Option<u64>,
    /// No other transaction holds it back more.
    pub oldest: bool,
}

impl From<&Horizon> for ListedHorizon {
    fn from(horizon: &Horizon) -> Self {
        Self {
            subject: horizon.subject.clone(),
            count: horizon.count,
            limit: horizon.limit,
            oldest: horizon.is_oldest,
        }
    }
}

impl From<&Holding> for Held {
    fn from(holding: &Holding) -> Self {
        let seconds = |age: Duration| age.as_secs();
        let locks = holding.locks.iter().flat_map(|locks| &locks.named);
        let sessions = holding.blocked.iter().flat_map(|blocked| &blocked.sessions);
        Self {
            locks: holding.locks.as_ref().map(|locks| locks.count),
            blocked: holding.blocked.as_ref().map(|blocked| blocked.count),
            begun_seconds: holding.begun.map(seconds),
            horizon: None,
            lock_list: locks
                .map(|lock| ListedLock {
                    object: lock.object.clone(),
                    mode: lock.mode.clone(),
                    count: lock.count,
                })
                .collect(),
            session_list: sessions
                .map(|session| ListedSession {
                    session: session.session,
                    user: session.user.clone(),
                    waiting_seconds: session.waiting.map(seconds),
                    behind: session.is_behind,
                    statement: session.statement.clone(),
                })
                .collect(),
        }
    }
}

/// What each resource answered, by its name; or why it did not.
pub(super) type Inspected = HashMap<String, Result<Inspection, String>>;

/// Looks at all resources at the same time. Changes nothing.
pub(super) async fn inspect_all(inner: &Arc<Inner>, options: InspectOptions) -> Inspected {
    let mut looks = JoinSet::new();
    for resource in inner.resources.values() {
        let resource = Arc::clone(resource);
        let limit = inner.config.recovery_timeout;
        looks.spawn(async move {
            let seen = match bounded(limit, resource.inspect(options)).await {
                Ok(Ok(seen)) => Ok(seen),
                Ok(Err(error)) => Err(error.to_string()),
                Err(silence) => Err(silence.to_string()),
            };
            (resource.name().to_string(), seen)
        });
    }
    looks.join_all().await.into_iter().collect()
}

impl Listing {
    /// The same, with what was seen of locks and of those who wait.
    pub(super) fn with_inspected(mut self, mut inspected: Inspected) -> Self {
        for at in &mut self.resources {
            match inspected.remove(&at.resource) {
                Some(Ok(inspection)) => at.take(&inspection),
                // That it cannot be looked at is told once.
                Some(Err(why)) if at.error.is_none() => {
                    at.notes.push(format!("locks cannot be seen: {why}"));
                }
                Some(Err(_)) | None => {}
            }
        }
        self
    }
}

impl ListedResource {
    fn take(&mut self, inspection: &Inspection) {
        let mut seen: HashMap<(bool, String), Held> = HashMap::new();
        for branch in &inspection.branches {
            let held = Held {
                horizon: branch.horizon.as_ref().map(Into::into),
                ..Held::from(&branch.holding)
            };
            let key = match &branch.owner {
                XidOwner::Unanimous(xid) => (true, xid.to_string()),
                XidOwner::Foreign(text) => (false, text.clone()),
            };
            seen.insert(key, held);
        }
        for branch in &mut self.branches {
            branch.held = seen.remove(&key(branch));
        }
        self.untold = inspection.untold.iter().map(Into::into).collect();
        self.horizon = inspection.horizon.as_ref().map(Into::into);
        self.notes.extend(inspection.notes.iter().cloned());
    }
}

/// Another's text may look like an XID of ours.
fn key(branch: &ListedBranch) -> (bool, String) {
    (branch.gtrid.is_some(), branch.xid.clone())
}
