//! `unanimous log show`.

use clap::Args;
use unanimous::operator::{ConfigFile, Shown, ShownLog, ShownOpening, ShownTransaction};

use crate::args::Format;
use crate::output::{blank, plain, table, to_json};
use crate::resolve::{HANDS, hand_row};
use crate::run::{CLEAN, Failure, patiently, talk};

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Only this transaction, whatever the log says of it: its gtrid, or the XID of a branch.
    #[arg(value_name = "GTRID", conflicts_with_all = ["pending", "all"])]
    pub(crate) gtrid: Option<String>,
    /// Only decisions that are not completed.
    #[arg(long, conflicts_with = "all")]
    pub(crate) pending: bool,
    /// Completed ones, too, as far as they are kept.
    #[arg(long)]
    pub(crate) all: bool,
}

pub(crate) async fn run(file: &ConfigFile, options: &Show, format: Format) -> Result<u8, Failure> {
    let which = match (&options.gtrid, options.pending, options.all) {
        (Some(gtrid), _, _) => Shown::One(gtrid.clone()),
        (None, true, _) => Shown::Pending,
        (None, false, true) => Shown::All,
        (None, false, false) => Shown::Unfinished,
    };
    let shown = patiently(ShownLog::read(file, &which)).await?;
    match format {
        Format::Json => to_json(serde_json::to_value(&shown))?,
        Format::Table => tables(&shown, options.gtrid.is_none())?,
    }
    tell(&shown);
    Ok(CLEAN)
}

fn tables(shown: &ShownLog, has_openings: bool) -> Result<(), Failure> {
    if has_openings {
        let rows = shown.openings.iter().map(opening);
        let head = ["EPOCH", "STATE", "RANDOM BITS", "OPENED ON", "BY"];
        table(&head, rows.collect())?;
    }
    if shown.transactions.is_empty() {
        return Ok(());
    }
    if has_openings {
        blank()?;
    }
    let rows = shown.transactions.iter().map(transaction);
    let head = ["GTRID", "RECORD", "BRANCHES", "HEURISTICS"];
    table(&head, rows.collect())?;
    let hands = shown.transactions.iter().flat_map(|shown| &shown.by_hand);
    let hands: Vec<_> = hands.map(hand_row).collect();
    if hands.is_empty() {
        return Ok(());
    }
    blank()?;
    table(&HANDS, hands)
}

fn opening(row: &ShownOpening) -> Vec<String> {
    let state = match (row.closed, row.doubtful) {
        (false, _) => "open",
        (true, true) => "closed, doubtful",
        (true, false) => "closed",
    };
    vec![
        row.epoch.to_string(),
        state.to_owned(),
        row.random.clone(),
        plain(&row.server),
        plain(&row.label),
    ]
}

/// A branch a line: resource, server, and what proves its end.
fn transaction(shown: &ShownTransaction) -> Vec<String> {
    let branches = shown.branches.iter().map(|branch| {
        let text = format!(
            "{} at {} {}",
            branch.resource, branch.server, branch.evidence
        );
        plain(text.trim_end())
    });
    let branches: Vec<_> = branches.collect();
    let ends = shown.heuristics.iter();
    let ends: Vec<_> = ends
        .map(|end| plain(&format!("{}: {}", end.resource, end.end)))
        .collect();
    let or_dash = |lines: Vec<String>| {
        if lines.is_empty() {
            "-".to_owned()
        } else {
            lines.join("\n")
        }
    };
    vec![
        shown.gtrid.clone(),
        shown.record.as_str().to_owned(),
        or_dash(branches),
        or_dash(ends),
    ]
}

fn tell(shown: &ShownLog) {
    if let Some(place) = &shown.sealed_for {
        talk(&format!("the log is sealed: it went to {}", plain(place)));
    }
    if let Some(segment) = &shown.unfinished_batch {
        talk(&format!(
            "{} ends in a batch that is just being written, or was not written to its end",
            plain(segment)
        ));
    }
    let (place, manager) = (plain(&shown.place), &shown.manager);
    talk(&format!(
        "{} openings, {} transactions shown; manager {manager}, {place}",
        shown.openings.len(),
        shown.transactions.len()
    ));
}
