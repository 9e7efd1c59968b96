//! Passwords from outside of the config file. They are asked for whenever a connection is made, so
//! that they may change while a program runs, and are kept nowhere.
//!
//! Invariant I8: no error of this module holds a password, nor what a command has printed.

use std::error::Error;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// How long a password command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// The most that a password file or command may hold.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// How often one source is asked at the same time.
#[allow(dead_code, reason = "without any database built in, nobody asks")]
const ASKED_AT_ONCE: usize = 4;

/// A password on its way.
pub(super) type Asking =
    Pin<Box<dyn Future<Output = Result<String, Box<dyn Error + Send + Sync>>> + Send>>;

/// Where a password comes from.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Source {
    Env(String),
    File(PathBuf),
    /// Program and arguments.
    Command(Vec<String>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            // Its arguments may be secrets of another kind.
            Self::Command(_) => f.write_str("Command(…)"),
        }
    }
}

impl Source {
    /// Asks anew each time that it is called, on a thread that may block. Only so many at a time:
    /// what never answers is asked again and again, and must not use up the threads on which other
    /// resources look names up and read their files (I6).
    #[allow(dead_code, reason = "without any database built in, nobody takes it")]
    pub(super) fn into_asker(self) -> impl Fn() -> Asking + Send + Sync + 'static {
        let turns = Arc::new(Semaphore::new(ASKED_AT_ONCE));
        move || {
            let (source, turns) = (self.clone(), Arc::clone(&turns));
            Box::pin(async move {
                let turn = turns.acquire_owned().await;
                let turn = turn.map_err(|_| "asking for passwords has ended, which is a bug")?;
                // The turn ends with the thread, which goes on when nobody waits any more.
                let asking = move || {
                    let password = source.read();
                    drop(turn);
                    password
                };
                let asked = tokio::task::spawn_blocking(asking).await;
                Ok(asked.map_err(|_| "asking for the password panicked, which is a bug")??)
            })
        }
    }

    /// The password. Blocks: a command may take [`COMMAND_LIMIT`].
    ///
    /// # Errors
    /// Why there is none, and what to do.
    fn read(&self) -> Result<String, String> {
        match self {
            Self::Env(name) => env(name),
            Self::File(path) => file(path),
            Self::Command(words) => command(words),
        }
    }
}

/// A variable of the environment that is set, not empty and Unicode.
pub(super) fn env(name: &str) -> Result<String, String> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        Ok(_) | Err(std::env::VarError::NotPresent) => Err(format!(
            "the environment variable {name} is not set: set it"
        )),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!(
            "the environment variable {name} is not valid UTF-8"
        )),
    }
}

fn file(path: &Path) -> Result<String, String> {
    let failed = |error| {
        format!(
            "the password file {} cannot be read: {error}",
            path.display()
        )
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let mut file = file.take(SECRET_BYTES_MAX);
    file.read_to_string(&mut text).map_err(failed)?;
    first_line(&text).ok_or_else(|| format!("the password file {} is empty", path.display()))
}

fn command(words: &[String]) -> Result<String, String> {
    let Some((program, arguments)) = words.split_first() else {
        return Err("password_command is empty: write [\"program\", \"argument\", …]".into());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let failed = |problem: &dyn fmt::Display| format!("the password command {program}: {problem}");
    let mut child = command
        .spawn()
        .map_err(|error| failed(&format!("cannot be started: {error}")))?;
    let begin = Instant::now();
    let line = child.stdout.take().map(line_of);
    let is_good = ended_well(&mut child, begin).map_err(|problem| failed(&problem))?;
    if !is_good {
        return Err(failed(&"it failed: run it by hand to see why"));
    }
    // What it left running may hold its output open for ever; the line may be there all the same.
    let rest = COMMAND_LIMIT.saturating_sub(begin.elapsed());
    let line = line.and_then(|line| line.recv_timeout(rest).ok());
    let line = line.and_then(|line| first_line(&line));
    line.ok_or_else(|| failed(&"it printed nothing on its standard output"))
}

/// The first line of what is printed, as soon as it is there. The rest is read, too, so that nobody
/// is stopped by a full pipe.
fn line_of(stdout: ChildStdout) -> Receiver<String> {
    let (send, line) = channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let mut beginning = (&mut stdout).take(SECRET_BYTES_MAX);
        // Nobody listens any more if the command was given up; and what cannot be read is missing.
        if beginning.read_line(&mut line).is_ok() {
            drop(send.send(line));
        }
        drop(std::io::copy(&mut stdout, &mut std::io::sink()));
    });
    line
}

