//! Running a transaction again after a conflict, or when a server was full for a moment.

use std::error::Error;
use std::time::Duration;

use unanimous_core::ports::{BranchError, BranchErrorKind, Cause};

use crate::error::{CommitError, EnlistError, RollbackCause};
use crate::manager::TransactionManager;
use crate::outcome::TransactionOutcome;
use crate::transaction::Transaction;

/// Whatever the closure of [`TransactionManager::retry`] fails with.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

impl TransactionManager {
    /// Runs `work` with a new transaction, again and again while it is rolled back by a conflict
    /// (serialization failure, deadlock), or because a server had no room to prepare it (all slots
    /// for prepared transactions in use), this member's epoch was closed, or a branch lacked the
    /// rights of a last resource (it prepares from then on); at most `retry_attempts_max` times,
    /// with growing pauses.
    ///
    /// It tries again only if *this transaction itself* is known to be rolled back, and such a
    /// reason is found among the error and its sources. What is undetermined is never tried again.
    ///
    /// # Errors
    /// The closure's last error.
    pub async fn retry<T, E, F, W>(&self, mut work: W) -> Result<T, BoxError>
    where
        W: FnMut(Transaction) -> F,
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
    {
        let mut pause = PAUSE_MIN;
        let mut attempts_left = self.config().retry_attempts_max.max(1);
        loop {
            let transaction = self.begin();
            let gtrid = transaction.gtrid();
            let error = match work(transaction).await {
                Ok(value) => return Ok(value),
                Err(error) => error.into(),
            };
            attempts_left -= 1;
            if attempts_left == 0 || !self.may_pass(&*error) {
                return Err(error);
            }
            // The transaction was dropped by the closure, at the latest: wait for its end.
            self.ended(gtrid).await;
            if !matches!(
                self.outcome(gtrid).await,
                Ok(TransactionOutcome::RolledBack)
            ) {
                return Err(error);
            }
            tokio::time::sleep(jittered(pause, self.luck())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// May a new transaction succeed a moment later, without anybody's doing?
    fn may_pass(&self, error: &(dyn Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(CommitError::RolledBack { cause, .. }) = error.downcast_ref() {
                return cause.may_pass();
            }
            if let Some(cause) = error.downcast_ref::<RollbackCause>() {
                return cause.may_pass();
            }
            // It shows through to the source of its branch error, which is thus not among the
            // sources.
            if let Some(EnlistError::Branch(error)) = error.downcast_ref() {
                return error.kind() == BranchErrorKind::RolledBack(Cause::Conflict);
            }
            if let Some(error) = error.downcast_ref::<BranchError>() {
                return error.kind() == BranchErrorKind::RolledBack(Cause::Conflict);
            }
            if self.cause_of(error) == Some(Cause::Conflict) {
                return true;
            }
            next = error.source();
        }
        false
    }
}

/// Between half of the pause and the whole of it.
fn jittered(pause: Duration, luck: u32) -> Duration {
    pause.mul_f64(0.5 + 0.5 * f64::from(luck) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_cut_to_a_half_at_most() {
        let pause = Duration::from_secs(4);
        assert_eq!(jittered(pause, 0), Duration::from_secs(2));
        assert_eq!(jittered(pause, u32::MAX), pause);
    }
}
