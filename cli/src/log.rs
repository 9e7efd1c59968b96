//! `unanimous log init` and `unanimous log move`.

use unanimous::operator::{ConfigFile, Initialised, Move, Moved};

use crate::args::{Format, Init, Move as Options};
use crate::output::{lines, plain, text, to_json};
use crate::recover::asked;
use crate::run::{CLEAN, Failure, IN_DOUBT, patiently, talk};

pub(crate) async fn init(file: &ConfigFile, options: &Init, format: Format) -> Result<u8, Failure> {
    if options.print {
        text(&lines(&Initialised::ddl(file)?))?;
        return Ok(CLEAN);
    }
    let done = patiently(Initialised::run(file)).await?;
    match format {
        Format::Json => to_json(serde_json::to_value(&done))?,
        Format::Table => {
            let (place, manager) = (plain(&done.place), plain(&done.manager));
            let what = if done.made {
                "made the tables of a new log"
            } else {
                "nothing to do: the tables are there"
            };
            talk(&format!("{what}: {place}; manager {manager}"));
        }
    }
    Ok(CLEAN)
}

pub(crate) async fn relocate(
    file: &ConfigFile,
    options: &Options,
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
    for epoch in &plan.left_out {
        talk(&format!(
            "epoch {epoch} is left out: it was opened before a fail-over of its server; if \
             branches of it are prepared, a person has to end them"
        ));
    }
    talk(&format!(
        "{} openings, {} pending decisions, {} completed ones, {} heuristic ends",
        plan.openings, plan.pending, plan.completed, plan.heuristics
    ));
}
