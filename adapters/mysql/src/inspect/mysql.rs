//! MySQL's views, in `performance_schema` (manual, "The data_locks Table", "The data_lock_waits
//! Table", "The metadata_locks Table", "Performance Schema Transaction Tables"; observed on 9.7.4).
//!
//! A lock keeps thread and event of the session that has taken it, also after that session is gone.
//! The lock on a row that was inserted is written down only when somebody else wants the row, and
//! by that one's thread (observed); so only locks on tables tell whose transaction it is.
//! So do the metadata locks of a prepared branch, by which a change of the table itself waits.

use std::collections::HashMap;
use std::time::Duration;

use mysql_async::{Error, Row};
use unanimous_core::ports::{BlockedSession, HeldLock, Horizon, InspectOptions, XidOwner};

use super::{Picture, WAITERS_MAX, Wait, ask};
use crate::session::{Session, bytes, number, text};
use crate::xid::{ListedXid, from_converted, owner};

const READS: &str = "SELECT ON performance_schema.*";

/// Above this many locks they are counted, but not looked at one by one.
const LOCKS_MAX: u64 = 500_000;

/// Where a transaction has taken its locks on tables.
#[derive(Default)]
struct Places {
    /// By thread: the transactions whose locks it has taken.
    threads: HashMap<u64, Vec<u64>>,
    /// By transaction: the first event.
    begins: HashMap<u64, u64>,
    /// By transaction: its locks.
    held: HashMap<u64, Vec<HeldLock>>,
}

pub(super) async fn look(
    session: &mut Session,
    options: InspectOptions,
    picture: &mut Picture,
) -> Result<(), Error> {
    horizon(session, picture).await?;
    if picture.transactions.values().map(|t| t.count).sum::<u64>() > LOCKS_MAX {
        picture.note(format!(
            "more than {LOCKS_MAX} locks are held: they are only counted"
        ));
        return Ok(());
    }
    let Some(mut places) = locks(session, picture).await? else {
        return Ok(());
    };
    names(session, &mut places, picture).await?;
    let mut waits = row_waits(session, options.statement_chars_max, picture).await?;
    waits.extend(table_waits(session, options.statement_chars_max, &places, picture).await?);
    picture.take_waits(&waits);
    Ok(())
}

async fn horizon(session: &mut Session, picture: &mut Picture) -> Result<(), Error> {
    let sql = "SELECT `COUNT` FROM information_schema.INNODB_METRICS \
        WHERE NAME = 'trx_rseg_history_len'";
    let rows = ask(session, sql, "PROCESS ON *.*", picture).await?;
    let count = rows.iter().flatten().next().and_then(|row| number(row, 0));
    picture.horizon = count.map(history);
    Ok(())
}

/// On MariaDB a prepared branch that has read holds it back until it is ended (observed on
/// 10.11.19: all of 1,332 changes beside one waited for it); on MySQL it does not (9.7.4).
pub(super) fn history(count: u64) -> Horizon {
    Horizon {
        subject: "changes that wait to be purged (history list length)".to_owned(),
        count,
        limit: None,
        is_oldest: false,
    }
}

/// The locks of the transactions without a connection. `None` if they may not be seen.
async fn locks(session: &mut Session, picture: &mut Picture) -> Result<Option<Places>, Error> {
    let sql = "SELECT ENGINE_TRANSACTION_ID, CONCAT_WS('.', OBJECT_SCHEMA, OBJECT_NAME), \
        CONCAT(LOCK_TYPE, ' ', LOCK_MODE), COUNT(*), MIN(THREAD_ID), MIN(EVENT_ID) \
        FROM performance_schema.data_locks WHERE LOCK_STATUS = 'GRANTED' GROUP BY 1, 2, 3";
    let Some(rows) = ask(session, sql, READS, picture).await? else {
        return Ok(None);
    };
    let mut places = Places::default();
    for row in &rows {
        let Some(id) = number(row, 0) else { continue };
        let lock = HeldLock {
            object: text(row, 1).unwrap_or_default(),
            mode: text(row, 2).unwrap_or_default(),
            count: number(row, 3).unwrap_or(1),
        };
        if let (true, Some(thread), Some(event)) = (
            lock.mode.starts_with("TABLE "),
            number(row, 4),
            number(row, 5),
        ) {
            places.see(id, thread, event);
        }
        places.held.entry(id).or_default().push(lock);
    }
    Ok(Some(places))
}

impl Places {
    fn see(&mut self, id: u64, thread: u64, event: u64) {
        let begin = self.begins.entry(id).or_insert(event);
        *begin = event.min(*begin);
        let taken = self.threads.entry(thread).or_default();
        if !taken.contains(&id) {
            taken.push(id);
        }
    }
}

