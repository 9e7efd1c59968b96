//! Keeps a branch of MariaDB's from being ended while the connection that prepared it closes.
//!
//! MariaDB hands such a branch over in two steps: its XID first, InnoDB's transaction some moments
//! later. In between, `XA COMMIT` and `XA ROLLBACK` from another connection answer OK and end
//! nothing; the branch is listed no more and keeps its locks until the server restarts, which
//! prepares it again (seen with 10.11.19:
//! `i1_a_branch_of_a_closing_connection_is_not_ended_before_its_time`).
//!
//! So before a decided branch is committed from elsewhere, its connection is seen gone (by the scan
//! that listed it, or see [`fence`]), and then InnoDB's transactions are looked at until none
//! belongs to that connection any more: [`Looks`]. One scan and one look serve all branches whose
//! connections were gone before them. As long as others ask InnoDB so often that its picture stays
//! old, nothing is committed.
//!
//! That needs the privilege PROCESS. Without it, which the preflight warns of, this waits until
//! [`SETTLES`] after the connection was seen gone. Should that be too short, because the server
//! stood still for as long in that very moment, the commit is lost until the restart. For a branch
//! whose connection is not known, because nothing was decided, it waits until as long after the
//! branch was first listed, once for all of a pass ([`Listed`]): such a branch keeps its locks
//! until the restart then, and is rolled back.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;
use unanimous_core::ports::{BranchRecord, Finding, ScannedBranch, ServerIdentity, XidOwner};
use unanimous_core::xid::Xid;

use crate::fence::{Connections, Fenced, Holder, fence};
use crate::session::{Server, Session, number};
use crate::{codes, picture};

/// Some thousand times what a server needs to close a connection.
const SETTLES: Duration = Duration::from_millis(500);

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

/// The connection that the decision names, if it is one of this server's.
fn holder(identity: Option<&ServerIdentity>, recorded: Option<&BranchRecord>) -> Option<Holder> {
    // A connection's number means something only on the server that gave it.
    let recorded = recorded.filter(|branch| Some(&branch.identity) == identity);
    Holder::from_evidence(&recorded?.evidence)
}

/// Whether what was seen for others says already that a branch is handed over. Asks nothing.
pub(crate) fn is_handed_over(
    (looks, listed): (&Looks, &Listed),
    server: &Server,
    xid: &Xid,
    recorded: Option<&BranchRecord>,
) -> bool {
    if server.identity.is_none() && recorded.is_some() {
        // Whose connection it names is not known yet.
        return false;
    }
    match holder(server.identity.as_ref(), recorded) {
        None => listed.is_settled(xid),
        Some(holder) if holder.is_of_another_start(server) => true,
        Some(holder) => listed
            .gone_before(xid, &holder, server.started)
            .is_some_and(|gone| {
                let is_free = looks.know_free(server.started, gone.moment, holder.connection());
                is_free || (!gone.can_look && has_settled(gone.at))
            }),
    }
}

/// Whether the connection that prepared a branch may be there, and would be ended.
pub(crate) fn has_to_be_fenced(
    listed: &Listed,
    server: &Server,
    xid: &Xid,
    recorded: Option<&BranchRecord>,
) -> bool {
    holder(server.identity.as_ref(), recorded).is_some_and(|holder| {
        let is_gone = listed.gone_before(xid, &holder, server.started).is_some();
        !is_gone && !holder.is_of_another_start(server)
    })
}

/// Sees the connection that prepared a branch gone, and its transaction left behind.
pub(crate) async fn see_handed_over(
    (looks, listed): (&Looks, &Listed),
    session: &mut Session,
    xid: &Xid,
    recorded: Option<&BranchRecord>,
) -> Result<HandedOver, Error> {
    let server = session.server();
    let started = server.started;
    let Some(holder) = holder(server.identity.as_ref(), recorded) else {
        return Ok(HandedOver::Unseen(None));
    };
    if holder.is_of_another_start(server) {
        return Ok(HandedOver::Yes);
    }
    let mut gone = match listed.gone_before(xid, &holder, started) {
        Some(gone) => gone,
        None => match fence(session, &holder).await? {
            Fenced::NotSeen(finding) => return Ok(HandedOver::NotYet(not_gone(&finding))),
            Fenced::Gone => looks.gone_now(true),
        },
    };
    if !gone.can_look {
        return Ok(HandedOver::Unseen(Some(gone.at)));
    }
    for _ in 0..picture::LOOKS_MAX {
        let looked = looks.look(session, gone.moment, holder.connection());
        match looked.await? {
            Sight::Free => return Ok(HandedOver::Yes),
            Sight::Taken => gone.moment = looks.moment(),
            Sight::Denied => return Ok(HandedOver::Unseen(Some(gone.at))),
            Sight::Old => return Ok(HandedOver::NotYet(OLD_PICTURE.to_owned())),
        }
    }
    let connection = holder.connection();
    let message = format!("connection {connection} is gone, but its transaction is not free yet");
    Ok(HandedOver::NotYet(message))
}

