//! `show`: one transaction, whole.

use clap::Args;
use unanimous::operator::{
    BranchShown, ConfigFile, Held, ListedHorizon, ListedSession, TransactionShown,
};

use crate::args::Format;
use crate::list::{age_of, counted, decision_of, member_state};
use crate::output::{age, blank, or_dash, plain, state, table, text, to_json};
use crate::resolve::{HANDS, hand_row, time};
use crate::run::{CLEAN, Failure, IN_DOUBT, close, open, patiently, talk};

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A gtrid, the name of one of its branches as a server prints it (a GID, an XID of XA
    /// RECOVER), or the beginning of one that no other transaction has.
    #[arg(value_name = "GTRID")]
    pub(crate) transaction: String,
}

pub(crate) async fn run(file: &ConfigFile, options: &Show, format: Format) -> Result<u8, Failure> {
    let access = open(file).await?;
    let ended = match patiently(access.show(&options.transaction)).await {
        Ok(shown) => tell(&shown, format),
        Err(error) => Err(error.into()),
    };
    close(access, ended).await
}

fn tell(shown: &TransactionShown, format: Format) -> Result<u8, Failure> {
    match format {
        Format::Json => to_json(serde_json::to_value(shown))?,
        Format::Table => print(shown)?,
    }
    for unseen in &shown.unseen {
        talk(&format!("error: not looked at: {}", plain(unseen)));
    }
    if !shown.unseen.is_empty() {
        Err(Failure::Reported)
    } else if shown.in_doubt {
        Ok(IN_DOUBT)
    } else {
        Ok(CLEAN)
    }
}

fn print(shown: &TransactionShown) -> Result<(), Failure> {
    let mut lines = vec![
        format!("transaction  {}", plain(&shown.transaction)),
        format!("owner        {}", plain(&shown.owner)),
    ];
    if let Some(member) = &shown.member {
        lines.push(format!("member       {}", member_state(member)));
    }
    lines.push(format!("decision     {}", plain(&shown.decided)));
    if let Some(when) = shown.decided_at {
        lines.push(format!("decided at   {}", time(when)));
    }
    if !shown.ended.is_empty() {
        lines.push(format!("ended at     {}", shown.ended.join(", ")));
    }
    several(&mut lines, "recovery", &shown.recovery);
    several(&mut lines, "do", &shown.advice);
    several(&mut lines, "note", &shown.notes);
    text(&lines.join("\n"))?;
    some_table(&HANDS, shown.by_hand.iter().map(hand_row).collect())?;
    some_table(&BRANCHES, shown.branches.iter().map(branch).collect())?;
    some_table(&LOCKS, shown.branches.iter().flat_map(locks).collect())?;
    some_table(&BLOCKED, shown.branches.iter().flat_map(blocked).collect())?;
    some_table(
        &HORIZONS,
        shown.branches.iter().flat_map(horizons).collect(),
    )
}

pub(crate) const BRANCHES: [&str; 7] = [
    "RESOURCE", "STATE", "AGE", "DECISION", "LOCKS", "BLOCKED", "XID",
];
pub(crate) const LOCKS: [&str; 4] = ["RESOURCE", "LOCKED", "MODE", "COUNT"];
pub(crate) const BLOCKED: [&str; 5] = ["RESOURCE", "SESSION", "USER", "WAITS", "STATEMENT"];
pub(crate) const HORIZONS: [&str; 4] = ["RESOURCE", "HELD BACK", "COUNT", "LIMIT"];

/// One line, or several below each other.
fn several(lines: &mut Vec<String>, label: &str, values: &[String]) {
    for (index, value) in values.iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        lines.push(format!("{label:<12} {}", plain(value)));
    }
}

fn some_table(head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    blank()?;
    table(head, rows)
}

fn branch(at: &BranchShown) -> Vec<String> {
    let branch = &at.branch;
    vec![
        at.resource.clone(),
        state(branch.state).to_owned(),
        age_of(branch),
        decision_of(branch).to_owned(),
        counted(branch.held.as_ref(), |held| held.locks),
        counted(branch.held.as_ref(), |held| held.blocked),
        plain(branch.decoded.as_ref().unwrap_or(&branch.xid)),
    ]
}

fn locks(at: &BranchShown) -> Vec<Vec<String>> {
    let Some(held) = &at.branch.held else {
        return Vec::new();
    };
    let named = held.lock_list.iter().map(|lock| {
        vec![
            at.resource.clone(),
            plain(&lock.object),
            plain(&lock.mode),
            lock.count.to_string(),
        ]
    });
    let mut rows: Vec<_> = named.collect();
    let told: u64 = held.lock_list.iter().map(|lock| lock.count).sum();
    let more = held.locks.unwrap_or_default().saturating_sub(told);
    if more > 0 {
        rows.push(vec![at.resource.clone(), format!("and {more} more")]);
    }
    rows
}

/// Of the branch; or, if the server does not tell which it is, of all that it may be.
fn blocked(at: &BranchShown) -> Vec<Vec<String>> {
    match &at.branch.held {
        Some(held) => sessions(at, held, ""),
        None => {
            let rows = at
                .untold
                .iter()
                .map(|held| sessions(at, held, " (or another branch's)"));
            rows.flatten().collect()
        }
    }
}

fn sessions(at: &BranchShown, held: &Held, whose: &str) -> Vec<Vec<String>> {
    let told = held
        .session_list
        .iter()
        .map(|waiting| session(at, waiting, whose));
    let mut rows: Vec<_> = told.collect();
    let told = held.session_list.len() as u64;
    let more = held.blocked.unwrap_or_default().saturating_sub(told);
    if more > 0 {
        rows.push(vec![at.resource.clone(), format!("and {more} more")]);
    }
    rows
}

fn session(at: &BranchShown, waiting: &ListedSession, whose: &str) -> Vec<String> {
    let behind = if waiting.behind {
        ", behind others"
    } else {
        ""
    };
    let waits = or_dash(waiting.waiting_seconds.map(age));
    vec![
        at.resource.clone(),
        waiting.session.to_string(),
        or_dash(waiting.user.as_deref().map(plain)),
        format!("{waits}{behind}{whose}"),
        or_dash(waiting.statement.as_deref().map(plain)),
    ]
}

fn horizons(at: &BranchShown) -> Vec<Vec<String>> {
    let own = at
        .branch
        .held
        .as_ref()
        .and_then(|held| held.horizon.as_ref());
    let all = own.into_iter().chain(&at.horizon);
    all.map(|horizon| self::horizon(at, horizon)).collect()
}

fn horizon(at: &BranchShown, horizon: &ListedHorizon) -> Vec<String> {
    let oldest = if horizon.oldest {
        " (nothing is older)"
    } else {
        ""
    };
    vec![
        at.resource.clone(),
        format!("{}{oldest}", plain(&horizon.subject)),
        horizon.count.to_string(),
        or_dash(horizon.limit.map(|limit| limit.to_string())),
    ]
}
