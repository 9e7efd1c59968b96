//! The application's statements: the driver's own trait, by delegation through the [latch].
//!
//! Every method is delegated to the driver's method of the same name, also those that the trait
//! could derive: the check then covers the whole call, the reading of its results included.
//!
//! [latch]: crate::latch

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mysql_async::prelude::{AsQuery, FromRow, Queryable, StatementLike};
use mysql_async::{
    BinaryProtocol, Conn, DriverError, Error, Params, QueryResult, Result, ResultSetStream,
    Statement, TextProtocol,
};

use crate::branch::MysqlBranch;
use crate::latch::{Latch, Results};

impl MysqlBranch {
    /// The connection, if a statement may go out; from here on one is in flight.
    ///
    /// A statement is let through after one that has failed: only the whole is rollback-only.
    async fn begin(&mut self, results: Results) -> Result<(&mut Conn, &mut Latch)> {
        let latch = &mut self.latch;
        let Some(session) = self.lease.session() else {
            return Err(Error::Driver(DriverError::ConnectionClosed));
        };
        latch.observe(session.conn());
        if let Some(failure) = latch.failure().filter(|failure| failure.is_final) {
            return Err(failure.to_error());
        }
        // Errors that come up while the caller reads are seen by the driver's last OK being gone;
        // after an error that the application has handled there is none, so one is fetched.
        if results == Results::HandedOut && session.conn().last_ok_packet().is_none() {
            latch.begin(Results::Read);
            let result = session.ping().await;
            latch.settle(&result);
            result?;
        }
        latch.begin(results);
        Ok((session.conn_mut(), latch))
    }
}

/// Delegates one method: `delegate!(self, Results::Read, |conn| conn.ping())`.
macro_rules! delegate {
    ($branch:ident, $results:expr, |$conn:ident| $call:expr) => {
        async move {
            let ($conn, latch) = $branch.begin($results).await?;
            let result = $call.await;
            latch.settle(&result);
            result
        }
        .boxed()
    };
}

