//! The pools of sessions: one for branches, a small one for recovery, and a smaller one for the
//! tables of a decision log, from which recovery takes none.
//!
//! A session is lent as a [`Lease`]. It goes back to its pool only by [`Lease::give_back`], after
//! everything that was asked of it was answered; a lease that is dropped in any other way closes
//! its socket at once (I8). So dropping a future of this crate at any await point leaves no session
//! behind that another branch could be given.
//!
//! The driver's own pool is not used: it resets a connection when it comes back, and on MariaDB a
//! reset between `XA PREPARE` and `XA COMMIT` makes the commit answer OK and do nothing.

use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{
    self, BuildError, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType,
};
use unanimous_core::ports::{Problem, ResourceError, Room};

use crate::codes;
use crate::config::Config;
use crate::route::Route;
use crate::session::Session;

/// How long a wipe may take before the session is rather thrown away.
const WIPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Two transactions that enlist one after the other, in opposite orders, wait for each other here.
const BRANCHES_USED_UP: &str = "end transactions sooner, enlist all resources in one call or \
    always in the same order, or raise pool_size";

/// How many sessions the tables of a decision log may use: for decisions that wait for a lock (one
/// written first, two repeated or settled), and one for what has to go on beside them, such as a
/// sign of life. Opened when needed.
pub(crate) const TABLE_SESSIONS: usize = 4;

/// In which the tables' requests run, unless they ask for a snapshot.
const TABLE_ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// What a pool's sessions are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Branches,
    Recovery,
    /// With recovery's account.
    Table,
}

/// Makes sessions for a pool.
pub(crate) struct Manager {
    config: Arc<Config>,
    purpose: Purpose,
}

impl Manager {
    fn route(&self) -> &Route {
        match self.purpose {
            Purpose::Branches => &self.config.branches,
            Purpose::Recovery | Purpose::Table => &self.config.control,
        }
    }

    async fn connect(&self) -> Result<Session, ResourceError> {
        let mut session = Session::connect(&self.config, self.route()).await?;
        if self.purpose == Purpose::Table {
            let limit = self.config.connect_timeout;
            let set = tokio::time::timeout(limit, session.run(TABLE_ISOLATION)).await;
            let failed = |why: String| {
                let message = format!("cannot set up a session for the tables: {why}");
                ResourceError::new(Problem::Unavailable, self.config.name.clone(), message)
            };
            match set {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(failed(error.to_string()).with_source(error)),
                Err(_) => return Err(failed(format!("no answer within {limit:?}"))),
            }
        }
        Ok(session)
    }
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = ResourceError;

    async fn create(&self) -> Result<Session, ResourceError> {
        self.connect().await
    }

    /// Asks nothing of the server: a session that went stale is noticed by its next request.
    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<ResourceError> {
        if session.is_usable() {
            Ok(())
        } else {
            Err(RecycleError::message("the connection is closed"))
        }
    }
}

/// For how many branches there are sessions.
pub(crate) const fn room(config: &Config) -> Room {
    Room {
        branches_max: config.pool_size,
        wait: config.pool_timeout,
        mend: BRANCHES_USED_UP,
    }
}

/// A pool of sessions.
pub(crate) struct Pool {
    sessions: managed::Pool<Manager>,
}

impl Pool {
    pub(crate) fn of(purpose: Purpose, config: &Arc<Config>) -> Result<Self, BuildError> {
        let size = match purpose {
            Purpose::Branches => config.pool_size,
            Purpose::Recovery => config.control_size,
            Purpose::Table => TABLE_SESSIONS,
        };
        let manager = Manager {
            config: Arc::clone(config),
            purpose,
        };
        let sessions = managed::Pool::builder(manager)
            .max_size(size)
            .wait_timeout(Some(config.pool_timeout))
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self { sessions })
    }

    fn config(&self) -> &Config {
        &self.sessions.manager().config
    }

    /// Lends a session, a new one if none is idle.
    pub(crate) async fn lend(&self) -> Result<Lease, ResourceError> {
        match self.sessions.get().await {
            Ok(object) => {
                let is_fresh = Object::metrics(&object).recycle_count == 0;
                Ok(Lease {
                    object: Some(object),
                    is_fresh,
                })
            }
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(self.unavailable(&format!(
                "no session of the pool was free within {:?}: {}",
                self.config().pool_timeout,
                match self.sessions.manager().purpose {
                    Purpose::Branches => BRANCHES_USED_UP,
                    Purpose::Recovery => "raise recovery_sessions",
                    Purpose::Table => "see what the tables' requests wait for: SHOW PROCESSLIST",
                }
            ))),
            Err(error) => Err(self.unavailable(&format!("no session: {error}"))),
        }
    }

    /// A session that has just shown a sign of life.
    pub(crate) async fn lend_checked(&self) -> Result<Lease, ResourceError> {
        loop {
            let mut lease = self.lend().await?;
            if lease.is_fresh() {
                return Ok(lease);
            }
            let within = self.config().connect_timeout;
            if let Some(session) = lease.session()
                && let Ok(Ok(())) = tokio::time::timeout(within, session.ping()).await
            {
                return Ok(lease);
            }
            // Ends: each round throws a session away, and a fresh one is not asked.
            self.purge();
        }
    }

    /// A session that is in no pool.
    pub(crate) async fn session_of_its_own(&self) -> Result<Session, ResourceError> {
        self.sessions.manager().connect().await
    }

    /// Throws all idle sessions away: one was found stale, as all are after a server's restart.
    pub(crate) fn purge(&self) {
        for session in self.sessions.retain(|_, _| false).removed {
            session.close();
        }
    }

    fn unavailable(&self, message: &str) -> ResourceError {
        ResourceError::new(Problem::Unavailable, self.config().name.clone(), message)
    }
}

/// A session that is lent. Dropped: closed.
pub(crate) struct Lease {
    /// `None` once it was closed.
    object: Option<Object<Manager>>,
    is_fresh: bool,
}

impl Lease {
    /// No session any more.
    pub(crate) const fn closed() -> Self {
        Self {
            object: None,
            is_fresh: false,
        }
    }

    /// The session, unless it was closed.
    pub(crate) fn session(&mut self) -> Option<&mut Session> {
        self.object.as_deref_mut()
    }

    /// The session was made for this lease: if it fails, it is not because it had gone stale.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Closes the socket at once.
    pub(crate) fn close(&mut self) {
        if let Some(object) = self.object.take() {
            Object::take(object).close();
        }
    }

    /// Lets the session be lent again. Everything that was asked of it has been answered, and it
    /// holds neither a branch nor anything that a branch may leave behind.
    pub(crate) fn give_back(mut self) {
        drop(self.object.take());
    }

    /// Wipes the session of all that a branch left behind and gives it back; closes it if that
    /// does not succeed. The branch has ended, by the server's positive word.
    pub(crate) async fn wipe(mut self) {
        let Some(session) = self.session() else {
            return;
        };
        match tokio::time::timeout(WIPE_TIMEOUT, session.reset()).await {
            Ok(Ok(())) => self.give_back(),
            Ok(Err(error)) => {
                let error = codes::without_words(&error);
                tracing::debug!(error, "a session that cannot be wiped is closed");
            }
            Err(_) => tracing::debug!("a session that is not wiped in time is closed"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.close();
    }
}
