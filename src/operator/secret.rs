//! Passwords from outside of the config file, and their way into an address.
//!
//! Invariant I8: no error of this module holds a password, nor what a command has printed.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a password command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// The most that a password file or command may hold.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

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
    /// The password.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub(super) fn read(&self) -> Result<String, String> {
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
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.map(|out| out.take(SECRET_BYTES_MAX).read_to_string(&mut text));
        text
    });
    let is_good = ended_well(&mut child).map_err(|problem| failed(&problem))?;
    if !is_good {
        return Err(failed(&"it failed: run it by hand to see why"));
    }
    let text = reader.join().unwrap_or_default();
    first_line(&text).ok_or_else(|| failed(&"it printed nothing on its standard output"))
}

/// Waits for the command, up to its limit; then it is killed.
fn ended_well(child: &mut Child) -> Result<bool, String> {
    let begin = Instant::now();
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

/// Puts the password behind the address's user. `None` if it names no user.
pub(super) fn with_password(url: &str, password: &str) -> Option<String> {
    let user = userinfo(url)?;
    let end = url.find("://")? + "://".len() + user.len();
    let mut whole = url[..end].to_owned();
    whole.push(':');
    for byte in password.bytes() {
        if byte.is_ascii_alphanumeric() {
            whole.push(char::from(byte));
        } else {
            whole.push_str(&format!("%{byte:02X}"));
        }
    }
    whole.push_str(&url[end..]);
    Some(whole)
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
    fn a_password_is_put_behind_the_user_whatever_is_in_it() {
        let whole = with_password("mysql://app@h:1/d?x=1", "p@:/ä").unwrap();
        assert_eq!(whole, "mysql://app:p%40%3A%2F%C3%A4@h:1/d?x=1");
        assert_eq!(with_password("mysql://h:1/d?mail=a@b", "p"), None);
        assert_eq!(with_password("mysql://@h/d", "p"), None);
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
