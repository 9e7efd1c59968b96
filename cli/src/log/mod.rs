//! `unanimous log …`: the decision log itself. The options of a verb stand beside it.

mod init;
mod relocate;

use clap::Subcommand;
use unanimous::operator::ConfigFile;

use crate::args::Format;
use crate::run::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Make the tables of a log in a database, or print what makes them.
    ///
    /// Changes nothing that is there, so it can be run again.
    Init(init::Init),
    /// Move the log to another home: from a folder to a table, back, or from table to table.
    ///
    /// Nothing is lost: decisions, openings, heuristic ends and the manager's id go along. Stop the
    /// application first; the move refuses while anybody uses either home. The old home cannot be
    /// used any more afterwards, and says where the log went. A move that was interrupted goes on
    /// when it is run again.
    Move(relocate::Relocate),
}

pub(crate) async fn run(file: &ConfigFile, log: Log, format: Format) -> Result<u8, Failure> {
    match log {
        Log::Init(options) => init::run(file, &options, format).await,
        Log::Move(options) => relocate::run(file, &options, format).await,
    }
}