/// Waits for the command, up to its limit; then it is killed.
fn ended_well(child: &mut Child, begin: Instant) -> Result<bool, String> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) if begin.elapsed() < COMMAND_LIMIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(None) => {
                // Killing fails only if it has just ended.
                drop(child.kill());
                drop(child.wait());
                return Err(format!("it did not end within {COMMAND_LIMIT:?}"));
            }
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    }
}

fn first_line(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    (!line.is_empty()).then(|| line.to_owned())
}

/// Whether the address holds a password.
pub(super) fn holds_password(url: &str) -> bool {
    userinfo(url).is_some_and(|userinfo| userinfo.contains(':'))
        || url.to_ascii_lowercase().contains("password=")
}

/// Whether the address names a user.
pub(super) fn names_user(url: &str) -> bool {
    userinfo(url).is_some()
}

/// What stands between `://` and the last `@` before the path.
fn userinfo(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (user, _) = rest[..end].rsplit_once('@')?;
    (!user.is_empty()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_an_address_is_found_wherever_another_at_sign_is() {
        assert!(names_user("mysql://app@h:1/d?x=1"));
        assert!(names_user("mysql://a@b@h/d"));
        assert!(!names_user("mysql://h:1/d?mail=a@b"));
        assert!(!names_user("mysql://@h/d"));
    }

    #[test]
    fn a_password_in_an_address_is_seen() {
        assert!(holds_password("mysql://app:p@h/d"));
        assert!(holds_password("postgres://app@h/d?password=x"));
        assert!(!holds_password("mysql://app@h:1/d?x=a:b"));
    }

    #[test]
    fn a_password_is_the_first_line_of_a_file_or_of_what_a_command_prints() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::write(&path, "s3cret \n").unwrap();
        assert_eq!(Source::File(path).read().unwrap(), "s3cret ");
        let words =
            |words: &[&str]| Source::Command(words.iter().map(ToString::to_string).collect());
        assert_eq!(words(&["echo", "s3 cret"]).read().unwrap(), "s3 cret");
        // More than a pipe holds.
        let long = words(&["sh", "-c", "echo s3cret; seq 1 100000"]);
        assert_eq!(long.read().unwrap(), "s3cret");
    }

    #[test]
    fn a_daemon_that_a_command_leaves_behind_does_not_hold_up_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let ended = folder.path().join("ended");
        let script = format!("(sleep 5; touch '{}') & echo s3cret", ended.display());
        let leaves = Source::Command(vec!["sh".into(), "-c".into(), script]);
        assert_eq!(leaves.read().unwrap(), "s3cret");
        assert!(!ended.exists(), "it was waited for");
    }

    #[tokio::test]
    async fn a_password_is_asked_for_anew_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::write(&path, "one").unwrap();
        let ask = Source::File(path.clone()).into_asker();
        assert_eq!(ask().await.unwrap(), "one");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(ask().await.unwrap(), "two");
        std::fs::remove_file(&path).unwrap();
        let error = ask().await.unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn i6_a_password_file_that_never_answers_uses_up_no_threads() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("p");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let threads = 2 * ASKED_AT_ONCE;
        let runtime = runtime.max_blocking_threads(threads).enable_time();
        let runtime = runtime.build().unwrap();
        runtime.block_on(async {
            let ask = Source::File(pipe).into_asker();
            for _ in 0..threads {
                let asked = tokio::time::timeout(Duration::from_millis(20), ask()).await;
                assert!(asked.is_err(), "nobody writes into the pipe");
            }
            let other = tokio::task::spawn_blocking(|| ());
            let free = tokio::time::timeout(Duration::from_secs(30), other).await;
            assert!(free.is_ok(), "no thread is left for anybody else");
        });
        runtime.shutdown_background();
    }

    #[test]
    fn i8_a_password_that_cannot_be_had_is_an_error_without_output_or_arguments() {
        let words =
            |words: &[&str]| Source::Command(words.iter().map(ToString::to_string).collect());
        for (source, named) in [
            (
                Source::Env("UNANIMOUS_TEST_NOT_SET".into()),
                "UNANIMOUS_TEST_NOT_SET",
            ),
            (Source::File("no/such/file".into()), "no/such/file"),
            (
                words(&["sh", "-c", "echo s3cret; exit 1"]),
                "the password command sh: it failed",
            ),
            (words(&["true"]), "printed nothing"),
            (
                words(&["no-such-program-here", "s3cret"]),
                "no-such-program-here: cannot be started",
            ),
            (words(&[]), "password_command is empty"),
        ] {
            let error = source.read().unwrap_err();
            assert!(error.contains(named), "{error}");
            assert!(!format!("{error}{source:?}").contains("s3cret"), "{error}");
        }
    }
}
