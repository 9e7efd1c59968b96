//! `resolve`, `forget` and `list --heuristic`: what a person does by hand, and what came of it.

use std::os::unix::fs::MetadataExt;

use clap::Args;
use unanimous::operator::{self, ConfigFile, Heuristics, ListedHand, Resolved};

use crate::args::Format;
use crate::lost;
use crate::output::{blank, or_dash, plain, table, to_json};
use crate::recover::agreed;
use crate::run::{CLEAN, Failure, IN_DOUBT, close, hold, open, patiently, talk};

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("end").required(true)))]
pub(crate) struct Resolve {
    /// The transaction, as `list` shows it.
    pub(crate) gtrid: String,
    /// Commit its prepared branches.
    #[arg(long, group = "end")]
    pub(crate) commit: bool,
    /// Roll them back.
    #[arg(long, group = "end")]
    pub(crate) rollback: bool,
    /// Why. Kept in the decision log, with who and when.
    #[arg(long)]
    pub(crate) reason: String,
    /// Only the branch at this resource.
    #[arg(long, value_name = "NAME")]
    pub(crate) resource: Option<String>,
    /// Also if that contradicts the decision, or the rollback that is presumed without one: the
    /// transaction then ends in part.
    #[arg(long)]
    pub(crate) against_the_decision: bool,
    /// Also if nobody here can know what was decided: the log that knew is lost for good, and
    /// nobody uses it any more.
    #[arg(long)]
    pub(crate) its_log_is_lost: bool,
    /// Only show what it would mean.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Forget {
    /// The transaction, as `list --heuristic` shows it.
    pub(crate) gtrid: String,
    /// What was done about it. Kept in the decision log, with who and when.
    #[arg(long)]
    pub(crate) reason: String,
    /// The branch at this resource is lost: its database is gone for good, or another server has
    /// taken its place. Its decision waits for it no more, and the transaction is reported as a
    /// hazard.
    #[arg(long, value_name = "NAME")]
    pub(crate) lost: Option<String>,
    /// On a shared log: also if this config file does not name the resource and members live that
    /// may have it, because none of them has.
    #[arg(long, requires = "lost")]
    pub(crate) nobody_has_it: bool,
    /// Only show what it would mean. With --lost, a log in a folder that no application holds is
    /// held meanwhile: databases are asked for proofs.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

pub(crate) async fn run(
    file: &ConfigFile,
    options: &Resolve,
    format: Format,
) -> Result<u8, Failure> {
    let mut wanted = operator::Resolve::new(&options.gtrid, options.commit, who(), &options.reason);
    wanted.resource.clone_from(&options.resource);
    wanted.against_the_decision = options.against_the_decision;
    wanted.its_log_is_lost = options.its_log_is_lost;
    let access = open(file).await?;
    let plan = match patiently(access.plan_resolve(&wanted)).await {
        Ok(plan) => plan,
        Err(error) => return close(access, Err(error.into())).await,
    };
    if options.dry_run || !plan.refusals.is_empty() {
        let shown = show(&plan, format);
        close(access, shown).await?;
        return refused(&plan).map_or(Ok(IN_DOUBT), Err);
    }
    tell(&plan);
    let question = "end these branches by hand?";
    match agreed(options.yes, question) {
        Ok(true) => {}
        answer => return close(access, answer.map(|_| IN_DOUBT)).await,
    }
    let wanted = wanted.as_shown(&plan);
    let resolving = async {
        hold(&access).await?;
        access.resolve(&wanted).await
    };
    let done = match patiently(resolving).await {
        Ok(done) => show(&done, format).map(|()| done),
        Err(error) => Err(error.into()),
    };
    let done = close(access, done).await?;
    match refused(&done) {
        Some(failure) => Err(failure),
        None if done.is_done() => Ok(CLEAN),
        None => Ok(IN_DOUBT),
    }
}

/// What has changed since it was shown, too.
fn refused(resolved: &Resolved) -> Option<Failure> {
    for refusal in &resolved.refusals {
        talk(&format!("refused: {}", plain(refusal)));
    }
    (!resolved.refusals.is_empty()).then_some(Failure::Reported)
}

fn tell(plan: &Resolved) {
    for branch in &plan.branches {
        let (words, xid) = (plain(&branch.words), plain(&branch.xid));
        talk(&format!("{}: {words}: {xid}", branch.resource));
    }
    notes(plan);
}

fn notes(resolved: &Resolved) {
    let decision = match (resolved.decided, resolved.decided_at) {
        (Some(true), Some(when)) => format!("to commit, {}", time(when)),
        (Some(true), None) => "to commit".to_owned(),
        (Some(false), _) => "none".to_owned(),
        (None, _) => "not known".to_owned(),
    };
    talk(&format!("decision: {decision}"));
    for note in &resolved.notes {
        talk(&format!("note: {}", plain(note)));
    }
}

fn show(resolved: &Resolved, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => to_json(serde_json::to_value(resolved))?,
        Format::Table => {
            let rows = resolved.branches.iter().map(|branch| {
                let state = match (branch.ended, resolved.acted) {
                    (_, true) if branch.unrecorded => "NOT ON RECORD",
                    (Some(true), _) => "ended",
                    (Some(false), _) => "NOT ENDED BY THIS",
                    (None, true) => "NOT SEEN",
                    (None, false) => "prepared",
                };
                let kind = if branch.heuristic { "heuristic" } else { "-" };
                vec![
                    branch.resource.clone(),
                    state.to_owned(),
                    kind.to_owned(),
                    plain(&branch.words),
                    plain(&branch.xid),
                ]
            });
            let head = ["RESOURCE", "STATE", "KIND", "WHAT", "XID"];
            table(&head, rows.collect())?;
        }
    }
    notes(resolved);
    Ok(())
}

