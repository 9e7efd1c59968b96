//! Strikes everything at random, one loop for each thing that can be struck, so that strikes
//! overlap. What a loop has broken, it repairs before it rests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use unanimous_testing::{Wire, WireFault};
use xtask::servers::Server;

use super::SERVERS;
use super::coordinator::Coordinator;
use crate::support::Db;

/// How often each kind of fault has struck.
pub(super) type Faults = Arc<Mutex<BTreeMap<String, u64>>>;

/// Everything that is struck.
pub(super) struct Nemesis {
    pub(super) coordinators: Vec<Arc<Mutex<Coordinator>>>,
    pub(super) servers: Vec<Arc<Mutex<Server>>>,
    /// By application and server.
    pub(super) wires: Vec<Arc<Wire>>,
    pub(super) faults: Faults,
}

/// Until the nemesis is to rest.
#[derive(Clone)]
struct Striking {
    faults: Faults,
    rests: watch::Receiver<bool>,
}

impl Striking {
    /// A pause of up to so many milliseconds; false if the nemesis is to rest.
    async fn pause(&mut self, longest: u64) -> bool {
        let pause = Duration::from_millis(fastrand::u64(longest / 10..longest));
        tokio::select! {
            _ = self.rests.wait_for(|rests| *rests) => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    fn count(&self, fault: String) {
        *self.faults.lock().unwrap().entry(fault).or_default() += 1;
    }
}

impl Nemesis {
    /// Strikes for so long, and returns when everything is repaired.
    pub(super) async fn strike_for(&self, time: Duration) {
        let (rest, rests) = watch::channel(false);
        let faults = Arc::clone(&self.faults);
        let striking = Striking { faults, rests };
        let mut loops = JoinSet::new();
        for coordinator in &self.coordinators {
            loops.spawn(coordinator_loop(striking.clone(), Arc::clone(coordinator)));
        }
        for (server, db) in self.servers.iter().zip(SERVERS) {
            loops.spawn(server_loop(striking.clone(), Arc::clone(server), db));
        }
        for wire in &self.wires {
            loops.spawn(wire_loop(striking.clone(), Arc::clone(wire)));
        }
        tokio::time::sleep(time).await;
        rest.send_replace(true);
        while let Some(ended) = loops.join_next().await {
            ended.unwrap();
        }
    }
}

async fn coordinator_loop(mut striking: Striking, coordinator: Arc<Mutex<Coordinator>>) {
    while striking.pause(16_000).await {
        let fault = *fastrand::choice(&["killed", "killed", "paused", "restarted"]).unwrap();
        striking.count(format!("application {fault}"));
        match fault {
            "paused" => {
                coordinator.lock().unwrap().pause();
                striking.pause(6000).await;
                coordinator.lock().unwrap().go_on();
            }
            "killed" => {
                blocking(&coordinator, Coordinator::kill).await;
                striking.pause(3000).await;
                blocking(&coordinator, Coordinator::start).await;
            }
            _ => {
                blocking(&coordinator, Coordinator::end).await;
                blocking(&coordinator, Coordinator::start).await;
            }
        }
    }
}

async fn server_loop(mut striking: Striking, server: Arc<Mutex<Server>>, db: Db) {
    while striking.pause(40_000).await {
        let fault = *fastrand::choice(&["killed", "killed", "paused", "restarted"]).unwrap();
        striking.count(format!("{db:?} {fault}"));
        match fault {
            "paused" => {
                blocking(&server, |server| server.pause()).await;
                striking.pause(6000).await;
                blocking(&server, |server| server.resume()).await;
            }
            "killed" => {
                blocking(&server, Server::kill).await;
                striking.pause(3000).await;
                blocking(&server, |server| server.restart().unwrap()).await;
            }
            _ => blocking(&server, |server| server.restart().unwrap()).await,
        }
    }
}

async fn wire_loop(mut striking: Striking, wire: Arc<Wire>) {
    let faults = [
        (WireFault::CutRequest, "request lost"),
        (WireFault::CutReply, "reply lost"),
        (WireFault::HoldReplies, "replies late"),
        (WireFault::Silence, "network silent"),
        (WireFault::Down, "network down"),
    ];
    while striking.pause(16_000).await {
        let (fault, name) = *fastrand::choice(&faults).unwrap();
        striking.count(name.to_owned());
        wire.set(fault);
        striking.pause(4000).await;
        wire.set(WireFault::None);
    }
}

/// Does what takes its time where it keeps nobody from running.
async fn blocking<T: Send + 'static>(
    what: &Arc<Mutex<T>>,
    act: impl FnOnce(&mut T) + Send + 'static,
) {
    let what = Arc::clone(what);
    let acting = tokio::task::spawn_blocking(move || act(&mut what.lock().unwrap()));
    acting.await.unwrap();
}
