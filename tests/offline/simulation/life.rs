//! One life of a process: from its start until it is killed, loses power, or leaves by itself.
//!
//! Tasks of a dead process cannot be taken out of the runtime at once. They are cut off instead:
//! whatever they ask of the world (disk, servers, the account of what was answered) is never
//! carried out and never answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::journal::{Journal, lock};
use super::network::Connection;
use super::signal::Signal;

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// Kill -9: the page cache stays, the kernel closes the connections.
    Killed,
    /// The page cache is gone, and the servers hear nothing.
    PowerLost,
    /// Shut down in an orderly way.
    Left,
}

pub(super) struct Life {
    pub(super) number: u32,
    is_alive: AtomicBool,
    is_paused: Signal<bool>,
    ended: Signal<Option<Death>>,
    connections: Mutex<Vec<Weak<Connection>>>,
    journal: Arc<Journal>,
    name: String,
}

impl Life {
    pub(super) fn begin(number: u32, member: usize, journal: Arc<Journal>) -> Arc<Self> {
        Arc::new(Self {
            number,
            is_alive: AtomicBool::new(true),
            is_paused: Signal::new(false),
            ended: Signal::new(None),
            connections: Mutex::default(),
            journal,
            name: format!("p{member}.{number}"),
        })
    }

    pub(super) fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::Relaxed)
    }

    /// Nothing of it reaches the world any more from here on.
    pub(super) fn end(&self, death: Death, why: &str) {
        if !self.is_alive.swap(false, Ordering::Relaxed) {
            return;
        }
        let name = &self.name;
        match death {
            Death::Killed => self
                .journal
                .fault("process killed", format_args!("{name} {why}")),
            Death::PowerLost => self
                .journal
                .fault("power lost", format_args!("{name} {why}")),
            Death::Left => self.journal.note(format_args!("{name} has left")),
        }
        self.ended.change(|ended| *ended = Some(death));
    }

    pub(super) async fn ended(&self) -> Death {
        let ended = self.ended.wait_for(|death| death.is_some()).await;
        ended.unwrap_or(Death::Left)
    }

    /// Stands still: what is under way goes on, and nothing new is sent or heard. Its clocks run.
    pub(super) fn pause(&self, pauses: bool) {
        self.is_paused.change(|is_paused| *is_paused = pauses);
    }

    /// Goes on only if the process still lives, and once it is not paused.
    pub(super) async fn lives(&self) {
        self.is_paused.wait_for(|is_paused| !is_paused).await;
        if !self.is_alive() {
            std::future::pending::<()>().await;
        }
    }

    /// The answer, if the process lives to hear it.
    pub(super) async fn hear<T>(&self, answer: impl Future<Output = T>) -> T {
        self.lives().await;
        let answer = answer.await;
        self.lives().await;
        answer
    }

    pub(super) fn connected(&self, connection: &Arc<Connection>) {
        let mut connections = lock(&self.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(connection));
    }

    /// The connections that are open, for whoever closes them at its end.
    pub(super) fn connections(&self) -> Vec<Arc<Connection>> {
        let connections = lock(&self.connections);
        connections.iter().filter_map(Weak::upgrade).collect()
    }
}
