//! Opening a branch: a session of the pool, its limits, and the beginning of the transaction, as
//! one request.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Error, IsolationLevel};
use unanimous_core::ports::{BranchEnv, BranchError, BranchErrorKind, Problem, ResourceError};

use crate::branch::{MysqlBranch, Place};
use crate::codes::{self, During};
use crate::fence::Holder;
use crate::pool::Lease;
use crate::session::Flavour;
use crate::{Mysql, xid};

/// The longest time-out that both servers take, in seconds: a year.
const SECONDS_MAX: u64 = 31_536_000;

/// Opens a branch: a session of the pool, and one round trip.
///
/// A session that went stale in the pool (the server was restarted, or has closed it) is noticed by
/// this round trip and replaced. A request of a stale session cannot have opened anything that
/// lasts: what is not prepared ends with its connection.
pub(crate) async fn open(resource: &Mysql, env: BranchEnv) -> Result<MysqlBranch, BranchError> {
    let literal = xid::literal(&env.xid);
    let opening = Opening::of(&env, &literal, resource.config().isolation);
    loop {
        let mut lease = resource
            .inner
            .branches
            .lend()
            .await
            .map_err(|error| cannot_open(resource, error))?;
        let is_fresh = lease.is_fresh();
        match begin(resource, &mut lease, &opening).await {
            Ok(place) => {
                return Ok(MysqlBranch::new(resource, env, literal, lease, place));
            }
            Err(error) if is_fresh || !is_stale(&error) => return Err(error),
            // Ends: each round throws a session away, and a fresh one is not tried twice.
            Err(_) => resource.inner.branches.purge(),
        }
    }
}

async fn begin(
    resource: &Mysql,
    lease: &mut Lease,
    opening: &Opening,
) -> Result<Place, BranchError> {
    let failed = |kind, message| BranchError::new(kind, resource.config().name.clone(), message);
    let Some(session) = lease.session() else {
        let message = "the connection is closed".to_owned();
        return Err(failed(BranchErrorKind::Unavailable, message));
    };
    let identity = match resource.identity_of(session).await {
        Ok(identity) => identity,
        Err(error) => return Err(cannot_open(resource, error)),
    };
    let flavour = session.server().flavour;
    let (settings, start) = (opening.settings(flavour), opening.start(flavour));
    session.begin(&settings, &start).await.map_err(|error| {
        let kind = match (codes::meaning(&error, During::Open), &error) {
            // A server that answers is there; what it says has to be mended.
            (BranchErrorKind::Undetermined, Error::Server(_)) => BranchErrorKind::Failed,
            (BranchErrorKind::Undetermined, _) => BranchErrorKind::Unavailable,
            (kind, _) => kind,
        };
        failed(kind, format!("cannot open a branch: {error}")).with_source(error)
    })?;
    Ok(Place {
        identity,
        scope: Arc::clone(&session.server().scope),
        holder: Holder::of(session),
        hides_deadlocks: session.server().hides_deadlocks,
    })
}

/// The session had ended, or ends.
fn is_stale(error: &BranchError) -> bool {
    let source = std::error::Error::source(error);
    let ends = source.and_then(|source| source.downcast_ref().map(codes::ends_connection));
    error.kind() == BranchErrorKind::Unavailable && ends.unwrap_or(true)
}

fn cannot_open(resource: &Mysql, error: ResourceError) -> BranchError {
    let is_unfit = error.problem() == Problem::Unfit;
    let kind = if is_unfit {
        BranchErrorKind::Failed
    } else {
        BranchErrorKind::Unavailable
    };
    let message = format!("cannot open a branch: {error}");
    BranchError::new(kind, resource.config().name.clone(), message).with_source(error)
}

/// What a branch is begun with: one list of settings, and the beginning.
///
/// The limits make the server itself end what a vanished host leaves behind. The isolation level
/// cannot be set once the transaction runs (1568).
struct Opening {
    limits: String,
    isolation: Option<IsolationLevel>,
    start: String,
}

