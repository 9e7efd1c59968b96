//! A log in a table, beside its members: looked at as an observer, who joins nobody, and worked on
//! as one more member.
//!
//! Invariant I5: a branch of another member is ended only after its epoch was closed in the table.
//! Who is alive is a hint, for people and for whom to close.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use unanimous_core::ports::{
    Beat, DecisionLog, DecisionTable, InspectOptions, LogError, Member, TableError,
};
use unanimous_core::xid::Epoch;

use super::access::LOG_LIMIT;
use super::barrier::{Barrier, BarrierOptions, Grip};
use super::barrier_shared::stand_shared;
use super::error::OperatorError;
use super::file::{ConfigFile, Parts};
use super::own::look_by;
use super::place::{Home, TablePlace};
use super::report::{ListedMember, Listing, MemberState, Recovered};
use super::server;
use super::show::{self, TransactionShown};
use crate::StartError;
use crate::bounded::bounded;
use crate::log::{NO_MANAGER, TableLog};
use crate::manager::{Inner, recover_at};
use crate::shutdown::close_log;

/// How much longer than the members' own patience a pass waits for the end of silent ones.
const GRACE: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct SharedLog {
    parts: Parts,
    log: TableLog,
    observer: Arc<Inner>,
    suspect_after: Duration,
    /// The member as which a pass is made.
    worker: OnceLock<Weak<Inner>>,
}

impl SharedLog {
    /// # Errors
    /// The config file cannot be used. That there is no log, or that it cannot be looked at, is
    /// told by whatever is asked of it; none is made.
    pub(super) async fn open(file: &ConfigFile, place: &TablePlace) -> Result<Self, OperatorError> {
        let parts = file.parts()?;
        let Home::Table(log) = parts.log.clone() else {
            return Err(failed("the log is not in a table, which is a bug"));
        };
        let log = log.create(false);
        let observer = look_by(&parts, log.clone().observer()).await?;
        Ok(Self {
            parts,
            log,
            observer,
            suspect_after: place.suspect_after(),
            worker: OnceLock::new(),
        })
    }

    pub(super) async fn list(&self) -> Listing {
        let (watched, listing) = tokio::join!(self.watch(), server::list(&self.observer));
        self.shared_by(watched, listing).await
    }

    /// See [`Access::show`](super::Access::show).
    pub(super) async fn show(&self, asked: &str) -> Result<TransactionShown, OperatorError> {
        let details = InspectOptions::DETAILS;
        let (watched, listing) = tokio::join!(self.watch(), show::picture(&self.observer, details));
        let listing = self.shared_by(watched, listing).await;
        show::show(&self.observer, listing, asked).await
    }

    async fn watch(&self) -> Result<Watched, OperatorError> {
        if self.observer.log.opening().manager == NO_MANAGER {
            // What the log has answered is told with the listing: nobody waits for it twice.
            return Err(failed("the log cannot be read"));
        }
        Watched::by_age(&*self.log.table(), patience(self.suspect_after)).await
    }

    /// Without an answer of the log, nobody is known to share it.
    async fn shared_by(
        &self,
        watched: Result<Watched, OperatorError>,
        listing: Listing,
    ) -> Listing {
        let members = match watched {
            // The openings as they were after the branches.
            Ok(watched) => members(&*self.observer.log)
                .await
                .map(|members| watched.tell(members)),
            Err(error) => Err(error),
        };
        match members {
            Ok(members) => listing.shared_by(members),
            Err(error) => {
                let mut listing = listing.shared_by(Vec::new());
                listing.log_error.get_or_insert(error.to_string());
                listing
            }
        }
    }

    /// Joins nobody: the locks are enough.
    pub(super) async fn barrier(&self, wanted: &BarrierOptions) -> Result<Barrier, OperatorError> {
        let (held, stood, until) = stand_shared(self.log.table(), wanted).await?;
        Ok(Barrier::new(stood, until, Grip::Shared(held)))
    }

    /// As a member of its own, which leaves at the end.
    pub(super) async fn recover(
        &self,
        at: Option<&str>,
        close: &[u32],
    ) -> Result<Recovered, OperatorError> {
        let recovering = async |inner: &Arc<Inner>| {
            // Set twice only if a pass was made before: its branches are not this one's.
            let _ = self.worker.set(Arc::downgrade(inner));
            self.recover_as(inner, at, close).await
        };
        self.as_member("recover", recovering).await?
    }

