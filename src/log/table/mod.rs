//! The decision log in a table that many instances share.
//!
//! Promises the contract of [`DecisionLog`](unanimous_core::ports::DecisionLog) on top of a
//! [`DecisionTable`]. Safety rests on the table alone: on its unique keys, and on the epoch's row
//! that is checked in one step with each decision. Nothing rests on clocks, on heartbeats, or on
//! what another member is thought to do.
//!
//! * I2: a decision is answered `Ok` after a forced write that holds it, or that came after it.
//! * I3: what may have been sent is uncertain until the same question is answered for certain. That
//!   nothing was sent is believed at the first attempt only. That a row of a closed epoch is not
//!   there is believed as long as nobody has deleted rows of that epoch, on the very server on
//!   which it was opened, or on one to which it failed over without loss.
//! * I5: another member's epoch is closed before anything of it is ended. A wrong suspicion costs
//!   that member rollbacks: its decisions are refused, and it joins anew.
//!
//! Layers: `codec` (branches as text), `known` (what this process has seen and done), `desk` (one
//! question to the table, bounded), `batches` (decisions, many in one write), `lazy` (completions),
//! `members` (heartbeats, suspicion, joining anew), `shared` (what all of these share), `ends`
//! (what ended otherwise, and by whose hand), `open` (the port); `server` (may it hold a log?).

mod batches;
mod codec;
mod desk;
mod ends;
mod known;
mod lazy;
mod members;
mod open;
mod server;
mod shared;
#[cfg(test)]
mod suite_test;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{
    DecisionLog, DecisionTable, LogError, LogHome, TableErrorKind, TableHome, TableState,
};
use unanimous_core::xid::ManagerId;

#[cfg(feature = "operator")]
pub(crate) use self::codec::end_of;
#[cfg(feature = "operator")]
pub(crate) use self::codec::{decode as decode_branches, encode as encode_branches, letter_of};
use self::desk::Desk;
#[cfg(feature = "operator")]
pub(crate) use self::ends::read_ends;
#[cfg(feature = "operator")]
pub(crate) use self::members::picked;
use self::open::OpenTableLog;
#[cfg(feature = "operator")]
pub(crate) use self::server::is_of_a_logs_server;

/// A decision log in a table of a PostgreSQL, MySQL or MariaDB database, which many instances of an
/// application share: no instance needs a disk, and each finishes what another has left.
///
/// ```no_run
/// # async fn run(orders: unanimous::postgres::Postgres, ledger: unanimous::mysql::Mysql)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use unanimous::{TransactionManager, log::TableLog};
///
/// let tm = TransactionManager::builder()
///     .log(TableLog::on(&orders))
///     .resource(&orders)
///     .resource(&ledger)
///     .start()
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// Members that share a log find each other by it and need nothing else. One that dies is noticed
/// by its silence, its epoch is closed, and the others end its branches. A database of its own for
/// the log is a resource that is built and not registered.
///
/// Where a transaction writes to the log's own database, that branch is the *last resource*: it
/// does not prepare, and the decision commits inside its transaction.
#[must_use = "nothing happens before the manager is started"]
#[derive(Clone)]
pub struct TableLog {
    table: Arc<dyn DecisionTable>,
    options: Options,
}

/// How a table log behaves. The rest is fixed.
#[derive(Debug, Clone)]
struct Options {
    create: bool,
    last_resource: bool,
    lossless_failover: bool,
    suspect_after: Duration,
    label: Option<String>,
    observe: bool,
}

impl fmt::Debug for TableLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableLog")
            .field("place", &self.table.place())
            .field("options", &self.options)
            .finish()
    }
}

impl TableLog {
    /// The log in the database of this resource, with its address and credentials. The resource
    /// need not be registered: that its server keeps what is forced is checked when the log is
    /// opened.
    pub fn on(home: &impl TableHome) -> Self {
        Self::over(home.decision_table())
    }

    /// The log over a table, of whatever kind.
    pub fn over(table: Arc<dyn DecisionTable>) -> Self {
        let options = Options {
            create: true,
            last_resource: true,
            lossless_failover: false,
            suspect_after: Duration::from_secs(10),
            label: None,
            observe: false,
        };
        Self { table, options }
    }

    /// Whether the tables are made if they are not there: then the account needs the right to. Else
    /// `unanimous log init` makes them. Default: yes.
    pub fn create(mut self, create: bool) -> Self {
        self.options.create = create;
        self
    }

    /// Whether a branch in the log's own database is committed as last resource. Default: yes.
    pub fn last_resource(mut self, last_resource: bool) -> Self {
        self.options.last_resource = last_resource;
        self
    }

    /// Declares that a fail-over of the log's database loses nothing that it has confirmed, because
    /// a synchronous standby takes over. Without this, a fail-over leaves branches of the epochs
    /// before it to a person, unless their decision is there. Default: no.
    pub fn lossless_failover(mut self, lossless: bool) -> Self {
        self.options.lossless_failover = lossless;
        self
    }

    /// How long a member may give no sign of life before the others close its epoch. A wrong
    /// suspicion costs it rollbacks, nothing else. At least a tenth of a second. Default: 10 s.
    pub fn suspect_after(mut self, after: Duration) -> Self {
        self.options.suspect_after = after.max(Duration::from_millis(100));
        self
    }

    /// What people see of this member: its first 100 characters, without control characters.
    /// Default: host name and process id.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.options.label = Some(fit_label(&label.into()));
        self
    }

    /// Only looks: joins nobody, decides nothing, and ends nothing. For tools.
    pub fn observer(mut self) -> Self {
        self.options.observe = true;
        self
    }

    /// The table behind it.
    pub fn table(&self) -> Arc<dyn DecisionTable> {
        Arc::clone(&self.table)
    }

    async fn checked(&self, desk: &Desk) -> Result<TableState, LogError> {
        match desk.ask(self.table.check()).await {
            Err(error) if error.kind() == TableErrorKind::Missing && self.options.create => {
                let manager = ManagerId::from_bytes(random()?);
                desk.ask(self.table.init(manager))
                    .await
                    .map_err(log_error)?;
                desk.ask(self.table.check()).await.map_err(log_error)
            }
            checked => checked.map_err(log_error),
        }
    }
}

#[async_trait]
impl LogHome for TableLog {
    async fn open(self: Box<Self>) -> Result<Arc<dyn DecisionLog>, LogError> {
        let desk = Desk::new(Arc::clone(&self.table));
        let state = self.checked(&desk).await?;
        let log = if self.options.observe {
            OpenTableLog::observe(desk, state, self.options)
        } else {
            server::judge(&*self.table).await?;
            OpenTableLog::join(desk, state, self.options).await?
        };
        Ok(Arc::new(log))
    }
}

/// The longest label of a member, in characters.
pub(crate) const LABEL_CHARS_MAX: usize = 100;

/// As every home of a log takes it, and every line for people.
pub(crate) fn fit_label(label: &str) -> String {
    let plain = label.chars().filter(|c| !c.is_control());
    plain.take(LABEL_CHARS_MAX).collect()
}

fn log_error(error: unanimous_core::ports::TableError) -> LogError {
    LogError::new(format!("the decision log: {error}")).with_source(error)
}

fn random<const N: usize>() -> Result<[u8; N], LogError> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => {
            let text = "the decision log: the operating system gives no random bits";
            Err(LogError::new(text).with_source(error))
        }
    }
}
