//! Three instances of one application share one decision log, which lies in a table of a database.
//! They move money between PostgreSQL and MySQL (or MariaDB). One of them is killed with `kill -9`
//! while branches of it are prepared, another one is paused for longer than the others wait: the
//! others finish what both have left, and no money is lost.
//!
//! ```text
//! UNANIMOUS_PG_URL=postgres://… UNANIMOUS_MYSQL_URL=mysql://… \
//!     cargo run --example shared_log [postgres | mysql]
//! ```
//! The word says in which of the two databases the log lies; `postgres` if there is none. The
//! members are processes of their own: this program starts itself once for each. It fails if what
//! it tells did not happen. How long it took is told, and judged by nobody.

mod member;
mod member_process;
mod story;
mod witness;

use std::env;
use std::io::{BufRead as _, BufReader, Read};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use unanimous::BoxError;

type Result<T> = std::result::Result<T, BoxError>;

/// Long: whoever waits so long gives up, and nothing is learnt from it.
const PATIENCE: Duration = Duration::from_secs(120);
/// What every account holds at first, in each of the two databases.
const BALANCE: i64 = 1000;
/// Each member has an account for its transfers, and one for each transfer that is held.
const ACCOUNTS: [&str; 3] = ["", "-decided", "-undecided"];

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match words[..] {
        [] | ["postgres"] => story::tell("postgres").await,
        ["mysql"] => story::tell("mysql").await,
        ["member", name, home] => member::run(name, home).await,
        _ => Err("usage: shared_log [postgres | mysql]".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shared_log: {error}");
            ExitCode::FAILURE
        }
    }
}

fn address(variable: &str) -> Result<String> {
    Ok(env::var(variable).map_err(|_| format!("{variable} is not set: give the address"))?)
}

/// What a member says for the narrator's ears, at the beginning of a line.
mod tag {
    pub(crate) const JOINED: &str = "joined the log under epoch ";
    pub(crate) const RESTS: &str = "rests after ";
    pub(crate) const GTRID: &str = "holds transaction ";
    pub(crate) const HELD: &str = "stands still: ";
    pub(crate) const COMMITTED: &str = "commit answers: committed";
    pub(crate) const ROLLED_BACK: &str = "commit answers: rolled back";
}

/// Each line as it comes, on a thread of its own.
fn lines_of(
    input: impl Read + Send + 'static,
    hear: impl Fn(&str) + Send + 'static,
) -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in BufReader::new(input).lines().map_while(|line| line.ok()) {
            hear(&line);
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
