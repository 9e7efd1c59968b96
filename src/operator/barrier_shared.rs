//! A barrier on a table log: its locks hold the decisions of every member, whether it helps or not.
//! They do not hold the hands of people, who need no decision: it does not stand while somebody is
//! ending a branch by hand, and has not held if somebody did so meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use unanimous_core::ports::{
    ByHand, DecisionTable, HandRow, HandState, HeldDecisions, ServerIdentity, Snapshot, TableError,
    TableErrorKind,
};
use unanimous_core::xid::{Epoch, Gtrid};

use super::barrier::{BarrierOptions, OVER, Stood, UnfinishedDecision, millis, unfinished_text};
use super::error::OperatorError;
use super::shared::{failed, of_table};
use crate::bounded::bounded;
use crate::log::{decode_branches, read_hand};

/// How often to see whether the barrier still holds: much more often than the server asks for.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// How often to see whether what was decided is finished.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long one question to the table may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The locks, looked after by a task, so that no question to them is left half answered.
#[derive(Debug)]
pub(super) struct HeldTable {
    task: JoinHandle<Result<(), OperatorError>>,
    end: Option<oneshot::Sender<()>>,
}

impl Drop for HeldTable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HeldTable {
    pub(super) async fn fallen(&mut self) -> OperatorError {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => failed("the task that held the barrier has ended, a bug"),
        }
    }

    pub(super) async fn end(mut self) -> Result<(), OperatorError> {
        // If the task has ended, it says why.
        let _ = self.end.take().map(|end| end.send(()));
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(_) => Err(failed("the task that held the barrier has panicked")),
        }
    }
}

/// What may not change while the barrier stands.
struct Seen {
    server: ServerIdentity,
    openings: BTreeSet<Epoch>,
    pending: BTreeSet<Gtrid>,
    hands: Hands,
}

/// What people did with branches, and how far it has come.
type Hands = BTreeMap<u64, char>;

fn hands(rows: &[HandRow]) -> Hands {
    // Of one that cannot be read nobody knows what it does.
    let is_end = |row: &&HandRow| read_hand(row).is_none_or(|hand| hand.ended().is_some());
    let ends = rows.iter().filter(is_end);
    ends.map(|row| (row.id, row.state)).collect()
}

/// Why nobody knows that no branch was ended by hand in the time between.
fn ended_between(before: &Hands, now: &Hands) -> Option<&'static str> {
    let mut may_have_ended = false;
    for (id, state) in now {
        match (before.get(id), state) {
            (Some(before), state) if before == state => {}
            // A pass has found that it was not done: those go on under a shared barrier.
            (Some('I' | 'U'), 'V') => {}
            (Some(_), _) => may_have_ended = true,
            (None, _) => return Some("somebody ended a branch by hand while the barrier stood"),
        }
    }
    let is_gone = before.keys().any(|id| !now.contains_key(id));
    (may_have_ended || is_gone).then_some(
        "what a person had begun to do by hand before the barrier stood was perhaps done \
         meanwhile",
    )
}

impl Seen {
    fn new(snapshot: &Snapshot, hands: Hands) -> Self {
        let openings = snapshot.openings.iter();
        let pending = snapshot.pending.iter();
        Self {
            server: snapshot.identity.clone(),
            openings: openings.map(|row| row.opening.epoch).collect(),
            pending: pending.map(|row| row.gtrid).collect(),
            hands,
        }
    }

    /// Nobody has joined, nothing was decided, and it is the same server.
    fn has_held(&self, now: &Self) -> bool {
        self.server == now.server
            && self.openings == now.openings
            && now.pending.is_subset(&self.pending)
    }
}

async fn ask<T>(question: impl Future<Output = Result<T, TableError>>) -> Result<T, OperatorError> {
    match bounded(LIMIT, question).await {
        Ok(answer) => answer.map_err(of_table),
        Err(silence) => Err(failed(&format!("the decision log: {silence}"))),
    }
}

/// # Errors
/// A decision in flight, or the end of something that was decided, took too long; nothing is held.
pub(super) async fn stand_shared(
    table: std::sync::Arc<dyn DecisionTable>,
    wanted: &BarrierOptions,
) -> Result<(HeldTable, Stood, Instant), OperatorError> {
    let (begun, until, by) = (Instant::now(), wanted.until(), wanted.stands_by());
    let (held, waited_for, last, hands) = loop {
        until_at_rest(&*table, by).await?;
        let mut held = hold(&*table, by).await?;
        let first = ask(table.read(Epoch(0), None)).await?;
        let waited_for = first.pending.len();
        let last = finished(&*table, &mut *held, first, by).await?;
        match look_at_hands(&*table).await? {
            Ok(hands) => break (held, waited_for, last, hands),
            Err(_) if Instant::now() < by => ask(held.end()).await?,
            Err(acting) => return Err(acting.refusal()),
        }
    };
    let unfinished: Vec<_> = last.pending.iter().map(unfinished).collect();
    if !unfinished.is_empty() && !wanted.allow_unfinished {
        return Err(failed(&format!(
            "{}; unanimous list says why, and unanimous recover ends what no living member does",
            unfinished_text(&unfinished)
        )));
    }
    let (end, ended) = oneshot::channel();
    let seen = Seen::new(&last, hands);
    let task = tokio::spawn(keep(table, held, seen, ended, until));
    let stood = Stood {
        application: None,
        shared: true,
        took_ms: millis(begun),
        waited_for,
        unfinished,
    };
    let end = Some(end);
    Ok((HeldTable { task, end }, stood, until))
}