const OLD_PICTURE: &str = "others ask for information_schema.INNODB_TRX so often that it stays as \
     it was: whether the branch has left its connection cannot be seen; ask less often";

fn not_gone(finding: &Finding) -> String {
    format!("the connection that prepared it may still be there: {finding}")
}

/// Before this a connection was seen gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone {
    at: Instant,
    /// See [`Looks::moment`].
    moment: u64,
    /// As far as is known, what it leaves behind can be seen.
    can_look: bool,
}

fn has_settled(since: Instant) -> bool {
    since + SETTLES <= Instant::now()
}

/// What was listed when.
#[derive(Debug, Default)]
pub(crate) struct Listed(std::sync::Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    /// When each branch was first listed, as long as it is.
    branches: HashMap<Xid, Instant>,
    /// The connections that there were after these branches were listed.
    connections: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    there: Connections,
    /// After they were seen.
    then: Gone,
    /// Of the server that was started then.
    started: u64,
}

impl Listed {
    /// What the server lists now, and which connections there were afterwards.
    pub(crate) fn see(
        &self,
        branches: &[ScannedBranch],
        started: u64,
        connections: Option<(Connections, Gone)>,
    ) {
        let now = Instant::now();
        let mut lists = self.lock();
        let mut before = std::mem::take(&mut lists.branches);
        for branch in branches {
            if let XidOwner::Unanimous(xid) = &branch.owner {
                let (xid, since) = match before.remove_entry(xid) {
                    Some(known) => known,
                    None => (xid.clone(), now),
                };
                lists.branches.insert(xid, since);
            }
        }
        lists.connections = connections.map(|(there, then)| Seen {
            there,
            then,
            started,
        });
    }

    /// Before what the connection that prepared a branch was gone, if a scan has seen that. The
    /// branch was listed before the connections were, so its own would have been among them.
    fn gone_before(&self, xid: &Xid, holder: &Holder, started: u64) -> Option<Gone> {
        let lists = self.lock();
        let seen = lists.connections.as_ref()?;
        let is_gone = seen.started == started && seen.there.lack(holder);
        (is_gone && lists.branches.contains_key(xid)).then_some(seen.then)
    }

