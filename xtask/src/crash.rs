//! `cargo xtask crash`: the crash matrix, on shared servers and on servers of its own.
//!
//! The cells, what strikes in them and what must be true afterwards are in `tests/live/matrix`;
//! this brings the servers, builds the test program, and hands it what was asked for.

use std::process::ExitCode;

use xtask::servers::Kind;

use crate::{
    live::{self, Variables, absolute},
    usage_error,
};

const USAGE: &str = "`crash` takes nothing (a sample), `--full`, `--cell PART` (of names), \
                     `--shard I/N`, `--resume FILE`, `--json FILE`";

/// The command `crash`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    match parse(args) {
        Ok(variables) => live::run("matrix::run::matrix", variables, &Kind::ALL),
        Err(message) => usage_error(&message),
    }
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
