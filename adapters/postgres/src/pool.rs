//! The connections of one resource: those of branches, a few for recovery, and a few for the
//! decision table that may be in its database.
//!
//! They are kept apart so that branches that wait for each other can never keep recovery from
//! working (I6), nor slow ends of branches a decision or a sign of life. Invariant I8: a session
//! goes back to its pool only by [`Lease::keep`], and is looked at once more before it is handed
//! out; a lease that is dropped in any other way, also by a dropped future or at the end of the
//! runtime, closes its connection.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deadpool::Runtime;
use deadpool::managed::{
    self, Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, TimeoutType,
};
use unanimous_core::ports::Room;

use crate::awaited::Awaited;
use crate::config::Settings;
use crate::failure::Failure;
use crate::session::{Backend, Replies, Session};
use crate::{sql, table};

/// Two transactions that enlist one after the other, in opposite orders, wait for each other here.
const BRANCHES_USED_UP: &str = "end transactions sooner, enlist all resources in one call or \
    always in the same order, or raise pool_size";

/// Makes sessions, and says which may be used again.
#[derive(Debug)]
pub(crate) struct Connector {
    settings: Arc<Settings>,
    purpose: Purpose,
}

#[derive(Debug, Clone, Copy)]
enum Purpose {
    Branches,
    Recovery,
    Table,
}

/// How many sessions the decision table has: for decisions that wait for a lock (one written first,
/// two repeated or settled), and one for what has to go on beside them, such as a sign of life.
pub(crate) const TABLE_SESSIONS: usize = 4;

impl Manager for Connector {
    type Type = Session;
    type Error = Failure;

    async fn create(&self) -> Result<Session, Failure> {
        let settings = &*self.settings;
        let recovery = settings.recovery_access();
        match self.purpose {
            Purpose::Branches => {
                let setup = settings.session_setup.as_deref();
                Session::connect(settings, &settings.access, "", setup).await
            }
            Purpose::Recovery => Session::connect(settings, recovery, &sql::durable(), None).await,
            Purpose::Table => Session::connect(settings, recovery, &table::session(), None).await,
        }
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> managed::RecycleResult<Failure> {
        if session.is_reusable() {
            session.mark_used();
            Ok(())
        } else {
            Err(RecycleError::message("not reusable"))
        }
    }
}

/// The pools of one resource.
pub(crate) struct Pools {
    pub(crate) settings: Arc<Settings>,
    branches: Pool<Connector>,
    recovery: Pool<Connector>,
    table: Pool<Connector>,
    pub(crate) awaited: Awaited,
}

impl Pools {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let wait = settings.pool_timeout;
        let pool = |purpose, size| {
            let settings = Arc::clone(&settings);
            Pool::builder(Connector { settings, purpose })
                .max_size(size)
                .queue_mode(QueueMode::Lifo)
                .wait_timeout(Some(wait))
                .runtime(Runtime::Tokio1)
                .build()
                .expect("a pool with a runtime may have time-outs")
        };
        Self {
            branches: pool(Purpose::Branches, settings.pool_size),
            recovery: pool(Purpose::Recovery, settings.recovery_sessions),
            table: pool(Purpose::Table, TABLE_SESSIONS),
            awaited: Awaited::default(),
            settings,
        }
    }

    /// For how many branches there are sessions.
    pub(crate) fn room(&self) -> Room {
        Room {
            branches_max: self.settings.pool_size,
            wait: self.settings.pool_timeout,
            mend: BRANCHES_USED_UP,
        }
    }

    /// A session for a branch, on which `begin` has been answered. A pooled session that turns out
    /// to be dead (the server was restarted) is replaced; that costs nothing in the good case.
    pub(crate) async fn begin(&self, begin: &str) -> Result<Lease, Failure> {
        loop {
            let lease = self.acquire(&self.branches, BRANCHES_USED_UP).await?;
            match lease.run(begin).await {
                Ok(_) => return Ok(lease),
                Err(failure) if lease.was_pooled && !failure.is_refusal() => {
                    let resource = &self.settings.name;
                    tracing::debug!(%resource, %failure, "a pooled connection was dead");
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// A session for recovery. It may turn out to be dead.
    pub(crate) async fn recovery_session(&self) -> Result<Lease, Failure> {
        self.acquire(&self.recovery, "raise recovery_sessions")
            .await
    }

    /// A session for the decision table, with recovery's account. It may turn out to be dead.
    pub(crate) async fn table_session(&self) -> Result<Lease, Failure> {
        self.acquire(&self.table, "the database of the decision log is slow")
            .await
    }

    /// A session of the table's that is in no pool, and is closed when it is dropped.
    pub(crate) async fn session_of_its_own(&self) -> Result<Session, Failure> {
        self.table.manager().create().await
    }

    /// Asks something that may be asked twice, on a session of recovery, and names that. What it
    /// writes is on the synchronous standbys, too, unless this fails.
    pub(crate) async fn ask(&self, question: &str) -> Result<(Backend, Replies), Failure> {
        loop {
            let lease = self.recovery_session().await?;
            lease.watch_warnings();
            match lease.ask(question).await {
                Ok(_) if lease.is_unreplicated() => return Err(Failure::unreplicated()),
                Ok(replies) => {
                    let asked = lease.facts().backend;
                    lease.keep();
                    return Ok((asked, replies));
                }
                Err(failure) if lease.was_pooled && !failure.is_refusal() => {}
                Err(failure) => {
                    if failure.is_refusal() {
                        lease.keep();
                    }
                    return Err(failure);
                }
            }
        }
    }

    async fn acquire(&self, pool: &Pool<Connector>, mend: &str) -> Result<Lease, Failure> {
        match pool.get().await {
            Ok(object) => Ok(Lease {
                was_pooled: Object::metrics(&object).recycle_count > 0,
                object,
            }),
            Err(PoolError::Backend(failure)) => Err(failure),
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                let within = self.settings.pool_timeout;
                let words = format!("no connection of the pool was free within {within:?}; {mend}");
                Err(Failure::lost(words, None))
            }
            Err(other) => Err(Failure::lost(other.to_string(), None)),
        }
    }
}

/// A session that is in use.
pub(crate) struct Lease {
    object: Object<Connector>,
    was_pooled: bool,
}

impl Lease {
    /// It was used before, so that it may turn out to be dead.
    pub(crate) const fn was_pooled(&self) -> bool {
        self.was_pooled
    }

    /// Gives the session back to its pool. The caller has left nothing in it.
    pub(crate) fn keep(mut self) {
        self.object.mark_clean();
    }
}

impl Deref for Lease {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.object
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.object
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The pool gets it back in any case, and throws away what is closed or not clean.
        if !self.object.is_clean() {
            self.object.close();
        }
    }
}
