//! Recovery's side: the scan, the end of a branch by its XID, and what became of an absent one.
//!
//! # Absent, with a decision to commit
//!
//! The decision names the transaction's number (`xid8`), read in the branch itself. Its end is in
//! the server's commit log, and `pg_xact_status` reads it. That may be believed, because:
//! 1. `PREPARE TRANSACTION` was answered, so the record with that number was flushed: no crash
//!    gives the number to another transaction. (The number of a transaction that was *not* prepared
//!    can be given out again after a crash: observed. So a commit in one phase asks for the same
//!    server start as well; see [`Postgres::resolve_one_phase`].)
//! 2. It is asked on a primary with the same system identifier, timeline and database. A fail-over
//!    or a restore that went another way has another timeline.
//! 3. From the answer to prepare until its end the branch is listed. Its end is written to the
//!    commit log *before* it leaves the list, and the list is looked at first. So *committed* and
//!    *aborted* are final: no session can hold or prepare the branch any more, and none is ended
//!    for it (it may be serving another branch by now).
//!
//! If the number is still in progress although the branch is not listed, the session that prepared
//! it is ended and seen gone, and everything is asked again.
//!
//! *Committed* counts when the synchronous standbys have it, too, where some are awaited: see
//! [`Postgres::fate`].
//!
//! What cannot be seen is a server that was reset in place to an older copy of its own data on the
//! same timeline, a file-system snapshot for example.

use std::time::Duration;

use unanimous_core::ports::{
    Absence, BranchError, BranchErrorKind, BranchRecord, Cause, OnePhaseReply, RecoveryScan,
    ResourceError, ScannedBranch, ServerIdentity,
};
use unanimous_core::protocol::{Decision, Heuristic};
use unanimous_core::xid::Xid;

use crate::codes::{self, Request};
use crate::failure::Failure;
use crate::gid::{self, Gid};
use crate::session::{Backend, Facts, Replies, Session};
use crate::trace::Trace;
use crate::{Postgres, sql};

/// How long a session that is ended has to go, in milliseconds.
const FENCE_MS: u32 = 5000;

impl Postgres {
    /// Lists what is prepared in this database.
    pub(crate) async fn scan(&self) -> Result<RecoveryScan, ResourceError> {
        let asked = "cannot list what is prepared";
        self.ask_who_and(sql::SCAN)
            .await
            .and_then(|(facts, listed)| read_scan(facts, &listed))
            .map_err(|failure| self.resource_error(failure, asked))
    }

    /// Ends a prepared branch by its XID.
    pub(crate) async fn finish_prepared(
        &self,
        xid: &Xid,
        decision: Decision,
    ) -> Result<(), BranchError> {
        let gid = Gid::of(xid);
        let asked = match decision {
            Decision::Commit => "cannot commit a prepared branch",
            Decision::Rollback => "cannot roll back a prepared branch",
        };
        let name = &self.settings().name;
        let session = match self.pools().recovery_session().await {
            Ok(session) => session,
            // Nothing was sent.
            Err(failure) => return Err(failure.into_branch(Request::Open, name, asked)),
        };
        session.watch_warnings();
        let ended = end_prepared(&session, &gid, decision).await;
        let unconfirmed = match decision {
            Decision::Commit if !session.is_direct() => Some(session.facts().identity.clone()),
            Decision::Commit | Decision::Rollback => None,
        };
        match ended {
            Ok(As::OwnRole) => session.keep(),
            Ok(As::Owner) => {
                // An account of recovery's own comes here for every branch.
                if session.run("RESET ROLE").await.is_ok() {
                    session.keep();
                }
            }
            // Not used again: the role may still be taken.
            Err(failure) => return Err(failure.into_branch(Request::Finish, name, asked)),
        }
        let Some(identity) = unconfirmed else {
            return Ok(());
        };
        // The session was given back: this takes one, too.
        let confirmed = self.confirm_commit(&identity).await;
        confirmed.map_err(|failure| failure.into_branch(Request::Finish, name, asked))
    }

