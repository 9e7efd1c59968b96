//! A barrier: for a while nothing new is decided, and everything that was decided before is
//! committed in every database. Backups and snapshots whose moment lies within it agree
//! (docs/backup.md).
//!
//! * In the application that holds a file log: the gate before its decisions is shut as long as the
//!   connection of the tool is open, and no longer than the limit.
//! * Without an application: the tool holds the log, and nobody decides.
//! * On a table log: row locks hold the decisions of every member ([`super::barrier_shared`]).
//!
//! Whatever ends a barrier, be it a death or a limit, lets decisions go on, and makes its
//! [`end`](Barrier::end) an error: then what was backed up is not trusted.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::info;
use unanimous_core::ports::DecisionRecord;

use super::barrier_shared::HeldTable;
use super::client::Lease;
use super::error::OperatorError;
use super::shared::failed;
use super::wire::{Answer, Body, REQUEST_BYTES_MAX, read_line, to_line};
use crate::bounded::bounded;
use crate::gate::Shut;
use crate::manager::{Inner, recover_all};
use crate::recovery::RecoveryReport;

/// How long to wait until recovery is asked again to end what was decided.
const PAUSE: Duration = Duration::from_millis(100);

/// What barrier is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BarrierOptions {
    /// How long decisions are held at most, from the moment in which the first one may be; one hour
    /// at most. 60 s.
    pub limit: Duration,
    /// How much of that may pass until everything that was decided before is committed. 10 s.
    pub within: Duration,
    /// Let it stand although something that was decided could not be committed yet.
    pub allow_unfinished: bool,
}

impl Default for BarrierOptions {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(60),
            within: Duration::from_secs(10),
            allow_unfinished: false,
        }
    }
}

impl BarrierOptions {
    /// No barrier holds decisions for longer than that.
    pub const LIMIT_MAX: Duration = Duration::from_secs(60 * 60);

    /// From now on.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.limit.min(Self::LIMIT_MAX)
    }

    pub(super) fn stands_by(&self) -> Instant {
        Instant::now() + self.within.min(self.limit).min(Self::LIMIT_MAX)
    }
}

/// A barrier that stands: how it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stood {
    /// The process id of the application whose decisions are held; `null` if there is none, or the
    /// log is shared.
    pub application: Option<u32>,
    /// The decisions of every member of a shared log are held.
    pub shared: bool,
    /// How long decisions have been held until it stood, in milliseconds.
    pub took_ms: u64,
    /// How many transactions that had been decided, or were being decided, it waited for.
    pub waited_for: usize,
    /// What was decided and is not committed everywhere: empty unless that was allowed.
    pub unfinished: Vec<UnfinishedDecision>,
}

/// A transaction that was decided, and is not known to be committed in all its databases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnfinishedDecision {
    /// The transaction.
    pub gtrid: String,
    /// Where its branches are.
    pub resources: Vec<String>,
}

impl UnfinishedDecision {
    pub(super) fn new(decision: &DecisionRecord) -> Self {
        let resources = decision.branches.iter().map(|b| b.resource.to_string());
        Self {
            gtrid: decision.gtrid.to_string(),
            resources: resources.collect(),
        }
    }
}

/// How long a barrier has held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BarrierEnded {
    /// From when it stood until it was ended, in milliseconds.
    pub held_ms: u64,
}

/// A barrier that stands. Dropping it ends it, too, but tells nobody whether it has held.
#[derive(Debug)]
pub struct Barrier {
    stood: Stood,
    since: Instant,
    until: Instant,
    grip: Grip,
}

#[derive(Debug)]
pub(super) enum Grip {
    Application(Lease),
    Alone { _shut: Shut },
    Shared(HeldTable),
}

impl Barrier {
    pub(super) fn new(stood: Stood, until: Instant, grip: Grip) -> Self {
        Self {
            stood,
            since: Instant::now(),
            until,
            grip,
        }
    }

    /// How it came to stand.
    pub const fn stood(&self) -> &Stood {
        &self.stood
    }

    /// Resolves when the barrier has ended without being asked to: says why. Dropping the future
    /// changes nothing.
    pub async fn fallen(&mut self) -> OperatorError {
        let limit = sleep_until(self.until);
        match &mut self.grip {
            Grip::Application(lease) => lease.fallen().await,
            Grip::Alone { .. } => {
                limit.await;
                failed(OVER)
            }
            Grip::Shared(held) => held.fallen().await,
        }
    }

    /// Lets decisions go on. `Ok`: it has held until now.
    ///
    /// # Errors
    /// It had ended before, or nobody knows: what was backed up meanwhile may not agree.
    pub async fn end(self) -> Result<BarrierEnded, OperatorError> {
        match self.grip {
            Grip::Application(lease) => return lease.end().await,
            Grip::Alone { .. } if Instant::now() >= self.until => return Err(failed(OVER)),
            Grip::Alone { .. } => {}
            Grip::Shared(held) => held.end().await?,
        }
        Ok(BarrierEnded {
            held_ms: millis(self.since),
        })
    }
}

pub(super) const OVER: &str =
    "the barrier's limit has passed, and decisions go on: what was backed up may not agree";

