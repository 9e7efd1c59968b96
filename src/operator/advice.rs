//! The plain words of `show`: whose a transaction is, what recovery will do and when, and what a
//! person may safely do.

use super::in_log::InLog;
use super::report::{Listing, MemberState, State};
use super::show::{DecisionShown, Found, states};
use crate::log::picked;
use crate::manager::Inner;
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Epoch, ResourceName};

const FIND_OUT: &str = "docs/operations.md says how to find out what was decided";

/// Whose it is, and whether that one is alive.
pub(super) fn owner(inner: &Inner, listing: &Listing, found: &Found, log: &InLog) -> String {
    let Some(gtrid) = found.gtrid else {
        let decoded = found
            .branches
            .iter()
            .find_map(|at| at.branch.decoded.as_ref());
        return match decoded.and_then(|text| text.split_once(':')) {
            Some((manager, _)) => format!("another transaction manager: {manager}"),
            None => "somebody else".to_owned(),
        };
    };
    let epoch = gtrid.opening.epoch.0;
    if listing.manager.is_empty() {
        return format!("not known, for the log cannot be read; its epoch {epoch}");
    }
    if !found.is_ours {
        let manager = gtrid.opening.manager;
        return format!("manager {manager}, which has another log; its epoch {epoch}");
    }
    if let Some(member) = &found.member {
        let state = match (member.state, member.silent_seconds) {
            (MemberState::Alive, _) => "alive".to_owned(),
            (MemberState::Closed, _) => "its epoch is closed: it decides nothing more".to_owned(),
            (MemberState::Silent, Some(seconds)) => {
                format!("no sign of life for {seconds} s and more")
            }
            (MemberState::Silent, None) => "no sign of life".to_owned(),
        };
        return format!("member {} (epoch {epoch}): {state}", member.label);
    }
    if log.is_unlisted {
        // Its epoch may be another opening's, too.
        return format!("an opening that this log does not list (epoch {epoch})");
    }
    match listing.application {
        Some(process) if gtrid.opening == inner.log.opening() => {
            format!("the application, process {process}, alive (epoch {epoch})")
        }
        Some(process) => format!(
            "an earlier run, epoch {epoch}; the application, process {process}, ends its branches"
        ),
        None => format!("a run that has ended (epoch {epoch}); no application holds the log"),
    }
}

/// What recovery will do, and when.
pub(super) fn recovery(
    inner: &Inner,
    listing: &Listing,
    found: &Found,
    log: &InLog,
) -> Vec<String> {
    let mut lines = Vec::new();
    for at in &found.branches {
        let plan = &at.branch.plan;
        let is_silent = found
            .member
            .as_ref()
            .is_some_and(|member| member.state == MemberState::Silent);
        let when = match at.branch.state {
            State::SilentMember if is_silent => closing(listing, found),
            State::Decided | State::Orphaned => {
                format!("; {}", when(inner, listing, &at.resource))
            }
            State::Active
            | State::OtherMember
            | State::SilentMember
            | State::Unlisted
            | State::CameBack
            | State::OtherManager
            | State::Foreign
            | State::Ended
            | State::Unknown => String::new(),
        };
        lines.push(format!("{}: {plan}{when}", at.resource));
    }
    let is_seen = |name: &&ResourceName| {
        let mut branches = found.branches.iter();
        branches.any(|at| at.resource == name.as_str())
    };
    let is_here = |name: &&ResourceName| inner.resources.contains_key(*name);
    for name in log
        .unproven
        .iter()
        .filter(|name| !is_seen(name) && is_here(name))
    {
        lines.push(format!(
            "{name}: commit, or prove that it was committed, once that can be looked at"
        ));
    }
    lines
}

fn when(inner: &Inner, listing: &Listing, resource: &str) -> String {
    if listing.shared {
        let alive = listing.members.iter();
        let alive = alive
            .filter(|member| member.state == MemberState::Alive)
            .count();
        return if alive > 0 {
            format!("by the next pass of one of the {alive} members alive")
        } else {
            "no member is alive: start one, or: unanimous recover".to_owned()
        };
    }
    if listing.application.is_none() {
        return "when the application starts, or: unanimous recover".to_owned();
    }
    match inner.recovery.next_pass(resource) {
        Some(left) => format!(
            "by the application's next pass there, in {} s",
            left.as_secs_f64().ceil()
        ),
        None => "by the application's pass that is under way".to_owned(),
    }
}

/// Who closes the epoch of a silent member.
fn closing(listing: &Listing, found: &Found) -> String {
    let alive = listing.members.iter();
    let alive = alive.filter(|member| member.state == MemberState::Alive);
    let alive: Vec<Epoch> = alive.map(|member| Epoch(member.epoch)).collect();
    let suspect = found.member.as_ref().map(|member| Epoch(member.epoch));
    let closer = suspect.and_then(|suspect| picked(suspect, &alive));
    let closer = closer.and_then(|closer| listing.members.iter().find(|m| m.epoch == closer.0));
    match closer {
        Some(closer) => format!(
            ", which member {} does when it suspects it, and then ends it",
            closer.label
        ),
        None => "; no member is alive to do that: start one, or: unanimous recover".to_owned(),
    }
}

