//! Keeps a branch of MariaDB's from being ended while the connection that prepared it closes.
//!
//! MariaDB hands such a branch over in two steps: its XID first, InnoDB's transaction some moments
//! later. In between, `XA COMMIT` and `XA ROLLBACK` from another connection answer OK and end
//! nothing; the branch is listed no more and keeps its locks until the server restarts, which
//! prepares it again (seen with 10.11.19:
//! `i1_a_branch_of_a_closing_connection_is_not_ended_before_its_time`).
//!
//! So before a decided branch is committed from elsewhere, its connection is seen gone (see
//! [`fence`]), and then InnoDB's transactions are looked at until none belongs to that connection
//! any more: [`Looks`]. That needs the privilege PROCESS. Without it, and for a branch whose
//! connection is not known because nothing was decided, this waits until [`SETTLES`] after the
//! branch was first listed: once for all of a pass. Should that ever be too short, an undecided
//! branch keeps its locks until the restart, and is rolled back then.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;
use unanimous_core::ports::{BranchRecord, Finding, ScannedBranch, ServerIdentity, XidOwner};
use unanimous_core::xid::Xid;

use crate::codes;
use crate::fence::{Fenced, Holder, fence};
use crate::session::{Session, text};

/// Some thousand times what a server needs to close a connection.
const SETTLES: Duration = Duration::from_millis(500);

/// InnoDB answers the same picture again until nobody has asked for a tenth of a second.
const PICTURE_KEPT: Duration = Duration::from_millis(110);
const LOOKS_MAX: u32 = 20;

/// What was seen of a branch's connection.
#[derive(Debug)]
pub(crate) enum HandedOver {
    /// It is gone, and has left its transaction behind.
    Yes,
    /// It is gone, or not known; what it has left behind cannot be seen.
    Unseen,
    /// It may still be there. Says why, and what to do.
    NotYet(String),
}

/// Sees the connection that prepared a branch gone, and its transaction left behind.
pub(crate) async fn see_handed_over(
    looks: &Looks,
    session: &mut Session,
    identity: &ServerIdentity,
    recorded: Option<&BranchRecord>,
) -> Result<HandedOver, Error> {
    // A connection's number means something only on the server that gave it.
    let recorded = recorded.filter(|branch| branch.identity == *identity);
    let Some(holder) = recorded.and_then(|branch| Holder::from_evidence(&branch.evidence)) else {
        return Ok(HandedOver::Unseen);
    };
    if holder.is_of_another_start(session) {
        return Ok(HandedOver::Yes);
    }
    if let Fenced::NotSeen(finding) = fence(session, &holder).await? {
        return Ok(HandedOver::NotYet(not_gone(&finding)));
    }
    let mut gone = looks.moment();
    for _ in 0..LOOKS_MAX {
        match looks.since(session, gone).await? {
            None => return Ok(HandedOver::Unseen),
            Some(threads) if !threads.contains(&holder.connection()) => {
                return Ok(HandedOver::Yes);
            }
            Some(_) => gone = looks.moment(),
        }
    }
    let connection = holder.connection();
    let message = format!("connection {connection} is gone, but its transaction is not free yet");
    Ok(HandedOver::NotYet(message))
}

fn not_gone(finding: &Finding) -> String {
    format!("the connection that prepared it may still be there: {finding}")
}

/// When each branch was first listed, as long as it is.
#[derive(Debug, Default)]
pub(crate) struct FirstListed(std::sync::Mutex<HashMap<Xid, Instant>>);

impl FirstListed {
    /// What the server lists now.
    pub(crate) fn see(&self, branches: &[ScannedBranch]) {
        let now = Instant::now();
        let mut first = self.lock();
        let mut before = std::mem::take(&mut *first);
        for branch in branches {
            if let XidOwner::Unanimous(xid) = &branch.owner {
                let since = before.remove(xid).unwrap_or(now);
                first.insert(xid.clone(), since);
            }
        }
    }

    /// Returns when it has been listed for long enough.
    pub(crate) async fn settled(&self, xid: &Xid) {
        let since = self.lock().get(xid).copied();
        tokio::time::sleep_until(since.unwrap_or_else(Instant::now) + SETTLES).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Xid, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the threads of InnoDB's transactions, shared by all who wait for one: each look keeps
/// the next from being fresh for a while.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    last: Mutex<Option<Look>>,
    moments: AtomicU64,
}

#[derive(Debug)]
struct Look {
    /// Asked after this moment: see [`Looks::moment`].
    asked: u64,
    /// Of the server that was started then.
    started: u64,
    threads: HashSet<u32>,
}

impl Looks {
    /// A number that rises: what is asked after a moment was taken has a later one.
    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// The threads of all transactions, seen after a moment. `None` if the server does not show
    /// them: the privilege PROCESS is lacking, or others ask so often that the picture stays old.
    async fn since(
        &self,
        session: &mut Session,
        moment: u64,
    ) -> Result<Option<HashSet<u32>>, Error> {
        let started = session.server().started;
        let mut last = self.last.lock().await;
        if let Some(look) = &*last
            && look.started == started
            && look.asked > moment
        {
            return Ok(Some(look.threads.clone()));
        }
        for _ in 0..LOOKS_MAX {
            let asked = self.moment();
            match look(session).await {
                Ok(Some(threads)) => {
                    *last = Some(Look {
                        asked,
                        started,
                        threads: threads.clone(),
                    });
                    return Ok(Some(threads));
                }
                Ok(None) => tokio::time::sleep(PICTURE_KEPT).await,
                Err(error) if codes::is_access_denied(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// One look. `None` if the picture is an old one: a new one shows this very question, asked from
/// within a transaction.
async fn look(session: &mut Session) -> Result<Option<HashSet<u32>>, Error> {
    static QUESTIONS: AtomicU64 = AtomicU64::new(0);
    let number = QUESTIONS.fetch_add(1, Ordering::Relaxed);
    let mark = format!("unanimous {}.{number}", session.connection_id());
    session
        .run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        .await?;
    session
        .run("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        .await?;
    let seen = session
        .rows(&format!(
            "/* {mark} */ SELECT trx_mysql_thread_id, trx_query FROM information_schema.INNODB_TRX"
        ))
        .await;
    session.run("COMMIT").await?;
    let rows = seen?;
    let is_new = rows
        .iter()
        .any(|row| text(row, 1).is_some_and(|query| query.contains(&mark)));
    let thread = |row| text(row, 0)?.parse().ok();
    Ok(is_new.then(|| rows.iter().filter_map(thread).collect()))
}
