//! What prepared transactions hold and whom they block, from the servers' own views. A few
//! questions, however many branches there are.
//!
//! # Whose is it?
//! No view of either server says which XID an InnoDB transaction has (observed on MySQL 9.7.4 and
//! MariaDB 10.11.19; manuals, `INNODB_TRX`, `data_locks`). A prepared one whose connection has left
//! it has the thread 0. So a branch is told with its locks only if it is certain which it is:
//! * MySQL, while the connection that prepared it does nothing else: `events_transactions_current`
//!   has the XID, the thread and the event in which the transaction began, and `data_locks` has
//!   thread and event of each lock.
//! * One XID is left and one transaction is left: they belong together. The XIDs are listed before
//!   and after. On MariaDB the branch may still be with its connection, and the transaction be that
//!   of another one, which the server has lost ([`handover`](crate::handover)): so only if no
//!   connection has a transaction, but for those that wait for a lock, which is not prepared.
//!
//! All others are told as [`Inspection::untold`].
//!
//! # Privileges
//! `PROCESS` for InnoDB's transactions; on MySQL also `SELECT` on `performance_schema` for locks
//! and who waits. What is lacking is a note with the `GRANT`.

mod mariadb;
mod mysql;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use mysql_async::{Error, Row};
use unanimous_core::ports::{
    Blocked, BlockedSession, HeldLock, Holding, Horizon, InspectOptions, InspectedBranch,
    Inspection, Locks, Problem, ResourceError, ScannedBranch, XidOwner,
};

use crate::session::{Flavour, Session, number, text};
use crate::{Mysql, codes, finish, picture, preflight};

/// How many waiting sessions are read.
const WAITERS_MAX: usize = 1000;

/// See the module.
pub(crate) async fn inspect(
    resource: &Mysql,
    options: InspectOptions,
) -> Result<Inspection, ResourceError> {
    let mut lease = resource.inner.control.lend_checked().await?;
    let Some(session) = lease.session() else {
        return Err(resource.error(Problem::Unavailable, "the connection is closed"));
    };
    let before = finish::scan(resource, session).await?;
    if before.is_empty() {
        lease.give_back();
        return Ok(Inspection::default());
    }
    let is_detached = session.server().flavour == Flavour::MySql;
    let looked = look(session, options).await;
    let picture = looked.map_err(|error| {
        let message = format!("cannot see what prepared branches hold: {error}");
        resource
            .error(codes::connect(&error), message)
            .with_source(error)
    })?;
    let after = finish::scan(resource, session).await?;
    lease.give_back();
    let after: HashSet<XidOwner> = owners(after).collect();
    let listed = owners(before).filter(|owner| after.contains(owner));
    Ok(picture.tell(listed.collect(), is_detached, options))
}

fn owners(branches: Vec<ScannedBranch>) -> impl Iterator<Item = XidOwner> {
    branches.into_iter().map(|branch| branch.owner)
}

async fn look(session: &mut Session, options: InspectOptions) -> Result<Picture, Error> {
    let mut picture = Picture::default();
    picture.take_transactions(session).await?;
    match session.server().flavour {
        Flavour::MySql => mysql::look(session, options, &mut picture).await?,
        Flavour::MariaDb => mariadb::look(session, options, &mut picture).await?,
    }
    Ok(picture)
}

/// The rows, or a note that says which privilege is lacking.
async fn ask(
    session: &mut Session,
    sql: &str,
    grant: &str,
    picture: &mut Picture,
) -> Result<Option<Vec<Row>>, Error> {
    let rows = session.rows(sql).await;
    unless_denied(session, rows, grant, picture)
}

