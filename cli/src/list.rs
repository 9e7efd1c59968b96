//! `list`: what is prepared everywhere, and what recovery would do about it.

use unanimous::operator::{ConfigFile, ListedMember, Listing, MemberState};

use crate::args::Format;
use crate::output::{age, blank, or_dash, plain, state, table, to_json};
use crate::run::{CLEAN, Failure, IN_DOUBT, close, open, patiently, talk};

pub(crate) async fn run(file: &ConfigFile, format: Format) -> Result<u8, Failure> {
    let access = open(file).await?;
    let ended = match patiently(access.list()).await {
        Ok(listing) => show(&listing, format),
        Err(error) => Err(error.into()),
    };
    close(access, ended).await
}

/// The data, the talk and the exit code.
pub(crate) fn show(listing: &Listing, format: Format) -> Result<u8, Failure> {
    print(listing, format)?;
    explain(listing);
    code(listing)
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

fn print(listing: &Listing, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => to_json(serde_json::to_value(listing)),
        Format::Table => {
            members(&listing.members)?;
            let mut head = vec!["RESOURCE", "STATE", "AGE", "EPOCH"];
            if listing.shared {
                head.push("MEMBER");
            }
            head.extend(["DECISION", "RECOVERY", "XID"]);
            table(&head, rows(listing))
        }
    }
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

fn rows(listing: &Listing) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for at in &listing.resources {
        for branch in &at.branches {
            let decision = match branch.decided {
                Some(true) => "commit",
                Some(false) => "none",
                None => "-",
            };
            let mut row = vec![
                at.resource.clone(),
                state(branch.state).to_owned(),
                or_dash(branch.age_seconds.map(age)),
                or_dash(branch.epoch.map(|epoch| epoch.to_string())),
            ];
            if listing.shared {
                row.push(or_dash(branch.member.as_deref().map(plain)));
            }
            row.extend([decision.to_owned(), plain(&branch.plan), plain(&branch.xid)]);
            rows.push(row);
        }
    }
    rows
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
    let manager = &listing.manager;
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
    } else {
        let (active, epoch) = (listing.active, listing.epoch);
        talk(&format!(
            "{in_doubt} in doubt, {listed} listed, {active} transactions active; manager \
             {manager}, epoch {epoch}"
        ));
    }
}

pub(crate) fn unknown(resources: &[String]) {
    for name in resources {
        talk(&format!(
            "in doubt: the log has decisions for resource {name}, which is not registered: name it \
             in the application (and in the config file) again, at the same database"
        ));
    }
}
