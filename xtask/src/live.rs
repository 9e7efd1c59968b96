//! Runs one of the long tests in `tests/live` that want to be asked for: the crash matrix, the
//! soak. What they are to do, they are told by variables.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

use xtask::servers::Kind;

use crate::servers_command::{StartedSet, code_of, report};

/// What the test program is told.
pub(crate) type Variables = Vec<(&'static str, String)>;

/// Builds the test program, brings up shared servers of these kinds, and runs the test on them.
pub(crate) fn run(test: &str, variables: Variables, kinds: &[Kind]) -> ExitCode {
    // Before the servers start: nobody should wait for them to hear of a compiler's error.
    let built = finish(command(&["--no-run"]));
    if built != ExitCode::SUCCESS {
        return built;
    }
    let set = match StartedSet::start(kinds) {
        Ok(set) => set,
        Err(errors) => return report(&errors),
    };
    let mut command = command(&["--", test, "--exact", "--nocapture"]);
    set.hand_to(&mut command);
    command.envs(variables);
    let code = finish(command);
    set.stop();
    code
}

/// The test program runs in another folder than this one.
pub(crate) fn absolute(path: &str) -> String {
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
            eprintln!("cargo could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}
