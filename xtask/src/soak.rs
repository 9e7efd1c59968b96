//! `cargo xtask soak`: transfers without end on servers of its own, under a nemesis.
//!
//! What is done and what is checked is in `tests/live/soak`; this builds the test program and hands
//! it what was asked for.

use std::process::ExitCode;

use crate::{
    live::{self, Variables, absolute},
    usage_error,
};

const USAGE: &str = "`soak` takes `--minutes N` (1 unless said otherwise), `--log LOG` (file, \
    postgres, mysql or mariadb) and `--json FILE`";

/// The command `soak`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    match parse(args) {
        Ok(variables) => live::run("soak::run::soak", variables, &[]),
        Err(message) => usage_error(&message),
    }
}

fn parse(args: &[String]) -> Result<Variables, String> {
    let mut variables = vec![("UNANIMOUS_SOAK_MINUTES", "1".to_owned())];
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| USAGE.to_owned());
        match arg.as_str() {
            "--minutes" => variables[0].1 = minutes(value()?)?,
            "--log" => variables.push(("UNANIMOUS_SOAK_LOG", log(value()?)?)),
            "--json" => variables.push(("UNANIMOUS_SOAK_JSON", absolute(&value()?))),
            other => return Err(format!("`soak` knows no `{other}`; {USAGE}")),
        }
    }
    Ok(variables)
}

fn minutes(text: String) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 1e6 => Ok(text),
        Ok(_) | Err(_) => Err(format!("`--minutes {text}`: say a number above 0")),
    }
}

fn log(text: String) -> Result<String, String> {
    match text.as_str() {
        "file" | "postgres" | "mysql" | "mariadb" => Ok(text),
        _ => Err(format!("`--log {text}`: {USAGE}")),
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
        let minutes = |text: &str| ("UNANIMOUS_SOAK_MINUTES", text.to_owned());
        assert_eq!(parsed(&[]).unwrap(), [minutes("1")]);
        let args = ["--minutes", "0.5", "--log", "mysql", "--json", "/tmp/x"];
        let variables = parsed(&args).unwrap();
        let log = ("UNANIMOUS_SOAK_LOG", "mysql".to_owned());
        let json = ("UNANIMOUS_SOAK_JSON", "/tmp/x".to_owned());
        assert_eq!(variables, [minutes("0.5"), log, json]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &["--minutes"][..],
            &["--minutes", "0"],
            &["--minutes", "NaN"],
            &["--minutes", "x"],
            &["--hours", "1"],
            &["--log", "paper"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
