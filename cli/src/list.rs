//! `list`: what is prepared everywhere, and what recovery would do about it.

use clap::Args;
use unanimous::operator::{ConfigFile, Held, ListedBranch, ListedMember, Listing, MemberState};

use crate::args::Format;
use crate::filter::Filter;
use crate::output::{age, blank, or_dash, plain, state, table, to_json};
use crate::resolve::time;
use crate::run::{CLEAN, Failure, IN_DOUBT, close, open, patiently, talk};

/// Of branches that are prepared.
const FILTERS: [&str; 10] = [
    "prefix",
    "resource",
    "state",
    "older_than",
    "member",
    "epoch",
    "blocking",
    "in_doubt",
    "foreign",
    "sort",
];

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Instead: branches that ended otherwise than was decided, and what people did. Exits with 1
    /// if one of them was not dealt with. All of them: it takes no filter.
    #[arg(long, conflicts_with_all = FILTERS)]
    pub(crate) heuristic: bool,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

pub(crate) async fn run(file: &ConfigFile, filter: &Filter, format: Format) -> Result<u8, Failure> {
    let access = open(file).await?;
    let ended = match patiently(access.list()).await {
        Ok(listing) => show(&listing, filter, format),
        Err(error) => Err(error.into()),
    };
    close(access, ended).await
}

/// The data, the talk and the exit code.
pub(crate) fn show(listing: &Listing, filter: &Filter, format: Format) -> Result<u8, Failure> {
    for name in &filter.resource {
        known(listing, name)?;
    }
    let hidden = print(listing, filter, format)?;
    explain(listing);
    if hidden > 0 {
        talk(&format!(
            "{hidden} not shown: the filters hide them, and the exit code counts them"
        ));
    }
    code(listing)
}

/// # Errors
/// There is no such resource.
pub(crate) fn known(listing: &Listing, name: &str) -> Result<(), Failure> {
    if listing.resources.iter().any(|at| at.resource == name) {
        return Ok(());
    }
    let names: Vec<_> = listing.resources.iter().map(|at| &*at.resource).collect();
    let names = names.join(", ");
    Err(Failure::Message(format!(
        "no resource is called {name:?}; there are {names}"
    )))
}

/// Failed beats in doubt beats clean.
pub(crate) fn code(listing: &Listing) -> Result<u8, Failure> {
    if listing.has_failed() {
        Err(Failure::Reported)
    } else if listing.is_in_doubt() {
        Ok(IN_DOUBT)
    } else {
        Ok(CLEAN)
    }
}

/// How many branches were hidden.
fn print(listing: &Listing, filter: &Filter, format: Format) -> Result<usize, Failure> {
    let (shown, hidden) = filter.rows(listing);
    match format {
        Format::Json => to_json(serde_json::to_value(filter.apply(listing)))?,
        Format::Table => {
            members(&listing.members)?;
            let rows = shown
                .into_iter()
                .map(|(resource, branch)| row(listing, resource, branch));
            table(&head(listing.shared), rows.collect())?;
        }
    }
    Ok(hidden)
}

pub(crate) fn head(is_shared: bool) -> Vec<&'static str> {
    let mut head = vec!["RESOURCE", "STATE", "AGE", "EPOCH"];
    if is_shared {
        head.push("MEMBER");
    }
    head.extend(["DECISION", "LOCKS", "BLOCKED", "RECOVERY", "XID"]);
    head
}

/// Who shares the log; nothing if nobody can.
fn members(members: &[ListedMember]) -> Result<(), Failure> {
    if members.is_empty() {
        return Ok(());
    }
    let rows = members.iter().map(|member| {
        vec![
            member.epoch.to_string(),
            plain(&member.label),
            member_state(member),
            member.branches.to_string(),
        ]
    });
    table(&["EPOCH", "MEMBER", "STATE", "BRANCHES"], rows.collect())?;
    blank()
}

pub(crate) fn member_state(member: &ListedMember) -> String {
    match (member.state, member.silent_seconds) {
        (MemberState::Alive, _) => "alive".into(),
        (MemberState::Closed, _) => "closed".into(),
        (MemberState::Silent, Some(seconds)) => format!("silent for {}", age(seconds)),
        // Of a newer library.
        (MemberState::Silent | _, _) => "silent".into(),
    }
}