    /// A pooler stands between, so that the branch may have been committed by another session than
    /// the one that is set to wait for the standbys. `COMMIT PREPARED` has to be alone in its
    /// string, so nothing in it tells, and checks before and behind it can miss it: a pooler that
    /// lends two sessions in turn gave the first one again for the third string (observed).
    async fn confirm_commit(&self, identity: &ServerIdentity) -> Result<(), Failure> {
        let why = match self.await_standbys().await {
            Ok(asked) if asked == *identity => return Ok(()),
            Ok(asked) => format!("the server is another one now ({asked})"),
            Err(failure) => failure.to_string(),
        };
        let words = format!(
            "a pooler stands in between: the branch is committed, and a synchronous standby may \
             lack that ({why}); connect to the server itself, or use session mode"
        );
        Err(Failure::lost(words, None))
    }

    /// What became of a branch that was prepared, with a decision to commit, and is not listed.
    pub(crate) async fn fate(
        &self,
        xid: &Xid,
        branch: &BranchRecord,
    ) -> Result<Absence, ResourceError> {
        if let Some(fate) = self.look_at_list(xid, &branch.identity).await? {
            return Ok(fate.absence());
        }
        let Some(trace) = Trace::read(&branch.evidence) else {
            let why = "its evidence is not one of a PostgreSQL branch";
            return Ok(Absence::Hazard(why.to_owned()));
        };
        let fate = self.look_at_status(&branch.identity, trace.xid8).await?;
        if fate != Fate::InProgress {
            return Ok(self.absence_of(fate, &branch.identity).await);
        }
        if let Err(why) = self.fence(trace.backend).await {
            return Ok(Absence::InDoubt(why));
        }
        if let Some(fate) = self.look_at_list(xid, &branch.identity).await? {
            return Ok(fate.absence());
        }
        let fate = self.look_at_status(&branch.identity, trace.xid8).await?;
        Ok(self.absence_of(fate, &branch.identity).await)
    }

    /// A commit counts when the synchronous standbys have it: somebody may have cancelled its wait
    /// for them, or a crash have ended it. On one that takes over without it the branch would be
    /// prepared still, and its decision forgotten.
    async fn absence_of(&self, fate: Fate, identity: &ServerIdentity) -> Absence {
        if fate != (Fate::Committed { are_awaited: true }) {
            return fate.absence();
        }
        match self.await_standbys().await {
            Ok(asked) if asked == *identity => Absence::Finished,
            Ok(asked) => Fate::OtherServer(asked).absence(),
            Err(failure) => Absence::InDoubt(format!(
                "it is committed, and a synchronous standby may lack that: {failure}"
            )),
        }
    }

    /// After a lost reply to a commit in one phase: the end of that very transaction, if it can be
    /// proven, else `lost` as it is.
    ///
    /// The number of a transaction that was not prepared may be given away again after a crash, so
    /// it is believed only under the same start of the same server, and after its session is gone.
    /// Where commits wait for synchronous standbys, that session may have ended while it waited, so
    /// that none of them has the commit: then it is not believed either (I2).
    pub(crate) async fn resolve_one_phase(
        &self,
        trace: &OnePhaseTrace,
        lost: BranchError,
    ) -> OnePhaseReply {
        if self.fence(trace.backend).await.is_err() {
            return OnePhaseReply::Undetermined(lost);
        }
        let Ok((facts, rows)) = self.ask_who_and(&status_of(trace.xid8)).await else {
            return OnePhaseReply::Undetermined(lost);
        };
        let same = facts.identity == trace.identity && facts.server_start == trace.server_start;
        match Fate::of_status(&rows) {
            Fate::Committed { are_awaited: false } if same => OnePhaseReply::Committed,
            Fate::RolledBack if same => OnePhaseReply::RolledBack(BranchError::new(
                BranchErrorKind::RolledBack(Cause::Unreachable),
                self.settings().name.clone(),
                "the connection was lost before the commit took; the server says that the \
                 transaction was rolled back",
            )),
            Fate::Committed { .. }
            | Fate::RolledBack
            | Fate::InProgress
            | Fate::Listed
            | Fate::OtherServer(_)
            | Fate::Forgotten => OnePhaseReply::Undetermined(lost),
        }
    }

    /// Is it another server, or listed after all? Else nothing.
    async fn look_at_list(
        &self,
        xid: &Xid,
        identity: &ServerIdentity,
    ) -> Result<Option<Fate>, ResourceError> {
        let gid = Gid::of(xid);
        let listed = format!(
            "SELECT count(*) FROM pg_catalog.pg_prepared_xacts WHERE gid = '{gid}' \
             AND database = pg_catalog.current_database()"
        );
        let asked = "cannot look for a branch";
        let answer = self.ask_who_and(&listed).await;
        let (facts, rows) = answer.map_err(|failure| self.resource_error(failure, asked))?;
        if facts.identity != *identity {
            return Ok(Some(Fate::OtherServer(facts.identity)));
        }
        Ok((rows.field(0) != Some("0")).then_some(Fate::Listed))
    }

