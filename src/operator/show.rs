//! One transaction, whole: where its branches are, what was decided, what recovery will do and
//! when, whom it hurts, and what a person may safely do. Changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::{InspectOptions, LogError, Lookup};
use unanimous_core::xid::{FORMAT_ID, Gtrid};

use super::advice;
use super::error::OperatorError;
use super::foreign::{decode, hexadecimal};
use super::holding::{Held, ListedHorizon, inspect_all};
use super::report::{ListedBranch, ListedMember, Listing, State};
use crate::manager::{Inner, survey_all};
use crate::recovery::ask;

/// How many are named if a prefix fits more than one.
const NAMED_MAX: usize = 10;

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TransactionShown {
    /// The process id of the application that holds the log; `null` if there is none.
    pub application: Option<u32>,
    /// The log's manager.
    pub manager: String,
    /// The log is in a table, which others may use at the same time.
    pub shared: bool,
    /// The transaction, or another manager's name for it.
    pub transaction: String,
    /// It is one of this log's manager's.
    pub ours: bool,
    /// Whose it is, and whether that one is alive.
    pub owner: String,
    /// The member that began it, if the log is shared and lists it.
    pub member: Option<ListedMember>,
    /// What was decided.
    pub decision: DecisionShown,
    /// The same in words.
    pub decided: String,
    /// Its branches that are prepared, or that the decision names and that are not proven to have
    /// ended.
    pub branches: Vec<BranchShown>,
    /// Resources at which the decision's branches are known to have ended.
    pub ended: Vec<String>,
    /// Resources that could not be looked at, each with why. There may be more branches there.
    pub unseen: Vec<String>,
    /// Something of it is in doubt.
    pub in_doubt: bool,
    /// What recovery will do, and when.
    pub recovery: Vec<String>,
    /// What a person may safely do.
    pub advice: Vec<String>,
    /// What could not be seen, and what would show it.
    pub notes: Vec<String>,
}

/// What was decided, as far as this log can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DecisionShown {
    /// To commit it; not every branch is known to be committed.
    Commit,
    /// To commit it, and every branch is.
    Completed,
    /// A branch ended against the decision to commit.
    Heuristic,
    /// Nothing, and nothing can be any more: it is rolled back.
    None,
    /// Nothing yet: its owner may still decide.
    Open,
    /// This log cannot tell.
    Unknown,
}

/// One branch, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BranchShown {
    /// At which resource.
    pub resource: String,
    /// What is known of it.
    pub branch: ListedBranch,
    /// Prepared transactions there of which the server does not tell whose they are. This branch
    /// is one of them if its `held` is `null`.
    pub untold: Vec<Held>,
    /// What of that server as a whole is held back.
    pub horizon: Option<ListedHorizon>,
}

/// Everything about the one transaction that `asked` names. `listing` is the whole picture, with
/// all that is to be told of it.
pub(super) async fn show(
    inner: &Inner,
    listing: Listing,
    asked: &str,
) -> Result<TransactionShown, OperatorError> {
    let found = find(&listing, asked).map_err(refused)?;
    let (decision, decided) = match found.gtrid {
        Some(gtrid) if found.is_ours => decision(inner, gtrid).await,
        Some(_) => unknown("its own manager's log knows"),
        None => unknown("its own manager knows"),
    };
    let (ended, unproven) = ended(inner, &found).await;
    let seen = &found.branches;
    if seen.is_empty() && unproven.is_empty() && decision == DecisionShown::None {
        let text = "nothing of it is prepared and there is no record: it was rolled back, or \
                    committed so long ago that its record has been dropped, or never begun";
        return Err(refused(format!("{asked}: {text}")));
    }
    let shown = TransactionShown {
        application: listing.application,
        manager: listing.manager.clone(),
        shared: listing.shared,
        transaction: found.name.clone(),
        ours: found.is_ours,
        owner: advice::owner(&listing, &found),
        member: found.member.clone(),
        decision,
        decided,
        in_doubt: seen.iter().any(|at| at.branch.in_doubt),
        recovery: advice::recovery(inner, &listing, &found),
        advice: advice::advice(&found, decision),
        ended,
        unseen: advice::unseen(&listing),
        notes: advice::notes(&listing, &found),
        branches: found.branches,
    };
    Ok(shown)
}

/// The picture that [`show`] wants.
pub(super) async fn picture(inner: &Arc<Inner>) -> Listing {
    let (survey, inspected) = tokio::join!(
        survey_all(inner),
        inspect_all(inner, InspectOptions::DETAILS)
    );
    Listing::new(&survey, inner.log.opening(), inner.active.len()).with_inspected(inspected)
}

fn refused(problem: String) -> OperatorError {
    OperatorError::Log(LogError::new(problem))
}

/// The transaction that is meant.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) gtrid: Option<Gtrid>,
    pub(super) is_ours: bool,
    pub(super) member: Option<ListedMember>,
    pub(super) branches: Vec<BranchShown>,
}

/// By any name of the transaction or of one of its branches, else by the beginning of one, if only
/// one transaction has it.
fn find(listing: &Listing, asked: &str) -> Result<Found, String> {
    let asked = asked.trim();
    if asked.is_empty() {
        return Err("no transaction is named".to_owned());
    }
    let branches = || listing.resources.iter().flat_map(|at| &at.branches);
    let mut fitting: BTreeSet<String> = BTreeSet::new();
    fitting.extend(branches().filter(|b| is_named(b, asked)).map(name));
    if fitting.is_empty() {
        fitting.extend(branches().filter(|b| begins(b, asked)).map(name));
    }
    let known = asked.strip_prefix("unanimous:").unwrap_or(asked);
    let known = known.split(':').next().unwrap_or(known);
    let named = match (fitting.len(), known.parse::<Gtrid>()) {
        (1, _) => fitting.pop_first().unwrap_or_default(),
        (0, Ok(gtrid)) => gtrid.to_string(),
        (0, Err(_)) => {
            return Err(format!(
                "nothing that is prepared has a name that is or begins with {asked:?}: see \
                 unanimous list"
            ));
        }
        (count, _) => {
            let some: Vec<_> = fitting.into_iter().take(NAMED_MAX).collect();
            let some = some.join(", ");
            return Err(format!("{count} transactions begin with {asked:?}: {some}"));
        }
    };
    Ok(gather(listing, named))
}

