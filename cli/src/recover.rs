//! `recover`: one pass. Shows what it will touch, asks, acts, and reports done and left apart.

use std::io::{self, BufRead, IsTerminal, Write};

use unanimous::operator::{Access, ConfigFile, Listing, Recovered};

use crate::args::{Format, Recover};
use crate::list;
use crate::output::{plain, table, to_json};
use crate::run::{CLEAN, Failure, IN_DOUBT, close, open, patiently, talk};

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
    if options.dry_run {
        let shown = list::show(&listing, format);
        return close(access, shown).await;
    }
    tell(&listing);
    let access = if options.yes || !listing.is_in_doubt() {
        access
    } else {
        // Not held while a person thinks: an application may have to start meanwhile.
        close(access, Ok(())).await?;
        if !asked()? {
            talk("nothing was done");
            return list::code(&listing);
        }
        open(file).await?
    };
    let ended = act(&access, format).await;
    close(access, ended).await
}

async fn act(access: &Access, format: Format) -> Result<u8, Failure> {
    let recovered = patiently(access.recover()).await?;
    match format {
        Format::Json => to_json(serde_json::to_value(&recovered))?,
        Format::Table => show(&recovered)?,
    }
    code(&recovered)
}

/// What the pass will touch.
fn tell(listing: &Listing) {
    for at in &listing.resources {
        for branch in at.branches.iter().filter(|branch| branch.in_doubt) {
            let (plan, xid) = (plain(&branch.plan), plain(&branch.xid));
            talk(&format!("{}: {plan}: {xid}", at.resource));
        }
    }
    list::explain(listing);
}

fn asked() -> Result<bool, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let text = "standard input is not a terminal, so nobody can be asked: add --yes to act, or \
                    --dry-run to look";
        return Err(Failure::Message(text.into()));
    }
    let mut stderr = io::stderr();
    write!(stderr, "make this recovery pass? [y/N] ")?;
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
        for left in &at.left {
            let person = if left.needs_a_person {
                " (a person has to look)"
            } else {
                ""
            };
            let (xid, why) = (plain(&left.xid), plain(&left.why));
            talk(&format!("left: {}: {xid}: {why}{person}", at.resource));
        }
    }
    if let Some(error) = &recovered.log_error {
        talk(&format!("error: the log cannot be read: {error}"));
    }
    list::unknown(&recovered.unknown_resources);
    Ok(())
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