pub(super) fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Shuts the gate, and waits until everything that was decided is committed. Dropped, or failed,
/// it has opened again.
///
/// # Errors
/// Something cannot be finished in time: which, and why.
pub(super) async fn stand(
    inner: &Arc<Inner>,
    wanted: &BarrierOptions,
) -> Result<(Shut, Stood), String> {
    let (begun, by) = (Instant::now(), wanted.stands_by());
    let passed = inner.gate.passed();
    let shut = timeout_at(by, inner.gate.shut()).await;
    let shut = shut.ok().flatten().ok_or_else(|| {
        format!(
            "some of the {passed} transactions that were being decided had not ended in time, or \
             another barrier stands; see unanimous list, and give it more time by --within"
        )
    })?;
    // What was sent to the log by a commit that died of a panic is there then, too.
    force(inner).await?;
    let handed_over = pending(inner).await?;
    let waited_for = passed + handed_over.len();
    let unfinished = finish(inner, handed_over, by).await?;
    if let (Some((_, why)), false) = (&unfinished, wanted.allow_unfinished) {
        return Err(why.clone());
    }
    force(inner).await?;
    let stood = Stood {
        application: None,
        shared: false,
        took_ms: millis(begun),
        waited_for,
        unfinished: unfinished.map(|(rest, _)| rest).unwrap_or_default(),
    };
    Ok((shut, stood))
}

async fn force(inner: &Inner) -> Result<(), String> {
    match bounded(inner.config.recovery_timeout, inner.log.force()).await {
        Ok(forced) => forced.map_err(|error| error.to_string()),
        Err(silence) => Err(format!("the decision log: {silence}")),
    }
}

async fn pending(inner: &Inner) -> Result<Vec<DecisionRecord>, String> {
    match bounded(inner.config.recovery_timeout, inner.log.pending()).await {
        Ok(pending) => pending.map_err(|error| error.to_string()),
        Err(silence) => Err(format!("the decision log: {silence}")),
    }
}

/// Lets recovery commit what was decided. Answers what is left then, and in words why.
async fn finish(
    inner: &Arc<Inner>,
    mut left: Vec<DecisionRecord>,
    by: Instant,
) -> Result<Option<(Vec<UnfinishedDecision>, String)>, String> {
    let mut report = RecoveryReport::default();
    while !left.is_empty() {
        let rest = by.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            let unfinished: Vec<_> = left.iter().map(UnfinishedDecision::new).collect();
            let why = format!("{}; {report}", unfinished_text(&unfinished));
            return Ok(Some((unfinished, why)));
        }
        report = recover_all(inner, Some(rest)).await;
        left = pending(inner).await?;
        if !left.is_empty() {
            sleep(PAUSE.min(rest)).await;
        }
    }
    Ok(None)
}

/// How many of them are named.
const NAMED_MAX: usize = 5;

pub(super) fn unfinished_text(unfinished: &[UnfinishedDecision]) -> String {
    let named = unfinished.iter().take(NAMED_MAX);
    let named: Vec<_> = named
        .map(|it| format!("{} ({})", it.gtrid, it.resources.join(", ")))
        .collect();
    let more = if unfinished.len() > NAMED_MAX {
        ", …"
    } else {
        ""
    };
    format!(
        "{} decided transactions are not committed in all their databases yet: {}{more}",
        unfinished.len(),
        named.join(", ")
    )
}

/// The application's end: the barrier stands as long as the tool's connection does, and no longer
/// than its limit.
pub(super) async fn serve_barrier(
    stream: &mut UnixStream,
    inner: &Arc<Inner>,
    wanted: &BarrierOptions,
) -> Result<(), String> {
    let until = wanted.until();
    let (mut from, mut to) = stream.split();
    // Whatever is said ends it, and so does that nothing more can be.
    let mut gone = std::pin::pin!(read_line(&mut from, REQUEST_BYTES_MAX));
    let standing = tokio::select! {
        biased;
        _ = &mut gone => return Err("the tool has gone before its barrier stood".into()),
        stood = timeout_at(until, stand(inner, wanted)) => stood,
    };
    let (shut, stood) = match standing.unwrap_or_else(|_| Err(OVER.into())) {
        Ok(stood) => stood,
        Err(problem) => return say::<()>(&mut to, Err(problem)).await,
    };
    let since = Instant::now();
    info!(target: "unanimous", waited_for = stood.waited_for, took_ms = stood.took_ms,
        "a barrier of the operator's tool stands: new decisions are held");
    let application = Some(std::process::id());
    let stood = Stood {
        application,
        ..stood
    };
    let ended = match say(&mut to, Ok(stood)).await {
        Ok(()) => tokio::select! {
            biased;
            said = &mut gone => said.map(drop),
            () = sleep_until(until) => Err(OVER.into()),
        },
        Err(problem) => Err(problem),
    };
    let held_ms = millis(since);
    drop(shut);
    info!(target: "unanimous", held_ms, ?ended, "the barrier has ended: decisions go on");
    say(&mut to, ended.map(|()| BarrierEnded { held_ms })).await
}

async fn say<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    answer: Result<T, String>,
) -> Result<(), String> {
    let line = match answer {
        Ok(answer) => to_line(&Answer::new(Body::Done(answer)))?,
        Err(problem) => to_line(&Answer::<()>::new(Body::Error(problem)))?,
    };
    match timeout(SAY_LIMIT, to.write_all(&line)).await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err("the tool does not take its answer".into()),
    }
}

/// How long the tool may take to hear.
const SAY_LIMIT: Duration = Duration::from_secs(10);
