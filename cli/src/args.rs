//! What is typed. Doc comments are the help. The options of a verb stand beside it, in its module.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::barrier::BarrierArgs;
use crate::check::Check;
use crate::examples;
use crate::list::List;
use crate::log::Log;
use crate::manual::{Completions, Man};
use crate::recover::Recover;
use crate::resolve::{Forget, Resolve};
use crate::show::Show;

/// Looks after transactions across databases: what is in doubt, and why.
///
/// While an application holds the decision log, it is asked, over a socket in the log's folder;
/// without one, this tool reads the log itself, and holds it as long as it acts.
///
/// Exit codes: 0 nothing is in doubt (check: nothing was found but notes), 1 something is in doubt
/// (check: warnings), 2 failed (check: errors; else also if any resource could not be looked at).
#[derive(Debug, Parser)]
#[command(name = "unanimous", version, after_help = examples::ALL)]
pub(crate) struct Typed {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The TOML file that names log and resources.
    #[arg(
        long,
        short,
        global = true,
        env = "UNANIMOUS_CONFIG",
        default_value = "unanimous.toml",
        value_name = "FILE"
    )]
    pub(crate) config: PathBuf,
    /// A table for people, or JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Colours: on a terminal unless NO_COLOR is set, or always, or never.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    pub(crate) const fn choice(self) -> anstream::ColorChoice {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check the log and every server: settings, versions, privileges, room.
    ///
    /// Shows all findings, each with what mends it. Connects with the credentials of the config
    /// file, whether an application runs or not. Exits with 0 if nothing was found but notes, with
    /// 1 if there are warnings (it works, but can hurt), with 2 if there are errors.
    #[command(after_help = examples::CHECK)]
    Check(Check),
    /// List what is prepared at all resources, and what recovery would do about it.
    ///
    /// Only looks, also without an application: one can start meanwhile. Exits with 0 if nothing is
    /// in doubt, with 1 if something is, with 2 if the log or any resource could not be looked at;
    /// what could be seen is shown all the same. What the filters hide counts, too.
    #[command(after_help = examples::LIST)]
    List(List),
    /// Show one transaction: its branches, owner and decision, what recovery will do and when, what
    /// it locks and whom it blocks, and what may safely be done.
    ///
    /// Only looks, also without an application: one can start meanwhile. Exits with 0 if nothing of
    /// it is in doubt, with 1 if something is, with 2 if it is not known, or the log or any
    /// resource could not be looked at.
    #[command(after_help = examples::SHOW)]
    Show(Show),
    /// Make one recovery pass: commit what was decided, roll back what cannot be decided any more.
    ///
    /// Shows first what it will touch, and asks. Never touches what is active, foreign or another
    /// manager's. Exits with 0 if nothing is in doubt any more, with 1 if something was left (or
    /// the answer was no), with 2 if the log or any resource could not be looked at.
    #[command(after_help = examples::RECOVER)]
    Recover(Recover),
    /// End the prepared branches of one transaction by hand.
    ///
    /// Shows first what it will touch and what contradicts it, and asks. Refuses what somebody may
    /// still decide, and, without a word of its own, what contradicts the decision. Who, when and
    /// why are in the decision log before anything is done, and the application is told if the
    /// transaction ends in part. Exits with 0 if every branch ended as told and its database says
    /// so, with 1 if one did not (or the answer was no, or it was a dry run), with 2 if it was
    /// refused or failed.
    #[command(after_help = examples::RESOLVE)]
    Resolve(Resolve),
    /// Note that the heuristic ends of a transaction were dealt with.
    ///
    /// `list --heuristic` shows them. They stay on record, with who has dealt with them, and why.
    /// Shows first which, and asks. Exits with 0 if it was recorded, with 1 if the answer was no,
    /// or it was a dry run, with 2 if there is nothing to forget, or it failed.
    ///
    /// With `--lost NAME` a branch is given up that is neither prepared nor provable any more, and
    /// never will be: its database is gone for good, or a failover or a restored backup has lost
    /// it. Shows first what it means, and asks; refuses whatever recovery can still find out. The
    /// exit codes are the same; a refusal is a failure.
    #[command(after_help = examples::FORGET)]
    Forget(Forget),
    /// Hold new decisions briefly, so that backups or snapshots of all databases agree.
    ///
    /// It stands once everything that was decided before is committed in every database; from then
    /// on nothing new is decided until it ends. docs/backup.md says what a backup that is taken
    /// under it is worth. Exits with 2 if it does not stand, or has not held until its end; else
    /// with the exit code of COMMAND, or 0.
    #[command(after_help = examples::BARRIER)]
    Barrier(BarrierArgs),
    /// The decision log: look into it, prove it sound, prepare it, move it, make it a file.
    #[command(subcommand)]
    Log(Log),
    /// Print what completes this tool's words in a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(Completions),
    /// Print this tool's manual page, or write the pages of all verbs into a folder.
    #[command(after_help = examples::MAN)]
    Man(Man),
}
