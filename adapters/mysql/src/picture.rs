//! InnoDB's list of transactions, as it is now.
//!
//! Both servers answer the same picture again until nobody has asked for a tenth of a second. A new
//! one shows the question itself, which is asked from within a transaction and marked.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::{Error, Row};

use crate::session::{Session, text};

/// How long InnoDB has to be left alone until its picture is a new one.
const KEPT: Duration = Duration::from_millis(110);
/// How often to look: others may ask all the time.
pub(crate) const LOOKS_MAX: u32 = 20;

/// How long to leave it alone before the next look. Not always the same, or two who look at the
/// same time would keep each other's picture old.
pub(crate) fn pause() -> Duration {
    let random = RandomState::new().hash_one(0) % 1000;
    let more = u32::try_from(random).unwrap_or_default();
    KEPT + KEPT * 2 * more / 1000
}

/// One look at these columns of `INNODB_TRX`. `None` if the picture is an old one.
pub(crate) async fn look(session: &mut Session, columns: &str) -> Result<Option<Vec<Row>>, Error> {
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
            "/* {mark} */ SELECT INSTR(COALESCE(trx_query, ''), '{mark}') > 0, {columns} \
             FROM information_schema.INNODB_TRX"
        ))
        .await;
    let ended = session.run("COMMIT").await;
    let rows = seen?;
    ended?;
    let is_new = rows.iter().any(|row| text(row, 0).as_deref() == Some("1"));
    Ok(is_new.then_some(rows))
}