fn row(listing: &Listing, resource: &str, branch: &ListedBranch) -> Vec<String> {
    let mut row = vec![
        resource.to_owned(),
        state(branch.state).to_owned(),
        age_of(branch),
        or_dash(branch.epoch.map(|epoch| epoch.to_string())),
    ];
    if listing.shared {
        row.push(or_dash(branch.member.as_deref().map(plain)));
    }
    row.extend([
        dated_decision_of(branch),
        counted(branch.held.as_ref(), |held| held.locks),
        counted(branch.held.as_ref(), |held| held.blocked),
        plain(&branch.plan),
        plain(branch.decoded.as_ref().unwrap_or(&branch.xid)),
    ]);
    row
}

/// How long it has been prepared; where the server does not tell, how long there has been a
/// transaction.
pub(crate) fn seconds_of(branch: &ListedBranch) -> Option<u64> {
    let begun = || branch.held.as_ref()?.begun_seconds;
    branch.age_seconds.or_else(begun)
}

pub(crate) fn age_of(branch: &ListedBranch) -> String {
    or_dash(seconds_of(branch).map(age))
}

pub(crate) const fn decision_of(branch: &ListedBranch) -> &'static str {
    match branch.decided {
        Some(true) => "commit",
        Some(false) => "none",
        None => "-",
    }
}

/// The same, and when it was made, if that is known.
fn dated_decision_of(branch: &ListedBranch) -> String {
    let decision = decision_of(branch);
    match branch.decided_at {
        Some(when) => format!("{decision}, {}", time(when)),
        None => decision.to_owned(),
    }
}

/// A count of what it holds, `?` if that cannot be seen.
pub(crate) fn counted(held: Option<&Held>, count: impl Fn(&Held) -> Option<u64>) -> String {
    held.and_then(count)
        .map_or_else(|| "?".to_owned(), |count| count.to_string())
}

/// What the table does not hold.
pub(crate) fn explain(listing: &Listing) {
    for at in &listing.resources {
        if let Some(error) = &at.error {
            talk(&format!("error: {}: not looked at: {error}", at.resource));
        }
    }
    if let Some(error) = &listing.log_error {
        talk(&format!("error: the log cannot be read: {error}"));
    }
    unknown(&listing.unknown_resources);
    let branches = || listing.resources.iter().flat_map(|at| &at.branches);
    let in_doubt = branches().filter(|branch| branch.in_doubt).count();
    let listed = branches().count();
    let manager = match listing.manager.as_str() {
        "" => "not known",
        manager => manager,
    };
    if listing.shared {
        let count = |state| {
            let members = listing.members.iter();
            members.filter(|member| member.state == state).count()
        };
        talk(&format!(
            "{in_doubt} in doubt, {listed} listed; manager {manager}, members: {} alive, {} silent",
            count(MemberState::Alive),
            count(MemberState::Silent)
        ));
    } else if listing.epoch == 0 {
        talk(&format!(
            "{in_doubt} in doubt, {listed} listed; manager {manager}"
        ));
    } else {
        let (active, epoch) = (listing.active, listing.epoch);
        talk(&format!(
            "{in_doubt} in doubt, {listed} listed, {active} transactions active; manager \
             {manager}, epoch {epoch}"
        ));
    }
    for at in &listing.resources {
        for note in &at.notes {
            talk(&format!("note: {}: {}", at.resource, plain(note)));
        }
        untold(&at.resource, &at.untold);
    }
}

/// Locks of which the server does not tell whose they are.
fn untold(resource: &str, untold: &[Held]) {
    let blocked: u64 = untold.iter().filter_map(|held| held.blocked).sum();
    if blocked > 0 {
        talk(&format!(
            "note: {resource}: {blocked} sessions wait for prepared transactions of which the \
             server does not tell the XID: each is one of the branches with ? above"
        ));
    }
}

pub(crate) fn unknown(resources: &[String]) {
    for name in resources {
        talk(&format!(
            "in doubt: the log has decisions for resource {name}, which is not registered: name it \
             in the application (and in the config file) again, at the same database; or, if it is \
             gone for good: unanimous forget GTRID --lost {name} --reason … (unanimous log show \
             --pending lists them)"
        ));
    }
}
