//! An application as its supervisor sees it: started, struck, and started again on the same log.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::application::{IDS_OF_A_LIFE, NOTE, Order, PATIENCE, PLAN, Plan};
use super::history::Reader;
use crate::databases::Place;

/// How long an application has to do what it is told, on a machine that does much else.
const OBEYS: Duration = PATIENCE.saturating_mul(2);

/// See the module.
pub(super) struct Coordinator {
    index: usize,
    folder: PathBuf,
    urls: Vec<String>,
    table: Option<Place>,
    lives: u64,
    round: u32,
    running: Option<Running>,
    /// What went wrong with it.
    pub(super) complaints: Vec<String>,
}

struct Running {
    child: Child,
    orders: ChildStdin,
    notes: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Coordinator {
    /// One that does not run yet. Its servers, and the table with its log if there is one, are
    /// behind wires of its own.
    pub(super) fn new(
        index: usize,
        folder: &Path,
        servers: &[Place],
        table: Option<Place>,
    ) -> Self {
        Self {
            index,
            folder: folder.join(format!("application-{index}")),
            urls: servers.iter().map(|place| place.url.clone()).collect(),
            table,
            lives: 0,
            round: 0,
            running: None,
            complaints: Vec::new(),
        }
    }

    fn history(&self) -> PathBuf {
        self.folder.join("history")
    }

    pub(super) fn reader(&self) -> Reader {
        std::fs::create_dir_all(&self.folder).unwrap();
        Reader::at(&self.history())
    }

    /// Starts its next life.
    pub(super) fn start(&mut self) {
        self.lives += 1;
        let plan = Plan {
            first_id: (self.index as u64 * 10_000 + self.lives) * IDS_OF_A_LIFE,
            round: self.round,
            log: self.folder.join("log"),
            history: self.history(),
            table: self.table.clone(),
            urls: self.urls.clone(),
        };
        let errors = std::fs::File::create(self.errors()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["soak::application::application", "--exact", "--nocapture"])
            .env(PLAN, plan.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, notes) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, note)) = line.split_once(NOTE) {
                    // Nobody listens to an application that was killed.
                    let _ = sender.send(note.to_owned());
                }
            }
        });
        self.running = Some(Running {
            child,
            orders,
            notes,
        });
    }

    fn errors(&self) -> PathBuf {
        self.folder.join("errors")
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.see_whether_it_runs();
        self.running = None;
    }

    /// An application never ends by itself.
    fn see_whether_it_runs(&mut self) {
        let running = self.running.as_mut().expect("it was started");
        if let Some(status) = running.child.try_wait().unwrap() {
            let errors = std::fs::read_to_string(self.errors()).unwrap_or_default();
            let text = format!("application {}: {status}: {errors}", self.index);
            self.complaints.push(text);
        }
    }

    /// SIGSTOP: it stands still, and its connections stay open.
    pub(super) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("it was started");
        // Not waited for, so the number is still its own.
        kill_process(Pid::from_child(&running.child), signal).unwrap();
    }

    /// From now on works on the lists of this round.
    pub(super) fn work_on(&mut self, round: u32) {
        self.round = round;
        if self.running.is_some() {
            self.order(Order::Run(round));
        } else {
            self.start();
        }
    }

    /// Ends its transactions, and waits until all their outcomes are known.
    pub(super) fn rest(&mut self) {
        self.order(Order::Rest);
        if self.wait_for("resting").is_none() {
            self.complaint("does not come to rest");
        }
    }

    /// Ends it properly.
    pub(super) fn end(&mut self) {
        self.order(Order::End);
        match self.wait_for("ended") {
            None => self.complaint("does not end"),
            Some(note) if note != "ended 0" => self.complaint(&format!("files are left: {note}")),
            Some(_) => {
                let running = self.running.as_mut().expect("it was started");
                let status = running.child.wait().unwrap();
                if !status.success() {
                    self.complaint(&format!("ended with {status}"));
                }
            }
        }
        self.running = None;
    }

    fn order(&mut self, order: Order) {
        let running = self.running.as_mut().expect("it was started");
        if writeln!(running.orders, "{order}").is_err() {
            self.see_whether_it_runs();
        }
    }

    fn complaint(&mut self, text: &str) {
        let errors = std::fs::read_to_string(self.errors()).unwrap_or_default();
        let text = format!("application {} {text}: {errors}", self.index);
        self.complaints.push(text);
    }

    /// What it says, when it begins so.
    fn wait_for(&mut self, word: &str) -> Option<String> {
        let running = self.running.as_ref().expect("it was started");
        let begin = Instant::now();
        while begin.elapsed() < OBEYS {
            let left = OBEYS.saturating_sub(begin.elapsed());
            let note = running.notes.recv_timeout(left).ok()?;
            if note.starts_with(word) {
                return Some(note);
            }
        }
        None
    }
}
