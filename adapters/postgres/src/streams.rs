//! What the driver hands out without a lifetime, bound to the branch.
//!
//! A [`tokio_postgres::RowStream`] that is alive but not read blocks every later request of its
//! connection for ever, the prepare included (observed); a half-written `COPY` does so, too. The
//! driver's types have no lifetime, so nothing would stop an application from keeping one over the
//! commit. The types here borrow the branch: the compiler does.
//!
//! ```compile_fail,E0505
//! # use unanimous_postgres::{PgBranch, tokio_postgres::Error};
//! # async fn commit(branch: PgBranch) {}
//! async fn too_late(branch: PgBranch) -> Result<(), Error> {
//!     let rows = branch.query_raw("SELECT 1", std::iter::empty::<i32>()).await?;
//!     commit(branch).await; // the rows are still there
//!     drop(rows);
//!     Ok(())
//! }
//! ```
//! ```
//! # use unanimous_postgres::{PgBranch, tokio_postgres::Error};
//! # async fn commit(branch: PgBranch) {}
//! async fn in_time(branch: PgBranch) -> Result<(), Error> {
//!     let rows = branch.query_raw("SELECT 1", std::iter::empty::<i32>()).await?;
//!     drop(rows);
//!     commit(branch).await;
//!     Ok(())
//! }
//! ```
//! The same holds for `COPY` in both directions:
//!
//! ```compile_fail,E0505
//! # use unanimous_postgres::{PgBranch, bytes::Bytes, tokio_postgres::Error};
//! # async fn commit(branch: PgBranch) {}
//! async fn too_late(branch: PgBranch) -> Result<(), Error> {
//!     let sink = branch.copy_in::<_, Bytes>("COPY t FROM STDIN").await?;
//!     commit(branch).await;
//!     sink.finish().await?;
//!     Ok(())
//! }
//! ```
//! ```
//! # use unanimous_postgres::{PgBranch, bytes::Bytes, tokio_postgres::Error};
//! # async fn commit(branch: PgBranch) {}
//! async fn in_time(branch: PgBranch) -> Result<(), Error> {
//!     let sink = branch.copy_in::<_, Bytes>("COPY t FROM STDIN").await?;
//!     sink.finish().await?;
//!     commit(branch).await;
//!     Ok(())
//! }
//! ```
//! ```compile_fail,E0505
//! # use unanimous_postgres::{PgBranch, tokio_postgres::Error};
//! # async fn commit(branch: PgBranch) {}
//! async fn too_late(branch: PgBranch) -> Result<(), Error> {
//!     let data = branch.copy_out("COPY t TO STDOUT").await?;
//!     commit(branch).await;
//!     drop(data);
//!     Ok(())
//! }
//! ```
//! ```
//! # use unanimous_postgres::{PgBranch, tokio_postgres::Error};
//! # async fn commit(branch: PgBranch) {}
//! async fn in_time(branch: PgBranch) -> Result<(), Error> {
//!     let data = branch.copy_out("COPY t TO STDOUT").await?;
//!     drop(data);
//!     commit(branch).await;
//!     Ok(())
//! }
//! ```
//! A branch is not to be taken for a connection, either: there is no `DerefMut`, so the driver's
//! own `transaction()`, which would end the branch's transaction, cannot be called.
//!
//! ```compile_fail,E0596
//! # use unanimous_postgres::PgBranch;
//! async fn nested(branch: &mut PgBranch) {
//!     let inner = branch.transaction().await;
//! }
//! ```
//! ```
//! # use unanimous_postgres::PgBranch;
//! async fn nested(branch: &mut PgBranch) {
//!     let inner = branch.batch_execute("SAVEPOINT inner").await;
//! }
//! ```

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::{BorrowToSql, Type};
use tokio_postgres::{Error, Row, SimpleQueryMessage, Socket, ToStatement};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::PgBranch;

/// The methods of the driver's client that hand out something without a lifetime, replaced.
impl PgBranch {
    /// Like [`tokio_postgres::Client::query_raw`].
    ///
    /// # Errors
    /// The driver's. Dropping the future does not take the statement back.
    pub async fn query_raw<T, P, I>(&self, statement: &T, params: I) -> Result<RowStream<'_>, Error>
    where
        T: ?Sized + ToStatement,
        P: BorrowToSql,
        I: IntoIterator<Item = P>,
        I::IntoIter: ExactSizeIterator,
    {
        let rows = self.session().client().query_raw(statement, params).await?;
        Ok(RowStream::new(rows))
    }

    /// Like [`tokio_postgres::Client::query_typed_raw`].
    ///
    /// # Errors
    /// The driver's. Dropping the future does not take the statement back.
    pub async fn query_typed_raw<P, I>(
        &self,
        query: &str,
        params: I,
    ) -> Result<RowStream<'_>, Error>
    where
        P: BorrowToSql,
        I: IntoIterator<Item = (P, Type)>,
    {
        let client = self.session().client();
        Ok(RowStream::new(client.query_typed_raw(query, params).await?))
    }

