//! One connection to the server, and what is known of the session at its other end.
//!
//! Owns the driver's client and the task that does its input and output. Promises:
//! * A session is on a primary: a standby is refused when it is connected, and a primary does not
//!   become a standby without ending its sessions. So the identity read then stays right.
//! * I8: a session that is dropped, or [closed](Session::close), without having been marked clean
//!   loses its socket at once, whatever the driver still has queued and whichever stream of the
//!   application is alive; only a clean one can be used again.
//! * What the connection itself ended with is kept: a session that the server ends while nothing is
//!   asked of it (25P03, 57P01) tells that to the connection alone, and the next request only
//!   learns "connection closed" (observed).

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{
    AsyncMessage, CancelToken, Client, Connection, SimpleQueryMessage, SimpleQueryRow,
    SimpleQueryStream, Socket,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use unanimous_core::ports::ServerIdentity;
use unanimous_core::xid::ResourceName;

use crate::access::{Access, Connected, Stream};
use crate::config::Settings;
use crate::direct::process_told;
use crate::failure::Failure;
use crate::sql;

/// How long the request to cancel a statement may take.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(5);

type Ending = Option<Arc<tokio_postgres::Error>>;

/// What was read when the session was connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `pg:<system identifier>:<timeline>:<oid of the database>`.
    pub(crate) identity: ServerIdentity,
    /// When the server was started, in microseconds since 1970.
    pub(crate) server_start: i64,
    /// The process of the session.
    pub(crate) backend: Backend,
}

/// One server process: a process number alone may be given to another session later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    /// When it was started, in microseconds since 1970.
    pub(crate) start: i64,
}

/// The answers to one string of statements.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// All rows, of all statements.
    pub(crate) rows: Vec<SimpleQueryRow>,
    /// How many statements were answered.
    pub(crate) completed: usize,
}

/// One connection, connected and known.
pub(crate) struct Session {
    client: Client,
    link: Link,
    tls: MakeRustlsConnect,
    facts: Facts,
    durability: &'static str,
    is_direct: bool,
    clean: bool,
    spoiled: AtomicBool,
    is_idle: bool,
}

impl Session {
    /// Connects, reads the facts, sets the limits, and runs statements of our `own`: one round trip
    /// after the log-in, one more if there is set-up SQL of the application's.
    ///
    /// Our statements find nothing but what is the server's [own](sql::OWN_NAMES).
    pub(crate) async fn connect(
        settings: &Settings,
        access: &Access,
        own: &str,
        setup: Option<&str>,
    ) -> Result<Self, Failure> {
        let within = settings.connect_timeout;
        let deadline = Instant::now() + within;
        let connected = access.connect(settings, deadline).await?;
        let begun = Self::begin(settings, connected, own, setup);
        match tokio::time::timeout_at(deadline, begun).await {
            Ok(result) => result,
            Err(_) => Err(Failure::lost(format!("no answer within {within:?}"), None)),
        }
    }

    async fn begin(
        settings: &Settings,
        connected: Connected,
        own: &str,
        setup: Option<&str>,
    ) -> Result<Self, Failure> {
        let Connected {
            client,
            connection,
            tls,
        } = connected;
        let link = Link::spawn(connection, settings.name.clone());
        let limits = sql::limits(settings.vanished_after);
        let (names, facts, durability) = (sql::OWN_NAMES, sql::FACTS, sql::durability());
        let text = format!("{names}; {facts}; {limits}; {durability}; {own}");
        let mut replies = read(&client, &link, send(&client, &link, &text).await?).await?;
        let durability = replies.rows.get(1).map_or("on", durability_in);
        replies.rows.truncate(1);
        let facts = Facts::read(&replies)?;
        let told = process_told(&client.cancel_token()).await;
        let mut session = Self {
            is_direct: told == Some(facts.backend.pid),
            client,
            link,
            tls,
            facts,
            durability,
            clean: false,
            spoiled: AtomicBool::new(false),
            is_idle: false,
        };
        if let Some(text) = setup {
            session.set_up(text).await?;
            let told = session.run(&sql::durability()).await?;
            session.durability = told.rows.last().map_or("on", durability_in);
        }
        Ok(session)
    }

