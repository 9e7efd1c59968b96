//! `cargo xtask crash`: the crash matrix, on shared servers and on servers of its own.
//!
//! The cells, what strikes in them and what must be true afterwards are in `tests/live/matrix`;
//! this brings the servers, builds the test program, and hands it what was asked for.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

use xtask::servers::Kind;

use crate::{
    servers_command::{StartedSet, code_of, report},
    usage_error,
};

const USAGE: &str = "`crash` takes nothing (a sample), `--full`, `--cell NAME`, `--shard I/N`, \
                     `--resume FILE`, `--json FILE`";

/// What the test program is told, as variables.
type Variables = Vec<(&'static str, String)>;

/// The command `crash`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let variables = match parse(args) {
        Ok(variables) => variables,
        Err(message) => return usage_error(&message),
    };
    // Before the servers start: nobody should wait for them to hear of a compiler's error.
    let built = finish(command(&["--no-run"]));
    if built != ExitCode::SUCCESS {
        return built;
    }
    let set = match StartedSet::start(&Kind::ALL) {
        Ok(set) => set,
        Err(errors) => return report(&errors),
    };
    let mut command = command(&["--", "matrix::run::matrix", "--exact", "--nocapture"]);
    set.hand_to(&mut command);
    command.envs(variables);
    let code = finish(command);
    set.stop();
    code
}

fn parse(args: &[String]) -> Result<Variables, String> {
    let mut variables = vec![("UNANIMOUS_CRASH", "sample".to_owned())];
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| USAGE.to_owned());
        match arg.as_str() {
            "--full" => variables[0].1 = "full".to_owned(),
            "--cell" => variables.push(("UNANIMOUS_CRASH_CELL", value()?)),
            "--shard" => variables.push(("UNANIMOUS_CRASH_SHARD", shard(value()?)?)),
            "--resume" => variables.push(("UNANIMOUS_CRASH_RESUME", absolute(&value()?))),
            "--json" => variables.push(("UNANIMOUS_CRASH_JSON", absolute(&value()?))),
            other => return Err(format!("`crash` knows no `{other}`; {USAGE}")),
        }
    }
    Ok(variables)
}

fn shard(text: String) -> Result<String, String> {
    let numbers = text
        .split_once('/')
        .and_then(|(i, n)| Some((i.parse::<u32>().ok()?, n.parse::<u32>().ok()?)));
    match numbers {
        Some((i, n)) if (1..=n).contains(&i) => Ok(text),
        Some(_) | None => Err(format!("`--shard {text}`: say I/N, with I from 1 to N")),
    }
}

/// The test program runs in another folder than this one.
fn absolute(path: &str) -> String {
    let folder = env::current_dir().unwrap_or_default();
    let path: PathBuf = folder.join(path);
    path.to_string_lossy().into_owned()
}

fn command(args: &[&str]) -> Command {
    // Under `cargo xtask` this is the cargo that called us.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["test", "--quiet", "--workspace", "--test", "live"])
        .args(args);
    command
}

fn finish(mut command: Command) -> ExitCode {
    match command.status() {
        Ok(status) => code_of(status),
        Err(error) => {
            eprintln!("crash: cargo could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Variables, String> {
        parse(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_asked_for_becomes_variables() {
        assert_eq!(
            parsed(&[]).unwrap(),
            [("UNANIMOUS_CRASH", "sample".to_owned())]
        );
        let variables = parsed(&["--full", "--shard", "2/3"]).unwrap();
        assert_eq!(variables[0].1, "full");
        assert_eq!(variables[1], ("UNANIMOUS_CRASH_SHARD", "2/3".to_owned()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &["--shard", "0/3"][..],
            &["--shard", "4/3"],
            &["--shard", "x"],
            &["--json"],
            &["--all"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
