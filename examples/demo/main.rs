//! The main job of Unanimous, told as a story: `cargo xtask demo`, or `cargo run --example demo`
//! with `UNANIMOUS_PG_URL` and `UNANIMOUS_MYSQL_URL` set.
//!
//! One program, two roles. Without arguments it is the narrator: it starts the application, kills
//! it, starts it again, and looks at both databases with plain drivers. The narrator does not use
//! Unanimous. With arguments it is the application: it moves money through Unanimous and knows
//! nothing of the narrator but a pipe in each direction.
//!
//! It exits with 0 only if every check has held.

mod app;
mod app_process;
mod narrator;
mod page;
mod stage;
mod story;
mod task;
mod witness;

use std::env;
use std::error::Error;
use std::process::ExitCode;

use task::Task;

/// Nothing in this program mends an error; whoever reads it does.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = if args.is_empty() {
        story::tell()
    } else {
        Task::from_args(&args).and_then(app::run)
    };
    result.unwrap_or_else(|error| {
        eprintln!("demo: {error}");
        ExitCode::FAILURE
    })
}

/// The address of a database, from the environment: an argument would show its password to
/// everybody on the machine.
fn address(variable: &str) -> Result<String> {
    let missing = |_| {
        format!("{variable} is not set: run `cargo xtask demo`, or give the address of a server")
    };
    Ok(env::var(variable).map_err(missing)?)
}
