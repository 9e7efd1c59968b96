//! The limits of the config file, and their way into the manager's [`Config`].

use std::fmt;

use super::text::{Limit, LimitsText, Number};
use crate::Config;

/// What the file says of the manager's limits; the rest keeps its default.
#[derive(Clone)]
pub(super) struct Limits(LimitsText);

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut config = Config::default();
        self.apply(&mut config);
        config.fmt(f)
    }
}

impl Limits {
    pub(super) const fn new(text: LimitsText) -> Self {
        Self(text)
    }

    pub(super) fn apply(&self, config: &mut Config) {
        let LimitsText {
            deadline,
            lock_timeout,
            open_timeout,
            prepare_timeout,
            decide_timeout,
            finish_timeout,
            start_timeout,
            drain_timeout,
            recovery_timeout,
            recovery_interval,
            recovery_interval_max,
            recovery_concurrency,
            retry_attempts_max,
        } = self.0;
        for (limit, given) in [
            (&mut config.deadline, deadline),
            (&mut config.lock_timeout, lock_timeout),
            (&mut config.open_timeout, open_timeout),
            (&mut config.prepare_timeout, prepare_timeout),
            (&mut config.decide_timeout, decide_timeout),
            (&mut config.finish_timeout, finish_timeout),
            (&mut config.start_timeout, start_timeout),
            (&mut config.drain_timeout, drain_timeout),
            (&mut config.recovery_timeout, recovery_timeout),
        ] {
            *limit = given.map_or(*limit, Limit::get);
        }
        for (limit, given) in [
            (&mut config.recovery_interval, recovery_interval),
            (&mut config.recovery_interval_max, recovery_interval_max),
        ] {
            *limit = given.map_or(*limit, Limit::get);
        }
        if let Some(count) = recovery_concurrency {
            config.recovery_concurrency = count.into();
        }
        config.retry_attempts_max =
            retry_attempts_max.map_or(config.retry_attempts_max, Number::get);
    }
}
