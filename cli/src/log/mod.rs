//! `unanimous log …`: the decision log itself. The options of a verb stand beside it.

mod adopt;
mod export;
mod init;
mod relocate;
mod show;
mod verify;

use clap::Subcommand;
use unanimous::operator::ConfigFile;

use crate::args::Format;
use crate::examples;
use crate::run::{Failure, talk};

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Show what the log says: openings, decisions, and branches that ended against them.
    ///
    /// Only reads, also while an application runs: takes no lock on a folder, joins nobody in a
    /// table. Without options it shows what a person may have to do with.
    #[command(after_help = examples::LOG_SHOW)]
    Show(show::Show),
    /// Read the log to its last byte, and say whether it is sound.
    ///
    /// Only reads, also while an application runs. Tells a torn tail, which a crash leaves and the
    /// next opening cuts off, from damage, with file and offset, and says what to do.
    #[command(after_help = examples::LOG_VERIFY)]
    Verify,
    /// Write the log as JSON lines: a copy, or the whole of a log that ends here.
    ///
    /// A copy can be made while an application runs. With --seal the log goes on where the file is
    /// imported. The file says what is committed: keep it as safe as the log.
    #[command(after_help = examples::LOG_EXPORT)]
    Export(export::Export),
    /// Bring a log from a file to an empty home, which --config names.
    ///
    /// The manager's id stays the same; every opening is closed, and what is begun from then on is
    /// of a new one. An import that was interrupted goes on when it is run again.
    #[command(after_help = examples::LOG_IMPORT)]
    Import(export::Import),
    /// Make the tables of a log in a database, or print what makes them.
    ///
    /// Changes nothing that is there, so it can be run again.
    #[command(after_help = examples::LOG_INIT)]
    Init(init::Init),
    /// Move the log to another home: from a folder to a table, back, or from table to table.
    ///
    /// Nothing is lost: decisions, openings, heuristic ends and the manager's id go along. Stop the
    /// application first; the move refuses while anybody uses either home. The old home cannot be
    /// used any more afterwards, and says where the log went. A move that was interrupted goes on
    /// when it is run again.
    #[command(after_help = examples::LOG_MOVE)]
    Move(relocate::Relocate),
    /// Declare a folder that was copied, restored or moved to another disk to be the log's own.
    ///
    /// Until then nobody opens it: a log and its copy would roll back each other's commits. Right
    /// only if the original is used by nobody, and nothing was decided in it since. Shows what is
    /// in the folder, and asks.
    #[command(after_help = examples::LOG_ADOPT)]
    Adopt(adopt::Adopt),
}

pub(crate) async fn run(file: &ConfigFile, log: Log, format: Format) -> Result<u8, Failure> {
    match log {
        Log::Show(options) => show::run(file, &options, format).await,
        Log::Verify => verify::run(file, format).await,
        Log::Export(options) => export::export(file, &options, format).await,
        Log::Import(options) => export::import(file, &options, format).await,
        Log::Init(options) => init::run(file, &options, format).await,
        Log::Move(options) => relocate::run(file, &options, format).await,
        Log::Adopt(options) => adopt::run(file, &options, format).await,
    }
}

fn warn_of_doubt(epochs: &[u32]) {
    if epochs.is_empty() {
        return;
    }
    let epochs: Vec<_> = epochs.iter().map(u32::to_string).collect();
    talk(&format!(
        "warning: decisions of epoch {} may be missing: what is not decided there is left to a \
         person",
        epochs.join(", ")
    ));
}
