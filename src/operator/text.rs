//! The words of the config file, as the parser reads them: keys, types and ranges.
//!
//! Whatever is out of range is refused by the parser, which knows the line. Invariant I8: no error
//! of this module holds a value of the file, for it may be a password in the wrong place. The
//! parser's own text quotes values; so only the part that says what was expected is used.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileText {
    pub(super) log: Spanned<LogText>,
    #[serde(default)]
    pub(super) limits: LimitsText,
    #[serde(default)]
    pub(super) resources: BTreeMap<Spanned<String>, ResourceText>,
}

/// Where the log is (one of the first four), and how it behaves there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogText {
    pub(super) folder: Option<PathBuf>,
    pub(super) resource: Option<String>,
    pub(super) postgres: Option<ResourceText>,
    pub(super) mysql: Option<ResourceText>,
    pub(super) segment_bytes: Option<Number<65_536, 1_073_741_824>>,
    pub(super) retain_completed: Option<Number<0, 10_000_000>>,
    pub(super) create: Option<bool>,
    pub(super) last_resource: Option<bool>,
    pub(super) lossless_failover: Option<bool>,
    pub(super) suspect_after: Option<Limit<100>>,
    pub(super) label: Option<String>,
}

/// The manager's limits: the names are those of [`crate::Config`].
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsText {
    pub(super) deadline: Option<Limit>,
    pub(super) lock_timeout: Option<Limit>,
    pub(super) open_timeout: Option<Limit>,
    pub(super) prepare_timeout: Option<Limit>,
    pub(super) decide_timeout: Option<Limit>,
    pub(super) finish_timeout: Option<Limit>,
    pub(super) start_timeout: Option<Limit>,
    pub(super) drain_timeout: Option<Limit>,
    pub(super) recovery_timeout: Option<Limit>,
    pub(super) recovery_interval: Option<Limit<10>>,
    pub(super) recovery_interval_max: Option<Limit<10>>,
    pub(super) recovery_concurrency: Option<Count>,
    pub(super) retry_attempts_max: Option<Number<1, 1_000>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResourceText {
    pub(super) url: Option<String>,
    pub(super) url_env: Option<String>,
    pub(super) password_env: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) password_command: Option<Vec<String>>,
    pub(super) recovery_url: Option<String>,
    pub(super) recovery_url_env: Option<String>,
    pub(super) recovery_password_env: Option<String>,
    pub(super) recovery_password_file: Option<PathBuf>,
    pub(super) recovery_password_command: Option<Vec<String>>,
    pub(super) pool_size: Option<Count>,
    pub(super) pool_timeout: Option<Limit>,
    pub(super) connect_timeout: Option<Limit>,
    pub(super) isolation: Option<IsolationText>,
    pub(super) session_setup: Option<String>,
    pub(super) recovery_sessions: Option<Count>,
    pub(super) vanished_after: Option<Limit<4_000>>,
    pub(super) application_name: Option<String>,
}

/// How many of something there may be at a time.
pub(super) type Count = Number<1, 100_000>;

/// The isolation levels that every database has.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum IsolationText {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// A whole number in a range.
#[derive(Clone, Copy)]
pub(super) struct Number<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Number<MIN, MAX> {
    pub(super) const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> From<Number<MIN, MAX>> for usize {
    fn from(number: Number<MIN, MAX>) -> Self {
        // No system that has sockets and files has less than 32 bits.
        Self::try_from(number.0).unwrap_or(Self::MAX)
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Number<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NumberVisitor::<MIN, MAX>)
    }
}

struct NumberVisitor<const MIN: u32, const MAX: u32>;

impl<const MIN: u32, const MAX: u32> de::Visitor<'_> for NumberVisitor<MIN, MAX> {
    type Value = Number<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        match u32::try_from(value) {
            Ok(value) if (MIN..=MAX).contains(&value) => Ok(Number(value)),
            Ok(_) | Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
        }
    }
}

/// A duration of at least `MIN` milliseconds, written as `5s`, `1m 30s` or `250ms`. At most ten
/// days, as all limits of the runtime.
#[derive(Clone, Copy)]
pub(super) struct Limit<const MIN: u64 = 1>(Duration);

impl<const MIN: u64> Limit<MIN> {
    pub(super) const fn get(self) -> Duration {
        self.0
    }
}

impl<'de, const MIN: u64> Deserialize<'de> for Limit<MIN> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(LimitVisitor::<MIN>)
    }
}

struct LimitVisitor<const MIN: u64>;

impl<const MIN: u64> de::Visitor<'_> for LimitVisitor<MIN> {
    type Value = Limit<MIN>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = humantime::format_duration(Duration::from_millis(MIN));
        write!(
            f,
            "a text such as \"5s\", \"1m 30s\" or \"250ms\", at least {least} and at most 10 days"
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let least = Duration::from_millis(MIN);
        match humantime::parse_duration(text) {
            Ok(limit) if (least..=crate::Config::LIMIT_MAX).contains(&limit) => Ok(Limit(limit)),
            Ok(_) | Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

/// Reads the file's text.
///
/// # Errors
/// `, line N` (or nothing, if that is not known), and what is wrong there.
pub(super) fn parse(text: &str) -> Result<FileText, (String, String)> {
    toml::from_str(text).map_err(|error| {
        let place = error.span();
        let place = place.map_or_else(String::new, |span| line(text, span.start));
        (place, without_values(error.message()))
    })
}

/// `, line N` for a place in the text.
pub(super) fn line(text: &str, offset: usize) -> String {
    let before = text.as_bytes().iter().take(offset);
    let number = before.filter(|byte| **byte == b'\n').count() + 1;
    format!(", line {number}")
}

/// The parser's message without the values that it quotes.
fn without_values(message: &str) -> String {
    let message = message.replace('\n', " ");
    let of_value = ["invalid type: ", "invalid value: ", "unknown variant "];
    if of_value.iter().any(|begin| message.starts_with(begin))
        && let Some((_, expected)) = message.rsplit_once(", expected ")
    {
        return format!("this value cannot be used here: write {expected}");
    }
    match (message.find('"'), message.rfind('"')) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}…{}", &message[..begin], &message[end + 1..])
        }
        _ => message,
    }
}
