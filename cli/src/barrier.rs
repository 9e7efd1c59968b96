//! `barrier`: holds new decisions while a command runs, or until a person or a script says so.

use std::ffi::OsString;
use std::io::{self, BufRead};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use clap::Args;
use tokio::task::JoinHandle;
use unanimous::operator::{
    Access, Barrier, BarrierEnded, BarrierOptions, ConfigFile, OperatorError, Stood,
};

use crate::args::Format;
use crate::output;
use crate::run::{CLEAN, Failure, close, open, talk};

#[derive(Debug, Args)]
pub(crate) struct BarrierArgs {
    /// How long decisions are held at most. Prepared branches keep their locks meanwhile, and
    /// transactions whose deadline passes are rolled back. One hour at most.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = limit)]
    limit: Duration,
    /// How much of that may pass until everything that was decided before is committed in every
    /// database; then nothing is held, and nothing is run.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    within: Duration,
    /// Go on although something that was decided could not be committed yet: right only for
    /// physical snapshots that are restored together with the decision log.
    #[arg(long)]
    allow_unfinished: bool,
    /// Run this while the barrier stands, and exit with its exit code. Without a command the
    /// barrier stands until Enter is pressed or standard input ends.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn limit(text: &str) -> Result<Duration, String> {
    let limit = time(text)?;
    if limit > BarrierOptions::LIMIT_MAX {
        return Err("one hour at most".into());
    }
    Ok(limit)
}

pub(crate) async fn run(
    file: &ConfigFile,
    options: &BarrierArgs,
    format: Format,
) -> Result<u8, Failure> {
    // A log in a folder is held as long as the barrier stands, and nobody else can open it.
    let access = open(file).await?;
    let held = hold(&access, options, format).await;
    // The log is let go before a command that goes on is waited for.
    match close(access, held).await? {
        Held::Ended(code) => Ok(code),
        Held::Fallen(left) => {
            drop(left.await);
            Err(Failure::Reported)
        }
    }
}

/// How it ended.
enum Held {
    Ended(u8),
    /// Before its command.
    Fallen(Waiting),
}

type Waiting = JoinHandle<io::Result<ExitStatus>>;

async fn hold(access: &Access, options: &BarrierArgs, format: Format) -> Result<Held, Failure> {
    let mut wanted = BarrierOptions::default();
    wanted.limit = options.limit;
    wanted.within = options.within;
    wanted.allow_unfinished = options.allow_unfinished;
    let standing = async {
        crate::run::hold(access).await?;
        access.barrier(&wanted).await
    };
    let barrier = standing.await.map_err(|error| {
        let text = format!("the barrier does not stand, and nothing is held: {error}");
        Failure::Message(text)
    })?;
    let teller = Teller {
        format,
        has_command: !options.command.is_empty(),
    };
    teller.stood(barrier.stood(), options.limit)?;
    match options.command.split_first() {
        Some((program, arguments)) => under(barrier, program, arguments, &teller).await,
        None => until_told(barrier, &teller).await.map(Held::Ended),
    }
}

/// Standard output is the command's alone if there is one.
struct Teller {
    format: Format,
    has_command: bool,
}

impl Teller {
    fn say(
        &self,
        text: &str,
        data: Result<serde_json::Value, serde_json::Error>,
    ) -> Result<(), Failure> {
        let unsaid = |error: serde_json::Error| Failure::Message(error.to_string());
        let line = match self.format {
            Format::Table => text.to_owned(),
            Format::Json => data.map_err(unsaid)?.to_string(),
        };
        if self.has_command {
            talk(&line);
            Ok(())
        } else {
            output::text(&line)
        }
    }

    fn stood(&self, stood: &Stood, limit: Duration) -> Result<(), Failure> {
        for left in &stood.unfinished {
            talk(&format!(
                "warning: {} is decided and not committed everywhere: {}",
                left.gtrid,
                left.resources.join(", ")
            ));
        }
        let text = format!(
            "the barrier stands: it took {} ms and waited for {} decided transactions; new \
             decisions are held for {} at most",
            stood.took_ms,
            stood.waited_for,
            humantime::format_duration(limit)
        );
        self.say(&text, serde_json::to_value(stood))
    }

    fn ended(&self, ended: &BarrierEnded) -> Result<(), Failure> {
        let text = format!(
            "the barrier has held for {} ms; decisions go on",
            ended.held_ms
        );
        self.say(&text, serde_json::to_value(ended))
    }
}

async fn until_told(mut barrier: Barrier, teller: &Teller) -> Result<u8, Failure> {
    talk("press Enter when every backup has its snapshot");
    let told = tokio::task::spawn_blocking(|| io::stdin().lock().read_line(&mut String::new()));
    tokio::select! {
        fallen = barrier.fallen() => return Err(fell(&fallen)),
        // Whatever becomes of standard input, there is nothing more to wait for.
        _ = told => {}
    }
    let ended = barrier.end().await.map_err(|error| fell(&error))?;
    teller.ended(&ended)?;
    Ok(CLEAN)
}

async fn under(
    mut barrier: Barrier,
    program: &OsString,
    arguments: &[OsString],
    teller: &Teller,
) -> Result<Held, Failure> {
    let child = match Command::new(program).args(arguments).spawn() {
        Ok(child) => child,
        Err(error) => {
            let name = program.display();
            return Err(Failure::Message(format!("{name} cannot be run: {error}")));
        }
    };
    let mut waiting = tokio::task::spawn_blocking(move || wait(child));
    let status = tokio::select! {
        waited = &mut waiting => waited,
        fallen = barrier.fallen() => {
            drop(barrier);
            talk(&format!("{}; the command goes on", words(&fallen)));
            return Ok(Held::Fallen(waiting));
        }
    };
    let ended = barrier.end().await.map_err(|error| fell(&error))?;
    teller.ended(&ended)?;
    match status {
        Ok(Ok(status)) => Ok(Held::Ended(code(status))),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::Message(
            "the command was lost, which is a bug".into(),
        )),
    }
}

fn wait(mut child: Child) -> io::Result<ExitStatus> {
    child.wait()
}

/// As a shell has it.
fn code(status: ExitStatus) -> u8 {
    let killed = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(killed).unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

fn fell(error: &OperatorError) -> Failure {
    Failure::Message(words(error).trim_start_matches("error: ").to_owned())
}

fn words(error: &OperatorError) -> String {
    format!("error: THE BARRIER HAS NOT HELD; do not keep what was backed up: {error}")
}