    /// It has been listed for long enough.
    fn is_settled(&self, xid: &Xid) -> bool {
        let since = self.lock().branches.get(xid).copied();
        since.is_some_and(has_settled)
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

/// What a look says of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// It has no transaction.
    Free,
    Taken,
    /// The privilege PROCESS is lacking.
    Denied,
    /// Others ask so often that the picture stays old.
    Old,
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

impl Look {
    const fn is_after(&self, started: u64, moment: u64) -> bool {
        self.started == started && self.asked > moment
    }

    fn sight(&self, thread: u32) -> Sight {
        if self.threads.contains(&thread) {
            Sight::Taken
        } else {
            Sight::Free
        }
    }
}

impl Looks {
    /// A number that rises: what is asked after a moment was taken has a later one.
    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// What is gone is gone before now.
    pub(crate) fn gone_now(&self, can_look: bool) -> Gone {
        Gone {
            at: Instant::now(),
            moment: self.moment(),
            can_look,
        }
    }

    /// The last look was asked after a moment, and showed no transaction of this thread.
    fn know_free(&self, started: u64, moment: u64, thread: u32) -> bool {
        let last = self.last.try_lock();
        last.is_ok_and(|last| {
            let look = last.as_ref().filter(|look| look.is_after(started, moment));
            look.is_some_and(|look| look.sight(thread) == Sight::Free)
        })
    }

    /// Whether this thread has a transaction, seen after a moment.
    async fn look(&self, session: &mut Session, moment: u64, thread: u32) -> Result<Sight, Error> {
        let started = session.server().started;
        let mut last = self.last.lock().await;
        if let Some(look) = last.as_ref().filter(|look| look.is_after(started, moment)) {
            return Ok(look.sight(thread));
        }
        for _ in 0..picture::LOOKS_MAX {
            let asked = self.moment();
            match picture::look(session, "trx_mysql_thread_id").await {
                Ok(Some(rows)) => {
                    let threads = rows.iter().filter_map(|row| number(row, 1));
                    let look = last.insert(Look {
                        asked,
                        started,
                        threads: threads.collect(),
                    });
                    return Ok(look.sight(thread));
                }
                Ok(None) => tokio::time::sleep(picture::pause()).await,
                Err(error) if codes::is_access_denied(&error) => return Ok(Sight::Denied),
                Err(error) => return Err(error),
            }
        }
        Ok(Sight::Old)
    }
}

#[cfg(test)]
mod tests {
    use unanimous_core::ports::Evidence;

    use super::*;

    async fn waits(listed: &Listed, xid: &Xid, gone_since: Option<Instant>) -> Duration {
        let begin = Instant::now();
        listed.settled(xid, gone_since).await;
        begin.elapsed()
    }

    fn holder(connection: u32) -> Holder {
        let text = format!("connection={connection} started=7");
        Holder::from_evidence(&Evidence::new(text).unwrap()).unwrap()
    }

    fn listed(xid: &Xid) -> ScannedBranch {
        ScannedBranch {
            owner: XidOwner::Unanimous(xid.clone()),
            age: None,
        }
    }

    fn xid(sequence: u64) -> Xid {
        let text = format!("0123456789abcdef-1-0123456789abc-{sequence}:ledger");
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn i1_the_wait_begins_when_the_connection_was_seen_gone_and_not_with_the_branch() {
        let (lists, looks, long) = (Listed::default(), Looks::default(), Duration::from_secs(60));
        let xid = xid(1);
        lists.see(&[listed(&xid)], 7, None);
        assert!(!lists.is_settled(&xid));
        tokio::time::advance(long).await;
        assert!(lists.is_settled(&xid));
        assert_eq!(waits(&lists, &xid, None).await, Duration::ZERO);
        let connections = Some((Connections::of(&[1]), looks.gone_now(true)));
        lists.see(&[listed(&xid)], 7, connections);
        // All that were gone at the scan wait together.
        let gone = lists.gone_before(&xid, &holder(2), 7).unwrap();
        assert_eq!(waits(&lists, &xid, Some(gone.at)).await, SETTLES);
        tokio::time::advance(long).await;
        assert_eq!(waits(&lists, &xid, Some(gone.at)).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn i1_a_scan_tells_only_of_connections_that_were_there_before_it() {
        let (lists, looks) = (Listed::default(), Looks::default());
        let connections = Some((Connections::of(&[1]), looks.gone_now(true)));
        lists.see(&[listed(&xid(1))], 7, connections);
        assert!(lists.gone_before(&xid(1), &holder(2), 7).is_some());
        // It is there; it is another start's; the branch was prepared later.
        assert!(lists.gone_before(&xid(1), &holder(1), 7).is_none());
        assert!(lists.gone_before(&xid(1), &holder(2), 8).is_none());
        assert!(lists.gone_before(&xid(2), &holder(2), 7).is_none());
        // Nothing was looked at since; where that cannot be done, time has to pass.
        let server = |identity: &ServerIdentity| Server {
            flavour: crate::session::Flavour::MariaDb,
            identity: Some(identity.clone()),
            scope: "".into(),
            started: 7,
            roles: String::new(),
            account: "".into(),
            hides_deadlocks: false,
        };
        let identity = ServerIdentity::new("mariadb:1").unwrap();
        let record = BranchRecord {
            resource: "ledger".parse().unwrap(),
            identity: identity.clone(),
            evidence: holder(2).evidence(),
        };
        let is_known = || {
            let seen = (&looks, &lists);
            is_handed_over(seen, &server(&identity), &xid(1), Some(&record))
        };
        tokio::time::advance(SETTLES).await;
        assert!(!is_known());
        let unseen = Some((Connections::of(&[1]), looks.gone_now(false)));
        lists.see(&[listed(&xid(1))], 7, unseen);
        assert!(!is_known());
        tokio::time::advance(SETTLES).await;
        assert!(is_known());
        // As long as the server's identity is not known, the record says nothing.
        let nameless = Server {
            identity: None,
            ..server(&identity)
        };
        let seen = (&looks, &lists);
        assert!(!is_handed_over(seen, &nameless, &xid(1), Some(&record)));
        assert!(is_handed_over(seen, &nameless, &xid(1), None));
    }

    #[tokio::test]
    async fn i1_a_look_that_was_asked_before_a_connection_was_gone_says_nothing() {
        let looks = Looks::default();
        let early = looks.moment();
        let look = Look {
            asked: looks.moment(),
            started: 7,
            threads: HashSet::from([1]),
        };
        *looks.last.lock().await = Some(look);
        let late = looks.moment();
        assert!(looks.know_free(7, early, 2));
        assert!(!looks.know_free(7, early, 1));
        assert!(!looks.know_free(8, early, 2));
        assert!(!looks.know_free(7, late, 2));
    }
}
