//! What a branch leaves in its session is removed before another branch gets it (I8).

use std::time::Duration;

use tokio_postgres::SimpleQueryStream;

use crate::failure::Failure;
use crate::pool::Lease;
use crate::session::{Session, field};
use crate::{Postgres, sql};

/// How long it may take before the connection is thrown away instead.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Gives the session back to its pool, once it is wiped. `sent` is the wipe that is on its way.
pub(crate) async fn and_keep(lease: Lease, resource: Postgres, sent: Option<SimpleQueryStream>) {
    let wiped = tokio::time::timeout(TIMEOUT, wipe(&lease, &resource, sent)).await;
    match wiped {
        Ok(Ok(())) => lease.keep(),
        Ok(Err(failure)) => {
            tracing::debug!(resource = %resource.settings().name, %failure, "not wiped");
        }
        Err(_) => tracing::debug!(resource = %resource.settings().name, "not wiped in time"),
    }
}

async fn wipe(
    session: &Session,
    resource: &Postgres,
    sent: Option<SimpleQueryStream>,
) -> Result<(), Failure> {
    let settings = resource.settings();
    let sent = match sent {
        Some(sent) => sent,
        None => session.send(&settings.wipe).await?,
    };
    let replies = session.read(sent).await?.all_of(sql::WIPE_STATEMENTS)?;
    if replies.rows.iter().any(|row| field(row, 0) == Some("t")) {
        let prepared = session.run(sql::DEALLOCATE).await?;
        if let Some(deallocate) = prepared.field(0) {
            session.run(deallocate).await?;
        }
    }
    if let Some(setup) = &settings.session_setup {
        session.set_up(setup).await?;
    }
    Ok(())
}
