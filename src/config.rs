//! The manager's limits. Every wait, retry and interval of the runtime has its bound here.

use std::time::Duration;

/// Limits of a manager, with defaults for a service that answers people.
///
/// Durations are wall-clock limits of this process or of a server's session; none of them carries
/// safety: a limit that is too short costs rollbacks, never a split transaction. Limits of more
/// than ten days count as ten days.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// How long a transaction may take from its begin until commit is asked for. 60 s.
    pub deadline: Duration,
    /// How long a statement may wait for a lock, set in every branch's session. 5 s. A deadlock
    /// across two databases is invisible to both of them; this is what ends it.
    pub lock_timeout: Duration,
    /// How long a branch may take to open, connecting included. 10 s.
    pub open_timeout: Duration,
    /// How long a branch may take to prepare, or to commit in one phase. 10 s.
    pub prepare_timeout: Duration,
    /// How long `commit` waits for the decision log before it answers *undetermined*. 10 s.
    pub decide_timeout: Duration,
    /// How long a branch may take to commit or roll back before it is handed to recovery. 10 s.
    pub finish_timeout: Duration,
    /// How long `start` waits for the databases: half of it at most for their checks, the rest for
    /// the first recovery pass. What is not reached by then is recovered in the background. 5 s.
    pub start_timeout: Duration,
    /// How long `shutdown` waits for running transactions, and then for the log. 30 s.
    pub drain_timeout: Duration,
    /// How long a recovery pass waits for one look at a resource, for the end of one branch, or for
    /// the log, before a later pass tries again. 30 s.
    pub recovery_timeout: Duration,
    /// How long between two recovery passes at one resource when there is something to do. 5 s; at
    /// least 10 ms.
    pub recovery_interval: Duration,
    /// How long between two recovery passes when there has been nothing to do for long. 60 s.
    pub recovery_interval_max: Duration,
    /// How many in-doubt branches of one resource are ended at the same time. 8.
    pub recovery_concurrency: usize,
    /// How often `retry` runs the closure at most. 5.
    pub retry_attempts_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(5),
            open_timeout: Duration::from_secs(10),
            prepare_timeout: Duration::from_secs(10),
            decide_timeout: Duration::from_secs(10),
            finish_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            recovery_timeout: Duration::from_secs(30),
            recovery_interval: Duration::from_secs(5),
            recovery_interval_max: Duration::from_secs(60),
            recovery_concurrency: 8,
            retry_attempts_max: 5,
        }
    }
}

impl Config {
    /// Ten days: time can still be added to a clock then, and servers take it in milliseconds.
    pub(crate) const LIMIT_MAX: Duration = Duration::from_secs(10 * 24 * 60 * 60);
    /// Without it, an interval of nothing would be a storm of scans.
    const INTERVAL_MIN: Duration = Duration::from_millis(10);

    /// With every limit where the runtime can reckon with it.
    pub(crate) fn within_reach(mut self) -> Self {
        for limit in [
            &mut self.deadline,
            &mut self.lock_timeout,
            &mut self.open_timeout,
            &mut self.prepare_timeout,
            &mut self.decide_timeout,
            &mut self.finish_timeout,
            &mut self.start_timeout,
            &mut self.drain_timeout,
            &mut self.recovery_timeout,
            &mut self.recovery_interval,
            &mut self.recovery_interval_max,
        ] {
            *limit = (*limit).min(Self::LIMIT_MAX);
        }
        self.recovery_interval = self.recovery_interval.max(Self::INTERVAL_MIN);
        self.recovery_interval_max = self.recovery_interval_max.max(self.recovery_interval);
        self
    }
}
