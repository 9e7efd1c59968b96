//! One transaction, whole: where its branches are, what was decided, what recovery will do and
//! when, whom it hurts, and what a person may safely do. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unanimous_core::ports::InspectOptions;
use unanimous_core::xid::{FORMAT_ID, Gtrid};

use super::advice;
use super::error::OperatorError;
use super::foreign::{decode, hexadecimal};
use super::heuristics::ListedHand;
use super::holding::{Held, ListedHorizon, inspect_all};
use super::in_log::InLog;
use super::report::{ListedBranch, ListedMember, Listing, MemberState, State};
use super::shared::failed;
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
    /// When that was, in seconds since 1970, if it is known.
    #[serde(default)]
    pub decided_at: Option<u64>,
    /// What people did with it, oldest first.
    #[serde(default)]
    pub by_hand: Vec<ListedHand>,
    /// Its branches that are prepared, or that the decision names and that are not proven to have
    /// ended.
    pub branches: Vec<BranchShown>,
    /// Resources at which the decision's branches are known to have ended.
    pub ended: Vec<String>,
    /// Resources that could not be looked at, each with why: there may be more branches there. And
    /// the log, if it could not.
    pub unseen: Vec<String>,
    /// Something of it is in doubt, or may be: not all could be looked at.
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
    /// A branch ended otherwise than was decided, or than is presumed; or it may have.
    Heuristic,
    /// No record, and none can be made any more: it is rolled back, or it was committed so long ago
    /// that its record has been dropped.
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
    let unseen = advice::unseen(&listing);
    let not_seen = || match &*unseen {
        [] => String::new(),
        unseen => format!("; not all could be looked at: {}", unseen.join("; ")),
    };
    let found = find(&listing, asked);
    let found = found.map_err(|problem| failed(&format!("{problem}{}", not_seen())))?;
    let log = InLog::read(inner, found.gtrid, found.is_ours).await;
    let is_bare = found.branches.is_empty() && log.unproven.is_empty() && log.hands.is_empty();
    if is_bare && log.decision == DecisionShown::None {
        let text = "nothing of it is prepared and there is no record: it was rolled back, or \
                    committed so long ago that its record has been dropped, or never begun";
        return Err(failed(&format!("{asked}: {text}{}", not_seen())));
    }
    // Nobody ends it while its owner may.
    let is_running = found.gtrid.is_some_and(|it| inner.active.contains(it))
        || found
            .member
            .as_ref()
            .is_some_and(|it| it.state != MemberState::Closed);
    let is_left = !is_running && !log.unproven.is_empty();
    let in_doubt = found.branches.iter().any(|at| at.branch.in_doubt);
    let shown = TransactionShown {
        application: listing.application,
        manager: listing.manager.clone(),
        shared: listing.shared,
        transaction: found.name.clone(),
        ours: found.is_ours,
        owner: advice::owner(inner, &listing, &found, &log),
        member: found.member.clone(),
        in_doubt: in_doubt || is_left || !unseen.is_empty(),
        recovery: advice::recovery(inner, &listing, &found, &log),
        advice: advice::advice(inner, &found, &log, (&unseen, listing.log_error.is_some())),
        decision: log.decision,
        decided: log.words,
        decided_at: log.decided_at,
        by_hand: log.hands.iter().map(ListedHand::from).collect(),
        ended: log.ended.iter().map(ToString::to_string).collect(),
        unseen,
        notes: advice::notes(&listing, &found),
        branches: found.branches,
    };
    Ok(shown)
}

/// What is prepared everywhere, as much of it as is wanted.
pub(super) async fn picture(inner: &Arc<Inner>, wanted: InspectOptions) -> Listing {
    let (survey, inspected) = tokio::join!(survey_all(inner), inspect_all(inner, wanted));
    let listing = Listing::new(&survey, inner.log.opening(), inner.active.len());
    timed(inner, listing.with_inspected(inspected)).await
}

/// The same, with when it was decided, as far as the log knows.
async fn timed(inner: &Inner, listing: Listing) -> Listing {
    let mut listing = listing;
    let branches = listing.resources.iter().flat_map(|at| &at.branches);
    let decided = branches.filter(|branch| branch.decided == Some(true));
    let gtrids = decided.filter_map(|branch| branch.gtrid.as_ref()?.parse().ok());
    let gtrids: BTreeSet<Gtrid> = gtrids.collect();
    if gtrids.is_empty() {
        return listing;
    }
    let gtrids: Vec<_> = gtrids.into_iter().collect();
    // For people alone: without an answer it is not told.
    let times = ask(inner, inner.log.decided_at(&gtrids)).await;
    let times = times.unwrap_or_default().into_iter();
    let times: BTreeMap<String, u64> = times
        .map(|(gtrid, when)| (gtrid.to_string(), when.0))
        .collect();
    for branch in listing.resources.iter_mut().flat_map(|at| &mut at.branches) {
        let known = branch.gtrid.as_ref().and_then(|gtrid| times.get(gtrid));
        branch.decided_at = known.copied();
    }
    listing
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
            // Any user of a database can choose a foreign one.
            let some = fitting.iter().take(NAMED_MAX);
            let some: Vec<_> = some.map(|name| name.escape_debug().to_string()).collect();
            let some = some.join(", ");
            return Err(format!("{count} transactions begin with {asked:?}: {some}"));
        }
    };
    Ok(gather(listing, named))
}

fn gather(listing: &Listing, named: String) -> Found {
    let gtrid: Option<Gtrid> = named.parse().ok();
    let opening = gtrid.map(|gtrid| gtrid.opening);
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
            .find(|member| opening.is_some() && member.opening == opening)
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

/// Somebody's business now.
pub(super) fn states(found: &Found) -> BTreeSet<State> {
    found.branches.iter().map(|at| at.branch.state).collect()
}

#[cfg(test)]
#[path = "show_test.rs"]
mod show_test;