/// The answer, or a note that says which privilege is lacking.
fn unless_denied<T>(
    session: &Session,
    answer: Result<T, Error>,
    grant: &str,
    picture: &mut Picture,
) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if codes::is_access_denied(&error) => {
            let account = preflight::quoted(&session.server().account);
            picture.note(format!(
                "not all of what is held and blocked can be seen: GRANT {grant} TO {account}"
            ));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A transaction of InnoDB's that no connection has.
#[derive(Debug, Default)]
struct Transaction {
    begun: Option<Duration>,
    /// How many locks, by InnoDB's own count.
    count: u64,
    /// All of them, where the server names them all.
    named: Option<Vec<HeldLock>>,
    /// Those that somebody waits for, where the server names only them.
    waited_for: Vec<HeldLock>,
    blocked: Option<BTreeMap<u64, BlockedSession>>,
    owner: Option<XidOwner>,
}

/// All that was seen.
#[derive(Debug, Default)]
struct Picture {
    /// By InnoDB's number.
    transactions: BTreeMap<u64, Transaction>,
    /// A connection has one that may be prepared.
    others: bool,
    horizon: Option<Horizon>,
    notes: Vec<String>,
}

/// A session that waits for another transaction.
struct Wait {
    session: BlockedSession,
    /// Its own transaction.
    own: Option<u64>,
    /// The one that it waits for.
    holder: u64,
}

/// Seconds of a moment in the past that InnoDB has printed in the time zone of the system.
fn seconds_since(moment: &str) -> String {
    format!("TIMESTAMPDIFF(SECOND, {moment}, CONVERT_TZ(NOW(), @@SESSION.time_zone, 'SYSTEM'))")
}

impl Picture {
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// InnoDB's transactions without a connection: prepared ones, as far as this can be seen.
    async fn take_transactions(&mut self, session: &mut Session) -> Result<(), Error> {
        let columns = format!(
            "trx_id, {}, trx_tables_locked + trx_rows_locked, \
             trx_mysql_thread_id = 0 AND trx_state = 'RUNNING', \
             trx_mysql_thread_id <> 0 AND trx_state <> 'LOCK WAIT'",
            seconds_since("trx_started")
        );
        for _ in 0..picture::LOOKS_MAX {
            let seen = picture::look(session, &columns).await;
            match unless_denied(session, seen, "PROCESS ON *.*", self)? {
                None => return Ok(()),
                Some(Some(rows)) => {
                    self.read_transactions(&rows);
                    return Ok(());
                }
                Some(None) => tokio::time::sleep(picture::pause()).await,
            }
        }
        self.note("others ask InnoDB for its transactions all the time: ask again".to_owned());
        Ok(())
    }

    fn read_transactions(&mut self, rows: &[Row]) {
        let is = |row: &Row, column| text(row, column).as_deref() == Some("1");
        // But for the question's own.
        self.others = rows.iter().any(|row| is(row, 5) && !is(row, 0));
        for row in rows.iter().filter(|row| is(row, 4)) {
            let Some(id) = number(row, 1) else { continue };
            let transaction = Transaction {
                begun: number(row, 2).map(Duration::from_secs),
                count: number(row, 3).unwrap_or_default(),
                ..Transaction::default()
            };
            self.transactions.insert(id, transaction);
        }
    }

    /// Who waits for which, at once or behind others who do.
    fn take_waits(&mut self, waits: &[Wait]) {
        if waits.len() >= WAITERS_MAX {
            self.note(format!(
                "at least {WAITERS_MAX} sessions wait for locks: only so many were looked at"
            ));
        }
        for (id, transaction) in &mut self.transactions {
            let blocked = transaction.blocked.get_or_insert_default();
            let mut holders = vec![*id];
            let mut is_behind = false;
            while !holders.is_empty() {
                let mut next = Vec::new();
                for wait in waits.iter().filter(|wait| holders.contains(&wait.holder)) {
                    if blocked.contains_key(&wait.session.session) {
                        continue;
                    }
                    let session = BlockedSession {
                        is_behind: is_behind || wait.session.is_behind,
                        ..wait.session.clone()
                    };
                    blocked.insert(session.session, session);
                    next.extend(wait.own);
                }
                holders = next;
                is_behind = true;
            }
        }
    }

    /// `listed` are the XIDs that were prepared all the while. Whether the server parts them from
    /// their connections at once.
    fn tell(
        mut self,
        listed: Vec<XidOwner>,
        is_detached: bool,
        options: InspectOptions,
    ) -> Inspection {
        let known = self.transactions.values().filter_map(|t| t.owner.as_ref());
        let known: HashSet<XidOwner> = known.cloned().collect();
        let mut left = listed.iter().filter(|owner| !known.contains(owner));
        if let (Some(last), None, true) = (left.next(), left.next(), is_detached || !self.others) {
            let mut untold = self.transactions.values_mut();
            let mut untold = untold.by_ref().filter(|t| t.owner.is_none());
            if let (Some(transaction), None) = (untold.next(), untold.next()) {
                transaction.owner = Some(last.clone());
            }
        }
        let mut inspection = Inspection {
            horizon: self.horizon,
            notes: self.notes,
            ..Inspection::default()
        };
        for transaction in self.transactions.into_values() {
            let (owner, holding) = transaction.tell(options);
            match owner.filter(|owner| listed.contains(owner)) {
                Some(owner) => inspection.branches.push(InspectedBranch {
                    owner,
                    holding,
                    horizon: None,
                }),
                None => inspection.untold.push(holding),
            }
        }
        inspection
    }
}

impl Transaction {
    fn tell(self, options: InspectOptions) -> (Option<XidOwner>, Holding) {
        let count = match &self.named {
            Some(named) => named.iter().map(|lock| lock.count).sum(),
            None => self.count,
        };
        let mut named = self.named.unwrap_or(self.waited_for);
        named.sort_by(|a, b| (b.count, &a.object, &a.mode).cmp(&(a.count, &b.object, &b.mode)));
        named.truncate(options.locks_max);
        let blocked = self.blocked.map(|blocked| {
            let count = blocked.len() as u64;
            let mut sessions: Vec<_> = blocked.into_values().collect();
            sessions.sort_by_key(|session| std::cmp::Reverse(session.waiting));
            sessions.truncate(options.sessions_max);
            Blocked { count, sessions }
        });
        let holding = Holding {
            begun: self.begun,
            locks: Some(Locks { count, named }),
            blocked,
        };
        (self.owner, holding)
    }
}
