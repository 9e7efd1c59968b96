//! Completions for shells and manual pages, made from what `args` says.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use crate::args::Typed;
use crate::run::{CLEAN, Failure, talk};

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell's.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write the pages of all verbs into this folder, which has to exist.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

pub(crate) fn completions(options: &Completions) -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut Typed::command(), "unanimous", &mut text);
    print(&text)
}

pub(crate) fn man(options: &Man) -> Result<u8, Failure> {
    let mut command = Typed::command();
    command.build();
    match &options.out {
        None => print(&page(&command)?),
        Some(folder) => {
            let count = write_pages(folder, &command, "unanimous")?;
            talk(&format!("wrote {count} pages into {}", folder.display()));
            Ok(CLEAN)
        }
    }
}

fn page(command: &Command) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    Ok(text)
}

/// This verb's page and those below it.
fn write_pages(folder: &Path, command: &Command, name: &str) -> Result<usize, Failure> {
    let path = folder.join(format!("{name}.1"));
    let written = std::fs::write(&path, page(command)?);
    written.map_err(|error| {
        let path = path.display();
        Failure::Message(format!(
            "{path}: cannot be written: {error}: does the folder exist?"
        ))
    })?;
    let mut count = 1;
    for verb in command
        .get_subcommands()
        .filter(|verb| verb.get_name() != "help")
    {
        count += write_pages(folder, verb, &format!("{name}-{}", verb.get_name()))?;
    }
    Ok(count)
}

/// As it is; nobody who reads it any more is no failure.
fn print(text: &[u8]) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        Ok(()) | Err(_) => Ok(CLEAN),
    }
}
