//! SQLAlchemy's `twophase=True`, in processes of its own, in an environment of its own below the
//! build's folder.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::Error;
use crate::lab::{ACCOUNTS, cpu_below};

const PROGRAM: &str = include_str!("sqlalchemy_transfers.py");
const PACKAGES: [&str; 4] = [
    "sqlalchemy>=2,<3",
    "psycopg[binary]>=3",
    "pymysql>=1.1",
    // PyMySQL needs it for the log-in of MySQL 9.
    "cryptography",
];

/// The interpreter with SQLAlchemy; made on first use.
///
/// # Errors
/// There is no Python with `venv`, or the packages cannot be had. The benchmark goes on without.
pub(crate) async fn interpreter() -> Result<PathBuf, Error> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sqlalchemy");
    let (python, complete) = (folder.join("bin/python"), folder.join("complete"));
    if complete.exists() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder)).await?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet"]).args(PACKAGES);
    run(&mut pip).await?;
    std::fs::write(complete, "")?;
    Ok(python)
}

async fn run(command: &mut Command) -> Result<(), Error> {
    let told = format!("{:?}", command.as_std());
    let output = command.output().await.map_err(|e| format!("{told}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{told}: {}", words.trim()).into())
}

/// The processes with their connections.
pub(crate) struct Sqlalchemy {
    child: Mutex<Child>,
    pid: u32,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

/// What they have done.
#[derive(Deserialize)]
pub(crate) struct Done {
    pub(crate) micros: Vec<u32>,
    pub(crate) seconds: f64,
    errors: Vec<String>,
}

impl Sqlalchemy {
    pub(crate) async fn start(
        postgres_url: &str,
        mysql_url: &str,
        workers: usize,
    ) -> Result<Self, Error> {
        let postgres = postgres_url.replacen("postgres://", "postgresql+psycopg://", 1);
        let mysql = mysql_url.replacen("mysql://", "mysql+pymysql://", 1);
        let numbers = [workers.to_string(), ACCOUNTS.to_string()];
        let mut child = Command::new(interpreter().await?)
            .args(["-c", PROGRAM, &postgres, &mysql])
            .args(numbers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or("python has ended at once")?;
        let input = child.stdin.take().ok_or("python has no input")?;
        let output = child.stdout.take().ok_or("python has no output")?;
        let this = Self {
            child: Mutex::new(child),
            pid,
            pipes: Mutex::new((input, BufReader::new(output).lines())),
        };
        // The line that says that it is ready.
        this.pipes.lock().await.1.next_line().await?;
        Ok(this)
    }

    pub(crate) fn cpu(&self) -> Result<Duration, Error> {
        cpu_below(self.pid)
    }

    pub(crate) async fn run(&self, time: Duration) -> Result<Done, Error> {
        self.ask(&format!("run {}\n", time.as_secs_f64())).await
    }

    pub(crate) async fn count(&self, transfers: u64) -> Result<Done, Error> {
        self.ask(&format!("count {transfers}\n")).await
    }

    async fn ask(&self, line: &str) -> Result<Done, Error> {
        let mut pipes = self.pipes.lock().await;
        let (input, output) = &mut *pipes;
        input.write_all(line.as_bytes()).await?;
        let answer = output.next_line().await?;
        let answer = answer.ok_or("python has ended without an answer")?;
        let done: Done = serde_json::from_str(&answer)?;
        match done.errors.first() {
            None => Ok(done),
            Some(error) => Err(format!("SQLAlchemy: {error}").into()),
        }
    }

    pub(crate) async fn stop(self) -> Result<(), Error> {
        drop(self.pipes);
        self.child.into_inner().wait().await?;
        Ok(())
    }
}
