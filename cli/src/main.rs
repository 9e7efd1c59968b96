//! The operator's tool of Unanimous. `main` only maps a result to an exit code: 0 nothing in doubt,
//! 1 something in doubt, 2 failed (the README has the table). Data goes to standard output, talk to
//! standard error.

mod args;
mod barrier;
mod check;
mod columns;
mod examples;
mod filter;
mod list;
mod log;
mod lost;
mod manual;
mod output;
mod progress;
mod recover;
mod resolve;
mod run;
mod show;
mod warnings;

use std::process::ExitCode;

fn main() -> ExitCode {
    match run::run() {
        Ok(found) => ExitCode::from(found),
        Err(failure) => {
            failure.report();
            ExitCode::from(2)
        }
    }
}
