//! The process that stops a server when its owner dies.
//!
//! The guard is a small shell script whose standard input is a pipe from the owner. However the
//! owner ends, the system closes the pipe; the guard then stops the server and clears up: by a
//! command that it was given, the removal of the server's folder for example.
//!
//! * The owner's end of the pipe is close-on-exec, so no other child of the owner holds it open.
//! * The guard has a process group of its own and ignores the signals of a terminal, so that
//!   Ctrl-C ends the owner and not the guard.
//! * It signals a process only if its start time is the one it was told.

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use super::{Error, process::ProcessId};

/// Words on standard input: `watch PID START SIGNAL` names the process to stop and the signal to
/// begin with (it may follow itself: a restarted server is another process); `leave` ends the guard
/// without doing anything, because the owner has done it.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM PIPE
pid= start= signal=

is_alive() {
    [ -n "$pid" ] || return 1
    { read -r line < "/proc/$pid/stat"; } 2>/dev/null || return 1
    set -- ${line##*) }
    [ "$1" != Z ] && [ "${20}" = "$start" ]
}

while read -r word a b c; do
    case $word in
        watch) pid=$a start=$b signal=$c ;;
        leave) exit 0 ;;
    esac
done

if is_alive; then
    case $signal in
        QUIT) kill -s QUIT "$pid" ;;
        KILL) kill -s KILL -- "-$pid" ;;
    esac 2>/dev/null
    kill -s CONT "$pid" 2>/dev/null
    tries=0
    while is_alive && [ "$tries" -lt 80 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    if is_alive; then
        kill -s KILL "$pid" 2>/dev/null
    fi
fi

# A child of an interrupted set-up may still be writing for a moment.
tries=0
until "$@" || [ "$tries" -ge 50 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
"#;

/// What the guard does first to a server whose owner has died.
#[derive(Clone, Copy, Debug)]
pub(super) enum FirstSignal {
    /// For PostgreSQL: the server ends its own children before itself.
    Quit,
    /// For everything else: the process leads a group, and the group is killed at once.
    Kill,
}

/// A running guard.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    /// The owner's end of the pipe; taken only by tests.
    words: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard that will remove `folder`.
    pub(super) fn start(folder: &Path) -> Result<Self, Error> {
        Self::start_with(
            ["rm", "-rf", "--"]
                .map(OsStr::new)
                .into_iter()
                .chain([folder.as_os_str()]),
        )
    }

    /// Starts a guard that will run this command, until it succeeds.
    pub(super) fn start_with<'a>(
        clear_up: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            doing: "start `sh` as the guard of a server".to_owned(),
            source,
        };
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, "unanimous-guard"])
            .args(clear_up)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let words = child.stdin.take();
        Ok(Self { child, words })
    }

    /// Names the process to stop; it replaces the one before.
    pub(super) fn watch(&mut self, process: ProcessId, first: FirstSignal) -> Result<(), Error> {
        let ProcessId { pid, started } = process;
        let signal = match first {
            FirstSignal::Quit => "QUIT",
            FirstSignal::Kill => "KILL",
        };
        self.say(&format!("watch {pid} {started} {signal}\n"))
    }

    fn say(&mut self, line: &str) -> Result<(), Error> {
        let words = self.words.as_mut().ok_or(io::ErrorKind::BrokenPipe);
        // One write of less than a pipe's atomic size: the guard never reads half a line.
        let said = words
            .map_err(io::Error::from)
            .and_then(|words| words.write_all(line.as_bytes()));
        said.map_err(|source| Error::Io {
            doing: "tell the guard of a server what to watch".to_owned(),
            source,
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A guard that is gone already needs no word.
        if self.say("leave\n").is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, time::Duration};

    use super::*;
    use crate::servers::process::wait_until;

    impl Guard {
        /// Closes the pipe, as the system does for an owner that has died, and waits for the end.
        pub(crate) fn lose_owner(mut self) {
            drop(self.words.take());
            self.child.wait().unwrap();
        }
    }

    /// A process that leads a group and has a child, as a set-up program does.
    fn sleeper() -> Child {
        let script = "sleep 600 & wait";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).process_group(0).spawn().unwrap()
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = env::temp_dir().join(format!("xtask-{name}-{}", ProcessId::current()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_closed_pipe_ends_the_process_with_its_children_and_removes_the_folder() {
        let folder = scratch("guard-closed");
        let mut server = sleeper();
        let id = ProcessId::of(server.id()).unwrap();
        let mut children = Vec::new();
        let has_child = || {
            children = id.descendants();
            !children.is_empty()
        };
        assert!(wait_until(Duration::from_secs(10), has_child));
        let mut guard = Guard::start(&folder).unwrap();
        guard.watch(id, FirstSignal::Kill).unwrap();
        guard.lose_owner();
        server.wait().unwrap();
        assert!(wait_until(Duration::from_secs(10), || !children[0].is_alive()));
        assert!(!folder.exists());
    }

    #[test]
    fn a_guard_that_is_told_to_leave_touches_nothing() {
        let folder = scratch("guard-leave");
        let mut server = sleeper();
        let id = ProcessId::of(server.id()).unwrap();
        let mut guard = Guard::start(&folder).unwrap();
        guard.watch(id, FirstSignal::Kill).unwrap();
        drop(guard);
        assert!(id.is_alive() && folder.exists());
        id.kill_tree();
        server.wait().unwrap();
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_process_with_another_start_time_is_spared() {
        let folder = scratch("guard-stale");
        let mut other = sleeper();
        let id = ProcessId::of(other.id()).unwrap();
        let mut guard = Guard::start(&folder).unwrap();
        guard
            .watch(
                ProcessId {
                    started: id.started + 1,
                    ..id
                },
                FirstSignal::Kill,
            )
            .unwrap();
        guard.lose_owner();
        assert!(id.is_alive() && !folder.exists());
        id.kill_tree();
        other.wait().unwrap();
    }

    #[test]
    fn the_signals_of_a_terminal_do_not_end_the_guard() {
        let folder = scratch("guard-signals");
        let mut guard = Guard::start(&folder).unwrap();
        let id = ProcessId::of(guard.child.id()).unwrap();
        // The first word is answered for only once the traps are set.
        guard.say("watch 0 0 KILL\n").unwrap();
        let ignores = || {
            let status = fs::read_to_string(format!("/proc/{}/status", id.pid)).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
            // HUP, INT and TERM are the bits 0, 1 and 14; whoever started this test may ignore HUP.
            let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
            mask & 0x4003 == 0x4003
        };
        assert!(wait_until(Duration::from_secs(10), ignores));
        id.signal(rustix::process::Signal::INT);
        id.signal(rustix::process::Signal::HUP);
        id.signal(rustix::process::Signal::TERM);
        assert!(!wait_until(Duration::from_millis(200), || !id.is_alive()));
        drop(guard);
        fs::remove_dir(folder).unwrap();
    }
}
