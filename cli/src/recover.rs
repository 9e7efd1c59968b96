//! `recover`: one pass. Shows what it will touch, asks, acts, and reports done and left apart.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use unanimous::operator::{
    Access, ConfigFile, ListedBranch, Listing, MemberState, Recovered, RecoveredResource,
};

use crate::args::Format;
use crate::filter::Filter;
use crate::output::{plain, table, to_json};
use crate::run::{CLEAN, Failure, IN_DOUBT, close, hold, open, patiently, talk};
use crate::{list, progress};

#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Only show what the pass would do.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Only at this resource; at all otherwise.
    #[arg(long, value_name = "NAME")]
    pub(crate) resource: Option<String>,
    /// On a shared log: close this epoch at once, because its member is known to be dead. May be
    /// given more than once.
    ///
    /// Epochs of members that give no sign of life are closed anyway, after a while. If the member
    /// lives, what it has not decided is rolled back, and it goes on under a new epoch.
    #[arg(long, value_name = "EPOCH")]
    pub(crate) close: Vec<u32>,
}

pub(crate) async fn run(
    file: &ConfigFile,
    options: &Recover,
    format: Format,
) -> Result<u8, Failure> {
    let access = open(file).await?;
    let listing = match patiently(access.list()).await {
        Ok(listing) => listing,
        Err(error) => return close(access, Err(error.into())).await,
    };
    let listing = match at(listing, options.resource.as_deref()) {
        Ok(listing) => listing,
        Err(error) => return close(access, Err(error)).await,
    };
    if options.dry_run {
        let shown = list::show(&listing, &Filter::default(), format);
        return close(access, shown).await;
    }
    let ended = decide(&access, options, &listing, format).await;
    close(access, ended).await
}

/// Shows what is meant, and acts if a person agrees.
async fn decide(
    access: &Access,
    options: &Recover,
    listing: &Listing,
    format: Format,
) -> Result<u8, Failure> {
    tell(listing);
    tell_closing(listing, &options.close)?;
    let is_blind = listing.log_error.is_some() && !access.is_through_application();
    if is_blind && !options.yes {
        // Nobody can be asked about what is not seen.
        return Err(Failure::Reported);
    }
    let needs_nobody = !listing.is_in_doubt() && options.close.is_empty();
    if !agreed(options.yes || needs_nobody, "make this recovery pass?")? {
        return refused(listing);
    }
    act(access, options, in_doubt(listing).count(), format).await
}

/// The answer was no.
fn refused(listing: &Listing) -> Result<u8, Failure> {
    if listing.has_failed() {
        Err(Failure::Reported)
    } else {
        Ok(IN_DOUBT)
    }
}

/// Only what is meant.
fn at(listing: Listing, only: Option<&str>) -> Result<Listing, Failure> {
    let mut listing = listing;
    if let Some(name) = only {
        list::known(&listing, name)?;
        listing.resources.retain(|at| at.resource == name);
    }
    Ok(listing)
}

fn in_doubt(listing: &Listing) -> impl Iterator<Item = (&str, &ListedBranch)> {
    let branches = listing.resources.iter().flat_map(|at| {
        let name = at.resource.as_str();
        at.branches.iter().map(move |branch| (name, branch))
    });
    branches.filter(|(_, branch)| branch.in_doubt)
}

async fn act(
    access: &Access,
    options: &Recover,
    expected: usize,
    format: Format,
) -> Result<u8, Failure> {
    // On the heap: it is large.
    let recovering = Box::pin(access.recover(options.resource.as_deref(), &options.close));
    let recovered = patiently(async {
        hold(access).await?;
        progress::shown(access, expected, recovering).await
    })
    .await?;
    match format {
        Format::Json => to_json(serde_json::to_value(&recovered))?,
        Format::Table => show(&recovered)?,
    }
    code(&recovered)
}

/// What the pass will touch.
fn tell(listing: &Listing) {
    for (resource, branch) in in_doubt(listing).take(TOLD_MAX) {
        let (plan, xid) = (plain(&branch.plan), plain(&branch.xid));
        talk(&format!("{resource}: {plan}: {xid}"));
    }
    more(in_doubt(listing).count(), "unanimous list shows all");
    list::explain(listing);
}

