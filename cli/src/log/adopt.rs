//! `unanimous log adopt`.

use clap::Args;
use unanimous::operator::{Adoption, ConfigFile};

use crate::args::Format;
use crate::output::{plain, to_json};
use crate::recover::asked;
use crate::run::{CLEAN, Failure, IN_DOUBT, patiently, talk};

#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

pub(crate) async fn run(file: &ConfigFile, options: &Adopt, format: Format) -> Result<u8, Failure> {
    let plan = patiently(Adoption::plan(file)).await?;
    let planned = plan.planned();
    let (place, manager) = (plain(&planned.place), &planned.manager);
    talk(&format!(
        "the log of manager {manager} in {place}: {}",
        planned.counts
    ));
    if planned.done_before {
        talk("the folder is the log's own: there is nothing to do");
    } else {
        talk(
            "warning: if the original is still used, or anything was decided in it since this copy \
             was made, committed transactions will be rolled back in part",
        );
        if !options.yes && !asked("adopt the folder?")? {
            talk("nothing was adopted");
            return Ok(IN_DOUBT);
        }
    }
    let was_own = planned.done_before;
    let adopted = patiently(plan.run()).await?;
    if format == Format::Json {
        to_json(serde_json::to_value(&adopted))?;
    }
    if !was_own {
        talk("adopted: the folder is the log's own from now on");
    }
    Ok(CLEAN)
}
