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
//! any more: [`Looks`]. That needs the privilege PROCESS. Without it, this waits until [`SETTLES`]
//! after the connection was seen gone, and for a branch whose connection is not known, because
//! nothing was decided, after the branch was first listed: once for all of a pass ([`Listed`]).
//! Should that ever be too short, an undecided branch keeps its locks until the restart, and is
//! rolled back then.

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
    /// It is gone, or not known; what it has left behind cannot be seen. Says since when it is
    /// gone.
    Unseen(Option<Instant>),
    /// It may still be there. Says why, and what to do.
    NotYet(String),
}

/// Sees the connection that prepared a branch gone, and its transaction left behind.
pub(crate) async fn see_handed_over(
    (looks, listed): (&Looks, &Listed),
    session: &mut Session,
    identity: &ServerIdentity,
    recorded: Option<&BranchRecord>,
) -> Result<HandedOver, Error> {
    // A connection's number means something only on the server that gave it.
    let recorded = recorded.filter(|branch| branch.identity == *identity);
    let Some(holder) = recorded.and_then(|branch| Holder::from_evidence(&branch.evidence)) else {
        return Ok(HandedOver::Unseen(None));
    };
    if holder.is_of_another_start(session) {
        return Ok(HandedOver::Yes);
    }
    let gone_since = match fence(session, &holder).await? {
        Fenced::NotSeen(finding) => return Ok(HandedOver::NotYet(not_gone(&finding))),
        Fenced::Gone { was_there: true } => Instant::now(),
        Fenced::Gone { was_there: false } => {
            listed.gone_since(session.server().started, holder.connection())
        }
    };
    let mut gone = looks.moment();
    for _ in 0..LOOKS_MAX {
        match looks.since(session, gone).await? {
            None => return Ok(HandedOver::Unseen(Some(gone_since))),
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

/// What was listed when.
#[derive(Debug, Default)]
pub(crate) struct Listed(std::sync::Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    /// When each branch was first listed, as long as it is.
    branches: HashMap<Xid, Instant>,
    /// The connections at the last scan, after which moment, and the server's start.
    connections: Option<(HashSet<u32>, Instant, u64)>,
}

impl Listed {
    /// What the server lists now.
    pub(crate) fn see(&self, branches: &[ScannedBranch]) {
        let now = Instant::now();
        let mut lists = self.lock();
        let mut before = std::mem::take(&mut lists.branches);
        for branch in branches {
            if let XidOwner::Unanimous(xid) = &branch.owner {
                let since = before.remove(xid).unwrap_or(now);
                lists.branches.insert(xid.clone(), since);
            }
        }
    }

    /// Which connections there are now.
    pub(crate) fn see_connections(&self, started: u64, connections: HashSet<u32>) {
        self.lock().connections = Some((connections, Instant::now(), started));
    }

    /// Since when a connection that is not there is gone, as far as that was seen.
    fn gone_since(&self, started: u64, connection: u32) -> Instant {
        match &self.lock().connections {
            Some((there, at, of_start)) if *of_start == started && !there.contains(&connection) => {
                *at
            }
            Some(_) | None => Instant::now(),
        }
    }

    /// Returns when it has been listed for long enough, and its connection, if that is known, been
    /// gone.
    pub(crate) async fn settled(&self, xid: &Xid, gone_since: Option<Instant>) {
        let since = self.lock().branches.get(xid).copied();
        let since = gone_since.or(since).unwrap_or_else(Instant::now);
        tokio::time::sleep_until(since + SETTLES).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lists> {
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn waits(listed: &Listed, xid: &Xid, gone_since: Option<Instant>) -> Duration {
        let begin = Instant::now();
        listed.settled(xid, gone_since).await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn i1_the_wait_begins_when_the_connection_was_seen_gone_and_not_with_the_branch() {
        let (listed, long) = (Listed::default(), Duration::from_secs(60));
        let xid: Xid = "0123456789abcdef-1-0123456789abc-77:ledger"
            .parse()
            .unwrap();
        let branch = ScannedBranch {
            owner: XidOwner::Unanimous(xid.clone()),
            age: None,
        };
        listed.see(&[branch]);
        tokio::time::advance(long).await;
        assert_eq!(waits(&listed, &xid, None).await, Duration::ZERO);
        listed.see_connections(7, HashSet::from([1]));
        // Seen by nobody, and of another start: gone since now.
        for (started, connection) in [(7, 1), (8, 2)] {
            let since = listed.gone_since(started, connection);
            assert_eq!(waits(&listed, &xid, Some(since)).await, SETTLES);
        }
        // All that were gone at the scan wait together.
        tokio::time::advance(long).await;
        let since = listed.gone_since(7, 2);
        assert_eq!(waits(&listed, &xid, Some(since)).await, Duration::ZERO);
    }
}