    /// How many branches the pass has ended.
    pub(super) fn ended(&self) -> Option<u64> {
        match self.worker.get() {
            Some(worker) => Some(worker.upgrade()?.recovery.ended()),
            None => Some(0),
        }
    }

    /// Only looks.
    pub(super) const fn observer(&self) -> &Arc<Inner> {
        &self.observer
    }

    /// As a member of its own, which leaves at the end.
    pub(super) async fn as_member<T>(
        &self,
        verb: &str,
        act: impl AsyncFnOnce(&Arc<Inner>) -> T,
    ) -> Result<T, OperatorError> {
        let label = format!("unanimous {verb}, {}", host_and_process());
        let inner = open(&self.parts, self.log.clone().label(label)).await?;
        let done = act(&inner).await;
        if !matches!(close_log(&inner, LOG_LIMIT).await, Ok(Ok(()))) {
            // What was done is done; the other members close the epoch.
            tracing::warn!(target: "unanimous", "the log could not be left properly");
        }
        Ok(done)
    }

    async fn recover_as(
        &self,
        inner: &Arc<Inner>,
        at: Option<&str>,
        close: &[u32],
    ) -> Result<Recovered, OperatorError> {
        let only = at.map(|name| server::registered(inner, name)).transpose();
        let only = only.map_err(|problem| failed(&problem))?;
        let own = inner.log.opening().epoch;
        let open_before = open_epochs(&members(&*inner.log).await?);
        for epoch in close {
            if !open_before.contains(&Epoch(*epoch)) || Epoch(*epoch) == own {
                return Err(failed(&format!(
                    "epoch {epoch} is not an open one of this log: see unanimous list"
                )));
            }
            inner.log.close(Epoch(*epoch)).await?;
        }
        let limit = self.suspect_after * 2 + GRACE;
        let watched = Watched::until_all_live(&*self.log.table(), limit).await?;
        let open_now = open_epochs(&members(&*inner.log).await?);
        let report = recover_at(inner, only.as_ref()).await;
        let closed = open_before.difference(&open_now);
        let silent = open_now.iter().filter(|epoch| !watched.is_alive(**epoch));
        let silent: Vec<u32> = silent.map(|epoch| epoch.0).collect();
        let recovered = Recovered::new(&report);
        Ok(Recovered {
            clean: recovered.clean && silent.is_empty(),
            closed_epochs: closed.map(|epoch| epoch.0).collect(),
            silent_epochs: silent,
            ..recovered
        })
    }
}

async fn open(parts: &Parts, log: TableLog) -> Result<Arc<Inner>, OperatorError> {
    let opening = bounded(LOG_LIMIT, parts.builder_with(log).open(None)).await;
    match opening.map_err(|silence| failed(&format!("the decision log: {silence}")))? {
        Ok(inner) => Ok(inner),
        Err(StartError::Log(error)) => Err(error.into()),
        Err(error) => Err(error.into()),
    }
}

async fn members(log: &dyn DecisionLog) -> Result<Vec<Member>, OperatorError> {
    match bounded(LOG_LIMIT, log.members()).await {
        Ok(members) => Ok(members?),
        Err(silence) => Err(failed(&format!("the decision log: {silence}"))),
    }
}

fn open_epochs(members: &[Member]) -> BTreeSet<Epoch> {
    let open = members.iter().filter(|member| !member.is_closed);
    open.map(|member| member.opening.epoch).collect()
}

/// Signs of life that were seen.
#[derive(Default)]
pub(super) struct Watched {
    first: BTreeMap<Epoch, u64>,
    /// Of the last one, by the clock of the table's server.
    ages: BTreeMap<Epoch, Duration>,
    alive: BTreeSet<Epoch>,
    open: BTreeSet<Epoch>,
    /// The end of the first look.
    since: Option<Instant>,
    /// From there to the beginning of the last one.
    lasted: Duration,
}

/// After which time without a sign of life a member is called silent: three times what lies between
/// two of them. Of the tool's config file: `suspect_after` has to be the same everywhere.
pub(super) fn patience(suspect_after: Duration) -> Duration {
    (suspect_after * 3 / 10).max(Duration::from_secs(1))
}

/// How often to look.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Nobody's: raises no count.
const NOBODY: Epoch = Epoch(0);

