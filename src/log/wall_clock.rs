//! The time of day, for people to read in records. Nothing is ever decided by it (I5).

use std::time::SystemTime;

use unanimous_core::ports::UnixTime;

pub(crate) fn now() -> UnixTime {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    // A clock that stands before 1970 tells nothing.
    UnixTime(since.map_or(0, |since| since.as_secs()))
}
