//! What is said over the control socket: one line of JSON asks, one line of JSON answers, then the
//! connection ends. (A barrier stands as long as its connection: one more line ends it, and is
//! answered.) Each carries the version of the protocol, and has a bounded length.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

pub(super) const VERSION: u32 = 1;

/// The longest request, in bytes: what a person was shown is in it.
pub(super) const REQUEST_BYTES_MAX: u64 = 256 * 1024;

/// The longest answer, in bytes: some hundred thousand branches.
pub(super) const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What to do if tool and application are of different releases.
pub(super) const OTHER_RELEASE: &str = "use the tool of the application's release";

/// Begins the answer to a request that cannot be read.
pub(super) const NOT_UNDERSTOOD: &str = "the request was not understood";

/// Read before anything else of a line: what follows depends on it.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    version: u32,
    pub(super) verb: Verb,
}

/// What is asked. What answers it stands beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verb {
    /// What is in doubt: a [`Listing`](super::Listing).
    List,
    /// Everything about one transaction, by any of its names:
    /// [`TransactionShown`](super::TransactionShown).
    Show(String),
    /// Make a recovery pass, and say what it did: [`Recovered`](super::Recovered).
    Recover,
    /// What it would mean to end branches by hand: [`Resolved`](super::Resolved).
    PlanResolve(super::Resolve),
    /// End them: the same.
    Resolve(super::Resolve),
    /// What ended otherwise, and what people did: [`Heuristics`](super::Heuristics).
    Heuristics,
    /// Which ends of one transaction would be noted as dealt with: the same.
    PlanForget(super::Forget),
    /// Note that they were: the same.
    Forget(super::Forget),
    /// What it would mean to give up a branch that is lost: [`GivenUp`](super::GivenUp).
    PlanGiveUp(super::GiveUp),
    /// Give it up: the same.
    GiveUp(super::GiveUp),
    /// Hold new decisions as long as the connection is open: [`Stood`](super::Stood), and, once
    /// anything more is said, [`BarrierEnded`](super::BarrierEnded).
    Barrier(super::BarrierOptions),
    /// The same at one resource.
    RecoverAt(String),
    /// How many branches passes have ended since the start: a number.
    Ended,
}

impl Verb {
    /// Whether a person does something that is not repeated: its answer matters also when the
    /// application ends.
    pub(super) const fn is_act(&self) -> bool {
        match self {
            Self::Resolve(_) | Self::Forget(_) | Self::GiveUp(_) => true,
            Self::List
            | Self::Show(_)
            | Self::Recover
            | Self::PlanResolve(_)
            | Self::Heuristics
            | Self::PlanForget(_)
            | Self::PlanGiveUp(_)
            | Self::Barrier(_)
            | Self::RecoverAt(_)
            | Self::Ended => false,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer<T> {
    version: u32,
    pub(super) answer: Body<T>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Body<T> {
    Done(T),
    Error(String),
}

impl Request {
    pub(super) const fn new(verb: Verb) -> Self {
        let version = VERSION;
        Self { version, verb }
    }
}

impl<T> Answer<T> {
    pub(super) const fn new(answer: Body<T>) -> Self {
        let version = VERSION;
        Self { version, answer }
    }
}

/// The value as a line. Values of ours always have one.
pub(super) fn to_line(value: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut line = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    line.push(b'\n');
    Ok(line)
}

/// The value in a line of this version.
///
/// # Errors
/// Of another version, or not what was expected: what to do about it.
pub(super) fn from_line<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Result<T, String> {
    let unread = |error: serde_json::Error| format!("it cannot be read: {error}");
    let Versioned { version } = serde_json::from_slice(line).map_err(unread)?;
    if version != VERSION {
        return Err(format!(
            "it speaks version {version} of the control protocol, and this program version \
             {VERSION}: {OTHER_RELEASE}"
        ));
    }
    serde_json::from_slice(line).map_err(unread)
}

/// One line of at most `bytes_max` bytes.
///
/// # Errors
/// It is longer, or the other end has ended before its end.
pub(super) async fn read_line(
    from: impl AsyncRead + Unpin,
    bytes_max: u64,
) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    let mut from = BufReader::new(from.take(bytes_max));
    let read = from.read_until(b'\n', &mut line).await;
    let count = read.map_err(|error| format!("it cannot be read: {error}"))?;
    if line.last() == Some(&b'\n') {
        Ok(line)
    } else if count as u64 >= bytes_max {
        Err(format!("it is longer than {bytes_max} bytes"))
    } else {
        Err("it ended before its end".into())
    }
}
