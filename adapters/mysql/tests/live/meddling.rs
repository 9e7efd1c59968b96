//! A proxy that understands packets, and meddles with a statement of one kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const SERVER_MORE_RESULTS_EXISTS: u16 = 8;

/// A request that does nothing, and its header.
const COM_PING: u8 = 0x0e;
const PING_HEADER: [u8; 4] = [1, 0, 0, 0];

/// What becomes of a request that holds these words.
#[derive(Clone, Copy)]
pub(crate) enum Meddling {
    /// It is passed on; the OK of its last statement is answered with an error of this code.
    DeniesSuccess(&'static str, u16),
    /// It does not reach the server, and is answered with an error of this code.
    Refuses(&'static str, u16),
    /// It does not reach the server as long as the proxy lives.
    Keeps(&'static str),
    /// It is passed on; its answer is kept as long as the proxy lives, and then lost with its
    /// connection. One that comes later is passed on.
    LosesAnswer(&'static str),
}

impl Meddling {
    fn is_about(self, request: &[u8]) -> bool {
        let (Self::DeniesSuccess(words, _)
        | Self::Refuses(words, _)
        | Self::Keeps(words)
        | Self::LosesAnswer(words)) = self;
        String::from_utf8_lossy(request).contains(words)
    }
}

pub(crate) struct Meddler {
    /// Requests, or answers, that were kept.
    pub(crate) kept: Arc<AtomicUsize>,
    /// Dropped: kept requests are passed on, kept answers lost.
    _open: watch::Sender<()>,
}

/// Nothing is encrypted, so that packets can be read.
pub(crate) async fn proxy(url: &str, meddling: Meddling) -> (String, Meddler) {
    let (before, rest) = url.split_once('@').unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let address = format!("{before}@{proxy}/{database}?ssl-mode=DISABLED");
    let (open, closed) = watch::channel(());
    let kept = Arc::new(AtomicUsize::new(0));
    let (server, count) = (server.to_owned(), Arc::clone(&kept));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(pass(
                client,
                server,
                meddling,
                closed.clone(),
                Arc::clone(&count),
            ));
        }
    });
    (address, Meddler { kept, _open: open })
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    meddling: Meddling,
    mut closed: watch::Receiver<()>,
    kept: Arc<AtomicUsize>,
) {
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let due = Arc::new(AtomicUsize::new(0));
    tokio::spawn(answer(
        (from_server, to_client),
        meddling,
        Arc::clone(&due),
        closed.clone(),
        Arc::clone(&kept),
    ));
    while let Some((mut header, mut body)) = packet(&mut from_client).await {
        if meddling.is_about(&body) {
            match meddling {
                Meddling::DeniesSuccess(..) | Meddling::LosesAnswer(_) => {
                    due.fetch_add(1, Ordering::SeqCst);
                }
                Meddling::Refuses(..) => {
                    due.fetch_add(1, Ordering::SeqCst);
                    (header, body) = (PING_HEADER, vec![COM_PING]);
                }
                Meddling::Keeps(_) => {
                    kept.fetch_add(1, Ordering::SeqCst);
                    while closed.changed().await.is_ok() {}
                }
            }
        }
        let passed = to_server.write_all(&[&header[..], &body].concat()).await;
        if passed.is_err() {
            return;
        }
    }
}

/// Passes the answers on; the next one is not what it was as long as some are due.
async fn answer(
    (mut from_server, mut to_client): (OwnedReadHalf, OwnedWriteHalf),
    meddling: Meddling,
    due: Arc<AtomicUsize>,
    mut closed: watch::Receiver<()>,
    kept: Arc<AtomicUsize>,
) {
    while let Some((mut header, mut body)) = packet(&mut from_server).await {
        if due.load(Ordering::SeqCst) > 0 {
            match meddling {
                Meddling::DeniesSuccess(_, code) | Meddling::Refuses(_, code) => {
                    if is_last_ok(&body) {
                        due.fetch_sub(1, Ordering::SeqCst);
                        let [low, high] = code.to_le_bytes();
                        body = [&[0xff, low, high], &b"#HY000the answer is denied"[..]].concat();
                        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
                        header[..3].copy_from_slice(&length[..3]);
                    }
                }
                Meddling::LosesAnswer(_) if closed.has_changed().is_ok() => {
                    kept.fetch_add(1, Ordering::SeqCst);
                    while closed.changed().await.is_ok() {}
                    return;
                }
                Meddling::LosesAnswer(_) | Meddling::Keeps(_) => {}
            }
        }
        let passed = to_client.write_all(&[&header[..], &body].concat()).await;
        if passed.is_err() {
            return;
        }
    }
}

async fn packet(from: &mut (impl AsyncReadExt + Unpin)) -> Option<([u8; 4], Vec<u8>)> {
    let mut header = [0; 4];
    from.read_exact(&mut header).await.ok()?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body).await.ok()?;
    Some((header, body))
}

/// An OK of a statement that changed a few rows at most, after which no other follows.
fn is_last_ok(body: &[u8]) -> bool {
    let [0, _rows, _id, low, high, ..] = *body else {
        return false;
    };
    u16::from_le_bytes([low, high]) & SERVER_MORE_RESULTS_EXISTS == 0
}