pub(crate) async fn list(file: &ConfigFile, format: Format) -> Result<u8, Failure> {
    let access = open(file).await?;
    let listed = match patiently(access.heuristics()).await {
        Ok(listed) => show_ends(&listed, format).map(|()| listed),
        Err(error) => Err(error.into()),
    };
    let listed = close(access, listed).await?;
    Ok(if listed.is_open() { IN_DOUBT } else { CLEAN })
}

pub(crate) async fn forget(
    file: &ConfigFile,
    options: &Forget,
    format: Format,
) -> Result<u8, Failure> {
    if let Some(resource) = &options.lost {
        return lost::run(file, options, resource, format).await;
    }
    let access = open(file).await?;
    let wanted = operator::Forget::new(&options.gtrid, who(), &options.reason);
    let plan = match patiently(access.plan_forget(&wanted)).await {
        Ok(plan) => plan,
        Err(error) => return close(access, Err(error.into())).await,
    };
    if options.dry_run {
        let shown = show_ends(&plan, format);
        close(access, shown).await?;
        return Ok(IN_DOUBT);
    }
    tell_ends(&plan);
    let question = "were these dealt with?";
    match agreed(options.yes, question) {
        Ok(true) => {}
        answer => return close(access, answer.map(|_| IN_DOUBT)).await,
    }
    let wanted = wanted.as_shown(&plan);
    let forgetting = async {
        hold(&access).await?;
        access.forget(&wanted).await
    };
    let listed = match patiently(forgetting).await {
        Ok(listed) => show_ends(&listed, format),
        Err(error) => Err(error.into()),
    };
    close(access, listed).await?;
    Ok(CLEAN)
}

/// What is called dealt with, and what people did before.
fn tell_ends(plan: &Heuristics) {
    for end in &plan.ends {
        let when = or_dash(end.when.map(time));
        talk(&format!("{}: ended by {}, {when}", end.resource, end.end));
    }
    for hand in &plan.by_hand {
        let (who, reason) = (plain(&hand.who), plain(&hand.reason));
        let ListedHand {
            resource,
            act,
            state,
            when,
            ..
        } = hand;
        let when = time(*when);
        talk(&format!(
            "note: {resource}: {act} by {who}, {state}, {when}: {reason}"
        ));
    }
}

fn show_ends(listed: &Heuristics, format: Format) -> Result<(), Failure> {
    for note in &listed.notes {
        talk(&format!("note: {}", plain(note)));
    }
    if format == Format::Json {
        return to_json(serde_json::to_value(listed));
    }
    let ends = listed.ends.iter().map(|end| {
        let dealt = if end.forgotten { "dealt with" } else { "open" };
        vec![
            end.resource.clone(),
            end.end.clone(),
            dealt.to_owned(),
            or_dash(end.when.map(time)),
            plain(&end.gtrid),
        ]
    });
    table(
        &["RESOURCE", "ENDED BY", "STATE", "WHEN", "TRANSACTION"],
        ends.collect(),
    )?;
    blank()?;
    table(&HANDS, listed.by_hand.iter().map(hand_row).collect())
}

/// The columns of what people did.
pub(crate) const HANDS: [&str; 7] = [
    "RESOURCE",
    "BY HAND",
    "STATE",
    "WHEN",
    "WHO",
    "TRANSACTION",
    "REASON",
];

pub(crate) fn hand_row(hand: &ListedHand) -> Vec<String> {
    vec![
        hand.resource.clone(),
        hand.act.clone(),
        hand.state.clone(),
        time(hand.when),
        plain(&hand.who),
        plain(&hand.gtrid),
        plain(&hand.reason),
    ]
}

/// As in RFC 3339, in UTC.
pub(crate) fn time(seconds: u64) -> String {
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The day of the Gregorian calendar, so many days after the first of January 1970.
const fn date(days: u64) -> (u64, u64, u64) {
    // Counted from the first of March of the year 0, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (year + era * 400 + carry, month, day)
}

/// The account and the host of whoever runs this, for people to read: what they are called is the
/// environment's word, the number is the system's.
pub(crate) fn who() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter();
    let user = user.filter_map(|name| std::env::var(name).ok());
    let user = { user }.find(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| "unknown".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let uid = std::fs::metadata("/proc/self").map(|process| process.uid());
    let uid = uid.map(|uid| format!(", uid {uid}")).unwrap_or_default();
    let who = format!("{user}@{}{uid}", host.trim());
    plain(&who).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc() {
        for (seconds, told) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_790_000_000, "2026-09-21T14:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time(seconds), told);
        }
    }
}
