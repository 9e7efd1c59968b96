//! Without a manager: what a careful programmer writes by hand, with the same drivers, the same
//! pool and the same statements.
//!
//! * *Floor*: two local commits, one after the other has been answered. Not atomic.
//! * *Bare*: `BEGIN` and `XA START`, the work, then both prepares and both commits in parallel. No
//!   log, no recovery: whoever dies in between leaves branches that nobody can decide.
//! * *Piped*: the same with fewer round trips: beginnings on their way together with the first
//!   statement, `XA END` with `XA PREPARE`. If `BEGIN` alone is refused, the first statement
//!   commits by itself.
//!
//! Connections go back to their pool as they are: nothing that the work has left there is wiped.
//! But for the *guarded*, the same with the statements of ours, see [`guarded`](crate::guarded),
//! and the *logged*, which make each decision durable between the phases, too: by the bare loop of
//! [`appends`](crate::appends), in a file that nobody reads again.

use std::sync::atomic::{AtomicU64, Ordering};

use deadpool::managed::{Manager, Metrics, Pool, RecycleError, RecycleResult};
use futures_util::future::try_join;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use unanimous::postgres::tokio_postgres::{self, Client, NoTls};

use crate::Error;
use crate::appends::{Append, BareAppender};
use crate::contender::{credit, debit};
use crate::counters::connect_mysql;
use crate::guarded;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    OneAfterTheOther,
    TwoPhases,
    TwoPhasesPiped,
    TwoPhasesGuarded,
    TwoPhasesLogged,
}

pub(crate) struct ByHand {
    how: How,
    log: Option<Log>,
    postgres: Pool<Connect<Client>>,
    mysql: Pool<Connect<Conn>>,
    sequence: AtomicU64,
}

/// For the decisions.
struct Log {
    appender: BareAppender,
    _folder: tempfile::TempDir,
}

impl Log {
    fn start() -> Result<Self, Error> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let appender = BareAppender::start(&folder.path().join("decisions"))?;
        Ok(Self {
            appender,
            _folder: folder,
        })
    }

    async fn decide(&self) -> Result<(), Error> {
        self.appender.clone().append().await
    }
}

/// Makes connections of one kind.
pub(crate) struct Connect<C> {
    url: String,
    kind: std::marker::PhantomData<fn() -> C>,
}

impl Manager for Connect<Client> {
    type Type = Client;
    type Error = Error;

    async fn create(&self) -> Result<Client, Error> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn recycle(&self, client: &mut Client, _: &Metrics) -> RecycleResult<Error> {
        if client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        Ok(())
    }
}

impl Manager for Connect<Conn> {
    type Type = Conn;
    type Error = Error;

    async fn create(&self) -> Result<Conn, Error> {
        connect_mysql(&self.url).await
    }

    async fn recycle(&self, _: &mut Conn, _: &Metrics) -> RecycleResult<Error> {
        Ok(())
    }
}

impl ByHand {
    pub(crate) fn new(
        how: How,
        postgres_url: &str,
        mysql_url: &str,
        pool_size: usize,
    ) -> Result<Self, Error> {
        let log = (how == How::TwoPhasesLogged).then(Log::start);
        Ok(Self {
            how,
            log: log.transpose()?,
            postgres: pool(postgres_url, pool_size)?,
            mysql: pool(mysql_url, pool_size)?,
            sequence: AtomicU64::new(0),
        })
    }

    pub(crate) async fn transfer(&self, account: usize) -> Result<(), Error> {
        let postgres = async { self.postgres.get().await.map_err(|e| e.to_string()) };
        let mysql = async { self.mysql.get().await.map_err(|e| e.to_string()) };
        let (pg, mut my) = try_join(postgres, mysql).await?;
        let (debit, credit) = (debit(account), credit(account));
        match self.how {
            How::OneAfterTheOther => one_after_the_other(&pg, &mut my, &debit, &credit).await,
            How::TwoPhases => two_phases(&pg, &mut my, &self.xid(), &debit, &credit).await,
            How::TwoPhasesPiped => {
                two_phases_piped(&pg, &mut my, &self.xid(), &debit, &credit).await
            }
            How::TwoPhasesGuarded | How::TwoPhasesLogged => {
                let xid = self.xid();
                guarded::prepare_both(&pg, &mut my, &xid, &debit, &credit).await?;
                if let Some(log) = &self.log {
                    log.decide().await?;
                }
                guarded::commit_both(&pg, &mut my, &xid).await?;
                // On its way back into the pool.
                tokio::spawn(async move { my.reset().await.map(drop) });
                Ok(())
            }
        }
    }

