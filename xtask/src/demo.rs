//! `cargo xtask demo`: the story of `examples/demo`, on servers of its own.

use std::{
    env,
    process::{Command, ExitCode},
};

use xtask::servers::Kind;

use crate::{
    servers_command::{StartedSet, code_of, report},
    usage_error,
};

/// The variables from which the example takes its addresses.
const POSTGRES: &str = "UNANIMOUS_PG_URL";
const MYSQL: &str = "UNANIMOUS_MYSQL_URL";

/// The command `demo`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let mysql = match args {
        [] => Kind::Mysql,
        [flag] if flag == "--mariadb" => Kind::Mariadb,
        _ => return usage_error("`demo` takes nothing, or `--mariadb`"),
    };
    // Before the servers start: nobody should wait for them to hear of a compiler's error.
    let built = cargo(&["build", "--package", "unanimous", "--example", "demo"]);
    if built != ExitCode::SUCCESS {
        return built;
    }
    let set = match StartedSet::start(&[Kind::PostgresNewest, mysql]) {
        Ok(set) => set,
        Err(errors) => return report(&errors),
    };
    let code = tell(&set, mysql);
    set.stop();
    code
}

fn tell(set: &StartedSet, mysql: Kind) -> ExitCode {
    let run = [
        "run",
        "--quiet",
        "--package",
        "unanimous",
        "--example",
        "demo",
    ];
    let mut command = command(&run);
    for (variable, kind) in [(POSTGRES, Kind::PostgresNewest), (MYSQL, mysql)] {
        command.envs(set.url(kind).map(|url| (variable, url)));
    }
    finish(command)
}

fn cargo(args: &[&str]) -> ExitCode {
    finish(command(args))
}

fn command(args: &[&str]) -> Command {
    // Under `cargo xtask` this is the cargo that called us.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args);
    command
}

fn finish(mut command: Command) -> ExitCode {
    match command.status() {
        Ok(status) => code_of(status),
        Err(error) => {
            eprintln!("demo: cargo could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}
