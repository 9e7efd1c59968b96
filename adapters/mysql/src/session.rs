//! One connection to one server, with what is known of that server.
//!
//! A session is read once, after login: flavour, version, identity and the second in which the
//! server was started. All of it stays true as long as the connection lives, because a connection
//! never outlives its server process.
//!
//! A session whose request was not answered to the end is never used again: the driver would take
//! the late answer for the answer to the next request (seen: `XA PREPARE 'WRONG'` returned `Ok`).
//! [`Session::is_usable`] knows; [`Session::close`] closes without another word to the server.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::FutureExt as _;
use mysql_async::consts::StatusFlags;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Row, TextProtocol, Value};
use tokio::time::timeout;
use unanimous_core::ports::{Problem, ResourceError, ServerIdentity};

use crate::config::Config;
use crate::identity::Facts;
use crate::route::Route;
use crate::setup::Again;
use crate::{codes, identity};

/// Which of the two servers it is; they differ in what XA does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    MySql,
    MariaDb,
}

/// What is known of the server at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) flavour: Flavour,
    /// `None`: a MariaDB whose identity row does not exist yet.
    pub(crate) identity: Option<ServerIdentity>,
    /// What two branches of one transaction may not share: the server itself.
    pub(crate) scope: Arc<str>,
    /// The second in which the server process started, by its own clock at that time.
    ///
    /// Both servers compute their `Uptime` as *now* minus this, so *now* minus `Uptime` gives it
    /// back exactly, however the clock was set meanwhile.
    pub(crate) started: u64,
    /// The roles that are active after login and set-up, as `SET ROLE` takes them.
    pub(crate) roles: String,
    /// The account that the server has matched to our login, as `CURRENT_USER()` prints it.
    pub(crate) account: Arc<str>,
    /// After a deadlock it goes on in a new transaction inside the branch.
    pub(crate) hides_deadlocks: bool,
}

/// Of two statements that were sent as one request: which one failed.
#[derive(Debug)]
pub(crate) enum PairError {
    /// The first; the second was not carried out if the server said so itself.
    First(Error),
    /// The second; the first was answered with success.
    Second(Error),
}

/// A connection with what is known of its server.
pub(crate) struct Session {
    conn: Conn,
    server: Server,
    /// What the first branch after a wipe has to put right, and whether it has to.
    again: Again,
    is_wiped: bool,
    /// Whether its account has the privilege PROCESS, once that was asked.
    pub(crate) has_process: Option<bool>,
}

