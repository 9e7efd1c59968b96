//! From what is typed to an exit code, and everything that can fail on the way.

use std::io::{self, Write};

use clap::Parser;
use unanimous::operator::{Access, ConfigFile, ConfigFileError, OperatorError};

use crate::args::{Typed, Verb};
use crate::{check, list, recover};

/// The exit code: 0 or 1.
pub(crate) const CLEAN: u8 = 0;
pub(crate) const IN_DOUBT: u8 = 1;

/// Why the tool failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody reads what is printed any more, or it cannot be printed.
    Output(io::Error),
    /// One line for a person.
    Message(String),
    /// What was to be said has been said, next to the data.
    Reported,
}

impl Failure {
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn report(&self) {
        match self {
            Self::Output(error) => talk(&format!("error: cannot print: {error}")),
            Self::Message(message) => talk(&format!("error: {message}")),
            Self::Reported => {}
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        Self::Message(error.to_string())
    }
}

impl From<ConfigFileError> for Failure {
    fn from(error: ConfigFileError) -> Self {
        Self::Message(error.to_string())
    }
}

/// A line on standard error. If nobody reads it, there is nobody to be told.
pub(crate) fn talk(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

pub(crate) fn run() -> Result<u8, Failure> {
    let typed = Typed::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Message(format!("the system gives no event queue: {error}")))?;
    runtime.block_on(dispatch(typed))
}

async fn dispatch(typed: Typed) -> Result<u8, Failure> {
    let file = ConfigFile::read(&typed.common.config)?;
    let format = typed.common.format;
    match typed.verb {
        Verb::Check => check::run(&file, format).await,
        Verb::List => {
            let access = open(&file).await?;
            let ended = list::run(&access, format).await;
            close(access, ended).await
        }
        Verb::Recover(options) => {
            let access = open(&file).await?;
            let ended = recover::run(&access, &options, format).await;
            close(access, ended).await
        }
    }
}

async fn open(file: &ConfigFile) -> Result<Access, Failure> {
    let access = Access::open(file).await?;
    if access.is_through_application() {
        talk("asking the application that holds the log");
    } else {
        talk("no application holds the log: holding it meanwhile");
    }
    Ok(access)
}

/// The log is let go whatever happened; the first failure is the one that is told.
async fn close(access: Access, ended: Result<u8, Failure>) -> Result<u8, Failure> {
    let closed = access.close().await;
    let code = ended?;
    closed?;
    Ok(code)
}
