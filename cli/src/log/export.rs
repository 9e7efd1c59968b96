//! `unanimous log export` and `unanimous log import`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use unanimous::operator::{ConfigFile, Exported, Imported, LogExport, LogImport};

use super::warn_of_doubt;
use crate::args::Format;
use crate::output::{plain, to_json};
use crate::recover::asked;
use crate::run::{CLEAN, Failure, IN_DOUBT, patiently, talk};

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Seal the log before it is read: nobody opens it here any more, and it goes on where the file
    /// is imported. The application has to be stopped.
    #[arg(long)]
    pub(crate) seal: bool,
    /// Take what is sound of a damaged log in a folder. What may be missing is listed in the file.
    #[arg(long)]
    pub(crate) salvage: bool,
    /// Write this file, which must not exist, instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Do not ask before the log is sealed.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// What `unanimous log export` has written; `-` for standard input.
    #[arg(value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// Import a file of which decisions may be missing: a copy of a log that was not sealed, or
    /// what was sound of a damaged one. What may be missing is left to a person, for good.
    #[arg(long)]
    pub(crate) incomplete: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

pub(crate) async fn export(
    file: &ConfigFile,
    options: &Export,
    format: Format,
) -> Result<u8, Failure> {
    let plan = patiently(LogExport::plan(file, options.seal, options.salvage)).await?;
    tell_export(plan.planned());
    if options.seal && !options.yes && !asked("seal the log, and export it?")? {
        talk("nothing was sealed, and nothing exported");
        return Ok(IN_DOUBT);
    }
    let Some(path) = &options.out else {
        let mut out = io::BufWriter::new(io::stdout());
        let done = patiently(plan.run(&mut out)).await?;
        tell_end(&done);
        return Ok(CLEAN);
    };
    let mut out = io::BufWriter::new(created(path)?);
    let done = patiently(plan.run(&mut out)).await?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error);
    let synced = file.and_then(|file| file.sync_all());
    synced.map_err(|error| cannot(path, "be written", &error))?;
    if format == Format::Json {
        to_json(serde_json::to_value(&done))?;
    }
    tell_end(&done);
    Ok(CLEAN)
}

/// For its owner alone, as the log's own files.
fn created(path: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| cannot(path, "be made", &error))
}

fn cannot(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::Message(format!("{}: cannot {what}: {error}", path.display()))
}

fn tell_export(plan: &Exported) {
    let (place, manager) = (plain(&plan.place), &plan.manager);
    talk(&format!(
        "the log of manager {manager} in {place}: {}",
        plan.counts
    ));
    for epoch in &plan.closed_epochs {
        talk(&format!(
            "epoch {epoch}, whose member gives no sign of life, is closed first"
        ));
    }
    if plan.losses > 0 {
        talk(&format!(
            "warning: {} parts of it cannot be read, and decisions may be missing: see unanimous \
             log verify",
            plan.losses
        ));
    }
}

fn tell_end(done: &Exported) {
    if done.sealed {
        talk("exported, and sealed: it goes on where unanimous log import brings the file");
    } else {
        talk("exported a copy: the log itself goes on");
    }
}

pub(crate) async fn import(
    file: &ConfigFile,
    options: &Import,
    format: Format,
) -> Result<u8, Failure> {
    let bytes = bytes(&options.from)?;
    let plan = patiently(LogImport::plan(file, &bytes, options.incomplete)).await;
    let plan = plan.map_err(|error| {
        let path = options.from.display();
        Failure::Message(format!("{path}: {error}"))
    })?;
    tell_import(plan.planned());
    if !options.yes && !asked("import the log?")? {
        talk("nothing was imported");
        return Ok(IN_DOUBT);
    }
    let done = patiently(plan.run()).await?;
    if format == Format::Json {
        to_json(serde_json::to_value(&done))?;
    }
    talk(&format!("imported: the log is in {} now", plain(&done.to)));
    Ok(CLEAN)
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| cannot(path, "be read", &error))
}

fn tell_import(plan: &Imported) {
    let (from, to, manager) = (plain(&plan.from), plain(&plan.to), &plan.manager);
    talk(&format!(
        "the log of manager {manager}\n  exported from {from}\n  to            {to}"
    ));
    if plan.resumed {
        talk("an earlier import of this file was interrupted: this goes on with it");
    }
    talk(&plan.counts.to_string());
    warn_of_doubt(&plan.doubtful_epochs);
}