fn unfinished(row: &unanimous_core::ports::DecisionRow) -> UnfinishedDecision {
    let branches = decode_branches(&row.branches).unwrap_or_default();
    UnfinishedDecision::new(&unanimous_core::ports::DecisionRecord {
        gtrid: row.gtrid,
        branches,
    })
}

async fn hold(
    table: &dyn DecisionTable,
    by: Instant,
) -> Result<Box<dyn HeldDecisions>, OperatorError> {
    loop {
        match bounded(LIMIT, table.hold()).await {
            Ok(Ok(held)) => return Ok(held),
            Ok(Err(error)) if error.kind() == TableErrorKind::Busy && Instant::now() < by => {}
            Ok(Err(error)) => return Err(of_table(error)),
            Err(silence) => return Err(failed(&format!("the decision log: {silence}"))),
        }
    }
}

/// What is left once the members have ended what was decided, or the time is over.
async fn finished(
    table: &dyn DecisionTable,
    held: &mut dyn HeldDecisions,
    first: Snapshot,
    by: Instant,
) -> Result<Snapshot, OperatorError> {
    let (mut last, mut checked) = (first, Instant::now());
    while !last.pending.is_empty() && Instant::now() < by {
        sleep(LOOK_PAUSE).await;
        if checked.elapsed() >= CHECK_PAUSE {
            ask(held.check()).await?;
            checked = Instant::now();
        }
        last = ask(table.read(Epoch(0), None)).await?;
    }
    Ok(last)
}

/// Whoever may be ending a branch by hand now.
struct Acting(Box<ByHand>);

impl Acting {
    fn refusal(&self) -> OperatorError {
        let ByHand {
            resource,
            who,
            gtrid,
            ..
        } = &*self.0;
        failed(&format!(
            "{resource}: {who} is ending a branch of {gtrid} by hand, or its tool has died over \
             that: wait for its end, or: unanimous recover, which closes the epoch of a dead one"
        ))
    }
}

/// What people did, if nobody is about to do more.
async fn look_at_hands(table: &dyn DecisionTable) -> Result<Result<Hands, Acting>, OperatorError> {
    let rows = ask(table.ends(None)).await?.by_hand;
    // Who is not among the openings after that is a stranger to this log.
    let openings = ask(table.read(Epoch(0), None)).await?.openings;
    let may_act = |hand: &ByHand| {
        let is_open = openings
            .iter()
            .any(|row| row.opening == hand.by && !row.is_closed);
        hand.state == HandState::Intended && hand.ended().is_some() && is_open
    };
    let acting = rows.iter().filter_map(read_hand).find(may_act);
    Ok(acting.map_or_else(|| Ok(hands(&rows)), |acting| Err(Acting(Box::new(acting)))))
}

/// Waits until nobody is about to end a branch by hand. Holds nothing meanwhile: the epoch of
/// somebody who has died over that has to be closed first, and no decision waits for that.
async fn until_at_rest(table: &dyn DecisionTable, by: Instant) -> Result<(), OperatorError> {
    while let Err(acting) = look_at_hands(table).await? {
        if Instant::now() >= by {
            return Err(acting.refusal());
        }
        sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

async fn keep(
    table: std::sync::Arc<dyn DecisionTable>,
    mut held: Box<dyn HeldDecisions>,
    seen: Seen,
    mut ended: oneshot::Receiver<()>,
    until: Instant,
) -> Result<(), OperatorError> {
    loop {
        tokio::select! {
            biased;
            _ = &mut ended => break,
            () = sleep_until(until) => return Err(failed(OVER)),
            () = sleep(CHECK_PAUSE) => ask(held.check()).await?,
        }
    }
    let now = ask(table.read(Epoch(0), None)).await?;
    let hands = hands(&ask(table.ends(None)).await?.by_hand);
    ask(held.end()).await?;
    if let Some(why) = ended_between(&seen.hands, &hands) {
        return Err(failed(&format!("{why}: what was backed up may not agree")));
    }
    if seen.has_held(&Seen::new(&now, hands)) {
        return Ok(());
    }
    Err(failed(
        "something was decided, or somebody joined, while the barrier stood (did another server \
         take over from the log's?): what was backed up may not agree",
    ))
}

#[cfg(test)]
#[path = "barrier_shared_test.rs"]
mod barrier_shared_test;
