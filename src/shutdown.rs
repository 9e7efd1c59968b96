//! How a manager ends: by its shutdown, or with its last handle.
//!
//! Heuristic ends that the log has not taken are offered to it once more (I1): not every server can
//! be asked again.

use std::sync::Arc;
#[cfg(feature = "operator")]
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use unanimous_core::ports::LogError;

use crate::bounded::{Unanswered, bounded};
use crate::manager::{Inner, recover_all};
use crate::observe::Point;

/// What a manager does by itself, until its last handle is dropped.
pub(crate) struct RecoveryTasks {
    pub(crate) inner: Arc<Inner>,
    pub(crate) tasks: Vec<AbortHandle>,
    /// Taken away before the log is closed: whoever opens it next makes a socket of its own.
    #[cfg(feature = "operator")]
    pub(crate) control: Mutex<Option<crate::operator::Control>>,
}

impl RecoveryTasks {
    pub(crate) fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
        #[cfg(feature = "operator")]
        if let Some(control) = self.control().as_mut() {
            control.close();
        }
    }

    #[cfg(feature = "operator")]
    fn control(&self) -> MutexGuard<'_, Option<crate::operator::Control>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no person begins to end branches by hand. Those who have get until then, and are
    /// told what was done.
    async fn hands_off(&self, until: Instant) {
        self.inner.recovery.hands_off(until).await;
        #[cfg(feature = "operator")]
        {
            let control = self.control().take();
            if let Some(control) = control {
                control.answered().await;
            }
        }
    }
}

impl Drop for RecoveryTasks {
    fn drop(&mut self) {
        self.stop();
        let inner = Arc::clone(&self.inner);
        inner.recovery.stop();
        if inner.recovery.is_any_unrecorded() {
            let runtime = inner.runtime.clone();
            // Holds the log as long as it takes to answer, and no longer than its limit.
            runtime.spawn(async move { inner.recovery.record_left(&inner).await });
        }
    }
}

/// Once no transaction runs any more, and the tasks are stopped. People who are ending branches by
/// hand have time until then.
pub(crate) async fn end(tasks: &RecoveryTasks, until: Instant) -> Result<(), LogError> {
    tasks.hands_off(until).await;
    let inner = &tasks.inner;
    inner.probes.reached(|| Point::RecoveryStopped).await;
    recover_all(inner, Some(inner.config.start_timeout)).await;
    inner.probes.reached(|| Point::LastPassDone).await;
    inner.recovery.stop();
    let closed = close_log(inner, inner.config.drain_timeout).await;
    inner.probes.reached(|| Point::LogClosed).await;
    closed.unwrap_or_else(|silence| {
        Err(LogError::new(format!(
            "the decision log did not close: {silence}; nothing is lost, the next start goes on"
        )))
    })
}

/// Closes the log, to which everything is offered before that it has not taken: that may take half
/// of the time.
pub(crate) async fn close_log(
    inner: &Inner,
    mut limit: Duration,
) -> Result<Result<(), LogError>, Unanswered> {
    if inner.recovery.is_any_unrecorded() {
        limit /= 2;
        // What it does not take has been told.
        let _ = bounded(limit, inner.recovery.record_left(inner)).await;
    }
    bounded(limit, inner.log.shutdown()).await
}
