//! Processes by number *and* start time.
//!
//! A number alone is not a name: the system gives it to somebody else once its process has ended.
//! A [`ProcessId`] is only ever signalled if the process with that number started at that time, so
//! nothing but what we started is ever hit.

use std::{
    fmt, fs, io,
    process::{Child, ExitStatus},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// One process, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to the start of the process.
    pub(super) started: u64,
}

impl ProcessId {
    /// The process that has this number now, unless it has ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            started: Stat::read(pid)?.started,
        })
    }

    /// This process.
    pub(super) fn current() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            started: Stat::read(pid).map_or(0, |stat| stat.started),
        }
    }

    /// Whether the process still runs. One that waits to be reaped does not.
    pub(super) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started)
    }

    /// Whether the process stands still, or has ended.
    pub(super) fn is_stopped(self) -> bool {
        let runs = |stat: Stat| stat.started == self.started && !stat.is_stopped;
        !Stat::read(self.pid).is_some_and(runs)
    }

    /// Its command line, unless it has ended.
    fn command(self) -> Option<String> {
        let words = fs::read(format!("/proc/{}/cmdline", self.pid)).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        Some(format!("{} {}", self.pid, words.trim_end()))
    }

    /// Sends a signal if the process still runs.
    pub(super) fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && self.is_alive()
        {
            // It may end between the question and the signal; then there is nothing to signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// The processes below this one, nearest first; none if it has ended.
    pub(super) fn descendants(self) -> Vec<Self> {
        if !self.is_alive() {
            return Vec::new();
        }
        let mut found = vec![self];
        let mut next = 0;
        let all = all_processes();
        while let Some(parent) = found.get(next).copied() {
            next += 1;
            let children = all.iter().filter(|(_, ppid)| *ppid == parent.pid);
            found.extend(children.map(|(process, _)| *process));
        }
        found.remove(0);
        found
    }

    /// Kills the process and everything below it, and waits until all of them have ended.
    ///
    /// It is stopped first, so that it cannot start another child meanwhile.
    pub(super) fn kill_tree(self) {
        self.signal(Signal::STOP);
        let mut tree = self.descendants();
        tree.push(self);
        for process in &tree {
            process.signal(Signal::KILL);
        }
        wait_until(Duration::from_secs(10), || {
            !tree.iter().any(|process| process.is_alive())
        });
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.started)
    }
}

impl FromStr for ProcessId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, started) = text.trim().split_once('-').ok_or(())?;
        let pid = pid.parse().map_err(|_| ())?;
        Ok(Self {
            pid,
            started: started.parse().map_err(|_| ())?,
        })
    }
}

/// How a child ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    InTime(ExitStatus),
    /// It was killed, with everything below it: these were their command lines.
    Overdue(Vec<String>),
}

/// Waits for a child's end, but no longer than this: then it is killed with everything below it.
///
/// # Errors
///
/// If the system cannot tell how the child ended.
pub fn end_within(child: &mut Child, limit: Duration) -> io::Result<Ended> {
    let mut ended = Ok(None);
    let has_ended = || {
        ended = child.try_wait();
        !matches!(ended, Ok(None))
    };
    wait_until(limit, has_ended);
    if let Some(status) = ended? {
        return Ok(Ended::InTime(status));
    }
    let mut commands = Vec::new();
    if let Some(child) = ProcessId::of(child.id()) {
        let tree = child.descendants();
        commands = tree.into_iter().filter_map(ProcessId::command).collect();
        child.kill_tree();
    }
    child.wait()?;
    Ok(Ended::Overdue(commands))
}

/// Asks every few milliseconds until the answer is yes or the time is up; returns the last answer.
pub(super) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What `/proc/PID/stat` says of a process that has not ended.
struct Stat {
    ppid: u32,
    started: u64,
    is_stopped: bool,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The program's name stands in parentheses and may hold anything, parentheses included; so
    /// the fields are counted from the last one.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let ppid = fields.next()?.parse().ok()?;
        // State is field 3, the parent field 4, the start field 22.
        let started = fields.nth(17)?.parse().ok()?;
        let has_ended = matches!(state, "Z" | "X");
        let is_stopped = matches!(state, "T" | "t");
        (!has_ended).then_some(Self {
            ppid,
            started,
            is_stopped,
        })
    }
}

/// Every process that has not ended, with its parent's number.
fn all_processes() -> Vec<(ProcessId, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| {
            let stat = Stat::read(pid)?;
            Some((
                ProcessId {
                    pid,
                    started: stat.started,
                },
                stat.ppid,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 10 11";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.ppid, stat.started), (3, 9876));
        let ended = line.replace(") S", ") Z");
        assert!(Stat::parse(&ended).is_none());
    }

    #[test]
    fn a_process_id_survives_being_written_down() {
        let id = ProcessId {
            pid: 12,
            started: 345,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("12".parse::<ProcessId>(), Err(()));
    }

    #[test]
    fn a_process_with_another_start_time_is_not_signalled() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let real = ProcessId::of(child.id()).unwrap();
        let stale = ProcessId {
            started: real.started + 1,
            ..real
        };
        stale.signal(Signal::KILL);
        stale.kill_tree();
        assert!(child.try_wait().unwrap().is_none());
        real.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(!real.is_alive());
    }

    #[test]
    fn a_child_that_does_not_end_in_time_is_killed_with_its_children() {
        let script = "sleep 600 & sleep 600";
        let mut shell = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let id = ProcessId::of(shell.id()).unwrap();
        let mut children = Vec::new();
        wait_until(Duration::from_secs(10), || {
            children = id.descendants();
            children.len() == 2
        });
        let Ended::Overdue(commands) = end_within(&mut shell, Duration::from_millis(50)).unwrap()
        else {
            panic!("it sleeps");
        };
        assert!(
            commands
                .iter()
                .all(|command| command.ends_with("sleep 600"))
        );
        assert_eq!(commands.len(), 2);
        assert!(children.iter().all(|child| !child.is_alive()));
    }

    #[test]
    fn a_child_that_ends_in_time_gives_its_status() {
        let mut shell = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let ended = end_within(&mut shell, Duration::from_secs(60)).unwrap();
        assert!(matches!(ended, Ended::InTime(status) if status.code() == Some(7)));
    }

    #[test]
    fn killing_a_tree_ends_the_children_too() {
        let script = "sleep 600 & sleep 600";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let id = ProcessId::of(shell.id()).unwrap();
        let mut children = Vec::new();
        wait_until(Duration::from_secs(10), || {
            children = id.descendants();
            children.len() == 2
        });
        assert_eq!(children.len(), 2);
        id.kill_tree();
        shell.wait().unwrap();
        assert!(children.iter().all(|child| !child.is_alive()));
    }
}