impl Watched {
    /// One look: whoever has given a sign of life within that time is alive, by the clock of the
    /// table's server.
    pub(super) async fn by_age(
        table: &dyn DecisionTable,
        patience: Duration,
    ) -> Result<Self, OperatorError> {
        let mut watched = Self::default();
        watched.until(table, |_| true).await?;
        let is_young = |(_, age): &(&Epoch, &Duration)| **age <= patience;
        let young = watched.ages.iter().filter(is_young);
        watched.alive.extend(young.map(|(epoch, _)| *epoch));
        Ok(watched)
    }

    /// Looks until every member whose epoch is open has given a sign of life, or for so long.
    pub(super) async fn until_all_live(
        table: &dyn DecisionTable,
        limit: Duration,
    ) -> Result<Self, OperatorError> {
        let all_live = |seen: &Self| seen.open.is_subset(&seen.alive) || seen.lasted >= limit;
        let mut watched = Self::default();
        watched.until(table, all_live).await?;
        Ok(watched)
    }

    /// Looks for so long, whoever lives.
    pub(super) async fn for_long(
        table: &dyn DecisionTable,
        time: Duration,
    ) -> Result<Self, OperatorError> {
        let mut watched = Self::default();
        watched.go_on(table, time).await?;
        Ok(watched)
    }

    /// Looks once more, and until it is that long since the first look.
    pub(super) async fn go_on(
        &mut self,
        table: &dyn DecisionTable,
        time: Duration,
    ) -> Result<(), OperatorError> {
        self.until(table, |seen| seen.lasted >= time).await
    }

    /// Looks once, and again until that is enough.
    async fn until(
        &mut self,
        table: &dyn DecisionTable,
        is_enough: impl Fn(&Self) -> bool,
    ) -> Result<(), OperatorError> {
        loop {
            self.look(table).await?;
            if is_enough(self) {
                return Ok(());
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    fn take(&mut self, beats: &[Beat]) {
        let is_first_look = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        let open = beats.iter().filter(|beat| !beat.is_closed);
        self.open = open.clone().map(|beat| beat.epoch).collect();
        self.ages = open.clone().map(|beat| (beat.epoch, beat.age)).collect();
        for beat in open {
            match self.first.get(&beat.epoch) {
                Some(first) if *first != beat.count => drop(self.alive.insert(beat.epoch)),
                Some(_) => {}
                None => {
                    self.first.insert(beat.epoch, beat.count);
                    if !is_first_look {
                        // It joined meanwhile.
                        self.alive.insert(beat.epoch);
                    }
                }
            }
        }
    }

    async fn look(&mut self, table: &dyn DecisionTable) -> Result<(), OperatorError> {
        self.lasted = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        match bounded(LOG_LIMIT, table.beat(NOBODY)).await {
            Ok(beats) => {
                self.take(&beats.map_err(of_table)?);
                Ok(())
            }
            Err(silence) => Err(failed(&format!("the decision log: {silence}"))),
        }
    }

    /// It has given a sign of life.
    pub(super) fn has_lived(&self, epoch: Epoch) -> bool {
        self.alive.contains(&epoch)
    }

    pub(super) fn is_alive(&self, epoch: Epoch) -> bool {
        self.alive.contains(&epoch) || !self.first.contains_key(&epoch)
    }

    /// Who was silent all the time, of those that are open.
    pub(super) fn silent(&self) -> impl Iterator<Item = Epoch> {
        self.open.difference(&self.alive).copied()
    }

    /// Who was not.
    pub(super) fn alive(&self) -> impl Iterator<Item = Epoch> {
        self.open.intersection(&self.alive).copied()
    }

    fn tell(&self, members: Vec<Member>) -> Vec<ListedMember> {
        let told = members.into_iter().map(|member| {
            let epoch = member.opening.epoch;
            let state = match (member.is_closed, self.is_alive(epoch)) {
                (true, _) => MemberState::Closed,
                (false, true) => MemberState::Alive,
                (false, false) => MemberState::Silent,
            };
            let age = self.ages.get(&epoch).copied();
            let silent_for = age.filter(|_| state == MemberState::Silent);
            ListedMember {
                epoch: epoch.0,
                label: member.label,
                state,
                silent_seconds: silent_for.map(|age| age.as_secs()),
                branches: 0,
                opening: Some(member.opening),
            }
        });
        told.collect()
    }
}

pub(super) fn of_table(error: TableError) -> OperatorError {
    let text = format!("the decision log: {error}");
    OperatorError::Log(LogError::new(text).with_source(error))
}

pub(super) fn failed(problem: &str) -> OperatorError {
    OperatorError::Log(LogError::new(problem))
}

fn host_and_process() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}
