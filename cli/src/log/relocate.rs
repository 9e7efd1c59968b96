//! `unanimous log move`.

use std::path::PathBuf;

use clap::Args;
use unanimous::operator::{ConfigFile, Move, Moved};

use super::warn_of_doubt;
use crate::args::Format;
use crate::output::{plain, to_json};
use crate::recover::asked;
use crate::run::{CLEAN, Failure, IN_DOUBT, patiently, talk};

#[derive(Debug, Args)]
pub(crate) struct Relocate {
    /// The config file whose [log] is the new home. The old home is the [log] of --config.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

pub(crate) async fn run(
    file: &ConfigFile,
    options: &Relocate,
    format: Format,
) -> Result<u8, Failure> {
    let to = ConfigFile::read(&options.to)?;
    let plan = patiently(Move::plan(file, &to)).await?;
    tell(plan.planned());
    if !plan.planned().done_before && !options.yes && !asked("move the log?")? {
        talk("nothing was moved");
        return Ok(IN_DOUBT);
    }
    let moved = patiently(plan.run()).await?;
    match format {
        Format::Json => to_json(serde_json::to_value(&moved))?,
        Format::Table => {
            let (from, to) = (plain(&moved.from), plain(&moved.to));
            talk(&format!(
                "moved: the log is in {to} now, and {from} says so"
            ));
        }
    }
    let to = options.to.display();
    talk(&format!(
        "start every member of the application with the log of {to} from now on"
    ));
    Ok(CLEAN)
}

fn tell(plan: &Moved) {
    let (from, to, manager) = (plain(&plan.from), plain(&plan.to), plain(&plan.manager));
    talk(&format!(
        "the log of manager {manager}\n  from {from}\n  to   {to}"
    ));
    if plan.done_before {
        talk("it was moved before: there is nothing left to do");
        return;
    }
    if plan.resumed {
        talk("an earlier move was interrupted: this goes on with it");
    }
    for epoch in &plan.closed_epochs {
        talk(&format!(
            "epoch {epoch}, whose member gives no sign of life, is closed first"
        ));
    }
    warn_of_doubt(&plan.doubtful_epochs);
    talk(&plan.counts.to_string());
}
