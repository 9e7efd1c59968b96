//! `cargo xtask test`: every check, with a summary at the end.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use xtask::servers::{Ended, Kind, end_within};

use crate::{
    servers_command::{StartedSet, report},
    steps::{LOG_FOLDER, STEPS, Step},
    usage_error,
};

/// No step takes half of it, a cold build included. A step that hangs is to end as a failure that
/// names it, with what it printed last, and not as a silence until somebody else's patience ends.
const STEP_LIMIT: Duration = Duration::from_secs(40 * 60);

/// How many tests run at a time, unless this is set.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// One more than there are processors: tests on real servers wait a good part of their time.
fn test_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 1
}

/// What became of a step.
struct Done {
    step: &'static Step,
    result: Result<(), String>,
    took: Duration,
}

/// The command `test`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    if args.iter().any(|arg| arg == "--list") {
        for step in STEPS {
            println!("{:<10} {}", step.name, step.checks);
        }
        return ExitCode::SUCCESS;
    }
    let chosen = match choose(args) {
        Ok(chosen) => chosen,
        Err(unknown) => {
            let message = format!("there is no step `{unknown}`; `test --list` says which are");
            return usage_error(&message);
        }
    };
    let (done, servers_failed) = run_all(&chosen);
    summarise(&done);
    let failed = done.iter().any(|done| done.result.is_err());
    if failed || servers_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The steps with these names, in the order of the table; all of them if none is named.
fn choose(names: &[String]) -> Result<Vec<&'static Step>, &String> {
    let is_unknown = |name: &&String| !STEPS.iter().any(|step| step.name == *name);
    if let Some(unknown) = names.iter().find(is_unknown) {
        return Err(unknown);
    }
    let is_chosen = |step: &&Step| names.is_empty() || names.iter().any(|name| name == step.name);
    Ok(STEPS.iter().filter(is_chosen).collect())
}

/// Runs the steps; a failure does not keep the others from running. The servers start before the
/// first step that needs them and stop at the end.
fn run_all(steps: &[&'static Step]) -> (Vec<Done>, bool) {
    let mut done = Vec::new();
    let mut set = None;
    let mut servers_failed = false;
    for step in steps {
        if step.needs_servers && set.is_none() && !servers_failed {
            match StartedSet::start(&Kind::ALL) {
                Ok(started) => set = Some(started),
                Err(errors) => {
                    report(&errors);
                    servers_failed = true;
                }
            }
        }
        let begin = Instant::now();
        let result = if step.needs_servers && servers_failed {
            Err("its servers did not start".to_owned())
        } else {
            run_step(step, set.as_ref())
        };
        done.push(Done {
            step,
            result,
            took: begin.elapsed(),
        });
    }
    if let Some(set) = set {
        set.stop();
    }
    // It is not there if no step was given it.
    let _ = fs::remove_dir_all(scratch());
    (done, servers_failed)
}

/// This run's own folder, made when a step is about to use it.
fn scratch() -> PathBuf {
    let path = env::temp_dir().join(format!("unanimous-test-{}", std::process::id()));
    // If it cannot be made, the step that needs it says so.
    let _ = fs::create_dir_all(&path);
    path
}

fn run_step(step: &Step, set: Option<&StartedSet>) -> Result<(), String> {
    println!("\n== {}: {}", step.name, step.checks);
    // Under `cargo xtask` this is the cargo that called us.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let log_folder = scratch().join("log");
    let args = step.cargo.iter().map(|&arg| match arg {
        LOG_FOLDER => log_folder.as_os_str(),
        other => OsStr::new(other),
    });
    command.args(args).envs(step.env.iter().copied());
    if let Some(set) = set {
        set.hand_to(&mut command);
        if env::var_os(TEST_THREADS).is_none() {
            command.env(TEST_THREADS, test_threads().to_string());
        }
    }
    let mut child = command
        .spawn()
        .map_err(|error| format!("cargo could not be run: {error}"))?;
    match end_within(&mut child, STEP_LIMIT) {
        Ok(Ended::InTime(status)) if status.success() => Ok(()),
        Ok(Ended::InTime(status)) => Err(status.to_string()),
        Ok(Ended::Overdue(running)) => {
            let minutes = STEP_LIMIT.as_secs() / 60;
            let running = running.join("\n  ");
            println!("killed after {minutes} minutes; what ran then:\n  {running}");
            Err(format!("killed: it did not end within {minutes} minutes"))
        }
        Err(error) => Err(format!("cargo could not be waited for: {error}")),
    }
}

fn summarise(done: &[Done]) {
    println!("\n== summary");
    for Done { step, result, took } in done {
        let seconds = took.as_secs_f64();
        match result {
            Ok(()) => println!("ok      {:<10} {seconds:7.1} s", step.name),
            Err(reason) => println!("FAILED  {:<10} {seconds:7.1} s  {reason}", step.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_steps_run_in_the_order_of_the_table() {
        let names = ["test", "format"].map(str::to_owned);
        let chosen: Vec<&str> = choose(&names)
            .unwrap()
            .iter()
            .map(|step| step.name)
            .collect();
        assert_eq!(chosen, ["format", "test"]);
        assert_eq!(choose(&[]).unwrap().len(), STEPS.len());
    }

    #[test]
    fn an_unknown_step_is_refused_by_name() {
        let names = ["tset".to_owned()];
        assert_eq!(choose(&names).err().map(String::as_str), Some("tset"));
    }

    #[test]
    fn no_two_steps_have_the_same_name() {
        for (index, step) in STEPS.iter().enumerate() {
            assert!(
                STEPS[index + 1..]
                    .iter()
                    .all(|other| other.name != step.name)
            );
        }
    }
}
