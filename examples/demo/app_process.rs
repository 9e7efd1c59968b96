//! The application as the narrator sees it: a process that talks, and that can be killed.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::page::Page;
use crate::task::Task;

/// How long the application may be silent before the story gives up.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// A running application. Dropping it kills it.
pub(crate) struct AppProcess {
    child: Child,
    lines: Receiver<String>,
}

impl AppProcess {
    /// Starts this very program in its other role.
    pub(crate) fn start(task: &Task) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(task.to_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("the application has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Repeats what it says until a line begins with the tag, and returns the rest of that line.
    pub(crate) fn hear(&mut self, page: &Page, tag: &str) -> Result<String> {
        while let Some(line) = self.next_line(page)? {
            if let Some(rest) = line.strip_prefix(tag) {
                return Ok(rest.to_owned());
            }
        }
        let status = self.child.wait()?;
        Err(format!("the application ended ({status}) before it said `{tag}…`").into())
    }

    /// Lets an application that waits go on.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        let mut input = self
            .child
            .stdin
            .take()
            .ok_or("the application has gone on already")?;
        input.write_all(b"go on\n")?;
        Ok(())
    }

    /// Repeats what it says until it ends.
    pub(crate) fn end(mut self, page: &Page) -> Result<ExitStatus> {
        while self.next_line(page)?.is_some() {}
        Ok(self.child.wait()?)
    }

    /// SIGKILL: it cannot be caught, and no destructor runs.
    pub(crate) fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    fn next_line(&self, page: &Page) -> Result<Option<String>> {
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => {
                page.app(self.pid(), &line);
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("the application was silent for {SILENCE_MAX:?}").into())
            }
        }
    }
}

impl Drop for AppProcess {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
