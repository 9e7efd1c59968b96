//! What would make the protocol fail later, found at the start, each with its mend.
//!
//! Both accounts are logged in, each on a connection of its own, and everything is asked that a
//! setting, version, privilege or way in decides; [`findings`](crate::findings) judges the answers.
//!
//! # Poolers
//!
//! A pooler in transaction mode gives each transaction another server session. Then session state
//! leaks between applications, and "the session that prepared" means nothing. It is found by what
//! makes it harmful: two connections of ours, one of them inside a transaction, turn out to share
//! one server process, or one connection turns out to have changed its own. A pooler in session
//! mode does neither, and does no harm. Should one be missed (its pool was busy just then), prepare
//! and commit compare the process, too, and roll back, and recovery believes no list of another's,
//! nor a commit before the standbys were asked for once more.
//! Each of the two ways is looked at: what recovery relies on is its sessions' state as well.

use unanimous_core::ports::{Finding, Preflight, Problem, ResourceError, Severity};

use crate::Postgres;
use crate::access::Access;
use crate::failure::Failure;
use crate::findings::{self, Account, Seen};
use crate::session::{Replies, Session};
use crate::sql;
use crate::table::rights;

const PID: &str = "SELECT pg_catalog.pg_backend_pid()";
const BEGIN_PID: &str = "BEGIN; SELECT pg_catalog.pg_backend_pid()";

/// How the check of the server begins its errors.
const ASKED: &str = "cannot check the server";

impl Postgres {
    /// Checks the settings of the server, and the ways to it.
    pub(crate) async fn check(&self) -> Result<Preflight, ResourceError> {
        let settings = self.settings();
        let fail = |failure: Failure| failure.into_resource(&settings.name, ASKED);
        let mut first = match self.log_in(&settings.access).await {
            Err(failure) if failure.is_standby() => {
                let found = vec![findings::standby("the address")];
                return Ok(Preflight::new("PostgreSQL", None, found).read_only(true));
            }
            other => other.map_err(fail)?,
        };
        let rows = first.ask(&sql::preflight()).await.map_err(fail)?;
        let Some(seen) = Seen::read(&rows) else {
            let text = format!("{ASKED}: it does not answer like PostgreSQL");
            let name = settings.name.clone();
            return Err(ResourceError::new(Problem::Unfit, name, text));
        };
        let mut found = findings::of_server(&seen, settings);
        // As the session of a branch, for the set-up SQL.
        let second = self.log_in(&settings.access).await;
        let mut second = second.map_err(fail)?;
        let identity = Some(first.facts().identity.clone());
        if shares_sessions(&first, &second).await.map_err(fail)? {
            // Nothing more is asked: the session that answers is not the one that is meant.
            found.push(findings::pooler("the address"));
            return Ok(Preflight::new(seen.server(), identity, found));
        }
        found.extend(rights::as_last(&first).await.map_err(fail)?);
        found.extend(self.check_setup(&second).await);
        // So that they say good-bye when they are dropped; this one before others are opened.
        second.mark_clean();
        drop(second);
        if let Some(recovery) = &settings.recovery {
            found.extend(self.check_recovery(recovery, &first, &seen).await?);
        }
        first.mark_clean();
        // One of the two ways leads to a standby: a fail-over is under way.
        let is_read_only = found.iter().any(|found| found.subject == findings::STANDBY);
        Ok(Preflight::new(seen.server(), identity, found).read_only(is_read_only))
    }

    /// A connection of its own, so that a pool cannot hide what is looked for.
    async fn log_in(&self, access: &Access) -> Result<Session, Failure> {
        Session::connect(self.settings(), access, "", None).await
    }

    /// The set-up SQL runs in every session, so what is wrong with it is wrong with all.
    async fn check_setup(&self, session: &Session) -> Option<Finding> {
        let setup = self.settings().session_setup.as_ref()?;
        let failure = session.set_up(setup).await.err()?;
        failure.is_refusal().then(|| {
            Finding::new(
                Severity::Error,
                "session_setup",
                failure.to_string(),
                "run it by hand as the user of the address: the server's message says more, and \
                 is not shown here because it may quote a secret",
            )
        })
    }

    /// The other account: can it log in, is it the same database, may it do recovery's work?
    async fn check_recovery(
        &self,
        recovery: &Access,
        first: &Session,
        seen: &Seen,
    ) -> Result<Vec<Finding>, ResourceError> {
        let name = &self.settings().name;
        let asked = "cannot check the account of recovery_address";
        let mut session = match self.log_in(recovery).await {
            Ok(session) => session,
            Err(failure) if failure.is_standby() => {
                return Ok(vec![findings::standby("recovery_address")]);
            }
            Err(failure) => {
                let error = failure.into_resource(name, "cannot log in");
                if error.problem() == Problem::Unfit {
                    return Ok(vec![findings::recovery_refused(&error)]);
                }
                return Err(error);
            }
        };
        if session.facts().identity != first.facts().identity {
            let (own, other) = (&first.facts().identity, &session.facts().identity);
            return Ok(vec![findings::elsewhere(own, other)]);
        }
        let fail = |failure: Failure| failure.into_resource(name, asked);
        let mut second = self.log_in(recovery).await.map_err(fail)?;
        if shares_sessions(&session, &second).await.map_err(fail)? {
            return Ok(vec![findings::pooler("recovery_address")]);
        }
        second.mark_clean();
        let rows = session.ask(&sql::account(seen)).await;
        let rows = rows.map_err(fail)?;
        session.mark_clean();
        Ok(Account::read(&rows).map_or_else(Vec::new, |account| account.findings(seen)))
    }
}

/// Twice, because a pooler that has just opened a session of its own may lend that first. One that
/// lends its sessions in turn, and has just two, lends the idle one its own between any two
/// requests of the busy one, so it is asked more than once in a row, too.
async fn shares_sessions(idle: &Session, busy: &Session) -> Result<bool, Failure> {
    let known = idle.facts().backend.pid;
    for _ in 0..2 {
        if pid(&idle.run(PID).await?)? != known {
            return Ok(true);
        }
        let own = pid(&idle.run(PID).await?)?;
        let other = pid(&busy.run(BEGIN_PID).await?)?;
        // Without a further question: the pooler may have no session left to answer it.
        if own == other || own != known {
            return Ok(true);
        }
        if pid(&idle.run(PID).await?)? != own {
            return Ok(true);
        }
        busy.run("ROLLBACK").await?;
    }
    Ok(false)
}

fn pid(replies: &Replies) -> Result<i32, Failure> {
    let odd = || Failure::lost("the server did not tell its process", None);
    replies
        .field(0)
        .and_then(|text| text.parse().ok())
        .ok_or_else(odd)
}
