//! Calls of the ports, bounded: no database and no adapter makes the runtime wait for ever (I6).
//!
//! A call that outlives its limit is dropped, and a panic inside an adapter is caught: both are *no
//! answer*, which proves nothing (I3). Passes, drivers and shutdown go on.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Why there is no answer. It may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The limit passed.
    Late(Duration),
    /// The adapter panicked. (The panic's own message went to the panic hook.)
    Panicked,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(limit) => write!(f, "no answer within {limit:?}"),
            Self::Panicked => f.write_str("the adapter panicked, which is a bug of it"),
        }
    }
}

/// The call's answer, if it comes within the limit.
pub(crate) async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = T>,
) -> Result<T, Unanswered> {
    // Unwind safe: whatever a call had borrowed is dropped by whoever hears that it panicked.
    match timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_panic)) => Err(Unanswered::Panicked),
        Err(_elapsed) => Err(Unanswered::Late(limit)),
    }
}

/// The same for a caller that may run anywhere: the time is counted by `runtime`, and that it was
/// shut down is a panic.
pub(crate) async fn bounded_on<T>(
    runtime: &Handle,
    limit: Duration,
    call: impl Future<Output = T>,
) -> Result<T, Unanswered> {
    let bounded = {
        let _entered = runtime.enter();
        timeout(limit, call)
    };
    match AssertUnwindSafe(bounded).catch_unwind().await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_elapsed)) => Err(Unanswered::Late(limit)),
        Err(_panic) => Err(Unanswered::Panicked),
    }
}
