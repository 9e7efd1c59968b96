//! MariaDB's views, in `information_schema` (manual, "Information Schema INNODB_LOCK_WAITS Table",
//! "… INNODB_LOCKS Table"; observed on 10.11.19).
//!
//! `INNODB_LOCKS` has only locks that somebody waits for. Who holds a table's metadata lock is told
//! only by a plugin that is not loaded as a rule, so those who wait for one are only noted.

use std::time::Duration;

use mysql_async::Error;
use unanimous_core::ports::{BlockedSession, HeldLock, InspectOptions};

use super::mysql::history;
use super::{Picture, WAITERS_MAX, Wait, ask, seconds_since};
use crate::session::{Session, number, text};

const READS: &str = "PROCESS ON *.*";

/// How many connections a note names.
const NAMED_MAX: usize = 10;

pub(super) async fn look(
    session: &mut Session,
    options: InspectOptions,
    picture: &mut Picture,
) -> Result<(), Error> {
    let sql = "SHOW GLOBAL STATUS LIKE 'Innodb_history_list_length'";
    let rows = session.rows(sql).await?;
    picture.horizon = rows.first().and_then(|row| number(row, 1)).map(history);
    locks(session, picture).await?;
    if let Some(waits) = row_waits(session, options.statement_chars_max, picture).await? {
        picture.take_waits(&waits);
    }
    table_waits(session, picture).await
}

/// Those that somebody waits for; InnoDB's own count stays the number of all.
async fn locks(session: &mut Session, picture: &mut Picture) -> Result<(), Error> {
    let sql = "SELECT lock_trx_id, lock_table, CONCAT(lock_type, ' ', lock_mode), COUNT(*) \
        FROM information_schema.INNODB_LOCKS GROUP BY 1, 2, 3";
    let rows = ask(session, sql, READS, picture).await?;
    for row in rows.iter().flatten() {
        let held = number(row, 0).and_then(|id: u64| picture.transactions.get_mut(&id));
        if let Some(transaction) = held {
            transaction.waited_for.push(HeldLock {
                object: text(row, 1).unwrap_or_default(),
                mode: text(row, 2).unwrap_or_default(),
                count: number(row, 3).unwrap_or(1),
            });
        }
    }
    Ok(())
}

async fn row_waits(
    session: &mut Session,
    statement_chars_max: usize,
    picture: &mut Picture,
) -> Result<Option<Vec<Wait>>, Error> {
    let statement = if statement_chars_max == 0 {
        "NULL".to_owned()
    } else {
        format!("LEFT(r.trx_query, {statement_chars_max})")
    };
    let sql = format!(
        "SELECT w.blocking_trx_id, w.requesting_trx_id, r.trx_mysql_thread_id, p.USER, {}, \
         {statement} FROM information_schema.INNODB_LOCK_WAITS w \
         JOIN information_schema.INNODB_TRX r ON r.trx_id = w.requesting_trx_id \
         LEFT JOIN information_schema.PROCESSLIST p ON p.ID = r.trx_mysql_thread_id \
         LIMIT {WAITERS_MAX}",
        seconds_since("r.trx_wait_started")
    );
    let Some(rows) = ask(session, &sql, READS, picture).await? else {
        return Ok(None);
    };
    let waits = rows.iter().filter_map(|row| {
        let session = BlockedSession {
            session: number(row, 2)?,
            user: text(row, 3),
            waiting: number(row, 4).map(Duration::from_secs),
            is_behind: false,
            statement: text(row, 5),
        };
        Some(Wait {
            session,
            own: number(row, 1),
            holder: number(row, 0)?,
        })
    });
    Ok(Some(waits.collect()))
}

async fn table_waits(session: &mut Session, picture: &mut Picture) -> Result<(), Error> {
    let sql = "SELECT ID FROM information_schema.PROCESSLIST \
        WHERE STATE = 'Waiting for table metadata lock' ORDER BY TIME DESC";
    let rows = session.rows(sql).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let ids = rows.iter().take(NAMED_MAX).filter_map(|row| text(row, 0));
    let ids: Vec<String> = ids.collect();
    let (count, ids) = (rows.len(), ids.join(", "));
    picture.note(format!(
        "{count} sessions wait for a table's metadata lock (connections {ids}); MariaDB does not \
         tell who holds it, but a prepared branch holds that of every table it has used"
    ));
    Ok(())
}