/// What a person may safely do, in plain words; the most important first.
/// Last, what could not be looked at, and whether that is, or may be, all of the log.
pub(super) fn advice(
    inner: &Inner,
    found: &Found,
    log: &InLog,
    (unseen, is_log_unseen): (&[String], bool),
) -> Vec<String> {
    let mut lines: Vec<String> = of_ends(&found.name, log).into_iter().collect();
    let epoch = found.gtrid.map_or(0, |gtrid| gtrid.opening.epoch.0);
    lines.extend(
        states(found)
            .into_iter()
            .map(|state| of_state(state, epoch, is_log_unseen)),
    );
    lines.retain(|line| !line.is_empty());
    let away = log.unproven.iter();
    for name in away.filter(|name| !inner.resources.contains_key(*name)) {
        lines.push(format!(
            "the decision waits for {name}, which is not registered here: name it again, at the \
             same database; or, if it is gone for good: unanimous forget {} --lost {name} \
             --reason …",
            found.name
        ));
    }
    if lines.is_empty() {
        lines.push(if !unseen.is_empty() {
            format!(
                "not all could be looked at ({}): nothing can be advised before that",
                unseen.join("; ")
            )
        } else if log.decision == DecisionShown::Unknown {
            "the log cannot tell what was decided: nothing can be advised before that".to_owned()
        } else if !log.unproven.is_empty() {
            "nothing by hand: no branch of it is prepared; unanimous recover proves how they \
             ended"
                .to_owned()
        } else {
            "nothing has to be done: no branch of it is prepared".to_owned()
        });
    }
    lines
}

/// Of branches that ended otherwise, or may have.
fn of_ends(name: &str, log: &InLog) -> Option<String> {
    let open = || {
        log.ends
            .iter()
            .filter(|(_, _, is_dealt_with)| !is_dealt_with)
    };
    let hazards = open().filter(|(_, end, _)| *end == Heuristic::Hazard);
    let forget = format!("unanimous forget {name} --reason …");
    if log.ends.is_empty() {
        None
    } else if open().count() == 0 {
        Some("what ended otherwise has been dealt with".to_owned())
    } else if open().count() > hazards.count() {
        Some(format!(
            "the databases differ: compare them and mend the data by hand; nothing here can undo \
             it. Once they agree: {forget}"
        ))
    } else {
        Some(format!(
            "the databases may differ: compare them, and mend the data by hand if they do. Once \
             they agree: {forget}"
        ))
    }
}

fn of_state(state: State, epoch: u32, is_log_unseen: bool) -> String {
    match state {
        State::Active => "leave it alone: it is running, and its owner ends it".to_owned(),
        State::Decided => "unanimous recover is safe: it commits what was decided. Never roll a \
             branch of it back by hand"
            .to_owned(),
        State::Orphaned => "unanimous recover is safe: it rolls back what nobody can decide any \
             more. Never commit a branch of it by hand"
            .to_owned(),
        State::OtherMember => {
            "leave it alone: its owner lives, may still decide, and ends it".to_owned()
        }
        State::SilentMember => format!(
            "unanimous recover is safe: it closes the epoch after a while, then ends the branches; \
             if the member is known to be dead, at once: unanimous recover --close {epoch}"
        ),
        State::Unlisted => format!(
            "end nothing before it is known what was decided: the log cannot tell. {FIND_OUT}"
        ),
        State::CameBack => "see how its other branches ended, and end it the same way: unanimous \
             resolve says what was decided, if that is known"
            .to_owned(),
        State::OtherManager => "end nothing from here: run unanimous with the config file of the \
             application that has this manager's log"
            .to_owned(),
        State::Foreign => {
            "end nothing from here: ask the log of the manager that made it".to_owned()
        }
        State::Unknown if is_log_unseen => {
            "end nothing before the log can be read: mend that first".to_owned()
        }
        State::Unknown => {
            "end nothing before its database, or its record, can be looked at".to_owned()
        }
        State::Ended => String::new(),
    }
}

/// What could not be looked at, each with why.
pub(super) fn unseen(listing: &Listing) -> Vec<String> {
    let failed = listing.resources.iter().filter_map(|at| {
        let error = at.error.as_ref()?;
        Some(format!("{}: {error}", at.resource))
    });
    let log = listing
        .log_error
        .iter()
        .map(|error| format!("the log: {error}"));
    log.chain(failed).collect()
}

/// Of the resources at which it has branches.
pub(super) fn notes(listing: &Listing, found: &Found) -> Vec<String> {
    let at = |name: &String| found.branches.iter().any(|b| b.resource == *name);
    let resources = listing.resources.iter().filter(|r| at(&r.resource));
    let notes = resources.flat_map(|at| {
        let name = &at.resource;
        at.notes.iter().map(move |note| format!("{name}: {note}"))
    });
    let mut notes: Vec<String> = notes.collect();
    for branch in found.branches.iter().filter(|b| !b.untold.is_empty()) {
        notes.push(format!(
            "{}: the server does not tell which of {} prepared transactions this branch is",
            branch.resource,
            branch.untold.len()
        ));
    }
    notes
}