    /// Like [`tokio_postgres::Client::simple_query_raw`].
    ///
    /// # Errors
    /// The driver's. Dropping the future does not take the statements back.
    pub async fn simple_query_raw(&self, query: &str) -> Result<SimpleQueryStream<'_>, Error> {
        let messages = self.session().client().simple_query_raw(query).await?;
        Ok(SimpleQueryStream::new(messages))
    }

    /// Like [`tokio_postgres::Client::copy_in`]. A sink that is dropped before it is finished fails
    /// the `COPY`, and with it the branch.
    ///
    /// # Errors
    /// The driver's.
    pub async fn copy_in<T, U>(&self, statement: &T) -> Result<CopyInSink<'_, U>, Error>
    where
        T: ?Sized + ToStatement,
        U: Buf + 'static + Send,
    {
        let sink = self.session().client().copy_in(statement).await?;
        Ok(CopyInSink {
            inner: Box::pin(sink),
            branch: PhantomData,
        })
    }

    /// Like [`tokio_postgres::Client::copy_out`].
    ///
    /// # Errors
    /// The driver's.
    pub async fn copy_out<T>(&self, statement: &T) -> Result<CopyOutStream<'_>, Error>
    where
        T: ?Sized + ToStatement,
    {
        let data = self.session().client().copy_out(statement).await?;
        Ok(CopyOutStream::new(data))
    }

    /// Like [`tokio_postgres::Client::cancel_token`], at the price of the connection: a request to
    /// cancel is not tied to a statement, and one that comes late cancels the next statement of the
    /// session (observed, 57014). So the connection is closed, not pooled, after this branch.
    pub fn cancel_token(&self) -> CancelToken {
        self.session().spoil();
        let (token, tls) = self.session().cancel_token();
        CancelToken { token, tls }
    }

    /// Cancels what is running: see [`cancel_token`](Self::cancel_token).
    ///
    /// # Errors
    /// The server could not be reached.
    pub async fn cancel_query<T>(&self, tls: T) -> Result<(), Error>
    where
        T: MakeTlsConnect<Socket>,
    {
        self.cancel_token().token.cancel_query(tls).await
    }

    /// Cancels what is running, over a given stream: see [`cancel_token`](Self::cancel_token).
    ///
    /// # Errors
    /// The server could not be reached.
    pub async fn cancel_query_raw<S, T>(&self, stream: S, tls: T) -> Result<(), Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        T: TlsConnect<S>,
    {
        self.cancel_token()
            .token
            .cancel_query_raw(stream, tls)
            .await
    }
}

/// Cancels what a branch's session is doing. May outlive the branch; then it does nothing, for the
/// session is gone.
#[derive(Clone)]
pub struct CancelToken {
    token: tokio_postgres::CancelToken,
    tls: MakeRustlsConnect,
}

impl CancelToken {
    /// Asks the server to cancel, over TLS if the branch speaks it. Whether it did shows in the
    /// statement itself (57014).
    ///
    /// # Errors
    /// The server could not be reached.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.token.cancel_query(self.tls.clone()).await
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token itself holds a secret of the session.
        f.write_str("CancelToken")
    }
}

macro_rules! bound_stream {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $item:ty) => {
        $(#[$doc])*
        #[must_use = "streams do nothing unless polled, and block the branch while they live"]
        pub struct $name<'a> {
            inner: Pin<Box<$inner>>,
            branch: PhantomData<&'a PgBranch>,
        }

        impl $name<'_> {
            fn new(inner: $inner) -> Self {
                Self { inner: Box::pin(inner), branch: PhantomData }
            }
        }

        impl Stream for $name<'_> {
            type Item = Result<$item, Error>;

            fn poll_next(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Self::Item>> {
                self.inner.as_mut().poll_next(cx)
            }
        }

        impl std::fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

bound_stream!(
    /// The rows of a statement: [`tokio_postgres::RowStream`], bound to its branch.
    ///
    /// Read it to its end: an error that is still in there when it is dropped is not lost (the
    /// branch will vote to roll back), but nobody sees it.
    RowStream,
    tokio_postgres::RowStream,
    Row
);

bound_stream!(
    /// The messages of a simple query: [`tokio_postgres::SimpleQueryStream`], bound to its branch.
    SimpleQueryStream,
    tokio_postgres::SimpleQueryStream,
    SimpleQueryMessage
);

bound_stream!(
    /// The data of `COPY … TO STDOUT`: [`tokio_postgres::CopyOutStream`], bound to its branch.
    CopyOutStream,
    tokio_postgres::CopyOutStream,
    Bytes
);

impl RowStream<'_> {
    /// How many rows the statement affected, once the stream has been read to its end.
    pub fn rows_affected(&self) -> Option<u64> {
        self.inner.rows_affected()
    }
}

/// The data of `COPY … FROM STDIN`: [`tokio_postgres::CopyInSink`], bound to its branch.
///
/// It has to be [finished](Self::finish) (or closed); if it is dropped before, the `COPY` fails.
#[must_use = "a COPY has to be finished"]
pub struct CopyInSink<'a, T: Buf + 'static + Send> {
    inner: Pin<Box<tokio_postgres::CopyInSink<T>>>,
    branch: PhantomData<&'a PgBranch>,
}

impl<T: Buf + 'static + Send> CopyInSink<'_, T> {
    /// Completes the `COPY` and tells how many rows it wrote.
    ///
    /// # Errors
    /// The driver's.
    pub async fn finish(mut self) -> Result<u64, Error> {
        self.inner.as_mut().finish().await
    }
}

impl<T: Buf + 'static + Send> std::fmt::Debug for CopyInSink<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CopyInSink")
    }
}

impl<T: Buf + 'static + Send> Sink<T> for CopyInSink<'_, T> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.as_mut().poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, item: T) -> Result<(), Error> {
        self.inner.as_mut().start_send(item)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.as_mut().poll_close(cx)
    }
}
