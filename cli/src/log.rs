//! `unanimous log init`.

use unanimous::operator::{ConfigFile, Initialised};

use crate::args::{Format, Init};
use crate::output::{lines, plain, text, to_json};
use crate::run::{CLEAN, Failure, patiently, talk};

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