    /// What the commit log of that very server says.
    async fn look_at_status(
        &self,
        identity: &ServerIdentity,
        xid8: u64,
    ) -> Result<Fate, ResourceError> {
        match self.ask_who_and(&status_of(xid8)).await {
            Ok((facts, _)) if facts.identity != *identity => Ok(Fate::OtherServer(facts.identity)),
            Ok((_, rows)) => Ok(Fate::of_status(&rows)),
            Err(failure) if never_given_out(&failure) => Ok(Fate::Forgotten),
            Err(failure) => Err(self.resource_error(failure, "cannot ask what became of a branch")),
        }
    }

    /// Asks one thing, and in the same string on the same session who it is that answers: nobody
    /// but the session that was asked.
    pub(crate) async fn ask_who_and(&self, question: &str) -> Result<(Facts, Replies), Failure> {
        let both = format!("{}; {question}", sql::FACTS);
        let (asked, replies) = self.pools().ask(&both).await?;
        let (facts, answer) = split_facts(replies.all_of(2)?)?;
        if facts.backend == asked {
            Ok((facts, answer))
        } else {
            Err(Failure::other_session(asked.pid, facts.backend.pid))
        }
    }

    /// Ends one server process and sees it gone, with the right that every role has over its own
    /// sessions. The sentence says why it could not be seen.
    async fn fence(&self, backend: Backend) -> Result<(), String> {
        let Backend { pid, start } = backend;
        let since = "(extract(epoch FROM backend_start) * 1000000)::bigint";
        let terminate = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid, {FENCE_MS}) \
             FROM pg_catalog.pg_stat_activity WHERE pid = {pid} AND {since} = {start}"
        );
        // Another role's session hides its start: it may be the one that is meant.
        let count = format!(
            "SELECT count(*) FROM pg_catalog.pg_stat_activity \
             WHERE pid = {pid} AND coalesce({since} = {start}, true)"
        );
        let refused = |failure: Failure| {
            format!(
                "the session that prepared it (process {pid}) cannot be ended: {failure}; \
                 connect as the role of that session, or grant pg_signal_backend"
            )
        };
        self.pools().ask(&terminate).await.map_err(refused)?;
        // In a string of its own: within one transaction the view does not change.
        let (_, replies) = self.pools().ask(&count).await.map_err(refused)?;
        if replies.field(0) == Some("0") {
            Ok(())
        } else {
            Err(format!(
                "the session that prepared it (process {pid}) may still live"
            ))
        }
    }

    fn resource_error(&self, failure: Failure, asked: &str) -> ResourceError {
        failure.into_resource(&self.settings().name, asked)
    }
}

/// As whom a branch was ended.
pub(crate) enum As {
    /// As the session was.
    OwnRole,
    /// As the role that owns the branch; the session has that role now.
    Owner,
}

/// Ends a prepared branch.
///
/// It belongs to the role that was current at prepare. Where that is not the session's (42501),
/// because `SET LOCAL ROLE` has ended or because this is another session, the session takes the
/// role and asks again; whoever could take it once can as long as he is a member of it.
///
/// A rollback waits for no standby: one that takes over without it has the branch prepared and no
/// decision, and the branch is rolled back there, too. Its locks go at once.
pub(crate) async fn end_prepared(
    session: &Session,
    gid: &Gid,
    decision: Decision,
) -> Result<As, Failure> {
    let answer = ask_end(session, gid, decision).await;
    end_answered(session, gid, decision, answer).await
}

async fn ask_end(session: &Session, gid: &Gid, decision: Decision) -> Result<Replies, Failure> {
    match decision {
        Decision::Commit => session.run(&sql::commit_prepared(gid)).await,
        Decision::Rollback => session.run_unawaited(&sql::rollback_prepared(gid)).await,
    }
}

/// The same, when it was asked for and answered. The decision of a commit has to be kept until the
/// standbys know of it, too: then this fails.
pub(crate) async fn end_answered(
    session: &Session,
    gid: &Gid,
    decision: Decision,
    answer: Result<Replies, Failure>,
) -> Result<As, Failure> {
    let (answer, whose) = match answer {
        Ok(answer) => (answer, As::OwnRole),
        Err(refused) => {
            if !codes::is_not_owner(refused.answer()) || take_role(session, gid).await.is_none() {
                return Err(refused);
            }
            (ask_end(session, gid, decision).await?, As::Owner)
        }
    };
    answer.all_of(1)?;
    if decision == Decision::Commit && session.is_unreplicated() {
        return Err(Failure::unreplicated());
    }
    Ok(whose)
}