/// The XIDs of branches whose connections have done nothing since they prepared.
async fn names(
    session: &mut Session,
    places: &mut Places,
    picture: &mut Picture,
) -> Result<(), Error> {
    let sql = "SELECT THREAD_ID, EVENT_ID, XID_FORMAT_ID, XID_GTRID, XID_BQUAL \
        FROM performance_schema.events_transactions_current \
        WHERE XA_STATE = 'PREPARED' AND XID_GTRID IS NOT NULL AND EVENT_ID > 0";
    let rows = ask(session, sql, READS, picture).await?;
    for row in rows.iter().flatten() {
        let (Some(thread), Some(event), Some(owner)) = (number(row, 0), number(row, 1), xid(row))
        else {
            continue;
        };
        let since = |id: &&u64| places.begins.get(id).is_some_and(|begin| *begin >= event);
        let taken = places.threads.get(&thread).into_iter().flatten();
        let mut candidates = taken.filter(since);
        if let (Some(id), None) = (candidates.next(), candidates.next()) {
            // Also one that InnoDB's older picture does not have yet.
            picture.transactions.entry(*id).or_default().owner = Some(owner);
        }
    }
    for (id, transaction) in &mut picture.transactions {
        transaction.named = Some(places.held.remove(id).unwrap_or_default());
    }
    Ok(())
}

/// Text where it can be printed, else `0x` and digits: as `XA RECOVER CONVERT XID`.
fn xid(row: &Row) -> Option<XidOwner> {
    let part = |column| {
        let printed = bytes(row, column)?;
        Some(from_converted(printed).unwrap_or_else(|| printed.to_vec()))
    };
    let (gtrid, bqual) = (part(3)?, part(4)?);
    Some(owner(&ListedXid {
        format_id: number(row, 2)?,
        gtrid_len: i64::try_from(gtrid.len()).ok()?,
        bqual_len: i64::try_from(bqual.len()).ok()?,
        data: [gtrid, bqual].concat(),
    }))
}

/// The waiting session's columns of `t`, from the given one on: see [`waiting`].
fn who(statement_chars_max: usize) -> String {
    let statement = if statement_chars_max == 0 {
        "NULL".to_owned()
    } else {
        format!("LEFT(t.PROCESSLIST_INFO, {statement_chars_max})")
    };
    format!("t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_TIME, {statement}")
}

fn waiting(row: &Row, is_behind: bool) -> Option<BlockedSession> {
    Some(BlockedSession {
        session: number(row, 2)?,
        user: text(row, 3),
        waiting: number(row, 4).map(Duration::from_secs),
        is_behind,
        statement: text(row, 5),
    })
}

async fn row_waits(
    session: &mut Session,
    statement_chars_max: usize,
    picture: &mut Picture,
) -> Result<Vec<Wait>, Error> {
    let sql = format!(
        "SELECT w.BLOCKING_ENGINE_TRANSACTION_ID, w.REQUESTING_ENGINE_TRANSACTION_ID, {} \
         FROM performance_schema.data_lock_waits w \
         JOIN performance_schema.threads t ON t.THREAD_ID = w.REQUESTING_THREAD_ID \
         LIMIT {WAITERS_MAX}",
        who(statement_chars_max)
    );
    let rows = ask(session, &sql, READS, picture).await?;
    let waits = rows.iter().flatten().filter_map(|row| {
        Some(Wait {
            session: waiting(row, false)?,
            own: number(row, 1),
            holder: number(row, 0)?,
        })
    });
    Ok(waits.collect())
}

/// Those who change a table wait for its metadata lock, and everybody else behind them.
async fn table_waits(
    session: &mut Session,
    statement_chars_max: usize,
    places: &Places,
    picture: &mut Picture,
) -> Result<Vec<Wait>, Error> {
    let sql = format!(
        "SELECT g.OWNER_THREAD_ID, p.LOCK_TYPE, {} \
         FROM performance_schema.metadata_locks p \
         JOIN performance_schema.metadata_locks g \
         ON g.OBJECT_TYPE = p.OBJECT_TYPE AND g.OBJECT_SCHEMA = p.OBJECT_SCHEMA \
         AND g.OBJECT_NAME = p.OBJECT_NAME AND g.LOCK_STATUS = 'GRANTED' \
         AND g.LOCK_DURATION = 'TRANSACTION' AND g.OWNER_THREAD_ID <> p.OWNER_THREAD_ID \
         JOIN performance_schema.threads t ON t.THREAD_ID = p.OWNER_THREAD_ID \
         WHERE p.LOCK_STATUS = 'PENDING' AND p.OBJECT_TYPE = 'TABLE' LIMIT {WAITERS_MAX}",
        who(statement_chars_max)
    );
    let rows = ask(session, &sql, READS, picture).await?;
    let mut waits = Vec::new();
    for row in rows.iter().flatten() {
        // Readers and writers of rows do not wait for a branch, but behind who does.
        let is_behind = matches!(
            text(row, 1).as_deref(),
            Some("SHARED" | "SHARED_HIGH_PRIO" | "SHARED_READ" | "SHARED_WRITE")
        );
        let taken = number(row, 0).and_then(|thread: u64| places.threads.get(&thread));
        for id in taken.into_iter().flatten() {
            waits.extend(waiting(row, is_behind).map(|session| Wait {
                session,
                own: None,
                holder: *id,
            }));
        }
    }
    Ok(waits)
}