/// The driver's own text holds the options, with password and key.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Logs in, runs the set-up and reads what there is to know of the server.
    ///
    /// # Errors
    /// Also if the server cannot be used, whatever preflight has said: too old, or behind a proxy.
    pub(crate) async fn connect(config: &Config, route: &Route) -> Result<Self, ResourceError> {
        let (conn, facts) = Self::inspect(config, route).await?;
        facts
            .check_connection(conn.id())
            .and_then(|()| facts.into_server())
            .map(|server| Self::new(conn, server))
            .map_err(|finding| {
                ResourceError::new(Problem::Unfit, config.name.clone(), finding.to_string())
            })
    }

    /// Logs in, runs the set-up and reads what the server says of itself, fit or not.
    pub(crate) async fn inspect(
        config: &Config,
        route: &Route,
    ) -> Result<(Conn, Facts), ResourceError> {
        let (name, limit) = (&config.name, config.connect_timeout);
        let mut conn = route.connect(limit).await?;
        let failed = |problem, reason: String| {
            let message = format!("cannot read the server's variables: {reason}");
            ResourceError::new(problem, name.clone(), message)
        };
        match timeout(limit, identity::read(&mut conn)).await {
            Ok(Ok(facts)) => Ok((conn, facts)),
            Ok(Err(error)) => {
                Err(failed(codes::connect(&error), error.to_string()).with_source(error))
            }
            Err(_) => Err(failed(
                Problem::Unavailable,
                format!("no answer within {limit:?}"),
            )),
        }
    }

    /// A connection whose server was found fit.
    pub(crate) fn new(conn: Conn, server: Server) -> Self {
        Self {
            again: Again::of(conn.opts(), &server.roles),
            is_wiped: false,
            has_process: None,
            conn,
            server,
        }
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The connection's number on the server, as `KILL` takes it.
    pub(crate) fn connection_id(&self) -> u32 {
        self.conn.id()
    }

    pub(crate) fn conn_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }

    pub(crate) fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Looks again for the identity row of a MariaDB, which may have been made meanwhile.
    pub(crate) async fn learn_identity(&mut self) -> Result<Option<ServerIdentity>, Error> {
        if self.server.identity.is_none() {
            let facts = identity::read(&mut self.conn).await?;
            if let Ok(server) = facts.into_server() {
                self.server = server;
            }
        }
        Ok(self.server.identity.clone())
    }

    /// No request is half answered, and the connection was not seen closed.
    pub(crate) fn is_usable(&self) -> bool {
        !self.conn.is_disconnected()
    }

    /// Runs statements that return nothing, all in one round trip; stops at the first error.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<(), Error> {
        self.conn.query_drop(sql).await
    }

    /// Runs two statements in one round trip and tells which one failed.
    ///
    /// The server carries out the second only if the first succeeded.
    pub(crate) async fn run_pair(&mut self, first: &str, second: &str) -> Result<(), PairError> {
        let sql = format!("{first}; {second}");
        let result = self.conn.query_iter(sql).await.map_err(PairError::First)?;
        result.drop_result().await.map_err(PairError::Second)
    }

    /// A branch that was prepared just now stays with this connection, although its server can
    /// part with it: MySQL says with `XA PREPARE`'s own OK whether the session is still inside.
    pub(crate) fn keeps_prepared(&self) -> bool {
        let inside = StatusFlags::SERVER_STATUS_IN_TRANS;
        let last = self.conn.last_ok_packet();
        self.server.flavour == Flavour::MySql
            && last.is_none_or(|ok| ok.status_flags().contains(inside))
    }

    /// Runs a query whose rows are read completely.
    pub(crate) async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.conn.query(sql).await
    }

    /// Runs `first; second` in one round trip and reads the rows of both.
    pub(crate) async fn rows_of_two(
        &mut self,
        first: &str,
        second: &str,
    ) -> Result<(Vec<Row>, Vec<Row>), Error> {
        let mut result = self.conn.query_iter(format!("{first}; {second}")).await?;
        let of_first = result.collect::<Row>().await?;
        let of_second = result.collect::<Row>().await?;
        result.drop_result().await?;
        Ok((of_first, of_second))
    }

    /// Runs statements in one round trip and reads the rows of each; or tells which one failed,
    /// counted from 0. The server carries out nothing after it.
    ///
    /// The driver keeps an error of a later statement until its rows are asked for (seen in its
    /// `read_result_set`), so that it comes up under the right number.
    pub(crate) async fn rows_of_all(
        &mut self,
        statements: &[&str],
    ) -> Result<Vec<Vec<Row>>, (usize, Error)> {
        let asked = self.conn.query_iter(statements.join("; ")).await;
        let mut result = asked.map_err(|error| (0, error))?;
        let mut rows = Vec::with_capacity(statements.len());
        for statement in 0..statements.len() {
            let of_one = result.collect::<Row>().await;
            rows.push(of_one.map_err(|error| (statement, error))?);
        }
        let end = result.drop_result().await;
        end.map_err(|error| (statements.len() - 1, error))?;
        Ok(rows)
    }

    /// Asks for a sign of life.
    pub(crate) async fn ping(&mut self) -> Result<(), Error> {
        self.conn.ping().await
    }

    /// Wipes what a branch has left behind. Never while a branch is prepared here: MariaDB would
    /// then answer `XA COMMIT` with OK and commit nothing.
    ///
    /// A reset leaves the current database and the active roles as they are; seen on both servers.
    /// They, and what else is ours to set, are put right by the next branch's own first request
    /// ([`begin`](Self::begin)); the application's set-up runs here, with the reset.
    pub(crate) async fn reset(&mut self) -> Result<(), Error> {
        if !self.conn.reset().await? {
            let message = "the server cannot reset a connection";
            return Err(Error::Other(message.into()));
        }
        self.is_wiped = true;
        Ok(())
    }

    /// Begins a branch, in one round trip: sets what it has in its session, as a list, and runs
    /// what begins it; stops at the first error.
    pub(crate) async fn begin(&mut self, settings: &str, start: &str) -> Result<(), Error> {
        let sql = if self.is_wiped {
            self.again.and(settings, start)
        } else {
            format!("SET {settings}; {start}")
        };
        self.run(&sql).await?;
        self.is_wiped = false;
        Ok(())
    }

    /// Rows or results of the last statement may still be on their way.
    pub(crate) fn has_unread_results(&mut self) -> bool {
        !mysql_async::QueryResult::<'_, '_, TextProtocol>::new(&mut self.conn).is_empty()
    }

    /// Closes the socket at once.
    ///
    /// The driver's own way would read all rows that are still on their way and say goodbye, in a
    /// task, for as long as that takes. It does not if a request is half answered; so a ping is
    /// begun and given up after its first step.
    pub(crate) fn close(mut self) {
        if self.is_usable() {
            drop(self.conn.ping().now_or_never());
        }
    }
}

/// The text in a column of a row of the text protocol, in which everything but NULL is text.
pub(crate) fn text(row: &Row, column: usize) -> Option<String> {
    bytes(row, column).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// A number, or anything else that is read from its text, in a column of a row.
pub(crate) fn number<T: FromStr>(row: &Row, column: usize) -> Option<T> {
    text(row, column)?.parse().ok()
}

/// The bytes in a column of a row of the text protocol; `None` for NULL or no such column.
pub(crate) fn bytes(row: &Row, column: usize) -> Option<&[u8]> {
    if let Some(Value::Bytes(bytes)) = row.as_ref(column) {
        Some(bytes)
    } else {
        None
    }
}