/// Nothing if there is no such branch, or if the role may not be taken. The wipe that was sent
/// behind the end of a branch has undone what made its session durable.
async fn take_role(session: &Session, gid: &Gid) -> Option<Replies> {
    let owner = session.run(&sql::owner_of(gid)).await.ok()?;
    let own = sql::own_session(session.facts().backend.pid);
    let (owner, durable) = (owner.field(0)?, sql::durable());
    let set_role = format!("{own}; SET ROLE {owner}; {durable}");
    session.run(&set_role).await.ok()
}

/// What is needed to find out how a commit in one phase ended.
#[derive(Debug, Clone)]
pub(crate) struct OnePhaseTrace {
    identity: ServerIdentity,
    server_start: i64,
    backend: Backend,
    xid8: u64,
}

impl OnePhaseTrace {
    /// `xid8` is what the guard answered; a transaction without number leaves no trace.
    pub(crate) fn new(facts: &Facts, xid8: Option<&str>) -> Option<Self> {
        Some(Self {
            identity: facts.identity.clone(),
            server_start: facts.server_start,
            backend: facts.backend,
            xid8: xid8?.parse().ok()?,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Are synchronous standbys awaited on this server?
    Committed {
        are_awaited: bool,
    },
    RolledBack,
    InProgress,
    Listed,
    OtherServer(ServerIdentity),
    Forgotten,
}

impl Fate {
    /// The answer to [`status_of`], NULL if the commit log no longer has it.
    fn of_status(status: &Replies) -> Self {
        match status.field(0) {
            Some("committed") => Self::Committed {
                are_awaited: status.field(1) != Some("f"),
            },
            Some("aborted") => Self::RolledBack,
            Some("in progress") => Self::InProgress,
            _ => Self::Forgotten,
        }
    }

    fn absence(self) -> Absence {
        match self {
            Self::Committed { .. } => Absence::Finished,
            Self::RolledBack => Absence::Heuristic(Heuristic::Rollback),
            Self::InProgress => Absence::InDoubt(
                "its transaction is in progress although it is not listed".to_owned(),
            ),
            Self::Listed => Absence::InDoubt("it is listed as prepared again".to_owned()),
            Self::OtherServer(identity) => Absence::Hazard(format!(
                "the server is another one now ({identity}): a fail-over, or a restored backup"
            )),
            Self::Forgotten => Absence::Hazard(
                "the server's commit log does not know its transaction (any more)".to_owned(),
            ),
        }
    }
}

fn never_given_out(failure: &Failure) -> bool {
    let (kind, _) = codes::meaning(Request::Status, failure.answer());
    kind == BranchErrorKind::UnknownXid
}

fn status_of(xid8: u64) -> String {
    format!(
        "SELECT pg_catalog.pg_xact_status('{xid8}'::xid8), \
         pg_catalog.current_setting('synchronous_standby_names') <> ''"
    )
}

/// Takes the row of [`sql::FACTS`] from the front.
fn split_facts(mut replies: Replies) -> Result<(Facts, Replies), Failure> {
    let rows = if replies.rows.is_empty() {
        Vec::new()
    } else {
        replies.rows.split_off(1)
    };
    let completed = replies.completed;
    Ok((Facts::read(&replies)?, Replies { rows, completed }))
}

fn read_scan(facts: Facts, listed: &Replies) -> Result<RecoveryScan, Failure> {
    let mut branches = Vec::with_capacity(listed.rows.len());
    for row in &listed.rows {
        let owner = row
            .get(0)
            .and_then(gid::owner)
            .ok_or_else(|| Failure::lost("a prepared transaction without GID", None))?;
        let micros = row.get(1).and_then(|text| text.parse().ok());
        branches.push(ScannedBranch {
            owner,
            age: micros.map(Duration::from_micros),
        });
    }
    // Oldest first: the server looks for each from the beginning of its list.
    branches.sort_by_key(|branch| std::cmp::Reverse(branch.age));
    Ok(RecoveryScan {
        identity: facts.identity,
        branches,
    })
}