    fn xid(&self) -> String {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        format!("'bare-{}-{number}'", std::process::id())
    }
}

fn pool<C>(url: &str, size: usize) -> Result<Pool<Connect<C>>, Error>
where
    Connect<C>: Manager,
{
    let connect = Connect {
        url: url.to_owned(),
        kind: std::marker::PhantomData,
    };
    Ok(Pool::builder(connect).max_size(size).build()?)
}

async fn one_after_the_other(
    pg: &Client,
    my: &mut Conn,
    debit: &str,
    credit: &str,
) -> Result<(), Error> {
    let pay = async {
        pg.batch_execute("BEGIN").await?;
        Ok::<_, Error>(pg.batch_execute(debit).await?)
    };
    let get = async {
        my.query_drop("BEGIN").await?;
        Ok::<_, Error>(my.query_drop(credit).await?)
    };
    try_join(pay, get).await?;
    let pay = async { Ok::<_, Error>(pg.batch_execute("COMMIT").await?) };
    let get = async { Ok::<_, Error>(my.query_drop("COMMIT").await?) };
    try_join(pay, get).await?;
    Ok(())
}

async fn two_phases(
    pg: &Client,
    my: &mut Conn,
    xid: &str,
    debit: &str,
    credit: &str,
) -> Result<(), Error> {
    let pay = async {
        pg.batch_execute("BEGIN").await?;
        Ok::<_, Error>(pg.batch_execute(debit).await?)
    };
    let get = async {
        my.query_drop(format!("XA START {xid}")).await?;
        Ok::<_, Error>(my.query_drop(credit).await?)
    };
    try_join(pay, get).await?;
    let pay = async {
        let prepare = format!("PREPARE TRANSACTION {xid}");
        Ok::<_, Error>(pg.batch_execute(&prepare).await?)
    };
    let get = async {
        my.query_drop(format!("XA END {xid}")).await?;
        Ok::<_, Error>(my.query_drop(format!("XA PREPARE {xid}")).await?)
    };
    try_join(pay, get).await?;
    commit_both(pg, my, xid).await
}

async fn two_phases_piped(
    pg: &Client,
    my: &mut Conn,
    xid: &str,
    debit: &str,
    credit: &str,
) -> Result<(), Error> {
    let pay = async {
        try_join(pg.batch_execute("BEGIN"), pg.batch_execute(debit)).await?;
        Ok::<_, Error>(())
    };
    let get = async { Ok::<_, Error>(my.query_drop(format!("XA START {xid}; {credit}")).await?) };
    try_join(pay, get).await?;
    let pay = async {
        let prepare = format!("PREPARE TRANSACTION {xid}");
        Ok::<_, Error>(pg.batch_execute(&prepare).await?)
    };
    let end_and_prepare = format!("XA END {xid}; XA PREPARE {xid}");
    let get = async { Ok::<_, Error>(my.query_drop(end_and_prepare).await?) };
    try_join(pay, get).await?;
    commit_both(pg, my, xid).await
}

async fn commit_both(pg: &Client, my: &mut Conn, xid: &str) -> Result<(), Error> {
    let pay = async {
        let commit = format!("COMMIT PREPARED {xid}");
        Ok::<_, Error>(pg.batch_execute(&commit).await?)
    };
    let get = async { Ok::<_, Error>(my.query_drop(format!("XA COMMIT {xid}")).await?) };
    try_join(pay, get).await?;
    Ok(())
}
