//! A member as the narrator sees it: a process that talks, and that can be paused and killed.

use std::env;
use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::{PATIENCE, Result, lines_of, tag};

/// A running member. Dropping it kills it.
pub(crate) struct MemberProcess {
    name: &'static str,
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl MemberProcess {
    pub(crate) fn start(name: &'static str, home: &str) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["member", name, home])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("a member has no output")?;
        let pid = child.id();
        let lines = lines_of(output, move |line| println!("  {name:5} {pid:7} | {line}"));
        Ok(Self { name, child, lines })
    }

    pub(crate) fn tell(&mut self, word: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().ok_or("a member has no input")?;
        Ok(writeln!(input, "{word}")?)
    }

    /// The first line from now on that begins with one of the tags: which, and its rest.
    pub(crate) async fn hear(&mut self, tags: &[&'static str]) -> Result<(&'static str, String)> {
        let hearing = async {
            while let Some(line) = self.lines.recv().await {
                let heard = |tag: &&'static str| Some((*tag, line.strip_prefix(*tag)?.to_owned()));
                if let Some(heard) = tags.iter().find_map(heard) {
                    return Ok(heard);
                }
            }
            Err(format!("{} ended before it said one of {tags:?}", self.name).into())
        };
        timeout(PATIENCE, hearing).await?
    }

    pub(crate) async fn rest(&mut self) -> Result<()> {
        self.tell("rest")?;
        self.hear(&[tag::RESTS]).await?;
        Ok(())
    }

    /// Makes it begin a transfer that stands still; answers its gtrid. Under load the others may
    /// think this one dead just then, and the transfer is refused: then another one is begun.
    pub(crate) async fn hold(&mut self, how: &str) -> Result<String> {
        for _ in 0..5 {
            self.tell(how)?;
            let (_, gtrid) = self.hear(&[tag::GTRID]).await?;
            let (tag, _) = self.hear(&[tag::HELD, tag::ROLLED_BACK]).await?;
            if tag == tag::HELD {
                return Ok(gtrid);
            }
        }
        Err(format!("{} cannot be made to stand still", self.name).into())
    }

    /// SIGKILL: it cannot be caught, and no destructor runs.
    pub(crate) fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        let pid = Pid::from_raw(pid).ok_or("a member has no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    pub(crate) async fn end(mut self) -> Result<()> {
        self.rest().await?;
        self.tell("end")?;
        while self.lines.recv().await.is_some() {}
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} ended with {status}", self.name).into())
        }
    }
}
