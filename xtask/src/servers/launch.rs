//! Running server programs: to the end, or as a server until it is ready.
//!
//! A program does not begin before its guard knows it: a shell waits for a word from the owner and
//! then becomes the program, under the same process number. If the owner dies first, the word never
//! comes and the program never runs.

use std::{
    env,
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use super::{
    Error,
    folder::Folder,
    guard::{FirstSignal, Guard},
    process::{ProcessId, wait_until},
};

/// How long a server may take until it is ready, and how long it may take to stop cleanly.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of a log goes into an error.
const TAIL_LINES: usize = 20;

/// Waits for a word on standard input, then becomes the program named by the arguments.
pub(super) const GATE: &str = r#"read -r word && exec "$@" <"${UNANIMOUS_INPUT:-/dev/null}""#;

/// The variable that names a program's standard input, for [`GATE`].
pub(super) const INPUT: &str = "UNANIMOUS_INPUT";

/// A command that runs as the server's user, in its folder, without the caller's database settings.
pub(super) fn command(program: &Path, folder: &Folder) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", GATE, "gate"]).arg(program);
    let of_a_client = |name: &str| name.starts_with("PG") || name.starts_with("MYSQL");
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(of_a_client) {
            command.env_remove(name);
        }
    }
    // Messages are searched for words, so they have to be English.
    command
        .env("LC_ALL", "C")
        .env("TMPDIR", folder.tmp())
        .current_dir(folder.path());
    folder.user().apply(&mut command);
    command.process_group(0).env_remove(INPUT);
    command
}

/// Runs a set-up program to its end, under the eyes of the guard.
pub(super) fn run(
    command: &mut Command,
    name: &str,
    folder: &Folder,
    guard: &mut Guard,
) -> Result<(), Error> {
    let mut running = Running::spawn(command, name, Stage::SetUp, folder, guard)?;
    let status = running
        .child
        .wait()
        .map_err(Error::io("wait for", Path::new(name)))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::program(
        name,
        format!(
            "{status}; the end of its output:\n{}",
            tail(&Stage::SetUp.log(folder))
        ),
    ))
}

/// The last lines of a log, or nothing if there is none.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// What a process is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// A set-up program, which runs to its end.
    SetUp,
    /// The server, with what its guard does first to it.
    Server(FirstSignal),
}

impl Stage {
    /// Where its output goes.
    fn log(self, folder: &Folder) -> PathBuf {
        match self {
            Self::SetUp => folder.path().join("setup.log"),
            Self::Server(_) => folder.log(),
        }
    }

    const fn first_signal(self) -> FirstSignal {
        match self {
            // The set-up of PostgreSQL would wait for its children instead of ending them.
            Self::SetUp => FirstSignal::Kill,
            Self::Server(first) => first,
        }
    }
}

/// A process of ours with everything below it. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    id: ProcessId,
}

impl Running {
    /// Starts a process of [`command`].
    pub(super) fn spawn(
        command: &mut Command,
        name: &str,
        stage: Stage,
        folder: &Folder,
        guard: &mut Guard,
    ) -> Result<Self, Error> {
        let starting = || Error::io("start", Path::new(name));
        let log = stage.log(folder);
        let open = || File::options().create(true).append(true).open(&log);
        let output = open().map_err(Error::io("open", &log))?;
        let errors = open().map_err(Error::io("open", &log))?;
        command.stdin(Stdio::piped()).stdout(output).stderr(errors);
        let mut child = command.spawn().map_err(starting())?;
        let gate = child.stdin.take();
        let pid = child.id();
        // Not yet waited for, the child keeps its number even if it has ended already.
        let id = ProcessId::of(pid).unwrap_or(ProcessId { pid, started: 0 });
        let running = Self { child, id };
        guard.watch(id, stage.first_signal())?;
        folder.note_server(id)?;
        if let Some(mut gate) = gate {
            gate.write_all(b"go\n").map_err(starting())?;
        }
        Ok(running)
    }

    pub(super) const fn id(&self) -> ProcessId {
        self.id
    }

    /// Waits until the server says that it is ready.
    pub(super) fn wait_ready(
        &mut self,
        name: &str,
        log: &Path,
        is_ready: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let mut reason = None;
        let over = wait_until(PATIENCE, || {
            match self.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => reason = Some(format!("it ended with {status}")),
                Err(error) => reason = Some(format!("it cannot be waited for: {error}")),
            }
            reason.is_some() || is_ready()
        });
        let reason = match (over, reason) {
            (true, None) => return Ok(()),
            (_, Some(reason)) => reason,
            (false, None) => format!("it was not ready after {} s", PATIENCE.as_secs()),
        };
        Err(Error::NotReady {
            name: name.to_owned(),
            reason,
            log: tail(log),
        })
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the server to stop; if it does not, kills it.
    pub(super) fn stop(mut self, signal: Signal) {
        let below = self.id.descendants();
        self.resume();
        self.id.signal(signal);
        wait_until(PATIENCE, || !self.is_alive());
        // A clean stop ends the children before the server; after anything else they are killed.
        drop(self);
        for process in below {
            process.kill_tree();
        }
    }

    /// Stops every process of the server where it stands.
    pub(super) fn pause(&self) {
        // The server first, so that it starts no further process.
        self.id.signal(Signal::STOP);
        let below = self.id.descendants();
        for process in &below {
            process.signal(Signal::STOP);
        }
        // A signal is asynchronous: what runs on another processor stops a moment later.
        wait_until(PATIENCE, || {
            self.id.is_stopped() && below.iter().all(|process| process.is_stopped())
        });
    }

    /// Lets every process of the server go on.
    pub(super) fn resume(&self) {
        for process in self.id.descendants() {
            process.signal(Signal::CONT);
        }
        self.id.signal(Signal::CONT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.id.kill_tree();
        // The number is given back only now, so nothing of somebody else's could be hit above.
        let _ = self.child.wait();
    }
}
