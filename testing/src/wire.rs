//! A proxy between a driver and its server that cuts, holds and counts.
//!
//! Contract: whatever passes is passed unchanged and in order. A fault takes hold of the very next
//! bytes after it was set; those of it that act once ([`WireFault::CutRequest`],
//! [`WireFault::CutReply`]) act on one connection, the first that they meet, and are over then.
//! Bytes are not understood, so encrypted connections can be cut like others. Only on loopback.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What a [`Wire`] does to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFault {
    /// Nothing.
    None,
    /// Closes the connection that sends the next request, which the server never sees. Once.
    CutRequest,
    /// Passes the next request on, and closes its connection in the place of the reply. Once.
    CutReply,
    /// Passes so many bytes of replies on each connection, counted from its next reply, and closes
    /// the connection there: in the middle of an answer.
    TearReplies(usize),
    /// Requests pass; replies wait until the fault is over.
    HoldReplies,
    /// Nothing passes in either direction, and nobody is told: a network that has gone silent.
    Silence,
    /// Closes every connection, and new ones at once.
    Down,
}

/// A proxy on a loopback port. Dropped: every connection through it is closed.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    fault: watch::Sender<WireFault>,
    /// Held while a fault that acts once is taken.
    taking: Mutex<()>,
    round_trips: AtomicUsize,
    connections: AtomicUsize,
}

impl Wire {
    /// A proxy to the server at this address (`host:port`).
    ///
    /// # Errors
    /// No port can be had on the loopback interface.
    pub async fn to(server: impl Into<String>) -> io::Result<Self> {
        let server = server.into();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            fault: watch::Sender::new(WireFault::None),
            taking: Mutex::new(()),
            round_trips: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, server, Arc::clone(&shared))).abort_handle();
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    /// A proxy to the server of this address, and the address that goes through the proxy:
    /// `scheme://user:password@host:port/database` with another host and port.
    ///
    /// # Errors
    /// The address names no host with a port, or no port can be had.
    pub async fn between(url: &str) -> io::Result<(Self, String)> {
        let odd = || io::Error::other("the address has no scheme://…host:port/…");
        let (scheme, rest) = url.split_once("://").ok_or_else(odd)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (format!("{user}@"), host),
            None => (String::new(), authority),
        };
        if !host.contains(':') {
            return Err(odd());
        }
        let wire = Self::to(host).await?;
        let url = format!("{scheme}://{user}{}{tail}", wire.address);
        Ok((wire, url))
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on does this to what passes.
    pub fn set(&self, fault: WireFault) {
        self.shared.fault.send_replace(fault);
    }

    /// What it does now: [`WireFault::None`] again after a fault that acts once has acted.
    pub fn fault(&self) -> WireFault {
        *self.shared.fault.borrow()
    }

    /// How often a client has begun to speak, at first or after the server had answered.
    pub fn round_trips(&self) -> usize {
        self.shared.round_trips.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: String, shared: Arc<Shared>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connect(client, server.clone(), Arc::clone(&shared)));
    }
}