impl Opening {
    fn of(env: &BranchEnv, literal: &str, isolation: Option<IsolationLevel>) -> Self {
        let lock = seconds(env.lock_timeout);
        let idle = seconds(env.idle_timeout);
        let start = if env.read_only {
            // For the session, too: should a statement end the transaction, the next cannot write
            // either.
            "SET SESSION TRANSACTION READ ONLY; START TRANSACTION READ ONLY".to_owned()
        } else {
            format!("XA START {literal}")
        };
        Self {
            limits: format!(
                "SESSION innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock}, \
                 wait_timeout = {idle}"
            ),
            isolation,
            start,
        }
    }

    /// On MySQL the level is one of the list, for the session, until that is wiped.
    fn settings(&self, flavour: Flavour) -> Cow<'_, str> {
        match (flavour, self.isolation) {
            (Flavour::MySql, Some(level)) => {
                let level = level.to_string().replace(' ', "-");
                format!("{}, transaction_isolation = '{level}'", self.limits).into()
            }
            (Flavour::MySql | Flavour::MariaDb, _) => self.limits.as_str().into(),
        }
    }

    /// On MariaDB the variable's name depends on the version.
    fn start(&self, flavour: Flavour) -> Cow<'_, str> {
        match (flavour, self.isolation) {
            (Flavour::MariaDb, Some(level)) => {
                format!("SET TRANSACTION ISOLATION LEVEL {level}; {}", self.start).into()
            }
            (Flavour::MySql | Flavour::MariaDb, _) => self.start.as_str().into(),
        }
    }
}

/// Whole seconds, rounded up, as the servers take them.
fn seconds(duration: Duration) -> u64 {
    let whole = duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0));
    whole.clamp(1, SECONDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(read_only: bool) -> BranchEnv {
        BranchEnv {
            xid: "0000000000000001-7-000000000000z-42:ledger"
                .parse()
                .unwrap(),
            read_only,
            lock_timeout: Duration::from_millis(2500),
            idle_timeout: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_writer_is_opened_by_one_request_with_its_limits() {
        let level = Some(IsolationLevel::ReadCommitted);
        let opening = Opening::of(&env(false), "X'61',X'62',7", level);
        let limits = "SESSION innodb_lock_wait_timeout = 3, lock_wait_timeout = 3, \
                      wait_timeout = 60";
        let of = |flavour| (opening.settings(flavour), opening.start(flavour));
        let (settings, start) = of(Flavour::MySql);
        let isolation = ", transaction_isolation = 'READ-COMMITTED'";
        assert_eq!(settings, format!("{limits}{isolation}"));
        assert_eq!(start, "XA START X'61',X'62',7");
        let (settings, start) = of(Flavour::MariaDb);
        assert_eq!(settings, limits);
        let isolation = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; ";
        assert_eq!(start, format!("{isolation}XA START X'61',X'62',7"));
    }

    #[test]
    fn a_reader_has_no_xid_and_a_session_that_cannot_write() {
        let opening = Opening::of(&env(true), "X'61',X'62',7", None);
        let read_only = "SET SESSION TRANSACTION READ ONLY; START TRANSACTION READ ONLY";
        assert_eq!(opening.start(Flavour::MySql), read_only);
    }

    #[test]
    fn what_a_person_has_to_mend_is_not_called_unavailable() {
        let url = "mysql://app@host/db";
        let ledger = Mysql::builder("ledger", url).build().unwrap();
        for (problem, kind) in [
            (Problem::Unfit, BranchErrorKind::Failed),
            (Problem::Unavailable, BranchErrorKind::Unavailable),
        ] {
            let name = ledger.config().name.clone();
            let error = cannot_open(&ledger, ResourceError::new(problem, name, "why"));
            assert_eq!(error.kind(), kind);
        }
    }

    #[test]
    fn time_outs_are_whole_seconds_that_the_servers_take() {
        for (duration, expected) in [
            (Duration::ZERO, 1),
            (Duration::from_millis(1), 1),
            (Duration::from_millis(1001), 2),
            (Duration::MAX, SECONDS_MAX),
        ] {
            assert_eq!(seconds(duration), expected, "{duration:?}");
        }
    }
}
