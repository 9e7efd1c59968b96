//! `unanimous log init`.

use clap::Args;
use unanimous::operator::{ConfigFile, Initialised};

use crate::args::Format;
use crate::output::{lines, plain, text, to_json};
use crate::run::{CLEAN, Failure, patiently, talk};

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Only print the SQL, for somebody who may make tables. Connects to nothing.
    #[arg(long)]
    pub(crate) print: bool,
}

pub(crate) async fn run(file: &ConfigFile, options: &Init, format: Format) -> Result<u8, Failure> {
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