    /// Runs the application's set-up SQL, which may hold secrets: a syntax error would quote it.
    pub(crate) async fn set_up(&self, text: &str) -> Result<(), Failure> {
        match self.run(text).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.without_words("session_setup")),
        }
    }

    /// What cancels the statement under way, and how to reach the server for it.
    pub(crate) fn cancel_token(&self) -> (CancelToken, MakeRustlsConnect) {
        (self.client.cancel_token(), self.tls.clone())
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Is nobody in between who could hand a request to another session? In doubt: no.
    pub(crate) const fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// What the session was set to when it began, for `synchronous_commit`: at least `on`.
    pub(crate) const fn durability(&self) -> &'static str {
        self.durability
    }

    /// Sends one string of statements and reads all answers.
    pub(crate) async fn run(&self, text: &str) -> Result<Replies, Failure> {
        let stream = self.send(text).await?;
        self.read(stream).await
    }

    /// The same for a question in which names are the server's own: see [`sql::OWN_NAMES`].
    pub(crate) async fn ask(&self, question: &str) -> Result<Replies, Failure> {
        let replies = self.run(&format!("{}; {question}", sql::OWN_NAMES)).await?;
        Ok(Replies {
            completed: replies.completed.saturating_sub(1),
            ..replies
        })
    }

    /// Hands one string of statements to the connection; does not wait for an answer.
    pub(crate) async fn send(&self, text: &str) -> Result<SimpleQueryStream, Failure> {
        send(&self.client, &self.link, text).await
    }

    /// Reads the answers to what was sent, up to the first error.
    pub(crate) async fn read(&self, stream: SimpleQueryStream) -> Result<Replies, Failure> {
        read(&self.client, &self.link, stream).await
    }

    /// How the connection was closed, if it is.
    pub(crate) async fn loss(&self) -> Option<Failure> {
        if !self.client.is_closed() {
            return None;
        }
        Some(match self.link.ending().await {
            Some(ending) => Failure::ended(ending),
            None => Failure::lost("connection closed", None),
        })
    }

    /// From here on every statement is the protocol's own, so a warning of the server concerns it.
    pub(crate) fn watch_warnings(&self) {
        self.link.in_protocol.store(true, Ordering::Relaxed);
    }

    /// Since then the server has warned that something may not have reached a synchronous standby.
    /// The warning comes before the answer that it belongs to.
    pub(crate) fn is_unreplicated(&self) -> bool {
        self.link.unreplicated.load(Ordering::Relaxed)
    }

    /// Never again: something can reach this session after its branch has ended, or is left in it.
    pub(crate) fn spoil(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }

    /// See [`spoil`](Self::spoil).
    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Relaxed)
    }

    /// May it be given to another branch?
    pub(crate) fn is_reusable(&self) -> bool {
        self.clean && !self.is_spoiled() && !self.client.is_closed()
    }

    /// Nothing of its last use is left in it.
    pub(crate) fn mark_clean(&mut self) {
        self.link.in_protocol.store(false, Ordering::Relaxed);
        self.clean = true;
    }

    pub(crate) fn mark_used(&mut self) {
        // A warning belongs to the use of the session in which it came.
        self.link.unreplicated.store(false, Ordering::Relaxed);
        self.clean = false;
        self.is_idle = false;
    }

    /// Is it known that nothing is under way? Then there is nothing to cancel when it is closed.
    pub(crate) fn set_idle(&mut self, is_idle: bool) {
        self.is_idle = is_idle;
    }

    pub(crate) const fn is_clean(&self) -> bool {
        self.clean
    }

    /// Closes the socket, whatever is under way.
    ///
    /// The server would notice that only when the statement under way is at its end, and keep its
    /// locks, and one of its connections, until then; for ever, if a commit waits for a standby
    /// that does not come. So it is asked to cancel it, in the background; that can hit nobody
    /// else, for the session is not used again. Whoever asked takes no answer from here, and what
    /// a cancelled wait leaves without its standby is found when somebody asks what became of it.
    pub(crate) fn close(&self) {
        let is_closed = self.client.is_closed();
        self.link.task.abort();
        if is_closed || self.is_idle {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (token, tls) = self.cancel_token();
            runtime.spawn(async move {
                // A courtesy: if it does not arrive, the statement ends by itself.
                let _ = tokio::time::timeout(INTERRUPT_TIMEOUT, token.cancel_query(tls)).await;
            });
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A clean session says good-bye: its connection ends when its client is gone.
        self.link.polite = self.clean;
    }
}

async fn send(client: &Client, link: &Link, text: &str) -> Result<SimpleQueryStream, Failure> {
    match client.simple_query_raw(text).await {
        Ok(stream) => Ok(stream),
        Err(error) => Err(link.failure(client, error).await),
    }
}

async fn read(client: &Client, link: &Link, stream: SimpleQueryStream) -> Result<Replies, Failure> {
    let mut stream = pin!(stream);
    let mut replies = Replies::default();
    loop {
        match stream.try_next().await {
            Ok(Some(SimpleQueryMessage::Row(row))) => replies.rows.push(row),
            Ok(Some(SimpleQueryMessage::CommandComplete(_))) => replies.completed += 1,
            // Descriptions of rows, and whatever the driver may add.
            Ok(Some(_)) => {}
            Ok(None) => return Ok(replies),
            Err(error) => return Err(link.failure(client, error).await),
        }
    }
}

/// One field of a row, as text; `None` where it is NULL or not there.
pub(crate) fn field(row: &SimpleQueryRow, column: usize) -> Option<&str> {
    (column < row.len()).then(|| row.get(column)).flatten()
}