fn gather(listing: &Listing, named: String) -> Found {
    let gtrid: Option<Gtrid> = named.parse().ok();
    let epoch = gtrid.map(|gtrid| gtrid.opening.epoch.0);
    let is_ours = gtrid.is_some_and(|g| g.opening.manager.to_string() == listing.manager);
    let mut members = listing.members.iter();
    let mut branches = Vec::new();
    for at in &listing.resources {
        for branch in at.branches.iter().filter(|branch| name(branch) == named) {
            branches.push(BranchShown {
                resource: at.resource.clone(),
                branch: branch.clone(),
                untold: if branch.held.is_none() {
                    at.untold.clone()
                } else {
                    Vec::new()
                },
                horizon: at.horizon.clone(),
            });
        }
    }
    Found {
        member: members
            .find(|member| is_ours && Some(member.epoch) == epoch)
            .cloned(),
        name: named,
        gtrid,
        is_ours,
        branches,
    }
}

/// The same for all branches of a transaction.
fn name(branch: &ListedBranch) -> String {
    match &branch.gtrid {
        Some(gtrid) => gtrid.clone(),
        None => match decode(&branch.xid) {
            Some(decoded) => decoded.gtrid,
            None => branch.xid.clone(),
        },
    }
}

/// Everything that it is called by somebody: in our own words, in PostgreSQL's list, in those of
/// `XA RECOVER`, and as a literal.
fn names(branch: &ListedBranch) -> Vec<String> {
    let mut names = vec![name(branch), branch.xid.clone()];
    let Some(gtrid) = &branch.gtrid else {
        return names;
    };
    let Some((_, bqual)) = branch.xid.split_once(':') else {
        return names;
    };
    let hex = |text: &str| hexadecimal(text.as_bytes()).split_off(2);
    names.extend([
        format!("unanimous:{}", branch.xid),
        format!("{gtrid}{bqual}"),
        hexadecimal(format!("{gtrid}{bqual}").as_bytes()),
        format!("'{gtrid}','{bqual}',{FORMAT_ID}"),
        format!("X'{}',X'{}',{FORMAT_ID}", hex(gtrid), hex(bqual)),
    ]);
    names
}

fn is_named(branch: &ListedBranch, asked: &str) -> bool {
    names(branch)
        .iter()
        .any(|name| name.eq_ignore_ascii_case(asked))
}

fn begins(branch: &ListedBranch, asked: &str) -> bool {
    names(branch).iter().any(|name| name.starts_with(asked))
}

fn unknown(why: &str) -> (DecisionShown, String) {
    let text = format!("this log cannot tell: {why}");
    (DecisionShown::Unknown, text)
}

async fn decision(inner: &Inner, gtrid: Gtrid) -> (DecisionShown, String) {
    let found = match ask(inner, inner.log.lookup(gtrid)).await {
        Ok(found) => found,
        Err(error) => return unknown(&format!("it cannot be read: {error}")),
    };
    match found {
        Lookup::Pending(_) => (
            DecisionShown::Commit,
            "commit; not every branch is known to be committed".to_owned(),
        ),
        Lookup::Completed => (
            DecisionShown::Completed,
            "commit, and every branch is committed".to_owned(),
        ),
        Lookup::Heuristic { ends, beside } => {
            let branches = ends.iter().map(|(at, end)| format!("{at}: {end:?}"));
            let branches: Vec<_> = branches.collect();
            let decision = if beside.is_decided() {
                "commit"
            } else {
                "none"
            };
            (
                DecisionShown::Heuristic,
                format!("{decision}, and ended against it: {}", branches.join(", ")),
            )
        }
        Lookup::NoRecord => (
            DecisionShown::None,
            "none, and none can be made any more: rolled back".to_owned(),
        ),
        Lookup::Open => (
            DecisionShown::Open,
            "none yet: its owner may still decide".to_owned(),
        ),
        Lookup::UnknownOpening => unknown("it does not list the opening"),
        Lookup::MayBeLost => unknown("its database has failed over, and may have lost it"),
        _ => unknown("it answers what this release does not know"),
    }
}

/// Resources that the decision names: at which the branch is known to have ended, and the others.
async fn ended(inner: &Inner, found: &Found) -> (Vec<String>, Vec<String>) {
    let Some(gtrid) = found.gtrid.filter(|_| found.is_ours) else {
        return (Vec::new(), Vec::new());
    };
    let Ok(Lookup::Pending(record)) = ask(inner, inner.log.lookup(gtrid)).await else {
        return (Vec::new(), Vec::new());
    };
    let names = record.branches.iter().map(|b| b.resource.clone());
    let (ended, unproven): (Vec<_>, Vec<_>) =
        names.partition(|name| inner.recovery.is_resolved(gtrid, name));
    let text = |names: Vec<unanimous_core::xid::ResourceName>| {
        names.iter().map(ToString::to_string).collect()
    };
    (text(ended), text(unproven))
}

/// Somebody's business now.
pub(super) fn states(found: &Found) -> BTreeSet<State> {
    found.branches.iter().map(|at| at.branch.state).collect()
}

#[cfg(test)]
#[path = "show_test.rs"]
mod show_test;
