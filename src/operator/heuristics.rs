//! Heuristic ends and what people did: the list, and what was dealt with.

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{ByHand, HandAct, HandState, Hands, HeuristicEnd, LogError};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::Gtrid;

use super::lines::end_word;
use super::person::Person;
use crate::manager::Inner;
use crate::recovery::{ILLEGIBLE, ask, hands_of, is_dealt_with};

/// Branches that ended otherwise than was decided, and what people did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Heuristics {
    /// The process id of the application that answered; `null` if the caller read the log.
    pub application: Option<u32>,
    /// Every one that is on record.
    pub ends: Vec<ListedEnd>,
    /// What people did, oldest first.
    pub by_hand: Vec<ListedHand>,
    /// What is on record and cannot be read.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A branch that ended otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedEnd {
    /// The transaction.
    pub gtrid: String,
    /// The branch.
    pub resource: String,
    /// `commit`, `rollback`, `mixed`, or `hazard`: it may have ended either way.
    pub end: String,
    /// When that was recorded, in seconds since 1970.
    pub when: Option<u64>,
    /// A person has dealt with it: `unanimous forget`.
    pub forgotten: bool,
}

/// What a person did, or meant to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListedHand {
    /// The transaction.
    pub gtrid: String,
    /// The branch.
    pub resource: String,
    /// `commit`, `rollback` or `forget`.
    pub act: String,
    /// `intended`, `unproven`, `done` or `void`.
    pub state: String,
    /// Account and host.
    pub who: String,
    /// In seconds since 1970, by the clock of whoever recorded it.
    pub when: u64,
    /// Why.
    pub reason: String,
}

impl Heuristics {
    /// Something that nobody has dealt with.
    pub fn is_open(&self) -> bool {
        self.ends.iter().any(|end| !end.forgotten)
    }
}

/// A person says that the heuristic ends of a transaction were dealt with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Forget {
    /// The transaction.
    pub gtrid: String,
    /// Who: account and host. One line.
    pub who: String,
    /// Why. One line.
    pub reason: String,
    /// What was shown to the person who says so; `None` if nothing was. What is on record besides,
    /// or otherwise, is refused.
    #[serde(default)]
    pub shown: Option<Vec<ListedEnd>>,
}

impl Forget {
    /// What is to be forgotten, by whom, and why.
    pub fn new(
        gtrid: impl Into<String>,
        who: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            gtrid: gtrid.into(),
            who: who.into(),
            reason: reason.into(),
            shown: None,
        }
    }

    /// The same, said by a person who was shown this plan of it.
    #[must_use]
    pub fn as_shown(mut self, plan: &Heuristics) -> Self {
        self.shown = Some(plan.ends.clone());
        self
    }

    fn was_shown(&self, end: &HeuristicEnd) -> bool {
        let (name, word) = (end.resource.as_str(), end_word(end.end));
        let is_it = |shown: &ListedEnd| (&*shown.resource, &*shown.end) == (name, word);
        self.shown
            .as_ref()
            .is_none_or(|shown| shown.iter().any(is_it))
    }
}

fn unread(error: LogError) -> String {
    format!("the log cannot be read: {error}")
}

fn is_forgotten(end: &HeuristicEnd, hands: &[ByHand]) -> bool {
    is_dealt_with(hands, end.gtrid, &end.resource)
}

impl Heuristics {
    fn of<'r>(
        ends: impl Iterator<Item = &'r HeuristicEnd>,
        of_hands: impl Iterator<Item = &'r ByHand>,
        hands: &[ByHand],
    ) -> Self {
        let listed = ends.map(|end| ListedEnd {
            gtrid: end.gtrid.to_string(),
            resource: end.resource.to_string(),
            end: end_word(end.end).to_owned(),
            when: end.when.map(|when| when.0),
            forgotten: is_forgotten(end, hands),
        });
        Self {
            application: None,
            ends: listed.collect(),
            by_hand: of_hands.map(ListedHand::from).collect(),
            notes: Vec::new(),
        }
    }
}

/// What is on record.
pub(super) async fn list(inner: &Inner) -> Result<Heuristics, String> {
    let reading = async {
        let ends = inner.log.heuristics().await?;
        Ok::<_, LogError>((ends, inner.log.hands().await?))
    };
    let (ends, Hands { legible, illegible }) = ask(inner, reading).await.map_err(unread)?;
    let mut listed = Heuristics::of(ends.iter(), legible.iter(), &legible);
    let notes = illegible.iter();
    let notes = notes.map(|(gtrid, name)| format!("{gtrid} at {name}: {ILLEGIBLE}"));
    listed.notes.extend(notes);
    Ok(listed)
}

impl From<&ByHand> for ListedHand {
    fn from(hand: &ByHand) -> Self {
        let act = match hand.act {
            HandAct::End(Decision::Commit) => "commit",
            HandAct::End(Decision::Rollback) => "rollback",
            HandAct::Forget => "forget",
        };
        let state = match hand.state {
            HandState::Intended => "intended",
            HandState::Unproven => "unproven",
            HandState::Done => "done",
            HandState::Void => "void",
        };
        Self {
            gtrid: hand.gtrid.to_string(),
            resource: hand.resource.to_string(),
            act: act.to_owned(),
            state: state.to_owned(),
            who: hand.who.to_string(),
            when: hand.when.0,
            reason: hand.reason.to_string(),
        }
    }
}

/// The heuristic ends of this transaction that nobody has dealt with, and what people did with it.
async fn left(inner: &Inner, wanted: &Forget) -> Result<(Vec<HeuristicEnd>, Vec<ByHand>), String> {
    let nothing = || {
        format!(
            "no heuristic end of {} is on record that was not dealt with: unanimous list \
             --heuristic shows them",
            wanted.gtrid
        )
    };
    let gtrid: Gtrid = wanted.gtrid.parse().map_err(|_| nothing())?;
    let reading = async {
        let ends = inner.log.heuristics().await?;
        Ok::<_, LogError>((ends, hands_of(inner, gtrid).await?))
    };
    let (mut ends, hands) = ask(inner, reading).await.map_err(unread)?;
    ends.retain(|end| end.gtrid == gtrid && !is_forgotten(end, &hands));
    if ends.is_empty() {
        return Err(nothing());
    }
    Ok((ends, hands))
}

/// What would be recorded as dealt with, and what people did with the transaction.
pub(super) async fn plan_forget(inner: &Inner, wanted: &Forget) -> Result<Heuristics, String> {
    Person::of(&wanted.who, &wanted.reason)?;
    let (ends, hands) = left(inner, wanted).await?;
    Ok(Heuristics::of(ends.iter(), hands.iter(), &hands))
}

/// Records that they were dealt with. What they were stays on record.
pub(super) async fn forget(inner: &Inner, wanted: &Forget) -> Result<Heuristics, String> {
    let person = Person::of(&wanted.who, &wanted.reason)?;
    let (ends, _) = left(inner, wanted).await?;
    if let Some(new) = ends.iter().find(|end| !wanted.was_shown(end)) {
        return Err(format!(
            "{}: how its branch of {} ended was recorded since this was shown, and nothing was \
             noted: look again",
            new.resource, wanted.gtrid
        ));
    }
    for end in ends {
        let branch = (end.gtrid, end.resource);
        let by_hand = person.record(inner, branch, HandAct::Forget, None, HandState::Done)?;
        let recorded = ask(inner, inner.log.record_by_hand(&by_hand)).await;
        recorded.map_err(|error| format!("it cannot be recorded: {error}"))?;
    }
    list(inner).await
}

#[cfg(test)]
#[path = "heuristics_test.rs"]
mod heuristics_test;
