//! From what is typed to an exit code, and everything that can fail on the way.

use std::io::{self, Write};
use std::time::Duration;

use clap::Parser;
use unanimous::operator::{Access, ConfigFile, ConfigFileError, OperatorError};

use crate::args::{Typed, Verb};
use crate::{barrier, check, columns, list, log, manual, output, recover, resolve, show, warnings};

/// The exit code, if nothing failed.
pub(crate) const CLEAN: u8 = 0;
pub(crate) const IN_DOUBT: u8 = 1;
/// Of `check`.
pub(crate) const WARNED: u8 = 1;

/// Why the tool failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It cannot be printed.
    Output(io::Error),
    /// One line for a person.
    Message(String),
    /// What was to be said has been said, next to the data.
    Reported,
}

impl Failure {
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

/// A line on standard error, without what could steer a terminal: much of it is the words of
/// servers, and names that others have chosen. If nobody reads it, there is nobody to be told.
pub(crate) fn talk(line: &str) {
    let line = columns::painted_talk(&output::lines(line));
    drop(writeln!(anstream::stderr(), "{line}"));
}

pub(crate) fn run() -> Result<u8, Failure> {
    let typed = Typed::parse();
    typed.common.color.choice().write_global();
    warnings::tell();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Message(format!("the system gives no event queue: {error}")))?;
    let ended = runtime.block_on(dispatch(typed));
    // Whatever a thread still waits for (a password command, a disk) is not waited for.
    runtime.shutdown_background();
    ended
}

async fn dispatch(typed: Typed) -> Result<u8, Failure> {
    // These two need no config file.
    if let Verb::Completions(options) = &typed.verb {
        return manual::completions(options);
    }
    if let Verb::Man(options) = &typed.verb {
        return manual::man(options);
    }
    let file = ConfigFile::read(&typed.common.config)?;
    let format = typed.common.format;
    match typed.verb {
        Verb::Check(options) => check::run(&file, &options, format).await,
        Verb::List(options) if options.heuristic => resolve::list(&file, format).await,
        Verb::List(options) => list::run(&file, &options.filter, format).await,
        Verb::Show(options) => show::run(&file, &options, format).await,
        Verb::Resolve(options) => resolve::run(&file, &options, format).await,
        Verb::Forget(options) => resolve::forget(&file, &options, format).await,
        Verb::Recover(options) => recover::run(&file, &options, format).await,
        Verb::Barrier(options) => barrier::run(&file, &options, format).await,
        Verb::Log(verb) => log::run(&file, verb, format).await,
        Verb::Completions(_) | Verb::Man(_) => Ok(CLEAN),
    }
}

/// Says so if it takes long: nobody should think that nothing happens. Every call ends by itself.
pub(crate) async fn patiently<T>(call: impl Future<Output = T>) -> T {
    let mut call = std::pin::pin!(call);
    tokio::select! {
        ended = &mut call => return ended,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    talk("still waiting: a database or the application is slow to answer; every wait has an end");
    call.await
}

/// After which a person is told that there is no answer yet.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to the log, and says which. Without an application it is held once something is done.
pub(crate) async fn open(file: &ConfigFile) -> Result<Access, Failure> {
    let access = Access::open(file).await?;
    if access.is_through_application() {
        talk("asking the application that holds the log");
    } else if access.is_shared() {
        talk("looking at the shared log, beside its members");
    } else {
        talk("no application holds the log: only looking at it");
    }
    Ok(access)
}

/// Before something is done. A person may be about to start the application.
pub(crate) async fn hold(access: &Access) -> Result<(), OperatorError> {
    if access.hold().await? {
        talk("holding the log until this ends: no application can start meanwhile");
    }
    Ok(())
}

/// The log is let go whatever happened; the first failure is the one that is told.
pub(crate) async fn close<T>(access: Access, ended: Result<T, Failure>) -> Result<T, Failure> {
    let closed = access.close().await;
    let ended = ended?;
    closed?;
    Ok(ended)
}