impl Queryable for MysqlBranch {
    fn ping(&mut self) -> BoxFuture<'_, Result<()>> {
        delegate!(self, Results::Read, |conn| conn.ping())
    }

    fn query_iter<'a, Q>(
        &'a mut self,
        query: Q,
    ) -> BoxFuture<'a, Result<QueryResult<'a, 'static, TextProtocol>>>
    where
        Q: AsQuery + 'a,
    {
        delegate!(self, Results::HandedOut, |conn| conn.query_iter(query))
    }

    fn prep<'a, Q>(&'a mut self, query: Q) -> BoxFuture<'a, Result<Statement>>
    where
        Q: AsQuery + 'a,
    {
        delegate!(self, Results::Untold, |conn| conn.prep(query))
    }

    fn close(&mut self, stmt: Statement) -> BoxFuture<'_, Result<()>> {
        delegate!(self, Results::Untold, |conn| conn.close(stmt))
    }

    fn exec_iter<'a: 's, 's, Q, P>(
        &'a mut self,
        stmt: Q,
        params: P,
    ) -> BoxFuture<'s, Result<QueryResult<'a, 'static, BinaryProtocol>>>
    where
        Q: StatementLike + 's,
        P: Into<Params>,
    {
        let params = params.into();
        delegate!(self, Results::HandedOut, |conn| conn
            .exec_iter(stmt, params))
    }

    fn query<'a, T, Q>(&'a mut self, query: Q) -> BoxFuture<'a, Result<Vec<T>>>
    where
        Q: AsQuery + 'a,
        T: FromRow + Send + 'static,
    {
        delegate!(self, Results::Read, |conn| conn.query(query))
    }

    fn query_first<'a, T, Q>(&'a mut self, query: Q) -> BoxFuture<'a, Result<Option<T>>>
    where
        Q: AsQuery + 'a,
        T: FromRow + Send + 'static,
    {
        delegate!(self, Results::Read, |conn| conn.query_first(query))
    }

    fn query_map<'a, T, F, Q, U>(&'a mut self, query: Q, f: F) -> BoxFuture<'a, Result<Vec<U>>>
    where
        Q: AsQuery + 'a,
        T: FromRow + Send + 'static,
        F: FnMut(T) -> U + Send + 'a,
        U: Send,
    {
        delegate!(self, Results::Read, |conn| conn.query_map(query, f))
    }

    fn query_fold<'a, T, F, Q, U>(&'a mut self, query: Q, init: U, f: F) -> BoxFuture<'a, Result<U>>
    where
        Q: AsQuery + 'a,
        T: FromRow + Send + 'static,
        F: FnMut(U, T) -> U + Send + 'a,
        U: Send + 'a,
    {
        delegate!(self, Results::Read, |conn| conn.query_fold(query, init, f))
    }

    fn query_drop<'a, Q>(&'a mut self, query: Q) -> BoxFuture<'a, Result<()>>
    where
        Q: AsQuery + 'a,
    {
        delegate!(self, Results::Read, |conn| conn.query_drop(query))
    }

    fn exec_batch<'a: 'b, 'b, S, P, I>(
        &'a mut self,
        stmt: S,
        params_iter: I,
    ) -> BoxFuture<'b, Result<()>>
    where
        S: StatementLike + 'b,
        I: IntoIterator<Item = P> + Send + 'b,
        I::IntoIter: Send,
        P: Into<Params> + Send,
    {
        // Of an empty batch nothing is sent but the preparation.
        delegate!(self, Results::Untold, |conn| conn
            .exec_batch(stmt, params_iter))
    }

    fn exec<'a: 'b, 'b, T, S, P>(&'a mut self, stmt: S, params: P) -> BoxFuture<'b, Result<Vec<T>>>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
        T: FromRow + Send + 'static,
    {
        delegate!(self, Results::Read, |conn| conn.exec(stmt, params))
    }

    fn exec_first<'a: 'b, 'b, T, S, P>(
        &'a mut self,
        stmt: S,
        params: P,
    ) -> BoxFuture<'b, Result<Option<T>>>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
        T: FromRow + Send + 'static,
    {
        delegate!(self, Results::Read, |conn| conn.exec_first(stmt, params))
    }

    fn exec_map<'a: 'b, 'b, T, S, P, U, F>(
        &'a mut self,
        stmt: S,
        params: P,
        f: F,
    ) -> BoxFuture<'b, Result<Vec<U>>>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
        T: FromRow + Send + 'static,
        F: FnMut(T) -> U + Send + 'a,
        U: Send + 'a,
    {
        delegate!(self, Results::Read, |conn| conn.exec_map(stmt, params, f))
    }

    fn exec_fold<'a: 'b, 'b, T, S, P, U, F>(
        &'a mut self,
        stmt: S,
        params: P,
        init: U,
        f: F,
    ) -> BoxFuture<'b, Result<U>>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
        T: FromRow + Send + 'static,
        F: FnMut(U, T) -> U + Send + 'a,
        U: Send + 'a,
    {
        delegate!(self, Results::Read, |conn| conn
            .exec_fold(stmt, params, init, f))
    }

    fn exec_drop<'a: 'b, 'b, S, P>(&'a mut self, stmt: S, params: P) -> BoxFuture<'b, Result<()>>
    where
        S: StatementLike + 'b,
        P: Into<Params> + Send + 'b,
    {
        delegate!(self, Results::Read, |conn| conn.exec_drop(stmt, params))
    }

    fn query_stream<'a, T, Q>(
        &'a mut self,
        query: Q,
    ) -> BoxFuture<'a, Result<ResultSetStream<'a, 'a, 'static, T, TextProtocol>>>
    where
        T: Unpin + FromRow + Send + 'static,
        Q: AsQuery + 'a,
    {
        delegate!(self, Results::HandedOut, |conn| conn.query_stream(query))
    }

    fn exec_stream<'a: 's, 's, T, Q, P>(
        &'a mut self,
        stmt: Q,
        params: P,
    ) -> BoxFuture<'s, Result<ResultSetStream<'a, 'a, 'static, T, BinaryProtocol>>>
    where
        T: Unpin + FromRow + Send + 'static,
        Q: StatementLike + 's,
        P: Into<Params> + Send + 's,
    {
        delegate!(self, Results::HandedOut, |conn| conn
            .exec_stream(stmt, params))
    }
}
