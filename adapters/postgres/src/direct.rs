//! Whether a session is the server's own, or a pooler's that lends it.
//!
//! At the log-in a server tells the number of the process that serves the session, and a key, for
//! whoever wants to cancel a statement. A pooler tells numbers of its own, because it has to find
//! out itself which of its sessions is meant. So where that number is the process that answers,
//! every request reaches it. The driver shows the number to nobody, but writes it down for a server
//! that is to cancel; here that goes to nobody.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// A request to cancel: its length, its code, the process and the key, four bytes each.
const REQUEST: usize = 16;

/// The process that the server, or what stands before it, has told at the log-in.
pub(crate) async fn process_told(token: &CancelToken) -> Option<i32> {
    let written = Arc::default();
    let to_nobody = Written(Arc::clone(&written));
    token.cancel_query_raw(to_nobody, Plain).await.ok()?;
    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    let request = written.last_chunk::<REQUEST>()?;
    let process = request[8..].first_chunk()?;
    Some(i32::from_be_bytes(*process))
}

/// Keeps what is written. Whoever asks whether TLS is spoken hears yes.
struct Written(Arc<Mutex<Vec<u8>>>);

/// Needs no handshake.
struct Plain;

impl TlsConnect<Written> for Plain {
    type Stream = Written;
    type Error = Infallible;
    type Future = Ready<Result<Written, Infallible>>;

    fn connect(self, stream: Written) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Written {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Written {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        into.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Written {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