impl Replies {
    /// These, if they answer all `statements` that were sent.
    pub(crate) fn all_of(self, statements: usize) -> Result<Self, Failure> {
        if self.completed == statements {
            Ok(self)
        } else {
            let words = "the server's answer is incomplete";
            Err(Failure::lost(words, None))
        }
    }

    /// One field of the only row, as text; `None` where it is NULL or not there.
    pub(crate) fn field(&self, column: usize) -> Option<&str> {
        match self.rows.as_slice() {
            [row] => field(row, column),
            _ => None,
        }
    }

    fn number<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.field(column)?.parse().ok()
    }
}

impl Facts {
    /// Reads the row of [`sql::FACTS`].
    pub(crate) fn read(replies: &Replies) -> Result<Self, Failure> {
        if replies.field(0) == Some("t") {
            return Err(Failure::standby());
        }
        Self::parse(replies).ok_or_else(|| {
            Failure::lost("the server did not say who it is, as PostgreSQL does", None)
        })
    }

    fn parse(replies: &Replies) -> Option<Self> {
        let system: u64 = replies.number(1)?;
        let timeline = replies.field(2)?;
        let database: u32 = replies.number(3)?;
        Some(Self {
            identity: ServerIdentity::new(format!("pg:{system}:{timeline}:{database}"))?,
            server_start: replies.number(4)?,
            backend: Backend {
                pid: replies.number(5)?,
                start: replies.number(6)?,
            },
        })
    }
}

/// The answer to [`sql::durability`], as one of the two texts that may be sent.
fn durability_in(row: &SimpleQueryRow) -> &'static str {
    match field(row, 0) {
        Some("remote_apply") => "remote_apply",
        _ => "on",
    }
}

/// The task that does a connection's input and output.
struct Link {
    task: AbortHandle,
    ending: watch::Receiver<Ending>,
    in_protocol: Arc<AtomicBool>,
    unreplicated: Arc<AtomicBool>,
    polite: bool,
}

impl Link {
    fn spawn(connection: Connection<Socket, Stream>, resource: ResourceName) -> Self {
        let (tell, ending) = watch::channel(None);
        let in_protocol = Arc::new(AtomicBool::new(false));
        let unreplicated = Arc::new(AtomicBool::new(false));
        let warned = Warnings {
            in_protocol: Arc::clone(&in_protocol),
            unreplicated: Arc::clone(&unreplicated),
        };
        let task = tokio::spawn(drive(connection, resource, tell, warned)).abort_handle();
        Self {
            task,
            ending,
            in_protocol,
            unreplicated,
            polite: false,
        }
    }

    async fn failure(&self, client: &Client, error: tokio_postgres::Error) -> Failure {
        let ending = if client.is_closed() {
            self.ending().await
        } else {
            None
        };
        Failure::read(error, ending)
    }

    /// What a closed connection ended with. Its task is at its end: this waits for nothing outside.
    async fn ending(&self) -> Ending {
        let mut ending = self.ending.clone();
        match ending.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.polite {
            self.task.abort();
        }
    }
}

async fn drive(
    mut connection: Connection<Socket, Stream>,
    resource: ResourceName,
    tell: watch::Sender<Ending>,
    warnings: Warnings,
) {
    // The connection is dropped, and with it every waiting request, after its ending is told.
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                warnings.note(&resource, &notice);
            }
            // Notifications have no reader: a branch that listens cannot be prepared.
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%resource, %error, "connection ended");
                let _ = tell.send(Some(Arc::new(error)));
                break;
            }
            None => break,
        }
    }
}

/// 01000 and 57P01, while a branch is prepared or ended, say that this is not known to be
/// replicated. The first is that of a deferred trigger's own `RAISE WARNING`, too, so the place in
/// the server's source counts as well, where it is told (`SyncRepWaitForLSN`).
fn is_of_standbys(notice: &DbError) -> bool {
    notice.parsed_severity() == Some(Severity::Warning)
        && matches!(notice.code().code(), "01000" | "57P01")
        && notice.file().is_none_or(|file| file.ends_with("syncrep.c"))
}

/// What a connection shares with its session about the server's warnings.
struct Warnings {
    in_protocol: Arc<AtomicBool>,
    unreplicated: Arc<AtomicBool>,
}

impl Warnings {
    /// The text of a notice may hold the application's data, so only its code is written.
    fn note(&self, resource: &ResourceName, notice: &DbError) {
        let code = notice.code().code();
        let in_protocol = self.in_protocol.load(Ordering::Relaxed);
        if in_protocol && is_of_standbys(notice) {
            self.unreplicated.store(true, Ordering::Relaxed);
            tracing::warn!(
                %resource,
                code,
                "the server warned while it prepared or ended a branch: done here, but perhaps \
                 not replicated to a synchronous standby"
            );
        } else {
            let severity = notice.severity();
            tracing::debug!(%resource, code, severity, "notice of the server");
        }
    }
}