async fn connect(client: TcpStream, server: String, shared: Arc<Shared>) {
    if *shared.fault.borrow() == WireFault::Down {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    // Requests are small; waiting for more would measure the proxy.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let _open = Open::count(&shared);
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let state = State::default();
    let requests = pump(&shared, &state, Way::Request, client_in, server_out);
    let replies = pump(&shared, &state, Way::Reply, server_in, client_out);
    // The first that ends closes both.
    tokio::select! {
        () = requests => {}
        () = replies => {}
    }
}

struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn count(shared: &'a Shared) -> Self {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Reply,
}

/// What the two directions of one connection know of each other.
#[derive(Default)]
struct State {
    client_speaks: AtomicBool,
    /// Its reply is to be cut.
    marked: AtomicBool,
    /// Bytes of replies that have passed since these are counted.
    replied: AtomicUsize,
}

enum Next {
    Pass,
    /// So many of the bytes, and no more.
    Tear(usize),
    Wait,
    Close,
}

async fn pump(
    shared: &Shared,
    state: &State,
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) {
    let mut fault = shared.fault.subscribe();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let length = tokio::select! {
            read = from.read(&mut bytes) => read.unwrap_or(0),
            _ = fault.changed() => {
                if *fault.borrow_and_update() == WireFault::Down {
                    return;
                }
                continue;
            }
        };
        loop {
            match shared.next(state, way, length) {
                Next::Pass => break,
                Next::Tear(rest) => {
                    // It is closed in any case.
                    let _ = to.write_all(&bytes[..rest]).await;
                    return;
                }
                Next::Close => return,
                Next::Wait => {
                    if fault.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
        state.count(shared, way);
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

impl State {
    fn tear(&self, limit: usize, length: usize) -> Next {
        let before = self.replied.fetch_add(length, Ordering::Relaxed);
        let rest = limit.saturating_sub(before);
        if length <= rest {
            Next::Pass
        } else {
            Next::Tear(rest)
        }
    }

    fn count(&self, shared: &Shared, way: Way) {
        let is_request = way == Way::Request;
        if self.client_speaks.swap(is_request, Ordering::Relaxed) != is_request && is_request {
            shared.round_trips.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// What is to be done with so many bytes that wait to pass this way. None at all: the end.
    fn next(&self, state: &State, way: Way, length: usize) -> Next {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = *self.fault.borrow();
        if fault == WireFault::Silence {
            return Next::Wait;
        }
        let is_marked = state.marked.load(Ordering::Relaxed) && way == Way::Reply;
        if is_marked || length == 0 {
            return Next::Close;
        }
        match (fault, way) {
            (WireFault::TearReplies(limit), Way::Reply) => state.tear(limit, length),
            (
                WireFault::None | WireFault::HoldReplies | WireFault::TearReplies(_),
                Way::Request,
            )
            | (WireFault::None | WireFault::CutRequest | WireFault::CutReply, Way::Reply) => {
                Next::Pass
            }
            (WireFault::CutRequest, Way::Request) => {
                self.fault.send_replace(WireFault::None);
                Next::Close
            }
            (WireFault::CutReply, Way::Request) => {
                state.marked.store(true, Ordering::Relaxed);
                self.fault.send_replace(WireFault::None);
                Next::Pass
            }
            (WireFault::HoldReplies, Way::Reply) | (WireFault::Silence, _) => Next::Wait,
            (WireFault::Down, _) => Next::Close,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A server that answers each line with itself, and a connection to it through a proxy.
    async fn echo() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        let wire = Wire::to(server).await.unwrap();
        let client = TcpStream::connect(wire.address()).await.unwrap();
        (wire, client)
    }

    async fn ask(client: &mut TcpStream) -> io::Result<usize> {
        client.write_all(b"hello").await?;
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await
    }

    #[tokio::test]
    async fn what_passes_is_counted_by_round_trips() {
        let (wire, mut client) = echo().await;
        for trips in 1..=3 {
            ask(&mut client).await.unwrap();
            assert_eq!((wire.round_trips(), wire.connections()), (trips, 1));
        }
    }

    #[tokio::test]
    async fn a_cut_acts_once_and_on_one_connection() {
        for fault in [WireFault::CutRequest, WireFault::CutReply] {
            let (wire, mut client) = echo().await;
            ask(&mut client).await.unwrap();
            wire.set(fault);
            assert!(ask(&mut client).await.is_err());
            assert_eq!(wire.fault(), WireFault::None);
            let mut other = TcpStream::connect(wire.address()).await.unwrap();
            ask(&mut other).await.unwrap();
        }
    }

    #[tokio::test]
    async fn held_replies_and_silence_are_over_when_they_are_over() {
        for fault in [WireFault::HoldReplies, WireFault::Silence] {
            let (wire, mut client) = echo().await;
            wire.set(fault);
            let mut asked = tokio::spawn(async move { ask(&mut client).await });
            let held = tokio::time::timeout(Duration::from_millis(50), &mut asked).await;
            assert!(held.is_err());
            wire.set(WireFault::None);
            asked.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_reply_is_torn_where_it_was_said() {
        let (wire, mut client) = echo().await;
        ask(&mut client).await.unwrap();
        wire.set(WireFault::TearReplies(8));
        ask(&mut client).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"hel");
        wire.set(WireFault::None);
        let mut other = TcpStream::connect(wire.address()).await.unwrap();
        ask(&mut other).await.unwrap();
    }

    #[tokio::test]
    async fn down_closes_what_is_open_and_what_comes() {
        let (wire, mut client) = echo().await;
        ask(&mut client).await.unwrap();
        wire.set(WireFault::Down);
        assert!(ask(&mut client).await.is_err());
        let mut late = TcpStream::connect(wire.address()).await.unwrap();
        assert!(ask(&mut late).await.is_err());
        wire.set(WireFault::None);
        let mut again = TcpStream::connect(wire.address()).await.unwrap();
        ask(&mut again).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_is_led_through_the_proxy() {
        let (_wire, url) = Wire::between("mysql://a:b@127.0.0.1:1/d?x=y")
            .await
            .unwrap();
        assert!(
            url.starts_with("mysql://a:b@127.0.0.1:") && url.ends_with("/d?x=y"),
            "{url}"
        );
        assert!(Wire::between("mysql://a@h/d").await.is_err());
    }
}
