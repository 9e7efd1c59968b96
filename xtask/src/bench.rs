//! `cargo xtask bench`: what a commit costs, beside what cannot be beaten and what people use.
//!
//! What is measured is in `benches/transfers`; this builds it with optimisation and hands it what
//! was asked for.

use std::{
    env,
    process::{Command, ExitCode},
};

use crate::servers_command::code_of;

/// The command `bench`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    // Under `cargo xtask` this is the cargo that called us.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["bench", "--quiet", "--package", "unanimous-benches"])
        .args(["--bench", "transfers", "--"])
        .args(args);
    match command.status() {
        Ok(status) => code_of(status),
        Err(error) => {
            eprintln!("cargo could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}