/// Who is to be closed, and that somebody who lives is hurt by it.
fn tell_closing(listing: &Listing, close: &[u32]) -> Result<(), Failure> {
    for epoch in close {
        let mut members = listing.members.iter();
        let Some(member) = members.find(|member| member.epoch == *epoch) else {
            return Err(Failure::Message(format!(
                "--close {epoch}: there is no member with this epoch: see unanimous list"
            )));
        };
        let label = plain(&member.label);
        match member.state {
            MemberState::Closed => {
                return Err(Failure::Message(format!(
                    "--close {epoch}: the epoch of {label} is closed already"
                )));
            }
            MemberState::Alive => talk(&format!(
                "close epoch {epoch} of {label}, WHICH GIVES SIGNS OF LIFE: what it has not \
                 decided is rolled back, and it goes on under a new epoch"
            )),
            // Of a newer library, too.
            MemberState::Silent | _ => talk(&format!(
                "close epoch {epoch} of {label}, {}: what it has not decided is rolled back",
                list::member_state(member)
            )),
        }
    }
    Ok(())
}

/// Whether a person has agreed. Nothing is held while one thinks: an application may have to start
/// meanwhile.
pub(crate) fn agreed(yes: bool, question: &str) -> Result<bool, Failure> {
    let agreed = yes || asked(question)?;
    if !agreed {
        talk("nothing was done");
    }
    Ok(agreed)
}

/// A yes or no from the terminal.
pub(crate) fn asked(question: &str) -> Result<bool, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let text = "standard input is not a terminal, so nobody can be asked: add --yes to act, or \
                    --dry-run to look";
        return Err(Failure::Message(text.into()));
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn show(recovered: &Recovered) -> Result<(), Failure> {
    let rows = recovered.resources.iter().map(|at| {
        vec![
            at.resource.clone(),
            at.committed.to_string(),
            at.rolled_back.to_string(),
            at.left.len().to_string(),
            at.foreign.len().to_string(),
        ]
    });
    let head = ["RESOURCE", "COMMITTED", "ROLLED BACK", "LEFT", "FOREIGN"];
    table(&head, rows.collect())?;
    for at in &recovered.resources {
        if let Some(error) = &at.error {
            talk(&format!("error: {}: not recovered: {error}", at.resource));
        }
        for left in at.left.iter().take(TOLD_MAX) {
            let person = if left.needs_a_person {
                " (a person has to look)"
            } else {
                ""
            };
            let (xid, why) = (plain(&left.xid), plain(&left.why));
            talk(&format!("left: {}: {xid}: {why}{person}", at.resource));
        }
        more(at.left.len(), "--format json tells all");
    }
    for epoch in &recovered.closed_epochs {
        talk(&format!(
            "closed epoch {epoch}, of a member that was silent or was named"
        ));
    }
    for epoch in &recovered.silent_epochs {
        talk(&format!(
            "left: the branches of epoch {epoch}, whose member is silent and which nobody could \
             close yet"
        ));
    }
    if let Some(error) = &recovered.log_error {
        talk(&format!("error: the log cannot be read: {error}"));
    }
    list::unknown(&recovered.unknown_resources);
    summary(recovered);
    Ok(())
}

/// How many branches are named at most, of each kind.
const TOLD_MAX: usize = 100;

fn more(count: usize, where_to_look: &str) {
    if count > TOLD_MAX {
        talk(&format!("and {} more: {where_to_look}", count - TOLD_MAX));
    }
}

/// What was done, and what was not, in two lines.
fn summary(recovered: &Recovered) {
    let sum = |count: fn(&RecoveredResource) -> usize| -> usize {
        recovered.resources.iter().map(count).sum()
    };
    let (committed, rolled_back) = (sum(|at| at.committed), sum(|at| at.rolled_back));
    talk(&format!(
        "done: {committed} committed, {rolled_back} rolled back"
    ));
    let left = sum(|at| at.left.len());
    let away = sum(|at| usize::from(at.error.is_some()));
    if left + away > 0 {
        talk(&format!(
            "failed: {left} branches were left, {away} resources could not be looked at"
        ));
    }
}

fn code(recovered: &Recovered) -> Result<u8, Failure> {
    if recovered.has_failed() {
        Err(Failure::Reported)
    } else if recovered.clean {
        Ok(CLEAN)
    } else {
        Ok(IN_DOUBT)
    }
}
