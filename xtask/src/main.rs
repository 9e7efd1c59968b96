//! The project's own commands: `cargo xtask bench | crash | demo | fuzz | servers | soak | test`.

mod bench;
mod crash;
mod demo;
mod fuzz;
mod live;
mod servers_command;
mod soak;
mod steps;
mod test_command;

use std::process::ExitCode;

const USAGE: &str = "\
The project's own commands.

  cargo xtask bench [--quick]      transfers beside the alternatives; also --coordinator, --growth,
                                   --seconds N --servers A,B --workers N,M --json FILE --out FOLDER
  cargo xtask demo                 the main job, told as a story on PostgreSQL and MySQL
  cargo xtask demo --mariadb       the same with MariaDB
  cargo xtask servers              start the shared servers; stop them at Ctrl-C or end of input
  cargo xtask servers -- COMMAND…  run a command with the servers, and stop them after it
  cargo xtask crash [--full]       a sample of the crash matrix, or all of it; also
                                   --cell PART --shard I/N --resume FILE --json FILE
  cargo xtask fuzz [TARGET]        libFuzzer on every reader of bytes, or on one of them; also
                                   --seconds N --input FILE
  cargo xtask soak --minutes N     transfers under a nemesis; also --log LOG, --json FILE
  cargo xtask test [STEP…]         run every check, or only these steps
  cargo xtask test --list          say which steps there are

Servers come from the environment (UNANIMOUS_PG_URL and others), from containers where an engine
answers, from the machine, or from Debian packages in a cache folder;
`cargo doc --package xtask --open` tells the whole of it.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    match command {
        "bench" => bench::run(rest),
        "crash" => crash::run(rest),
        "demo" => demo::run(rest),
        "fuzz" => fuzz::run(rest),
        "servers" => servers_command::run(rest),
        "soak" => soak::run(rest),
        "test" => test_command::run(rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        other => usage_error(&format!("there is no command `{other}`")),
    }
}

/// Says what is wrong with the command line.
fn usage_error(message: &str) -> ExitCode {
    eprintln!("cargo xtask: {message}\n\n{USAGE}");
    ExitCode::from(2)
}
