//! What would make the protocol fail later, found at the start, each with its mend.
//!
//! A standby is refused already where the session is connected.
//!
//! # Poolers
//!
//! A pooler in transaction mode gives each transaction another server session. Then session state
//! leaks between applications, and "the session that prepared" means nothing. It is found by what
//! makes it harmful: two connections of ours, one of them inside a transaction, turn out to share
//! one server process, or one connection turns out to have changed its own. A pooler in session
//! mode does neither, and does no harm. Should one be missed (its pool was busy just then), prepare
//! and commit compare the process, too, and roll back.

use unanimous_core::ports::{Preflight, Problem, ResourceError};

use crate::Postgres;
use crate::failure::Failure;
use crate::session::{Replies, Session};
use crate::sql;

/// The oldest version whose `pg_terminate_backend` waits for the end of the session.
const VERSION_MIN: i32 = 14;
/// The oldest version that the tests of this crate run on.
const VERSION_TESTED: i32 = 15;

const PID: &str = "SELECT pg_catalog.pg_backend_pid()";
const BEGIN_PID: &str = "BEGIN; SELECT pg_catalog.pg_backend_pid()";

impl Postgres {
    /// Checks the settings of the server, and the way to it.
    pub(crate) async fn check(&self) -> Result<Preflight, ResourceError> {
        let fail = |failure: Failure| {
            failure.into_resource(&self.settings().name, "cannot check the server")
        };
        let mut first = self.session().await.map_err(fail)?;
        let settings = first.run(sql::PREFLIGHT).await.map_err(fail)?;
        self.check_settings(&settings)?;
        let mut second = self.session().await.map_err(fail)?;
        if shares_sessions(&first, &second).await.map_err(fail)? {
            return Err(self.unfit(
                "a pooler in transaction mode stands in between (two connections share one \
                 server process); connect to the server itself, or use the pooler's session mode"
                    .to_owned(),
            ));
        }
        second.run("ROLLBACK").await.map_err(fail)?;
        // So that they say good-bye when they are dropped.
        first.mark_clean();
        second.mark_clean();
        let identity = first.facts().identity.clone();
        Ok(Preflight::new("PostgreSQL", Some(identity), Vec::new()))
    }

    /// A connection of its own, so that a pool cannot hide what is looked for.
    async fn session(&self) -> Result<Session, Failure> {
        Session::connect(self.settings(), &self.settings().access, None).await
    }

    fn check_settings(&self, replies: &Replies) -> Result<(), ResourceError> {
        let number = |column| {
            replies
                .field(column)
                .and_then(|text| text.parse::<i32>().ok())
        };
        let (Some(version), Some(slots)) = (number(0), number(1)) else {
            return Err(self.unfit("the server does not answer like PostgreSQL".to_owned()));
        };
        let version = version / 10_000;
        if version < VERSION_MIN {
            return Err(self.unfit(format!(
                "PostgreSQL {version} is too old; {VERSION_MIN} or newer is needed"
            )));
        }
        if slots == 0 {
            return Err(self.unfit(
                "prepared transactions are disabled (max_prepared_transactions = 0); run ALTER \
                 SYSTEM SET max_prepared_transactions = 100 as a superuser, then restart the \
                 server; its standbys need at least the same"
                    .to_owned(),
            ));
        }
        let resource = &self.settings().name;
        if version < VERSION_TESTED {
            tracing::warn!(%resource, version, "this version of PostgreSQL was never tested");
        }
        for (column, setting) in [(2, "fsync"), (3, "full_page_writes")] {
            if replies.field(column) != Some("on") {
                tracing::warn!(
                    %resource,
                    setting,
                    "this setting is off: a crash can lose what was prepared or committed"
                );
            }
        }
        Ok(())
    }

    fn unfit(&self, message: String) -> ResourceError {
        ResourceError::new(Problem::Unfit, self.settings().name.clone(), message)
    }
}

async fn shares_sessions(idle: &Session, busy: &Session) -> Result<bool, Failure> {
    let own = pid(&idle.run(PID).await?)?;
    let other = pid(&busy.run(BEGIN_PID).await?)?;
    if own == other {
        return Ok(true);
    }
    let again = pid(&idle.run(PID).await?)?;
    Ok(again != own || own != idle.facts().backend.pid)
}

fn pid(replies: &Replies) -> Result<i32, Failure> {
    let odd = || Failure::lost("the server did not tell its process", None);
    replies
        .field(0)
        .and_then(|text| text.parse().ok())
        .ok_or_else(odd)
}
